"""Kafka and its producer, as far as the chassis relies on them: a broker in memory, under a hub.

The broker compares producers' epochs and sequence numbers partition by partition (KIP-98). The producer is aiokafka's:
behind its caller's back it repeats what was not answered. What is not here: several brokers, transactions (nobody
writes any), compaction (readers look at the last record of a key), retention, quotas.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, Final

from aiokafka.errors import KafkaConnectionError, OutOfOrderSequenceNumber, ProducerFenced

from services.chassis.arrivals import Fetched
from tests.simulation.hub import Hub, Process

Place = tuple[str, int]
Headers = Sequence[tuple[str, bytes | None]]
Unnumbered = tuple[bytes | None, bytes | None, Headers]
"""A record's key, value and headers."""

RETRY_S = 0.2
"""`retry.backoff.ms`."""

LOST: Final = object()
"""The connection was lost, with the request or with its answer."""


@dataclass(slots=True)
class _Writer:
    """What a partition remembers of an idempotent producer."""

    epoch: int
    next: int = 0
    recent: dict[int, int] = field(default_factory=dict)


class Log:
    """A partition."""

    def __init__(self) -> None:
        self.records: list[Fetched] = []
        self.writers: dict[int, _Writer] = {}
        self.unreadable: dict[int, float] = {}
        """Until when no client can unpack the batch at an offset, which has one record."""
        self.arrived: list[Callable[[], None]] = []


class Broker:
    """All topics, groups and producers' epochs."""

    def __init__(self, hub: Hub, topics: Mapping[str, int]) -> None:
        self.hub = hub
        self.topics = topics
        self.logs: dict[Place, Log] = {(topic, n): Log() for topic, all_ in topics.items() for n in range(all_)}
        self.away_until = 0.0
        self.losses = 0.0
        self.compares_epochs = True
        self.repeats_nothing = True
        self._producers: dict[str, tuple[int, int]] = {}
        self._numbers = count(1)
        self.appended: Callable[[Fetched], None] = lambda _: None

    @property
    def is_away(self) -> bool:
        """Return whether nobody can reach it."""
        return self.hub.now < self.away_until

    def request(self, process: Process, handle: Callable[[], Any], answered: Callable[[Any], None]) -> None:
        """Let a process ask, and be answered; either way may be lost, and then it knows no more than that."""
        self.ask(process, lambda answer: answer(handle()), answered)

    def ask(
        self, process: Process, handle: Callable[[Callable[[Any], None]], None], answered: Callable[[Any], None]
    ) -> None:
        """Let a process ask for what is answered later."""
        if process.dead:
            return
        hub, random = self.hub, self.hub.random
        is_lost, is_answer_lost = random.random() < self.losses / 2, random.random() < self.losses / 2

        def answer(result: Any) -> None:
            lost = is_answer_lost or self.is_away
            hub.after(hub.latency(), partial(process.post, answered, LOST if lost else result))

        def arrive() -> None:
            if is_lost or self.is_away:
                hub.after(hub.latency(), partial(process.post, answered, LOST))
            else:
                handle(answer)

        hub.after(hub.latency(), arrive)

    def append(
        self,
        place: Place,
        records: Sequence[tuple[bytes | None, bytes | None, Headers]],
        writer: "Batch | None" = None,
    ) -> int | type[Exception]:
        """Append a batch; return its offset, or the error that an idempotent producer is told."""
        log = self.logs[place]
        if writer is not None:
            known = log.writers.get(writer.id)
            if known is not None and writer.epoch < known.epoch and self.compares_epochs:
                return ProducerFenced  # type: ignore[no-any-return]
            if known is None or writer.epoch > known.epoch:
                known = log.writers[writer.id] = _Writer(writer.epoch)
            if writer.seq in known.recent and self.repeats_nothing and writer.epoch == known.epoch:
                return known.recent[writer.seq]
            if writer.seq != known.next and self.repeats_nothing and writer.epoch == known.epoch:
                return OutOfOrderSequenceNumber  # type: ignore[no-any-return]
            known.recent[writer.seq] = len(log.records)
            known.next = writer.seq + len(records)
        at = len(log.records)
        for key, value, headers in records:
            record = Fetched(*place, len(log.records), key, value, headers, int(self.hub.now * 1000))
            log.records.append(record)
            self.appended(record)
        waiting, log.arrived = log.arrived, []
        for tell in waiting:
            tell()
        return at

    def init_producer(self, transactional_id: str | None) -> tuple[int, int]:
        """Return a producer's id and epoch, newer than any before under the same transactional id."""
        if transactional_id is None:
            return next(self._numbers), 0
        id_, epoch = self._producers.get(transactional_id, (next(self._numbers), -1))
        self._producers[transactional_id] = id_, epoch + 1
        return id_, epoch + 1

    def records(self) -> Iterator[Fetched]:
        """Yield all records, partition by partition."""
        for log in self.logs.values():
            yield from log.records


