"""The members of the caller's own group: searched, filtered, sorted, and read page by page.

One statement reads a page, and one all whom a query finds, for the page and for `/v1` alike. A group's members are
joined with what is known of each, and nothing of that has an index by group: balances change all the time, and must
stay cheap to write.
"""

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from popfax_contracts.message import group_of
from services.groups.domain import AccountState
from services.groups.tables import low_balances, memberships, subscribers
from services.groups.web import queries
from services.groups.web.cursor import BadCursor, MemberCursor
from services.groups.web.queries import Member, View

MOST_WORDS = 8
"""Of what somebody searches for, so many words count."""

MOST_IN_GROUP = 1000
"""So many members are shown together with their group; who has more reads pages."""

ENDS_WITHIN = timedelta(days=30)
"""How near the end of an account is that is about to end."""


class MemberFilter(StrEnum):
    """Which members are wanted."""

    ALL = "all"
    ACTIVE = "active"
    EXPIRED = "expired"
    ENDING = "ending"
    """Those whose account ends within 30 days."""
    LOW = "low"
    """Those who have fewer units than the owner has chosen (`low_balance`)."""


class MemberSort(StrEnum):
    """By what members are sorted. Equals are sorted by name."""

    NAME = "name"
    UNITS = "units"
    END = "end"
    """By the end of the account; one that never ends comes last."""


class Direction(StrEnum):
    """Which way."""

    ASCENDING = "asc"
    DESCENDING = "desc"


class Wanted(BaseModel):
    """Which members somebody wants to see, and in which order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    search: str = Field(
        "",
        max_length=100,
        description="words that are all in the name or the e-mail address; accents and case don't count",
    )
    filter: MemberFilter = MemberFilter.ALL
    sort: MemberSort = MemberSort.NAME
    direction: Direction = Direction.ASCENDING

    @property
    def words(self) -> list[str]:
        """Return the words that are searched."""
        return self.search.split()[:MOST_WORDS]

    @property
    def is_everybody(self) -> bool:
        """Return whether nobody is left out."""
        return not self.words and self.filter is MemberFilter.ALL

    @property
    def digest(self) -> bytes:
        """Return what tells a cursor of this query from one of another."""
        return sha256("\0".join((*self.words, "", self.filter, self.sort, self.direction)).encode()).digest()[:8]


class MembersPage(View):
    """Some of the members that a query finds."""

    items: tuple[Member, ...]
    total: int = Field(description="how many members the query finds on all pages")
    next: str | None = Field(description="the cursor of the page after this one; null on the last")


class OwnGroup(queries.OwnGroup):
    """The caller's own group, with the first of its members."""

    members: tuple[Member, ...] = Field(
        description=f"by name, at most {MOST_IN_GROUP:,}: `/group/members` has all of them, page by page"
    )


async def own_group(connection: AsyncConnection, owner_id: UUID) -> OwnGroup:
    """Return the caller's own group, with the first of its members."""
    group = await queries.group_of_owner(connection, owner_id)
    first = await read_page(connection, owner_id, Wanted(), MOST_IN_GROUP)
    return OwnGroup(**dict(group), members=first.items)


async def read_page(
    connection: AsyncConnection, owner_id: UUID, wanted: Wanted, limit: int, *, after: str | None = None, skip: int = 0
) -> MembersPage:
    """Return a page of the members of the caller's own group: behind a cursor, or behind the first `skip`.

    Raises `BadCursor`, also for a cursor of another query.
    """
    page, _ = await read_hashed(connection, owner_id, wanted, limit, after=after, skip=skip)
    return page


