"""The consumer and the service around it: what comes is handled once, whatever it is and whoever dies."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import psycopg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from confluent_kafka import Consumer as GroupReader
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.product import ServiceProcess
from deploy.local.stack import Stack
from deploy.operator.cli.wire import Watch
from deploy.operator.kafka import ADMIN
from deploy.operator.log import Reader
from popfax_contracts.ledger import CreditUnits, UnitsCredited
from popfax_contracts.topics import LEDGER_COMMANDS, Principal
from services.chassis import client_state, kafka, migrate
from services.chassis.consumer import Consumer
from services.chassis.database import Cause, Outage, Why
from services.chassis.envelopes import UNREADABLE_HEADERS
from services.chassis.postgres import stored_record
from tests.e2e.driver import Headers, Log, Wire, wait
from tests.integration.recorder import (
    NO_DATABASE,
    Recorder,
    consuming,
    count,
    credit,
    effects,
    eventually,
    execute,
    parked,
    plain,
    settings,
)

TOPIC = LEDGER_COMMANDS.name


@pytest.fixture
def wire(stack: Stack) -> Wire:
    """The platform, which writes commands. The ledger's group begins where the topic ends now."""
    _skip_to_end(stack)
    return Wire(stack.kafka)


def _group(stack: Stack) -> GroupReader:
    config = stack.kafka.client_config(Principal.LEDGER) | {"group.id": Principal.LEDGER.value}
    return GroupReader(config | {"enable.auto.commit": "false"})


def _places() -> list[TopicPartition]:
    return [TopicPartition(TOPIC, number) for number in range(LEDGER_COMMANDS.partitions)]


def _partition(key: UUID) -> int:
    return kafka.partition_of(str(key), LEDGER_COMMANDS.partitions)


def _skip_to_end(stack: Stack) -> None:
    group = _group(stack)
    ends = [group.get_watermark_offsets(place, timeout=10)[1] for place in _places()]
    offsets = [TopicPartition(TOPIC, number, end) for number, end in enumerate(ends)]

    def is_committed() -> bool:
        try:  # refused while the group has a member: one that was killed is one until its session expires
            return all(each.error is None for each in group.commit(offsets=offsets, asynchronous=False) or [])
        except KafkaException:
            return False

    wait(is_committed, "the group is empty")
    group.close()


def _committed(stack: Stack) -> int:
    """How far the group has committed, over all partitions."""
    group = _group(stack)
    try:
        return sum(max(place.offset, 0) for place in group.committed(_places(), timeout=10))
    finally:
        group.close()