@dataclass(frozen=True, slots=True)
class Batch:
    """Who appends a batch, and which of its batches it is."""

    id: int
    epoch: int
    seq: int


# --- the producer: aiokafka's -----------------------------------------------------------------------------------------


class _Manager:
    transactional_id: str | None = None


class _Sender:
    sender_task = None


class _Client:
    """aiokafka's client, as far as `chassis.kafka` touches it."""

    def __init__(self, broker: Broker, process: Process) -> None:
        self._broker = broker
        self._process = process
        self._maybe_wait_metadata: Any = None

    async def force_metadata_update(self) -> bool:
        return await _asked(self._broker, self._process, lambda: True) is not LOST

    async def close(self) -> None:
        pass


async def _asked(broker: Broker, process: Process, handle: Callable[[], Any]) -> Any:
    answer: asyncio.Future[Any] = process.loop.create_future()

    def answered(result: Any) -> None:
        if not answer.done():
            answer.set_result(result)

    broker.request(process, handle, answered)
    return await answer


class ModelBatch:
    """A batch that is being filled."""

    def __init__(self) -> None:
        self.records: list[Unnumbered] = []

    def append(self, *, key: bytes, value: bytes | None, headers: Headers, timestamp: int | None) -> bool:
        self.records.append((key, value, headers))
        return True


class ModelProducer:
    """aiokafka's idempotent producer: one batch of a partition is on its way at a time, and repeated until answered."""

    def __init__(self, broker: Broker, process: Process, transactional_id: str | None = None, **_: Any) -> None:
        self._broker = broker
        self._process = process
        self._id, self._epoch = -1, -1
        self._txn_manager = _Manager()
        self._txn_manager.transactional_id = transactional_id
        self._sender = _Sender()
        self._closed = False
        self._queues: dict[Place, deque[tuple[ModelBatch, asyncio.Future[int]]]] = {}
        self._next: dict[Place, int] = {}
        self.client = _Client(broker, process)

    async def start(self) -> None:
        """Get an id and an epoch. Raises `KafkaConnectionError`."""
        told = await _asked(
            self._broker, self._process, partial(self._broker.init_producer, self._txn_manager.transactional_id)
        )
        if told is LOST:
            raise KafkaConnectionError("Unable to bootstrap")
        self._id, self._epoch = told

    async def partitions_for(self, topic: str) -> set[int]:
        return set(range(self._broker.topics[topic]))

    def create_batch(self) -> ModelBatch:
        return ModelBatch()

    async def send_batch(self, batch: ModelBatch, topic: str, *, partition: int) -> "asyncio.Future[int]":
        """Queue a batch; return a future of its offset."""
        place, sent = (topic, partition), self._process.loop.create_future()
        queue = self._queues.setdefault(place, deque())
        queue.append((batch, sent))
        if len(queue) == 1:
            self._process.loop.call_soon(self._transmit, place)
        return sent

    def _transmit(self, place: Place) -> None:
        queue = self._queues[place]
        if self._closed or not queue:
            return
        batch, _ = queue[0]
        writer = Batch(self._id, self._epoch, self._next.get(place, 0))
        append = partial(self._broker.append, place, batch.records, writer)
        self._broker.request(self._process, append, partial(self._answered, place))

    def _answered(self, place: Place, result: Any) -> None:
        if self._closed:
            return
        if result is LOST:
            self._process.loop.call_later(RETRY_S, self._transmit, place)
            return
        queue = self._queues[place]
        batch, sent = queue.popleft()
        if isinstance(result, int):
            self._next[place] = self._next.get(place, 0) + len(batch.records)
            if not sent.done():
                sent.set_result(result)
        elif not sent.done():
            sent.set_exception(result())
            sent.exception()  # noted, even if whoever sent it has given up
        self._transmit(place)
