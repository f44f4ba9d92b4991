"""Replicas of a consumer on a broker that does its worst, at random: each record is handled, and in its place.

Kafka and its client are simulated, with what librdkafka was seen to do: it goes on behind what it could not unpack, or
begins at the beginning some time later. What is real is the consumer, with whatever waits in it.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, TopicPartition

from popfax_contracts.topics import LEDGER_COMMANDS, LEDGER_COMMANDS_FROM_GROUPS, PROVISIONING_EVENTS
from services.chassis import consumer as module
from services.chassis import partitions
from services.chassis.arrivals import Fetched
from services.chassis.consumer import Consumer
from services.chassis.database import Outage
from services.chassis.outages import Outages
from services.chassis.partitions import Place, Stop
from services.chassis.settings import ServiceSettings
from services.chassis.shell import FromKafka
from services.ledger.consumers import LEDGER
from tests.simulation.world import drive

pytestmark = pytest.mark.usefixtures("quiet")

TOPICS = (LEDGER_COMMANDS.name, LEDGER_COMMANDS_FROM_GROUPS.name, PROVISIONING_EVENTS.name)
"""One on which something begins, one on which it goes on, and one of facts."""

PLACES: tuple[Place, ...] = tuple((topic, partition) for topic in TOPICS for partition in range(2))
SEEDS = 400
STEPS = 80
BATCH = 12


@dataclass
class Message:
    """A record, or an error in its place."""

    place: Place
    at: int
    topic_id: str
    fault: KafkaError | None = None

    def topic(self) -> str:
        return self.place[0]

    def partition(self) -> int:
        return self.place[1]

    def offset(self) -> int:
        return self.at

    def error(self) -> KafkaError | None:
        return self.fault

    def key(self) -> bytes:
        return b"key"

    def value(self) -> bytes:
        return self.topic_id.encode()

    def headers(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 1, 0


@dataclass
class Broker:
    """The partitions of topics, and who has them."""

    random: Random
    now: float = 1000.0
    ends: dict[Place, int] = field(default_factory=lambda: dict.fromkeys(PLACES, 0))
    bad: dict[Place, tuple[int, int]] = field(default_factory=dict)
    """A batch that can't be unpacked: its first offset, and the next one's."""
    skipped: dict[Place, tuple[int, int]] = field(default_factory=dict)
    committed: dict[Place, tuple[int, str]] = field(default_factory=dict)
    owners: dict[Place, "Client | None"] = field(default_factory=lambda: dict.fromkeys(PLACES))
    ids: dict[str, str] = field(default_factory=lambda: dict.fromkeys(TOPICS, "id 0"))
    handled: dict[Place, int] = field(default_factory=lambda: dict.fromkeys(PLACES, 0))
    """The first offset that was not handled yet."""
    findings: list[str] = field(default_factory=list)
    outage: bool = False
    calm: bool = False
    """True once nothing else goes wrong."""
    recreated: set[str] = field(default_factory=set)

    def handle(self, records: Sequence[Fetched]) -> None:
        """Note a batch, as a service's inbox would."""
        for record in records:
            place = record.topic, record.partition
            following, id_ = self.following(place), self.ids[place[0]]
            if record.value != id_.encode():
                continue  # of the topic before
            if record.offset > following == 0 and place[0] in self.recreated:
                continue  # until the consumer notices, it reads on where it was
            if record.offset > following:
                self.findings.append(f"{place}: {record.offset} was handled before {following}")
            self.handled[place] = max(self.handled[place], record.offset + 1)

    def following(self, place: Place) -> int:
        """Return the first offset that is to be handled yet."""
        begin, end = self.skipped.get(place, (-1, -1))
        return end if begin == self.handled[place] else self.handled[place]

    def commit(self, offsets: Sequence[TopicPartition]) -> None:
        for each in offsets:
            place, id_ = (each.topic, each.partition), each.metadata or ""
            self.committed[place] = (each.offset, id_)
            if id_ == self.ids[place[0]] and each.offset > self.following(place):
                self.findings.append(f"{place}: {each.offset} was committed before {self.following(place)} was handled")


