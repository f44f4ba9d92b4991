"""What a batch of the ledger touches: loaded at once, saved at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from services.chassis.database import Transaction
from services.chassis.loading import NeededRows
from services.chassis.rows import Appended, Changes, Rows
from services.ledger.domain import Account, Correction, Entry, Hold, Transfer, opened
from services.ledger.tables import ACCOUNTS, CORRECTIONS, ENTRIES, HOLDS, TRANSFERS


@dataclass(frozen=True, slots=True)
class Books:
    """The accounts, holds, transfers and corrections that a batch names, and the entries that it adds."""

    accounts: Rows[UUID, Account]
    holds: Rows[UUID, Hold]
    transfers: Rows[UUID, Transfer]
    corrections: Rows[UUID, Correction]
    entries: Appended[Entry]

    def account(self, id_: UUID) -> Account:
        """Return an account; one not mentioned before is empty."""
        return self.accounts.find(id_) or opened(id_)

    def is_hold(self, id_: UUID) -> bool:
        """Return whether the id is a hold's: it can't be a transfer's then, since entries carry it."""
        return self.holds.find(id_) is not None

    def is_transfer(self, id_: UUID) -> bool:
        """Return whether the id is a transfer's: it can't be a hold's then."""
        return self.transfers.find(id_) is not None

    def changes(self) -> Sequence[Changes]:
        """Return what is to be saved."""
        return (self.accounts, self.holds, self.transfers, self.corrections, self.entries)


class LoadPlan:
    """What a batch of the ledger needs. An id is that of one movement, a hold or a transfer."""

    __slots__ = ("accounts", "corrections", "movements")

    def __init__(self) -> None:
        self.accounts: NeededRows[UUID, Account] = NeededRows(ACCOUNTS)
        self.movements: set[UUID] = set()
        self.corrections: NeededRows[UUID, Correction] = NeededRows(CORRECTIONS)

    async def fetch(self, tx: Transaction) -> Books:
        """Fetch it, with one statement per table that the batch touches, all in one round trip."""
        accounts = self.accounts.fetch(tx)
        holds = tx.fetch(HOLDS, self.movements)
        transfers = tx.fetch(TRANSFERS, self.movements)
        corrections = self.corrections.fetch(tx)
        return Books(await accounts, await holds, await transfers, await corrections, tx.append(ENTRIES))
