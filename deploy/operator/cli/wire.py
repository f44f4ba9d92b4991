"""Kafka as the command line uses it: publishing commands, and watching for their effects."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self
from uuid import UUID, uuid4

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as KafkaMessage

from deploy.operator.cli.commands import short_name
from deploy.operator.cli.connection import unreachable
from deploy.operator.cli.errors import Unreachable
from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.message import Command, Message
from popfax_contracts.topics import Principal, Topic
from services.chassis.envelopes import received_headers
from services.chassis.messages import Outgoing, headers_of

SOURCE = f"popfax/{Principal.PLATFORM}"

_REQUEST_TIMEOUT_S = 5.0
_POLL_S = 0.1
_DELIVERY_TIMEOUT_MS = 10_000


@dataclass(frozen=True, slots=True)
class Sent:
    """A published command. Its id is its correlation id, too."""

    id: UUID
    command: Command
    actor: UUID | None


@dataclass(frozen=True, slots=True)
class Seen:
    """A record read from Kafka."""

    topic: str
    partition: int
    offset: int
    at: datetime
    id: str
    type: str
    source: str
    correlation_id: str
    causation_id: str
    body: Message | None
    """The message; None if this version can't read the type or the value."""

    @property
    def sender(self) -> str:
        """Who published it, in one word."""
        return self.source.removeprefix("popfax/")

    @property
    def short_name(self) -> str:
        """The part of its type that identifies it: `units-reserved`."""
        return short_name(self.type)


class Publisher:
    """Publishes commands as the platform does: keyed, idempotent, acknowledged by all in-sync replicas."""

    def __init__(self, config: Mapping[str, str]) -> None:
        """`config` is the platform's client configuration."""
        self._producer = Producer(
            {
                **config,
                "acks": "all",
                "enable.idempotence": True,
                # Java's and aiokafka's hash: all writers of a topic must put a key on the same partition.
                "partitioner": "murmur2_random",
                "message.timeout.ms": _DELIVERY_TIMEOUT_MS,
                "linger.ms": 5,
            }
        )

    def publish(self, *commands: tuple[Command, UUID | None]) -> list[Sent]:
        """Publish commands together, each on behalf of an actor or of nobody. Raises Unreachable."""
        failures: list[KafkaError] = []
        sent = [Sent(uuid4(), command, actor) for command, actor in commands]
        for each in sent:
            self._produce(each, failures)
        if self._producer.flush(_DELIVERY_TIMEOUT_MS / 1000 + 1) or failures:
            raise Unreachable(f"Kafka did not take the command: {failures[0].str() if failures else 'no answer'}")
        return sent

    def _produce(self, sent: Sent, failures: list[KafkaError]) -> None:
        command = sent.command
        own = str(sent.id)
        out = Outgoing(sent.id, command.TYPE, command.key(), command.to_json(), own, own, sent.actor, None)
        headers = headers_of(out, SOURCE, datetime.now(UTC).isoformat())

        def acknowledged(error: KafkaError | None, _: KafkaMessage) -> None:
            if error is not None:
                failures.append(error)

        topic = command.topic_of(Principal.PLATFORM)
        self._producer.produce(topic.name, out.value, out.key, headers=list(headers), on_delivery=acknowledged)


class Watch:
    """Reads topics from now on, or from their beginning. "Now" is the moment of construction."""

    def __init__(
        self, config: Mapping[str, str], topics: Iterable[Topic], *, group: str, from_beginning: bool = False
    ) -> None:
        """`group` must be one that the principal may use; nothing is committed for it. Raises Unreachable."""
        self._consumer = Consumer(
            {
                **config,
                "group.id": group,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 50,
                "client.id": "popfax",
            }
        )
        try:
            places = [self._place(each, from_beginning) for topic in topics for each in self._partitions(topic)]
        except KafkaException as error:
            self._consumer.close()
            raise unreachable(error) from error
        self._consumer.assign(places)

    def poll(self, timeout_s: float) -> Seen | None:
        """Return the next record, None if none comes within `timeout_s` seconds. Raises Unreachable."""
        message = self._consumer.poll(timeout_s)
        if message is None:
            return None
        if (error := message.error()) is not None:
            if error.retriable() or error.code() == KafkaError._ALL_BROKERS_DOWN:
                return None
            raise unreachable(KafkaException(error))
        return _seen(message)

    def until(self, deadline: float) -> Iterable[Seen]:
        """Yield the records that arrive before a deadline (of `time.monotonic`, in seconds). Raises Unreachable."""
        while (left := deadline - time.monotonic()) > 0:
            if (seen := self.poll(min(left, _POLL_S))) is not None:
                yield seen

    def to_end(self, timeout_s: float) -> list[Seen]:
        """Return the records that exist now, or as many as can be read in `timeout_s` seconds. Raises Unreachable."""
        ends = self._ends()
        found: list[Seen] = []
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not self._is_past(ends):
            if (seen := self.poll(_POLL_S)) is not None:
                found.append(seen)
        return found

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _partitions(self, topic: Topic) -> list[TopicPartition]:
        found = self._consumer.list_topics(topic.name, timeout=_REQUEST_TIMEOUT_S).topics[topic.name]
        if found.error is not None:
            raise KafkaException(found.error)
        return [TopicPartition(topic.name, number) for number in found.partitions]

    def _ends(self) -> list[TopicPartition]:
        """Return the present end of each partition that holds any record."""
        places = self._consumer.assignment()
        bounds = [self._consumer.get_watermark_offsets(place, timeout=_REQUEST_TIMEOUT_S) for place in places]
        return [
            TopicPartition(place.topic, place.partition, high)
            for place, (low, high) in zip(places, bounds, strict=True)
            if high > low
        ]

    def _is_past(self, ends: list[TopicPartition]) -> bool:
        return all(at.offset >= end.offset for at, end in zip(self._consumer.position(ends), ends, strict=True))

    def _place(self, partition: TopicPartition, from_beginning: bool) -> TopicPartition:
        offset = OFFSET_BEGINNING
        if not from_beginning:
            _, offset = self._consumer.get_watermark_offsets(partition, timeout=_REQUEST_TIMEOUT_S)
        return TopicPartition(partition.topic, partition.partition, offset)


def _seen(message: KafkaMessage) -> Seen:
    headers = {name: _text(value) for name, value in dict(received_headers(message)).items()}
    type_ = headers.get("ce_type", "")
    return Seen(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        at=datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC),
        id=headers.get("ce_id", ""),
        type=type_,
        source=headers.get("ce_source", ""),
        correlation_id=headers.get("ce_correlationid", ""),
        causation_id=headers.get("ce_causationid", ""),
        body=_body(type_, message.key(), message.value()),
    )


def _text(value: str | bytes | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""


def _body(type_: str, key: str | bytes | None, value: str | bytes | None) -> Message | None:
    model = MESSAGES.get(type_)
    try:
        return None if model is None else model.from_record(_bytes(key), _bytes(value))
    except ValueError:  # pydantic's ValidationError is a ValueError
        return None


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
