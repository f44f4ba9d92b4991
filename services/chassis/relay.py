"""The relay: publishes the outbox to Kafka, in order within each key, and deletes what Kafka has acknowledged.

There is one relay per service at a time, and two fences. The advisory lock is held on the very connection that deletes:
a relay that has lost the lock can no longer delete. The producer has an epoch that each new leader raises: what a
paused relay still has in hand is refused by the broker once its successor has published the same rows.

A crash between Kafka's answer and the deletion leads to duplicates; every consumer has an inbox. After any failure
everything is recreated (connection, lock, producer): an idempotent producer that has failed once keeps failing.
"""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from itertools import takewhile
from typing import Any, NamedTuple

import psycopg
import sqlalchemy as sa
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from psycopg.types.string import ByteaBinaryLoader
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.topics import Principal
from services.chassis import kafka, metrics
from services.chassis.database import Ready
from services.chassis.messages import headers, source_of
from services.chassis.pipeline import Driver, Pipeline, Row, statement
from services.chassis.postgres import OUTBOX, driver_of
from services.chassis.settings import KafkaSettings
from services.chassis.tracing import tracing
from services.chassis.wakeups import OUTBOX_CHANNEL, Bell, Wakeup

log = structlog.get_logger(__name__)

ROWS = 2000
"""The most rows in one round."""

LOCK = 0x706F70666178
"""The advisory lock's number. Each service has its own database, so one number is enough."""

STAND_BY_S = 0.5
"""How often a relay that is not leading asks for the lock."""

STEP_ASIDE_S = 3.0
"""How long a relay that has met an unknown type does not ask for the lock: a newer version's replica should lead."""

POLL_S = 1.0
"""How often the outbox is read without a wake-up, for rows whose writer died before it could ring."""

DEAD_ROWS = 1000
"""So many deleted rows at the beginning of a scan are worth looking for a later one to begin with."""

ANSWER_S = 10.0
"""The longest wait for any answer from Kafka; then another replica, which may reach it better, gets the lock."""

PAUSE_S = 15
"""The server ends a relay's session after this much silence, which releases its lock; more than `ANSWER_S`."""

CHECK_S = 5.0
"""How often a relay asks Kafka about its topics: whether it could publish, and how many partitions they have."""

LEARNS_WITHIN_S = CHECK_S + ANSWER_S + PAUSE_S
"""How long after a topic got more partitions a relay may still write by their old number: it asked just before, takes
as long as it may, and is paused for as long as it can be without losing the lock."""

RENEW_S = 3600.0
"""How often the epoch is raised without a change of leader: the coordinator forgets ids that were idle for
`transactional.id.expiration.ms` (7 days), and their epochs."""


class Unsent(NamedTuple):
    """An outbox row as it travels, in UTF-8: PostgreSQL formats ids and times faster than we do."""

    seq: int
    id: bytes
    type: bytes
    key: bytes
    value: bytes
    correlation_id: bytes
    causation_id: bytes
    actor: bytes | None
    traceparent: bytes | None
    made_at: bytes
    requester: bytes | None


