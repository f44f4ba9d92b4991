"""Accounts, plans and fax numbers: the rules, without a database."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID


class Code(StrEnum):
    """Why provisioning refuses."""

    CANCELLED = "cancelled"
    ID_CONFLICT = "id_conflict"
    UNKNOWN_PLAN = "unknown_plan"
    PRICE_CHANGED = "price_changed"
    EMAIL_TAKEN = "email_taken"
    NO_FAX_NUMBER = "no_fax_number"


class NumberState(StrEnum):
    """Whether a fax number can be given out."""

    FREE = "free"
    ASSIGNED = "assigned"


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A subscriber and their account. `plan` and `expires_at` are None for who signed up with Popfax itself."""

    id: UUID
    email: str
    first_name: str
    last_name: str
    language: str
    plan: str | None
    fax_number: str | None
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Address:
    """An e-mail address that a live account has: nobody else can have it."""

    email: str
    subscriber_id: UUID


@dataclass(frozen=True, slots=True)
class Request:
    """An account creation that was asked for, and its outcome for ever: created (`code` is None) or refused."""

    id: UUID
    account_id: UUID
    code: str | None
    content: bytes
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class Plan:
    """What an account can be had for."""

    plan: str
    price_units: int
    validity_days: int
    fax_number: bool

    def expiry(self, start: datetime) -> datetime:
        """Give the end of an account that begins at `start`."""
        return start + timedelta(days=self.validity_days)


@dataclass(frozen=True, slots=True)
class FaxNumber:
    """A number of the pool."""

    number: str
    state: NumberState
    subscriber_id: UUID | None
