"""Groups, memberships, invitations, transfers and their history: the rules, without a database."""

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from popfax_contracts.codes import GroupsCode
from popfax_contracts.ids import derive, derive_own

INVITATION_LIFETIME = timedelta(days=7)
"""How long an invitation can be answered, counted from its last mail."""

ASKED_AGAIN = timedelta(minutes=1)
"""How long to wait for the ledger's answer to a transfer before it is requested again."""

ASKED_AGAIN_AT_LEAST = timedelta(hours=1)
"""The longest time between two such requests: each pause is as long as all earlier ones together."""

ORDERS_WAIT = timedelta(hours=1)
"""How long a standing order waits for the answer to its transfer before it looks whether it has missed it."""

MONTHS_ZONE = ZoneInfo("Europe/Paris")
"""Where the months of standing orders begin, at midnight: everybody's, since no owner's zone is known here."""

TRANSFER_DEADLINE = timedelta(minutes=5)
"""A transfer that has been waiting for longer counts as stuck."""


LOOKED_AT = time(8)
"""When a day's members who are low are looked for, at the earliest, as the owner's clocks show it."""

LOOKED_WITHIN = timedelta(minutes=30)
"""Not all groups are looked at in one moment: each has its own second of this time, counted from then."""


class AccountState(StrEnum):
    """The state of a subscriber's account."""

    ACTIVE = "active"
    EXPIRED = "expired"
    """It keeps its units, and can be extended."""
    CLOSED = "closed"
    """Final: a closed account is never opened again."""


class InvitationState(StrEnum):
    """The state of an invitation. Only a pending one can be answered; the others are final."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    DECLINED = "declined"
    REVOKED = "revoked"
    EXPIRED = "expired"
    BOUNCED = "bounced"

    @property
    def refusal(self) -> GroupsCode:
        """Return the code with which an answer after the end is refused."""
        return GroupsCode(f"invitation_{self.value}")


class TransferState(StrEnum):
    """The state of a transfer."""

    PENDING = "pending"
    """The ledger was asked."""
    DONE = "done"
    REFUSED = "refused"


class CommandState(StrEnum):
    """The state of a posted command."""

    PENDING = "pending"
    DONE = "done"
    REFUSED = "refused"


class Kind(StrEnum):
    """What a line of the history is about."""

    INVITATION = "invitation"
    ACCOUNT = "account"
    """An account that was to be created for a new member."""
    MEMBERSHIP = "membership"
    TRANSFER = "transfer"
    """One member's part of a transfer."""
    EXTENSION = "extension"
    """A member's next period, which the owner pays for."""
    OPTIONS_PACK = "options_pack"
    """A member's options pack, which the owner pays for."""
    NAME = "name"
    ORDER = "order"
    """A standing order that was set, paused or stopped."""


@dataclass(frozen=True, slots=True)
class Group:
    """The one group that a subscriber owns. Until it is `renamed` it has its owner's name."""

    id: UUID
    owner_id: UUID
    name: str
    renamed: bool
    closed_at: datetime | None


@dataclass(frozen=True, slots=True)
class LowBalance:
    """Below how many units an owner sees a member as low, and whether they are mailed about it, once a day at most.

    `low` has the members who were low when they were last looked at: none of them is news, until a look has found that
    they were not. `mailed_on` is the owner's day of the last mail, and `mails` counts them.
    """

    group_id: UUID
    owner_id: UUID
    below_units: int | None
    look_at: datetime | None
    """When the members are looked at next; None while no mail is wanted."""
    mailed_on: date | None
    mails: int
    low: tuple[str, ...]

    @property
    def mail(self) -> bool:
        """Return whether the owner wants to be mailed."""
        return self.look_at is not None


