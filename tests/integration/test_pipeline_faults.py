"""Whatever happens to a connection in the middle of a trip: a message has its effect once, and all of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis import postgres
from services.chassis.database import Cause, Conflict, Outage
from services.chassis.pipeline import _BEGIN as BEGIN
from services.chassis.postgres import PostgresDatabase, PostgresTransaction
from services.chassis.tables import Bytes
from services.ledger.domain import Account
from services.ledger.tables import ACCOUNTS
from tests.integration.line import Line
from tests.integration.recorder import Sent, count, credit, execute
from tests.integration.test_pipeline import new

Cut = Callable[[bytes], bool]
"""Says whether the line is to be cut before these bytes pass."""


def _never(_: bytes) -> bool:
    return False


class Between:
    """Passes on what a service and PostgreSQL say to each other, until it cuts the line."""

    def __init__(self, url: str) -> None:
        self._server = sa.make_url(url)
        self.requests: Cut = _never
        self.answers: Cut = _never
        self.cuts = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[AsyncEngine]:
        """Yield an engine that connects through here."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        url = self._server.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        engine = postgres.engine(url, 2)
        try:
            yield engine
        finally:
            await engine.dispose()
            server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._server.host, self._server.port
        theirs, ours = await asyncio.open_connection(host, port)
        ways = (
            self._pass(reader, ours, "requests"),
            self._pass(theirs, writer, "answers"),
        )
        try:
            await asyncio.wait(map(asyncio.ensure_future, ways), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in (ours, writer):
                end.transport.abort()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: str) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                if getattr(self, way)(data):
                    self.cuts += 1
                    return
                sink.write(data)
                await sink.drain()


def _nth(number: int) -> Cut:
    """Cut before the n-th piece from now on."""
    left = iter(range(number, -1, -1))
    return lambda _: next(left, 0) == 1


PIECES = 14
"""More than a new connection and a batch take, either way."""


async def _until_handled(line: Line, *records: Sent) -> int:
    """Try as the consumer does; return how often it failed."""
    failures = 0
    async with asyncio.timeout(20):
        while True:
            try:
                await line.handle(*records)
            except Outage:
                failures += 1
            else:
                return failures


async def _assert_once(line: Line, accounts: list[UUID]) -> None:
    for account in accounts:
        assert await line.amounts(account) == [1]
    for table in ("inbox", "outbox"):
        assert await count(line.engine, table) == len(accounts)


async def test_a_commit_whose_answer_is_lost_is_found_in_the_inbox(ledger_url: str) -> None:
    between, account = Between(ledger_url), uuid4()
    async with between.listening() as engine:
        line = Line(engine)
        record = line.record(credit(account))
        between.answers = lambda data: not between.cuts and b"COMMIT\0" in data
        assert await _until_handled(line, record) == 1
        assert between.cuts == 1
        assert line.recorder.calls == 1, "the second time it is a duplicate"
        await _assert_once(line, [account])


async def test_wherever_the_line_is_cut_each_message_has_its_effect_once(ledger_url: str) -> None:
    between, accounts = Between(ledger_url), []
    async with between.listening() as engine:
        line = Line(engine)
        for way in ("requests", "answers"):
            for number in range(1, PIECES + 1):
                await engine.dispose()  # so it may be cut while it connects, too
                accounts.append(uuid4())
                record = line.record(credit(accounts[-1]))
                setattr(between, way, _nth(number))
                await _until_handled(line, record)
                setattr(between, way, _never)
        assert PIECES // 2 < between.cuts < 2 * PIECES, "the last places are behind the batch"
        await _assert_once(line, accounts)


