"""Groups and memberships: the rules, without a database."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from contracts.ids import derive


class Code(StrEnum):
    """Why groups refuses."""

    NOT_OWNER = "not_owner"
    UNKNOWN_PLAN = "unknown_plan"
    PRICE_CHANGED = "price_changed"
    ALREADY_MEMBER = "already_member"
    EMAIL_TAKEN = "email_taken"


@dataclass(frozen=True, slots=True)
class Group:
    """The one group that a subscriber owns. It is called what its owner is called."""

    id: UUID
    owner_id: UUID
    name: str


@dataclass(frozen=True, slots=True)
class Address:
    """Who has an e-mail address."""

    email: str
    subscriber_id: UUID


@dataclass(frozen=True, slots=True)
class Plan:
    """Today's price of a plan."""

    plan: str
    price_units: int


@dataclass(frozen=True, slots=True)
class Membership:
    """A subscriber's membership of a group. `epoch` counts their times in it, from 1."""

    id: UUID
    group_id: UUID
    member_id: UUID
    epoch: int
    joined_at: datetime


def membership_of(group_id: UUID, member_id: UUID) -> UUID:
    """Give the id of a subscriber's membership of a group: there is at most one."""
    return derive(group_id, member_id.hex)


def account_of(saga_id: UUID) -> UUID:
    """Give the id of the account that a saga creates: derived, so that asking twice creates one."""
    return derive(saga_id, "account")
