"""Stopped partitions: a batch on them can't be unpacked, and nothing after it is handled until it can be.

Each stop is a row, from the fault to its outcome. If an operator had the batch skipped, the row says which
offsets, and why. Rows are kept: they are the only trace of what was never handled.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.postgres import PARTITION_STOPS

log = structlog.get_logger(__name__)

Place = tuple[str, int]
"""A topic, and a partition of it."""

LONGEST_PAUSE_S = 5.0

FLOWS_AFTER_S = 10.0
"""A retried partition that has not failed for this long counts as flowing, even if it had no record: see
`Consumer._end_quiet_stops`.
"""


class Outcome(StrEnum):
    """How a stop ended."""

    READ = "read"
    """The batch could be unpacked after all."""
    SKIPPED = "skipped"
    """An operator had it skipped."""
    HANDED_OVER = "handed over"
    """Another replica, or a later run of this one, now has the partition. If it can't read on, that is a new stop."""
    MOVED = "moved"
    """It stopped at another position, which is a new stop."""


@dataclass(slots=True)
class Stop:
    """A partition that has stopped, as the consumer remembers it."""

    position: int
    error: str
    attempts: int = 0
    skipped: bool = False
    _again_at: float = 0.0
    _tried_at: float | None = None

    def failed(self, position: int, error: str) -> None:
        """Count one more failure: the next attempt is due after a pause that doubles each time."""
        self.position, self.error = position, error
        self.attempts += 1
        self._tried_at = None
        self.skipped = False
        self._again_at = time.monotonic() + min(2.0 ** (self.attempts - 1), LONGEST_PAUSE_S)

    def is_due(self) -> bool:
        """Say whether a retry is due."""
        return self._tried_at is None and time.monotonic() >= self._again_at

    def trying(self, *, skips: bool) -> None:
        """Note that it is being retried: it will flow, or fail again."""
        self._tried_at = time.monotonic()
        self.skipped = skips

    def is_tried(self) -> bool:
        """Say whether it is being retried."""
        return self._tried_at is not None

    def is_over(self) -> bool:
        """Say whether it was retried and has not failed again."""
        return self._tried_at is not None and time.monotonic() - self._tried_at > FLOWS_AFTER_S


_OPEN = PARTITION_STOPS.c.ended_at.is_(None)


class Stops:
    """The rows of stops. If the database is away, only the row is missing: the partition stops all the same."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def stopped(self, place: Place, stop: Stop) -> None:
        """Record a stop, or that it has outlasted another attempt. At another position it is another stop."""
        await self._execute(_end([place], Outcome.MOVED, PARTITION_STOPS.c.position != stop.position))
        now = {"position": stop.position, "error": stop.error, "attempts": stop.attempts}
        row = insert(PARTITION_STOPS).values(topic=place[0], partition=place[1], stopped_at=sa.func.now(), **now)
        await self._execute(
            row.on_conflict_do_update(index_elements=["topic", "partition"], index_where=_OPEN, set_=now)
        )

    async def skip_to(self, place: Place, position: int) -> int | None:
        """Return the offset at which an operator wants a partition stopped at `position` to resume, if any."""
        here = (*_of(place), PARTITION_STOPS.c.position == position, PARTITION_STOPS.c.skip_to > position)
        query = sa.select(PARTITION_STOPS.c.skip_to).where(*here)
        found = await self._execute(query)
        return found[0][0] if found else None

    async def ended(self, place: Place, stop: Stop) -> None:
        """Record that a partition flows again."""
        await self._execute(_end([place], Outcome.SKIPPED if stop.skipped else Outcome.READ))

    async def taken_over(self, places: Collection[Place]) -> None:
        """Record that partitions have a new owner, which begins to read."""
        if places:
            await self._execute(_end(places, Outcome.HANDED_OVER))

    async def _execute(self, statement: sa.Executable) -> list[tuple[int | None]]:
        try:
            async with self._engine.begin() as connection:
                result = await connection.execute(statement)
                return [(row[0],) for row in result] if result.returns_rows else []
        except (sa.exc.SQLAlchemyError, OSError) as error:
            log.warning("partition_stop_not_written", error=type(error).__name__)
            return []


def _of(place: Place) -> tuple[sa.ColumnElement[bool], ...]:
    return PARTITION_STOPS.c.topic == place[0], PARTITION_STOPS.c.partition == place[1], _OPEN


def _end(places: Collection[Place], outcome: Outcome, *which: sa.ColumnElement[bool]) -> sa.Update:
    here = sa.tuple_(PARTITION_STOPS.c.topic, PARTITION_STOPS.c.partition).in_(sorted(places))
    ended = {"ended_at": sa.func.now(), "outcome": outcome.value}
    return sa.update(PARTITION_STOPS).values(ended).where(here, _OPEN, *which)
