"""A publisher that keeps to docs/connecting.md: it sends again what is not acknowledged, by another client."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, Producer

REPLACED_S = 120.0
"""A client that has delivered nothing for this long, although something waits, is replaced.

librdkafka may forget all brokers for good while they come back (its issue 5301). Longer than any fault lasts.
"""


@dataclass(frozen=True)
class Record:
    """What is to be published, and whom to tell once Kafka has answered: with None or the error."""

    topic: str
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes | None]]
    answered: Callable[[KafkaError | None], None]


class Publisher:
    """Publishes records at least once, in order as long as its client lives."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """`config` is librdkafka's."""
        self.replaced = 0
        """How often its client was replaced."""
        self._config = dict(config)
        self._producer = Producer(self._config)
        self._waiting: dict[int, Record] = {}
        self._sent = 0
        self._moved_at = time.monotonic()
        """When Kafka last answered, or nothing waited."""

    def send(self, record: Record) -> None:
        """Take a record. Kafka's answer is told by a later `poll`."""
        self._sent += 1
        self._waiting[self._sent] = record
        self._produce(self._sent, record)

    def poll(self) -> None:
        """Tell what Kafka has answered; replace the client if it has long answered nothing."""
        self._producer.poll(0)
        now = time.monotonic()
        if not self._waiting:
            self._moved_at = now
        elif now - self._moved_at > REPLACED_S:
            self._replace()

    def wait(self, until: float) -> int:
        """Wait until Kafka has answered everything, or a moment of the monotonic clock; return how much still waits."""
        while True:
            self._producer.flush(0.5)
            self.poll()
            if not self._waiting or time.monotonic() >= until:
                return len(self._waiting)

    def _replace(self) -> None:
        self.replaced += 1
        self._producer = Producer(self._config)
        self._moved_at = time.monotonic()
        for number, record in self._waiting.items():
            self._produce(number, record)

    def _produce(self, number: int, record: Record) -> None:
        def answered(error: KafkaError | None, _: Any) -> None:
            self._moved_at = time.monotonic()
            if (waiting := self._waiting.pop(number, None)) is not None:
                waiting.answered(error)

        self._producer.produce(
            record.topic, record.value, record.key, headers=list(record.headers), on_delivery=answered
        )