@dataclass
class Commands:
    """Credits to a few accounts, numbered on each: 1, 2, 3, …"""

    accounts: list[UUID] = field(default_factory=lambda: [uuid4() for _ in range(20)])
    sent: int = 0

    def send(self, wire: Wire, each: int) -> None:
        first = self.sent // len(self.accounts)
        for number in range(first + 1, first + each + 1):
            for account in self.accounts:
                wire.send(credit(account, number))
        self.sent += each * len(self.accounts)
        wire.flush()

    async def assert_each_once_in_order(self, engine: AsyncEngine) -> None:
        done: dict[UUID, list[int]] = {account: [] for account in self.accounts}
        for effect in await effects(engine, self.accounts):
            done[effect.account_id].append(effect.amount_units)
        numbers = list(range(1, self.sent // len(self.accounts) + 1))
        assert {account: found for account, found in done.items() if found != numbers} == {}


def _headers(body: CreditUnits, **changed: bytes | None) -> Headers:
    made: dict[str, bytes | None] = {"ce_id": str(uuid4()).encode(), "ce_type": body.TYPE.encode()}
    return list((made | changed).items())


class TestPoison:
    async def test_what_cannot_be_read_is_parked_with_its_reason_and_the_rest_is_handled(
        self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine, wire: Wire
    ) -> None:
        account, other = uuid4(), uuid4()
        key, good = str(account).encode(), credit(account)
        value, huge = good.to_json(), b"x" * 700_000
        poison: list[tuple[bytes | None, bytes | None, Headers, str]] = [
            (key, value, _headers(good, ce_type=b"\xff\xfe"), "unknown_type"),
            (key, value, _headers(good, ce_type=None), "unknown_type"),
            (key, value, _headers(good, ce_type=b"t" + huge), "unknown_type"),
            (key, value, _headers(good, ce_type=b"a\x00b"), "unknown_type"),
            (key, value, [], "unknown_type"),
            (key, value, _headers(good, ce_id=b"\xff"), "malformed_envelope"),
            (key, value, _headers(good, ce_id=None), "malformed_envelope"),
            (key, value, _headers(good, ce_type=UnitsCredited.TYPE.encode()), "unknown_type"),
            (None, value, _headers(good), "wrong_key"),
            (b"\xff\x00", value, _headers(good), "wrong_key"),
            (key, None, _headers(good), "malformed_command"),
            (key, b"\xff{", _headers(good, other=b"\xff\x00"), "malformed_command"),
            (key, b'{"credit_id":"\x00"}', _headers(good, ce_correlationid=b"a\x00b"), "malformed_envelope"),
            (key, value, _headers(good, ce_actor=b"nobody"), "malformed_envelope"),
            (key, value, _headers(good, ce_correlationid=b"\xff"), "malformed_envelope"),
        ]
        tolerable: list[tuple[CreditUnits, Headers]] = [
            (body := credit(account, 1), _headers(body)),
            (body := credit(account, 2), _headers(body, other=b"\xff\xfe")),
            (body := credit(account, 3), _headers(body, other=huge)),
            (body := credit(account, 4), _headers(body, other=None, traceparent=b"\x00")),
            (body := credit(account, 5), _headers(body, ce_correlationid=b"order 7")),
        ]
        for number, (bad_key, bad_value, headers, _) in enumerate(poison):
            wire.send_raw(TOPIC, bad_key, bad_value, headers, partition=3)
            if number < len(tolerable):
                body, good_headers = tolerable[number]
                wire.send_raw(TOPIC, key, body.to_json(), good_headers, partition=3)
        wire.send(credit(other, 1))
        wire.flush()
        async with consuming(stack, ledger_url, Recorder().service):
            await eventually(lambda: _handled(ledger_engine, [account, other], 6), "the good ones")
            await eventually(lambda: _parked(ledger_engine, len(poison)), "the bad ones")
        assert [e.amount_units for e in await effects(ledger_engine, [account])] == [1, 2, 3, 4, 5]
        rows = await parked(ledger_engine)
        assert [(row.why, row.code) for row in rows] == [(Why.UNDECODABLE, code) for *_, code in poison]
        for row, (bad_key, bad_value, headers, _) in zip(rows, poison, strict=True):
            kept = stored_record(row)
            assert (kept.key, kept.value) == (bad_key, bad_value)
            assert list(kept.headers) == list(headers)

    async def test_a_header_whose_name_is_neither_utf8_nor_text_stops_nothing(
        self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine, wire: Wire
    ) -> None:
        accounts = [uuid4() for _ in range(30)]
        # On all partitions: what is drained together with the bad one must not be lost. And enough of them for Python
        # to specialize the code that reads headers, which is when the client's fault in it goes unnoticed.
        for number in range(10):
            for account in accounts:
                wire.send(credit(account, number + 1))
        wire.flush()
        unreadable = credit(accounts[0], 99)
        await _send_with_bad_name(
            stack, [(unreadable.key().encode(), unreadable.to_json(), _headers(unreadable)) for _ in range(3)]
        )
        for account in accounts:
            wire.send(credit(account, 11))
        wire.flush()
        async with consuming(stack, ledger_url, Recorder().service):
            await eventually(lambda: _handled(ledger_engine, accounts, 330), "all of them")
            await eventually(lambda: _parked(ledger_engine, 3), "the unreadable ones")
        done = await effects(ledger_engine, accounts)
        assert [e.amount_units for e in done if e.account_id == accounts[0]] == list(range(1, 12))
        assert len(done) == 330
        for row in await parked(ledger_engine):
            kept = stored_record(row)
            whole = ("malformed_envelope", unreadable.key().encode(), unreadable.to_json())
            assert (row.code, kept.key, kept.value) == whole
            assert list(kept.headers) == list(UNREADABLE_HEADERS)

        admin = stack.kafka.client_config(ADMIN)
        assert {record.id for record in Reader(admin, [LEDGER_COMMANDS], lambda _: None).read()}, "the audit reads on"
        with Watch(admin, [LEDGER_COMMANDS], group="tests", from_beginning=True) as watch:
            seen = await asyncio.to_thread(watch.to_end, 30)
        assert len([each for each in seen if each.body and each.body.key() == str(accounts[1])]) == 11


class _NotUtf8(str):
    """A header's name that goes out as it is."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return self.__str__().encode("latin-1")

    def __str__(self) -> str:
        return "".join(self)


async def _send_with_bad_name(stack: Stack, records: Sequence[tuple[bytes, bytes, Headers]]) -> None:
    """Publish records with a header that no proper client would write, after good ones in the same batch."""
    given = settings(stack, NO_DATABASE, Principal.PLATFORM)
    producer = AIOKafkaProducer(**kafka.client(given), acks="all")
    await producer.start()
    try:
        batch = producer.create_batch()
        batch._builder = _DefaultRecordBatchBuilderPy(2, 0, False, -1, -1, -1, 1 << 20)
        for key, value, headers in records:
            raw = [*headers, (_NotUtf8("na\xffm\x00e"), b"1")]
            assert batch.append(key=key, value=value, timestamp=None, headers=raw) is not None
        partition = kafka.partition_of(records[0][0].decode(), LEDGER_COMMANDS.partitions)
        await (await producer.send_batch(batch, TOPIC, partition=partition))
    finally:
        await producer.stop()


async def _handled(engine: AsyncEngine, accounts: Sequence[UUID], wanted: int) -> bool:
    return len(await effects(engine, accounts)) >= wanted


async def _parked(engine: AsyncEngine, wanted: int) -> bool:
    return await count(engine, "parked") >= wanted


def _balances(url: str, commands: Commands) -> set[int]:
    rows = execute(url, "SELECT balance_units FROM accounts WHERE id = ANY(%s)", commands.accounts)
    assert len(rows) == len(commands.accounts)
    return {units for (units,) in rows}


async def _has(engine: AsyncEngine, table: str, wanted: int) -> bool:
    return await count(engine, table) >= wanted


def _waits_for_lock(url: str) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(execute(url, query)[0][0])


@contextmanager
def _held(url: str, statement: str) -> Iterator[None]:
    """A lock that another connection holds meanwhile."""
    with psycopg.connect(plain(url)) as connection:
        connection.execute(statement.encode())
        yield


def _metric(service: ServiceProcess, name: str) -> float:
    with urllib.request.urlopen(f"{service.url}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found = [line.rsplit(" ", 1) for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
    assert found, f"{name} has no series"
    return sum(float(value) for _, value in found)


def _raise(errors: Sequence[Exception]) -> None:
    for error in errors:
        raise error


class TestReplicas:
    async def test_of_two_that_come_and_go_none_repeats_or_loses_anything(
        self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine, wire: Wire
    ) -> None:
        commands, service = Commands(), Recorder().service

        async def progress(share: float) -> None:
            await eventually(lambda: _handled(ledger_engine, commands.accounts, int(commands.sent * share)), "progress")

        async with consuming(stack, ledger_url, service, batch_records=50) as first:
            await eventually(lambda: first.trouble() is None, "the first in the group")
            await asyncio.to_thread(commands.send, wire, 200)
            await progress(0.1)
            async with consuming(stack, ledger_url, service, batch_records=50) as second:
                await eventually(lambda: second.trouble() is None, "the second in the group")
                await asyncio.to_thread(commands.send, wire, 100)
                await progress(0.5)
                await first.stop()
                await asyncio.to_thread(commands.send, wire, 50)
                await progress(1.0)
        await commands.assert_each_once_in_order(ledger_engine)
        assert await count(ledger_engine, "parked") == 0

    async def test_what_one_hands_over_while_it_waits_flows_again_when_it_comes_back(
        self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine, wire: Wire
    ) -> None:
        """It pauses its partitions while it waits, and librdkafka keeps them paused across an assignment."""
        commands, away = Commands(), [Outage("told to fail", Cause.AWAY)]
        waiting = Recorder(before=lambda: _raise(away)).service

        async def done() -> None:
            await eventually(lambda: _handled(ledger_engine, commands.accounts, commands.sent), "all are handled")

        async with consuming(stack, ledger_url, waiting) as first:
            await eventually(lambda: first.trouble() is None, "the first in the group")
            await asyncio.to_thread(commands.send, wire, 1)
            await eventually(lambda: first.shell.outages.waits, "it waits")
            async with consuming(stack, ledger_url, Recorder().service) as second:
                await eventually(
                    lambda: second.trouble() is None and len(second._owned) > 1, "the second has its share"
                )
                away.clear()
                await done()
            await eventually(lambda: len(first._owned) == LEDGER_COMMANDS.partitions, "the first has all of them again")
            await asyncio.to_thread(commands.send, wire, 1)
            await done()
            assert first.shell.outages.trouble() is None
        await commands.assert_each_once_in_order(ledger_engine)


HANGS = """
import ctypes, pathlib, threading, time
from services.chassis import watchdog
from services.ledger import app

watchdog.HUNG_S, watchdog.EVERY_S = 10.0, 0.5

def hang_when_told():
    while not pathlib.Path({told!r}).exists():
        time.sleep(0.1)
    ctypes.PyDLL(None).sleep(600)

threading.Thread(target=hang_when_told, daemon=True).start()
app.main()
"""
"""The ledger's process, until C code hangs that has the interpreter's lock, as librdkafka may."""


class TestProcess:
    async def test_one_that_hangs_ends_by_itself_and_shows_where(
        self, stack: Stack, ledger_url: str, tmp_path: Path
    ) -> None:
        told, log = tmp_path / "told", stack.directory / "ledger.log"
        service = ServiceProcess(Principal.LEDGER, stack, run=("-c", HANGS.format(told=str(told))))
        service.launch(database_url=ledger_url)
        try:
            await asyncio.to_thread(service.wait_ready)
            told.touch()
            await asyncio.to_thread(psutil.Process(service.pid).wait, 60)
            assert "hang_when_told" in log.read_text()
        finally:
            service.kill()

    async def test_sigterm_finishes_the_batch_commits_and_exits_with_0(
        self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine, wire: Wire
    ) -> None:
        commands, before = Commands(), _committed(stack)
        service = ServiceProcess(Principal.LEDGER, stack)
        service.launch(database_url=ledger_url, batch_records="200", offset_commit_s="10")
        await asyncio.to_thread(service.wait_ready)
        commands.send(wire, 200)
        await eventually(lambda: _has(ledger_engine, "inbox", 100), "it is at work")
        began = time.monotonic()
        code = await asyncio.to_thread(service.stop)
        assert code == 0
        assert time.monotonic() - began < 10
        handled = await count(ledger_engine, "inbox")
        assert _committed(stack) == before + handled, "what is done is committed, and nothing else"
        service.launch(database_url=ledger_url)
        try:
            await eventually(lambda: _has(ledger_engine, "inbox", commands.sent), "the rest")
            assert _metric(service, "popfax_messages_duplicate_total") == 0
        finally:
            service.stop()
        assert _balances(ledger_url, commands) == {sum(range(1, 201))}

    async def test_what_a_service_says_of_itself_is_true_through_outages(self, fragile: Stack) -> None:
        fragile.kafka.stop()
        fragile.postgres.stop()
        service = ServiceProcess(Principal.LEDGER, fragile)
        service.launch()
        try:
            await eventually(lambda: _status(service, "live") == (200, {"live": True}), "alive, with nothing there")
            status, said = _status(service, "ready")
            assert (status, said["database"], said["kafka"]) == (503, False, False)
            assert said["why"].keys() == {"database", "kafka"}
            await asyncio.to_thread(fragile.postgres.start)
            assert not service.ready(), "there are no tables yet"
            migrate.upgrade(Principal.LEDGER, fragile.postgres.url(Principal.LEDGER))
            await _says(service, {"database": True, "kafka": False})
            await asyncio.to_thread(fragile.kafka.start)
            await _says(service, {"database": True, "kafka": True})
            assert _status(service, "ready")[0] == 200
            await asyncio.to_thread(_answers, fragile)

            await asyncio.to_thread(fragile.postgres.kill)
            await _says(service, {"database": False, "kafka": True})
            assert _status(service, "live")[0] == 200, "a restart of the service would not help"
            sent = credit(uuid4())
            wire, log = Wire(fragile.kafka), Log(fragile.kafka)
            id_ = wire.send(sent)
            wire.flush()
            await eventually(lambda: _metric(service, "popfax_outages_total") > 0, "an outage is counted")
            await asyncio.to_thread(fragile.postgres.start)
            await _says(service, {"database": True, "kafka": True})
            found = await asyncio.to_thread(log.outcome, id_, UnitsCredited)
            assert found["credit_id"] == str(sent.credit_id)
            await eventually(lambda: _metric(service, "popfax_messages_handled_total") == 2, "both are counted")
            await eventually(lambda: _metric(service, "popfax_relay_leader") == 1, "its relay leads")
            log.close()
        finally:
            assert service.stop() == 0


def _answers(stack: Stack) -> None:
    """It does what it is there for."""
    wire, log = Wire(stack.kafka), Log(stack.kafka)
    id_ = wire.send(credit(uuid4()))
    wire.flush()
    log.outcome(id_, UnitsCredited)
    log.close()


async def _says(service: ServiceProcess, expected: dict[str, bool]) -> None:
    def says() -> bool:
        said = _status(service, "ready")[1]
        return bool(said and {name: said[name] for name in expected} == expected)

    await eventually(says, f"/ready says {expected}", 40)


def _status(service: ServiceProcess, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"{service.url}/{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError:
        return 0, None


class TestOffsets:
    async def test_none_is_committed_before_the_database_has_committed(
        self, stack: Stack, ledger_url: str, wire: Wire
    ) -> None:
        commands, before = Commands(), _committed(stack)
        service = ServiceProcess(Principal.LEDGER, stack)
        service.launch(database_url=ledger_url, offset_commit_s="0.05", replica="a")
        try:
            await asyncio.to_thread(service.wait_ready)
            with _held(ledger_url, "LOCK TABLE outbox IN EXCLUSIVE MODE"):  # the last thing that a batch writes to
                commands.send(wire, 10)
                await eventually(lambda: _waits_for_lock(ledger_url), "a batch before its commit")
                assert _committed(stack) == before
                service.kill()  # its COMMIT is on the way with its writes: the server decides whether it counts
            assert _committed(stack) == before
            service.launch(database_url=ledger_url, offset_commit_s="0.05", replica="a")
            # If the server counts it, they are in the inbox before the next process has read anything.
            await eventually(lambda: _committed(stack) == before + commands.sent, "all offsets, after the crash")
        finally:
            service.stop()
        assert _balances(ledger_url, commands) == {55}

    async def test_a_commit_whose_failure_is_told_late_does_not_undo_a_later_one(
        self, stack: Stack, ledger_url: str, wire: Wire
    ) -> None:
        before, account = _committed(stack), uuid4()
        elsewhere = next(id_ for id_ in iter(uuid4, None) if _partition(id_) != _partition(account))
        async with consuming(stack, ledger_url, Recorder().service) as consumer:
            wire.send(credit(account))
            wire.flush()
            await eventually(lambda: _committed(stack) == before + 1, "the first offset")
            ((place, newest),) = consumer._asked.items()
            consumer._on_commit(KafkaError(KafkaError.REQUEST_TIMED_OUT), [TopicPartition(*place, newest - 1)])
            wire.send(credit(elsewhere))
            wire.flush()
            await eventually(lambda: _committed(stack) == before + 2, "the second one")

    async def test_what_was_committed_before_a_start_is_no_lag(self, stack: Stack, ledger_url: str, wire: Wire) -> None:
        before, account = _committed(stack), uuid4()
        service = Recorder().service
        async with consuming(stack, ledger_url, service):
            for _ in range(3):
                wire.send(credit(account))
            wire.flush()
            await eventually(lambda: _committed(stack) == before + 3, "all three offsets")
        async with consuming(stack, ledger_url, service) as again:
            owns = LEDGER_COMMANDS.partitions
            await eventually(lambda: len(again._state._ends) == owns, "it knows where its partitions end", within_s=30)
            assert again._state.lags([TOPIC], {})[TOPIC] >= 3, "librdkafka does not know by itself where it begins"
            assert REGISTRY.get_sample_value("popfax_consumer_lag_messages", {"topic": TOPIC}) == 0


async def _in_its_thread(consumer: Consumer, do: Callable[[], None]) -> None:
    """Have the thread do something that owns the client: another one would wait for it, and it for that one."""
    usual, done = consumer._try_stopped, asyncio.Event()

    def first() -> None:
        do()
        consumer._try_stopped = usual  # type: ignore[method-assign]
        consumer._loop.call_soon_threadsafe(done.set)

    consumer._try_stopped = first  # type: ignore[method-assign]
    await done.wait()


class TestHealth:
    async def test_a_partition_that_has_more_and_is_not_read_makes_a_replica_unready(
        self, stack: Stack, ledger_url: str, wire: Wire, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """librdkafka calls it active, whatever the reason."""
        account = uuid4()
        place = TopicPartition(TOPIC, _partition(account))
        monkeypatch.setattr(client_state, "UNREAD_S", 2.0)
        async with consuming(stack, ledger_url, Recorder().service) as consumer:
            await eventually(lambda: consumer.trouble() is None, "in the group")
            await _in_its_thread(consumer, lambda: consumer._client.pause([place]))
            wire.send(credit(account))
            wire.flush()
            await eventually(lambda: "is not read" in (consumer.trouble() or ""), "it says so", within_s=30)
            await _in_its_thread(consumer, lambda: consumer._client.resume([place]))
            await eventually(lambda: consumer.trouble() is None, "it is read")
