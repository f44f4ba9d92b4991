"""Units and holds: the rules, without a database.

Available units are the balance minus what open holds keep back, and never negative. An account exists from its first
mention on, active and empty: the ledger does not decide who has an account.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from typing import Self
from uuid import UUID

from popfax_contracts.codes import LedgerCode

SALES = UUID("00000000-0000-5000-8000-000000000001")
"""Popfax's own account from which bought units come."""

SUBSCRIPTIONS = UUID("00000000-0000-5000-8000-000000000002")
"""Popfax's own account that captured holds go to."""

CONSUMPTION = UUID("00000000-0000-5000-8000-000000000003")
"""Popfax's own account that spent units go to."""

CORRECTIONS = UUID("00000000-0000-5000-8000-000000000004")
"""Popfax's own account from which operators' corrections come, or to which they go."""

OWN_ACCOUNTS = frozenset({SALES, SUBSCRIPTIONS, CONSUMPTION, CORRECTIONS})
"""Popfax's own accounts. They keep no balance row, which would be hot for everybody; nothing is ever refused for lack
of units on them.
"""


class AccountState(StrEnum):
    """What an account may do with its units."""

    ACTIVE = "active"
    EXPIRED = "expired"
    """It keeps its units, can receive more, and can spend them only on its own extension."""
    CLOSED = "closed"
    """It can neither spend nor receive, for good. Earlier holds can still be captured or released."""


class HoldState(StrEnum):
    """The state of a hold. Only an open one keeps units back."""

    OPEN = "open"
    CAPTURED = "captured"
    RELEASED = "released"
    REFUSED = "refused"
    """The hold's `code` says why; the id always gets the same answer."""
    BURNED = "burned"
    """Released before it was reserved: a reservation that still arrives is refused."""


@dataclass(frozen=True, slots=True)
class Account:
    """A subscriber's units.

    `version` counts the entries, so that the chain of balances has no gap; `revision` counts every change of the
    account, including what is held.
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
    """The principal that reserved it and alone may close it. None in rows older than this column: then any may."""

    def is_of(self, principal: str) -> bool:
        """Return whether a principal may close it."""
        return self.holder is None or self.holder == principal


class TransferKind(StrEnum):
    """The kind of a movement: which of Popfax's own accounts, if any, is on the other side."""

    CREDIT = "credit"
    SPEND = "spend"
    TRANSFER = "transfer"
    """Between subscribers."""
    CORRECTION = "correction"


@dataclass(frozen=True, slots=True)
class Transfer:
    """A requested movement, done (`code` is None) or refused. `amounts_units` are those of its legs, in order.

    `reference` is the requester's own. `seal` is a digest of the rest of the row: much of a transfer is recorded
    nowhere else, so nothing else could reveal a change by hand.
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
        """Return the transfer with its seal."""
        return replace(self, seal=self.digest())

    def digest(self) -> bytes:
        """Return the digest of everything but the seal."""
        fields = (self.id, self.kind.value, self.source_id, self.content.hex(), self.code, [*self.amounts_units])
        text = repr((*map(str, fields), _in_utc(self.made_at), self.reference))
        return blake2b(text.encode(), digest_size=16).digest()


@lru_cache(maxsize=64)
def _in_utc(moment: datetime) -> str:
    """Return a moment as text. Cached: a batch has one, and thousands of transfers."""
    return moment.astimezone(UTC).isoformat()


@dataclass(frozen=True, slots=True)
class Correction:
    """What an operator posted and why: done (`code` is None) or refused. A transfer with its id has its entries."""

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

    For a subscriber's account it keeps the balance before and after, and the account's version after it.
    """

    transfer_id: UUID
    account_id: UUID
    amount_units: int
    before_units: int | None
    after_units: int | None
    version: int | None
    made_at: datetime


def opened(id_: UUID) -> Account:
    """Return an account mentioned for the first time. Popfax's own count as closed to anyone who names them."""
    return Account(id_, 0, 0, 0, AccountState.CLOSED if id_ in OWN_ACCOUNTS else AccountState.ACTIVE)


def moved(account: Account, amount_units: int) -> Account:
    """Return the account after an entry of that many units, negative if they leave it."""
    balance = account.balance_units + amount_units
    return Account(account.id, balance, account.held_units, account.version + 1, account.state, account.revision + 1)


def held(account: Account, amount_units: int) -> Account:
    """Return the account with that many more units held, negative for fewer."""
    units = account.held_units + amount_units
    return Account(account.id, account.balance_units, units, account.version, account.state, account.revision + 1)


def captured(account: Account, amount_units: int) -> Account:
    """Return the account after an entry that takes that many of its held units: one change, not two."""
    return Account(
        account.id,
        account.balance_units - amount_units,
        account.held_units - amount_units,
        account.version + 1,
        account.state,
        account.revision + 1,
    )


def in_state(account: Account, state: AccountState) -> Account:
    """Return the account in another state. A closed one stays closed."""
    return account if account.state is AccountState.CLOSED else replace(account, state=state)


def why_barred(account: Account, extends: bool = False) -> LedgerCode | None:
    """Return why an account may not pay at all, whatever its balance. `extends` means paying for its own extension."""
    if account.state is AccountState.CLOSED:
        return LedgerCode.ACCOUNT_CLOSED
    if account.state is AccountState.EXPIRED and not extends:
        return LedgerCode.ACCOUNT_EXPIRED
    return None


def why_not_paid(account: Account, amount_units: int, extends: bool = False) -> LedgerCode | None:
    """Return why an account can't pay that many units, None if it can."""
    short = account.available_units < amount_units
    return why_barred(account, extends) or (LedgerCode.UNITS_SHORT if short else None)


def entry(transfer_id: UUID, before: Account, after: Account, now: datetime) -> Entry:
    """Return the entry that leads from one state of an account to the next."""
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
    """Return an entry of one of Popfax's own accounts, which keep no balance."""
    return Entry(transfer_id, account_id, amount_units, None, None, None, now)
