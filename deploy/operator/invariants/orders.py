"""Standing orders: what they may do, and what they have done. All of this holds at every moment."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date
from uuid import UUID

from deploy.operator.invariants.history import lines
from deploy.operator.invariants.invariant import Invariant, Violation
from deploy.operator.invariants.rows import by, each, in_order, merge_join, only
from deploy.operator.invariants.snapshot import GroupsSnapshot
from popfax_contracts.message import group_of
from services.groups.domain import (
    HistoryEntry,
    Kind,
    Membership,
    OrderKind,
    OrderState,
    StandingOrder,
    Subscriber,
    Transfer,
    TransferState,
    membership_of,
    order_of,
)

OUTCOMES = ("set", "stopped", "paused")
"""What a line of the history says of an order."""


def check_orders(snapshot: GroupsSnapshot) -> Iterator[Violation]:
    """Check orders against their memberships, their members' balances, their transfers and their history."""
    yield from each(
        merge_join(
            by(snapshot.orders, "id"),
            in_order((order_of(each.id), each) for each in snapshot.memberships),
            by(snapshot.transfers, "order_id"),
            lines(snapshot.history, Kind.ORDER, "reference_id"),
        ),
        _order,
    )
    yield from each(merge_join(by(snapshot.subscribers, "id"), by(snapshot.orders, "member_id")), _watched)


def _order(
    id_: UUID,
    orders: Iterator[StandingOrder],
    memberships: Iterator[Membership],
    transfers: Iterator[Transfer],
    told: Iterator[HistoryEntry],
) -> Iterator[Violation]:
    order, membership, asked = only(orders), only(memberships), list(transfers)
    yield from _told(id_, order, told)
    if order is None:
        for transfer in asked:
            yield Violation(Invariant.ORDER_MISMATCH, str(transfer.id), f"asked for by {id_}, which is no order")
        return
    if (wrong := _misshapen(order)) is not None:
        yield Violation(Invariant.ORDER_MISMATCH, str(id_), wrong)
    if order.state is not OrderState.STOPPED and (membership is None or not membership.active):
        yield Violation(Invariant.ORDER_WITHOUT_MEMBER, str(id_), f"{order.state}, and {order.member_id} is no member")
    if order.due_at is None and order.transfer_id is not None:
        yield Violation(Invariant.ORDER_STALLED, str(id_), f"nothing will look what became of {order.transfer_id}")
    elif order.due_at is None and order.state is OrderState.ACTIVE and order.kind is OrderKind.MONTHLY:
        yield Violation(Invariant.ORDER_STALLED, str(id_), f"nothing will look at it in {order.next_month:%Y-%m}")
    yield from _asked(order, asked)
    yield from _months(order, asked)


def _told(id_: UUID, order: StandingOrder | None, told: Iterator[HistoryEntry]) -> Iterator[Violation]:
    for line in told:
        if order is None or (line.group_id, line.member_id) != (order.group_id, order.member_id):
            yield Violation(Invariant.HISTORY_MISMATCH, str(line.id), f"tells of the order {id_}, which is not so")
        elif line.outcome not in OUTCOMES or line.units is not None:
            yield Violation(Invariant.HISTORY_MISMATCH, str(line.id), f"an order was {line.outcome!r}")


def _asked(order: StandingOrder, asked: Sequence[Transfer]) -> Iterator[Violation]:
    for transfer in asked:
        if (wrong := _not_its(order, transfer)) is not None:
            yield Violation(Invariant.ORDER_MISMATCH, str(transfer.id), wrong)
        if order.state is not OrderState.ACTIVE and transfer.order_version == order.version:
            detail = f"asked for by {order.id}, which is {order.state}"
            yield Violation(Invariant.ORDER_AFTER_STOP, str(transfer.id), detail)
    if order.transfer_id is not None and order.transfer_id not in {each.id for each in asked}:
        yield Violation(Invariant.ORDER_MISMATCH, str(order.id), f"waits for {order.transfer_id}, which is not its own")


