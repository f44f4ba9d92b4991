"""Removes rows that are too old to be needed, a few at a time, while everything runs."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.postgres import REMOVALS, PostgresDatabase
from services.chassis.settings import SagaSettings
from services.chassis.shell import describe

log = structlog.get_logger(__name__)

EVERY_S = 3600.0
AGAIN_S = 60.0
"""The pause after a failure, such as a lock or a database that is away."""

AT_ONCE = 2_000
PAUSE_S = 0.1
"""How many rows one transaction removes, and the pause before the next: traffic waits for neither."""

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Old:
    """The rows of a table that are removed `keep` after a moment of theirs, which is indexed.

    Rows whose moment is NULL are kept, and so are those for which `ended` is false. `beside` is a column of another
    table, with their keys: its rows go with them. `noted` says that rows elsewhere tell of the removed ones, so that
    the audit would miss them: how far the removal has come is then kept in `removals`.
    """

    moment: "sa.Column[Any]"
    keep: timedelta
    ended: sa.ColumnElement[bool] | None = None
    beside: "sa.Column[Any] | None" = None
    noted: bool = False

    @property
    def table(self) -> sa.Table:
        """Return the table."""
        return self.moment.table

    @cached_property
    def removal(self) -> "sa.Select[int, Any]":
        """Return the statement that removes some rows, oldest first, and says how many, and the last one's moment.

        What another replica, or a batch, has locked is passed over: it is removed in the next round.
        """
        (key,) = self.table.primary_key.columns
        wanted = [self.moment >= sa.bindparam("after"), self.moment < sa.bindparam("before")]
        if self.ended is not None:
            wanted.append(self.ended)
        found = (
            sa.select(key.label("key"), self.moment.label("moment"))
            .where(*wanted)
            .order_by(self.moment)
            .limit(AT_ONCE)
            .with_for_update(skip_locked=True)
            .cte("found")
        )
        removed = sa.delete(self.table).where(key.in_(sa.select(found.c.key))).returning(key).cte("removed")
        last = sa.func.max(found.c.moment).label("last")
        counted = sa.select(sa.func.count().label("removed"), last).select_from(found).add_cte(removed)
        if self.beside is None:
            return counted
        with_them = sa.delete(self.beside.table).where(self.beside.in_(sa.select(removed.c[key.name])))
        return counted.add_cte(with_them.returning(self.beside).cte("with_them"))


async def prune(engine: AsyncEngine, old: Old) -> None:
    """Remove rows when they are old enough, until cancelled."""
    database = PostgresDatabase(engine)
    while True:
        try:
            await remove(database, old, datetime.now(UTC) - old.keep)
        except Exception as error:  # whatever it is, the next round may succeed; nothing depends on it
            log.warning("not_pruned", table=old.table.name, error=describe(error), detail=str(error))
            await asyncio.sleep(AGAIN_S)
        else:
            await asyncio.sleep(EVERY_S)


async def remove(database: PostgresDatabase, old: Old, before: datetime) -> int:
    """Remove the rows whose moment is before another one; return how many there were.

    Each transaction goes on where the last one ended: from the beginning, it would wade through what that removed.
    """
    after, total = _BEGINNING, 0
    while True:
        async with database.begin() as tx:
            row = (await tx.execute(old.removal, {"after": after, "before": before})).one()
            removed: int = row.removed
            if removed and old.noted:
                await tx.execute(_NOTE, {"p_table": old.table.name, "p_before": before})
        total += removed
        if removed < AT_ONCE:
            return total
        after = row.last
        await asyncio.sleep(PAUSE_S)


def ended_sagas(sagas: sa.Table, settings: SagaSettings) -> Old:
    """Return the sagas that ended so long ago that nobody asks for them: what they did is in the business tables."""
    return Old(sagas.c.ended_at, timedelta(days=settings.saga_retention_days), noted=True)


_noted = insert(REMOVALS).values(of_table=sa.bindparam("p_table"), before=sa.bindparam("p_before"))
_NOTE = _noted.on_conflict_do_update(
    index_elements=[REMOVALS.c.of_table], set_={"before": sa.func.greatest(REMOVALS.c.before, _noted.excluded.before)}
)
