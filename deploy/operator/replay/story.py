"""In which order, and when, a service handled its messages: as its own events tell it.

An event's id follows from the message that caused it, and its `ce_time` is the moment of the batch in which that was
handled. A message without any such event changed nothing that others know of: it is placed as early as it can have been
handled, behind what is before it on its partition.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import TypeVar
from uuid import UUID

from popfax_contracts.ids import derive
from popfax_contracts.topics import BY_NAME
from services.chassis.arrivals import Fetched
from services.chassis.envelopes import id_of
from services.chassis.messages import Undecodable
from services.chassis.partitions import Place
from services.chassis.shell import Arrival

K = TypeVar("K")
V = TypeVar("V")

AT_ONCE = 500
"""The most messages without events of their own in one step."""

_GAPS = 64
"""How many of a message's consequences may be no events: timers, and what compaction has removed."""


_BEGINNING = datetime.fromtimestamp(0, UTC)


@dataclass(slots=True)
class Told:
    """A message that the service published."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    id: str
    type: str
    cause: str
    correlation_id: str
    actor: UUID | None
    at: datetime

    @property
    def is_compacted(self) -> bool:
        """Return whether its topic keeps only the newest record of each key."""
        return BY_NAME[self.topic].compacted


@dataclass(slots=True)
class Heard:
    """A message that the service received, and what it published because of it."""

    arrival: Arrival
    received_at: datetime
    told: list[Told] = field(default_factory=list)
    at: datetime | None = None
    """When it was handled, as far as that can be told."""

    @property
    def place(self) -> Place:
        """Return its partition."""
        return self.arrival.record.topic, self.arrival.record.partition

    @property
    def id(self) -> UUID:
        """Return its identity."""
        return self.arrival.id

    @property
    def sent_id(self) -> str:
        """Return what its consequences name as their cause."""
        arrival = self.arrival
        named = arrival.command_id if isinstance(arrival, Undecodable) else arrival.sent_id
        return named or str(arrival.id)


class Kind(StrEnum):
    """What happened in a step."""

    HEARD = "heard"
    """Messages were handled, and events say when."""
    QUIET = "quiet"
    """Messages were handled that nothing says anything of."""
    DUE = "due"
    """Events whose cause is on no topic: a timer, a row that was due, a parked message, an operator."""


@dataclass(slots=True)
class Step:
    """What was handled together, and when."""

    kind: Kind
    at: datetime
    heard: list[Heard] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    """The events of a step without messages."""

    @property
    def places(self) -> set[Place]:
        """Return the partitions of its messages."""
        return {each.place for each in self.heard}


def told_of(record: Fetched) -> Told | None:
    """Read a record of the service's own; None for one that is no message of a service."""
    headers = {name: value.decode(errors="replace") for name, value in record.headers if value is not None}
    try:
        return Told(
            record.topic,
            record.partition,
            record.offset,
            (record.key or b"").decode(errors="replace"),
            record.value or b"",
            headers["ce_id"],
            headers["ce_type"],
            headers["ce_causationid"],
            headers["ce_correlationid"],
            id_of(headers["ce_actor"].encode()) if "ce_actor" in headers else None,
            datetime.fromisoformat(headers["ce_time"]),
        )
    except (KeyError, ValueError):
        return None


def heard_of(arrival: Arrival) -> Heard:
    """Return a message as it was received."""
    timestamp = getattr(arrival.record, "timestamp", 0)
    return Heard(arrival, _BEGINNING + timedelta(milliseconds=timestamp))


def firsts(told: Iterable[Told]) -> list[Told]:
    """Leave out repetitions: of each message, the first record counts."""
    return list({(each.topic, each.id): each for each in reversed(list(told))}.values())[::-1]


