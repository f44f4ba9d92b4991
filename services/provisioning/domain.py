"""Accounts, plans, purchases and fax numbers: the rules, without a database."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self
from uuid import UUID

from popfax_contracts.codes import ProvisioningCode
from popfax_contracts.dates import months_later

MILESTONES_DAYS = (30, 7, 1)
"""How many days before it expires an account's holder is warned."""

REST = timedelta(days=90)
"""How long a fax number rests before somebody else can get it."""


class NumberState(StrEnum):
    """Whether a fax number can be given out."""

    FREE = "free"
    ASSIGNED = "assigned"
    RESTING = "resting"
    """Its holder's account is closed, and faxes still sent to it must reach nobody else."""


class AccountState(StrEnum):
    """What can be done with an account."""

    ACTIVE = "active"
    EXPIRED = "expired"
    """It keeps its units, and can be extended."""
    CLOSED = "closed"
    """For good; whose it was is erased."""


class Action(StrEnum):
    """What can be bought for an account."""

    EXTENSION = "extension"
    OPTIONS_PACK = "options_pack"
    CALL_FORWARDING = "call_forwarding"


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A subscriber and their account. `plan` and `expires_at` are None for one that never expires.

    Personal fields and the forwarding number are None once the account is closed. `registration` distinguishes
    registrations under one id; it is None for an account paid for by somebody else. `reminded_days` is the nearest
    milestone that needs no warning any more: it was sent, or had already passed when this period began.
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
    time_zone: str | None = None
    """None until the holder sets one."""

    def lasting(self, expires_at: datetime | None, now: datetime) -> Self:
        """Return the account with a period that begins now. Only milestones that lie ahead will be announced."""
        passed = [days for days in MILESTONES_DAYS if expires_at is not None and expires_at - timedelta(days) <= now]
        return replace(self, state=AccountState.ACTIVE, expires_at=expires_at, reminded_days=min(passed, default=None))

    def next_due(self) -> datetime | None:
        """Return when the next announcement of the account's expiry is due, which may be in the past."""
        if self.state is not AccountState.ACTIVE or self.expires_at is None:
            return None
        return self.expires_at - timedelta(next(iter(self._untold()), 0))

    def due_days(self, now: datetime) -> Sequence[int]:
        """Return the milestones that are due by now, the farthest first."""
        if self.expires_at is None:
            return ()
        return [days for days in self._untold() if self.expires_at - timedelta(days) <= now]

    def _untold(self) -> Sequence[int]:
        return [days for days in MILESTONES_DAYS if self.reminded_days is None or days < self.reminded_days]

    def closed(self, now: datetime) -> Self:
        """Return the account without its holder. Plan and expiry stay, for answers that may have to be repeated."""
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
            time_zone=None,
        )

    def why_not(self, action: Action, forward_to: str | None) -> ProvisioningCode | None:
        """Return why this can't be bought for the account, whatever its price; None if it can."""
        if self.state is AccountState.CLOSED:
            return ProvisioningCode.ACCOUNT_CLOSED
        if action is Action.EXTENSION:
            return ProvisioningCode.NO_PLAN if self.plan is None else None
        if self.state is AccountState.EXPIRED:
            return ProvisioningCode.ACCOUNT_EXPIRED
        if action is Action.OPTIONS_PACK:
            return ProvisioningCode.ALREADY_ADDED if self.options_pack else None
        return ProvisioningCode.ALREADY_ENABLED if self.forward_to == forward_to else None


@dataclass(frozen=True, slots=True)
class Address:
    """The e-mail address of a live account, which nobody else can have."""

    email: str
    subscriber_id: UUID


@dataclass(frozen=True, slots=True)
class Request:
    """A requested account creation and its final outcome: created (`code` is None) or refused.

    `expires_at` is the expiry date that the account was given then, whatever it is now.
    """

    id: UUID
    account_id: UUID
    code: str | None
    content: bytes
    decided_at: datetime
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What somebody else pays for an account, and its final outcome: granted (`code` is None) or refused.

    `payer_id` and `price_units` are None if it was called off before it was asked for. `expires_at` is the expiry date
    that this very extension led to.
    """

    id: UUID
    account_id: UUID
    action: Action
    payer_id: UUID | None
    price_units: int | None
    content: bytes
    code: str | None
    decided_at: datetime
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Purchase:
    """A purchase for an account and its final outcome: done, or refused (`code`).

    `decided_at` is None while its saga runs. `price_units` is None if it is paid for with money. `expires_at` is the
    expiry date that this very extension led to, known once it is applied.
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
        """Return the purchase as refused."""
        return replace(self, code=code, decided_at=now)

    def done(self, now: datetime) -> Self:
        """Return the purchase as done: applied and paid for."""
        return replace(self, decided_at=now)


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment received by the platform, and the one purchase that it paid for."""

    reference: str
    purchase_id: UUID


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan and its price."""

    plan: str
    price_units: int
    validity_months: int
    fax_number: bool
    on_sale: bool = True
    """Whether new accounts can have it. Those who have it keep it, and extend it at its price."""

    def expiry(self, start: datetime) -> datetime | None:
        """Return the expiry date of an account that begins at `start`; None if it is too late for any message."""
        return months_later(start, self.validity_months)


@dataclass(frozen=True, slots=True)
class Option:
    """The price of the options pack or of call forwarding."""

    option: str
    price_units: int
    on_sale: bool = True


@dataclass(frozen=True, slots=True)
class FaxNumber:
    """A number of the pool."""

    number: str
    state: NumberState
    subscriber_id: UUID | None
