"""How a service uses Kafka: the few settings of its clients that must not be left to their defaults."""

import asyncio
from collections.abc import Set
from functools import lru_cache
from struct import unpack
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from popfax_contracts.topics import Principal
from services.chassis import kafka_access
from services.chassis.settings import KafkaSettings, ServiceSettings
from services.chassis.tolerant import tolerate_lost_connections

_ANSWER_S = 10.0


def consumer(settings: ServiceSettings, principal: Principal) -> dict[str, Any]:
    """Return the configuration of a service's consumer; nothing important is left to a default."""
    return librdkafka(settings) | {
        "group.id": principal.value,
        **({"group.instance.id": settings.replica} if settings.replica else {}),
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        "check.crcs": True,
        # A rebalance revokes only the partitions that move; the others are consumed meanwhile.
        "partition.assignment.strategy": "cooperative-sticky",
        # The broker answers at once if there is anything; whether to wait for more is decided here (`gathering`). An
        # idle partition is fetched twice a second, which is also how long a newly assigned one may wait for its turn.
        "fetch.min.bytes": 1,
        "fetch.wait.max.ms": 500,
        "max.partition.fetch.bytes": 4 << 20,
        # Prefetch a few batches, not the default of 100,000 records.
        "queued.min.messages": 3 * settings.batch_records,
        "fetch.queue.backoff.ms": 50,
        "session.timeout.ms": 10_000,
        "heartbeat.interval.ms": 1_000,
        "max.poll.interval.ms": 120_000,
        "allow.auto.create.topics": False,
        "statistics.interval.ms": 1_000,
    }


def librdkafka(settings: KafkaSettings) -> dict[str, Any]:
    """Return the settings of every client of librdkafka."""
    return kafka_access.librdkafka(settings) | {
        "socket.timeout.ms": 10_000,  # a frozen broker would otherwise go unnoticed for a minute
        "reconnect.backoff.max.ms": 2_000,
        "log.connection.close": False,
    }


async def producer(settings: KafkaSettings, fence: str | None = None) -> AIOKafkaProducer:
    """Start an idempotent producer. Raises `KafkaError` if no broker can be reached, after at most 10 s.

    With a `fence`, a transactional id, it shuts out earlier producers with the same id: the coordinator raises the
    producer id's epoch, and a partition that has a record of the new epoch refuses older epochs (KIP-98).
    """
    tolerate_lost_connections()
    made = AIOKafkaProducer(
        **client(settings),
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
        max_batch_size=1 << 20,
        transactional_id=fence,
    )
    try:
        async with asyncio.timeout(10):
            await made.start()
    except BaseException as error:
        await stop(made)
        if isinstance(
            error, AssertionError
        ):  # aiokafka's way of saying that the broker accepted the connection and closed it
            raise KafkaConnectionError("not bootstrapped") from error
        raise
    # The epoch is all we want: from here on it writes like any idempotent producer, without transactions, which
    # would cost 2 to 25 ms per round and keep readers waiting for one that its writer left open.
    made._txn_manager.transactional_id = None
    return made


def client(settings: KafkaSettings) -> dict[str, Any]:
    """Return the arguments of every aiokafka client."""
    return kafka_access.aiokafka(settings) | {"retry_backoff_ms": 200}


def renew(producer: AIOKafkaProducer, settings: KafkaSettings) -> None:
    """Have a producer open its next connections with what the settings say now. Those that are open stay."""
    client = producer.client
    client._sasl_plain_username, client._sasl_plain_password = kafka_access.credentials(settings)
    client._ssl_context = kafka_access.context(settings)


async def stop(producer: AIOKafkaProducer) -> None:
    """Stop a producer at once, dropping what it has not delivered: that must not go out when nobody waits for it.

    Its own `stop` would deliver that first, however long the broker takes, and would go on even if cancelled.
    """
    producer._closed = True
    client, sender = producer.client, producer._sender.sender_task
    client._maybe_wait_metadata = _at_once  # nobody awaits them any more
    if sender is not None:
        sender.cancel()  # it waits for requests in flight, which closing the connections ends
    await client.close()
    if sender is not None:
        await asyncio.wait({sender})


async def _at_once() -> None:
    """Return at once."""


async def check(producer: AIOKafkaProducer) -> None:
    """Wait until a broker answers, for a producer that has nothing to send."""
    while not await producer.client.force_metadata_update():  # noqa: ASYNC110  (its answer is no event)
        await asyncio.sleep(0.2)


async def partitions(settings: KafkaSettings, topics: Set[str]) -> dict[str, int]:
    """Ask the broker how many partitions each of these topics has. Raises confluent_kafka's `KafkaException`."""
    admin = AdminClient({**librdkafka(settings), "log_level": 0})
    found = (await asyncio.to_thread(admin.list_topics, timeout=_ANSWER_S)).topics
    if missing := topics - found.keys():
        raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, f"no {', '.join(sorted(missing))}"))
    return {topic: len(found[topic].partitions) for topic in topics}


@lru_cache(maxsize=65536)
def partition_of(key: str, partitions: int) -> int:
    """Return a key's partition, by murmur2 as in Java's client and aiokafka, so that all writers agree."""
    return (_murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    """Hash like `aiokafka.partitioner.murmur2`, whole words at a time."""
    length = len(data)
    words = length >> 2
    h = 0x9747B28C ^ length
    for word in unpack(f"<{words}I", data[: words << 2]):
        k = (word * 0x5BD1E995) & 0xFFFFFFFF
        k = ((k ^ (k >> 24)) * 0x5BD1E995) & 0xFFFFFFFF
        h = ((h * 0x5BD1E995) & 0xFFFFFFFF) ^ k
    tail = data[words << 2 :]
    if tail:
        h = ((h ^ int.from_bytes(tail, "little")) * 0x5BD1E995) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 0x5BD1E995) & 0xFFFFFFFF
    return h ^ (h >> 15)
