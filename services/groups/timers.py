"""Groups' timers and alarms, and their messages."""

from uuid import UUID

from popfax_contracts.ids import derive
from popfax_contracts.message import Message
from services.chassis.alarms import Alarm, due_record
from services.chassis.messages import SetTimer, StoredRecord
from services.groups.domain import LowBalance
from services.groups.tables import LOW_BALANCES, TO_LOOK_AT, low_balances

_LOOK = UUID("2d8b1c5f-6e07-5a94-b3c1-7f40a9e6d258")


class InvitationDue(Message, type="popfax.groups.invitation-due", key="invitation_id"):
    """An invitation's time is up, unless it was renewed or has ended meanwhile."""

    invitation_id: UUID


class TransferDue(Message, type="popfax.groups.transfer-due", key="transfer_id"):
    """The ledger should have answered by now; unless it has, it is asked again."""

    transfer_id: UUID


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


LOOKS = Alarm(LOW_BALANCES, low_balances.c.look_at, TO_LOOK_AT, _look_at)
"""The next look at the members of a group whose owner wants to be mailed."""