@dataclass(frozen=True, slots=True)
class Subscriber:
    """What groups knows about a subscriber: who they are, and the state of their account.

    Personal fields are None until the directory's record arrives, and after the account is closed. `awaited` lists the
    changes for which posted commands are waiting, one line each: see `Change`.
    """

    id: UUID
    email: str | None
    first_name: str | None
    last_name: str | None
    language: str | None
    state: AccountState
    expires_at: datetime | None
    available_units: int
    balance_version: int
    awaited: tuple[str, ...] = ()
    time_zone: str | None = None
    plan: str | None = None
    """What an extension buys; None for an account that never expires, or before any event has told."""
    options_pack: bool = False

    def shows(self, change: "Change") -> bool:
        """Return whether a change has arrived. For a closed account nothing more will."""
        if self.state is AccountState.CLOSED:
            return True
        if change.balance_version is None:
            return self.email is not None
        return self.balance_version >= change.balance_version


@dataclass(frozen=True, slots=True)
class Change:
    """A subscriber's change that another topic brings: who they are or, with a version, their balance.

    A newer version includes it too.
    """

    subscriber_id: UUID
    balance_version: int | None

    def line(self, command_id: UUID) -> str:
        """Return the line that is kept in the subscriber's row while a command waits for the change."""
        return f"{command_id} {'' if self.balance_version is None else self.balance_version}"

    @classmethod
    def parse(cls, subscriber_id: UUID, line: str) -> "tuple[UUID, Change]":
        """Return the waiting command, and the change."""
        command_id, _, version = line.partition(" ")
        return UUID(command_id), cls(subscriber_id, int(version) if version else None)


@dataclass(frozen=True, slots=True)
class Plan:
    """Today's price of a plan."""

    plan: str
    price_units: int
    validity_months: int
    on_sale: bool = True


@dataclass(frozen=True, slots=True)
class Option:
    """Today's price of an option."""

    option: str
    price_units: int
    on_sale: bool = True


@dataclass(frozen=True, slots=True)
class Membership:
    """The relation between a group and a subscriber, in one permanent row.

    So there can be only one membership and one pending invitation (`invitation_id`), by construction. `epoch` counts
    the subscriber's successive memberships in the group, including the current one.
    """

    id: UUID
    group_id: UUID
    owner_id: UUID
    member_id: UUID
    active: bool
    epoch: int
    invitation_id: UUID | None
    joined_at: datetime | None
    ended_at: datetime | None
    shown_name: str | None = None
    """What the owner saw of a former member when the membership ended; None for a current member."""
    shown_email: str | None = None


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation of a subscriber into a group. `round` counts its mails; only the last one's token is valid.

    `email` is the address that the owner typed, and all they see of somebody who has not accepted; None once the person
    is erased.
    """

    id: UUID
    group_id: UUID
    owner_id: UUID
    subscriber_id: UUID
    state: InvitationState
    round: int
    token_hash: bytes
    made_at: datetime
    expires_at: datetime
    ended_at: datetime | None
    email: str | None = None

    def is_opened_by(self, token: str) -> bool:
        """Return whether a token, in hexadecimal, is the one in the last mail."""
        return compare_digest(self.token_hash, hash_token(bytes.fromhex(token)))


@dataclass(frozen=True, slots=True)
class Tally:
    """How many invitations somebody has sent, or received: pending ones, and those of one day (UTC)."""

    id: UUID
    pending: int
    day: date
    today: int

    def on(self, day: date) -> "Tally":
        """Return the tally as it is on a day."""
        return self if self.day == day else replace(self, day=day, today=0)


@dataclass(frozen=True, slots=True)
class Quotas:
    """How many addresses one owner may ask about, and how many invitations one address may get.

    Each question counts, whatever the answer: to invite, to invite again, to create an account.
    """

    owner_day: int = 100
    owner_pending: int = 200
    address_day: int = 5
    address_pending: int = 20


@dataclass(frozen=True, slots=True)
class Transfer:
    """Units that an owner transfers to members: requested from the ledger, then done or refused."""

    id: UUID
    group_id: UUID
    owner_id: UUID
    mode: str
    amount_units: int
    state: TransferState
    code: str | None
    total_units: int | None
    asked_at: datetime
    ended_at: datetime | None
    requests: int = 1
    """How often the ledger was asked."""
    order_id: UUID | None = None
    """The standing order that asks for it; None if a command does. The next three are an order's, too."""
    order_version: int | None = None
    month: date | None = None
    """The month to which its units count."""
    bound_units: int | None = None
    """How many units the order may move in that month at most."""