class CancelledAt:
    """Runs a coroutine, and cancels it where it waits for the n-th time, and `again` where it waits next."""

    def __init__(self, work: Coroutine[Any, Any, None], waits: int, *, again: bool = False) -> None:
        self._work = work
        self._cancelled = {waits, waits + 1} if again else {waits}
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, None]:
        task = asyncio.current_task()
        assert task is not None
        running = self._work.__await__()
        sent: BaseException | None = None
        while True:
            try:
                awaited = running.throw(sent) if sent is not None else next(running)
            except StopIteration:
                return
            self.waits += 1
            if self.waits in self._cancelled:
                task.cancel()
            sent = None
            try:
                yield awaited
            except BaseException as error:
                sent = error


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
async def test_wherever_a_batch_is_cancelled_each_message_has_its_effect_once(
    ledger_engine: AsyncEngine, *, again: bool
) -> None:
    line, accounts, cancelled = Line(ledger_engine), [uuid4()], 0
    await line.handle(line.record(credit(accounts[0])))  # it has a connection, and the statements are prepared
    while True:
        accounts.append(uuid4())
        record = line.record(credit(accounts[-1]))
        attempt = CancelledAt(line.handle(record), cancelled + 1, again=again)
        task = asyncio.ensure_future(_await(attempt))
        with suppress(asyncio.CancelledError):
            await task
        await line.handle(record)
        if attempt.waits <= cancelled:
            break
        cancelled += 1
    assert cancelled >= 3, "a batch waits at least so often"
    await _assert_once(line, accounts)
    assert ledger_engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def _await(attempt: CancelledAt) -> None:
    await attempt


@pytest.mark.parametrize("forget", ["DEALLOCATE ALL", "DISCARD ALL"])
async def test_what_the_server_has_forgotten_is_prepared_anew_on_other_connections(
    ledger_url: str, forget: str
) -> None:
    engine = postgres.engine(ledger_url, 1)
    line, accounts = Line(engine), [uuid4(), uuid4()]
    await line.handle(line.record(credit(accounts[0])))
    async with postgres.autocommitting(engine) as connection:
        await (await postgres.driver_of(connection)).execute(forget, prepare=False)
    assert await _until_handled(line, line.record(credit(accounts[1]))) == 1
    await _assert_once(line, accounts)
    await engine.dispose()


async def test_a_migration_under_a_prepared_statement_is_an_outage_of_one_attempt(
    ledger_url: str, ledger_engine: AsyncEngine
) -> None:
    """PostgreSQL: "cached plan must not change result type"."""
    database, row = PostgresDatabase(ledger_engine), Account(uuid4(), 1, 0, 1)
    async with database.begin() as tx:
        await tx.save([new(row)])
    await _read(database, row)
    execute(ledger_url, "ALTER TABLE accounts ALTER balance_units TYPE integer")
    with pytest.raises(Outage) as outage:
        await _read(database, row)
    assert outage.value.cause is Cause.SCHEMA
    await _read(database, row)


async def _read(database: PostgresDatabase, row: Account) -> None:
    async with database.begin() as tx:
        assert (await tx.fetch(ACCOUNTS, [row.id]))[row.id] == row


_ECHO = sa.select(sa.bindparam("bytes_", type_=Bytes()))


async def test_large_parameters_and_large_answers_in_one_trip_do_not_wait_for_each_other(
    ledger_engine: AsyncEngine,
) -> None:
    """Either side must read while it writes: neither's socket holds so much."""
    piece, pieces = b"x" * (16 << 20), 4
    async with asyncio.timeout(30), PostgresDatabase(ledger_engine).begin() as tx:
        asked = [tx.ask(_ECHO, {"bytes_": piece}, lambda rows: len(rows[0][0])) for _ in range(pieces)]
        assert [await answer for answer in asked] == [len(piece)] * pieces


