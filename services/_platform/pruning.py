"""Forgets rows that are older than anybody asks for."""

import asyncio
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

log = structlog.get_logger(__name__)

EVERY_S = 3600.0
AT_ONCE = 10_000


async def prune(engine: AsyncEngine, moment: "sa.Column[Any]", keep: timedelta) -> None:
    """Delete a table's rows whose moment is longer ago, a part at a time, until cancelled."""
    table = moment.table
    (key,) = table.primary_key.columns
    old = sa.select(key).where(moment < sa.func.now() - keep).limit(AT_ONCE)
    while True:
        pruned = 0
        try:
            async with engine.begin() as connection:
                pruned = (await connection.execute(sa.delete(table).where(key.in_(old)))).rowcount
        except (sa.exc.SQLAlchemyError, OSError) as error:
            log.warning("not_pruned", table=table.name, error=type(error).__name__)
        await asyncio.sleep(0.1 if pruned == AT_ONCE else EVERY_S)
