"""Reads topics from their start, as the administrator, outside any consumer group."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from deploy.operator.invariants import Logged, logged
from popfax_contracts.topics import Topic
from services.chassis.envelopes import received_headers
from services.chassis.messages import StoredRecord

_AT_ONCE = 2_000
_POLL_S = 0.1
"""How long the client waits to fill a batch of records, in seconds. It returns a partial one only then."""

_FETCH_WAIT_MS = 50
"""How long the broker waits for a new record at a partition's end before it says that this is the end, in ms."""

_WITHIN_S = 30.0
"""How long to wait without any record while a partition's end is not reached, in seconds."""

_GROUP = "popfax-audit"
"""The group id that the client requires: the group is never joined, and nothing is committed."""


class Reader:
    """Reads topics up to their present end; a later call goes on from there up to the new end.

    Each partition's records come in order. Memory is bounded, whatever the size of the topics.
    """

    def __init__(self, config: Mapping[str, Any], topics: Sequence[Topic], progress: Callable[[int], None]) -> None:
        """Read nothing yet. `config` is the confluent-kafka configuration of a user who may read the topics."""
        self._config = {**config, "group.id": _GROUP, "enable.auto.commit": False, "enable.partition.eof": True}
        self._config |= {"isolation.level": "read_committed", "queued.max.messages.kbytes": 16_384}
        self._config |= {"fetch.wait.max.ms": _FETCH_WAIT_MS}
        self._topics = topics
        self._next: dict[tuple[str, int], int] = {}
        self._progress = progress

    def read(self) -> Iterator[Logged]:
        """Yield the records up to the present end. Raises `KafkaException` when neither records nor the end come."""
        consumer = Consumer(self._config)
        try:
            for place in places(consumer, self._topics):
                self._next.setdefault(place, OFFSET_BEGINNING)
            left = set(self._next)
            consumer.assign([TopicPartition(*place, offset) for place, offset in self._next.items()])
            deadline = time.monotonic() + _WITHIN_S
            while left:
                messages = consumer.consume(_AT_ONCE, _POLL_S)
                if messages:
                    deadline = time.monotonic() + _WITHIN_S
                elif time.monotonic() > deadline:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"nothing of {len(left)} partitions came"))
                self._progress(len(messages))
                for message in messages:
                    place = (message.topic() or "", message.partition() or 0)
                    error = message.error()
                    if error is None:
                        self._next[place] = (message.offset() or 0) + 1
                        if (record := _logged(message)) is not None:
                            yield record
                    elif error.code() == KafkaError._PARTITION_EOF:
                        self._next[place] = message.offset() or 0
                        left.discard(place)
                    else:
                        raise KafkaException(error)
        finally:
            consumer.close()


def places(client: Consumer, topics: Iterable[Topic]) -> list[tuple[str, int]]:
    """Return the partitions that topics have at present, as the broker says. Raises `KafkaException`."""
    found = client.list_topics(timeout=_WITHIN_S).topics
    wanted = [topic.name for topic in topics]
    if missing := [name for name in wanted if name not in found]:
        raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, f"there is no {', '.join(missing)}"))
    return [(name, number) for name in wanted for number in sorted(found[name].partitions)]


def _logged(message: Any) -> Logged | None:
    """Read a record; None if it has no envelope, and so is not a message."""
    place = (message.topic(), message.partition(), message.offset())
    return logged(StoredRecord(None, None, *place, message.key(), message.value(), received_headers(message)))  # type: ignore[arg-type]
