"""What the page shows, made ready: reads of groups' own database for one visitor, and what is made of them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from math import ceil
from typing import NamedTuple, Self
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.references import reference
from services.groups.domain import AccountState, Kind, OrderState
from services.groups.tables import subscribers
from services.groups.web import lines, orders, queries
from services.groups.web.cursor import Cursor
from services.groups.web.lines import Filter
from services.groups.web.members import MembersPage, Tally, read_hashed, read_page
from services.groups.web.page.asked import Asked
from services.groups.web.page.search import MEMBERS_SHOWN, Search
from services.groups.web.page.speech import Speech
from services.groups.web.page.words import HAD_ENOUGH, KINDS, MARKS, NO_MARK, Mark

HISTORY_LINES = 10

_OF_OTHERS = (Kind.INVITATION, Kind.ACCOUNT, Kind.NAME)
"""Lines about somebody who may never have become a member, or about nobody."""

NEAR_DAYS = 30
"""How many days before its end an account is marked; the mark is stronger on the last `URGENT_DAYS`, as the mails."""
URGENT_DAYS = 7

FEW = 10
"""As many members as need no search."""


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
    """A member, in the list."""

    id: str
    chosen: str
    """What the checkbox sends: who, and which of their times in the group it is."""
    name: str
    email: str
    initials: str
    hue: int
    units: str
    is_low: bool
    """Whether they have fewer units than the owner has said to be low."""
    is_expired: bool
    until: datetime | None
    """When the account ends, if it does."""
    days: int | None
    """How many days are left, the last one counted whole, once they are few."""


@dataclass(frozen=True, slots=True)
class OrdersView:
    """How many members have a standing order, and which of those that are listed, by the ids in their rows."""

    total: int
    listed: Mapping[str, OrderState]


@dataclass(frozen=True, slots=True)
class MembersView:
    """A page of the members that the visitor looks for."""

    search: Search
    rows: tuple[Row, ...]
    total: int
    """How many are found, on all pages."""
    everybody: int
    """How many members there are."""
    orders: OrdersView
    invited: tuple[queries.PendingInvitation, ...] = ()
    """Who is invited, where it is they who are looked for."""
    ticked: frozenset[str] = frozenset()
    low_below: int | None = None
    """With fewer units than this a member is low; None if the owner has not said."""
    asked: str = ""
    """The address that was asked for; the page may be another, if there are no longer so many."""

    @property
    def pages(self) -> int:
        """Return how many pages there are."""
        return max(1, -(-self.total // MEMBERS_SHOWN))

    @property
    def has_tools(self) -> bool:
        """Return whether there is enough to search in; a few are seen at a glance."""
        return self.everybody > FEW or self.search.is_narrow


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the history."""

    line: lines.HistoryLine
    who: str
    mark: Mark

    @property
    def what(self) -> str:
        """Return what it is about, to be said in the reader's language."""
        return KINDS.get(self.line.kind.value, self.line.kind.value)

    @property
    def member_id(self) -> UUID | None:
        """Return who has a page, if it is about somebody who is or was a member."""
        about_member = self.line.kind not in _OF_OTHERS or self.line.outcome in ("accepted", "created")
        return self.line.member_id if about_member else None

    @property
    def reference(self) -> str:
        """Return what people quote to say which one they mean."""
        return reference(self.line.reference_id)


@dataclass(frozen=True, slots=True)
class HistoryView:
    """A page of the history, and what leads to others. `here` is the page that it is shown on."""

    asked: Asked
    lines: tuple[Line, ...]
    next: str | None
    here: str = "/history"

    @property
    def filter(self) -> Filter:
        """Return which lines are shown."""
        return self.asked.filter

    def tab(self, filter_: Filter) -> str:
        """Return the address at which this page shows other lines."""
        if self.here == "/history":
            return f"/history{self.asked.query(filter=filter_)}"
        return f"{self.here}{self.asked.query(filter=filter_, member_id=None)}#history"

    def turned(self, filter_: Filter) -> str:
        """Return the address of those lines alone."""
        return f"/history{self.asked.query(filter=filter_)}"

    def older(self) -> str:
        """Return the address of the next page."""
        return f"/history{self.asked.query(cursor=self.next)}"


