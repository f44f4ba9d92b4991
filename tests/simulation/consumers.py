"""Kafka's consumer groups and their client, as the chassis' consumer uses them: librdkafka's, in a model.

The coordinator knows members by their heartbeats: it fences those of an older generation, keeps partitions from a new
owner until the old one has given them up or is given up itself (KIP-429), and lets a member with a name of its own
replace itself (KIP-345). The client does what it does behind its caller's back: it prefetches, sends heartbeats while
the caller works, and notices late that it is a member no more.
"""

import json
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_INVALID, KafkaError, KafkaException, TopicPartition

from services.chassis.arrivals import Fetched
from tests.simulation.hub import Hub, Process, Thread
from tests.simulation.kafka import LOST, RETRY_S, Broker, Headers, Place

SESSION_S = 10.0
HEARTBEAT_S = 1.0
LONGEST_POLL_S = 120.0
REJOIN_S = 120.0
"""`session.timeout.ms`, `heartbeat.interval.ms`, `max.poll.interval.ms`, which is how long a rebalance waits, too."""


@dataclass(slots=True, eq=False)
class _Member:
    id: str
    instance: str | None
    heard_at: float
    assigned: set[Place] = field(default_factory=set)


class Group:
    """A consumer group and its coordinator."""

    def __init__(self, hub: Hub, places: Sequence[Place]) -> None:
        self.hub = hub
        self.places = places
        self.members: dict[str, _Member] = {}
        self.generation = 0
        self.committed: dict[Place, tuple[int, str]] = {}
        self.fences = True
        self._joining: dict[str, tuple[set[Place], Callable[[Any], None]]] | None = None
        self._joining_since = 0.0
        self._numbers = count(1)

    def join(self, member_id: str, instance: str | None, owned: set[Place], answer: Callable[[Any], None]) -> None:
        """Wait for the next generation, in which the member keeps what it owns unless that has to move."""
        if not member_id:
            member_id = f"{instance or 'member'}-{next(self._numbers)}"
            self._replace(instance)
            self.members[member_id] = _Member(member_id, instance, self.hub.now)
            self.hub.after(SESSION_S, partial(self._expire, member_id))
        elif (error := self._unknown(member_id, instance)) is not None:
            answer(error)
            return
        self._rebalance()
        assert self._joining is not None
        self._joining[member_id] = owned, answer
        self._complete()

    def _replace(self, instance: str | None) -> None:
        for member in [each for each in self.members.values() if instance is not None and each.instance == instance]:
            del self.members[member.id]
            if self._joining is not None:
                self._joining.pop(member.id, None)

    def _rebalance(self) -> None:
        if self._joining is None:
            self._joining, self._joining_since = {}, self.hub.now
            self.hub.after(REJOIN_S, partial(self._give_up, self.generation))

    def _give_up(self, generation: int) -> None:
        if self._joining is not None and self.generation == generation:
            for member_id in [each for each in self.members if each not in self._joining]:
                del self.members[member_id]
            self._complete()

    def _complete(self) -> None:
        if self._joining is None or set(self._joining) != set(self.members):
            return
        joined, self._joining = self._joining, None
        self.generation += 1
        if not joined:
            return
        assigned = self._assign({id_: owned for id_, (owned, _) in joined.items()})
        moves = False
        for id_, (owned, answer) in joined.items():
            member = self.members[id_]
            moves = moves or not owned <= assigned[id_]
            member.assigned, member.heard_at = assigned[id_], self.hub.now
            answer((id_, self.generation, set(assigned[id_])))

    def _assign(self, owned: Mapping[str, set[Place]]) -> dict[str, set[Place]]:
        """Share fairly; nobody gets what another still owns, and has to give up first (cooperative, sticky)."""
        ids = sorted(owned)
        fair = {id_: len(self.places) // len(ids) + (n < len(self.places) % len(ids)) for n, id_ in enumerate(ids)}
        owner: dict[Place, str] = {}
        for id_ in ids:
            for place in sorted(owned[id_] & self.members[id_].assigned):
                owner.setdefault(place, id_)
        assigned: dict[str, set[Place]] = {id_: set() for id_ in ids}
        free = []
        for place in self.places:
            if place not in owner:
                free.append(place)
            elif len(assigned[owner[place]]) < fair[owner[place]]:
                assigned[owner[place]].add(place)
        for place in free:
            id_ = min(ids, key=lambda each: (len(assigned[each]) - fair[each], each))
            assigned[id_].add(place)
        return assigned

    def _unknown(self, member_id: str, instance: str | None, generation: int | None = None) -> int | None:
        member = self.members.get(member_id)
        if member is None:
            others = any(each.instance == instance for each in self.members.values())
            return KafkaError.FENCED_INSTANCE_ID if instance is not None and others else KafkaError.UNKNOWN_MEMBER_ID
        member.heard_at = self.hub.now
        if generation is not None and generation != self.generation:
            return KafkaError.ILLEGAL_GENERATION
        return None

    def heartbeat(self, member_id: str, instance: str | None, generation: int) -> int | None:
        """Note that a member lives; return what is wrong with it."""
        error = self._unknown(member_id, instance, generation)
        return KafkaError.REBALANCE_IN_PROGRESS if error is None and self._joining is not None else error

    def commit(
        self, member_id: str, instance: str | None, generation: int, offsets: Mapping[Place, tuple[int, str]]
    ) -> int | None:
        """Commit offsets, unless the member is fenced off."""
        error = self._unknown(member_id, instance, generation)
        if error is None or not self.fences:
            self.committed.update(offsets)
            return None
        return error

    def leave(self, member_id: str) -> None:
        """Forget a member, at its own wish."""
        if self.members.pop(member_id, None) is not None:
            if self._joining is not None:
                self._joining.pop(member_id, None)
            self._rebalance()
            self._complete()

    def _expire(self, member_id: str) -> None:
        member = self.members.get(member_id)
        if member is None:
            return
        waits = self._joining is not None and member_id in self._joining
        silent_s = 0.0 if waits else self.hub.now - member.heard_at
        if silent_s >= SESSION_S:
            self.leave(member_id)
        else:
            self.hub.after(max(SESSION_S - silent_s, 0.1), partial(self._expire, member_id))


class Coordinator:
    """All groups."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.strands = False
        """Whether a client that begins while the broker is away stays out of its group for good."""
        self.groups: dict[str, Group] = {}

    def group(self, name: str, topics: Sequence[str]) -> Group:
        """Return a group, whose members all read the same topics."""
        places = sorted((topic, n) for topic in topics for n in range(self.broker.topics[topic]))
        return self.groups.setdefault(name, Group(self.broker.hub, places))


class ModelMessage:
    """confluent-kafka's message."""

    def __init__(self, record: Fetched | None, place: Place, offset: int, error: KafkaError | None = None) -> None:
        self._record = record
        self._place = place
        self._offset = offset
        self._error = error

    def topic(self) -> str:
        return self._place[0]

    def partition(self) -> int:
        return self._place[1]

    def offset(self) -> int:
        return self._offset

    def error(self) -> KafkaError | None:
        return self._error

    def key(self) -> bytes | None:
        return self._record.key if self._record else None

    def value(self) -> bytes | None:
        return self._record.value if self._record else None

    def headers(self) -> Headers | None:
        return self._record.headers if self._record else None

    def timestamp(self) -> tuple[int, int]:
        return 1, self._record.timestamp if self._record else 0


@dataclass(slots=True)
class _Assigned:
    """A partition that is assigned."""

    position: int | None
    """Where it is fetched next; None until the committed offset is known."""
    app: int | None = None
    """Where the application stands."""
    version: int = 0
    asked: bool = False


AT_ONCE = 50
"""The most records of one answer."""


class ModelConsumer:
    """librdkafka's consumer, behind confluent-kafka's methods, as `chassis.consumer` uses them."""

    def __init__(self, coordinator: Coordinator, process: Process, config: Mapping[str, Any]) -> None:
        self._coordinator = coordinator
        self._broker = broker = coordinator.broker
        self._process = process
        self._hub = broker.hub
        self._config = config
        self._instance: str | None = config.get("group.instance.id")
        self._group: Group | None = None
        self._member_id = ""
        self._generation = -1
        self._state = "init"
        self._owned: dict[Place, _Assigned] = {}
        self._paused: set[Place] = set()
        """What was paused stays so until it is resumed, although it was handed over and came back meanwhile."""
        self._queue: deque[ModelMessage] = deque()
        self._ops: deque[Callable[[], None]] = deque()
        self._polled_at = self._answered_at = self._told_at = self._hub.now
        self._closed = self.is_deadlocked = False
        self._stranded = coordinator.strands and broker.is_away

    def deadlock(self) -> None:
        """Have its threads wait for each other, for good: librdkafka's issue 5476."""
        self._closed = self.is_deadlocked = True
        self._state = "deadlocked"
        self._queue.clear()
        self._ops.clear()

    # --- what the application calls, in its thread ---

    def subscribe(
        self, topics: Sequence[str], on_assign: Any = None, on_revoke: Any = None, on_lost: Any = None
    ) -> None:
        self._on_assign, self._on_revoke, self._on_lost = on_assign, on_revoke, on_lost
        self._group = self._coordinator.group(self._config["group.id"], topics)
        self._process.loop.call_soon_threadsafe(self._join)
        self._process.loop.call_soon_threadsafe(self._tick)

    def poll(self, seconds: float) -> ModelMessage | None:
        """Serve what has happened, and return the next message if there is one in time."""
        until = self._hub.now + seconds
        while True:
            self._polled_at = self._hub.now
            self._tell()
            while self._ops:
                self._ops.popleft()()
            if (message := self._next()) is not None:
                return message
            if self._hub.now >= until:
                return None
            self._thread.wait(lambda: self._ops or self._queue, min(until - self._hub.now, 1.0))

    def consume(self, most: int, _: float) -> list[ModelMessage]:
        found: list[ModelMessage] = []
        while len(found) < most and (message := self._next()) is not None:
            found.append(message)
        return found

    def committed(self, partitions: Sequence[TopicPartition], timeout: float) -> list[TopicPartition]:
        assert self._group is not None
        group = self._group
        found = None if self.is_deadlocked else self._wait_for(lambda: dict(group.committed), timeout)
        if found is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        answers = []
        for each in partitions:
            offset, metadata = found.get((each.topic, each.partition), (OFFSET_INVALID, ""))
            answers.append(TopicPartition(each.topic, each.partition, offset, metadata))
        return answers

    def incremental_assign(self, partitions: Sequence[TopicPartition]) -> None:
        for each in partitions:
            place = each.topic, each.partition
            if each.offset == OFFSET_BEGINNING:
                fetched = _Assigned(0, 0)
            else:
                fetched = _Assigned(each.offset if each.offset >= 0 else None)
                fetched.app = fetched.position
            self._owned[place] = fetched
        self._soon()

    def incremental_unassign(self, partitions: Sequence[TopicPartition]) -> None:
        for each in partitions:
            self._owned.pop((each.topic, each.partition), None)
            self._purge((each.topic, each.partition))

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        for each in partitions:
            place = each.topic, each.partition
            if (fetched := self._owned.get(place)) is not None and place not in self._paused:
                self._paused.add(place)
                self._go_to(place, fetched.app)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self._paused -= {(each.topic, each.partition) for each in partitions}
        self._soon()

    def seek(self, partition: TopicPartition) -> None:
        place = partition.topic, partition.partition
        if place not in self._owned:
            raise KafkaException(KafkaError(KafkaError._STATE))
        self._go_to(place, 0 if partition.offset == OFFSET_BEGINNING else partition.offset)
        self._soon()

    def commit(self, offsets: Sequence[TopicPartition], asynchronous: bool) -> None:
        assert self._group is not None
        assert asynchronous
        if self.is_deadlocked:
            return
        wanted = {(each.topic, each.partition): (each.offset, each.metadata or "") for each in offsets}
        told = self._config["on_commit"]

        def answered(error: Any) -> None:
            code = KafkaError._TRANSPORT if error is LOST else error
            if code == KafkaError.FENCED_INSTANCE_ID:
                self._end_for_good()
            self._ops.append(lambda: told(None if code is None else KafkaError(code), list(offsets)))

        handle = partial(self._group.commit, self._member_id, self._instance, self._generation, wanted)
        self._broker.request(self._process, handle, answered)

    def close(self) -> None:
        """Revoke everything, and leave; a member with a name of its own stays one until its session ends."""
        if self.is_deadlocked:
            self._thread.wait(lambda: False)
        if self._closed:
            return
        if self._owned and not self._process.dead and self._state == "up":
            self._on_revoke(self, _partitions(self._owned))
        self._closed = True
        if self._group is not None and self._member_id and self._instance is None:
            self._broker.request(self._process, partial(self._group.leave, self._member_id), lambda _: None)

    def set_sasl_credentials(self, *_: str) -> None:
        pass

    @property
    def _thread(self) -> Thread:
        return self._process.threads[0]

    def _wait_for(self, handle: Callable[[], Any], seconds: float) -> Any:
        """Ask the broker, and wait; None if nothing is answered in time."""
        answers: list[Any] = []
        until = self._hub.now + seconds
        while self._hub.now < until:
            self._broker.request(self._process, handle, answers.append)
            self._thread.wait(lambda: answers, until - self._hub.now)
            if answers and answers[-1] is not LOST:
                return answers[-1]
            answers.clear()
            self._thread.wait(lambda: False, RETRY_S)
        return None

    def _next(self) -> ModelMessage | None:
        while self._queue:
            message = self._queue.popleft()
            place = message.topic(), message.partition()
            fetched = self._owned.get(place)
            if message.error() is not None and message.offset() < 0:
                return message
            if fetched is not None and place not in self._paused:
                fetched.app = message.offset() + 1
                return message
        return None

    def _tell(self) -> None:
        if self._hub.now - self._told_at >= 1.0 and not self.is_deadlocked:
            self._told_at = self._hub.now
            self._config["stats_cb"](self._statistics())

    def _statistics(self) -> str:
        state = "DOWN" if self._broker.is_away else "UP"
        reads: dict[str, Any] = {f"{topic}-{partition}": {} for topic, partition in self._owned}
        broker = {"nodeid": 1, "source": "learned", "state": state, "rxidle": 0, "toppars": reads}
        queued = {(message.topic(), message.partition()) for message in self._queue}
        topics: dict[str, Any] = {}
        for place in self._owned:
            of_topic = topics.setdefault(place[0], {"topic": place[0], "partitions": {}})
            end = len(self._broker.logs[place].records)
            of_topic["partitions"][str(place[1])] = {
                "partition": place[1],
                "fetch_state": "active",
                "fetchq_cnt": int(place in queued),
                "leader": 1,
                "ls_offset": end,
                "next_offset": position if (position := self._owned[place].position) is not None else OFFSET_INVALID,
                "lo_offset": 0,
                "committed_offset": 0,
            }
        joined = {"up": ("up", "steady"), "init": ("wait-broker", "init")}
        state, join_state = joined.get(self._state, ("up", "wait-join"))
        cgrp = {"state": state, "join_state": join_state}
        return json.dumps({"cgrp": cgrp, "brokers": {"GroupCoordinator": broker, "1": broker}, "topics": topics})

    # --- what goes on behind the application's back, in the process' loop ---

    def _tick(self) -> None:
        """Do what its threads do each second."""
        if self._closed:
            return
        self._process.loop.call_later(HEARTBEAT_S, self._tick)
        now = self._hub.now
        if self._state == "up":
            if now - self._polled_at > LONGEST_POLL_S or now - self._answered_at > SESSION_S:
                self._lose()
                return
            assert self._group is not None
            handle = partial(self._group.heartbeat, self._member_id, self._instance, self._generation)
            self._broker.request(self._process, handle, partial(self._heard, self._generation))
        for place in list(self._owned):
            self._fetch(place)

    def _heard(self, generation: int, error: Any) -> None:
        if self._state != "up" or generation != self._generation or error is LOST:
            return
        self._answered_at = self._hub.now
        if error == KafkaError.REBALANCE_IN_PROGRESS:
            self._join()
        elif error == KafkaError.FENCED_INSTANCE_ID:
            self._end_for_good()
        elif error is not None:
            self._lose()

    def _end_for_good(self) -> None:
        if self._state != "fenced":
            self._state = "fenced"
            self._queue.appendleft(ModelMessage(None, ("", 0), -1, KafkaError(KafkaError._FATAL, "fenced")))

    def _lose(self) -> None:
        """Notice that it is a member no more: what it owns is another's."""
        self._state, self._member_id, self._generation = "lost", "", -1

        def lost() -> None:
            if self._owned:
                self._on_lost(self, _partitions(self._owned))
            self._process.loop.call_soon_threadsafe(self._join)

        self._ops.append(lost)

    def _join(self) -> None:
        if self._closed or self._state in ("joining", "fenced"):
            return
        if self._stranded:
            self._state = "init"
            return
        assert self._group is not None
        self._state = "joining"
        ask = partial(self._group.join, self._member_id, self._instance, set(self._owned))
        self._broker.ask(self._process, ask, self._joined)

    def _joined(self, answer: Any) -> None:
        if self._closed or self._state != "joining":
            return
        if answer is LOST:
            self._state = "again"
            self._process.loop.call_later(RETRY_S, self._join)
        elif isinstance(answer, int):
            if answer == KafkaError.FENCED_INSTANCE_ID:
                self._end_for_good()
            else:
                self._lose()
        else:
            self._member_id, self._generation, assigned = answer
            self._answered_at = self._hub.now
            self._state = "assigning"
            self._ops.append(partial(self._take_over, assigned))

    def _take_over(self, assigned: set[Place]) -> None:
        """Have the application give up what has to move, and take what is new."""
        revoked, added = set(self._owned) - assigned, assigned - set(self._owned)
        if revoked:
            self._on_revoke(self, _partitions(revoked))
        if added:
            self._on_assign(self, _partitions(added))
        if self._state != "assigning":
            return
        self._state = "up"
        if revoked:  # which another may have from now on
            self._process.loop.call_soon_threadsafe(self._join)
        self._soon()

    def _soon(self) -> None:
        for place in list(self._owned):
            self._process.loop.call_soon_threadsafe(self._fetch, place)

    def _fetch(self, place: Place) -> None:
        """Ask for what follows in a partition; it is answered once there is something."""
        fetched = self._owned.get(place)
        if fetched is None or place in self._paused or fetched.asked or self._closed:
            return
        fetched.asked, version, log = True, fetched.version, self._broker.logs[place]
        if fetched.position is None:
            assert self._group is not None
            group = self._group
            self._broker.request(
                self._process,
                lambda: ("at", group.committed.get(place, (0, ""))[0]),
                partial(self._fetched, place, fetched, version),
            )
            return
        position = fetched.position

        def handle(answer: Callable[[Any], None]) -> None:
            if position < len(log.records):
                answer(("has", position, log.records[position : position + AT_ONCE]))
            else:
                log.arrived.append(lambda: handle(answer))

        self._broker.ask(self._process, handle, partial(self._fetched, place, fetched, version))

    def _fetched(self, place: Place, fetched: _Assigned, version: int, answer: Any) -> None:
        if self._owned.get(place) is not fetched or self._closed:
            return
        if version != fetched.version:
            return
        fetched.asked = False
        if answer is LOST:
            self._process.loop.call_later(RETRY_S, self._fetch, place)
            return
        if answer[0] == "at":
            fetched.position = fetched.app = answer[1]
        else:
            self._unpack(place, fetched, answer[2])
        self._fetch(place)

    def _unpack(self, place: Place, fetched: _Assigned, records: Sequence[Fetched]) -> None:
        """Queue records; of a batch that can't be unpacked there is an error, and what follows comes after it."""
        unreadable = self._broker.logs[place].unreadable
        for record in records:
            if self._hub.now < unreadable.get(record.offset, 0.0):
                bad = KafkaError(KafkaError._BAD_COMPRESSION)
                self._queue.append(ModelMessage(None, place, record.offset, bad))
            else:
                self._queue.append(ModelMessage(record, place, record.offset))
        fetched.position = records[-1].offset + 1

    def _go_to(self, place: Place, position: int | None) -> None:
        fetched = self._owned[place]
        fetched.position = fetched.app = position
        fetched.version += 1
        fetched.asked = False
        self._purge(place)

    def _purge(self, place: Place) -> None:
        self._queue = deque(each for each in self._queue if (each.topic(), each.partition()) != place)


def _partitions(places: Collection[Place]) -> list[TopicPartition]:
    return [TopicPartition(*place) for place in sorted(places)]


@dataclass(frozen=True, slots=True)
class _Description:
    topic_id: str


class ModelAdmin:
    """confluent-kafka's admin client, as far as topics' ids are asked of it: none is recreated here."""

    def __init__(self, _: Mapping[str, Any]) -> None:
        pass

    def describe_topics(self, topics: Any, request_timeout: float) -> "dict[str, Future[_Description]]":
        found: dict[str, Future[_Description]] = {}
        for name in topics.topic_names if hasattr(topics, "topic_names") else topics:
            found[name] = Future()
            found[name].set_result(_Description(f"id of {name}"))
        return found
