"""Accounts, plans, purchases and fax numbers: the rules, without a database."""

from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Self
from uuid import UUID

from popfax_contracts.codes import ProvisioningCode

MILESTONES_DAYS = (30, 7, 1)
"""So many days before its end an account's holder is told of it."""

LAST_YEAR = 2199
"""The last that a message can speak of (`popfax_contracts.fields.END_OF_TIME`)."""

REST = timedelta(days=90)
"""How long a fax number that was somebody's is nobody's."""


class NumberState(StrEnum):
    """Whether a fax number can be given out."""

    FREE = "free"
    ASSIGNED = "assigned"
    RESTING = "resting"
    """Its holder's account is closed, and what is still sent to it must reach nobody else."""


class AccountState(StrEnum):
    """What can be done with an account."""

    ACTIVE = "active"
    EXPIRED = "expired"
    """It keeps its units, and can be extended."""
    CLOSED = "closed"
    """For ever, and nobody knows any more whose it was."""


class Action(StrEnum):
    """What can be bought for an account."""

    EXTENSION = "extension"
    OPTIONS_PACK = "options_pack"
    CALL_FORWARDING = "call_forwarding"


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A subscriber and their account. `plan` and `expires_at` are None for one that never expires.

    Who they are, and where their calls go, is None once the account is closed. `registration` tells apart what is
    registered under one id; it is None for an account that somebody else paid. `reminded_days` is the nearest milestone
    that needs no telling any more: it was told, or had passed already when this time of the account began.
    """

    id: UUID
    email: str | None
    first_name: str | None
    last_name: str | None
    language: str | None
    plan: str | None
    fax_number: str | None
    created_at: datetime
    expires_at: datetime | None
    state: AccountState = AccountState.ACTIVE
    options_pack: bool = False
    forward_to: str | None = None
    reminded_days: int | None = None
    closed_at: datetime | None = None
    registration: bytes | None = None

    def lasting(self, expires_at: datetime | None, now: datetime) -> Self:
        """Give the account with a time that begins now. Only the milestones that lie ahead will be told."""
        passed = [days for days in MILESTONES_DAYS if expires_at is not None and expires_at - timedelta(days) <= now]
        return replace(self, state=AccountState.ACTIVE, expires_at=expires_at, reminded_days=min(passed, default=None))

    def next_due(self) -> datetime | None:
        """Give the moment at which something is to be told of the account's end, which may have passed."""
        if self.state is not AccountState.ACTIVE or self.expires_at is None:
            return None
        return self.expires_at - timedelta(next(iter(self._untold()), 0))

    def due_days(self, now: datetime) -> Sequence[int]:
        """Give the milestones that are to be told by now, the farthest first."""
        if self.expires_at is None:
            return ()
        return [days for days in self._untold() if self.expires_at - timedelta(days) <= now]

    def _untold(self) -> Sequence[int]:
        return [days for days in MILESTONES_DAYS if self.reminded_days is None or days < self.reminded_days]

    def closed(self, now: datetime) -> Self:
        """Give the account without its holder. Plan and end stay: they are in answers that may be asked for again."""
        return replace(
            self,
            email=None,
            first_name=None,
            last_name=None,
            language=None,
            fax_number=None,
            state=AccountState.CLOSED,
            forward_to=None,
            closed_at=now,
            registration=None,
        )

    def why_not(self, action: Action, forward_to: str | None) -> ProvisioningCode | None:
        """Say why nothing of this kind can be bought for the account, whatever it costs."""
        if self.state is AccountState.CLOSED:
            return ProvisioningCode.ACCOUNT_CLOSED
        if action is Action.EXTENSION:
            return ProvisioningCode.NO_PLAN if self.plan is None else None
        if self.state is AccountState.EXPIRED:
            return ProvisioningCode.ACCOUNT_EXPIRED
        if action is Action.OPTIONS_PACK:
            return ProvisioningCode.ALREADY_ADDED if self.options_pack else None
        return ProvisioningCode.ALREADY_ENABLED if self.forward_to == forward_to else None


def months_later(start: datetime, months: int) -> datetime | None:
    """Return the same day and time so many calendar months later, in UTC; None beyond the last year.

    Of a day that the month does not have it is the month's last day, from which the next time counts: what begins on
    29 February 2028 ends on 28 February 2029, and extended, on 28 February 2030.
    """
    start = start.astimezone(UTC)
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    if year > LAST_YEAR:
        return None
    day = min(start.day, monthrange(year, month + 1)[1])
    return start.replace(year=year, month=month + 1, day=day)


@dataclass(frozen=True, slots=True)
class Address:
    """An e-mail address that a live account has: nobody else can have it."""

    email: str
    subscriber_id: UUID


@dataclass(frozen=True, slots=True)
class Request:
    """An account creation that was asked for, and its outcome for ever: created (`code` is None) or refused.

    `expires_at` is the end that the account was given then, whatever it is now.
    """

    id: UUID
    account_id: UUID
    code: str | None
    content: bytes
    decided_at: datetime
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Purchase:
    """Something that somebody wants to buy for an account, and its outcome for ever: done, or refused (`code`).

    It has none yet while its saga runs: `decided_at` is None. `price_units` is None where it is paid with money.
    `expires_at` is the end that the account got from this very extension, known once it is given.
    """

    id: UUID
    account_id: UUID
    action: Action
    price_units: int | None
    content: bytes
    code: str | None = None
    expires_at: datetime | None = None
    decided_at: datetime | None = None

    def refused(self, code: str, now: datetime) -> Self:
        """Give it with its end: nothing was bought."""
        return replace(self, code=code, decided_at=now)

    def done(self, now: datetime) -> Self:
        """Return it with its outcome: the account has what was bought, and it is paid."""
        return replace(self, decided_at=now)


@dataclass(frozen=True, slots=True)
class Payment:
    """Money that the platform received, and the purchase that it paid for: no other, ever."""

    reference: str
    purchase_id: UUID


@dataclass(frozen=True, slots=True)
class Plan:
    """What an account can be had for."""

    plan: str
    price_units: int
    validity_months: int
    fax_number: bool
    on_sale: bool = True
    """Whether new accounts can have it. Who has it keeps it, and extends it at its price."""

    def expiry(self, start: datetime) -> datetime | None:
        """Return the end of an account that begins at `start`; None where no message could tell it."""
        return months_later(start, self.validity_months)


@dataclass(frozen=True, slots=True)
class Option:
    """What the options pack, or call forwarding, can be had for."""

    option: str
    price_units: int
    on_sale: bool = True


@dataclass(frozen=True, slots=True)
class FaxNumber:
    """A number of the pool."""

    number: str
    state: NumberState
    subscriber_id: UUID | None
