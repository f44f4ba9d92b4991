"""Invitations: made and withdrawn by an owner, accepted or declined by whoever is invited."""

from pydantic import ValidationError
from starlette.responses import Response

from services.groups.commands import POSTABLE
from services.groups.web import queries
from services.groups.web.page import session
from services.groups.web.page.flows import commands
from services.groups.web.page.visit import Answer, Visit
from services.groups.web.page.words import N_, WRONG_EMAIL
from services.groups.web.posting import command_of


async def form(visit: Visit) -> Response:
    """Show the box for an e-mail address."""
    return await _form(visit, "")


async def invite(visit: Visit) -> Response:
    """Invite whoever has an address; for one that nobody has, go on to an account."""
    email = visit.form.one("email")
    try:
        command_of(POSTABLE["invite-by-email"], {"email": email}, visit.caller.id)
    except ValidationError:
        return await _form(visit, visit.speech.say(WRONG_EMAIL))
    return await commands.post(visit, "invite-by-email", {"email": email})


async def accept(visit: Visit) -> Response:
    """Accept an invitation, and join the group."""
    return await _answer(visit, "accept-invitation")


async def decline(visit: Visit) -> Response:
    """Decline an invitation."""
    return await _answer(visit, "decline-invitation")


async def revoke(visit: Visit) -> Response:
    """Withdraw an invitation."""
    return await _answer(visit, "revoke-invitation")


async def resend(visit: Visit) -> Response:
    """Send an invitation once more: the mail has a new link, and the one before is no longer good."""
    async with visit.context.reading() as connection:
        email = await queries.pending_address(connection, visit.request.path_params["id"], visit.caller.id)
    if email is None:
        why = visit.speech.say(N_("This invitation is not waiting for an answer any more."))
        return await visit.show(Answer(commands.RESENT, "answers/refused.html", {"why": why}, has_news=True))
    return await commands.post(visit, "invite-by-email", {"email": email})


async def _form(visit: Visit, error: str) -> Response:
    email = visit.form.one("email")
    values = {"email": email, "error": error, "sent_to": ""}
    return await visit.show(Answer("flow", "flow/invite.html", values, resumed_at="/invite" if email else ""))


async def _answer(visit: Visit, command: str) -> Response:
    response = await commands.post(visit, command, {"invitation_id": visit.request.path_params["id"]})
    session.forget_invitation(response, visit.request)
    return response
