"""What looks of groups led to is taken over as a fact: it can't be decided again.

A look is a row that was due, and no message on a topic. It went by balances of which a compacted topic has only the
newest, and by looks before it that led to nothing, of which no event tells.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from secrets import token_bytes
from uuid import UUID

from deploy.operator.replay.story import Told
from popfax_contracts.groups import StandingOrderStopped
from popfax_contracts.ledger import PostTransfers
from popfax_contracts.message import Message, group_of
from popfax_contracts.notifications import SendMembersLow
from services.chassis.dates import zone_of
from services.chassis.messages import Effect, Incoming, SetTimer
from services.chassis.postgres import PostgresTransaction
from services.chassis.rows import replace
from services.chassis.service import Moment
from services.groups import tables, transitions
from services.groups.domain import (
    OrderState,
    Quotas,
    StandingOrder,
    membership_of,
    month_of,
    next_look,
    order_look,
    order_of,
)
from services.groups.handlers import orders
from services.groups.store import LoadPlan, Roster
from services.groups.timers import ORDER_LOOKS

IN_VAIN = 10_000
"""How many looks at an order may have led to nothing between two that led to something."""


async def take_over(tx: PostgresTransaction, told: Sequence[Told]) -> bool:
    """Take over what a look led to: one message; return whether this is one of a look's."""
    fact = _FACTS.get(told[0].type) if len(told) == 1 else None
    return fact is not None and await fact(tx, told[0])


async def _told_as_low(tx: PostgresTransaction, told: Told) -> bool:
    """Take over which members were told as low. The next look is at another moment, so it is another message."""
    mail = SendMembersLow.from_json(told.value)
    settings = await tx.fetch(tables.LOW_BALANCES, [mail.group_id])
    owner = (await tx.fetch(tables.SUBSCRIBERS, [mail.owner_id], for_update=False)).find(mail.owner_id)
    known = settings.find(mail.group_id)
    if known is not None and (known.mailed_on is None or known.mailed_on < mail.day):
        low = tuple(sorted({*known.low, *(member_id.hex for member_id in mail.members)}))
        look_at = known.look_at and next_look(mail.group_id, told.at, zone_of(owner.time_zone if owner else None))
        settings.put(replace(known, look_at=look_at, mailed_on=mail.day, mails=known.mails + 1, low=low))
    await tx.save([settings])
    return True


async def _asked(tx: PostgresTransaction, told: Told) -> bool:
    """Take over a transfer that an order asked for; one that is known was asked for again."""
    posting = PostTransfers.from_json(told.value)
    (leg, *others) = posting.legs
    plan = LoadPlan(Quotas())
    plan.transfers.add(posting.transfer_id)
    roster, order = await _looked_at(
        tx, plan, told, order_of(membership_of(group_of(posting.source_id), leg.account_id))
    )
    if others or order is None or order.transfer_id is not None or roster.transfers.find(posting.transfer_id):
        return False
    mode, units = ("amount", leg.amount_units) if leg.amount_units is not None else ("top_up_to", leg.top_up_to_units)
    order = order.in_month(month_of(told.at))
    asked = orders.ask(roster, order, posting.transfer_id, mode, units or 0, Moment(told.at, token_bytes))
    return await _save(tx, roster, order, asked, told)


async def _stopped(tx: PostgresTransaction, told: Told) -> bool:
    """Take over that an order was stopped, whose membership had ended without a word to it."""
    stopped = StandingOrderStopped.from_json(told.value)
    roster, order = await _looked_at(tx, LoadPlan(Quotas()), told, stopped.order_id)
    if order is None:
        return False
    event = transitions.stop_order(roster, order, stopped.reason, Moment(told.at, token_bytes))
    return await _save(tx, roster, order, [event], told)


async def _looked_at(
    tx: PostgresTransaction, plan: LoadPlan, told: Told, order_id: UUID
) -> tuple[Roster, StandingOrder | None]:
    """Fetch a plan, and an active order as it was looked at: the correlation id is the look's."""
    plan.orders.add(order_id)
    roster = await plan.fetch(tx)
    known = roster.orders.find(order_id)
    if known is None or known.state is not OrderState.ACTIVE:
        return roster, None
    looked = (replace(known, looks=known.looks + more, due_at=told.at) for more in range(IN_VAIN))
    return roster, next((each for each in looked if str(order_look(each)) == told.correlation_id), None)


async def _save(
    tx: PostgresTransaction, roster: Roster, order: StandingOrder, effects: Sequence[Effect], told: Told
) -> bool:
    """Save what a look at an order led to, if it is what was published."""
    message, *rest = effects
    record = ORDER_LOOKS.record(order)
    if record is None or not isinstance(message, Message) or message.to_json() != told.value:
        return False
    cause = Incoming[Message](UUID(told.cause), message, record, told.correlation_id, told.actor)
    await tx.save(roster.changes())
    await tx.set_timers([(timer, cause) for timer in rest if isinstance(timer, SetTimer)])
    return True


_FACTS: Mapping[str, Callable[[PostgresTransaction, Told], Awaitable[bool]]] = {
    SendMembersLow.TYPE: _told_as_low,
    PostTransfers.TYPE: _asked,
    StandingOrderStopped.TYPE: _stopped,
}
