"""The outbox and its relay, on a real PostgreSQL and a real broker: nothing lost, and in order on each key."""

import asyncio
import os
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from socket import SHUT_RDWR, socket
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from deploy.local.stack import Stack
from popfax_contracts.groups import MembershipEnded, MembershipRecorded
from popfax_contracts.ledger import UnitsCredited
from popfax_contracts.message import Message
from popfax_contracts.topics import GROUPS_MEMBERS, LEDGER_EVENTS, Principal
from services.chassis import metrics, postgres
from services.chassis.messages import Incoming, Outgoing, decode
from services.chassis.postgres import PostgresDatabase
from services.chassis.relay import Relay, publish
from services.chassis.wakeups import Bell
from services.ledger.domain import Account, moved
from services.ledger.tables import ACCOUNTS
from tests.e2e.driver import Log, Seen, first_occurrences
from tests.integration.recorder import (
    count,
    eventually,
    execute,
    scratch_database,
    settings,
)

KEYS = 5


@pytest.fixture
def accounts(ledger_url: str) -> list[UUID]:
    return _make_accounts(ledger_url)


@pytest.fixture
def log(stack: Stack) -> Iterator[Log]:
    made = Log(stack.kafka, [LEDGER_EVENTS])
    yield made
    made.close()


def _make_accounts(url: str) -> list[UUID]:
    made = [uuid4() for _ in range(KEYS)]
    for account in made:
        execute(url, "INSERT INTO accounts VALUES (%s, 0, 0, 0)", account)
    return made


def _out(account: UUID, number: int) -> Outgoing:
    return _enveloped(UnitsCredited(credit_id=uuid4(), account_id=account, amount_units=number))


def _enveloped(body: Message) -> Outgoing:
    return Outgoing(uuid4(), body.TYPE, body.key(), body.to_json(), str(uuid4()), str(uuid4()), None, None)


async def _append(engine: AsyncEngine, *bodies: Message) -> None:
    async with PostgresDatabase(engine).begin() as tx:
        await tx.send([_enveloped(body) for body in bodies], datetime.now(UTC))


async def _write(
    database: PostgresDatabase,
    account: UUID,
    messages: int,
    before_commit: asyncio.Event | None = None,
    pause: float = 0,
) -> None:
    """One transaction that does what a batch does: locks its aggregate, and numbers its messages under the lock."""
    async with database.begin() as tx:
        rows = await tx.fetch(ACCOUNTS, [account])
        row: Account = rows[account]
        out = []
        for _ in range(messages):
            row = moved(row, 1)
            out.append(_out(account, row.balance_units))
        rows.put(row)
        await tx.save([rows])
        await tx.send(out, datetime.now(UTC))
        await tx.pipeline.flush()  # a batch has its numbers only with its commit; here they are to be early
        if before_commit is not None:
            await before_commit.wait()
        await asyncio.sleep(pause)  # what makes transactions commit in another order than they numbered their rows


@asynccontextmanager
async def relaying(stack: Stack, url: str, principal: Principal = Principal.LEDGER) -> AsyncIterator[Relay]:
    engine = postgres.engine(url, 3)
    relay = Relay(principal, engine, settings(stack, url, principal))
    running = asyncio.create_task(relay.run())
    try:
        yield relay
        assert not running.done(), "a relay runs until it is cancelled"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await engine.dispose()


async def _read(log: Log, accounts: Sequence[UUID], wanted: int) -> list[Seen]:
    """Wait for so many different messages of these accounts, and give all records of them."""
    keys = {str(account).encode() for account in accounts}

    def found() -> list[Seen]:
        return [seen for seen in log.seen if seen.key in keys]

    async def enough() -> bool:
        await asyncio.to_thread(log.read)
        return len({seen.id for seen in found()}) >= wanted

    await eventually(enough, f"{wanted} messages in Kafka")
    await asyncio.to_thread(log.read_to_end)
    return found()


