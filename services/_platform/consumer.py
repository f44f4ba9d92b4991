"""The consumer: batches off Kafka into the shell, and their offsets back, after the database has committed.

Offsets are committed lazily (they only save work after a restart: the inbox knows what was done), explicitly for each
partition, and never beyond a batch that is done. When partitions are taken away, the batch in hand is finished and
committed first, so that two consumers do not work on the same records.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage

from services._platform import metrics
from services._platform.database import Outage
from services._platform.service import Service
from services._platform.settings import ServiceSettings
from services._platform.shell import FromKafka, Shell
from services._platform.tolerant import tolerate_header_names, tolerate_lost_connections

log = structlog.get_logger(__name__)

REVOKE_WAIT_S = 20.0
"""How long a rebalance waits for the batch in hand; less than `rebalance_timeout_ms`."""

STALLED_S = 120.0
"""A batch that neither ends nor tries again for so long means that the loop hangs: the process is not alive."""


class Consumer(ConsumerRebalanceListener):  # type: ignore[misc]
    """Consumes a service's topics."""

    def __init__(self, service: Service, shell: Shell, broker: KafkaBroker, settings: ServiceSettings) -> None:
        tolerate_header_names()
        tolerate_lost_connections()
        self.shell = shell
        self.broker = broker
        self.settings = settings
        self.assigned = False
        self.database_away = False
        self._source = FromKafka()
        self._busy = asyncio.Lock()
        self._stopping = False
        self._done: dict[TopicPartition, int] = {}
        self._revoked: set[TopicPartition] = set()
        self._committed_at = 0.0
        self._beat = time.monotonic()
        self.subscriber = broker.subscriber(
            *(topic.name for topic in service.topics),
            batch=True,
            group_id=service.principal.value,
            group_instance_id=settings.replica,
            ack_policy=AckPolicy.MANUAL,
            auto_offset_reset="earliest",
            max_records=settings.batch_records,
            # FastStream waits this long for a batch, and again when there was none: the broker does the real waiting.
            batch_timeout_ms=50,
            fetch_max_wait_ms=settings.fetch_wait_ms,
            fetch_min_bytes=settings.fetch_min_bytes,
            max_partition_fetch_bytes=4 << 20,
            session_timeout_ms=10_000,
            heartbeat_interval_ms=1_000,
            max_poll_interval_ms=10 * 60_000,
            listener=self,
            parser=_as_it_is,
            decoder=_undecoded,
            no_reply=True,
        )
        self.subscriber(self._consume)

    @property
    def alive(self) -> bool:
        """Say whether the consume loop gets on: it waits for records, or its batch has been seen to move."""
        loops = self.subscriber.tasks
        running = bool(loops) and not any(task.done() for task in loops)
        return running and (not self._busy.locked() or time.monotonic() - self._beat < STALLED_S)

    async def start(self) -> None:
        """Join the group."""
        await self.broker.start()

    async def stop(self) -> None:
        """Finish the batch in hand, commit its offsets, leave the group."""
        self._stopping = True
        async with self._busy:
            await self._commit()
        await self.broker.stop()

    async def _consume(self, message: KafkaMessage) -> None:
        records: Sequence[ConsumerRecord] = message.raw_message
        async with self._busy:
            if self._stopping:
                return
            self._revoked.clear()
            if await self._until_done(records):
                self._note(records)
                if time.monotonic() - self._committed_at >= self.settings.offset_commit_s:
                    await self._commit()

    async def _until_done(self, records: Sequence[ConsumerRecord]) -> bool:
        """Try until the batch is done, for the next one must not overtake it. False if we are told to stop first."""
        pause = 0.1
        started = time.monotonic()
        while not self._stopping:
            self._beat = time.monotonic()
            try:
                await self.shell.process(records, self._source)
            except Outage as error:
                self.database_away = True
                metrics.OUTAGES.inc()
                log.warning("database_away", error=str(error), retry_in_s=round(pause, 1))
            except Exception as error:
                log.error("batch_not_done", error=type(error).__name__, exc_info=True)
            else:
                self.database_away = False
                metrics.BATCH_SECONDS.observe(time.monotonic() - started)
                return True
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)
        return False

    def _note(self, records: Sequence[ConsumerRecord]) -> None:
        for record in records:
            partition = TopicPartition(record.topic, record.partition)
            if partition not in self._revoked:
                self._done[partition] = record.offset + 1

    async def _commit(self) -> None:
        """Commit the offsets of what is done. A failure costs nothing but work: the inbox knows the messages.

        Those that are still ours are committed with the next ones: a partition may get no other record for long.
        """
        consumer: AIOKafkaConsumer | None = self.subscriber.consumer
        offsets, self._done = self._done, {}
        self._committed_at = time.monotonic()
        if consumer is None or not offsets:
            return
        try:
            await asyncio.wait_for(consumer.commit(offsets), 5)
        except (KafkaError, TimeoutError) as error:
            log.warning("offsets_not_committed", error=type(error).__name__)
            ours = consumer.assignment() - self._revoked
            self._done = {partition: at for partition, at in offsets.items() if partition in ours} | self._done

    async def commit_when_idle(self) -> None:
        """Commit what the last batch of a burst left uncommitted."""
        while True:
            await asyncio.sleep(self.settings.offset_commit_s)
            if self._done and not self._busy.locked():
                async with self._busy:
                    await self._commit()

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Let the batch in hand finish, and commit, before anybody else gets its partitions."""
        self.assigned = False
        try:
            async with asyncio.timeout(REVOKE_WAIT_S), self._busy:
                await self._commit()
        except TimeoutError:
            # It goes on, and it is safe: whoever gets the records next meets our ids in the inbox. Only its offsets
            # are no longer ours to commit.
            log.warning("revoked_while_busy", partitions=len(revoked))
        self._revoked.update(revoked)
        for partition in revoked:
            self._done.pop(partition, None)

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Note that we are part of the group. A replica without partitions is ready too: it stands by."""
        self.assigned = True
        log.info("partitions_assigned", partitions=len(assigned))


async def _as_it_is(message: Any, original: Any) -> Any:
    """Parse nothing: FastStream's own parser drops a batch over one header that is not UTF-8."""
    return KafkaMessage(body=b"", raw_message=message, headers={}, content_type=None, consumer=None)  # type: ignore[arg-type]


async def _undecoded(message: Any, original: Any) -> Any:
    """Decode nothing: the shell does, record by record."""
    return None
