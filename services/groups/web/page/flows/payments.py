"""What an owner pays for members: a question that shows who, until when and at which price; and what came of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, get_args
from uuid import UUID

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from services.groups.commands import POSTABLE
from services.groups.domain import AccountState, CommandState
from services.groups.web import lists, payments, queries
from services.groups.web.lists import Entry
from services.groups.web.page.flows.commands import USUAL
from services.groups.web.page.forms import BadForm, whole_number
from services.groups.web.page.selection import chosen, refused
from services.groups.web.page.visit import Answer, Visit
from services.groups.web.page.words import N_, NOBODY_CHOSEN
from services.groups.web.payments import Action, Offer
from services.groups.web.posting import command_of

PAY_FOR_MEMBER = "pay-for-member"

MOST = 100
"""How many members can be paid for at a time: each is a command, and a line in the question."""


@dataclass(frozen=True, slots=True)
class Bill:
    """What is asked for: whom it can be paid for, whom it can't and why, and what it comes to."""

    action: Action
    offers: Sequence[Offer]
    account: queries.Account

    @property
    def paid(self) -> Sequence[Offer]:
        """Return what can be paid."""
        return [each for each in self.offers if each.code is None]

    @property
    def left_out(self) -> Sequence[Offer]:
        """Return what can't be paid."""
        return [each for each in self.offers if each.code is not None]

    @property
    def cost(self) -> int:
        """Return what it costs, in units."""
        return sum(each.price_units for each in self.paid)

    @property
    def left(self) -> int:
        """Return the units left after it; below zero, those that are missing."""
        return self.account.available_units - self.cost

    @property
    def is_payable(self) -> bool:
        """Return whether there is something to pay, and the owner's account can."""
        return bool(self.paid) and self.left >= 0 and self.account.state is AccountState.ACTIVE


async def confirm(visit: Visit) -> Response:
    """Show what the selection costs, and ask once."""
    action = _action(visit)
    choice, account = await chosen(visit)
    if not choice.members:
        return await refused(visit, NOBODY_CHOSEN)
    if len(choice.members) > MOST:
        return await refused(visit, N_("At most 100 members can be paid for at a time."))
    member_ids = [each.member_id for each in choice.members]
    async with visit.context.reading() as connection:
        offers = await payments.offers(connection, visit.caller.id, member_ids, action, datetime.now(UTC))
    bill = Bill(action, offers, account)
    values = {"bill": bill, "account_page": visit.context.settings.account_page}
    return await visit.show(Answer("members-answer", "confirm_payment.html", values))


async def pay(visit: Visit) -> Response:
    """Pay for each member who was confirmed, by a command of its own with what was shown; and follow them as one."""
    action = _action(visit)
    wanted = [_parsed(each) for each in visit.form.all("pay")]
    if not 0 < len(wanted) <= MOST:
        raise BadForm("pay")
    try:
        made = [command_of(POSTABLE[PAY_FOR_MEMBER], {**each, "action": action}, visit.caller.id) for each in wanted]
    except ValidationError as error:
        raise BadForm("pay") from error
    entries = [Entry(command, {"member_id": each["member_id"]}) for command, each in zip(made, wanted, strict=True)]
    id_ = await lists.post_list(visit.context, entries, visit.caller.id, visit.form.one("once"))
    if not visit.is_live:
        return RedirectResponse(f"/payments/{id_}", HTTPStatus.SEE_OTHER)
    return await _show(visit, id_)


async def follow(visit: Visit) -> Response:
    """Show what has become of each payment."""
    return await _show(visit, visit.request.path_params["id"])


async def _show(visit: Visit, id_: UUID) -> Response:
    async with visit.context.reading() as connection:
        found = await lists.read(connection, id_, visit.caller.id)
        if found is None or found.type != PAY_FOR_MEMBER:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        member_ids = [UUID(each.about["member_id"]) for each in found.lines]
        names = await payments.names(connection, visit.caller.id, member_ids)
    lines = [(names.get(id_, ""), each.command) for id_, each in zip(member_ids, found.lines, strict=True)]
    values = {
        "list_id": id_,
        "paid": lines,
        "pending": found.is_pending,
        "done": sum(command.state is CommandState.DONE for _, command in lines),
        "is_slow": found.is_pending and datetime.now(UTC) - found.made_at > USUAL,
    }
    said = "" if found.is_pending else visit.speech.say(N_("All payments are done or refused: each has its line."))
    is_over = not found.is_pending
    answer = Answer("members-answer", "answers/payments.html", values, said, has_news=is_over, is_spent=is_over)
    return await visit.show(answer)


def _action(visit: Visit) -> Action:
    action = visit.request.path_params["action"]
    if action not in get_args(Action):
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return action  # type: ignore[no-any-return]


def _parsed(text: str) -> dict[str, Any]:
    """Read what a confirmation carries for one member: who, which membership, the price and the end that were shown."""
    member_id, epoch, price, end = (*text.split(".", 3), "", "", "")[:4]
    return {
        "member_id": member_id,
        "epoch": whole_number(epoch),
        "price_units": whole_number(price),
        "expires_at": end or None,
    }
