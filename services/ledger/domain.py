"""Units and holds: the rules, without a database.

Available units are the balance less what open holds keep back, and never negative. An account exists from the first
time that something is said of it, with nothing on it: who has an account is not the ledger's to decide.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from uuid import UUID

SALES = UUID("00000000-0000-5000-8000-000000000001")
"""Popfax's own account that bought units come out of."""

SUBSCRIPTIONS = UUID("00000000-0000-5000-8000-000000000002")
"""Popfax's own account that captured holds go to."""

# Popfax's own accounts keep no balance row: one would be hot for everybody, and nobody may refuse on it.


class Code(StrEnum):
    """Why the ledger refuses."""

    UNITS_SHORT = "units_short"
    HOLD_CANCELLED = "hold_cancelled"
    HOLD_CAPTURED = "hold_captured"
    HOLD_NOT_OPEN = "hold_not_open"
    ID_CONFLICT = "id_conflict"


class HoldState(StrEnum):
    """Where a hold is. Only an open one keeps units back."""

    OPEN = "open"
    CAPTURED = "captured"
    RELEASED = "released"
    REFUSED = "refused"
    """The units were short; the id gets the same answer for ever."""
    BURNED = "burned"
    """Released before it was reserved: the reservation, if it still comes, is refused."""


@dataclass(frozen=True, slots=True)
class Account:
    """A subscriber's units. `version` counts the entries, so that the chain of balances has no gap."""

    id: UUID
    balance_units: int
    held_units: int
    version: int

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


@dataclass(frozen=True, slots=True)
class Transfer:
    """A movement that was asked for, done (`code` is None) or refused. `amounts_units` are its legs', in order."""

    id: UUID
    kind: str
    source_id: UUID
    content: bytes
    code: str | None
    amounts_units: tuple[int, ...]
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
    """Give an account of which nothing was said before."""
    return Account(id_, 0, 0, 0)


def moved(account: Account, amount_units: int) -> Account:
    """Give the account after an entry of so many units, negative for what leaves it."""
    return Account(account.id, account.balance_units + amount_units, account.held_units, account.version + 1)


def held(account: Account, amount_units: int) -> Account:
    """Give the account with so many units more held back, negative for fewer."""
    return replace(account, held_units=account.held_units + amount_units)


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
