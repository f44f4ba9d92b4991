"""What the topics still hold of the time since a backup, and how far a service had got with it."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from deploy.operator.log import places
from popfax_contracts.topics import Principal, Topic
from services.chassis.arrivals import Fetched
from services.chassis.envelopes import received_headers
from services.chassis.partitions import Place

_AT_ONCE = 2_000
_POLL_S = 0.1
_WITHIN_S = 30.0
_GROUP = "popfax-replay"
"""The group id that the client requires: the group is never joined, and nothing is committed."""

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Gone:
    """A partition that may have lost records of the time in question."""

    topic: str
    partition: int
    offset: int
    """The first offset that is still there."""


def read(
    config: Mapping[str, Any], topics: Collection[Topic], since: datetime, progress: Progress
) -> Iterator[Fetched]:
    """Yield the topics' records since a moment, up to their present ends, each partition in order.

    Raises `KafkaException` when neither records nor the end come.
    """
    consumer = _client(config)
    try:
        starts = _starts(consumer, topics, since)
        left = {(each.topic, each.partition) for each in starts}
        consumer.assign(starts)
        deadline = time.monotonic() + _WITHIN_S
        while left:
            messages = consumer.consume(_AT_ONCE, _POLL_S)
            if messages:
                deadline = time.monotonic() + _WITHIN_S
            elif time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"nothing of {len(left)} partitions came"))
            progress(len(messages))
            for message in messages:
                place = (message.topic() or "", message.partition() or 0)
                if (error := message.error()) is None:
                    headers, timestamp = received_headers(message), message.timestamp()[1]
                    yield Fetched(*place, message.offset(), message.key(), message.value(), headers, timestamp)  # type: ignore[arg-type]
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(place)
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()


def gone(config: Mapping[str, Any], topics: Collection[Topic], since: datetime) -> list[Gone]:
    """Return the partitions whose retention has already removed records, perhaps of the time since a moment."""
    kept = [topic for topic in topics if not topic.compacted]
    resources = [ConfigResource(ResourceType.TOPIC, topic.name) for topic in kept]
    admin = AdminClient(dict(config))  # whose end would be that of its answers
    described = admin.describe_configs(resources)
    found = {each.name: future.result() for each, future in described.items()}
    now = datetime.now(UTC)
    old = [
        topic
        for topic in kept
        if (ms := int(found[topic.name]["retention.ms"].value)) >= 0 and now - timedelta(milliseconds=ms) > since
    ]
    consumer = _client(config)
    try:
        lows = {place: consumer.get_watermark_offsets(TopicPartition(*place), 10)[0] for place in places(consumer, old)}
    finally:
        consumer.close()
    return [Gone(*place, low) for place, low in lows.items() if low > 0]


def committed(config: Mapping[str, Any], service: Principal) -> Mapping[Place, int]:
    """Return how far a service's consumer group has committed each partition."""
    request = ConsumerGroupTopicPartitions(service.value)
    admin = AdminClient(dict(config))
    group = admin.list_consumer_group_offsets([request])[service.value].result()
    return {(each.topic, each.partition): each.offset for each in group.topic_partitions if each.offset >= 0}


def members(config: Mapping[str, Any], service: Principal) -> int:
    """Return how many replicas are in a service's consumer group."""
    admin = AdminClient(dict(config))
    found = admin.describe_consumer_groups([service.value])[service.value].result()
    return len(found.members)


def _client(config: Mapping[str, Any]) -> Consumer:
    own = {"group.id": _GROUP, "enable.auto.commit": False, "enable.partition.eof": True}
    return Consumer({**config, **own, "isolation.level": "read_committed", "fetch.wait.max.ms": 50})


def _starts(consumer: Consumer, topics: Collection[Topic], since: datetime) -> list[TopicPartition]:
    """Return where to begin. A partition without records since then is read from its end."""
    moment = int(since.timestamp() * 1000)
    wanted = [TopicPartition(*place, moment) for place in places(consumer, topics)]
    return consumer.offsets_for_times(wanted, timeout=_WITHIN_S)
