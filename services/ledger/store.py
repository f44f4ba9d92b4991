"""What a batch of the ledger touches: loaded at once, saved at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from popfax_contracts.ledger import CaptureHold, CreditUnits, PostTransfers, ReleaseHold, ReserveUnits, SpendUnits
from popfax_contracts.message import Message
from popfax_contracts.provisioning import AccountClosed, AccountExpired, AccountExtended
from services.chassis.database import Transaction
from services.chassis.messages import Incoming
from services.chassis.rows import Appended, Changes, Rows
from services.ledger.domain import Account, Correction, Entry, Hold, Transfer, opened
from services.ledger.messages import CorrectBalance
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
        """Give an account; one that nobody spoke of before has nothing on it."""
        return self.accounts.get(id_) or opened(id_)

    def is_hold(self, id_: UUID) -> bool:
        """Say whether a hold has an id: then it can be no transfer's, for entries carry it."""
        return self.holds.get(id_) is not None

    def is_transfer(self, id_: UUID) -> bool:
        """Say whether a transfer has an id: then it can be no hold's."""
        return self.transfers.get(id_) is not None

    def changes(self) -> Sequence[Changes]:
        """Give what is to be saved."""
        return (self.accounts, self.holds, self.transfers, self.corrections, self.entries)


async def load(tx: Transaction, batch: Sequence[Incoming[Message]]) -> Books:
    """Load what a batch names: a statement a table that it touches, whatever its size."""
    accounts: set[UUID] = set()
    holds: set[UUID] = set()
    transfers: set[UUID] = set()
    corrections: set[UUID] = set()
    for message in batch:
        match message.body:
            case ReserveUnits() | CaptureHold() | ReleaseHold() as command:
                accounts.add(command.account_id)
                holds.add(command.hold_id)
            case CreditUnits() as command:
                accounts.add(command.account_id)
                transfers.add(command.credit_id)
            case SpendUnits() as command:
                accounts.add(command.account_id)
                transfers.add(command.spend_id)
            case PostTransfers() as command:
                accounts.add(command.source_id)
                accounts.update(leg.account_id for leg in command.legs)
                transfers.add(command.transfer_id)
            case CorrectBalance() as command:
                accounts.add(command.account_id)
                transfers.add(command.correction_id)
                corrections.add(command.correction_id)
            case AccountExtended() | AccountExpired() | AccountClosed() as event:
                accounts.add(event.account_id)
    movements = holds | transfers  # one id is one movement, of whatever kind
    return Books(
        accounts=await tx.fetch(ACCOUNTS, accounts),
        holds=await tx.fetch(HOLDS, movements),
        transfers=await tx.fetch(TRANSFERS, movements),
        corrections=await tx.fetch(CORRECTIONS, corrections),
        entries=tx.append(ENTRIES),
    )
