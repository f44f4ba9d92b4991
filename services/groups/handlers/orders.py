"""Standing orders: units that a member is given again and again, as their owner has said once.

An order is a row that says itself when it is to be looked at (`due_at`): its month begins, or a balance was too low.
Looking decides whether the ledger is asked. So whatever sets an order off (a balance, the clock, the answer to the
transfer before, its owner) only has to write a moment, and everything that must happen once is decided in one place,
under the row's lock.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from popfax_contracts.codes import GroupsCode
from popfax_contracts.groups import SetStandingOrder, StandingOrderRefused, StandingOrderSet, StopStandingOrder
from services.chassis.messages import Incoming, Outcome
from services.chassis.rows import replace
from services.chassis.service import Moment, needs
from services.groups import transitions
from services.groups.domain import (
    ORDERS_WAIT,
    Membership,
    OrderKind,
    OrderState,
    StandingOrder,
    Subscriber,
    Transfer,
    TransferState,
    beginning_of,
    history_of_membership,
    membership_of,
    month_after,
    month_of,
    order_of,
    order_transfer,
)
from services.groups.handlers import transfers
from services.groups.handlers.memberships import is_meant
from services.groups.handlers.ownership import owner_of, why_not_owner
from services.groups.store import LoadPlan, Roster, order_line_of
from services.groups.timers import OrderDue


def _order(load: LoadPlan, message: Incoming[SetStandingOrder | StopStandingOrder]) -> None:
    command = message.body
    membership_id = membership_of(command.group_id, command.member_id)
    load.groups.add(command.group_id)
    load.memberships.add(membership_id)
    load.orders.add(order_of(membership_id))
    load.history.add(order_line_of(message))


@needs(_order)
def set_standing_order(roster: Roster, message: Incoming[SetStandingOrder], moment: Moment) -> Outcome:
    """Set a member's standing order, or change it, or let it go on after a pause."""
    command = message.body
    if roster.history.find(order_line_of(message)) is not None:
        return ()  # redelivered after the inbox's retention: it was set, and may be another one by now
    member = roster.memberships.find(membership_of(command.group_id, command.member_id))
    code = why_not_owner(roster, message, command.group_id)
    if code is not None or member is None or not is_meant(member, command.epoch):
        return [_refused(command, code or GroupsCode.NOT_MEMBER)]
    order = _set(roster.orders.find(order_of(member.id)), member, command, moment)
    roster.orders.put(transitions.look(order, moment))
    transitions.order_line(roster, order_line_of(message), order, "set", owner_of(message), moment)
    terms = command.model_dump(include={"threshold_units", "target_units", "monthly_bound_units", "amount_units"})
    return [
        StandingOrderSet(
            group_id=order.group_id,
            owner_id=order.owner_id,
            member_id=order.member_id,
            order_id=order.id,
            version=order.version,
            kind=order.kind.value,
            **terms,
        )
    ]


def _set(known: StandingOrder | None, member: Membership, command: SetStandingOrder, moment: Moment) -> StandingOrder:
    """Return the order as the command wants it. Whatever it was before, the month's tally stays.

    A monthly one begins with the next month. If it was monthly before, and not stopped, the month that it has not paid
    is still to be paid: the owner changes it while the ledger is being asked, or lets it go on after a pause.
    """
    kind, month = OrderKind(command.kind), month_of(moment.now)
    before = known or _none(member, kind, moment)
    goes_on = before.kind is OrderKind.MONTHLY and before.state is not OrderState.STOPPED
    return replace(
        before,
        state=OrderState.ACTIVE,
        version=before.version + 1,
        kind=kind,
        threshold_units=command.threshold_units,
        target_units=command.target_units,
        monthly_bound_units=command.monthly_bound_units,
        amount_units=command.amount_units,
        set_at=moment.now,
        ended_at=None,
        code=None,
        next_month=before.next_month if goes_on else max(before.next_month, month_after(max(month, before.month))),
    )


def _none(member: Membership, kind: OrderKind, moment: Moment) -> StandingOrder:
    """Return the order of a membership that never had one."""
    month = month_of(moment.now)
    return StandingOrder(
        id=order_of(member.id),
        group_id=member.group_id,
        owner_id=member.owner_id,
        member_id=member.member_id,
        state=OrderState.STOPPED,
        version=0,
        kind=kind,
        threshold_units=None,
        target_units=None,
        monthly_bound_units=None,
        amount_units=None,
        set_at=moment.now,
        ended_at=None,
        code=None,
        month=month,
        month_units=0,
        next_month=month,
        transfer_id=None,
        due_at=None,
        looks=0,
        balance_version=0,
    )


@needs(_order)
def stop_standing_order(roster: Roster, message: Incoming[StopStandingOrder], moment: Moment) -> Outcome:
    """Stop a member's standing order."""
    command = message.body
    if roster.history.find(order_line_of(message)) is not None:
        return ()  # redelivered after the inbox's retention: it was stopped, and may have been set again
    code = why_not_owner(roster, message, command.group_id)
    order = roster.orders.find(order_of(membership_of(command.group_id, command.member_id)))
    if code is not None or order is None or order.state is OrderState.STOPPED:
        return [_refused(command, code or GroupsCode.NO_ORDER)]
    told = transitions.stop_order(roster, order, "stopped", moment)
    transitions.order_line(
        roster, order_line_of(message), roster.orders[order.id], "stopped", owner_of(message), moment
    )
    return [told]


