"""A relay that was paused must not publish what it still holds behind its successor's back: on the real broker."""

import asyncio
import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerFenced
from confluent_kafka import Producer
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.stack import Stack
from deploy.operator.cli.wire import Watch
from deploy.operator.kafka import ADMIN
from popfax_contracts.groups import MembershipEnded, MembershipRecorded
from popfax_contracts.ids import message_id
from popfax_contracts.topics import GROUPS_MEMBERS, LEDGER_COMMANDS, Principal
from services.chassis import kafka, metrics, postgres
from services.chassis.relay import ANSWER_S, CHECK_S
from tests.e2e.driver import Log, Seen
from tests.integration.paused_relay import paused_relay
from tests.integration.recorder import (
    NO_DATABASE,
    Recorder,
    consuming,
    credit,
    effects,
    eventually,
    scratch_database,
    settings,
)
from tests.integration.test_outbox import _append, _is_empty, _kill_leader, relaying


def _recorded(membership: UUID) -> MembershipRecorded:
    return MembershipRecorded(
        membership_id=membership,
        group_id=uuid4(),
        owner_id=uuid4(),
        member_id=uuid4(),
        epoch=1,
        state="active",
        joined_at=datetime.now(UTC),
    )


def _newest(records: Sequence[Seen], key: UUID) -> Seen:
    """What compaction keeps of a key."""
    return max((seen for seen in records if seen.key == str(key).encode()), key=lambda seen: seen.offset)


async def _overtaken(stack: Stack, url: str, engine: AsyncEngine, *, fenced: bool, crash: bool) -> tuple[str, Seen]:
    """Pause a leader that holds a record; let its successor publish that one and a newer one; let it go on.

    Gives what became of what it held, and the newest record of the key.
    """
    membership, log = uuid4(), Log(stack.kafka, [GROUPS_MEMBERS])
    await _append(engine, _recorded(membership))
    given = settings(stack, url, Principal.GROUPS)
    with paused_relay(given, Principal.GROUPS, fenced=fenced) as leader:
        assert await asyncio.to_thread(leader.says) == "holds"
        await _kill_leader(engine)
        async with relaying(stack, url, Principal.GROUPS):
            await eventually(lambda: _is_empty(engine), "the successor has published what the leader still holds")
            await _append(engine, MembershipEnded(membership_id=membership))
            await eventually(lambda: _is_empty(engine), "and a newer record of the same key")
            if crash:
                await asyncio.to_thread(stack.kafka.kill)
                await asyncio.to_thread(stack.kafka.start)
            leader.resume()
            outcome = await asyncio.to_thread(leader.says)
    await asyncio.to_thread(log.read_to_end)
    log.close()
    return outcome, _newest(log.seen, membership)


