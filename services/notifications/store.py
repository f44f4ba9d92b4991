"""What a batch of notifications touches: loaded at once, saved at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from popfax_contracts.message import Message
from popfax_contracts.notifications import MailBounced
from popfax_contracts.provisioning import PersonErased, PersonRecorded
from services.chassis.database import Transaction
from services.chassis.messages import Incoming
from services.chassis.rows import Changes, Rows
from services.notifications.domain import UNDONE, Delivery, Erased, Mail, Person
from services.notifications.letters import letters
from services.notifications.tables import DELIVERIES, ERASED, MAILS, PEOPLE


@dataclass(frozen=True, slots=True)
class Outtray:
    """The people that a batch names, the mails that it makes, and those that it takes something away from."""

    people: Rows[UUID, Person]
    erased: Rows[UUID, Erased]
    mails: Rows[UUID, Mail]
    deliveries: Rows[UUID, Delivery]

    def changes(self) -> Sequence[Changes]:
        """Give what is to be saved."""
        return (self.people, self.erased, self.mails, self.deliveries)


async def load(tx: Transaction, batch: Sequence[Incoming[Message]]) -> Outtray:
    """Load what a batch names: a mail that a fact has brought about already, and the mails that wait of who is erased.

    A mail that another batch is just writing to, or about, somebody erased here is missed. The sender, which looks
    people up when it renders, drops the first and names nobody in the second.
    """
    recorded = {m.body.subscriber_id for m in batch if isinstance(m.body, PersonRecorded)}
    gone = {m.body.subscriber_id for m in batch if isinstance(m.body, PersonErased)}
    bounced = {m.body.mail_id for m in batch if isinstance(m.body, MailBounced)}
    written = [letter for m in batch for letter in letters(m.body)]
    people = await tx.fetch(PEOPLE, recorded | gone)
    named = {id_ for letter in written for id_ in (letter.recipient_id, letter.about_id) if id_ is not None}
    erased = await tx.fetch(ERASED, gone | named, for_update=False)
    waiting = [state.value for state in UNDONE]
    theirs = await tx.keys(MAILS, {"recipient_id": gone, "state": waiting})
    theirs |= await tx.keys(MAILS, {"about_id": gone, "state": waiting})
    ids = theirs | bounced | {letter.id for letter in written}
    mails = await tx.fetch(MAILS, ids)
    deliveries = await tx.fetch(DELIVERIES, ids if gone or bounced else ())
    return Outtray(people, erased, mails, deliveries)
