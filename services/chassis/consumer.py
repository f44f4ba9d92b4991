"""The consumer: takes batches from Kafka to the shell, and commits their offsets once the database has committed.

One thread owns librdkafka's consumer and does everything with it, in this order: fetch, have the batch handled in the
event loop, note how far that got, commit. librdkafka reports rebalances only from within `poll`, so a rebalance never
meets a batch that is being handled, and nothing here needs a lock.

Eight things are not left to the client:

- **Its position after a batch that it could not unpack.** librdkafka continues after it, or at an offset that it
  misread. Here the partition stops where it is (`partitions`) and is retried; all others flow on.
- **A position in a topic that was deleted and recreated.** librdkafka continues at the old offset. Here offsets are
  committed with the topic's id, and a topic with another id is read from its start (`topic_ids`).
- **Its pauses.** librdkafka keeps a partition paused although it was handed over and came back. Here a partition is
  resumed when it goes (`_on_lost`), for nobody would later: its replica would read nothing of it, and look healthy.
- **Its name in the group.** librdkafka fences itself off: if the coordinator was away for longer than a session, it
  joins again, and a commit still in flight under the old member id ends the client for good. Here it is replaced
  (`_is_its_own_doing`).
- **Its place in the group.** A client that met a broker in the middle of its own start has stayed out for good (seen
  once, with a broker that was overloaded), and clients have forgotten all brokers (seen of producers, after all brokers
  were frozen). It is replaced in the same way, after `STRANDED_S`.
- **Its silence.** librdkafka may deadlock when a broker goes while it asks where a leader's epoch ended (its issue
  5476; seen in a run of the nemesis): its threads wait for each other, it leaves the group, and closing it would never
  end. Such a replica is no longer `alive`.
- **Its certificates.** librdkafka reads them once. When they have changed, the client is replaced in the same way.
- **Its health.** `trouble` is what the client reports about itself now (`client_state`), not what a callback once said.

Offsets are committed lazily, since they only save work after a restart: the inbox knows what was done.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, TypeVar

import structlog
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka import Consumer as Client

from services.chassis import kafka, kafka_access, metrics
from services.chassis.arrivals import Arrivals, Fetched
from services.chassis.client_state import ClientState
from services.chassis.database import Outage
from services.chassis.envelopes import received_headers
from services.chassis.gathering import Gathering
from services.chassis.observed import Series
from services.chassis.partitions import Place, Stop, Stops
from services.chassis.service import Service
from services.chassis.settings import ServiceSettings
from services.chassis.shell import FromKafka, Shell
from services.chassis.topic_ids import TopicIds

log = structlog.get_logger(__name__)

T = TypeVar("T")
POLL_S = 0.5
"""How long a poll waits for the first record of a batch."""

STALLED_S = 120.0
"""If a batch neither ends nor is retried for this long, the event loop hangs: the process is not alive."""

STOP_S = 8.0
"""How long stopping may take: the current batch, its offsets, and leaving the group (which takes long if Kafka is
away).
"""

FENCED_AGAIN_S = 60.0
"""A replica that is fenced off twice within this time shares its name with another process."""


class _OtherCertificates(Exception):
    """The certificates have changed, which the client has read once and for all."""


class _Stranded(Exception):
    """The client stays out of the group, or connects to nobody."""


class FencedError(Exception):
    """Another process has joined the group under this replica's name."""