def _by_key(records: Sequence[Seen]) -> dict[bytes, list[int]]:
    numbers: dict[bytes, list[int]] = defaultdict(list)
    for seen in first_occurrences(records):
        numbers[seen.key or b""].append(seen["amount_units"])
    return numbers


def _assert_all_in_order(records: Sequence[Seen], expected: dict[UUID, int]) -> None:
    in_order = {str(account).encode(): list(range(1, number + 1)) for account, number in expected.items()}
    assert _by_key(records) == in_order


async def _leader(engine: AsyncEngine) -> int | None:
    """The PostgreSQL process that holds the relay's lock."""
    query = sa.text(
        "SELECT pid FROM pg_locks JOIN pg_database ON pg_database.oid = database"
        " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
    )
    async with engine.connect() as connection:
        return (await connection.execute(query)).scalar()


async def _socket_of_leader(engine: AsyncEngine) -> int:
    """The number of the socket at which this process holds the relay's lock."""
    query = sa.text("SELECT client_port FROM pg_stat_activity WHERE pid = :pid")
    pid = await _leader(engine)
    async with engine.connect() as connection:
        port = (await connection.execute(query, {"pid": pid})).scalar()
    (found,) = [each.fd for each in psutil.Process().net_connections("tcp") if each.laddr.port == port]
    return found


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(1))
    writer.close()


async def _kill_leader(engine: AsyncEngine) -> None:
    pid = await _leader(engine)
    async with engine.connect() as connection:
        await connection.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})