_READ = (
    sa.select(
        *(
            sa.cast(c, sa.Text).label(c.name) if isinstance(c.type, sa.Uuid | sa.DateTime) else c
            for c in map(OUTBOX.c.__getitem__, Unsent._fields)
        )
    )
    .where(OUTBOX.c.seq > sa.bindparam("floor"))
    .order_by(OUTBOX.c.seq)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_now = sa.func.pg_current_snapshot()
_SNAPSHOT = sa.select(
    sa.cast(sa.cast(sa.func.pg_snapshot_xmin(_now), sa.Text), sa.BigInteger),
    sa.cast(sa.cast(sa.func.pg_snapshot_xmax(_now), sa.Text), sa.BigInteger),
)
_SESSION = sa.select(
    # A deletion lost in a crash is a duplicate, and duplicates are expected: no need to wait for the disk.
    sa.func.set_config("synchronous_commit", "off", False),
    sa.func.set_config("idle_session_timeout", sa.bindparam("pause"), False),
)
_LISTEN = sa.text(f"LISTEN {OUTBOX_CHANNEL}")
_DELETE = sa.delete(OUTBOX).where(OUTBOX.c.seq == sa.any_(sa.bindparam("seqs", type_=ARRAY(sa.BigInteger))))


_TYPES = {type_.encode(): model for type_, model in MESSAGES.items()}


async def outbox_on(connection: AsyncConnection) -> Pipeline:
    """Return a pipeline for `relay_once`, on an autocommitting connection that serves nothing else from now on."""
    driver = await driver_of(connection)
    driver.adapters.register_loader("text", ByteaBinaryLoader)
    return Pipeline(driver, set(), begins=False)


def _unsent(rows: Sequence[Row]) -> list[Unsent]:
    return [Unsent._make(row) for row in rows]


def _known(rows: Sequence[Unsent]) -> list[Unsent]:
    """Return the rows before the first one whose type this version does not know."""
    return list(takewhile(lambda row: row.type in _TYPES, rows))


class Relay:
    """Publishes one service's outbox."""

    def __init__(self, principal: Principal, engine: AsyncEngine, settings: KafkaSettings) -> None:
        self.principal = principal
        self.engine = engine
        self.settings = settings
        self.working = False
        self._producer: AIOKafkaProducer | None = None
        self._wakeup = Wakeup()
        self._bell = Bell(engine)
        self._floor = 0
        self._last = 0
        self._mark: tuple[int, int] | None = None
        self._checked_at = 0.0

    def wake(self) -> None:
        """Signal that there is something to publish: to this relay if it leads, otherwise to whichever does."""
        if self.working:
            self._wakeup.wake()
        else:
            self._bell.ring()

    def renew(self, _with_tls: bool) -> None:
        """Connect from now on as the settings say now."""
        if self._producer is not None:
            kafka.renew(self._producer, self.settings)

    async def run(self) -> None:
        """Relay until cancelled, whatever fails."""
        while True:
            try:
                await self._lead()
            except (KafkaError, OSError, TimeoutError, sa.exc.SQLAlchemyError, psycopg.Error) as error:
                metrics.RELAY_FAILURES.inc()
                log.warning("relay_failed", error=type(error).__name__)
                await asyncio.sleep(STAND_BY_S)
            except UnknownType as unknown:
                metrics.RELAY_UNKNOWN.inc()
                log.error("outbox_held", type=unknown.type)
                await asyncio.sleep(STEP_ASIDE_S)

    async def _lead(self) -> None:
        """Wait for the lock, and relay until something fails."""
        async with self.engine.connect() as plain:
            try:
                connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
                await connection.execute(_SESSION, {"pause": f"{PAUSE_S}s"})
                while not (await connection.execute(sa.select(sa.func.pg_try_advisory_lock(LOCK)))).scalar():  # noqa: ASYNC110
                    await asyncio.sleep(STAND_BY_S)
                await connection.execute(_LISTEN)
                outbox = await outbox_on(connection)
                outbox.driver.add_notify_handler(lambda _: self._wakeup.wake())  # heard while a statement runs
                while True:
                    await self._relay(outbox)
            finally:
                # Closes it, whatever its state. It must never return to the pool: the lock would stay taken, and the
                # service's own transactions would commit without waiting for the disk.
                await plain.invalidate()

    async def _relay(self, outbox: Pipeline) -> None:
        """Relay for `RENEW_S`. Nothing is read before the producer has fenced earlier leaders'."""
        self._producer = producer = await kafka.producer(self.settings, fence=self.principal.value)
        try:
            log.info("relay_leads")
            self.working = True
            self._floor, self._last, self._mark = 0, 0, None
            begun = self._checked_at = time.monotonic()
            while time.monotonic() < begun + RENEW_S:
                await self._round(outbox, producer)
        finally:
            self.working, self._producer = False, None
            metrics.RELAY_LEADER.set(0)
            await kafka.stop(producer)

    async def _round(self, outbox: Pipeline, producer: AIOKafkaProducer) -> None:
        relayed = await self.relay_once(outbox, producer)
        metrics.RELAY_LEADER.set(1)  # not before: whoever leads and fails again and again does not publish
        if relayed < ROWS:
            await self._rest(outbox.driver)

    async def relay_once(self, outbox: Pipeline, producer: AIOKafkaProducer) -> int:
        """Publish and delete what is in the outbox, at most `ROWS` rows; return how many there were.

        If there may be more, the deletion travels with the next round's question.
        """
        settling = self._settled(outbox)
        found = await outbox.ask(statement(_READ), {"floor": self._floor, "most": ROWS}, _unsent)
        settled = await settling
        rows = found if {row.type for row in found} <= _TYPES.keys() else _known(found)
        if found and not rows:
            raise UnknownType(found[0].type.decode())
        if rows or time.monotonic() > self._checked_at + CHECK_S:
            with tracing().publishing(rows):
                async with asyncio.timeout(ANSWER_S):
                    await self._publish(producer, rows)
        if rows:
            outbox.tell(statement(_DELETE), {"seqs": [row.seq for row in rows]})
            if len(rows) < ROWS:
                await outbox.flush()
            self._last = max(self._last, rows[-1].seq)
            metrics.RELAYED.inc(len(rows))
            metrics.RELAY_ROUND_SIZE.observe(len(rows))
            made_at = datetime.fromisoformat(rows[0].made_at.decode())
            metrics.RELAY_DELAY.observe(max(0.0, time.time() - made_at.timestamp()))
        self._floor = settled if len(rows) < ROWS else min(settled, rows[-1].seq)
        return len(rows)

    async def _publish(self, producer: AIOKafkaProducer, rows: Sequence[Unsent]) -> None:
        """Publish rows, by what was known of the topics less than `CHECK_S` ago: they may have more partitions now."""
        if time.monotonic() > self._checked_at + CHECK_S:
            await kafka.check(producer)
            self._checked_at = time.monotonic()
        await publish(producer, rows, self.principal)

    async def _rest(self, driver: Driver) -> None:
        """Wait until this process or another has committed rows, or the session has ended, but not forever.

        Nothing is read while the socket is watched: libpq closes that of a lost connection as it reads, and the event
        loop would take whatever gets the same number next, a connection to Kafka for example, for the one it watches.
        """
        loop, socket = asyncio.get_running_loop(), driver.fileno()
        loop.add_reader(socket, self._wakeup.wake)
        try:
            await self._wakeup.rest(POLL_S)
        finally:
            loop.remove_reader(socket)
        with suppress(psycopg.Error):  # a lost connection is noticed by the next round
            driver.pgconn.consume_input()
            while driver.pgconn.notifies():
                pass

    def _settled(self, outbox: Pipeline) -> Awaitable[int]:
        """Return the number below which no row can appear any more: the next scan may begin there.

        Below it are dead rows, which slow a scan down. But numbers are not in commit order: a transaction that is still
        open may have a lower one, and when it commits, a row of the same key with a higher number may follow at once.
        So the floor moves to a number only when every transaction that was writing when we saw that number has ended.
        (Each one has an id before it takes numbers: the inbox asks for one, or a timer or a lock comes first.)
        """
        if self._last - self._floor < DEAD_ROWS:
            return Ready(self._floor)
        return outbox.ask(statement(_SNAPSHOT), {}, self._settled_by)

    def _settled_by(self, snapshot: Sequence[tuple[int, int]]) -> int:
        ((oldest, following),) = snapshot
        if self._mark is None:
            self._mark = (self._last, following)
        number, begun_before = self._mark
        if oldest < begun_before:
            return self._floor
        self._mark = None
        return number


class UnknownType(Exception):
    """The next row in the outbox has a type that this version does not know.

    A newer version wrote it and must publish it.
    """

    def __init__(self, type_: str) -> None:
        super().__init__(type_)
        self.type = type_


async def publish(producer: AIOKafkaProducer, rows: Sequence[Unsent], principal: Principal) -> None:
    """Send rows and wait until Kafka has acknowledged all of them; raises on the first failure.

    Building whole batches here, one partition at a time, is a quarter cheaper than sending one by one.
    """
    topics = {type_: _TYPES[type_].topic_of(principal) for type_ in {row.type for row in rows}}
    partitions = {topic.name: len(await producer.partitions_for(topic.name)) for topic in set(topics.values())}
    by_partition: dict[tuple[str, int], list[Unsent]] = {}
    for row in rows:
        topic = topics[row.type]
        partition = kafka.partition_of(row.key.decode(), partitions[topic.name])
        by_partition.setdefault((topic.name, partition), []).append(row)
    source = source_of(principal)
    acknowledged = []
    for (topic_name, partition), batch_rows in by_partition.items():
        acknowledged += await _send(producer, topic_name, partition, batch_rows, source)
    await asyncio.gather(*acknowledged)


async def _send(
    producer: AIOKafkaProducer, topic: str, partition: int, rows: Sequence[Unsent], source: str
) -> list[asyncio.Future[Any]]:
    sent = []
    batch = producer.create_batch()
    for row in rows:
        record = {
            "key": row.key,
            "value": row.value or None,  # an empty value stands for a tombstone, which has none on the wire
            "headers": headers(row, source, _iso(row.made_at)),
            "timestamp": None,
        }
        if batch.append(**record) is None:  # full: send it and start another
            sent.append(await producer.send_batch(batch, topic, partition=partition))
            batch = producer.create_batch()
            if batch.append(**record) is None:
                raise ValueError(f"{row.type.decode()} is larger than a batch")
    sent.append(await producer.send_batch(batch, topic, partition=partition))
    return sent


@lru_cache(maxsize=64)
def _iso(moment: bytes) -> bytes:
    """Format a time as in RFC 3339. Cached: a batch has one, and thousands of rows."""
    return datetime.fromisoformat(moment.decode()).isoformat().encode()
