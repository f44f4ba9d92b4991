"""Standing orders: the list of them, and the form by which one or several members get one."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from popfax_contracts.ids import derive_own
from popfax_contracts.message import Command
from services.groups.commands import POSTABLE
from services.groups.domain import CommandState, OrderKind, month_after, month_of
from services.groups.web import members, orders, queries
from services.groups.web.page.amounts import NoAmount, read_amount
from services.groups.web.page.forms import BadForm, Form, Texts, whole_number
from services.groups.web.page.selection import chosen, refused, ticked
from services.groups.web.page.views import Choice
from services.groups.web.page.visit import Visit
from services.groups.web.page.waiting import wait_for
from services.groups.web.page.words import DONE, N_, NOBODY_CHOSEN, PENDING
from services.groups.web.posting import command_of

MOST = 50
"""To so many members one form gives an order: their names are on it, and in its address."""

PAGE = 100

AMOUNTS: Mapping[str, Sequence[str]] = {
    OrderKind.KEEP_AT.value: ("threshold_units", "target_units", "monthly_bound_units"),
    OrderKind.MONTHLY.value: ("amount_units",),
}
"""The amounts that a kind of order has."""

_ABOVE_TARGET = N_("Top up to at least as many units as this.")


async def page(visit: Visit) -> Response:
    """Show the standing orders of the visitor's group, and what has become of the form that led here."""
    number = whole_number(visit.request.query_params.get("page", "1")) or 1
    async with visit.context.reading() as connection:
        found = await orders.read_by_name(connection, visit.caller.id, PAGE + 1, (number - 1) * PAGE)
    if not found and number > 1:
        return RedirectResponse("/orders", HTTPStatus.SEE_OTHER)  # there were more when that page was linked to
    return visit.render(
        "orders.html",
        orders=found[:PAGE],
        page_number=number,
        has_more=len(found) > PAGE,
        month=month_of(datetime.now(UTC)),
        news=await _news(visit),
    )


async def begin(visit: Visit) -> Response:
    """Lead to the form, for the members who are ticked."""
    choice, _ = await chosen(visit)
    if not choice.members:
        return await refused(visit, NOBODY_CHOSEN)
    if len(choice.members) > MOST:
        return await refused(visit, N_("Choose at most 50 members for a standing order."))
    address = f"/orders/new?{urlencode([('member', each) for each in choice.chosen])}"
    if visit.is_live:
        return Response(headers={"HX-Redirect": address})
    return RedirectResponse(address, HTTPStatus.SEE_OTHER)


async def form(visit: Visit) -> Response:
    """Show the form: what the members have, if there is one of them who has an order, or else an empty one."""
    return await _form(visit, await _members(visit, visit.request.query_params.getlist("member")))


async def form_of_one(visit: Visit) -> Response:
    """Show the form for the member with an id."""
    async with visit.context.reading() as connection:
        found = await orders.member(connection, visit.caller.id, visit.request.path_params["id"])
    return await _form(visit, Choice(found))


async def save(visit: Visit) -> Response:
    """Set the order of the members on the form."""
    choice = await _members(visit, visit.form.all("member"))
    if not choice.members:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    amounts, wrong = _read(visit)
    if wrong:
        return await _form(visit, choice, Texts(wrong))
    terms = {"kind": visit.form.one("kind"), **amounts}
    commands = [
        _command("set-standing-order", {**terms, "member_id": each.member_id, "epoch": each.epoch}, visit.caller.id)
        for each in choice.members
    ]
    return await _post(visit, commands)


async def stop(visit: Visit) -> Response:
    """Stop a member's order."""
    fields = {"member_id": visit.request.path_params["id"]}
    return await _post(visit, [_command("stop-standing-order", fields, visit.caller.id)])


def _command(name: str, fields: Mapping[str, Any], actor_id: UUID) -> Command:
    try:
        return command_of(POSTABLE[name], fields, actor_id)
    except ValidationError as error:
        raise BadForm(name) from error