class TestOrder:
    async def test_a_row_whose_transaction_commits_late_is_not_passed_over(
        self,
        stack: Stack,
        ledger_url: str,
        ledger_engine: AsyncEngine,
        accounts: list[UUID],
        log: Log,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(
            "services.chassis.relay.DEAD_ROWS", 1
        )  # each round that may move the floor asks whether it can
        database, commit = PostgresDatabase(ledger_engine), asyncio.Event()
        async with relaying(stack, ledger_url):
            late = asyncio.create_task(_write(database, accounts[0], 3, before_commit=commit))
            # It has its numbers, and waits: what is written now has higher ones, and is relayed before.
            sequence = sa.text("SELECT is_called FROM outbox_seq_seq")

            async def has_numbers() -> bool:
                async with ledger_engine.connect() as connection:
                    return bool((await connection.execute(sequence)).scalar())

            await eventually(has_numbers, "the late transaction's rows")
            await _write(database, accounts[1], 3)
            assert len(await _read(log, accounts, 3)) == 3
            await _write(database, accounts[1], 1)  # in its round the floor would move behind the first three
            assert len(await _read(log, accounts, 4)) == 4
            commit.set()
            await late
            await _write(database, accounts[0], 1)  # numbered after all of them, and seen together with the late ones
            _assert_all_in_order(await _read(log, accounts, 8), {accounts[0]: 4, accounts[1]: 4})

    async def test_each_key_keeps_its_commit_order_under_concurrent_writers(
        self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine, accounts: list[UUID], log: Log
    ) -> None:
        database, chance = PostgresDatabase(ledger_engine), random.Random(1)
        written: dict[UUID, int] = defaultdict(int)

        async def writer(turns: int) -> None:
            for _ in range(turns):
                account, messages = chance.choice(accounts), chance.randint(1, 4)
                await _write(database, account, messages, pause=chance.random() / 100)
                written[account] += messages

        async with relaying(stack, ledger_url):
            await asyncio.gather(*(writer(30) for _ in range(6)))
            records = await _read(log, accounts, sum(written.values()))
            await eventually(lambda: _is_empty(ledger_engine), "an empty outbox")
        _assert_all_in_order(records, written)
        assert len(records) == sum(written.values()), "nothing failed, so nothing is there twice"

    async def test_full_rounds_delete_what_they_have_published_with_the_next_read(
        self,
        stack: Stack,
        ledger_url: str,
        ledger_engine: AsyncEngine,
        accounts: list[UUID],
        log: Log,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name, value in (("ROWS", 5), ("DEAD_ROWS", 3), ("POLL_S", 600.0)):
            monkeypatch.setattr(f"services.chassis.relay.{name}", value)
        await _write(PostgresDatabase(ledger_engine), accounts[0], 50)
        async with relaying(stack, ledger_url):
            records = await _read(log, accounts, 50)
            await eventually(lambda: _is_empty(ledger_engine), "an empty outbox, although the last round was full")
        _assert_all_in_order(records, {accounts[0]: 50})
        assert len(records) == 50, "no round reads what the one before it has published"


async def _is_empty(engine: AsyncEngine) -> bool:
    return await count(engine, "outbox") == 0


class TestFence:
    async def test_one_of_two_relays_publishes_and_the_other_takes_over(
        self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine, accounts: list[UUID], log: Log
    ) -> None:
        database = PostgresDatabase(ledger_engine)
        written: dict[UUID, int] = defaultdict(int)
        enough = asyncio.Event()

        async def writer(account: UUID) -> None:
            while not enough.is_set():
                await _write(database, account, 2, pause=0.002)
                written[account] += 2

        async with relaying(stack, ledger_url) as one:
            await eventually(lambda: one.working, "a leader")
            async with relaying(stack, ledger_url) as other:
                writers = [asyncio.create_task(writer(account)) for account in accounts]
                await _read(log, accounts, 100)
                assert one.working
                assert not other.working

                async def taken_over() -> bool:
                    if one.working:  # it may have been the faster one to lead again
                        await _kill_leader(ledger_engine)
                    return other.working

                await eventually(taken_over, "the other relay leads")
                before = sum(written.values())
                await eventually(lambda: sum(written.values()) > before + 100, "more to relay")
                enough.set()
                await asyncio.gather(*writers)
                records = await _read(log, accounts, sum(written.values()))
                await eventually(lambda: _is_empty(ledger_engine), "an empty outbox")
        _assert_all_in_order(records, written)

    async def test_a_relay_that_stands_by_leaves_the_pool_as_durable_as_it_was(
        self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine
    ) -> None:
        engine = postgres.engine(ledger_url, 3)
        relay = Relay(Principal.LEDGER, engine, settings(stack, ledger_url))
        async with relaying(stack, ledger_url) as leader:
            await eventually(lambda: leader.working, "a leader")
            running = asyncio.create_task(relay.run())
            query = sa.text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND query LIKE '%pg_try_advisory_lock%' AND pid <> pg_backend_pid()"
            )

            async def asked() -> bool:
                async with ledger_engine.connect() as connection:
                    return bool((await connection.execute(query)).scalar())

            await eventually(asked, "the second relay asks for the lock")
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        connections = [await engine.connect() for _ in range(3)]
        durable = [(await c.execute(sa.text("SHOW synchronous_commit"))).scalar() for c in connections]
        for connection in connections:
            await connection.close()
        await engine.dispose()
        assert durable == ["on"] * 3

    async def test_a_relay_without_a_broker_gives_the_lock_back(
        self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine
    ) -> None:
        engine = postgres.engine(ledger_url, 3)
        unreachable = settings(stack, ledger_url, kafka_bootstrap="127.0.0.1:1")
        failures = metrics.RELAY_FAILURES._value.get
        before = failures()
        running = asyncio.create_task(Relay(Principal.LEDGER, engine, unreachable).run())
        await eventually(lambda: failures() > before, "it led, in vain")
        async with relaying(stack, ledger_url) as other:
            await eventually(lambda: other.working, "who can reach the broker gets the lock")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await engine.dispose()


async def test_a_relay_ends_when_it_is_cancelled_as_kafkas_answer_arrives(
    stack: Stack,
    ledger_url: str,
    ledger_engine: AsyncEngine,
    accounts: Sequence[UUID],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def publish_and_be_cancelled(*arguments: Any) -> None:
        await publish(*arguments)
        running.cancel()

    monkeypatch.setattr("services.chassis.relay.publish", publish_and_be_cancelled)
    await _append(ledger_engine, UnitsCredited(credit_id=uuid4(), account_id=accounts[0], amount_units=1))
    engine = postgres.engine(ledger_url, 3)
    running = asyncio.create_task(Relay(Principal.LEDGER, engine, settings(stack, ledger_url)).run())
    _, going_on = await asyncio.wait({running}, timeout=10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await engine.dispose()
    assert not going_on


class TestWakeups:
    """This relay hardly ever looks by itself: whatever it publishes, it was woken for."""

    @pytest.fixture(autouse=True)
    def rest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("services.chassis.relay.POLL_S", 600.0)
        monkeypatch.setattr("services.chassis.relay.PAUSE_S", 0)  # no time-out

    async def test_another_process_rings_for_what_it_has_committed(
        self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine, accounts: list[UUID], log: Log
    ) -> None:
        bell = Bell(ledger_engine)
        async with relaying(stack, ledger_url) as leader:
            await eventually(lambda: leader.working, "a leader")
            for number in range(1, 4):
                await _write(PostgresDatabase(ledger_engine), accounts[0], 1)
                bell.ring()
                await _read(log, accounts, number)

    async def test_a_relay_that_stands_by_rings_for_what_its_process_has_committed(
        self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine, accounts: list[UUID], log: Log
    ) -> None:
        async with relaying(stack, ledger_url) as leader:
            await eventually(lambda: leader.working, "a leader")
            async with relaying(stack, ledger_url) as other:
                await _write(PostgresDatabase(ledger_engine), accounts[0], 1)
                other.wake()
                await _read(log, accounts, 1)

    async def test_the_end_of_its_session_wakes_it_and_in_the_next_one_it_listens_again(
        self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine, accounts: list[UUID], log: Log
    ) -> None:
        bell = Bell(ledger_engine)
        async with relaying(stack, ledger_url) as leader:
            await eventually(lambda: leader.working, "a leader")
            await _write(PostgresDatabase(ledger_engine), accounts[0], 1)  # nobody rings for it
            await _kill_leader(ledger_engine)
            await _read(log, accounts, 1)
            await eventually(lambda: leader.working, "it leads again")
            await _write(PostgresDatabase(ledger_engine), accounts[0], 1)
            bell.ring()
            await _read(log, accounts, 2)

    async def test_it_does_not_watch_the_socket_of_a_lost_connection_whose_number_another_gets(
        self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine
    ) -> None:
        """The event loop would take the other for the lost one: a connection to Kafka would never hear an answer."""
        server = await asyncio.start_server(_answer, "127.0.0.1")
        async with server, relaying(stack, ledger_url) as leader:
            await eventually(lambda: leader.working, "a leader")
            lost = await _socket_of_leader(ledger_engine)
            with socket(fileno=os.dup(lost)) as its:
                its.shutdown(SHUT_RDWR)
            await eventually(lambda: not leader.working, "it has noticed")
            connected = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(5)]
            assert lost in {writer.get_extra_info("socket").fileno() for _, writer in connected}
            for _, writer in connected:
                writer.write(b"x")
            async with asyncio.timeout(5):
                assert [await reader.read(1) for reader, _ in connected] == [b"x"] * 5
            for _, writer in connected:
                writer.close()

    async def test_a_storm_of_rings_costs_rounds_and_delays_nothing(
        self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine, accounts: list[UUID], log: Log
    ) -> None:
        storm = "SELECT pg_notify('outbox', n::text) FROM generate_series(1, 5000) n"  # different, or they would be one
        async with relaying(stack, ledger_url) as leader:
            await eventually(lambda: leader.working, "a leader")
            for number in range(1, 6):
                await asyncio.to_thread(execute, ledger_url, storm)
                await _write(PostgresDatabase(ledger_engine), accounts[0], 1)
                leader.wake()
                _assert_all_in_order(await _read(log, accounts, number), {accounts[0]: number})
            assert leader.working, "it has led all the time"

    async def test_ringing_without_a_database_is_no_error(self) -> None:
        nowhere = postgres.engine("postgresql+psycopg://ledger:x@127.0.0.1:1/ledger", 1)
        bell = Bell(nowhere)
        bell.ring()
        bell.ring()
        assert bell._ringing is not None
        await bell._ringing
        await nowhere.dispose()


class TestCrash:
    async def test_of_the_broker_while_relaying_loses_nothing(self, fragile: Stack) -> None:
        with scratch_database(fragile, Principal.LEDGER) as url:
            accounts, engine, log = _make_accounts(url), postgres.engine(url), Log(fragile.kafka, [LEDGER_EVENTS])
            database, expected = PostgresDatabase(engine), dict.fromkeys(accounts, 60)
            async with relaying(fragile, url):
                for turn in range(20):
                    await asyncio.gather(*(_write(database, account, 3) for account in accounts))
                    if turn == 7:
                        await _read(log, accounts, 1)
                        await asyncio.to_thread(fragile.kafka.kill)
                await asyncio.to_thread(fragile.kafka.start)
                records = await _read(log, accounts, sum(expected.values()))
                await eventually(lambda: _is_empty(engine), "an empty outbox")
            _assert_all_in_order(records, expected)
            log.close()
            await engine.dispose()


async def test_a_tombstone_has_no_value_on_the_wire_and_keeps_its_place_among_its_keys_records(
    stack: Stack, ledger_url: str, ledger_engine: AsyncEngine
) -> None:
    """The outbox is the same in every service's database: this one is the ledger's."""
    log = Log(stack.kafka, [GROUPS_MEMBERS])
    membership = uuid4()
    recorded = MembershipRecorded(
        membership_id=membership,
        group_id=uuid4(),
        owner_id=uuid4(),
        member_id=uuid4(),
        epoch=1,
        state="active",
        joined_at=datetime.now(UTC),
    )
    ended = MembershipEnded(membership_id=membership)
    again = recorded.model_copy(update={"epoch": 2})
    await _append(ledger_engine, recorded, ended, again, ended)
    async with relaying(stack, ledger_url, Principal.GROUPS):
        records = await _read(log, [membership], 4)
        await eventually(lambda: _is_empty(ledger_engine), "an empty outbox")
    log.close()
    assert [seen.value for seen in records] == [recorded.to_json(), None, again.to_json(), None]
    handled = {model.TYPE.encode(): model for model in (MembershipRecorded, MembershipEnded)}
    read = [decode(seen, handled, "") for seen in records]
    assert [incoming.body for incoming in read if isinstance(incoming, Incoming)] == [recorded, ended, again, ended]


async def test_a_type_that_this_version_does_not_know_waits_and_loses_nothing(
    stack: Stack,
    ledger_url: str,
    ledger_engine: AsyncEngine,
    accounts: list[UUID],
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.chassis.relay.STEP_ASIDE_S", 600.0)  # whoever leads next is another
    database, unknown = PostgresDatabase(ledger_engine), "popfax.ledger.of-a-newer-version.v1"
    for account in accounts:
        await _write(database, account, 2)
    execute(ledger_url, "UPDATE outbox SET type = %s WHERE seq = 3", unknown)
    met = metrics.RELAY_UNKNOWN._value.get
    before = met()
    with capture_logs() as said:
        async with relaying(stack, ledger_url) as relay:
            await eventually(lambda: met() > before, "it meets the type")
            assert not relay.working, "it gave up the lead, for a newer version to take"
            assert await count(ledger_engine, "outbox") == 8, "what came before is published, nothing that follows"
            async with relaying(stack, ledger_url):
                await eventually(lambda: met() > before + 1, "another one leads meanwhile, and meets it")
    assert {"event": "outbox_held", "type": unknown, "log_level": "error"} in said
    execute(ledger_url, "UPDATE outbox SET type = %s WHERE seq = 3", UnitsCredited.TYPE)  # as if this were newer
    async with relaying(stack, ledger_url):
        records = await _read(log, accounts, 10)
        await eventually(lambda: _is_empty(ledger_engine), "an empty outbox")
    _assert_all_in_order(records, dict.fromkeys(accounts, 2))