async def read_hashed(
    connection: AsyncConnection, owner_id: UUID, wanted: Wanted, limit: int, *, after: str | None = None, skip: int = 0
) -> tuple[MembersPage, int | None]:
    """Return the same, and for `queries.fingerprint` a hash of all members: None if not all of them were read."""
    found = _found(owner_id, wanted)
    query = sa.select(found).limit(limit + 1).offset(skip)
    if after is not None:
        query = query.where(_is_behind(found, wanted, _cursor(after, wanted)))
    rows = (await connection.execute(query.order_by(*_order(found, wanted)))).all()
    shown = rows[:limit]
    page = MembersPage(
        items=tuple(Member.model_validate(row) for row in shown),
        total=shown[0].total if shown else await count(connection, owner_id, wanted),
        next=str(_behind(shown[-1], wanted)) if len(rows) > limit else None,
    )
    return page, shown[0].hash if shown and wanted.is_everybody else None


async def count(connection: AsyncConnection, owner_id: UUID, wanted: Wanted | None = None) -> int:
    """Return how many members a query finds, or how many there are."""
    if wanted is None or wanted.is_everybody:
        query = sa.select(sa.func.count()).select_from(memberships).where(*_of_group(owner_id))
    else:
        query = sa.select(sa.func.count()).select_from(_found(owner_id, wanted))
    return int((await connection.execute(query)).scalar_one())


async def read_all(connection: AsyncConnection, owner_id: UUID, wanted: Wanted) -> tuple[Member, ...]:
    """Return all whom a query finds, in its order."""
    found = _found(owner_id, wanted)
    rows = await connection.execute(sa.select(found).order_by(*_order(found, wanted)))
    return tuple(Member.model_validate(row) for row in rows)


async def read_some(
    connection: AsyncConnection, owner_id: UUID, times: Collection[tuple[UUID, int]]
) -> tuple[Member, ...]:
    """Return those of the named members who are members still, each named with their epoch, by name."""
    named = sa.tuple_(memberships.c.member_id, memberships.c.epoch).in_(times)
    found = _found(owner_id, Wanted(), named)
    rows = await connection.execute(sa.select(found).order_by(*_order(found, Wanted())))
    return tuple(Member.model_validate(row) for row in rows)


class Tally(View):
    """How many members a query finds; how many of them have fewer units than some level, and how many those lack."""

    members: int
    below: int
    lacking_units: int


async def tally(connection: AsyncConnection, owner_id: UUID, wanted: Wanted, level_units: int) -> Tally:
    """Count whom a query finds, without reading them."""
    found = _found(owner_id, wanted)
    lacking = level_units - found.c.available_units
    query = sa.select(
        sa.func.count().label("members"),
        sa.func.count().filter(lacking > 0).label("below"),
        sa.func.coalesce(sa.func.sum(sa.func.greatest(lacking, 0)), 0).label("lacking_units"),
    )
    return Tally.model_validate((await connection.execute(query)).one())


# Statements.

_UNKNOWN: sa.ColumnElement[str] = sa.literal_column("''")
_NEVER = sa.cast(sa.literal_column("'infinity'"), sa.DateTime(timezone=True))
_state = sa.func.coalesce(subscribers.c.state, AccountState.ACTIVE.value)
_units = sa.func.coalesce(subscribers.c.available_units, 0)


def listed(person: Any) -> sa.ColumnElement[str]:
    """Return how somebody is sorted, and behind a line break what they are found by.

    The migration that begins to keep it passes over rows that are locked at that moment: those are made here.
    """
    made = sa.func.listed_as(person.c.first_name, person.c.last_name, person.c.email)
    return sa.func.coalesce(person.c.listed_as, made, _UNKNOWN).collate("C")


def _of_group(owner_id: UUID) -> tuple[sa.ColumnElement[bool], ...]:
    return memberships.c.group_id == group_of(owner_id), memberships.c.active


def _low(owner_id: UUID) -> sa.ColumnElement[bool]:
    """Say who has fewer units than the owner wants to be told of; nobody, if the owner has not said."""
    level = sa.select(low_balances.c.below_units).where(low_balances.c.group_id == group_of(owner_id))
    return _units < level.scalar_subquery()


def _ending(_: UUID) -> sa.ColumnElement[bool]:
    now = datetime.now(UTC)
    return sa.and_(_state == AccountState.ACTIVE.value, subscribers.c.expires_at < now + ENDS_WITHIN)


