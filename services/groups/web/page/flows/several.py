"""Several people at once: invited by a list that is pasted, and accounts for those of them whose address nobody has.

A list is judged by what the owner can see anyway. Whether anybody has an address is asked only by sending: each such
question is a command, which counts against the day's quota, and invites whoever has it.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from popfax_contracts.message import Command
from services.groups.commands import POSTABLE
from services.groups.web import lists, queries
from services.groups.web.lists import CommandList, Entry, Line
from services.groups.web.page import pasted
from services.groups.web.page.flows.commands import USUAL
from services.groups.web.page.flows.creation import wrong_fields
from services.groups.web.page.forms import Form, Texts, whole_number
from services.groups.web.page.pasted import Known, Person, Verdict
from services.groups.web.page.visit import Answer, Visit
from services.groups.web.page.words import (
    LINE_DONE,
    LINE_PENDING,
    LINE_REFUSED,
    N_,
    SOME_LINE_DONE,
    STEPS,
    VERDICTS,
    Mark,
)
from services.groups.web.posting import command_of

UNKNOWN = "account-creation-required"
"""The event that answers an invitation to an address that nobody has."""


# --- invitations ------------------------------------------------------------------------------------------------------


async def form(visit: Visit) -> Response:
    """Show the box for a list; with what was pasted before, if somebody comes back to it."""
    return await _form(visit, "")


async def check(visit: Visit) -> Response:
    """Show what becomes of each line, before anything is sent."""
    read = pasted.read(visit.form.one("lines"))
    if not read.people:
        return await _form(visit, visit.speech.say(N_("Paste at least one e-mail address.")))
    known = await _known(visit, [each.email for each in read.people])
    judged = pasted.judge(read.people, known)
    ready = [each.person for each in judged if each.verdict is Verdict.READY]
    values = {
        "judged": [(each.person, VERDICTS[each.verdict]) for each in judged],
        "ready": len(ready),
        "chosen": pasted.written(ready),
        "lines": visit.form.one("lines"),
        "has_more": read.has_more,
        "most": pasted.MOST,
        "left": known.quota_left,
    }
    return await visit.show(Answer("flow", "flow/judged.html", values))


async def send(visit: Visit) -> Response:
    """Invite everybody whom `check` found ready, each by a command, and follow them as one.

    What was found then is not judged again, so a form that is sent twice is the same list: nothing is asked twice.
    """
    people = [each for each in pasted.read(visit.form.one("chosen")).people if each.is_address]
    if not people:
        return await check(visit)
    entries = [Entry(_invitation(visit, person), _about(person)) for person in people]
    return await _follow_new(visit, entries)


async def _form(visit: Visit, error: str) -> Response:
    known = await _known(visit, [])
    async with visit.context.reading() as connection:
        recent = await lists.recent(connection, visit.caller.id, _LISTED)
    values = {
        "lines": visit.form.one("lines"),
        "error": error,
        "most": pasted.MOST,
        "left": known.quota_left,
        "recent": recent,
    }
    return await visit.show(Answer("flow", "flow/several.html", values))


_LISTED = ("invite-by-email", "create-member-account")


async def _known(visit: Visit, emails: Sequence[str]) -> Known:
    async with visit.context.reading() as connection:
        found = await queries.known_addresses(connection, visit.caller.id, emails)
    left = max(0, visit.context.settings.invitations_owner_day - found.asked_today)
    return Known(found.own, found.members, found.invited, left)


def _invitation(visit: Visit, person: Person) -> Command:
    return command_of(POSTABLE["invite-by-email"], {"email": person.email}, visit.caller.id)


def _about(person: Person) -> dict[str, str]:
    return {"email": person.email, "first_name": person.first_name, "last_name": person.last_name}


# --- a list that was sent ---------------------------------------------------------------------------------------------


async def follow(visit: Visit) -> Response:
    """Show what has become of each line."""
    return await visit.show(_progress(await _list(visit)))


async def _follow_new(visit: Visit, entries: Sequence[Entry]) -> Response:
    id_ = await lists.post_list(visit.context, entries, visit.caller.id, visit.form.one("once"))
    if not visit.is_live:
        return RedirectResponse(f"/lists/{id_}", HTTPStatus.SEE_OTHER)
    return await visit.show(_progress(await _list(visit, id_)))


async def _list(visit: Visit, id_: UUID | None = None) -> CommandList:
    async with visit.context.reading() as connection:
        found = await lists.read(connection, id_ or visit.request.path_params["id"], visit.caller.id)
    if found is None or found.type not in _LISTED:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return found


def _progress(followed: CommandList) -> Answer:
    values = {
        "list": followed,
        "marked": [(line, _mark(line)) for line in followed.lines],
        "steps": STEPS,
        "unknown": sum(line.event == UNKNOWN for line in followed.lines),
        "is_slow": followed.is_pending and datetime.now(UTC) - followed.made_at > USUAL,
    }
    return Answer("flow", "flow/list.html", values, has_news=not followed.is_pending)


def _mark(line: Line) -> Mark:
    if line.is_pending:
        return LINE_PENDING
    return LINE_REFUSED if line.command.code else LINE_DONE.get(line.event, SOME_LINE_DONE)


# --- accounts for those of a list whose address nobody has ------------------------------------------------------------


async def accounts(visit: Visit) -> Response:
    """Ask for a plan for all of them, and for their names."""
    lines = await _without_account(visit)
    picked = {str(line.number) for line in lines}
    return await _accounts_form(visit, lines, Form({"person": sorted(picked)}), {})


async def change_accounts(visit: Visit) -> Response:
    """Show the same form again, as it was filled in."""
    return await _accounts_form(visit, await _without_account(visit), visit.form, {})


async def show_payment(visit: Visit) -> Response:
    """Show what all the accounts cost together, and ask once."""
    lines = await _without_account(visit)
    picked = _picked(visit, lines)
    async with visit.context.reading() as connection:
        on_sale = {each.plan: each for each in await queries.plans_on_sale(connection)}
        account = await queries.account(connection, visit.caller.id)
    plan = on_sale.get(visit.form.one("plan"))
    if plan is None or not picked:
        wrong = {"form": visit.speech.say(N_("Choose a plan, and one person at least."))}
        return await _accounts_form(visit, lines, visit.form, wrong)
    if wrong := _wrong(visit, picked, plan.price_units):
        return await _accounts_form(visit, lines, visit.form, wrong)
    values = {
        "list_id": visit.request.path_params["id"],
        "holders": [(line.number, _fields(visit, line)) for line in picked],
        "plan": plan,
        "wanted_language": visit.form.one("language"),
        "account": account,
        "cost": plan.price_units * len(picked),
        "platform": str(visit.context.settings.platform_url),
    }
    return await visit.show(Answer("flow", "flow/accounts_payment.html", values))


async def create_accounts(visit: Visit) -> Response:
    """Ask for the accounts, each by a command of its own, which pays for it; and follow them as one."""
    picked = _picked(visit, (await _list(visit)).lines)
    price = whole_number(visit.form.one("price"))
    if price is None or not picked or _wrong(visit, picked, price):
        return await show_payment(visit)
    model = POSTABLE["create-member-account"]
    entries = []
    for line in picked:
        fields = _fields(visit, line)
        about = {name: fields[name] for name in ("email", "first_name", "last_name")} | {"price": str(price)}
        entries.append(Entry(command_of(model, {**fields, "price_units": price}, visit.caller.id), about))
    return await _follow_new(visit, entries)


async def _accounts_form(visit: Visit, lines: Sequence[Line], given: Form, wrong: Mapping[str, str]) -> Response:
    known = await _known(visit, [])
    async with visit.context.reading() as connection:
        on_sale = await queries.plans_on_sale(connection)
    people = [(line.number, line.about["email"], _names(given, line)) for line in lines]
    values = {
        "list_id": visit.request.path_params["id"],
        "people": people,
        "picked": set(given.all("person")),
        "plans": on_sale,
        "plan": given.one("plan"),
        "wanted_language": given.one("language"),
        "wrong": Texts(wrong),
        "left": known.quota_left,
    }
    return await visit.show(Answer("flow", "flow/accounts.html", values))


async def _without_account(visit: Visit) -> Sequence[Line]:
    """Return the lines whose address nobody had, but for those who have become members since."""
    lines = [line for line in (await _list(visit)).lines if line.event == UNKNOWN]
    known = await _known(visit, [line.about["email"] for line in lines])
    return [line for line in lines if line.about["email"] not in known.members]


def _picked(visit: Visit, lines: Sequence[Line]) -> Sequence[Line]:
    wanted = set(visit.form.all("person"))
    return [line for line in lines if line.event == UNKNOWN and str(line.number) in wanted]


def _names(given: Form, line: Line) -> Mapping[str, str]:
    """Return a person's names: as they were filled in, else as they were pasted."""
    typed = given.some(*(f"{name}.{line.number}" for name in _NAMES))
    return {name: typed.get(f"{name}.{line.number}", line.about.get(name, "")) for name in _NAMES}


_NAMES = ("first_name", "last_name")


def _fields(visit: Visit, line: Line) -> dict[str, str]:
    common = {"plan": visit.form.one("plan"), "language": visit.form.one("language")}
    return {**common, "email": line.about["email"], **_names(visit.form, line)}


def _wrong(visit: Visit, picked: Sequence[Line], price_units: int) -> dict[str, str]:
    """Return what is wrong with what was filled in, by field."""
    found: dict[str, str] = {}
    for line in picked:
        for name, why in wrong_fields(visit, _fields(visit, line), price_units).items():
            found[f"{name}.{line.number}" if name in _NAMES else name] = why
    return found
