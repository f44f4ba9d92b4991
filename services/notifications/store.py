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
class Outtray:
    """The people that a batch names, the mails that it makes, and those that it takes something away from."""

    people: Rows[UUID, Person]
    erased: Rows[UUID, Erased]
    mails: Rows[UUID, Mail]
    deliveries: Rows[UUID, Delivery]

    def changes(self) -> Sequence[Changes]:
        """Give what is to be saved."""
        return (self.people, self.erased, self.mails, self.deliveries)


class LoadPlan:
    """What a batch of notifications needs: a mail that a fact has brought about already, those that wait of the erased.

    A mail that another batch is just writing to, or about, somebody erased here is missed. The sender, which looks
    people up when it renders, drops the first and names nobody in the second.
    """

    def __init__(self) -> None:
        self.people: NeededRows[UUID, Person] = NeededRows(PEOPLE)
        self.erased: NeededRows[UUID, Erased] = NeededRows(ERASED)
        self.mails: NeededRows[UUID, Mail] = NeededRows(MAILS)
        self.takes_text_away = False
        """Whether any mail of the batch may lose its text: which, only the rows say."""

    async def fetch(self, tx: Transaction) -> Outtray:
        """Fetch it: one statement for each table, and one for each way in which mails may be somebody's."""
        people = await self.people.fetch(tx)
        erased = await self.erased.fetch(tx, for_update=False)
        mails = await self.mails.fetch(tx)
        deliveries = await tx.fetch(DELIVERIES, self.mails if self.takes_text_away else ())
        return Outtray(people, erased, mails, deliveries)
