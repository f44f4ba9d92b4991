"""The relay: publishes the outbox to Kafka, in order on each key, and deletes what Kafka has acknowledged.

One relay a service at a time: it holds an advisory lock on the very connection that deletes, so a relay that has lost
the lock has lost the power to delete as well. A crash between Kafka's answer and the deletion publishes again; every
consumer has an inbox. After any failure everything is made anew (connection, lock, producer): an idempotent producer
that failed once keeps failing.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import sqlalchemy as sa
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.catalogue import MESSAGES
from contracts.topics import Principal
from services._platform import kafka, metrics
from services._platform.messages import Outgoing, headers_of
from services._platform.postgres import OUTBOX
from services._platform.settings import KafkaSettings

log = structlog.get_logger(__name__)

ROWS = 2000
"""The most rows in one round."""

LOCK = 0x706F70666178
"""The advisory lock's number; a service has a database of its own, so one number does."""

STAND_BY_S = 0.5
"""How often a relay that does not lead asks for the lock."""

POLL_S = 0.1
"""How often the outbox is looked at unasked: for rows that another replica has committed."""

SWEEP_S = 1.0
"""How often it is looked at from its very beginning, see `Relay._read`."""

_COLUMNS = [c for c in OUTBOX.columns if c.name != "made_at"]
_READ = (
    sa.select(*_COLUMNS, OUTBOX.c.made_at)
    .where(OUTBOX.c.seq > sa.bindparam("floor"))
    .order_by(OUTBOX.c.seq)
    .limit(ROWS)
)
_DELETE = sa.delete(OUTBOX).where(OUTBOX.c.seq == sa.any_(sa.bindparam("seqs", type_=ARRAY(sa.BigInteger))))


class Relay:
    """Publishes one service's outbox."""

    def __init__(self, principal: Principal, engine: AsyncEngine, settings: KafkaSettings) -> None:
        self.source = f"popfax/{principal.value}"
        self.engine = engine
        self.settings = settings
        self.working = False
        self._wake = asyncio.Event()
        self._floor = 0
        self._swept = 0.0

    def wake(self) -> None:
        """Say that there is something to publish."""
        self._wake.set()

    async def run(self) -> None:
        """Relay until cancelled, whatever fails."""
        while True:
            try:
                await self._lead()
            except (KafkaError, OSError, TimeoutError, sa.exc.SQLAlchemyError, UnknownType) as error:
                metrics.RELAY_FAILURES.inc()
                log.warning("relay_failed", error=type(error).__name__)
            finally:
                self.working = False
                metrics.RELAY_LEADER.set(0)
            await asyncio.sleep(0.5)

    async def _lead(self) -> None:
        """Wait for the lock, and relay for as long as everything holds."""
        async with self.engine.connect() as plain:
            try:
                connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
                while not (await connection.execute(sa.select(sa.func.pg_try_advisory_lock(LOCK)))).scalar():  # noqa: ASYNC110
                    await asyncio.sleep(STAND_BY_S)
                # A deletion lost in a crash is a duplicate, and duplicates are expected: no need to wait for the disk.
                await connection.execute(sa.text("SET synchronous_commit = off"))
                producer = await kafka.producer(self.settings)
                try:
                    log.info("relay_leads")
                    self.working = True
                    metrics.RELAY_LEADER.set(1)
                    self._floor = 0
                    while True:
                        await self._round(connection, producer)
                finally:
                    await kafka.stop(producer)
            finally:
                # Closes it, whatever state it is in. The pool must never have it back: the lock would stay taken, and
                # the service's own transactions would be committed without waiting for the disk.
                await plain.invalidate()

    async def _round(self, connection: AsyncConnection, producer: AIOKafkaProducer) -> None:
        self._wake.clear()
        rows = await self._read(connection)
        if rows:
            await publish(producer, rows, self.source)
            seqs = [row.seq for row in rows]
            await connection.execute(_DELETE, {"seqs": seqs})
            self._floor = seqs[-1]
            metrics.RELAYED.inc(len(rows))
        if len(rows) < ROWS:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_S)

    async def _read(self, connection: AsyncConnection) -> Sequence[Any]:
        """Read the next rows, from where the last ones ended: below lie dead rows that a scan would wade through.

        Numbers are not in commit order, so a late commit can be below: once a second, all of it is looked at. On one
        key they are in order (its row was locked), so nothing of a key is passed over by something later of it.
        """
        now = asyncio.get_running_loop().time()
        if now - self._swept > SWEEP_S:
            self._swept, self._floor = now, 0
        return (await connection.execute(_READ, {"floor": self._floor})).all()


class UnknownType(Exception):
    """The outbox holds a type that this version does not know: a newer one wrote it. It waits for that one."""


async def publish(producer: AIOKafkaProducer, rows: Sequence[Any], source: str) -> None:
    """Send rows and wait until Kafka has them all; raises on the first that it has not.

    Whole batches are built here, a partition at a time: a quarter cheaper than sending one by one.
    """
    by_partition: dict[tuple[str, int], list[Any]] = {}
    for row in rows:
        model = MESSAGES.get(row.type)
        if model is None:
            raise UnknownType(row.type)
        topic = model.TOPIC
        by_partition.setdefault((topic.name, kafka.partition_of(row.key, topic.partitions)), []).append(row)
    acknowledged = []
    for (topic_name, partition), batch_rows in by_partition.items():
        acknowledged += await _send(producer, topic_name, partition, batch_rows, source)
    await asyncio.wait_for(asyncio.gather(*acknowledged), 30)


async def _send(
    producer: AIOKafkaProducer, topic: str, partition: int, rows: Sequence[Any], source: str
) -> list[asyncio.Future[Any]]:
    sent = []
    batch = producer.create_batch()
    for row in rows:
        record = {"key": row.key.encode(), "value": row.value, "headers": _headers(row, source), "timestamp": None}
        if batch.append(**record) is None:  # full: send it and begin another
            sent.append(await producer.send_batch(batch, topic, partition=partition))
            batch = producer.create_batch()
            if batch.append(**record) is None:
                raise ValueError(f"{row.type} is larger than a batch")
    sent.append(await producer.send_batch(batch, topic, partition=partition))
    return sent


def _headers(row: Any, source: str) -> list[tuple[str, bytes]]:
    made_at: datetime = row.made_at
    out = Outgoing(
        row.id, row.type, row.key, row.value, row.correlation_id, row.causation_id, row.actor, row.traceparent
    )
    return headers_of(out, source, made_at.isoformat())
