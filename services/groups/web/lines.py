"""The lines of a group's history: which are wanted, page by page or all of them. For the page, `/v1`, and the books.

Each read is a range of an index, however many lines there are: of the group's lines, of those of one kind, or of one
member's.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

import sqlalchemy as sa
from pydantic import AwareDatetime, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from popfax_contracts.message import group_of
from services.groups.domain import Kind
from services.groups.tables import history, invitations, memberships, subscribers
from services.groups.web.cursor import Cursor
from services.groups.web.queries import View, full_name

AT_ONCE = 500
"""How many lines are read with one statement where all are wanted."""


class Filter(StrEnum):
    """Which lines of the history are wanted."""

    INVITATIONS = "invitations"
    """Invitations, and accounts created for new members."""
    TRANSFERS = "transfers"
    ALL = "all"


_KINDS: Mapping[Filter, Sequence[Kind]] = {
    Filter.INVITATIONS: (Kind.INVITATION, Kind.ACCOUNT),
    Filter.TRANSFERS: (Kind.TRANSFER,),
}


@dataclass(frozen=True, slots=True)
class WantedLines:
    """Which lines of the history of an owner's own group are wanted: what the page, `/v1`, and the books ask for."""

    owner_id: UUID
    filter: Filter = Filter.ALL
    member_id: UUID | None = None
    """Whose lines; None for everybody's."""
    since: datetime | None = None
    """The first moment of the period, and `before` the first one behind it; None for no limit."""
    before: datetime | None = None
    paid: bool = False
    """Whether only lines are wanted for which the owner paid units."""


class HistoryLine(View):
    """A line of the history of the caller's own group."""

    id: UUID
    kind: Kind
    at: AwareDatetime
    by: Literal["owner", "member", "popfax"]
    reference_id: UUID = Field(description="what it is about: all lines of one transfer have that transfer's")
    member_id: UUID | None
    member_name: str | None = Field(description="of a member of today, or as it was when the membership ended")
    member_email: str | None = Field(
        description="as the invitation was addressed; else of a member of today, or as it was when the membership ended"
    )
    units: int | None
    outcome: str
    code: str | None
    ended_at: AwareDatetime | None


class HistoryPage(View):
    """A page of the history, newest first; `next` is the cursor of the page after it, None on the last one."""

    lines: tuple[HistoryLine, ...]
    next: str | None


async def page_of(connection: AsyncConnection, wanted: WantedLines, after: Cursor | None, limit: int) -> HistoryPage:
    """Return a page of the wanted lines: what comes after a cursor, or the newest."""
    found = (await connection.execute(_lines(wanted, after, limit + 1))).all()
    shown = found[:limit]
    more = len(found) > limit
    return HistoryPage(
        lines=tuple(HistoryLine.model_validate(row) for row in shown),
        next=str(Cursor(shown[-1].at, shown[-1].id)) if more else None,
    )


async def all_of(
    reading: Callable[[], AbstractAsyncContextManager[AsyncConnection]], wanted: WantedLines
) -> AsyncIterator[Sequence[HistoryLine]]:
    """Yield all wanted lines, newest first, `AT_ONCE` at a time.

    Each portion is a statement of its own, from where the one before it ended. So no connection, and no transaction, is
    held for whoever reads slowly.
    """
    after: Cursor | None = None
    while True:
        async with reading() as connection:
            page = await page_of(connection, wanted, after, AT_ONCE)
        yield page.lines
        if page.next is None:
            return
        after = Cursor.parse(page.next)


def _lines(wanted: WantedLines, after: Cursor | None, limit: int) -> sa.Select[tuple[Any, ...]]:
    """Read the newest lines of each kind from its index, keep the newest of all, and join the people concerned."""
    group_id = group_of(wanted.owner_id)
    newest_of_each = [_newest(wanted, kind, after, limit) for kind in _kinds(wanted)]
    lines = (sa.union_all(*newest_of_each) if len(newest_of_each) > 1 else newest_of_each[0]).subquery("lines")
    newest = sa.select(lines).order_by(lines.c.at.desc(), lines.c.id.desc()).limit(limit).subquery("newest")
    person, between = subscribers, memberships
    by = sa.case(
        (newest.c.actor_id == wanted.owner_id, "owner"),
        (newest.c.actor_id == newest.c.member_id, "member"),
        else_="popfax",
    )
    invited = newest.c.kind == Kind.INVITATION.value
    return (
        sa.select(
            newest.c.id,
            newest.c.kind,
            newest.c.at,
            by.label("by"),
            newest.c.reference_id,
            newest.c.member_id,
            sa.case((between.c.active, full_name(person)), else_=between.c.shown_name).label("member_name"),
            sa.case(
                (invited, invitations.c.email), (between.c.active, person.c.email), else_=between.c.shown_email
            ).label("member_email"),
            newest.c.units,
            newest.c.outcome,
            newest.c.code,
            newest.c.ended_at,
        )
        .select_from(newest)
        .outerjoin(person, person.c.id == newest.c.member_id)
        .outerjoin(between, sa.and_(between.c.member_id == newest.c.member_id, between.c.group_id == group_id))
        .outerjoin(invitations, sa.and_(invited, invitations.c.id == newest.c.reference_id))
        .order_by(newest.c.at.desc(), newest.c.id.desc())
    )


def _kinds(wanted: WantedLines) -> Sequence[Kind | None]:
    """Return the kinds of line to read, each from its own range of an index; None for all of them at once.

    The lines of one member are in the order of their moments within a kind alone.
    """
    if wanted.member_id is not None and wanted.filter is Filter.ALL:
        return tuple(Kind)
    return _KINDS.get(wanted.filter, (None,))


def _newest(wanted: WantedLines, kind: Kind | None, after: Cursor | None, limit: int) -> sa.Select[tuple[Any, ...]]:
    query = sa.select(history).where(history.c.group_id == group_of(wanted.owner_id))
    if wanted.member_id is not None:
        query = query.where(history.c.member_id == wanted.member_id)
    if kind is not None:
        query = query.where(history.c.kind == kind.value)
    if wanted.since is not None:
        query = query.where(history.c.at >= wanted.since)
    if wanted.before is not None:
        query = query.where(history.c.at < wanted.before)
    if wanted.paid:
        query = query.where(history.c.units > 0, history.c.outcome.in_(("done", "created")))
    if after is not None:
        place = sa.tuple_(history.c.at, history.c.id)
        query = query.where(place < sa.tuple_(sa.literal(after.at), sa.literal(after.id)))
    # In a SELECT of its own: the parts of a union have no order else.
    return sa.select(query.order_by(history.c.at.desc(), history.c.id.desc()).limit(limit).subquery())