class Consumer:
    """Consumes a service's topics."""

    def __init__(self, service: Service, shell: Shell, settings: ServiceSettings, stops: Stops) -> None:
        self.shell = shell
        self.settings = settings
        self._topics = [topic.name for topic in service.topics]
        self._stops = stops
        self._source = FromKafka()
        self._state = ClientState()
        self._arrivals = Arrivals(service)
        self._principal = service.principal
        self._client: Client
        self._ids = TopicIds(kafka.librdkafka(settings), self._topics)
        self._faults = Series(metrics.PARTITION_FAULTS, self._topics)
        self._lags = Series(metrics.LAG, self._topics)
        self._owned: set[Place] = set()
        self._began: dict[Place, int] = {}
        """Where the group stood when a partition was assigned, if anywhere."""
        self._next: dict[Place, int] = {}
        self._done: dict[Place, int] = {}
        self._asked: dict[Place, int] = {}
        """The newest offsets whose commit was asked for."""
        self._stopped: dict[Place, Stop] = {}
        self._early: list[Message] = []
        self._gathering: Gathering[Fetched] = Gathering(service, settings.batch_records)
        self._committed_at = 0.0
        self._beat = 0.0
        self._waits = False
        """Whether the batch waits to be tried again, and all partitions are paused meanwhile."""
        self._fenced_at = -FENCED_AGAIN_S
        self._renewal: bool | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="consumer", daemon=True)
        self._ended: asyncio.Future[None] | None = None
        metrics.PARTITIONS.set_function(lambda: len(self._owned))
        metrics.CONSUMES.set_function(lambda: self.trouble() is None)

    async def run(self) -> None:
        """Consume until `stop`. Raises `FencedError`, and whatever else ended the thread."""
        self._loop = asyncio.get_running_loop()
        self._connect()  # no earlier: what a client says each second is kept until it is polled, 27 MB per hour
        self._beat = time.monotonic()
        self._ended = self._loop.create_future()
        self._thread.start()
        await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """Finish the current batch, commit its offsets, leave the group. Raises `TimeoutError` after `STOP_S`."""
        self._stopping.set()
        if self._ended is not None:
            async with asyncio.timeout(STOP_S):
                await asyncio.shield(self._ended)

    def renew(self, with_tls: bool) -> None:
        """Connect from now on as the settings say now; `with_tls` if certificates have changed, too."""
        self._renewal = with_tls or self._renewal is True

    @property
    def alive(self) -> bool:
        """Say whether the thread makes progress (it polls, or its batch has moved), and its client is not silent."""
        return not self._thread.is_alive() or (time.monotonic() - self._beat < STALLED_S and not self._state.mute)

    def trouble(self) -> str | None:
        """Say why this replica does not consume as it should; None if it does.

        A replica without partitions is on standby.
        """
        if missing := sorted(self._ids.missing):
            return f"there is no topic {missing[0]}"
        for (topic, partition), stop in list(self._stopped.items()):  # the thread changes it
            if stop.attempts > 1:
                return f"{topic}/{partition} stopped at {stop.position}: {stop.error}"
        return self._state.trouble()

    # What follows runs in the thread.

    def _work(self) -> None:
        failure: BaseException | None = None
        try:
            while not self._stopping.is_set():
                try:
                    self._consume()
                except FencedError:
                    if not self._is_its_own_doing():
                        raise
                    self._join_anew()
                except (_OtherCertificates, _Stranded):
                    self._commit()
                    self._join_anew()
            self._commit()
        except BaseException as error:
            failure = error
        finally:
            self._client.close()
            self._loop.call_soon_threadsafe(self._end, failure)

    def _consume(self) -> None:
        self._client.subscribe(
            self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        while not self._stopping.is_set():
            self._round()

    def _is_its_own_doing(self) -> bool:
        """Say whether our own joining fenced us off.

        Only if we held no partitions: a replica that holds some has been in the group all along, and another process
        has joined under its name. The same goes for a replica that is fenced off again soon: of two replicas on standby
        that share a name, neither holds any.
        """
        before, self._fenced_at = self._fenced_at, time.monotonic()
        return not self._owned and self._fenced_at - before > FENCED_AGAIN_S

    def _join_anew(self) -> None:
        """Replace the client, as a restart would: what was not committed is delivered again."""
        log.warning("joining_anew", replica=self.settings.replica)
        self._client.close()
        for kept in (self._owned, self._began, self._next, self._done, self._asked, self._stopped):
            kept.clear()
        self._early.clear()
        self._gathering.clear()
        metrics.PARTITIONS_STOPPED.set(0)
        self._connect()

    def _connect(self) -> None:
        self._state = ClientState()
        config = kafka.consumer(self.settings, self._principal) | {
            "stats_cb": self._on_statistics,
            "error_cb": self._on_client_error,
            "on_commit": self._on_commit,
        }
        self._client = Client(config, logger=logging.getLogger("librdkafka"))

    def _take_over_renewal(self) -> None:
        with_tls, self._renewal = self._renewal, None
        if with_tls is None:
            return
        self._ids.connect(kafka.librdkafka(self.settings))
        if with_tls:
            raise _OtherCertificates
        self._client.set_sasl_credentials(*kafka_access.credentials(self.settings))

    def _on_client_error(self, error: KafkaError) -> None:
        """Count what the client also logs, and recovers from by itself."""
        metrics.CLIENT_ERRORS.inc()
        self._state.failed(error)

    def _on_statistics(self, statistics: str) -> None:
        held = self._owned if self._waits else self._stopped
        self._state.take(statistics, self._owned, held)  # looked up each time: rejoining replaces it
        for topic, lag in self._state.lags(self._topics, self._began | self._asked | self._done).items():
            self._lags[topic].set(lag)

    def _end(self, failure: BaseException | None) -> None:
        assert self._ended is not None
        if self._ended.done():
            return
        if failure is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(failure)

    def _round(self) -> None:
        self._beat = time.monotonic()
        self._take_over_renewal()
        if self._state.stranded:
            raise _Stranded
        if recreated := self._ids.recreated():
            self._forget(recreated)  # at once, since a rebalance meanwhile would commit them for the new topics
            self._handle(self._gathering.clear())
            self._read_from_start(recreated)
        self._try_stopped()
        if fetched := self._fetch():
            self._gathering.add(fetched)
        else:
            self._end_quiet_stops()
        if records := self._gathering.take():
            self._handle(records)
            self._gathering.handled()
        if self._beat - self._committed_at >= self.settings.offset_commit_s:
            self._commit()

    def _fetch(self) -> list[Fetched]:
        """Wait for records, and take what there is. What follows a fault is fetched again once the fault is over."""
        messages, self._early = self._early, []
        if not messages and (first := self._client.poll(self._gathering.patience_s(POLL_S))) is not None:
            room = self.settings.batch_records - len(self._gathering)
            messages = [first, *self._client.consume(max(room - 1, 1), 0)]
        records: list[Fetched] = []
        faulty: set[Place] = set()
        for message in messages:
            place: Place = (message.topic() or "", message.partition() or 0)
            if (error := message.error()) is not None:
                self._on_error(place, message, error, faulty)
            elif place in self._owned and place not in faulty:
                records.append(record := _fetched(message, place))
                self._next[place] = record.offset + 1
                if (stop := self._stopped.get(place)) is not None and record.offset >= stop.position:
                    self._flows(place)  # what is before that comes again if the client has lost its place
        return records

    def _handle(self, records: list[Fetched]) -> None:
        handled = self._until_handled(records)
        self._done |= {(record.topic, record.partition): record.offset + 1 for record in handled}

    def _until_handled(self, records: list[Fetched]) -> list[Fetched]:
        """Try until the batch is handled, since the next one must not overtake it.

        Return what was handled: less than was given if partitions were revoked meanwhile, and nothing if the service
        has to stop first.
        """
        pause = 0.1
        self._arrivals.begin(records)
        while records and not self._stopping.is_set():
            if self._await(self._attempt(records)):
                self._arrivals.committed()
                return records
            self._wait(pause)
            pause = min(pause * 2, 2.0)
            records = [record for record in records if (record.topic, record.partition) in self._owned]
        self._arrivals.dropped()
        self.shell.outages.given_up(self._source.name)
        return []

    async def _attempt(self, records: Sequence[Fetched]) -> bool:
        try:
            await self.shell.process(records, self._source)
        except Outage:
            return False  # told by `shell.outages`
        except Exception as error:
            log.error("batch_not_done", error=type(error).__name__, exc_info=True)
            return False
        return True

    def _wait(self, seconds: float) -> None:
        """Let time pass, and stay in the group: a member that does not poll is removed from it."""
        held = _partitions(self._owned)
        self._waits = True
        try:
            self._client.pause(held)
            if (message := self._client.poll(seconds)) is not None:  # of a partition that was assigned just now
                self._early.append(message)
        finally:
            self._waits = False
        self._client.resume([place for place in held if (place.topic, place.partition) in self._running()])
        self._beat = time.monotonic()

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        """Have something done in the event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # Offsets.

    def _commit(self, places: Collection[Place] | None = None) -> None:
        """Commit the offsets of what is done. A failure costs only work: the inbox knows the messages."""
        wanted = {place: at for place, at in self._done.items() if places is None or place in places}
        self._committed_at = time.monotonic()
        if not wanted:
            return
        self._done = {place: at for place, at in self._done.items() if place not in wanted}
        self._asked |= wanted
        offsets = [
            TopicPartition(topic, partition, at, self._ids.known.get(topic, ""))
            for (topic, partition), at in wanted.items()
        ]
        try:
            self._client.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._on_commit(error.args[0], offsets)

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """Commit the newest offsets again with the next, after a failure: a partition may get no other record for long.

        Also after an older commit that ends when a newer one was asked: the client may have repeated it after that one.
        """
        failed = [each for each in offsets if error is not None or each.error is not None]
        if failed:
            log.warning("offsets_not_committed", error=(error or failed[0].error).name())  # type: ignore[union-attr]
        ended = {(each.topic, each.partition): each.offset for each in offsets}
        again = {(each.topic, each.partition) for each in failed} | {
            place for place, at in ended.items() if self._asked.get(place) != at
        }
        self._done = {place: self._asked[place] for place in again if place in self._asked} | self._done

    # Assignment and revocation.

    def _on_assign(self, client: Client, partitions: list[TopicPartition]) -> None:
        ids = self._ids.wait()
        try:
            committed = client.committed(partitions, timeout=5)
        except KafkaException:  # the client retries by itself; only the check of the topics' ids is skipped
            committed = partitions
        for place in committed:
            if place.metadata and ids.get(place.topic, place.metadata) != place.metadata:
                log.warning("topic_made_anew", topic=place.topic, partition=place.partition)
                place.offset = OFFSET_BEGINNING
        self._began |= {(each.topic, each.partition): each.offset for each in committed if each.offset >= 0}
        client.incremental_assign(committed)
        self._owned |= _places(partitions)
        self._await(self._stops.taken_over(_places(partitions)))
        log.info("partitions_assigned", new=len(partitions), all=len(self._owned))

    def _on_revoke(self, client: Client, partitions: list[TopicPartition]) -> None:
        self._commit(_places(partitions))
        self._on_lost(client, partitions)

    def _on_lost(self, client: Client, partitions: list[TopicPartition]) -> None:
        """Forget offsets of lost partitions: they are no longer ours, and the next owner finds our ids in the inbox."""
        gone = _places(partitions)
        self._owned -= gone
        self._gathering.lose(gone)
        for place in gone:
            for kept in (self._began, self._done, self._asked, self._next, self._stopped):
                kept.pop(place, None)
        metrics.PARTITIONS_STOPPED.set(len(self._stopped))
        client.resume(partitions)
        client.incremental_unassign(partitions)
        log.info("partitions_revoked", gone=len(gone), all=len(self._owned))

    def _read_from_start(self, topics: Collection[str]) -> None:
        self._forget(topics)
        self._early = [message for message in self._early if message.topic() not in topics]
        for place in [place for place in self._owned if place[0] in topics]:
            log.warning("topic_made_anew", topic=place[0], partition=place[1])
            if (stop := self._stopped.get(place)) is not None:
                stop.position = 0
            self._next.pop(place, None)
            self._seek(place, OFFSET_BEGINNING)

    def _forget(self, topics: Collection[str]) -> None:
        for kept in (self._began, self._done, self._asked):
            for place in [place for place in kept if place[0] in topics]:
                del kept[place]

    def _seek(self, place: Place, offset: int) -> None:
        self._client.seek(TopicPartition(*place, offset))

    # What can't be read.

    def _on_error(self, place: Place, message: Message, error: KafkaError, faulty: set[Place]) -> None:
        if error.code() == KafkaError._FATAL:
            raise FencedError(error.str())
        offset = message.offset()
        if place not in self._owned or offset is None or offset < 0:
            self._on_client_error(error)  # about the connection or the whole topic: the client recovers by itself
        elif place not in faulty:
            faulty.add(place)
            self._stop(place, self._next.get(place, offset), error.name())

    def _stop(self, place: Place, position: int, error: str) -> None:
        """Stop a partition at its first record that was not fetched, whatever the client made of it."""
        stop = self._stopped.setdefault(place, Stop(position, error))
        stop.failed(position, error)
        self._faults[place[0]].inc()
        metrics.PARTITIONS_STOPPED.set(len(self._stopped))
        log.error("partition_stopped", topic=place[0], partition=place[1], position=position, error=error)
        self._client.pause(_partitions([place]))
        self._seek(place, position)
        self._await(self._stops.stopped(place, stop))

    def _try_stopped(self) -> None:
        """Fetch again what could not be unpacked, from the offset that an operator wants, if any."""
        for place, stop in list(self._stopped.items()):
            if stop.is_due():
                skip_to = self._await(self._stops.skip_to(place, stop.position))
                if skip_to is not None:
                    log.warning("partition_skips", topic=place[0], partition=place[1], at=stop.position, to=skip_to)
                    self._next[place] = skip_to
                # The client may have left the place since the stop: an offset that it misread from the batch was out of
                # range, and it begins at the beginning.
                self._seek(place, stop.position if skip_to is None else skip_to)
                stop.trying(skips=skip_to is not None)
                self._client.resume(_partitions([place]))

    def _end_quiet_stops(self) -> None:
        """End the stops of partitions that were retried long ago, now that the client has nothing more to give.

        Before that their fault may still be on its way: this thread may have been busy all that time.
        """
        for place in [place for place, stop in self._stopped.items() if stop.is_over()]:
            self._flows(place)

    def _flows(self, place: Place) -> None:
        stop = self._stopped.pop(place)
        metrics.PARTITIONS_STOPPED.set(len(self._stopped))
        log.info("partition_flows", topic=place[0], partition=place[1])
        self._await(self._stops.ended(place, stop))

    def _running(self) -> set[Place]:
        return {place for place in self._owned if place not in self._stopped or self._stopped[place].is_tried()}


def _fetched(message: Message, place: Place) -> Fetched:
    headers, timestamp = received_headers(message), message.timestamp()[1]
    return Fetched(*place, message.offset(), message.key(), message.value(), headers, timestamp)  # type: ignore[arg-type]


def _partitions(places: Collection[Place]) -> list[TopicPartition]:
    return [TopicPartition(*place) for place in places]


def _places(partitions: Collection[TopicPartition]) -> set[Place]:
    return {(each.topic, each.partition) for each in partitions}
