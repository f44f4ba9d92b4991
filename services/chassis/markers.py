"""Markers: small records that make Kafka compact partitions to which nothing else is written.

A broker rolls a log to a new segment only when something is appended, and compacts only closed segments. On a quiet
partition an erased person's record would stay beside its tombstone forever. So every replica of a writer marks each
partition of its compacted topics, an hour after its start and then every `MARKED_EVERY`, through the outbox like
everything it publishes. More replicas mark more often, which costs a dozen empty records.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count
from uuid import UUID, uuid4

import sqlalchemy as sa
import structlog
from confluent_kafka import KafkaException
from sqlalchemy.ext.asyncio import AsyncEngine

from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.ids import derive
from popfax_contracts.message import Marker
from popfax_contracts.topics import MARKED_EVERY, Principal, Topic
from services.chassis import kafka
from services.chassis.database import Outage
from services.chassis.kafka import partition_of
from services.chassis.messages import Outgoing
from services.chassis.postgres import PostgresDatabase
from services.chassis.settings import KafkaSettings

log = structlog.get_logger(__name__)

FIRST_AFTER = timedelta(hours=1)
"""Not at once: a service that keeps crashing should not fill topics."""

_KEYS = UUID("2f1d7c88-5b0e-5d0a-9a43-1c7e6a90b4d2")


async def mark(
    engine: AsyncEngine,
    settings: KafkaSettings,
    principal: Principal,
    committed: Callable[[], None],
    first_after: timedelta = FIRST_AFTER,
    every: timedelta = MARKED_EVERY,
) -> None:
    """Mark a principal's compacted topics until cancelled. `committed` is called when there is something to relay."""
    database, pause = PostgresDatabase(engine), first_after
    while True:
        await asyncio.sleep(pause.total_seconds())
        try:
            partitions = await kafka.partitions(settings, {topic.name for _, topic in _marked(principal)})
            async with database.begin() as tx:
                await tx.send(list(markers(principal, partitions)), datetime.now(UTC))
        except (Outage, KafkaException, sa.exc.SQLAlchemyError, OSError) as error:
            log.warning("not_marked", error=type(error).__name__)
            pause = first_after
        else:
            committed()
            pause = every


def markers(principal: Principal, partitions: Mapping[str, int]) -> Iterator[Outgoing]:
    """Return a marker for each partition of the compacted topics that a principal writes.

    `partitions` says how many each topic has.
    """
    for model, topic in _marked(principal):
        for key in keys_of(topic, partitions[topic.name]):
            id_ = uuid4()
            yield Outgoing(id_, model.TYPE, str(key), b"", str(id_), str(id_), None, None)


def _marked(principal: Principal) -> Iterator[tuple[type[Marker], Topic]]:
    for model in MESSAGES.values():
        if issubclass(model, Marker) and model.TOPICS[0].writer is principal:
            yield model, model.TOPICS[0]


@cache
def keys_of(topic: Topic, partitions: int) -> tuple[UUID, ...]:
    """Return the keys of a topic's markers, one per partition, in the order of the partitions."""
    found: dict[int, UUID] = {}
    for number in count():
        key = derive(_KEYS, f"{topic.name}/{number}")
        found.setdefault(partition_of(str(key), partitions), key)
        if len(found) == partitions:
            return tuple(found[partition] for partition in range(partitions))
    raise AssertionError("every partition has keys")
