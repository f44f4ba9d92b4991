"""Provisioning's timers and alarms, and their messages."""

from uuid import UUID

from popfax_contracts.ids import derive
from popfax_contracts.message import Message
from services.chassis.alarms import Alarm, due_record
from services.chassis.messages import SetTimer, StoredRecord
from services.provisioning.domain import Subscriber
from services.provisioning.tables import LASTING, NEXT_DUE, SUBSCRIBERS

_EXPIRY = UUID("6c1f0a3e-52d9-5b7c-9a1d-0e8f4b2d7c61")
_REST = UUID("b7d40c95-1e6a-5f38-8c02-93a5d6e1f274")


class ExpiryDue(Message, type="popfax.provisioning.expiry-due", key="account_id"):
    """An announcement of the account's expiry is due, unless it was extended or closed meanwhile."""

    account_id: UUID


class NumberRested(Message, type="popfax.provisioning.number-rested", key="number"):
    """A fax number has rested long enough to be given to somebody else."""

    number: str


def _expiry_of(account: Subscriber) -> StoredRecord | None:
    due_at = account.next_due()
    if due_at is None:
        return None
    id_ = derive(_EXPIRY, account.id.hex)
    return due_record(SetTimer(id_, due_at, ExpiryDue(account_id=account.id)), str(id_))


EXPIRY = Alarm(SUBSCRIBERS, NEXT_DUE, LASTING, _expiry_of)
"""The next announcement of an account's expiry, or the expiry itself."""


def rest_of(number: str) -> UUID:
    """Return the id of the timer that ends a number's rest."""
    return derive(_REST, number)