def steps(heard: Iterable[Heard], told: Iterable[Told]) -> list[Step]:
    """Tell the story: every message that was received, and every event, in a step, in their order."""
    received = list({each.id: each for each in reversed(list(heard))}.values())[::-1]
    uncaused = _match(received, told)
    quiet = [each for line in _lines(received) for each in _quiet(line)]
    together = _grouped((each.at, each) for each in received if each.at is not None)
    apart = _grouped(((each.at, each.cause), each) for each in uncaused)
    happened = [(at, _WITH, Step(Kind.HEARD, at, _in_turn(batch))) for at, batch in together.items()]
    happened += [(at, _WITH, Step(Kind.DUE, at, told=each)) for (at, _), each in apart.items()]
    return list(_merged([*happened, *quiet]))


def _match(received: Iterable[Heard], told: Iterable[Told]) -> list[Told]:
    """Assign the events to the messages that they follow from; return those that follow from none."""
    by_cause = _grouped((each.cause, each) for each in told)
    for message in received:
        candidates = by_cause.get(message.sent_id)
        if not candidates:
            continue
        ids = {str(derive(message.id, str(n))) for n in range(_GAPS + 4 * len(candidates))}
        message.told = [each for each in candidates if each.id in ids]
        message.at = min((each.at for each in message.told), default=None)
        by_cause[message.sent_id] = [each for each in candidates if each.id not in ids]
    return [each for rest in by_cause.values() for each in rest]


_BEFORE, _WITH, _AFTER = range(3)
"""Whether a message without events comes before, or behind, what was handled at the same moment."""

Placed = tuple[datetime, int, Step | Heard]


def _quiet(line: Sequence[Heard]) -> Iterator[Placed]:
    """Place the messages of a partition that have no events. One between two of one batch was in that batch."""
    following: list[datetime | None] = []
    for message in reversed(line):
        following.append(message.at or (following[-1] if following else None))
    last, placed = None, _BEGINNING
    for message, by in zip(line, reversed(following), strict=True):
        if message.told:
            last = message.at
        elif last is not None and last == by:
            message.at = last
        else:
            placed = max(placed, message.received_at, last or _BEGINNING)
            placed = placed if by is None else min(placed, by)
            yield placed, _AFTER if placed == last else _BEFORE, message


def _in_turn(batch: Sequence[Heard]) -> list[Heard]:
    """Order a batch: as its messages are on their partitions, and as their events are on theirs."""
    places = {each.id: place for place, each in enumerate(batch)}
    sorter: TopologicalSorter[UUID] = TopologicalSorter({each.id: () for each in batch})
    spoke = [(told, each) for each in batch for told in each.told if not told.is_compacted]
    spoke.sort(key=lambda pair: (pair[0].topic, pair[0].partition, pair[0].offset))
    for line in (*_lines(batch), *_grouped(((t.topic, t.partition), each) for t, each in spoke).values()):
        for before, after in pairwise(line):
            if before.id != after.id:
                sorter.add(after.id, before.id)
    by_id = {each.id: each for each in batch}
    try:
        sorter.prepare()
    except CycleError:
        return list(batch)
    ordered: list[Heard] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=places.__getitem__)
        ordered += map(by_id.__getitem__, ready)
        sorter.done(*ready)
    return ordered


def _merged(happened: Iterable[Placed]) -> Iterator[Step]:
    """Put everything in its order; neighbours without events are one step."""
    quiet: list[Heard] = []
    at = _BEGINNING
    for when, _, what in sorted(happened, key=lambda placed: placed[:2]):
        if quiet and (isinstance(what, Step) or len(quiet) == AT_ONCE):
            yield Step(Kind.QUIET, at, quiet)
            quiet = []
        if isinstance(what, Step):
            yield what
        else:
            quiet.append(what)
            at = when
    if quiet:
        yield Step(Kind.QUIET, at, quiet)


def _lines(received: Iterable[Heard]) -> Iterable[list[Heard]]:
    """Return each partition's messages, in their order."""
    return _grouped((each.place, each) for each in received).values()


def _grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    found: dict[K, list[V]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found