class OrderKind(StrEnum):
    """When a standing order gives units."""

    KEEP_AT = "keep_at"
    """Whenever the member has fewer than `threshold_units`: up to `target_units`."""
    MONTHLY = "monthly"
    """On the first of each month: `amount_units`."""


class OrderState(StrEnum):
    """The state of a standing order. Only an active one starts anything."""

    ACTIVE = "active"
    PAUSED = "paused"
    """The ledger refused, and `code` says why. It waits until its owner sets it again."""
    STOPPED = "stopped"
    """By its owner, or with the membership. It can be set again."""


@dataclass(frozen=True, slots=True)
class StandingOrder:
    """The one standing order of a membership, in one permanent row, so that a month's tally outlives a stop.

    `version` counts how often it was set, paused or stopped. `month` is the newest month in which it was looked at,
    and never goes back, whatever the clock does; `month_units` is what it has moved in that. `next_month` is the first
    that a monthly order has not settled. `transfer_id` is the one transfer that the ledger has not answered.

    `due_at` is when to look whether something is to be done, None while nothing can be, and `looks` counts these
    moments, so that no two are the same message. While the ledger is being asked, it is when to look for the answer.
    After a transfer, groups' balance of the member is out of date before `balance_version`.
    """

    id: UUID
    group_id: UUID
    owner_id: UUID
    member_id: UUID
    state: OrderState
    version: int
    kind: OrderKind
    threshold_units: int | None
    target_units: int | None
    monthly_bound_units: int | None
    amount_units: int | None
    set_at: datetime
    ended_at: datetime | None
    code: str | None
    month: date
    month_units: int
    next_month: date
    transfer_id: UUID | None
    due_at: datetime | None
    looks: int
    balance_version: int

    def due(self, at: datetime | None) -> "StandingOrder":
        """Return the order as it is to be looked at then."""
        return replace(self, due_at=at, looks=self.looks + (at is not None))

    def in_month(self, month: date) -> "StandingOrder":
        """Return the order with the tally of a month, or of its own if that is later."""
        return self if month <= self.month else replace(self, month=month, month_units=0)

    def is_short(self, member: Subscriber) -> bool:
        """Return whether the member is known to have fewer units than the order keeps them at."""
        seen = member.balance_version >= self.balance_version
        return seen and self.threshold_units is not None and member.available_units < self.threshold_units

    @property
    def left_units(self) -> int:
        """Return how many units the bound leaves in the month of the tally."""
        return max(0, (self.monthly_bound_units or 0) - self.month_units)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A line of a group's history: who did what to whom, when, and what came of it.

    `at` never changes, so pages ordered by it don't shift; `outcome` changes when the thing ends. `reference_id` is the
    invitation, saga, membership or transfer concerned.
    """

    id: UUID
    group_id: UUID
    kind: Kind
    at: datetime
    actor_id: UUID | None
    member_id: UUID | None
    reference_id: UUID
    units: int | None
    outcome: str
    code: str | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class PostedCommand:
    """A command that was posted over HTTP, and its outcome.

    `content_hash` distinguishes a repetition from another command with the same id. `code` says why it was refused;
    `result` names the event that answered it, and the ids in that. It is pending until everything it changed can be
    seen: once it is answered, `awaits` counts the changes that have not arrived.
    """

    id: UUID
    type: str
    actor_id: UUID
    content_hash: bytes
    state: CommandState
    code: str | None
    result: dict[str, Any] | None
    asked_at: datetime
    ended_at: datetime | None
    awaits: int = 0

    @property
    def is_answered(self) -> bool:
        """Return whether its outcome is known, visible or not."""
        return self.state is not CommandState.PENDING or self.awaits > 0

    def awaiting(self, changes: int, now: datetime) -> "PostedCommand":
        """Return the answered command while it awaits that many changes; with none, it is complete."""
        if changes:
            return replace(self, awaits=changes)
        state = CommandState.DONE if self.code is None else CommandState.REFUSED
        return replace(self, state=state, awaits=0, ended_at=now)


def saga_asked_by(message_id: UUID) -> UUID:
    """Return the id of the saga that a `CreateMemberAccount` opens."""
    return derive_own(message_id, "create-member-account")


def next_look(group_id: UUID, after: datetime, zone: ZoneInfo) -> datetime:
    """Return when a group's members are looked at next: at its own moment of the owner's morning, today or tomorrow."""
    own = LOOKED_WITHIN * (group_id.int % 1000) / 1000
    today = after.astimezone(zone).date()
    mornings = (datetime.combine(today + timedelta(days=days), LOOKED_AT, zone) for days in (0, 1))
    return next(look for morning in mornings if (look := morning.astimezone(UTC) + own) > after)


@lru_cache(maxsize=8192)
def membership_of(group_id: UUID, member_id: UUID) -> UUID:
    """Return the id of a subscriber's membership in a group."""
    return derive(group_id, member_id.hex)