async def test_a_row_that_cannot_be_read_costs_the_connection_since_the_rest_of_the_trip_is_unread(
    ledger_url: str,
) -> None:
    engine = postgres.engine(ledger_url, 1)
    database, row = PostgresDatabase(engine), Account(uuid4(), 1, 0, 1)
    async with database.begin() as tx:
        await tx.save([new(row)])
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  (what matters is that it surfaces)
        async with database.begin() as tx:
            await tx.save([new(Account(uuid4(), 1, 0, 1))])
            broken = tx.ask(_ECHO, {"bytes_": b"1"}, lambda _: 1 // 0)
            tx.ask(_ECHO, {"bytes_": b"2"}, list)
            await broken
    await _read(database, row)
    assert execute(ledger_url, "SELECT count(*) FROM accounts") == [(1,)]
    await engine.dispose()


def _text(tx: PostgresTransaction, text: str) -> Any:
    return tx.ask(sa.select(sa.bindparam("text_", type_=sa.Text())), {"text_": text}, list)


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
async def test_text_that_postgresql_does_not_hold_is_the_messages_fault(
    ledger_url: str, ledger_engine: AsyncEngine, text: str
) -> None:
    with pytest.raises((psycopg.DataError, UnicodeEncodeError)):  # noqa: PT012  (what matters is that it surfaces)
        async with PostgresDatabase(ledger_engine).begin() as tx:
            await tx.save([new(Account(uuid4(), 1, 0, 1))])
            await _text(tx, text)
    await _assert_works(ledger_url, ledger_engine)


async def test_a_number_that_is_too_large_is_the_messages_fault(ledger_url: str, ledger_engine: AsyncEngine) -> None:
    with pytest.raises(Exception, match="int too large") as refused:  # noqa: PT012
        async with PostgresDatabase(ledger_engine).begin() as tx:
            await tx.save([new(Account(uuid4(), 1, 0, 1))])
            await tx.save([new(Account(uuid4(), 1 << 63, 0, 1))])
    assert not isinstance(refused.value, Outage | Conflict)
    await _assert_works(ledger_url, ledger_engine)


async def _assert_works(url: str, engine: AsyncEngine) -> None:
    """Nothing is left of what went wrong, and the next one works."""
    assert execute(url, "SELECT count(*) FROM accounts") == [(0,)]
    async with PostgresDatabase(engine).begin() as tx:
        await tx.save([new(Account(uuid4(), 1, 0, 1))])
    assert execute(url, "SELECT count(*) FROM accounts") == [(1,)]
    assert execute(url, "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'") == [(0,)]


@pytest.mark.parametrize(("setting", "cause"), [("lock_timeout", Cause.LOCKED), ("statement_timeout", Cause.AWAY)])
async def test_whoever_waits_too_long_for_a_lock_tries_again(
    ledger_url: str, ledger_engine: AsyncEngine, setting: str, cause: Cause
) -> None:
    engine = postgres.engine(ledger_url, 2, **{setting: "1s"})
    database, row = PostgresDatabase(engine), Account(uuid4(), 1, 0, 1)
    async with database.begin() as tx:
        await tx.save([new(row)])
    async with PostgresDatabase(ledger_engine).begin() as holder:
        await holder.fetch(ACCOUNTS, [row.id])
        with pytest.raises(Outage) as outage:
            await _read(database, row)
    assert outage.value.cause is cause
    await _read(database, row)
    await engine.dispose()


async def test_an_exhausted_pool_is_an_outage(ledger_url: str) -> None:
    engine = postgres.engine(ledger_url, 1)
    database, row = PostgresDatabase(engine), Account(uuid4(), 1, 0, 1)
    async with database.begin() as tx:
        await tx.save([new(row)])
    engine.pool._timeout = 0.1  # type: ignore[attr-defined]
    held = [await engine.connect() for _ in range(3)]
    with pytest.raises(Outage):
        await _read(database, row)
    for connection in held:
        await connection.invalidate()
    await _read(database, row)
    await engine.dispose()


async def test_nothing_that_is_asked_after_a_failure_is_done_even_if_the_failure_is_passed_over(
    ledger_url: str, ledger_engine: AsyncEngine
) -> None:
    """Not even if it was BEGIN that failed: there is no transaction then that would undo the rest."""
    with pytest.raises(Outage):  # noqa: PT012  (what matters is that nothing is written)
        async with PostgresDatabase(ledger_engine).begin() as tx:
            tx.pipeline._prepared.add(BEGIN.name)  # as if the server had forgotten it
            with suppress(psycopg.Error):
                await tx.fetch(ACCOUNTS, [uuid4()])
            tx.pipeline._prepared.clear()
            await tx.save([new(Account(uuid4(), 1, 0, 1))])
    assert execute(ledger_url, "SELECT count(*) FROM accounts") == [(0,)]


async def test_an_answer_that_was_lost_with_its_connection_is_an_error_whenever_it_is_awaited(
    ledger_url: str, ledger_engine: AsyncEngine
) -> None:
    with pytest.raises(Outage):  # noqa: PT012
        async with PostgresDatabase(ledger_engine).begin() as tx:
            await tx.fetch(ACCOUNTS, [uuid4()])
            execute(
                ledger_url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND state = 'idle in transaction'",
            )
            asked = [tx.fetch(ACCOUNTS, [uuid4()]) for _ in range(2)]
            for answer in asked:
                with pytest.raises(psycopg.Error):
                    await answer
