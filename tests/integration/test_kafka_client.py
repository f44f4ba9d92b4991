"""What Kafka and its client really do: codecs, bad bytes, recreated topics, a frozen broker, a name that is taken."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import pytest
from confluent_kafka import Consumer as GroupReader
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from deploy.local.kafka import KafkaBroker
from deploy.local.product import ServiceProcess
from deploy.local.stack import Stack
from deploy.operator import topics
from deploy.operator.kafka import ADMIN
from deploy.operator.topic_settings import ONE_BROKER
from popfax_contracts.ledger import CreditUnits
from popfax_contracts.topics import LEDGER_COMMANDS, Principal
from services.chassis import client_state, kafka, topic_ids
from services.chassis import consumer as consumer_module
from services.chassis.client_state import ClientState
from tests.e2e.driver import wait
from tests.integration.recorder import Recorder, consuming, count, credit, effects, eventually, execute, parked
from tests.integration.test_waiting import closes

TOPIC = LEDGER_COMMANDS.name
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


def _producer(stack: Stack, codec: str = "none") -> Producer:
    """A producer that sends nothing before it is flushed: so each flush is one batch on each partition."""
    return Producer(
        stack.kafka.client_config(Principal.PLATFORM)
        | {"compression.type": codec, "linger.ms": "60000", "partitioner": "murmur2_random", "log_level": "0"}
    )


def _send(producer: Producer, body: CreditUnits) -> None:
    headers: list[tuple[str, str | bytes | None]] = [("ce_id", str(uuid4())), ("ce_type", body.TYPE)]
    producer.produce(TOPIC, key=body.key(), value=body.to_json(), headers=headers)


def _accounts_on(partition: int, many: int) -> list[UUID]:
    found: list[UUID] = []
    while len(found) < many:
        account = uuid4()
        if kafka.partition_of(str(account), LEDGER_COMMANDS.partitions) == partition:
            found.append(account)
    return found


async def _amounts(engine: AsyncEngine, account: UUID) -> list[int]:
    return [effect.amount_units for effect in await effects(engine, [account])]


async def _are(engine: AsyncEngine, wanted: int) -> bool:
    return await count(engine, "effects") == wanted


@pytest.fixture
def fresh(fragile: Stack) -> Stack:
    """The stack whose servers may be ended, with the topic recreated: empty, and no offsets of the group's."""
    _make_anew(fragile)
    return fragile


def _admin(stack: Stack) -> AdminClient:
    return AdminClient({**stack.kafka.client_config(ADMIN)})


def _make_anew(stack: Stack) -> None:
    """Delete the topic and make it again, so quickly that a client that looks now and then does not see it gone."""
    admin = _admin(stack)
    admin.delete_topics([TOPIC])[TOPIC].result()
    wait(lambda: _is_made(admin), "the topic is there again")
    wait(lambda: not topics.apply(stack.kafka.client_config(ADMIN)), "it is as it should be")


def _is_made(admin: AdminClient) -> bool:
    try:
        config = topics.expected_config(LEDGER_COMMANDS, ONE_BROKER)
        admin.create_topics([NewTopic(TOPIC, LEDGER_COMMANDS.partitions, 1, config=config)])[TOPIC].result()
    except KafkaException:  # the old one is still being deleted
        return False
    return True


class TestCodecs:
    async def test_every_codec_of_kafka_is_read_and_none_costs_another_partition_anything(
        self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine
    ) -> None:
        account, others = uuid4(), [uuid4() for _ in range(48)]
        async with consuming(stack, ledger_url, Recorder().service) as consumer:
            await eventually(lambda: consumer.trouble() is None, "it consumes")
            for number, codec in enumerate(CODECS):
                producer = _producer(stack, codec)
                for _ in range(20):
                    _send(producer, credit(account, number + 1))
                for other in others:
                    _send(producer, credit(other, number + 1))
                producer.flush()
            wanted = len(CODECS) * (20 + len(others))

            async def all_handled() -> bool:
                return len(await effects(ledger_engine, [account, *others])) >= wanted

            await eventually(all_handled, "every record in every codec")
        assert await _amounts(ledger_engine, account) == [n + 1 for n in range(len(CODECS)) for _ in range(20)]
        assert len(await effects(ledger_engine, others)) == len(CODECS) * len(others)


