"""Drives the product from outside: publishes as a principal, follows topics from a known position, waits, boundedly."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from contracts.message import Message
from contracts.topics import TOPICS, Principal, Topic
from deploy.local.kafka import ADMIN
from deploy.local.stack import Broker

Headers = Sequence[tuple[str, bytes | None]]

TIMEOUT_S = 30.0
"""The longest wait of a test that nothing was killed in, on a machine that is busy with others."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A record as it stands in Kafka."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    def header(self, name: str) -> str:
        """Give a header's text, empty if it has none."""
        return next(((value or b"").decode(errors="replace") for key, value in self.headers if key == name), "")

    @property
    def type(self) -> str:
        """Its CloudEvents type."""
        return self.header("ce_type")

    @property
    def id(self) -> str:
        """Its CloudEvents id."""
        return self.header("ce_id")

    @property
    def correlation(self) -> str:
        """What it belongs to."""
        return self.header("ce_correlationid")

    def says(self, model: type[Message]) -> bool:
        """Say whether it is a message of this type."""
        return self.type == model.TYPE

    def __getitem__(self, name: str) -> Any:
        """Give a field of its value."""
        return json.loads(self.value or b"{}")[name]


class Wire:
    """Kafka as one principal writes it."""

    def __init__(self, broker: Broker, user: Principal = Principal.PLATFORM) -> None:
        config = {"partitioner": "murmur2_random", "linger.ms": 2, "message.max.bytes": 1_000_000}
        self._producer = Producer({**broker.client_config(user), **config, "log_level": 0})
        self._failed: list[str] = []

    def send(self, message: Message, actor: UUID | None = None, id_: UUID | None = None, **headers: str) -> str:
        """Publish a message without waiting; give its id, which is also what answers are correlated by."""
        made = str(id_ or uuid4())
        given = {"ce_specversion": "1.0", "ce_id": made, "ce_type": message.TYPE, "ce_source": "popfax/tests", **headers}
        if actor is not None:
            given["ce_actor"] = str(actor)
        encoded = [(name, text.encode()) for name, text in given.items()]
        self.send_raw(message.TOPIC.name, message.key().encode(), message.to_json(), encoded)
        return made

    def send_raw(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, partition: int = -1
    ) -> None:
        """Publish any bytes without waiting."""
        if partition >= 0:
            self._producer.produce(topic, value, key, partition, headers=list(headers), on_delivery=self._delivered)
        else:
            self._producer.produce(topic, value, key, headers=list(headers), on_delivery=self._delivered)
        self._producer.poll(0)

    def flush(self, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until Kafka has everything."""
        left = self._producer.flush(timeout_s)
        assert left == 0, f"{left} records were not taken"
        assert not self._failed, self._failed[:3]

    def _delivered(self, error: Any, _: Any) -> None:
        if error is not None:
            self._failed.append(str(error))


@dataclass
class Log:
    """What topics hold from the moment on at which this was made; read as the super user, outside any group."""

    broker: Broker
    topics: Sequence[Topic] = TOPICS
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Take note of where the topics end now."""
        # The group is never joined: partitions are assigned by hand, and nothing is committed.
        config = {"group.id": "tests", "enable.auto.commit": False, "log_level": 0, "fetch.wait.max.ms": 50}
        self._consumer = Consumer({**self.broker.client_config(ADMIN), **config})
        places = [TopicPartition(topic.name, number) for topic in self.topics for number in range(topic.partitions)]
        self.start = {(place.topic, place.partition): self._end(place) for place in places}
        self._consumer.assign([TopicPartition(topic, number, at) for (topic, number), at in self.start.items()])

    def _end(self, place: TopicPartition) -> int:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                return int(self._consumer.get_watermark_offsets(place, timeout=5.0)[1])
            except KafkaException:  # the broker is just coming back
                if time.monotonic() > deadline:
                    raise

    def read(self, timeout_s: float = 0.1) -> list[Seen]:
        """Read what has come; give all that was seen so far."""
        for message in self._consumer.consume(2000, timeout_s):
            if message.error() is None:
                place = (message.topic() or "", message.partition() or 0, message.offset() or 0)
                raw: Any = message.headers() or []
                self.seen.append(Seen(*place, _bytes(message.key()), _bytes(message.value()), tuple(raw)))
        return self.seen

    def read_to_end(self) -> list[Seen]:
        """Read up to where the topics end now."""
        ends = {place: self._end(TopicPartition(*place)) for place in self.start}

        def is_read() -> bool:
            self.read()
            at = {(tp.topic, tp.partition): tp.offset for tp in self._consumer.position(self._consumer.assignment())}
            return all(end <= self.start[place] or at.get(place, -1) >= end for place, end in ends.items())

        wait(is_read, "the log's end")
        return self.seen

    def wait(self, count: int, wanted: Callable[[Seen], bool], timeout_s: float = TIMEOUT_S) -> list[Seen]:
        """Wait until at least so many records are as wanted; give them."""
        found: list[Seen] = []
        checked = 0
        deadline = time.monotonic() + timeout_s
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} records after {timeout_s:g} s"
            self.read()
            found += [seen for seen in self.seen[checked:] if wanted(seen)]
            checked = len(self.seen)
        return found

    def outcome(self, correlation: str, *models: type[Message], timeout_s: float = TIMEOUT_S) -> Seen:
        """Wait for a message of one of these types that answers a command."""
        types = {model.TYPE for model in models}
        return self.wait(1, lambda seen: seen.correlation == correlation and seen.type in types, timeout_s)[0]

    def close(self) -> None:
        """Let go of the connections."""
        self._consumer.close()


def wait(condition: Callable[[], object], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until a condition holds; fail, naming it, if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not after {timeout_s:g} s"
        time.sleep(0.05)


def first_occurrences(records: Iterable[Seen]) -> list[Seen]:
    """Drop the repetitions: what a consumer's inbox leaves of them."""
    return list({seen.id: seen for seen in reversed(list(records))}.values())[::-1]


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