async def _post(visit: Visit, commands: Sequence[Command]) -> Response:
    """Post commands, each once, however often the form is sent; and lead to the list, which says what became of it."""
    once = visit.form.one("once")
    posted = {
        derive_own(visit.caller.id, f"page/order/{once}/{sha256(each.to_json()).hexdigest()}"): each
        for each in commands
    }
    await visit.context.limits.command_of(visit.caller.id)
    await visit.context.post_all(posted, visit.caller.id)
    await wait_for(visit.context, next(reversed(posted)), visit.caller.id)
    return RedirectResponse(f"/orders?command={await _worth_telling(visit, list(posted))}", HTTPStatus.SEE_OTHER)


async def _worth_telling(visit: Visit, ids: Sequence[UUID]) -> UUID:
    """Return the command whose outcome is told: the first that was refused, or else the last."""
    async with visit.context.reading() as connection:
        found = await queries.commands_of(connection, ids, visit.caller.id)
    refused = (id_ for id_ in ids if id_ in found and found[id_].state is CommandState.REFUSED)
    return next(refused, ids[-1])


async def _news(visit: Visit) -> tuple[str, str]:
    """Return what to say of the command in the address, and in which tone; nothing if there is none."""
    try:
        id_ = UUID(visit.request.query_params.get("command", ""))
    except ValueError:
        return "", ""
    async with visit.context.reading() as connection:
        command = await queries.command(connection, id_, visit.caller.id)
    if command is None or command.type not in _TYPES:
        return "", ""
    if command.state is CommandState.REFUSED:
        return visit.speech.refusal(command.code), "error"
    if command.state is CommandState.DONE:
        return visit.speech.say(DONE[command.type]), "good"
    return visit.speech.say(PENDING[command.type]), "wait"


_TYPES = ("set-standing-order", "stop-standing-order")


async def _members(visit: Visit, wanted: Sequence[str]) -> Choice:
    """Return those of today's members that checkboxes, or an address, name."""
    async with visit.context.reading() as connection:
        return Choice(await members.read_some(connection, visit.caller.id, ticked(Form({"member": wanted[:MOST]}))))


async def _form(visit: Visit, choice: Choice, wrong: Texts | None = None) -> Response:
    if not choice.members:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    async with visit.context.reading() as connection:
        had = await orders.of_members(connection, visit.caller.id, [each.member_id for each in choice.members])
    known = had[0] if had else None
    given = visit.form.some("kind", *(name for names in AMOUNTS.values() for name in names))
    return visit.render(
        "order.html",
        choice=choice,
        order=known if len(choice.members) == 1 else None,
        replaced=len(had),
        given=given or _given(known),
        wrong=wrong or Texts(),
        next_month=month_after(month_of(datetime.now(UTC))),
    )


def _given(order: orders.Order | None) -> Texts:
    """Return the fields of the form as an order would fill them in."""
    if order is None:
        return Texts(kind=OrderKind.KEEP_AT.value)
    amounts = {name: getattr(order, name) for name in AMOUNTS[order.kind.value]}
    return Texts(kind=order.kind.value, **{name: str(amount) for name, amount in amounts.items()})


def _read(visit: Visit) -> tuple[dict[str, int], dict[str, str]]:
    """Return the amounts that were filled in, and what is wrong with them, by field."""
    kind = visit.form.one("kind")
    if kind not in AMOUNTS:
        raise BadForm("kind")
    wrong, amounts = {}, {}
    for name in AMOUNTS[kind]:
        try:
            amounts[name] = read_amount(visit.form.one(name), visit.speech.language)
        except NoAmount as error:
            wrong[name] = visit.speech.say(error.message)
    if not wrong and kind == OrderKind.KEEP_AT.value and amounts["threshold_units"] > amounts["target_units"]:
        wrong["target_units"] = visit.speech.say(_ABOVE_TARGET)
    return amounts, wrong
