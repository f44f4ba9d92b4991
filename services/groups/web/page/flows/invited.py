"""The link of an invitation, as its mail has it: who invites into which group, and the way to answer.

It is followed by the right person and by others, logged in or not, and by programs that look at mails. Nothing changes
before somebody accepts or declines, with a form, logged in as whoever is invited. Until then the link proves no more
than that its mail was read: what it tells is in that mail.
"""

import re
from datetime import UTC, datetime
from functools import partial
from hmac import compare_digest
from http import HTTPStatus
from secrets import token_hex
from typing import NamedTuple
from uuid import UUID

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from services.groups.domain import InvitationState, hash_token
from services.groups.web import queries
from services.groups.web.auth import Caller
from services.groups.web.context import WebContext
from services.groups.web.page import session, views
from services.groups.web.page.flows.login import INVITATION, caller_of
from services.groups.web.page.speech import Speech, choose
from services.groups.web.page.words import ENDED_INVITATIONS

_LINK = re.compile(r"(?P<id>[0-9a-f]{32})\.(?P<token>[0-9a-f]{64})")


class _Link(NamedTuple):
    id: UUID
    token: str


async def invitation(context: WebContext, request: Request) -> Response:
    """Show the invitation whose link somebody has followed; take its token out of the address first."""
    if "token" in request.query_params:
        return _arrived(request)
    secret = session.secret_of(request) or ""
    caller = await caller_of(context, secret)
    if caller is not None:
        await context.limits.request_of(caller.id)
    link = _read(session.invitation_of(request))
    async with context.reading() as connection:
        found = None if link is None else await queries.linked_invitation(connection, link.id)
        known = None if caller is None else await views.visitor(connection, caller.id)
    is_proven = found is not None and link is not None and _proves(link, found)
    shown = found if found is not None and (is_proven or _is_for(found, caller)) else None
    values = {
        "found": shown,
        "is_known": caller is not None,
        "is_other": shown is not None and caller is not None and not _is_for(shown, caller),
        "why_ended": None if shown is None else _why_ended(shown),
        "here": known,
        "log_in": context.settings.where_to_log_in,
        "then": INVITATION,
        "proof": session.proof(secret),
        "once": partial(token_hex, 8),
    }
    status = HTTPStatus.OK if shown is not None else HTTPStatus.NOT_FOUND
    response = HTMLResponse(_speech(request, known or shown).render("invitation.html", **values), status)
    if caller is not None and (shown is None or values["why_ended"] is not None):
        session.forget_invitation(response, request)  # or each log-in would lead here again
    return response


def _speech(request: Request, reader: views.Visitor | queries.LinkedInvitation | None) -> Speech:
    """Speak to whoever reads: the visitor, or else whom the link is for, as far as it shows that."""
    language, time_zone = (reader.language, reader.time_zone) if reader is not None else (None, None)
    spoken = choose(session.language_of(request), language, request.headers.get("accept-language", ""))
    return spoken.by_clock_of(time_zone)


def _arrived(request: Request) -> Response:
    """Remember the link for whoever arrives with it, and lead on to an address that tells nothing."""
    response = RedirectResponse(INVITATION, HTTPStatus.SEE_OTHER, headers={"Referrer-Policy": "no-referrer"})
    if session.is_arrival(request):
        link = f"{request.query_params.get('id', '').replace('-', '')}.{request.query_params['token']}".lower()
        if _read(link) is None:
            session.forget_invitation(response, request)
        else:
            session.remember_invitation(response, request, link)
    return response


def _read(text: str | None) -> _Link | None:
    match = _LINK.fullmatch(text or "")
    return None if match is None else _Link(UUID(match["id"]), match["token"])


def _proves(link: _Link, found: queries.LinkedInvitation) -> bool:
    return compare_digest(found.token_hash, hash_token(bytes.fromhex(link.token)))


def _is_for(found: queries.LinkedInvitation, caller: Caller | None) -> bool:
    return caller is not None and caller.id == found.subscriber_id


def _why_ended(found: queries.LinkedInvitation) -> str | None:
    """Return why an invitation can't be answered any more; None if it can."""
    is_over = found.state is InvitationState.PENDING and found.expires_at <= datetime.now(UTC)
    return ENDED_INVITATIONS.get(InvitationState.EXPIRED if is_over else found.state)