class Client:
    """librdkafka's consumer, as far as ours uses it."""

    def __init__(self, broker: Broker, config: dict[str, Any]) -> None:
        self.broker = broker
        self.positions: dict[Place, int] = {}
        self.paused: set[Place] = set()
        self.astray: set[Place] = set()
        """Partitions that it is about to read from the beginning, whatever it is told meanwhile."""
        self.gained: set[Place] = set()
        self.lost: set[Place] = set()
        self.underway: list[tuple[KafkaError | None, list[TopicPartition]]] = []
        """Commits that have not ended. One without an error is repeated, and may be carried out after a newer one."""
        self._on_commit = config["on_commit"]

    def subscribe(self, _: Sequence[str], **callbacks: Callable[..., None]) -> None:
        self.callbacks = callbacks

    def poll(self, _: float) -> Message | None:
        self._rebalance()
        return next(self._messages(), None)

    def consume(self, limit: int, _: float) -> list[Message]:
        return list(islice(self._messages(), limit))

    def _messages(self) -> Iterator[Message]:
        broker = self.broker
        while ready := [
            place
            for place, position in self.positions.items()
            if place not in self.paused and (position < broker.ends[place] or place in self.astray)
        ]:
            place = broker.random.choice(ready)
            if place in self.astray:
                self.astray.remove(place)
                self.positions[place] = 0
            position = self.positions[place]
            begin, end = broker.bad.get(place, (-1, -1))
            if begin <= position < end:
                self.positions[place] = end
                yield Message(place, begin, broker.ids[place[0]], KafkaError(KafkaError._BAD_MSG))
            elif position < broker.ends[place]:
                self.positions[place] = position + 1
                yield Message(place, position, broker.ids[place[0]])

    def _rebalance(self) -> None:
        self._end_commits()
        if self.lost:
            self.callbacks["on_revoke"](self, [TopicPartition(*place) for place in sorted(self.lost)])
            self.lost.clear()
        if gained := [place for place in sorted(self.gained) if self.broker.owners[place] is None]:
            self.callbacks["on_assign"](self, [TopicPartition(*place) for place in gained])
            self.gained -= set(gained)

    def _end_commits(self) -> None:
        underway, self.underway = self.underway, []
        for error, offsets in underway:
            if not self.broker.calm and self.broker.random.random() < 0.5:
                self.underway.append((error, offsets))
                continue
            if error is None:  # those of partitions that it has lost are refused
                self.broker.commit([each for each in offsets if (each.topic, each.partition) in self.positions])
            self._on_commit(error, offsets)

    def committed(self, places: Sequence[TopicPartition], timeout: float) -> list[TopicPartition]:
        found = [self.broker.committed.get((each.topic, each.partition), (-1001, "")) for each in places]
        return [
            TopicPartition(each.topic, each.partition, offset, id_)
            for each, (offset, id_) in zip(places, found, strict=True)
        ]

    def incremental_assign(self, places: Sequence[TopicPartition]) -> None:
        for each in places:
            self.positions[each.topic, each.partition] = max(each.offset, 0)
            self.broker.owners[each.topic, each.partition] = self

    def incremental_unassign(self, places: Sequence[TopicPartition]) -> None:
        for each in places:
            place = each.topic, each.partition
            del self.positions[place]  # it stays paused, if it is: librdkafka keeps that for when it comes back
            self.astray.discard(place)
            self.broker.owners[place] = None

    def pause(self, places: Sequence[TopicPartition]) -> None:
        self.paused |= {(each.topic, each.partition) for each in places}

    def resume(self, places: Sequence[TopicPartition]) -> None:
        self.paused -= {(each.topic, each.partition) for each in places}

    def seek(self, to: TopicPartition) -> None:
        place = to.topic, to.partition
        self.positions[place] = 0 if to.offset == OFFSET_BEGINNING else to.offset
        if to.offset == self.broker.bad.get(place, (-1, -1))[0] and self.broker.random.random() < 0.3:
            self.astray.add(place)

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        fate = 1.0 if self.broker.calm else self.broker.random.random()
        if fate < 0.2:
            self.underway.append((KafkaError(KafkaError.NOT_COORDINATOR), offsets))
        elif fate < 0.4:
            self.underway.append((None, offsets))
        else:
            self.broker.commit(offsets)
            self._on_commit(None, offsets)


class Ids:
    """Topic ids, as the consumer knows them."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.known: dict[str, str] = dict(broker.ids)
        self.missing: set[str] = set()

    def recreated(self) -> list[str]:
        new = [topic for topic, id_ in self._broker.ids.items() if self.known[topic] != id_]
        self.known = dict(self._broker.ids)
        return new

    def wait(self) -> dict[str, str]:
        return self.known


class Rows:
    """The rows of stops."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def stopped(self, place: Place, stop: Stop) -> None:
        pass

    async def taken_over(self, places: set[Place]) -> None:
        pass

    async def skip_to(self, place: Place, position: int) -> int | None:
        """Have it skipped now and then."""
        bad = self._broker.bad.get(place)
        if bad is None or bad[0] != position or self._broker.random.random() < 0.7:
            return None
        self._broker.skipped[place] = self._broker.bad.pop(place)
        return bad[1]

    async def ended(self, place: Place, stop: Stop) -> None:
        begin, _ = self._broker.bad.get(place, (None, None))
        if begin == stop.position:
            self._broker.findings.append(f"{place}: it counts as flowing, and stands at {begin}")


