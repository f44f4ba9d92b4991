"""How a service connects to Kafka: security, and the few choices that must not be left to defaults."""

import asyncio
import ssl
from contextlib import suppress
from functools import lru_cache
from struct import unpack
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from faststream.kafka import KafkaBroker
from faststream.security import SASLScram512

from services._platform.settings import KafkaSettings


def broker(settings: KafkaSettings) -> KafkaBroker:
    """Make FastStream's broker, for consuming. Nothing connects before it is started."""
    context = ssl.create_default_context() if settings.kafka_security == "SASL_SSL" else None
    security = SASLScram512(
        username=settings.kafka_username,
        password=settings.kafka_password.get_secret_value(),
        ssl_context=context,
        use_ssl=context is not None,
    )
    return KafkaBroker(
        settings.kafka_bootstrap.split(","),
        security=security,
        client_id=settings.kafka_username,
        allow_auto_create_topics=False,
        retry_backoff_ms=500,
        graceful_timeout=8.0,
        logger=None,
    )


async def producer(settings: KafkaSettings) -> AIOKafkaProducer:
    """Start an idempotent producer; raises `KafkaError` when there is no broker to be had, after at most 10 s."""
    made = AIOKafkaProducer(
        **client(settings), acks="all", enable_idempotence=True, linger_ms=0, max_batch_size=1 << 20
    )
    try:
        await asyncio.wait_for(made.start(), 10)
    except BaseException:
        await stop(made)
        raise
    return made


def client(settings: KafkaSettings) -> dict[str, Any]:
    """Give the arguments with which every aiokafka client connects."""
    return {
        "bootstrap_servers": settings.kafka_bootstrap.split(","),
        "client_id": settings.kafka_username,
        "security_protocol": settings.kafka_security,
        "ssl_context": ssl.create_default_context() if settings.kafka_security == "SASL_SSL" else None,
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": settings.kafka_username,
        "sasl_plain_password": settings.kafka_password.get_secret_value(),
        "retry_backoff_ms": 200,
    }


async def stop(producer: AIOKafkaProducer) -> None:
    """Stop a producer, and not for ever: with its broker gone it would hang."""
    with suppress(KafkaError, TimeoutError):  # it is being thrown away
        await asyncio.wait_for(producer.stop(), 5)


@lru_cache(maxsize=65536)
def partition_of(key: str, partitions: int) -> int:
    """Give the partition of a key: murmur2 as Java's client and aiokafka hash it, so that every writer agrees."""
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
