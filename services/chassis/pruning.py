"""Deletes rows that are too old to be needed."""

import asyncio
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.postgres import PostgresDatabase
from services.chassis.shell import describe

log = structlog.get_logger(__name__)

EVERY_S = 3600.0
AGAIN_S = 60.0
"""The pause after a failure, such as a lock or a database that is away."""

AT_ONCE = 10_000


async def prune(engine: AsyncEngine, moment: "sa.Column[Any]", keep: timedelta) -> None:
    """Delete rows older than the given age, a few at a time, until cancelled."""
    table = moment.table
    (key,) = table.primary_key.columns
    old = sa.select(key).where(moment < sa.func.now() - keep).limit(AT_ONCE)
    while True:
        try:
            async with PostgresDatabase(engine).begin() as tx:
                pruned = (await tx.execute(sa.delete(table).where(key.in_(old)))).rowcount
        except Exception as error:  # whatever it is, the next round may succeed; nothing depends on it
            log.warning("not_pruned", table=table.name, error=describe(error), detail=str(error))
            await asyncio.sleep(AGAIN_S)
        else:
            await asyncio.sleep(0.1 if pruned == AT_ONCE else EVERY_S)