_FILTERS: Mapping[MemberFilter, Callable[[UUID], sa.ColumnElement[bool]]] = {
    MemberFilter.ACTIVE: lambda _: _state == AccountState.ACTIVE.value,
    MemberFilter.EXPIRED: lambda _: _state == AccountState.EXPIRED.value,
    MemberFilter.ENDING: _ending,
    MemberFilter.LOW: _low,
}
"""What a filter lets through, in an owner's group."""


def _has(word: str) -> sa.ColumnElement[bool]:
    """Say whether somebody is found by a word. In a SELECT of its own it is folded once, not for each member."""
    return sa.func.strpos(listed(subscribers), sa.select(sa.func.folded(word)).scalar_subquery()) > 0


def _found(owner_id: UUID, wanted: Wanted, *more: sa.ColumnElement[bool]) -> sa.Subquery:
    """Return whom a query finds, each with the total."""
    conditions = [*_of_group(owner_id), *more, *(_has(word) for word in wanted.words)]
    if (of_filter := _FILTERS.get(wanted.filter)) is not None:
        conditions.append(of_filter(owner_id))
    return (
        sa.select(
            memberships.c.member_id,
            subscribers.c.first_name,
            subscribers.c.last_name,
            subscribers.c.email,
            _state.label("state"),
            subscribers.c.expires_at,
            _units.label("available_units"),
            memberships.c.epoch,
            memberships.c.joined_at,
            listed(subscribers).label("listed"),
            sa.func.count().over().label("total"),
            *([queries.HASHED_MEMBERS.over().label("hash")] if wanted.is_everybody and not more else ()),
        )
        .outerjoin(subscribers, subscribers.c.id == memberships.c.member_id)
        .where(*conditions)
        .subquery("found")
    )


def _keys(found: sa.Subquery, wanted: Wanted) -> list[sa.ColumnElement[Any]]:
    """Return by what members are sorted: whatever it is, there are no two equals."""
    first: Mapping[MemberSort, list[sa.ColumnElement[Any]]] = {
        MemberSort.NAME: [],
        MemberSort.UNITS: [found.c.available_units],
        MemberSort.END: [sa.func.coalesce(found.c.expires_at, _NEVER)],
    }
    return [*first[wanted.sort], found.c.listed, found.c.member_id]


def _order(found: sa.Subquery, wanted: Wanted) -> list[sa.ColumnElement[Any]]:
    keys = _keys(found, wanted)
    return [key.desc() for key in keys] if wanted.direction is Direction.DESCENDING else keys


def _is_behind(found: sa.Subquery, wanted: Wanted, cursor: MemberCursor) -> sa.ColumnElement[bool]:
    """Say who comes behind a cursor. It names a member, and no name: that is looked up."""
    person = subscribers.alias("last_shown")
    name = sa.select(listed(person)).where(person.c.id == cursor.id).scalar_subquery()
    value: list[Any] = []
    if wanted.sort is MemberSort.UNITS:
        value = [sa.literal(cursor.value, sa.BigInteger)]
    elif wanted.sort is MemberSort.END:
        value = [_NEVER if cursor.at is None else sa.literal(cursor.at, sa.DateTime(timezone=True))]
    last = sa.tuple_(*value, sa.func.coalesce(name, _UNKNOWN).collate("C"), sa.literal(cursor.id))
    here = sa.tuple_(*_keys(found, wanted))
    return here < last if wanted.direction is Direction.DESCENDING else here > last


def _behind(row: sa.Row[Any], wanted: Wanted) -> MemberCursor:
    if wanted.sort is MemberSort.END:
        return MemberCursor.of_moment(wanted.digest, row.expires_at, row.member_id)
    return MemberCursor(wanted.digest, row.available_units if wanted.sort is MemberSort.UNITS else 0, row.member_id)


def _cursor(text: str, wanted: Wanted) -> MemberCursor:
    cursor = MemberCursor.parse(text)
    if cursor.query != wanted.digest:
        raise BadCursor("a cursor of another query")
    return cursor