def _misshapen(order: StandingOrder) -> str | None:
    """Say how an order's columns contradict each other."""
    ids = group_of(order.owner_id), order_of(membership_of(order.group_id, order.member_id))
    if (order.group_id, order.id) != ids:
        return f"its ids are not those of {order.owner_id} and {order.member_id}"
    keeps = (order.threshold_units, order.target_units, order.monthly_bound_units)
    terms = [order.amount_units] if order.kind is OrderKind.MONTHLY else keeps
    if any(each is None for each in terms) or order.version < 1:
        return f"{order.kind}, version {order.version}, and its terms are {keeps} {order.amount_units}"
    if (order.ended_at is None) is (order.state is OrderState.STOPPED):
        return f"{order.state}, ended at {order.ended_at}"
    if (order.code is None) is (order.state is OrderState.PAUSED):
        return f"{order.state}, and its code is {order.code}"
    if order.due_at is not None and order.state is not OrderState.ACTIVE and order.transfer_id is None:
        return f"{order.state}, and due at {order.due_at}"
    return None


def _not_its(order: StandingOrder, transfer: Transfer) -> str | None:
    """Say why a transfer can't be of an order."""
    if (transfer.group_id, transfer.owner_id) != (order.group_id, order.owner_id):
        return f"of {transfer.owner_id}, asked for by the order {order.id} of {order.owner_id}"
    if transfer.order_version is None or transfer.month is None or transfer.order_version > order.version:
        return f"asked for by {order.id} in {transfer.month}, version {transfer.order_version} of {order.version}"
    if (transfer.state is TransferState.PENDING) is not (transfer.id == order.transfer_id):
        return f"{transfer.state}, and the order {order.id} waits for {order.transfer_id}"
    return None


def _months(order: StandingOrder, asked: Sequence[Transfer]) -> Iterator[Violation]:
    """Check what was moved in each month: within the bound, once for a monthly one, and as it is counted."""
    months: dict[date, list[Transfer]] = defaultdict(list)
    for transfer in asked:
        if transfer.state is not TransferState.REFUSED and transfer.month is not None:
            months[transfer.month].append(transfer)
    for month, own in months.items():
        bounds = [transfer.bound_units for transfer in own if transfer.bound_units is not None]
        if len(own) - len(bounds) > 1:
            yield Violation(Invariant.ORDER_TWICE, str(order.id), f"{len(own) - len(bounds)} times in {month:%Y-%m}")
        most = sum(_most(transfer) for transfer in own)
        if bounds and most > max(bounds):
            detail = f"{most} units in {month:%Y-%m}, {max(bounds)} at most"
            yield Violation(Invariant.ORDER_OVER_BOUND, str(order.id), detail)
        if month > order.month or (month >= order.next_month and _is_paid(own)):
            yield Violation(Invariant.ORDER_TALLY_MISMATCH, str(order.id), f"{month} is after {order.month}, or unpaid")
    moved = sum(each.total_units or 0 for each in months[order.month])
    if moved != order.month_units:
        detail = f"{moved} units in {order.month:%Y-%m}, counted {order.month_units}"
        yield Violation(Invariant.ORDER_TALLY_MISMATCH, str(order.id), detail)


def _most(transfer: Transfer) -> int:
    """Return how many units a transfer moved, or may still move."""
    return transfer.amount_units if transfer.total_units is None else transfer.total_units


def _is_paid(own: Sequence[Transfer]) -> bool:
    return any(each.bound_units is None and each.state is TransferState.DONE for each in own)


def _watched(id_: UUID, subscribers: Iterator[Subscriber], orders: Iterator[StandingOrder]) -> Iterator[Violation]:
    """Check that an order whose member is short of units is looked at, or waits for the ledger."""
    subscriber = only(subscribers)
    for order in orders:
        watches = order.state is OrderState.ACTIVE and order.kind is OrderKind.KEEP_AT
        if subscriber is None or not watches or order.due_at is not None or order.transfer_id is not None:
            continue
        if order.is_short(subscriber):
            detail = f"{subscriber.available_units} of {order.threshold_units} units, and nobody looks"
            yield Violation(Invariant.ORDER_STALLED, str(order.id), detail)
