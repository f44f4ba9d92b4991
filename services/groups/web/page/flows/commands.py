"""Posting a command, and following what becomes of it: what all flows end with."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http import HTTPStatus
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from popfax_contracts.ids import derive_own
from services.groups.commands import POSTABLE
from services.groups.domain import CommandState
from services.groups.web import queries
from services.groups.web.page import split
from services.groups.web.page.forms import CARRIED, BadForm, whole_number
from services.groups.web.page.visit import Answer, Visit
from services.groups.web.page.waiting import settle, wait_for
from services.groups.web.page.words import ADDRESS_GONE, DONE, PENDING, SOME_DONE, SOME_PENDING, STEPS
from services.groups.web.posting import command_of

REGIONS: Mapping[str, str] = {
    "rename-group": "title",
    "set-low-balance": "low",
    "invite-by-email": "flow",
    "create-member-account": "flow",
    "accept-invitation": "received-answer",
    "decline-invitation": "received-answer",
    "revoke-invitation": "pending-answer",
    "detach-members": "members-answer",
    "transfer-units": "members-answer",
    "pay-for-member": "members-answer",
    "set-standing-order": "members-answer",
    "stop-standing-order": "members-answer",
    "leave-group": "joined-answer",
}
"""Where on the page the answer to a command appears: beside what asked for it."""

USUAL = timedelta(seconds=10)
"""How long a command may take without a word: longer means that a service is away, or far behind."""

RESENT = "pending-answer"
"""Where the answer appears to an invitation that is sent once more."""

SPENDING = frozenset({"transfer-units", "detach-members"})
"""What is done with members who were chosen: once it is done, nobody is chosen any more."""


async def post(visit: Visit, name: str, fields: Mapping[str, Any]) -> Response:
    """Post a command, once, however often the form is sent; and show what becomes of it. Raises `BadForm`."""
    try:
        command = command_of(POSTABLE[name], fields, visit.caller.id)
    except ValidationError as error:
        raise BadForm(name) from error
    content = sha256(command.to_json()).hexdigest()
    id_ = derive_own(visit.caller.id, f"page/{name}/{visit.form.one('once')}/{content}")
    await visit.context.limits.command_of(visit.caller.id)
    await visit.context.post(command, visit.caller.id, id_)
    if not visit.is_live:
        ended = await wait_for(visit.context, id_, visit.caller.id)
        if ended is None or not _goes_on_with_form(visit, ended):
            resend = "?resend=1" if visit.form.one("resend") else ""
            return RedirectResponse(f"/commands/{id_}{resend}", HTTPStatus.SEE_OTHER)
    return await _show_outcome(visit, id_)


def _goes_on_with_form(visit: Visit, command: queries.Command) -> bool:
    """Return whether the answer needs what was typed: to be put right, or for an account. An address has none of it."""
    return not visit.form.one("resend") and (command.state is CommandState.REFUSED or _needs_account(command))


async def post_all(visit: Visit, name: str, parts: Sequence[Mapping[str, Any]], members: int) -> Response:
    """Post the parts of what is about many members, all of them or none, and show what becomes of them together.

    `members` is how many they name. Raises `BadForm`.
    """
    if len(parts) == 1:
        return await post(visit, name, parts[0])
    try:
        made = [command_of(POSTABLE[name], fields, visit.caller.id) for fields in parts]
    except ValidationError as error:
        raise BadForm(name) from error
    if not made:
        raise BadForm(name)
    content = sha256(b"\0".join(command.to_json() for command in made)).hexdigest()
    whole_id = derive_own(visit.caller.id, f"page/{name}/{visit.form.one('once')}/{content}")
    ids = split.ids_of(whole_id, len(made))
    for _ in ids:
        await visit.context.limits.command_of(visit.caller.id)
    await visit.context.post_all(dict(zip(ids, made, strict=True)), visit.caller.id)
    if not visit.is_live:
        return RedirectResponse(f"/commands/{whole_id}/{len(ids)}?members={members}", HTTPStatus.SEE_OTHER)
    return await _show_progress(visit, whole_id, len(ids), members)


async def follow_all(visit: Visit) -> Response:
    """Show how far the parts of something have come."""
    whole_id, parts = visit.request.path_params["id"], visit.request.path_params["parts"]
    members = whole_number(visit.form.one("members") or visit.request.query_params.get("members", "")) or 0
    return await _show_progress(visit, whole_id, parts, members)


async def _show_progress(visit: Visit, whole_id: UUID, parts: int, members: int) -> Response:
    ids = split.ids_of(whole_id, min(parts, split.MOST_PARTS))
    found = await _commands_of(visit, ids)
    if not visit.is_live:
        found = await settle(lambda: _commands_of(visit, ids))
    progress = split.progress(ids, found, members)
    if progress is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    values = {
        "whole_id": whole_id,
        "progress": progress,
        "named": members,
        "pending": visit.speech.say(PENDING.get(progress.type, SOME_PENDING)),
        "is_slow": datetime.now(UTC) - progress.asked_at > USUAL,
    }
    region = REGIONS.get(progress.type, "flow")
    return await visit.show(
        Answer(region, "answers/parts.html", values, has_news=progress.is_over, is_spent=progress.is_over)
    )


async def _commands_of(visit: Visit, ids: Sequence[UUID]) -> Mapping[UUID, queries.Command]:
    async with visit.context.reading() as connection:
        return await queries.commands_of(connection, ids, visit.caller.id)


async def follow(visit: Visit) -> Response:
    """Show what has become of a command; to whoever can't ask again by themselves, once it has ended.

    A form carries what is needed to go on.
    """
    id_ = visit.request.path_params["id"]
    if not visit.is_live:
        await wait_for(visit.context, id_, visit.caller.id)
    return await _show_outcome(visit, id_)


async def _show_outcome(visit: Visit, id_: UUID) -> Response:
    async with visit.context.reading() as connection:
        command = await queries.command(connection, id_, visit.caller.id)
    if command is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return await visit.show(await _outcome(visit, command))


def _region(command: queries.Command, given: Mapping[str, str]) -> str:
    """Return where the answer appears: one that no form of the page asked for, where the next thing would be done."""
    return RESENT if given.get("resend") else REGIONS.get(command.type, "flow")


async def _outcome(visit: Visit, command: queries.Command) -> Answer:
    given = visit.form.some(*CARRIED)
    if "resend" in visit.request.query_params:
        given["resend"] = "1"
    values = {
        "command": command,
        "region": _region(command, given),
        "given": given,
        "pending": visit.speech.say(PENDING.get(command.type, SOME_PENDING)),
        "is_slow": datetime.now(UTC) - command.asked_at > USUAL,
    }
    if command.type == "create-member-account":
        return _creation(command, values)
    if command.state is CommandState.PENDING:
        return Answer(_region(command, given), "answers/pending.html", values)
    if command.state is CommandState.REFUSED:
        return _refused(visit, command, given)
    return await _done(visit, command, given)


def _creation(command: queries.Command, values: Mapping[str, Any]) -> Answer:
    """Show how far an account has come: how many of its steps are behind it."""
    names = list(STEPS)
    if command.state is CommandState.DONE:
        behind = len(names)
    else:
        behind = names.index(command.step) if command.step in names else 0
    return Answer(
        _region(command, {}),
        "flow/progress.html",
        {**values, "steps": STEPS, "behind": behind},
        has_news=command.state is not CommandState.PENDING,
    )


def _refused(visit: Visit, command: queries.Command, given: Mapping[str, str]) -> Answer:
    why = visit.speech.refusal(command.code)
    if command.type == "rename-group":
        return Answer("title", "title_form.html", {"name": visit.form.one("name"), "error": why}, resumed_at="/name")
    if command.type == "invite-by-email" and not given.get("resend"):
        values = {"email": visit.form.one("email"), "error": why, "sent_to": ""}
        return Answer("flow", "flow/invite.html", values, resumed_at="/invite")
    if command.type == "set-low-balance":
        typed = {"below": visit.form.one("below"), "mail": visit.form.one("mail"), "error": why}
        return Answer("low", "low_balance.html", typed)
    return Answer(_region(command, given), "answers/refused.html", {"why": why}, has_news=True)


async def _done(visit: Visit, command: queries.Command, given: Mapping[str, str]) -> Answer:
    said = visit.speech.say(DONE.get(command.type, SOME_DONE))
    if given.get("resend"):
        if _needs_account(command):
            return Answer(RESENT, "answers/refused.html", {"why": visit.speech.say(ADDRESS_GONE)}, has_news=True)
        return Answer(RESENT, "answers/done.html", {"said": said}, said, has_news=True)
    if _needs_account(command):
        return await plans(visit, given)
    if command.type == "rename-group":
        async with visit.context.reading() as connection:
            group = await queries.group_of_owner(connection, visit.caller.id)
        return Answer("title", "parts/title.html", {"group": group, "oob": False}, said, has_news=True)
    if command.type == "set-low-balance":
        async with visit.context.reading() as connection:
            group = await queries.group_of_owner(connection, visit.caller.id)
        return Answer("low", "parts/low.html", {"group": group}, said, has_news=True)
    if command.type == "invite-by-email":
        sent = {"email": "", "error": "", "sent_to": given.get("email", "")}
        return Answer("flow", "flow/invite.html", sent, has_news=True)
    is_spent = command.type in SPENDING
    return Answer(_region(command, given), "answers/done.html", {"said": said}, said, has_news=True, is_spent=is_spent)


async def plans(visit: Visit, given: Mapping[str, str]) -> Answer:
    """Return the first step of an account's creation: the choice of a plan."""
    async with visit.context.reading() as connection:
        on_sale = await queries.plans_on_sale(connection)
    return Answer("flow", "flow/plan.html", {"plans": on_sale, "given": given}, resumed_at="/create/plan")


def _needs_account(command: queries.Command) -> bool:
    """Return whether nobody has the address, so that an account can be created for it."""
    return (command.result or {}).get("event") == "account-creation-required"