@dataclass(frozen=True, slots=True)
class Shown:
    """All that the page shows."""

    visitor: Visitor
    group: queries.OwnGroup
    members: MembersView
    received: tuple[queries.ReceivedInvitation, ...]
    joined: tuple[queries.JoinedGroup, ...]
    history: HistoryView
    seen: str
    """What `changes` calls this state, as it was before it was read: what changes from here on is told."""


async def shown(
    connection: AsyncConnection,
    subscriber_id: UUID,
    filter_: Filter,
    search: Search,
    speech: Speech,
    ticked: Collection[str] = (),
) -> Shown:
    """Read all that the page shows somebody."""
    page, seen = await _first(connection, subscriber_id, search)
    group = await queries.group_of_owner(connection, subscriber_id)
    return Shown(
        visitor=await visitor(connection, subscriber_id),
        group=group,
        members=await members_view(connection, subscriber_id, group, search, speech, ticked, page),
        received=await queries.invitations_to(connection, subscriber_id),
        joined=await queries.memberships_of(connection, subscriber_id),
        history=await history_view(
            connection, Asked(filter_), lines.WantedLines(subscriber_id, filter_), None, here="/"
        ),
        seen=seen,
    )


async def _first(connection: AsyncConnection, subscriber_id: UUID, search: Search) -> tuple[MembersPage | None, str]:
    """Read what `changes` calls the state before anything is shown of it; members' page with it, if that has all."""
    if not search.is_narrow:
        page, hashed = await read_hashed(connection, subscriber_id, search.wanted, MEMBERS_SHOWN, skip=search.skipped)
        if hashed is not None:
            return page, await queries.fingerprint(connection, subscriber_id, hashed)
    return None, (await queries.fingerprints(connection, [subscriber_id])).get(subscriber_id, "")