def _refused(command: SetStandingOrder | StopStandingOrder, code: GroupsCode) -> StandingOrderRefused:
    return StandingOrderRefused(
        group_id=command.group_id, member_id=command.member_id, code=code, command_type=command.TYPE
    )


# --- what an order does -----------------------------------------------------------------------------------------------


def _due(load: LoadPlan, message: Incoming[OrderDue]) -> None:
    due = message.body
    load.orders.add(due.order_id)
    load.subscribers.add(due.member_id)
    load.memberships.then(
        membership_of(due.group_id, due.member_id),
        lambda member: load.history.add(history_of_membership(member.id, member.epoch)),
    )
    if due.transfer_id is not None:
        load.transfers.add(due.transfer_id)


@needs(_due)
def order_due(roster: Roster, message: Incoming[OrderDue], moment: Moment) -> Outcome:
    """Look at a standing order, and ask the ledger if there is something to do.

    Whatever a worker of a version that knows no orders did meanwhile is caught up with first: it ends memberships
    and takes the ledger's answers without a word to their orders.
    """
    order = roster.orders.find(message.body.order_id)
    if order is None or order.due_at is None or order.due_at > moment.now:
        return ()  # another replica was faster, or the order was changed
    if order.transfer_id != message.body.transfer_id:
        return ()  # it was changed, and is looked at again
    member = roster.memberships[membership_of(order.group_id, order.member_id)]
    if order.state is not OrderState.STOPPED and not member.active:
        ended = roster.history[history_of_membership(member.id, member.epoch)]
        return [transitions.stop_order(roster, order, ended.outcome, moment)]
    if order.transfer_id is not None:
        return _look_for_answer(roster, order, roster.transfers[order.transfer_id], moment)
    order = order.in_month(month_of(moment.now)).due(None)
    holder = roster.subscriber(order.member_id)
    request = _monthly(order) if order.kind is OrderKind.MONTHLY else _keeping(order, holder)
    if request is None:
        roster.orders.put(order.due(_again(order, holder)))
        return ()
    id_ = order_transfer(order, request.balance_version)
    return ask(roster, order, id_, request.mode, request.amount_units, moment)


def _look_for_answer(roster: Roster, order: StandingOrder, transfer: Transfer, moment: Moment) -> Outcome:
    """Settle an order whose transfer is no longer open, or go on waiting.

    Which balance shows the transfer is not known any more: not the one that it was asked for, so a later one.
    """
    if transfer.state is TransferState.PENDING:
        roster.orders.put(order.due(moment.now + ORDERS_WAIT))
        return ()
    if transfer.state is TransferState.REFUSED:
        return transitions.order_refused(roster, transfer, transfer.code or GroupsCode.CANCELLED, moment)
    as_asked = replace(order, version=transfer.order_version or 0, month=transfer.month or order.month)
    known = roster.subscriber(order.member_id).balance_version
    is_asked_for = order_transfer(as_asked, known) == transfer.id
    transitions.order_transferred(roster, transfer, transfer.total_units or 0, known + is_asked_for, moment)
    return ()


def ask(
    roster: Roster, order: StandingOrder, transfer_id: UUID, mode: str, amount_units: int, moment: Moment
) -> Outcome:
    """Ask the ledger for a transfer that an order wants. Until the answer it asks for nothing else."""
    transfer = Transfer(
        id=transfer_id,
        group_id=order.group_id,
        owner_id=order.owner_id,
        mode=mode,
        amount_units=amount_units,
        state=TransferState.PENDING,
        code=None,
        total_units=None,
        asked_at=moment.now,
        ended_at=None,
        order_id=order.id,
        order_version=order.version,
        month=order.month,
        bound_units=order.monthly_bound_units,
    )
    roster.orders.put(replace(order.due(moment.now + ORDERS_WAIT), transfer_id=transfer.id))
    return transfers.request(roster, transfer, (order.member_id,), moment)


@dataclass(frozen=True, slots=True)
class _Request:
    """What an order asks the ledger for."""

    mode: str
    amount_units: int
    balance_version: int | None = None


def _monthly(order: StandingOrder) -> _Request | None:
    """Return what a monthly order asks for in this month: once, even if several have passed unseen."""
    if order.month < order.next_month or order.amount_units is None:
        return None
    return _Request("amount", order.amount_units)


def _keeping(order: StandingOrder, member: Subscriber) -> _Request | None:
    """Return what brings the member to their target, within what the bound leaves.

    The balance that is known here may be out of date. `top_up_to` lets the ledger reckon with the one that it has
    locked; it moves the whole target at most, so it may be used while the bound leaves that much. With less left it is
    an amount, which can't exceed the bound either, whatever the balance is.
    """
    target, left = order.target_units or 0, order.left_units
    if not left or not order.is_short(member):
        return None
    if left >= target:
        return _Request("top_up_to", target, member.balance_version)
    return _Request("amount", min(left, target - member.available_units), member.balance_version)


def _again(order: StandingOrder, member: Subscriber) -> datetime | None:
    """Return when an order that has nothing to do is to be looked at again; None if a balance will tell."""
    if order.kind is OrderKind.MONTHLY:
        return beginning_of(order.next_month)
    return beginning_of(month_after(order.month)) if order.is_short(member) else None
