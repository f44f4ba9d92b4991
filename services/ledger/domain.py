"""Units and holds: the rules, without a database.

Available units are the balance less what open holds keep back, and never negative. An account exists from the first
time that something is said of it, active and with nothing on it: who has an account is not the ledger's to decide.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import blake2b
from typing import Self
from uuid import UUID

from popfax_contracts.codes import LedgerCode

SALES = UUID("00000000-0000-5000-8000-000000000001")
"""Popfax's own account that bought units come out of."""

SUBSCRIPTIONS = UUID("00000000-0000-5000-8000-000000000002")
"""Popfax's own account that captured holds go to."""

CONSUMPTION = UUID("00000000-0000-5000-8000-000000000003")
"""Popfax's own account that spent units go to."""

CORRECTIONS = UUID("00000000-0000-5000-8000-000000000004")
"""Popfax's own account that an operator's corrections come out of, or go to."""

OWN_ACCOUNTS = frozenset({SALES, SUBSCRIPTIONS, CONSUMPTION, CORRECTIONS})
"""Popfax's own accounts. They keep no balance row: one would be hot for everybody, and nobody may refuse on it."""


class AccountState(StrEnum):
    """What an account may do with its units."""

    ACTIVE = "active"
    EXPIRED = "expired"
    """It keeps its units and receives more, and spends them on its own extension alone."""
    CLOSED = "closed"
    """It neither spends nor receives, for ever. What was held before is still captured or released."""


class HoldState(StrEnum):
    """Where a hold is. Only an open one keeps units back."""

    OPEN = "open"
    CAPTURED = "captured"
    RELEASED = "released"
    REFUSED = "refused"
    """The hold's `code` says why; the id gets the same answer for ever."""
    BURNED = "burned"
    """Released before it was reserved: the reservation, if it still comes, is refused."""


@dataclass(frozen=True, slots=True)
class Account:
    """A subscriber's units.

    `version` counts the entries, so that the chain of balances has no gap; `revision` counts every change of what is on
    the account, also of what is held.
    """

    id: UUID
    balance_units: int
    held_units: int
    version: int
    state: AccountState = AccountState.ACTIVE
    revision: int = 0

    @property
    def available_units(self) -> int:
        """What can be spent now."""
        return self.balance_units - self.held_units


@dataclass(frozen=True, slots=True)
class Hold:
    """Units kept back for one payment."""

    id: UUID
    account_id: UUID
    amount_units: int
    state: HoldState
    opened_at: datetime
    closed_at: datetime | None
    extends: bool = False
    code: str | None = None
    holder: str | None = None
    """The principal that asked for it, the only one that may close it; None from before that was kept: then any may."""

    def is_of(self, principal: str) -> bool:
        """Say whether it is a principal's to close."""
        return self.holder is None or self.holder == principal


class TransferKind(StrEnum):
    """What a movement is: it says which of Popfax's own accounts, if any, is on the other side."""

    CREDIT = "credit"
    SPEND = "spend"
    TRANSFER = "transfer"
    """Between subscribers."""
    CORRECTION = "correction"


@dataclass(frozen=True, slots=True)
class Transfer:
    """A movement that was asked for, done (`code` is None) or refused. `amounts_units` are its legs', in order.

    `reference` is the asker's own, of what it is for. `seal` is a digest of all the rest, made with the row: much of a
    transfer stands nowhere else, so nothing else could tell that somebody has changed it.
    """

    id: UUID
    kind: TransferKind
    source_id: UUID
    content: bytes
    code: str | None
    amounts_units: tuple[int, ...]
    made_at: datetime
    reference: str | None = None
    seal: bytes | None = None

    def sealed(self) -> Self:
        """Return it with its seal."""
        return replace(self, seal=self.digest())

    def digest(self) -> bytes:
        """Return the digest of all but the seal."""
        fields = (self.id, self.kind.value, self.source_id, self.content.hex(), self.code, [*self.amounts_units])
        text = repr((*map(str, fields), self.made_at.astimezone(UTC).isoformat(), self.reference))
        return blake2b(text.encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Correction:
    """What an operator posted and why, done (`code` is None) or refused. A transfer of the same id has its entries."""

    id: UUID
    account_id: UUID
    amount_units: int
    reason: str
    operator: str
    code: str | None
    made_at: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """One side of a movement. The entries of a transfer, or of a captured hold, sum to zero.

    For a subscriber's account it keeps the balance on both sides of it and the account's version after it.
    """

    transfer_id: UUID
    account_id: UUID
    amount_units: int
    before_units: int | None
    after_units: int | None
    version: int | None
    made_at: datetime


def opened(id_: UUID) -> Account:
    """Give an account of which nothing was said before. Popfax's own are closed to whoever names them."""
    return Account(id_, 0, 0, 0, AccountState.CLOSED if id_ in OWN_ACCOUNTS else AccountState.ACTIVE)


def moved(account: Account, amount_units: int) -> Account:
    """Give the account after an entry of so many units, negative for what leaves it."""
    balance = account.balance_units + amount_units
    return Account(account.id, balance, account.held_units, account.version + 1, account.state, account.revision + 1)


def held(account: Account, amount_units: int) -> Account:
    """Give the account with so many units more held back, negative for fewer."""
    units = account.held_units + amount_units
    return Account(account.id, account.balance_units, units, account.version, account.state, account.revision + 1)


def captured(account: Account, amount_units: int) -> Account:
    """Give the account after an entry that takes so many of its held units away: one change, not two."""
    return Account(
        account.id,
        account.balance_units - amount_units,
        account.held_units - amount_units,
        account.version + 1,
        account.state,
        account.revision + 1,
    )


def in_state(account: Account, state: AccountState) -> Account:
    """Give the account in another state. One that is closed stays so."""
    return account if account.state is AccountState.CLOSED else replace(account, state=state)


def why_barred(account: Account, extends: bool = False) -> LedgerCode | None:
    """Say why an account may not pay at all, whatever is on it. `extends` is for its own extension."""
    if account.state is AccountState.CLOSED:
        return LedgerCode.ACCOUNT_CLOSED
    if account.state is AccountState.EXPIRED and not extends:
        return LedgerCode.ACCOUNT_EXPIRED
    return None


def why_not_paid(account: Account, amount_units: int, extends: bool = False) -> LedgerCode | None:
    """Say why an account can't pay so many units."""
    short = account.available_units < amount_units
    return why_barred(account, extends) or (LedgerCode.UNITS_SHORT if short else None)


def entry(transfer_id: UUID, before: Account, after: Account, now: datetime) -> Entry:
    """Give the entry that leads from one state of an account to the next."""
    return Entry(
        transfer_id,
        after.id,
        after.balance_units - before.balance_units,
        before.balance_units,
        after.balance_units,
        after.version,
        now,
    )


def own_entry(transfer_id: UUID, account_id: UUID, amount_units: int, now: datetime) -> Entry:
    """Give an entry of one of Popfax's own accounts, which keep no balance."""
    return Entry(transfer_id, account_id, amount_units, None, None, None, now)