SETTINGS = ServiceSettings.model_validate(
    {
        "kafka_bootstrap": "127.0.0.1:1",
        "kafka_username": "ledger",
        "kafka_password": "x",
        "database_url": "postgresql+psycopg://x@localhost/x",
        "batch_records": BATCH,
        "offset_commit_s": 0.05,
    }
)


class World:
    """A seed's broker, and two replicas."""

    def __init__(self, seed: int, patch: pytest.MonkeyPatch, kind: type[Consumer]) -> None:
        self.random = Random(seed)
        self.broker = Broker(self.random)
        clock = SimpleNamespace(monotonic=lambda: self.broker.now)
        patch.setattr(partitions, "time", clock)
        patch.setattr(module, "time", clock)
        patch.setattr(module, "Client", lambda config, **_: Client(self.broker, config))
        patch.setattr(module, "TopicIds", lambda *_: Ids(self.broker))
        self._kind = kind
        self.replicas = [self._replica(), self._replica()]
        self._share(self.replicas[0], PLACES)

    def _replica(self) -> Consumer:
        shell = SimpleNamespace(outages=Outages(lambda: self.broker.now))
        made = self._kind(LEDGER, shell, SETTINGS, Rows(self.broker))  # type: ignore[arg-type]
        shell.process = partial(self._process, made)
        made._await = drive  # type: ignore[method-assign, assignment]
        made._gathering._clock = lambda: self.broker.now
        made._connect()
        made._client.subscribe([], on_assign=made._on_assign, on_revoke=made._on_revoke, on_lost=made._on_lost)
        return made

    async def _process(self, replica: Consumer, records: Sequence[Fetched], _: Any) -> None:
        self.broker.now += 0.005
        if foreign := {(record.topic, record.partition) for record in records} - self._client(replica).positions.keys():
            self.broker.findings.append(f"{min(foreign)} is handled by a replica that has lost it")
        with replica.shell.outages.watching(FromKafka.name):
            if self.broker.outage and self.random.random() < 0.7:
                self.random.choice([self.publish, self.rebalance, self.recreate])()
                raise Outage("told to fail")
            self.broker.handle(records)

    def _client(self, replica: Consumer) -> Client:
        return replica._client  # type: ignore[return-value]

    def _share(self, replica: Consumer, places: Sequence[Place]) -> None:
        """Hand partitions to a replica, once their owners have let go of them."""
        for other in self.replicas:
            client = self._client(other)
            client.gained -= set(places)
            if other is not replica:
                client.lost |= set(places) & set(client.positions)
        client = self._client(replica)
        client.gained |= set(places) - set(client.positions) | (set(places) & client.lost)

    def run(self) -> list[str]:
        for _ in range(STEPS):
            self.random.choice(self.actions)(self)
            self.round_()
        self.broker.outage, self.broker.calm = False, True
        for place in list(self.broker.bad):
            self.broker.bad.pop(place)
        for replica in self.replicas:
            replica._gathering._closed_until = 0.0
        for _ in range(60):
            self.broker.now += 0.5
            for replica in self.replicas:
                replica._round()
        left = {place: end for place, end in self.broker.ends.items() if self.broker.following(place) < end}
        stopped = [place for replica in self.replicas for place in replica._stopped]
        behind = [
            place
            for place, handled in self.broker.handled.items()
            if handled > self.broker.committed.get(place, (0, ""))[0] and handled > 0
        ]
        waits = [trouble for replica in self.replicas if (trouble := replica.shell.outages.trouble())]
        return [
            *self.broker.findings,
            *waits,
            *(f"{place} was never handled" for place in left),
            *(f"{place} stands" for place in stopped),
            *(f"{place} was never committed to its end" for place in behind),
        ]

    # What may happen.

    def round_(self) -> None:
        self.broker.now += self.random.choice([0.001, 0.02, 0.2, 1.0])
        self.random.choice(self.replicas)._round()

    def publish(self) -> None:
        self.broker.ends[self.random.choice(PLACES)] += self.random.choice([1, 2, 20])

    def rebalance(self) -> None:
        self._share(self.random.choice(self.replicas), self.random.sample(PLACES, 2))

    def crash(self) -> None:
        """A replica dies, and another takes its place."""
        dead = self.random.randrange(2)
        client = self._client(self.replicas[dead])
        lost = [*client.positions, *client.gained]
        client.incremental_unassign([TopicPartition(*place) for place in client.positions])
        self.replicas[dead] = self._replica()
        self._share(self.random.choice(self.replicas), lost)

    def fault(self) -> None:
        place = self.random.choice(PLACES)
        if place not in self.broker.bad and place not in self.broker.skipped:
            begin = self.broker.ends[place]
            self.broker.ends[place] += 9
            self.broker.bad[place] = (begin, begin + 4)

    def mend(self) -> None:
        if self.broker.bad:
            self.broker.bad.pop(self.random.choice(sorted(self.broker.bad)))

    def outage(self) -> None:
        self.broker.outage = not self.broker.outage

    def recreate(self) -> None:
        """A topic is deleted and recreated: what was in it and not handled is gone."""
        topic = self.random.choice(TOPICS)
        if self.random.random() < 0.7:
            return
        self.broker.ids[topic] += "+"
        self.broker.recreated.add(topic)
        for place in PLACES:
            if place[0] == topic:
                self.broker.ends[place] = self.random.choice([0, 5, 40])
                self.broker.handled[place] = 0
                for kept in (self.broker.bad, self.broker.skipped, self.broker.committed):
                    kept.pop(place, None)

    actions: Sequence[Callable[["World"], None]] = (
        *[publish] * 6,
        rebalance,
        crash,
        fault,
        mend,
        outage,
        recreate,
    )


