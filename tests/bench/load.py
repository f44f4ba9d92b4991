"""The load: commands on Kafka, and the events that end them off Kafka, with the moment of each.

The clock of a saga starts when its command is handed to the producer and stops when the record of its last event is in
the reader's hands: its publishing and its reading are in the figure.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from popfax_contracts.message import Message
from popfax_contracts.topics import Principal, Topic
from services.chassis.kafka import client, partition_of
from services.chassis.settings import KafkaSettings


@dataclass(slots=True)
class Command:
    """A command ready to be sent, with its id."""

    id: str
    topic: Topic
    key: str
    record: dict[str, Any]


def command(body: Message, actor: UUID | None = None, writer: Principal = Principal.PLATFORM) -> Command:
    """Make a command with an id of its own, encoded before any clock runs."""
    id_ = str(uuid4())
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", id_.encode()),
        ("ce_source", f"popfax/{writer}".encode()),
        ("ce_type", body.TYPE.encode()),
    ]
    if actor is not None:
        headers.append(("ce_actor", str(actor).encode()))
    record = {"key": body.key().encode(), "value": body.to_json(), "headers": headers, "timestamp": None}
    return Command(id_, body.topic_of(writer), body.key(), record)


@dataclass(slots=True)
class Outcomes:
    """What came back: the moment at which each command was ended, by correlation id, and by which type."""

    at: dict[str, float] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)


class Follower:
    """Follows topics from their present end."""

    def __init__(self, settings: KafkaSettings, topics: Iterable[Topic], ends: Iterable[type[Message]]) -> None:
        self._settings = settings
        self._topics = list(topics)
        self._ends = {model.TYPE.encode(): model.TYPE for model in ends}
        self.outcomes = Outcomes()
        self._consumer: AIOKafkaConsumer | None = None

    async def start(self) -> None:
        """Take a position at the end of every partition."""
        self._consumer = AIOKafkaConsumer(
            **client(self._settings),
            fetch_max_wait_ms=20,
            auto_offset_reset="latest",
            isolation_level="read_committed",
        )
        await self._consumer.start()
        partitions = [TopicPartition(topic.name, p) for topic in self._topics for p in range(topic.partitions)]
        self._consumer.assign(partitions)
        await self._consumer.seek_to_end(*partitions)
        for partition in partitions:
            await self._consumer.position(partition)

    async def until(self, count: int, timeout_s: float, progress: Callable[[int], None]) -> None:
        """Read until so many commands have ended; raises `TimeoutError`."""
        assert self._consumer is not None
        deadline = time.monotonic() + timeout_s
        while len(self.outcomes.at) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.outcomes.at)} of {count} ended within {timeout_s:g} s")
            batches = await self._consumer.getmany(timeout_ms=200)
            now = time.perf_counter()
            for records in batches.values():
                for record in records:
                    self.note(record, now)
            progress(len(self.outcomes.at))

    async def stop(self) -> None:
        """Stop following."""
        if self._consumer is not None:
            await self._consumer.stop()

    def note(self, record: Any, now: float) -> None:
        """Note a record that came at a moment."""
        ended = self._ends.get(header(record, "ce_type"))
        if ended is not None:
            self.outcomes.at.setdefault(header(record, "ce_correlationid").decode(), now)
            self.outcomes.types[ended] = self.outcomes.types.get(ended, 0) + 1


def header(record: Any, wanted: str) -> bytes:
    """Return a header of a record, or nothing."""
    return next((value for name, value in record.headers if name == wanted), b"")


async def publish(producer: AIOKafkaProducer, commands: Sequence[Command], sent_at: dict[str, float]) -> None:
    """Publish commands at full speed, and wait until Kafka has them all."""
    acknowledged = []
    by_partition: dict[tuple[str, int], list[Command]] = {}
    for each in commands:
        partition = partition_of(each.key, each.topic.partitions)
        by_partition.setdefault((each.topic.name, partition), []).append(each)
    for (topic_name, partition), part in by_partition.items():
        batch = producer.create_batch()
        for each in part:
            if batch.append(**each.record) is None:
                acknowledged.append(await producer.send_batch(batch, topic_name, partition=partition))
                batch = producer.create_batch()
                batch.append(**each.record)
            sent_at[each.id] = time.perf_counter()
        acknowledged.append(await producer.send_batch(batch, topic_name, partition=partition))
    await asyncio.gather(*acknowledged)


LINGER_S = 0.02
"""How long the steady load collects commands before it publishes them, as a producer's `linger.ms` would."""


async def publish_at(
    producer: AIOKafkaProducer, commands: Sequence[Command], per_second: float, sent_at: dict[str, float]
) -> None:
    """Publish commands at a steady rate.

    Each command's clock starts at its own moment, not at that of its round: its lingering is part of its latency, and
    a load that falls behind makes no latency vanish. A round is published when the last of its commands is due.
    """
    each_round = max(1, round(per_second * LINGER_S))
    began = time.perf_counter()
    for start in range(0, len(commands), each_round):
        due = commands[start : start + each_round]
        await asyncio.sleep(max(0.0, began + (start + len(due) - 1) / per_second - time.perf_counter()))
        await publish(producer, due, {})
        for number, each in enumerate(due, start):
            sent_at[each.id] = began + number / per_second
