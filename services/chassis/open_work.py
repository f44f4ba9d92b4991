"""Measures how many sagas and transfers are open, and for how long, by querying an index now and then."""

import asyncio
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis import metrics
from services.chassis.postgres import translated
from services.chassis.shell import describe

log = structlog.get_logger(__name__)

EVERY_S = 15.0


async def measure_open(
    engine: AsyncEngine, what: str, moment: "sa.Column[Any]", is_open: "sa.ColumnElement[bool]"
) -> None:
    """Update the two metrics of a table's open rows until cancelled; while it can't be queried they stay unchanged."""
    while True:
        try:
            with translated():
                await _measure(engine, what, moment, is_open)
        except Exception as error:  # whatever it is, the loops that handle messages meet it too
            log.warning("not_measured", what=what, error=describe(error))
        await asyncio.sleep(EVERY_S)


async def _measure(engine: AsyncEngine, what: str, moment: "sa.Column[Any]", is_open: "sa.ColumnElement[bool]") -> None:
    age = sa.func.extract("epoch", sa.func.now() - sa.func.min(moment))
    query = sa.select(sa.func.count(), sa.func.coalesce(age, 0)).where(is_open)
    async with engine.connect() as connection:
        count, age_s = (await connection.execute(query)).one()
    metrics.OPEN.labels(what).set(count)
    metrics.OLDEST_OPEN.labels(what).set(max(0.0, float(age_s)))
