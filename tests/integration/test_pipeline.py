"""What travels together is done together or not at all, and a connection survives whatever went wrong on it."""

import asyncio
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis import postgres
from services.chassis.database import Conflict, Outage
from services.chassis.postgres import PostgresDatabase
from services.chassis.rows import Rows
from services.ledger.domain import Account
from services.ledger.tables import ACCOUNTS, accounts
from tests.integration.recorder import execute
from tests.unit.given import NOW


def new(*rows: Account) -> Rows[UUID, Account]:
    """Return rows to be inserted."""
    made: Rows[UUID, Account] = Rows(ACCOUNTS, {})
    for row in rows:
        made.put(row)
    return made


def count(url: str) -> int:
    return int(execute(url, "SELECT count(*) FROM accounts")[0][0])


@pytest.mark.parametrize("place", ["first", "middle", "last"])
async def test_nothing_is_committed_if_any_write_fails(ledger_url: str, ledger_engine: AsyncEngine, place: str) -> None:
    database, known = PostgresDatabase(ledger_engine), Account(uuid4(), 1, 0, 1)
    async with database.begin() as tx:
        await tx.save([new(known)])
    batches = [new(Account(uuid4(), 1, 0, 1)), new(Account(uuid4(), 1, 0, 1))]
    batches.insert({"first": 0, "middle": 1, "last": 2}[place], new(known))
    with pytest.raises(Conflict):  # noqa: PT012  (what matters is where it surfaces)
        async with database.begin() as tx:
            await tx.claim_inbox([uuid4()], NOW)
            await tx.save(batches)
    assert count(ledger_url) == 1
    assert execute(ledger_url, "SELECT count(*) FROM inbox") == [(0,)]
    async with database.begin() as tx:
        await tx.save([new(Account(uuid4(), 1, 0, 1))])
    assert count(ledger_url) == 2


async def test_a_failed_write_is_raised_by_the_next_question_and_by_every_one_after(ledger_engine: AsyncEngine) -> None:
    row = Account(uuid4(), 1, 0, 1)
    database = PostgresDatabase(ledger_engine)
    async with database.begin() as tx:
        await tx.save([new(row)])
    with pytest.raises(Conflict):  # noqa: PT012  (what matters is where it surfaces)
        async with database.begin() as tx:
            await tx.save([new(row)])
            for _ in range(2):
                with pytest.raises(psycopg.Error):
                    await tx.fetch(ACCOUNTS, [row.id])


async def test_what_a_message_is_to_blame_for_stays_its_error(ledger_engine: AsyncEngine) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        async with PostgresDatabase(ledger_engine).begin() as tx:
            await tx.save([new(Account(uuid4(), -1, 0, 1))])


async def test_an_exception_of_ours_rolls_back_what_was_sent(ledger_url: str, ledger_engine: AsyncEngine) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  (what matters is where it surfaces)
        async with PostgresDatabase(ledger_engine).begin() as tx:
            await tx.save([new(Account(uuid4(), 1, 0, 1))])
            raise ZeroDivisionError
    assert count(ledger_url) == 0


async def test_statements_are_prepared_again_after_psycopg_has_discarded_them(ledger_url: str) -> None:
    engine = postgres.engine(ledger_url, 1)
    database = PostgresDatabase(engine)
    for _ in range(3):
        async with database.begin() as tx:
            await tx.fetch(ACCOUNTS, [uuid4()])
        async with engine.connect() as connection:  # rolled back at its end
            await connection.execute(sa.select(accounts.c.id))
        with pytest.raises(ZeroDivisionError):  # noqa: PT012  (what matters is where it surfaces)
            async with engine.begin() as connection:
                await connection.execute(sa.select(accounts.c.id))
                raise ZeroDivisionError
    await engine.dispose()


async def test_a_lost_connection_is_an_outage_and_the_next_batch_has_another(
    ledger_url: str, ledger_engine: AsyncEngine
) -> None:
    database = PostgresDatabase(ledger_engine)
    with pytest.raises(Outage):  # noqa: PT012  (what matters is where it surfaces)
        async with database.begin() as tx:
            await tx.fetch(ACCOUNTS, [uuid4()])
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            execute(ledger_url, ended)
            await tx.save([new(Account(uuid4(), 1, 0, 1))])
    async with database.begin() as tx:
        await tx.save([new(Account(uuid4(), 1, 0, 1))])
    assert count(ledger_url) == 1


async def test_a_batch_that_is_cancelled_while_it_waits_leaves_nothing(
    ledger_url: str, ledger_engine: AsyncEngine
) -> None:
    database, row = PostgresDatabase(ledger_engine), Account(uuid4(), 1, 0, 1)
    async with database.begin() as tx:
        await tx.save([new(row)])

    async def second() -> None:
        async with database.begin() as other:
            await other.save([new(Account(uuid4(), 1, 0, 1))])
            await other.fetch(ACCOUNTS, [row.id])

    async with database.begin() as tx:
        await tx.fetch(ACCOUNTS, [row.id])
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0.5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert count(ledger_url) == 1
    await second()
    assert count(ledger_url) == 2


async def test_a_connection_that_is_given_up_amid_a_transaction_keeps_the_cancellation(
    ledger_engine: AsyncEngine,
) -> None:
    """As the relay gives up its own: an error in its place would be taken for an outage, and the task would go on."""
    held = asyncio.Event()

    async def hold() -> None:
        async with ledger_engine.connect() as connection:
            try:
                await connection.execute(sa.text("SELECT 1"))
                held.set()
                await asyncio.sleep(60)
            finally:
                await connection.invalidate()

    task = asyncio.create_task(hold())
    await held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