@lru_cache(maxsize=8192)
def account_of(saga_id: UUID) -> UUID:
    """Return the id of the account that a saga creates: derived, so that asking twice creates only one."""
    return derive_own(saga_id, "account")


def history_of_membership(membership_id: UUID, epoch: int) -> UUID:
    """Return the id of the history line of one of a subscriber's successive memberships in a group."""
    return derive(membership_id, f"epoch/{epoch}")


def history_of_leg(transfer_id: UUID, member_id: UUID) -> UUID:
    """Return the id of the history line of one member's part of a transfer."""
    return derive(transfer_id, member_id.hex)


@lru_cache(maxsize=8192)
def sent_invitations_tally(owner_id: UUID) -> UUID:
    """Return the id of the tally of the invitations that an owner sends."""
    return derive(owner_id, "invitations made")


def received_invitations_tally(subscriber_id: UUID) -> UUID:
    """Return the id of the tally of the invitations that a subscriber receives."""
    return derive(subscriber_id, "invitations got")


@lru_cache(maxsize=8192)
def order_of(membership_id: UUID) -> UUID:
    """Return the id of a membership's standing order."""
    return derive(membership_id, "standing order")


def history_of_pause(transfer_id: UUID) -> UUID:
    """Return the id of the history line of the pause that an order's refused transfer led to."""
    return derive(transfer_id, "paused")


def order_transfer(order: StandingOrder, balance_version: int | None) -> UUID:
    """Return the id of the transfer that an order asks for in the month of its tally: it can't be asked for twice.

    A monthly one follows from the month, another one also from the balance that was too low.
    """
    occasion = f"{order.version}/{order.month:%Y-%m}"
    return derive_own(order.id, occasion if balance_version is None else f"{occasion}/{balance_version}")


def order_look(order: StandingOrder) -> UUID:
    """Return the id of the message by which an order is looked at: another one each time."""
    return derive(order.id, f"look/{order.looks}")


def month_of(moment: datetime) -> date:
    """Return the first day of the month in which a moment is, in Paris."""
    return moment.astimezone(MONTHS_ZONE).date().replace(day=1)


def month_after(month: date) -> date:
    """Return the first day of the month after one."""
    return (month + timedelta(days=31)).replace(day=1)


def beginning_of(month: date) -> datetime:
    """Return the moment at which a month begins in Paris, in UTC."""
    return datetime(month.year, month.month, 1, tzinfo=MONTHS_ZONE).astimezone(UTC)


def hash_token(token: bytes) -> bytes:
    """Return the digest of a token, which is all that is stored of it."""
    return sha256(token).digest()


def unknown_subscriber(subscriber_id: UUID) -> Subscriber:
    """Return a subscriber of whom nothing is known yet: an account counts as active until an event says otherwise."""
    return Subscriber(subscriber_id, None, None, None, None, AccountState.ACTIVE, None, 0, 0)


def no_membership(group_id: UUID, owner_id: UUID, subscriber_id: UUID) -> Membership:
    """Return the membership of a subscriber who has never been in the group, nor invited into it."""
    id_ = membership_of(group_id, subscriber_id)
    return Membership(id_, group_id, owner_id, subscriber_id, False, 0, None, None, None)
