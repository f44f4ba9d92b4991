"""A batch finds its rows by their index, however large the table, so its cost does not grow with the table."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest_asyncio
import sqlalchemy as sa

from deploy.local.stack import Stack
from popfax_contracts.topics import Principal
from services.chassis import postgres
from services.chassis.postgres import PostgresDatabase
from services.provisioning.domain import NumberState
from services.provisioning.tables import FAX_NUMBERS
from tests.integration.recorder import scratch_database
from tests.unit.given import id_of

ROWS = 100_000
BATCH = 1000
_FILL = sa.text(
    f"INSERT INTO fax_numbers SELECT '+33' || lpad(n::text, 9, '0'), 'free' FROM generate_series(1, {ROWS}) n"
)
_SCANS = sa.text("SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'fax_numbers'")


@pytest_asyncio.fixture(scope="module")
async def database(stack: Stack) -> AsyncIterator[PostgresDatabase]:
    """A database with a large table."""
    with scratch_database(stack, Principal.PROVISIONING) as url:
        engine = postgres.engine(url)
        async with engine.begin() as connection:
            await connection.execute(_FILL)
            await connection.execute(sa.text("ANALYZE"))
        yield PostgresDatabase(engine)
        await engine.dispose()


async def test_a_large_batch_does_not_read_a_large_table_from_one_end_to_the_other(database: PostgresDatabase) -> None:
    async with database.begin() as tx:
        free = (await tx.take(FAX_NUMBERS, {"state": NumberState.FREE.value}, BATCH)).loaded()
        numbers = await tx.fetch(FAX_NUMBERS, [each.number for each in free])
        for number in free:
            numbers.put(replace(number, state=NumberState.ASSIGNED, subscriber_id=id_of(number.number)))
        await tx.save([numbers])
        assert (await tx.execute(_SCANS)).scalar_one() == 0
        for number in free:
            numbers.remove(number.number)
        await tx.save([numbers])
        assert (await tx.execute(_SCANS)).scalar_one() == 0
