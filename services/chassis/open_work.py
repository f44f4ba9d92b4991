"""What waits, of every kind: how much, and for how long the oldest. Read from the database every `measure_s`.

Each kind costs one query over an index, which looks at 100,000 rows at most, or 10,000, however many there are. An age
grows while the database is away, since nothing can have been done meanwhile; between two looks it does not, since what
was seen has probably been done.
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis import metrics
from services.chassis.alarms import Alarm
from services.chassis.postgres import OUTBOX, PARKED, PARTITION_STOPS, TIMER, autocommitting, translated, waiting_rows
from services.chassis.service import Service
from services.chassis.shell import describe
from services.chassis.waiting import FEWER, Waiting, waiting

log = structlog.get_logger(__name__)

LATE_S = 5.0
"""A look that is later than this has failed, or is waiting."""


_TIMER = "timers, and rows that are due at a moment of their own, that are due and have not fired"

EVERYWHERE = (
    Waiting("outbox", "messages that are not published yet", sa.select(OUTBOX.c.made_at).order_by(OUTBOX.c.seq)),
    Waiting("parked", "messages put aside for an operator", sa.select(PARKED.c.parked_at).order_by(PARKED.c.seq)),
    waiting("timer", _TIMER, TIMER.c.due_at, TIMER.c.due_at <= sa.func.now()),
    waiting(
        "partition", "partitions that stand still", PARTITION_STOPS.c.stopped_at, PARTITION_STOPS.c.ended_at.is_(None)
    ),
)
"""What every service has."""


def due(alarm: Alarm[Any]) -> Waiting:
    """Return the kind of an alarm's rows that are due; it counts among the timers."""
    due_at = alarm.moment + alarm.after
    rows = waiting_rows(alarm, due_at).where(alarm.moment <= sa.func.now() - alarm.after)
    return Waiting("timer", _TIMER, rows, FEWER)


def kinds_of(service: Service) -> list[Waiting]:
    """Return what may wait in a service's database."""
    return [*EVERYWHERE, *map(due, service.alarms), *service.waits]


class OpenWork:
    """Measures what waits."""

    def __init__(self, engine: AsyncEngine, kinds: Sequence[Waiting], every_s: float) -> None:
        """`every_s` is how often it looks."""
        self._engine = engine
        self._every_s = every_s
        self._kinds = kinds
        self._oldest: dict[str, tuple[float, float]] = {}
        """By `what`: how old the oldest was, and when that was."""
        self._measured_at = time.monotonic()
        for what in {kind.what for kind in kinds}:
            metrics.OPEN.labels(what)
            metrics.OLDEST_OPEN.labels(what).set_function(partial(self._age_s, what))
        metrics.OPEN_MEASURED.set_function(lambda: time.monotonic() - self._measured_at)

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            try:
                with translated():
                    await self.measure()
            except Exception as error:  # whatever it is, the loops that handle messages meet it too
                log.warning("not_measured", error=describe(error))
            await asyncio.sleep(self._every_s)

    async def measure(self) -> None:
        """Measure once. Raises what the database raises."""
        found: dict[str, tuple[int, float | None]] = {}
        async with autocommitting(self._engine) as connection:
            for kind in self._kinds:
                count, age_s = (await connection.execute(kind.query)).one()
                before, before_s = found.get(kind.what, (0, None))
                ages = [float(each) for each in (age_s, before_s) if each is not None]
                found[kind.what] = before + count, max(ages, default=None)
        self._measured_at = now = time.monotonic()
        for what, (count, age_s) in found.items():
            metrics.OPEN.labels(what).set(count)
            if age_s is None:
                self._oldest.pop(what, None)
            else:
                self._oldest[what] = max(0.0, age_s), now

    def _age_s(self, what: str) -> float:
        if (oldest := self._oldest.get(what)) is None:
            return 0.0
        age_s, measured_at = oldest
        passed_s = time.monotonic() - measured_at
        return age_s + (passed_s if passed_s > self._every_s + LATE_S else 0.0)
