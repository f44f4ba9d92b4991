"""Reads topics from their start, as the administrator, outside any consumer group."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from deploy.operator.invariants import Logged, logged
from popfax_contracts.topics import Topic
from services.chassis.messages import StoredRecord

_AT_ONCE = 2_000
_POLL_S = 0.1
"""The client waits so long for as many: until then it gives back nothing, however little is left to come."""

_WITHIN_S = 30.0
"""So long nothing may come while the end of a partition has not been told."""

_GROUP = "popfax-audit"
"""A name that the client wants: the group is never joined, and nothing is committed."""


class Reader:
    """Reads some topics to the end that they have by then, and later on to the end that they have by then.

    A partition's records come in their order. Memory is bounded, whatever the topics hold.
    """

    def __init__(self, config: Mapping[str, Any], topics: Sequence[Topic], progress: Callable[[int], None]) -> None:
        """Nothing is read yet. `config` is confluent-kafka's, of somebody who may read the topics."""
        self._config = {**config, "group.id": _GROUP, "enable.auto.commit": False, "enable.partition.eof": True}
        self._config |= {"isolation.level": "read_committed", "queued.max.messages.kbytes": 16_384}
        self._next = {
            (topic.name, partition): OFFSET_BEGINNING for topic in topics for partition in range(topic.partitions)
        }
        self._progress = progress

    def read(self) -> Iterator[Logged]:
        """Read on to the end. Raises `KafkaException` when nothing comes, and no end either."""
        consumer = Consumer(self._config)
        left = set(self._next)
        try:
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


def _logged(message: Any) -> Logged | None:
    """Read one, None for what has no envelope: that is nobody's message."""
    place = (message.topic(), message.partition(), message.offset())
    return logged(StoredRecord(None, None, *place, message.key(), message.value(), message.headers() or ()))  # type: ignore[arg-type]
