"""Kafka as the services see it: topics of partitions, each a log; and a consumer group's offsets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.topics import TOPICS, Principal, Topic
from services.chassis.kafka import partition_of
from services.chassis.messages import Outgoing, headers_of

PARTITIONS = 3
"""Fewer than the real topics have, so that keys share a partition more often."""

Place = tuple[str, int]
"""A topic and a partition of it."""

Headers = Sequence[tuple[str, bytes | None]]


@dataclass(slots=True)
class BusRecord:
    """A record in a partition."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Bus:
    """All topics. Records are never deleted."""

    def __init__(self) -> None:
        self.logs: dict[Place, list[BusRecord]] = {
            (topic.name, partition): [] for topic in TOPICS for partition in range(PARTITIONS)
        }

    def publish(self, topic: Topic, key: str, value: bytes | None, headers: Headers) -> BusRecord:
        """Append a record to its key's partition."""
        place = topic.name, partition_of(key, PARTITIONS)
        record = BusRecord(*place, len(self.logs[place]), key.encode(), value, headers)
        self.logs[place].append(record)
        return record

    def relay(self, out: Outgoing, principal: Principal, time: str) -> BusRecord:
        """Publish a row of a service's outbox, as its relay does."""
        topic, headers = MESSAGES[out.type].topic_of(principal), headers_of(out, f"popfax/{principal}", time)
        return self.publish(topic, out.key, out.value or None, headers)

    def publish_again(self, record: BusRecord) -> BusRecord:
        """Append a record once more: same id, same bytes, a later offset."""
        log = self.logs[record.topic, record.partition]
        again = BusRecord(record.topic, record.partition, len(log), record.key, record.value, record.headers)
        log.append(again)
        return again

    def elsewhere(self, topic: Topic, key: str, headers: Mapping[str, bytes]) -> bool:
        """Return whether a message with these headers is on another partition of the topic than the key's.

        If one message were there under two keys, no observer could say which record was handled first.
        """
        others = (n for n in range(PARTITIONS) if n != partition_of(key, PARTITIONS))
        records = (record for n in others for record in self.logs[topic.name, n])
        return any(headers.items() <= dict(record.headers).items() for record in records)

    def records(self) -> Iterator[BusRecord]:
        """Yield all records, partition by partition."""
        for log in self.logs.values():
            yield from log


@dataclass(slots=True)
class Consumer:
    """A consumer group: its positions, and the committed offsets that it falls back to."""

    bus: Bus
    topics: Sequence[Topic]
    positions: dict[Place, int] = field(default_factory=dict)
    committed: dict[Place, int] = field(default_factory=dict)
    delayed: dict[Place, int] = field(default_factory=dict)
    """Delayed partitions, and the step at which the delay ends."""

    def __post_init__(self) -> None:
        for topic in self.topics:
            for partition in range(PARTITIONS):
                self.positions[topic.name, partition] = self.committed[topic.name, partition] = 0

    def waiting(self, step: int) -> list[Place]:
        """Return the partitions that have something to read now."""
        return [
            place
            for place, position in self.positions.items()
            if position < len(self.bus.logs[place]) and self.delayed.get(place, 0) <= step
        ]

    def batch(self, random: Random, step: int, limit: int) -> list[BusRecord]:
        """Read up to `limit` records: each partition's in order, the partitions interleaved at random."""
        heads = {place: self.positions[place] for place in self.waiting(step)}
        found: list[BusRecord] = []
        while heads and len(found) < limit:
            place = random.choice(list(heads))
            found.append(self.bus.logs[place][heads[place]])
            heads[place] += 1
            if heads[place] == len(self.bus.logs[place]):
                del heads[place]
        return found

    def done(self, batch: Sequence[BusRecord]) -> None:
        """Advance the positions past a handled batch."""
        for record in batch:
            self.positions[record.topic, record.partition] = record.offset + 1

    def commit(self) -> None:
        """Commit the present positions."""
        self.committed.update(self.positions)

    def crash(self) -> None:
        """Fall back to the committed offsets."""
        self.positions.update(self.committed)

    def rewind(self, random: Random) -> None:
        """Lose committed offsets: some partitions are read again from a random earlier place."""
        for place, position in self.committed.items():
            if random.random() < 0.5:
                self.positions[place] = self.committed[place] = random.randint(0, position)