class TestStaleLeader:
    """The relay that is paused is a process of its own: SIGSTOP between reading and sending, SIGCONT at the end."""

    async def test_what_it_held_is_refused(self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine) -> None:
        outcome, newest = await _overtaken(stack, ledger_url, ledger_engine, fenced=True, crash=False)
        assert (outcome, newest.value) == ("ProducerFenced", None)

    @pytest.mark.drill
    async def test_what_it_held_is_refused_by_a_broker_that_has_crashed_meanwhile(self, fragile: Stack) -> None:
        with scratch_database(fragile, Principal.LEDGER) as url:
            engine = postgres.engine(url)
            outcome, newest = await _overtaken(fragile, url, engine, fenced=True, crash=True)
            await engine.dispose()
        assert (outcome, newest.value) == ("ProducerFenced", None)

    async def test_without_its_fence_the_stale_record_stays_for_ever(
        self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The tests above can fail: this is what they saw before there was a fence."""
        producer = kafka.producer
        monkeypatch.setattr(kafka, "producer", lambda given, fence=None: producer(given))
        outcome, newest = await _overtaken(stack, ledger_url, ledger_engine, fenced=False, crash=False)
        assert outcome == "published"
        assert newest.value is not None, "active again, although it has ended"


@pytest.mark.drill
async def test_a_leader_with_nothing_to_publish_notices_that_kafka_does_not_answer(fragile: Stack) -> None:
    with scratch_database(fragile, Principal.LEDGER) as url:
        async with relaying(fragile, url) as relay:
            await eventually(lambda: relay.working, "a leader")
            with _frozen(fragile):
                within_s = CHECK_S + ANSWER_S + 10
                await eventually(lambda: not relay.working, "it gives up the lead", within_s=within_s)
                assert metrics.RELAY_LEADER._value.get() == 0
            await eventually(lambda: relay.working, "it leads again")
            await eventually(lambda: metrics.RELAY_LEADER._value.get() == 1, "and says so once a round has succeeded")


async def _publish(producer: AIOKafkaProducer, key: bytes, partition: int) -> "asyncio.Future[Any]":
    batch = producer.create_batch()
    batch.append(key=key, value=b"{}", headers=[], timestamp=None)
    sent: asyncio.Future[Any] = await producer.send_batch(batch, GROUPS_MEMBERS.name, partition=partition)
    return sent


@contextmanager
def _frozen(stack: Stack) -> Iterator[None]:
    stack.kafka.pause()
    try:
        yield
    finally:
        stack.kafka.resume()


class Leaks:
    """What is left of producers: tasks that run, and objects that nobody closed. Made before them."""

    def __init__(self) -> None:
        self._found: list[str] = []
        self._before = asyncio.all_tasks()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self._found.append(context["message"]))

    def left(self) -> list[str]:
        """Look, once the caller has let go of its own."""
        gc.collect()
        return [*self._found, *(repr(task) for task in asyncio.all_tasks() - self._before)]


class TestProducer:
    async def test_sends_nothing_more_once_it_is_stopped(self, fragile: Stack) -> None:
        """aiokafka's own stop waits for the broker forever, and when it is cancelled its sender lives on."""
        leaks = Leaks()
        log, key = Log(fragile.kafka, [GROUPS_MEMBERS]), str(uuid4()).encode()
        producer = await kafka.producer(settings(fragile, NO_DATABASE, Principal.GROUPS))
        await (await _publish(producer, key, 0))
        with _frozen(fragile):
            in_flight = await _publish(producer, key, 0)
            await asyncio.sleep(0.2)
            behind = [await _publish(producer, key, partition) for partition in (1, 2, 3)]
            begun = time.monotonic()
            await kafka.stop(producer)
            assert time.monotonic() - begun < 3
            del producer, in_flight, behind
            assert leaks.left() == []
        await asyncio.sleep(1)  # in which an orphan would have delivered them: it tries again every 0.2 s
        await asyncio.to_thread(log.read_to_end)
        log.close()
        assert {seen.partition for seen in log.seen if seen.key == key} == {0}

    @pytest.mark.parametrize("reachable", [True, False])
    async def test_is_closed_whatever_becomes_of_its_start(self, fragile: Stack, reachable: bool) -> None:
        leaks = Leaks()
        elsewhere = {} if reachable else {"kafka_bootstrap": "127.0.0.1:1"}
        given = settings(fragile, NO_DATABASE, Principal.GROUPS, **elsewhere)
        with _frozen(fragile):
            starting = asyncio.create_task(kafka.producer(given, fence="groups"))
            await asyncio.sleep(0.5)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError if reachable else KafkaError):
                await starting
        del starting
        assert leaks.left() == []

    async def test_is_closed_when_another_one_fences_it(self, stack: Stack) -> None:
        leaks = Leaks()
        given = settings(stack, NO_DATABASE, Principal.GROUPS)
        first = await kafka.producer(given, fence="groups")
        second = await kafka.producer(given, fence="groups")
        await (await _publish(second, b"fenced", 0))
        with pytest.raises(ProducerFenced):
            await (await _publish(first, b"fenced", 0))
        await kafka.stop(first)
        await kafka.stop(second)
        del first, second
        assert leaks.left() == []


async def test_a_command_that_its_writer_took_back_is_never_seen(
    stack: Stack, ledger_url: str, ledger_engine: AsyncEngine
) -> None:
    """Our relays open no transactions, but a platform may: readers of ours read what was committed."""
    platform = stack.kafka.client_config(Principal.PLATFORM)
    account, kept = uuid4(), uuid4()
    producer = Producer({**platform, "transactional.id": "platform", "partitioner": "murmur2_random"})
    producer.init_transactions(30)
    for id_, keep in ((uuid4(), False), (kept, True)):
        producer.begin_transaction()
        body = credit(account)
        headers = {"ce_specversion": "1.0", "ce_source": "tests", "ce_type": body.TYPE, "ce_id": str(id_)}
        producer.produce(body.TOPICS[0].name, body.to_json(), body.key(), headers=dict(headers))
        producer.flush(30)
        (producer.commit_transaction if keep else producer.abort_transaction)(30)

    async def handled() -> list[UUID]:
        return [effect.message_id for effect in await effects(ledger_engine, [account])]

    async with consuming(stack, ledger_url, Recorder().service):
        await eventually(handled, "the command that was kept")
        assert await handled() == [message_id(LEDGER_COMMANDS.name, b"tests", str(kept).encode())]
    with Watch(stack.kafka.client_config(ADMIN), [LEDGER_COMMANDS], group="tests", from_beginning=True) as watch:
        seen = await asyncio.to_thread(watch.to_end, 30)
    assert [each.id for each in seen if each.body and each.body.key() == str(account)] == [str(kept)]
