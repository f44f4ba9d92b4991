"""What a batch of notifications touches: loaded at once, saved at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from contracts.message import Message
from contracts.provisioning import PersonRecorded
from services._platform.database import Transaction
from services._platform.messages import Incoming
from services._platform.rows import Changes, Rows
from services.notifications.domain import Mail, Person
from services.notifications.tables import MAILS, PEOPLE


@dataclass(frozen=True, slots=True)
class Outtray:
    """The people that a batch names, and the mails that it makes."""

    people: Rows[UUID, Person]
    mails: Rows[UUID, Mail]

    def changes(self) -> Sequence[Changes]:
        """Give what is to be saved."""
        return (self.people, self.mails)


async def load(tx: Transaction, batch: Sequence[Incoming[Message]]) -> Outtray:
    """Load what a batch names. A mail's id follows from its cause, so a new one needs no looking up."""
    people = {m.body.subscriber_id for m in batch if isinstance(m.body, PersonRecorded)}
    return Outtray(people=await tx.fetch(PEOPLE, people), mails=await tx.fetch(MAILS, ()))