def _corrupt(stack: Stack, partition: int, number: int) -> tuple[int, int]:
    """Change a byte in a partition's n-th batch, as a bad disk would. Returns its first offset and that of the next."""
    (log,) = stack.directory.rglob(f"{TOPIC}-{partition}/00000000000000000000.log")
    data, at, batches = bytearray(log.read_bytes()), 0, []
    while at + 12 <= len(data):
        length = int.from_bytes(data[at + 8 : at + 12], "big")
        batches.append((at, length, int.from_bytes(data[at : at + 8], "big")))
        at += 12 + length
    start, length, first = batches[number]
    data[start + 12 + length - 3] ^= 0xFF
    log.write_bytes(bytes(data))
    return first, batches[number + 1][2]


def _committed(stack: Stack, partition: int) -> int:
    group = GroupReader(
        stack.kafka.client_config(Principal.LEDGER) | {"group.id": Principal.LEDGER.value, "log_level": "0"}
    )
    try:
        return int(group.committed([TopicPartition(TOPIC, partition)], timeout=10)[0].offset)
    finally:
        group.close()


class TestBatchThatCannotBeUnpacked:
    @pytest.mark.drill
    async def test_stops_its_own_partition_alone_until_an_operator_has_it_skipped(
        self, fresh: Stack, ledger_url: str, ledger_engine: AsyncEngine
    ) -> None:
        bad, good = _accounts_on(3, 1)[0], _accounts_on(5, 4)
        for first in (1, 11, 21, 31):  # four batches on partition 3
            producer = _producer(fresh)
            for amount in range(first, first + 10):
                _send(producer, credit(bad, amount))
                for account in good:
                    _send(producer, credit(account, amount))
            producer.flush()
        fresh.kafka.stop()
        corrupted = _corrupt(fresh, 3, 1)
        fresh.kafka.start()
        assert corrupted == (10, 20)

        async with consuming(fresh, ledger_url, Recorder().service) as consumer:
            await eventually(lambda: _are(ledger_engine, 10 + 4 * 40), "all but what is behind the bad batch")
            await eventually(lambda: "stopped at 10" in (consumer.trouble() or ""), "it says so", 40)
            assert await _amounts(ledger_engine, bad) == list(range(1, 11))
            await eventually(lambda: _committed(fresh, 5) == 160, "the offsets of the others")
            assert _committed(fresh, 3) == 10, "no position beyond what was handled"
            # As librdkafka does now and then: what it misread from the batch as an offset is out of range.
            consumer._client.seek(TopicPartition(TOPIC, 3, 0))
            await eventually(lambda: _attempts(ledger_url) >= 4, "it is tried again, and stands where it did")
            row = _stop_row(ledger_url)
            assert (row["topic"], row["partition"], row["position"], row["outcome"]) == (TOPIC, 3, 10, None)
            assert row["error"] == "_BAD_MSG"

            assert await asyncio.to_thread(_popfax, fresh, ledger_url, "list") == 0
            assert (
                await asyncio.to_thread(_popfax, fresh, ledger_url, "skip", TOPIC, "3", "--reason", "a bad disk") == 2
            )
            skipped = ("skip", TOPIC, "3", "--reason", "a bad disk", "--yes")
            assert await asyncio.to_thread(_popfax, fresh, ledger_url, *skipped) == 0
            await eventually(lambda: _are(ledger_engine, 30 + 4 * 40), "what was behind it", 60)
            await eventually(lambda: consumer.trouble() is None, "it is well again")
            assert await _amounts(ledger_engine, bad) == [*range(1, 11), *range(21, 41)]
            await eventually(lambda: _committed(fresh, 3) == 40, "its offsets")
        row = _stop_row(ledger_url)
        assert await asyncio.to_thread(_popfax, fresh, ledger_url, "list", "--all") == 0
        assert (row["position"], row["outcome"], row["skip_to"]) == (10, "skipped", 20)
        assert row["skip_reason"] == "a bad disk"


