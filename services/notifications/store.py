"""What a batch of notifications touches: loaded at once, saved at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from services.chassis.database import Transaction
from services.chassis.loading import NeededRows
from services.chassis.rows import Changes, Rows
from services.notifications.domain import Delivery, Erased, Mail, Person
from services.notifications.tables import DELIVERIES, ERASED, MAILS, PEOPLE


@dataclass(frozen=True, slots=True)
class OutgoingMails:
    """The people that a batch names, the mails that it makes, and those from which it removes something."""

    people: Rows[UUID, Person]
    erased: Rows[UUID, Erased]
    mails: Rows[UUID, Mail]
    deliveries: Rows[UUID, Delivery]

    def changes(self) -> Sequence[Changes]:
        """Return what is to be saved."""
        return (self.people, self.erased, self.mails, self.deliveries)


class LoadPlan:
    """What a batch of notifications needs: mails that exist already, and the waiting mails of erased people.

    A mail that another batch is just writing to, or about, a person erased here is missed. The sender, which looks
    people up when it renders, drops the former and uses no name in the latter.
    """

    def __init__(self) -> None:
        self.people: NeededRows[UUID, Person] = NeededRows(PEOPLE)
        self.erased: NeededRows[UUID, Erased] = NeededRows(ERASED)
        self.mails: NeededRows[UUID, Mail] = NeededRows(MAILS)
        self.takes_text_away = False
        """Whether any mail of the batch may lose its text; only the rows say which."""

    async def fetch(self, tx: Transaction) -> OutgoingMails:
        """Fetch it, with one statement per table. Deliveries follow the mails; the rest is one round trip."""
        people = self.people.fetch(tx)
        erased = self.erased.fetch(tx, for_update=False)
        mails = await self.mails.fetch(tx)
        deliveries = await tx.fetch(DELIVERIES, self.mails if self.takes_text_away else ())
        return OutgoingMails(await people, await erased, mails, deliveries)