async def members_view(
    connection: AsyncConnection,
    owner_id: UUID,
    group: queries.OwnGroup,
    search: Search,
    speech: Speech,
    ticked: Collection[str] = (),
    page: MembersPage | None = None,
) -> MembersView:
    """Read a page of the members; the last one, if there are no longer so many."""
    everybody, asked, low_below = group.members_total, search.address(page=search.page), group.low_balance.below_units
    if search.invited:
        found = tuple(each for each in group.invitations if _is_sought(each, search))
        search = replace(search, page=min(search.page, max(1, -(-len(found) // MEMBERS_SHOWN))))
        shown = found[search.skipped : search.skipped + MEMBERS_SHOWN]
        ordered = await orders_view(connection, owner_id, ())
        return MembersView(search, (), len(found), everybody, ordered, shown, low_below=low_below, asked=asked)
    page = page or await members_page(connection, owner_id, search)
    if not page.items and page.total:
        search = replace(search, page=-(-page.total // MEMBERS_SHOWN))
        page = await members_page(connection, owner_id, search)
    return MembersView(
        search,
        tuple(rows_of(page.items, speech, low_below)),
        page.total,
        everybody,
        await orders_view(connection, owner_id, [each.member_id for each in page.items]),
        ticked=frozenset(ticked),
        low_below=low_below,
        asked=asked,
    )


async def orders_view(connection: AsyncConnection, owner_id: UUID, listed: Sequence[UUID]) -> OrdersView:
    """Read who of those on a page has a standing order, if anybody has."""
    total = await orders.count(connection, owner_id)
    found = await orders.states(connection, owner_id, listed) if total else {}
    return OrdersView(total, {id_.hex: state for id_, state in found.items()})


async def members_page(connection: AsyncConnection, owner_id: UUID, search: Search) -> MembersPage:
    """Read the members on a page."""
    return await read_page(connection, owner_id, search.wanted, MEMBERS_SHOWN, skip=search.skipped)


def _is_sought(invitation: queries.PendingInvitation, search: Search) -> bool:
    return all(word.casefold() in (invitation.email or "").casefold() for word in search.wanted.words)


def rows_of(members: Iterable[queries.Member], speech: Speech, low_below: int | None) -> Iterable[Row]:
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
            is_low=low_below is not None and member.available_units < low_below,
            is_expired=member.state is AccountState.EXPIRED or (ends is not None and ends <= now),
            until=ends,
            days=days_left(ends, now),
        )


def days_left(ends: datetime | None, now: datetime) -> int | None:
    """Return how many days are left until an end, the last one counted whole; None while it is not near."""
    days = ceil((ends - now) / timedelta(days=1)) if ends is not None else NEAR_DAYS + 1
    return days if days <= NEAR_DAYS else None


async def history_view(
    connection: AsyncConnection, asked: Asked, wanted: lines.WantedLines, after: Cursor | None, here: str = "/history"
) -> HistoryView:
    """Read a page of the history."""
    page = await lines.page_of(connection, wanted, after, HISTORY_LINES)
    return HistoryView(asked, tuple(map(shown_line, page.lines)), page.next, here)


def shown_line(line: lines.HistoryLine) -> Line:
    """Make a line of the history ready."""
    who = line.member_name or line.member_email or ""
    mark = MARKS.get((line.kind.value, line.outcome), NO_MARK)
    if line.kind is Kind.INVITATION:  # who was invited is known by the address that was typed
        who = line.member_email or line.member_name or ""
    if line.kind is Kind.TRANSFER and line.outcome == "done" and not line.units:
        mark = HAD_ENOUGH
    return Line(line, who, mark)


# --- who is chosen, and what giving them units would cost -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choice:
    """Members of today whom somebody has chosen: ticked one by one or, with a `search`, all whom it finds."""

    members: tuple[queries.Member, ...]
    search: Search | None = None

    @property
    def chosen(self) -> tuple[str, ...]:
        """Return the members as checkboxes send them."""
        return tuple(f"{member.member_id.hex}.{member.epoch}" for member in self.members)

    @property
    def digest(self) -> str:
        """Return a word that changes with who is chosen, in whatever order."""
        return sha256(" ".join(sorted(self.chosen)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Quote:
    """What a transfer would cost, as balances are known now; the ledger computes it again."""

    mode: str
    amount_units: int
    available_units: int
    members: int
    """How many are chosen."""
    gaining: int
    """How many of them would get units: a top-up leaves out those who have enough already."""
    cost: int
    choice: Choice
    """Who they are; nobody, where they are only counted."""

    @classmethod
    def of(cls, mode: str, amount_units: int, choice: Choice, available_units: int) -> Self:
        """Return what a transfer to chosen members would cost."""
        lacking = [max(0, amount_units - each.available_units) for each in choice.members]
        tally = Tally(members=len(lacking), below=sum(1 for units in lacking if units), lacking_units=sum(lacking))
        return replace(cls.counted(mode, amount_units, tally, available_units), choice=choice)

    @classmethod
    def counted(cls, mode: str, amount_units: int, tally: Tally, available_units: int) -> Self:
        """Return what a transfer to members would cost who are only counted."""
        is_top_up = mode == "top_up_to"
        return cls(
            mode=mode,
            amount_units=amount_units,
            available_units=available_units,
            members=tally.members,
            gaining=tally.below if is_top_up else tally.members,
            cost=tally.lacking_units if is_top_up else tally.members * amount_units,
            choice=Choice(()),
        )

    @property
    def enough(self) -> int:
        """Return how many have as much already."""
        return self.members - self.gaining

    @property
    def who_gains(self) -> tuple[queries.Member, ...]:
        """Return who would get units."""
        return tuple(each for each in self.choice.members if self._gains(each))

    @property
    def who_has_enough(self) -> tuple[queries.Member, ...]:
        """Return who has as much already."""
        return tuple(each for each in self.choice.members if not self._gains(each))

    @property
    def left(self) -> int:
        """Return the units left after the transfer; below zero, those that are missing."""
        return self.available_units - self.cost

    def _gains(self, member: queries.Member) -> bool:
        return self.mode != "top_up_to" or member.available_units < self.amount_units