def _popfax(stack: Stack, ledger_url: str, *words: str) -> int:
    """`popfax partitions …`, with this stack's broker and this database."""
    environment = {**os.environ, **stack.service_environment(ADMIN), "LEDGER_DATABASE_URL": ledger_url}
    command = [str(Path(sys.executable).with_name("popfax")), "partitions", *words, "--service", "ledger"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    print(done.stdout, done.stderr)
    return done.returncode


def _stop_row(url: str) -> dict[str, object]:
    names = ("topic", "partition", "position", "error", "attempts", "skip_to", "skip_reason", "outcome")
    rows = execute(url, f"SELECT {', '.join(names)} FROM partition_stops")
    assert len(rows) == 1, "one stop is one row, however often it was tried"
    return dict(zip(names, rows[0], strict=True))


def _attempts(url: str) -> int:
    return int(str(_stop_row(url)["attempts"]))


class TestTopicMadeAgain:
    async def test_is_read_from_its_start_by_a_consumer_that_was_further(
        self, fresh: Stack, ledger_url: str, ledger_engine: AsyncEngine
    ) -> None:
        account = _accounts_on(3, 1)[0]
        async with consuming(fresh, ledger_url, Recorder().service, offset_commit_s=0.1) as consumer:
            _publish(fresh, account, range(1, 51))
            await eventually(lambda: _are(ledger_engine, 50), "the first topic's")
            await eventually(lambda: _committed(fresh, 3) == 50, "its offset")
            _make_anew(fresh)
            _publish(fresh, account, range(101, 201))  # more than there were: the old offset is one of the new topic's
            await eventually(lambda: _are(ledger_engine, 150), "all of the second topic's")
            await eventually(lambda: consumer.trouble() is None, "it is well")
        assert sorted(await _amounts(ledger_engine, account)) == [*range(1, 51), *range(101, 201)]

    async def test_is_read_from_its_start_though_offsets_of_its_predecessor_were_committed_after_it_was_made(
        self, fresh: Stack, ledger_url: str, ledger_engine: AsyncEngine
    ) -> None:
        account = _accounts_on(3, 1)[0]
        _publish(fresh, account, range(1, 101))
        stale = TopicPartition(TOPIC, 3, 60, "the id of a topic that is no more")
        group = GroupReader(
            fresh.kafka.client_config(Principal.LEDGER) | {"group.id": Principal.LEDGER.value, "log_level": "0"}
        )
        wait(lambda: _commits(group, stale), "the group is empty")
        group.close()
        async with consuming(fresh, ledger_url, Recorder().service):
            await eventually(lambda: _are(ledger_engine, 100), "all of them")

    async def test_what_waits_then_is_handled_and_no_offset_of_it_counts_for_the_new_one(
        self, fresh: Stack, ledger_url: str, ledger_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        account = _accounts_on(3, 1)[0]
        closes(monkeypatch)
        async with consuming(fresh, ledger_url, Recorder().service, offset_commit_s=0.05) as consumer:
            _publish(fresh, account, range(1, 2))
            await eventually(lambda: _committed(fresh, 3) == 1, "the first batch's offset")
            _publish(fresh, account, range(2, 51))
            await eventually(lambda: len(consumer._gathering) == 49, "the rest waits")
            _make_anew(fresh)
            await eventually(lambda: _are(ledger_engine, 50), "it is handled")
            _publish(fresh, account, range(101, 121))
            await eventually(lambda: len(consumer._gathering) == 20, "the new topic's wait")
            assert _committed(fresh, 3) <= 0
        async with consuming(fresh, ledger_url, Recorder().service):
            await eventually(lambda: _are(ledger_engine, 70), "all of the new topic's")
        assert await _amounts(ledger_engine, account) == [*range(1, 51), *range(101, 121)]

    async def test_what_can_not_be_read_is_parked_though_such_a_record_stood_in_its_place_before(
        self, fresh: Stack, ledger_url: str, ledger_engine: AsyncEngine
    ) -> None:
        async with consuming(fresh, ledger_url, Recorder().service, offset_commit_s=0.1) as consumer:
            for topics_made in (1, 2):
                _publish_unreadable(fresh, 3, 20)
                await eventually(partial(_are_parked, ledger_engine, topics_made * 20), "each of them is parked")
                if topics_made == 1:
                    await eventually(lambda: _committed(fresh, 3) == 20, "its offset")
                    _make_anew(fresh)
            await eventually(lambda: consumer.trouble() is None, "it is well again", 60)
        places = sorted((row.partition, row.position) for row in await parked(ledger_engine))
        assert places == sorted((3, position) for position in [*range(20)] * 2), "the same places, the same bytes"

    async def test_one_that_is_gone_makes_the_service_unready(
        self, fresh: Stack, ledger_url: str, ledger_engine: AsyncEngine
    ) -> None:
        async with consuming(fresh, ledger_url, Recorder().service) as consumer:
            await eventually(lambda: consumer.trouble() is None, "it consumes")
            admin = _admin(fresh)
            admin.delete_topics([TOPIC])[TOPIC].result()
            await eventually(lambda: consumer.trouble() == f"there is no topic {TOPIC}", "it says so")
            wait(lambda: not topics.apply(fresh.kafka.client_config(ADMIN)), "the topic is there again")
            await eventually(lambda: consumer.trouble() is None, "it is well again")


def _publish(stack: Stack, account: UUID, amounts: range) -> None:
    def done() -> bool:
        producer = _producer(stack)
        for amount in amounts:
            _send(producer, credit(account, amount))
        return producer.flush(20) == 0

    assert done()


def _publish_unreadable(stack: Stack, partition: int, many: int) -> None:
    """Publish records of which nothing but their place can be told."""
    producer = _producer(stack)
    for _ in range(many):
        producer.produce(TOPIC, key=b"nobody", value=b"nothing", partition=partition)
    assert producer.flush(20) == 0


async def _are_parked(engine: AsyncEngine, wanted: int) -> bool:
    return await count(engine, "parked") == wanted


def _commits(group: GroupReader, offset: TopicPartition) -> bool:
    try:
        return all(each.error is None for each in group.commit(offsets=[offset], asynchronous=False) or [])
    except KafkaException:
        return False


class TestMembership:
    @pytest.mark.drill
    async def test_kafka_that_is_frozen_makes_the_service_unready_and_the_service_comes_back_by_itself(
        self, fragile: Stack, ledger_url: str, ledger_engine: AsyncEngine
    ) -> None:
        async with consuming(fragile, ledger_url, Recorder().service) as consumer:
            await eventually(lambda: consumer.trouble() is None, "it consumes")
            _signal(fragile, signal.SIGSTOP)
            try:
                began = time.monotonic()
                await eventually(lambda: consumer.trouble() is not None, "it says so")
                assert time.monotonic() - began < 20
            finally:
                _signal(fragile, signal.SIGCONT)
            await eventually(lambda: consumer.trouble() is None, "it consumes again", 60)
            account = uuid4()
            _publish(fragile, account, range(1, 2))
            await eventually(lambda: _has_one(ledger_engine, account), "what came then")

    @pytest.mark.drill
    async def test_a_service_that_started_while_kafka_was_frozen_is_one_member_and_reads_all(
        self, fresh: Stack, ledger_url: str, ledger_engine: AsyncEngine
    ) -> None:
        _signal(fresh, signal.SIGSTOP)
        service = ServiceProcess(Principal.LEDGER, fresh)
        try:
            service.launch(database_url=ledger_url)
            await asyncio.sleep(15)  # longer than the client waits for an answer, and than a session lasts
        finally:
            _signal(fresh, signal.SIGCONT)
        try:
            await asyncio.to_thread(service.wait_ready)
            accounts = [uuid4() for _ in range(60)]
            for account in accounts:
                _publish(fresh, account, range(1, 2))

            def done() -> bool:
                found = execute(ledger_url, "SELECT count(*) FROM accounts WHERE id = ANY(%s)", accounts)
                return bool(found[0][0] == len(accounts))

            await eventually(done, "the commands on all partitions")
            assert _members(fresh) == 1
        finally:
            service.stop()

    @pytest.mark.drill
    async def test_one_that_is_fenced_off_by_its_own_joining_joins_once_more(
        self, fresh: Stack, ledger_url: str, ledger_engine: AsyncEngine
    ) -> None:
        """What librdkafka does to itself when the coordinator was away for longer than a session: it joins under a new
        member id, and is fenced off by what it had sent under the old one. Another client stands in for the former; a
        frozen member keeps the group from giving it partitions first.
        """
        with _frozen_member(fresh), capture_logs() as said:
            async with consuming(fresh, ledger_url, Recorder().service, replica="a") as consumer:
                await eventually(lambda: "wait-join" in (consumer.trouble() or ""), "it joins")
                itself = GroupReader(kafka.consumer(consumer.settings, Principal.LEDGER) | {"log_level": 0})
                itself.subscribe([TOPIC])
                await eventually(lambda: _fenced(said, itself), "it is fenced off")
                itself.close()
                account = uuid4()
                _publish(fresh, account, range(1, 11))
                await eventually(lambda: _are(ledger_engine, 10), "what came then", 60)
                await eventually(lambda: consumer.trouble() is None, "it is well")
        assert {"event": "joining_anew", "replica": "a", "log_level": "warning"} in said

    async def test_one_that_stays_out_of_the_group_is_replaced(
        self, fresh: Stack, ledger_url: str, ledger_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As librdkafka once did of itself, with a broker that was overloaded as it joined."""
        monkeypatch.setattr(client_state, "STRANDED_S", 3.0)
        clients: list[GroupReader] = []

        def client(*given: Any, **told: Any) -> GroupReader:
            clients.append((GroupReader if clients else _StaysOut)(*given, **told))
            return clients[-1]

        monkeypatch.setattr(consumer_module, "Client", client)
        async with consuming(fresh, ledger_url, Recorder().service) as consumer:
            await eventually(lambda: consumer.trouble() is None, "another one has joined")
            account = uuid4()
            _publish(fresh, account, range(1, 11))
            await eventually(lambda: _are(ledger_engine, 10), "what came then")
        assert len(clients) > 1

    async def test_one_that_reaches_nobody_is_replaced_until_it_does(
        self, fresh: Stack, ledger_url: str, ledger_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """librdkafka may forget all brokers while they come back, and then reaches none for good (its issue 5301)."""
        monkeypatch.setattr(client_state, "STRANDED_S", 3.0)
        monkeypatch.setattr(topic_ids, "STRANDED_S", 3.0)
        with capture_logs() as said:
            async with consuming(fresh, ledger_url, Recorder().service) as consumer:
                asks = consumer._ids._admin
                fresh.kafka.kill()
                try:
                    await eventually(
                        lambda: sum(entry["event"] == "joining_anew" for entry in said) > 1, "it tries", 90
                    )
                    await eventually(lambda: consumer._ids._admin is not asks, "it asks by another client")
                    assert consumer.alive
                finally:
                    fresh.kafka.start()
                account = uuid4()
                _publish(fresh, account, range(1, 11))
                await eventually(lambda: _are(ledger_engine, 10), "what came then", 60)
                await eventually(lambda: consumer.trouble() is None, "it is well")

    async def test_a_replica_whose_client_says_nothing_is_not_alive(
        self, fresh: Stack, ledger_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """librdkafka may deadlock (its issue 5476): a poll still returns, with nothing."""
        monkeypatch.setattr(client_state, "MUTE_S", 3.0)
        async with consuming(fresh, ledger_url, Recorder().service) as consumer:
            await eventually(lambda: consumer.trouble() is None and consumer.alive, "it is well")
            with patch.object(ClientState, "take"):
                await eventually(lambda: not consumer.alive, "it is missed")
            await eventually(lambda: consumer.alive, "it speaks again")

    async def test_of_two_with_one_name_the_first_ends_and_says_why(self, stack: Stack, ledger_url: str) -> None:
        first, second = ServiceProcess(Principal.LEDGER, stack), ServiceProcess(Principal.LEDGER, stack)
        second._child = type(first._child)("ledger-again", stack.directory)
        first.launch(database_url=ledger_url, replica="a")
        try:
            await asyncio.to_thread(first.wait_ready)
            second.launch(database_url=ledger_url, replica="a")
            await asyncio.to_thread(second.wait_ready)
            await eventually(lambda: not first._child.running, "the first has ended")
            assert first._child.stop(signal.SIGTERM, 5) == 1
            assert "LEDGER_REPLICA=a is taken" in first._child.log.read_text()
            await eventually(second.ready, "the second works")
        finally:
            first.stop()
            second.stop()


class _StaysOut(GroupReader):
    """A client that never asks to join, and does everything else."""

    def subscribe(self, *_: Any, **__: Any) -> None:
        """Do not."""


_MEMBER = """
import json, sys, time
from confluent_kafka import Consumer
config, topic = json.load(sys.stdin)
member = Consumer(config)
member.subscribe([topic])
while not member.assignment():
    member.poll(0.1)
print("in", flush=True)
time.sleep(600)
"""


@contextmanager
def _frozen_member(stack: Stack) -> Iterator[None]:
    """A member of the ledger's group that does nothing any more: a rebalance waits for the end of its session."""
    config = stack.kafka.client_config(Principal.LEDGER) | {
        "group.id": Principal.LEDGER.value,
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": 20_000,
    }
    member = subprocess.Popen([sys.executable, "-c", _MEMBER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert member.stdin is not None
    assert member.stdout is not None
    try:
        member.stdin.write(json.dumps([config, TOPIC]))
        member.stdin.close()
        assert member.stdout.readline() == "in\n"
        member.send_signal(signal.SIGSTOP)
        yield
    finally:
        member.kill()
        member.wait()
        member.stdout.close()


def _fenced(said: Sequence[MutableMapping[str, Any]], itself: GroupReader) -> bool:
    itself.poll(0.1)
    return any(entry["event"] == "joining_anew" for entry in said)


def _signal(stack: Stack, number: signal.Signals) -> None:
    assert isinstance(stack.kafka, KafkaBroker)
    os.kill(stack.kafka.pid, number)


async def _has_one(engine: AsyncEngine, account: UUID) -> bool:
    return await _amounts(engine, account) == [1]


def _members(stack: Stack) -> int:
    admin = _admin(stack)
    group = admin.describe_consumer_groups([Principal.LEDGER.value])[Principal.LEDGER.value].result()
    return len(group.members)