def _found(kind: type[Consumer]) -> Iterator[str]:
    for seed in range(SEEDS):
        with pytest.MonkeyPatch.context() as patch:
            yield from (f"seed {seed}: {finding}" for finding in World(seed, patch, kind).run())


def test_whatever_happens_each_record_is_handled_in_its_place_and_committed_after_that() -> None:
    assert list(_found(Consumer)) == []


class CommitsWhatWaits(Consumer):
    def _fetch(self) -> list[Fetched]:
        fetched = super()._fetch()
        self._done |= {(record.topic, record.partition): record.offset + 1 for record in fetched}
        return fetched


class MixesUpWhatWaits(Consumer):
    def _handle(self, records: list[Fetched]) -> None:
        super()._handle([*records[1:], *records[:1]])


class ForgetsWhatWaits(Consumer):
    def _try_stopped(self) -> None:
        super()._try_stopped()
        if self._stopped:
            self._gathering.clear()


class KeepsWhatItHasLost(Consumer):
    def _on_lost(self, client: Any, partitions: list[TopicPartition]) -> None:
        waiting = self._gathering.clear()
        super()._on_lost(client, partitions)
        self._gathering.add(waiting)


class CommitsForTheTopicBefore(Consumer):
    def _forget(self, topics: Collection[str]) -> None:
        pass


class LeavesWhatAnOlderCommitUndoes(Consumer):
    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        if error is not None:
            super()._on_commit(error, offsets)


class UndoesItselfAfterAFailure(Consumer):
    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        if error is not None:
            self._done = {(each.topic, each.partition): each.offset for each in offsets} | self._done


class ReadsOnBehindAFault(Consumer):
    def _seek(self, place: Place, offset: int) -> None:
        if place not in self._stopped:
            super()._seek(place, offset)


class LeavesPausedWhatIsHandedOver(Consumer):
    def _on_lost(self, client: Any, partitions: list[TopicPartition]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client, "resume", lambda _: None)
            super()._on_lost(client, partitions)


class WaitsForWhatIsHandedOver(Consumer):
    def _until_handled(self, records: list[Fetched]) -> list[Fetched]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.shell.outages, "given_up", lambda _: None)
            return super()._until_handled(records)


@pytest.mark.parametrize(
    "broken",
    [
        CommitsWhatWaits,
        MixesUpWhatWaits,
        ForgetsWhatWaits,
        KeepsWhatItHasLost,
        CommitsForTheTopicBefore,
        LeavesWhatAnOlderCommitUndoes,
        UndoesItselfAfterAFailure,
        ReadsOnBehindAFault,
        LeavesPausedWhatIsHandedOver,
        WaitsForWhatIsHandedOver,
    ],
)
def test_finds_a_consumer_that(broken: type[Consumer]) -> None:
    assert next(_found(broken), None) is not None


def test_as_long_as_nobody_polls_there_is_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica may wait for its database for days, and what librdkafka says each second would pile up."""
    made: list[Any] = []
    monkeypatch.setattr(module, "Client", lambda config, **_: made.append(config))
    shell = SimpleNamespace(outages=Outages())
    Consumer(LEDGER, shell, SETTINGS, Rows(Broker(Random(1))))  # type: ignore[arg-type]
    assert made == []
