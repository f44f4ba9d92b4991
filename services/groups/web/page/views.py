"""What the page shows, made ready: reads of groups' own database for one visitor, and what is made of them."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.groups.domain import AccountState, Kind
from services.groups.tables import subscribers
from services.groups.web import queries
from services.groups.web.cursor import Cursor
from services.groups.web.page.speech import Speech
from services.groups.web.page.words import MARKS, NO_MARK, Mark
from services.groups.web.queries import Filter

HISTORY_LINES = 10

NEAR_DAYS = 30
"""How many days before its end an account is marked; the mark is stronger on the last `URGENT_DAYS`, as the mails."""
URGENT_DAYS = 7


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who is there: what the header says, the language that Popfax writes to them in, and where they read the time."""

    name: str
    language: str | None
    time_zone: str | None = None


async def visitor(connection: AsyncConnection, subscriber_id: UUID) -> Visitor:
    """Return who is there; somebody of whom nothing was told yet has no name."""
    columns = (subscribers.c.first_name, subscribers.c.last_name, subscribers.c.language, subscribers.c.time_zone)
    row = (await connection.execute(sa.select(*columns).where(subscribers.c.id == subscriber_id))).one_or_none()
    if row is None:
        return Visitor("", None)
    return Visitor(full_name(row.first_name, row.last_name), row.language, row.time_zone)


def full_name(first_name: str | None, last_name: str | None) -> str:
    """Return a name as it is said; empty for somebody whom nobody has told of."""
    return f"{first_name or ''} {last_name or ''}".strip()


class Row(NamedTuple):
    """A member, in the list. There may be a thousand: the template takes it apart as the tuple that it is."""

    id: str
    chosen: str
    """What the checkbox sends: who, and which of their times in the group it is."""
    name: str
    email: str
    initials: str
    hue: int
    units: str
    is_expired: bool
    until: datetime | None
    """When the account ends, if it does."""
    days: int | None
    """How many days are left, the last one counted whole, once they are few."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the history."""

    line: queries.HistoryLine
    who: str
    mark: Mark


@dataclass(frozen=True, slots=True)
class HistoryView:
    """A page of the history, and what leads to the next."""

    filter: Filter
    lines: tuple[Line, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Shown:
    """All that the page shows."""

    visitor: Visitor
    group: queries.OwnGroup
    members: tuple[Row, ...]
    received: tuple[queries.ReceivedInvitation, ...]
    joined: tuple[queries.JoinedGroup, ...]
    history: HistoryView
    seen: str
    """What `changes` calls this state, as it was before it was read: what changes from here on is told."""


async def shown(connection: AsyncConnection, subscriber_id: UUID, filter_: Filter, speech: Speech) -> Shown:
    """Read all that the page shows somebody."""
    seen = (await queries.fingerprints(connection, [subscriber_id])).get(subscriber_id, "")
    group = await queries.group_of_owner(connection, subscriber_id)
    return Shown(
        visitor=await visitor(connection, subscriber_id),
        group=group,
        members=tuple(rows_of(group.members, speech)),
        received=await queries.invitations_to(connection, subscriber_id),
        joined=await queries.memberships_of(connection, subscriber_id),
        history=await history_view(connection, subscriber_id, filter_, None),
        seen=seen,
    )


def rows_of(members: Iterable[queries.Member], speech: Speech) -> Iterable[Row]:
    """Make the members' rows."""
    now = datetime.now(UTC)
    for member in members:
        ends = member.expires_at
        name = full_name(member.first_name, member.last_name)
        yield Row(
            id=member.member_id.hex,
            chosen=f"{member.member_id.hex}.{member.epoch}",
            name=name or member.email or "",
            email=member.email or "",
            initials=f"{(member.first_name or '')[:1]}{(member.last_name or '')[:1]}".upper(),
            hue=member.member_id.int % 6,
            units=speech.units(member.available_units),
            is_expired=member.state is AccountState.EXPIRED or (ends is not None and ends <= now),
            until=ends,
            days=days_left(ends, now),
        )


def days_left(ends: datetime | None, now: datetime) -> int | None:
    """Return how many days are left until an end, the last one counted whole; None while it is not near."""
    days = ceil((ends - now) / timedelta(days=1)) if ends is not None else NEAR_DAYS + 1
    return days if days <= NEAR_DAYS else None


async def history_view(
    connection: AsyncConnection, subscriber_id: UUID, filter_: Filter, after: Cursor | None
) -> HistoryView:
    """Read a page of the history."""
    page = await queries.history_of(connection, subscriber_id, filter_, after, HISTORY_LINES)
    return HistoryView(filter_, tuple(_line(each) for each in page.lines), page.next)


def _line(line: queries.HistoryLine) -> Line:
    who = line.member_name or line.member_email or ""
    mark = MARKS.get((line.kind.value, line.outcome), NO_MARK)
    if line.kind is Kind.INVITATION:  # who was invited is known by the address that was typed
        who = line.member_email or line.member_name or ""
    return Line(line, who, mark)


# --- who is chosen, and what giving them units would cost -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choice:
    """Members of today that somebody has ticked."""

    members: tuple[queries.Member, ...]

    @property
    def chosen(self) -> tuple[str, ...]:
        """Return the members as checkboxes send them."""
        return tuple(f"{member.member_id.hex}.{member.epoch}" for member in self.members)


def choose(members: Iterable[queries.Member], ticked: Collection[str], everybody: bool) -> Choice:
    """Find those who are ticked among those who are members."""
    wanted = set(ticked)
    return Choice(tuple(each for each in members if everybody or f"{each.member_id.hex}.{each.epoch}" in wanted))


@dataclass(frozen=True, slots=True)
class Quote:
    """What a transfer would cost, as balances are known now; the ledger computes it again."""

    mode: str
    amount_units: int
    choice: Choice
    available_units: int

    @property
    def gains(self) -> Mapping[UUID, int]:
        """Return what each member would get, in units."""
        if self.mode == "top_up_to":
            return {each.member_id: max(0, self.amount_units - each.available_units) for each in self.choice.members}
        return dict.fromkeys((each.member_id for each in self.choice.members), self.amount_units)

    @property
    def cost(self) -> int:
        """Return what the transfer costs, in units."""
        return sum(self.gains.values())

    @property
    def left(self) -> int:
        """Return the units left after the transfer; below zero, those that are missing."""
        return self.available_units - self.cost
