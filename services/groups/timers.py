"""Groups' timers and alarms, and their messages."""

from uuid import UUID

from popfax_contracts.ids import derive
from popfax_contracts.message import Message
from services.chassis.alarms import Alarm, due_record
from services.chassis.messages import SetTimer, StoredRecord
from services.groups.domain import LowBalance, StandingOrder, order_look
from services.groups.tables import LOW_BALANCES, ORDERS, TO_LOOK_AT, low_balances, standing_orders

_LOOK = UUID("2d8b1c5f-6e07-5a94-b3c1-7f40a9e6d258")


class InvitationDue(Message, type="popfax.groups.invitation-due", key="invitation_id"):
    """An invitation's time is up, unless it was renewed or has ended meanwhile."""

    invitation_id: UUID


class TransferDue(Message, type="popfax.groups.transfer-due", key="transfer_id"):
    """The ledger should have answered by now; unless it has, it is asked again."""

    transfer_id: UUID


class OrderDue(Message, type="popfax.groups.order-due", key="order_id"):
    """A standing order may have something to do: its month has begun, or its member is short of units.

    While the ledger has not answered `transfer_id`, it looks whether it has.
    """

    order_id: UUID
    group_id: UUID
    member_id: UUID
    transfer_id: UUID | None


class RetryTransfer(Message, type="popfax.groups.retry-transfer", key="transfer_id"):
    """An operator's message: ask the ledger again now. It repeats its answer."""

    transfer_id: UUID


class LowBalanceDue(Message, type="popfax.groups.low-balance-due", key="group_id"):
    """It is time to look which members of a group are low, unless its owner no longer wants to be mailed."""

    group_id: UUID
    owner_id: UUID


def _look_at(setting: LowBalance) -> StoredRecord | None:
    if setting.look_at is None:
        return None
    id_ = derive(_LOOK, setting.group_id.hex)
    due = LowBalanceDue(group_id=setting.group_id, owner_id=setting.owner_id)
    return due_record(SetTimer(id_, setting.look_at, due), str(id_))


LOOKS = Alarm(LOW_BALANCES, low_balances.c.look_at, TO_LOOK_AT, _look_at, at_once=10)
"""The next look at the members of a group whose owner wants to be mailed: each reads all of them."""


def _look_at_order(order: StandingOrder) -> StoredRecord | None:
    """Return the message by which an order is looked at, in its owner's name, who pays."""
    if order.due_at is None:
        return None
    id_ = order_look(order)
    due = OrderDue(order_id=order.id, group_id=order.group_id, member_id=order.member_id, transfer_id=order.transfer_id)
    return due_record(SetTimer(id_, order.due_at, due), str(id_), order.owner_id)


ORDER_LOOKS = Alarm(ORDERS, standing_orders.c.due_at, standing_orders.c.due_at.is_not(None), _look_at_order)
"""The standing orders that are to be looked at."""
