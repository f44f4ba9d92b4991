"""Has it happen again: the steps of a story, in one transaction on the restored database, by the service's own shell.

The shell finds everything as it does in the service: a transaction (here a savepoint), a clock (here the time of the
step), and an outbox. What goes into that is compared with what was published.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from secrets import token_bytes
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from deploy.operator.replay.particular import Particular
from deploy.operator.replay.story import Heard, Kind, Step, Told
from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.message import Marker, Message
from services.chassis.database import Later, Outage
from services.chassis.envelopes import id_of
from services.chassis.messages import TIMERS, Outgoing, StoredRecord, Undecodable, timer_message_id, timer_record
from services.chassis.partitions import Place
from services.chassis.pipeline import Pipeline, Statement
from services.chassis.postgres import OUTBOX, PARKED, TIMER, PostgresTransaction, stored_record, translated
from services.chassis.rows import Mapped, Rows
from services.chassis.service import Moment
from services.chassis.shell import FromAlarms, FromKafka, FromParked, FromTimers, Shell, Source

K = TypeVar("K")
R = TypeVar("R")

NEAR = timedelta(seconds=5)
"""How far moments may be apart and still be the same: those of replicas that worked side by side, and of the broker."""

TRIES = 500
"""How many steps are tried in search of a sequence in which each comes as it came."""

REPAIRS = 20
"""How many orders of a batch are tried."""

CHUNK = 64
"""How many steps are taken back together when one does not come as it came."""

_SAVE, _BACK, _RELEASE = (
    Statement(sa.text(f"{each} SAVEPOINT replay".strip())) for each in ("", "ROLLBACK TO", "RELEASE")
)


class Differs(Outage):
    """What happened again is not what was published. The text names the message, never its contents."""


class Undecided(Outage):
    """A message without events has consequences: whatever was decided of it, nobody was told."""


@dataclass(slots=True)
class _Frame:
    """What has happened since a savepoint."""

    said: set[tuple[str, str]] = field(default_factory=set)
    """The messages that came again, by topic and id."""
    newest: dict[tuple[str, str], tuple[Outgoing, datetime]] = field(default_factory=dict)
    """The newest message of each key of a compacted topic."""
    fresh: set[UUID] = field(default_factory=set)
    """The messages that the database did not know."""
    lost: int = 0
    again: int = 0
    due: int = 0

    def take(self, other: "_Frame") -> None:
        self.said |= other.said
        self.newest |= other.newest
        self.fresh |= other.fresh
        self.lost += other.lost
        self.again += other.again
        self.due += other.due


@dataclass
class Report:
    """What a replay did, or would do."""

    known_until: datetime
    again: int = 0
    """Messages that were handled again."""
    due: int = 0
    """Timers, rows, parked messages and interventions that happened again."""
    decided: int = 0
    """Messages of which nobody was told the outcome: they are decided now."""
    left: int = 0
    """Messages that the service will handle when it runs."""
    lost: int = 0
    """Messages that were never published, and are now in the outbox."""
    settled: int = 0
    """Rows of the restored outbox that were published, and are out of it."""
    problems: list[str] = field(default_factory=list)
    """What could not happen again as it did."""
    notes: list[str] = field(default_factory=list)
    """What is particular about the service."""


class Replay:
    """One service's replay: a database, a clock and a judge for its shell."""

    def __init__(
        self,
        connection: AsyncConnection,
        pipeline: Pipeline,
        told: Sequence[Told],
        particular: Particular,
        known_until: datetime,
    ) -> None:
        """`connection` has a transaction open, on which the `pipeline` works; `told` is without repetitions."""
        self.service = service = particular.definition
        self.particular = particular
        self.report = Report(known_until)
        self.shell = Shell(service, self, self)  # type: ignore[arg-type]  # of the database, it needs `begin` alone
        self._connection = connection
        self._pipeline = pipeline
        self._told = {(each.topic, each.id): each for each in told}
        self._last_told = max((each.at for each in told), default=known_until)
        self._frames = [_Frame()]
        self._moment = Moment(known_until, token_bytes)
        self._taken: list[Any] = []
        self._speaks = True
        """Whether what was never published may be published."""

    # --- what the shell finds ---

    @asynccontextmanager
    async def begin(self) -> AsyncIterator["Rehearsal"]:
        """Open a transaction within the replay's."""
        async with self.savepoint():
            yield Rehearsal(self._connection, self._pipeline, self)

    def moment(self) -> Moment:
        """Return the moment of the present step."""
        return self._moment

    async def sleep(self, seconds: float) -> None:
        """Pass the time at once."""

    # --- the story ---

    async def tell(self, steps: Sequence[Step], committed: Mapping[Place, int], lost_at: datetime) -> None:
        """Have all steps happen again.

        `committed` is how far the service got with each partition, `lost_at` about when the database was lost.
        """
        answered = [message for step in steps for message in step.heard if message.told]
        last = {message.place: message.arrival.record.offset for message in answered}
        for message in answered:
            last[message.place] = max(last[message.place], message.arrival.record.offset)
        handled = _Handled(last, committed, lost_at)
        for begin in range(0, len(steps), CHUNK):
            await self._chunk(steps[begin : begin + CHUNK], handled)
        await self._decide(handled.late)
        async with self.begin() as tx:
            mended = await self.particular.mend(tx, lost_at + NEAR, self.report.notes.append)
        self._now(datetime.now(UTC), ())
        await self.shell.process(mended, FromKafka())
        await self._conclude()
        self.report.left = handled.left
        self.report.again, self.report.due = self._frames[0].again, self._frames[0].due

    async def _chunk(self, steps: Sequence[Step], handled: "_Handled") -> None:
        """Have steps happen in their order or, if that is not how it was, in any that is; note what differs."""
        before = handled.copy()
        try:
            async with self.savepoint():
                for step in steps:
                    await self._step(step, handled)
        except Differs:
            handled.become(before)
            if await self._in_some_sequence(list(steps), handled, [TRIES]):
                return
            for step in steps:
                try:
                    await self._step(step, handled)
                except Differs as problem:
                    self.report.problems.append(str(problem))

    async def _in_some_sequence(self, steps: list[Step], handled: "_Handled", tries: list[int]) -> bool:
        """Find a sequence of steps in which each comes as it came; return whether there is one.

        Replicas work side by side, and which of two batches was first does not follow from when they began.
        """
        if not steps:
            return True
        for index, step in enumerate(steps):
            tries[0] -= 1
            if tries[0] < 0 or step.at > steps[0].at + NEAR:
                return False
            if any(step.places & earlier.places for earlier in steps[:index]):
                continue
            before = handled.copy()
            try:
                async with self.savepoint():
                    await self._step(step, handled)
                    if await self._in_some_sequence(steps[:index] + steps[index + 1 :], handled, tries):
                        return True
                    raise Differs
            except Differs:
                handled.become(before)
        return False

    async def _step(self, step: Step, handled: "_Handled") -> None:
        match step.kind:
            case Kind.HEARD:
                await self._heard(step)
            case Kind.DUE:
                await self._due(step)
            case Kind.QUIET:
                await self._quiet(step, handled)

    async def _heard(self, step: Step) -> None:
        """Handle a batch as it was handled: in the order that the topics show or, if that is not it, in any that is."""
        try:
            await self._together(step.heard, step.at)
        except Differs as first:
            if not await self._in_some_order(_lines(step.heard), step.at):
                raise first from None
        self._frames[-1].again += len(step.heard)

    async def _together(self, heard: Sequence[Heard], at: datetime) -> None:
        async with self.savepoint():
            self._now(at, heard)
            await self.shell.process([each.arrival.record for each in heard], FromKafka())
            for message in heard:
                self._require(message.told, self._is_known(message, at))

    async def _in_some_order(self, lines: list[list[Heard]], at: datetime) -> bool:
        """Find an order of some partitions' messages in which each brings what it brought; return whether there is.

        What gets stuck behind the others was before them.
        """
        for _ in range(REPAIRS):
            stuck = 0
            try:
                async with self.savepoint():
                    stuck = await self._one_by_one(lines, at)
                    if stuck < 0:
                        return True
                    raise Differs
            except Differs:
                if stuck == 0:
                    return False
                lines = [lines[stuck], *lines[:stuck], *lines[stuck + 1 :]]
        return False

    async def _one_by_one(self, lines: Sequence[Sequence[Heard]], at: datetime) -> int:
        """Handle messages one by one while they bring what they brought; return which line is stuck, -1 for none."""
        done, moved = [0] * len(lines), True
        while moved:
            moved = False
            for number, line in enumerate(lines):
                while done[number] < len(line) and await self._comes_again(line[done[number]], at):
                    done[number] += 1
                    moved = True
        return next((number for number, line in enumerate(lines) if done[number] < len(line)), -1)

    async def _comes_again(self, message: Heard, at: datetime) -> bool:
        try:
            await self._together([message], at)
        except Differs:
            return False
        return True

    def _is_known(self, message: Heard, at: datetime) -> bool:
        """Return whether the database may know what came of a message, so that it need not come again."""
        if not isinstance(message.arrival, Undecodable) and type(message.arrival.body) in self.service.by_row:
            return at <= self.report.known_until + NEAR
        return message.id not in self._frames[-1].fresh

    async def _due(self, step: Step) -> None:
        """Have something happen again whose cause is on no topic."""
        told = [each for each in step.told if not issubclass(MESSAGES.get(each.type, Message), Marker)]
        if not told or step.at <= self.report.known_until - NEAR:
            return
        async with self.begin() as tx:
            if await self.particular.state(tx, told):
                return
        async for record, source in self._causes(told, step.at):
            try:
                async with self.savepoint():
                    self._now(step.at, ())
                    await self.shell.process([record], source)
                    self._require(told, False)
            except Differs:
                continue
            self._frames[-1].due += 1
            return
        if step.at > self.report.known_until:
            named = ", ".join(f"{each.type} of {each.key}" for each in told[:3])
            raise Differs(f"{named}, published at {step.at:%H:%M:%S}: what caused it ({told[0].cause}) is not known")

    async def _causes(self, told: Sequence[Told], at: datetime) -> AsyncIterator[tuple[StoredRecord, Source]]:
        """Find what may have brought some events."""
        cause = told[0].cause
        async with self.begin() as tx:
            timers = (await tx.execute(sa.select(TIMER).where(TIMER.c.due_at <= at))).all()
            parked = [stored_record(row) for row in await tx.execute(sa.select(PARKED))]
            rows = await self._rows_due(tx, told)
        for row in timers:
            if str(timer_message_id(row.id, row.due_at)) == cause:
                fields = (row.type, row.key, row.value, row.correlation_id, row.actor, row.traceparent)
                yield timer_record(row.id, row.due_at, *fields), FromTimers()
        for record in rows:
            if dict(record.headers)["ce_id"] == cause.encode():
                yield record, FromAlarms()
        for record in parked:
            if (arrival := self.shell.read(record)) is not None and cause in (str(arrival.id), _sent(arrival)):
                yield record, FromParked()
        if id_of(cause.encode()) is not None:
            for message in self.particular.interventions(told):
                yield _of_operator(message, told[0]), FromAlarms()

    async def _rows_due(self, tx: PostgresTransaction, told: Sequence[Told]) -> list[StoredRecord]:
        ids = {id_ for each in told for value in _values(each) if (id_ := id_of(value.encode())) is not None}
        found = [
            alarm.record(row) for alarm in self.service.alarms for row in (await tx.fetch(alarm.mapped, ids)).loaded()
        ]
        return [record for record in found if record is not None]

    async def _quiet(self, step: Step, handled: "_Handled") -> None:
        """Handle messages of which there is no event, unless they turn out to have consequences."""
        heard = [message for message in step.heard if not handled.passes(message)]
        try:
            await self._silently(heard, step.at)
        except Undecided:
            for message in heard:
                if not handled.passes(message):
                    await self._one_quietly(message, step.at, handled)

    async def _one_quietly(self, message: Heard, at: datetime, handled: "_Handled") -> None:
        try:
            await self._silently([message], at)
        except Undecided:
            if handled.puts_off(message):
                return
            # Its events were on their way together with those of what is behind it.
            await self._together([message], at)
            self._frames[-1].again += 1

    async def _silently(self, heard: Sequence[Heard], at: datetime) -> None:
        self._speaks = False
        try:
            async with self.savepoint():
                self._now(at, heard)
                await self.shell.process([each.arrival.record for each in heard], FromKafka())
                self._frames[-1].again += len(self._frames[-1].fresh)
        finally:
            self._speaks = True

    async def _decide(self, late: Sequence[Heard]) -> None:
        """Decide now what was never told."""
        async with self.savepoint():
            self._now(datetime.now(UTC), ())
            await self.shell.process([each.arrival.record for each in late], FromKafka())
        self.report.decided += len(late)

    async def _conclude(self) -> None:
        """Compare the newest records of the compacted topics, and take out of the outbox what was published."""
        newest: dict[tuple[str, str], Told] = {}
        for told in self._told.values():
            if told.is_compacted:
                place = told.topic, told.key
                newest[place] = max(newest.get(place, told), told, key=attrgetter("offset"))
        for place, (out, at) in self._frames[0].newest.items():
            last = newest.get(place)
            if last is None or (last.id != str(out.id) and last.at < at):
                async with self.savepoint():
                    await Rehearsal(self._connection, self._pipeline, self).publish([out], at)
                self._frames[0].lost += 1
            elif last.id != str(out.id) and (last.topic, last.id) not in self._frames[0].said:
                self.report.problems.append(f"{last.type} of {last.key} was published with what did not happen again")
        async with self.begin() as tx:
            stale = [row.seq for row in await tx.execute(sa.select(OUTBOX)) if self._is_published(row, newest)]
            await tx.execute(sa.delete(OUTBOX).where(OUTBOX.c.seq.in_(stale)))
        self.report.settled, self.report.lost = len(stale), self._frames[0].lost

    def _is_published(self, row: Any, newest: Mapping[tuple[str, str], Told]) -> bool:
        """Return whether a row of the outbox was published, or would follow a newer record of its key."""
        topic = MESSAGES[row.type].topic_of(self.service.principal)
        last = newest.get((topic.name, row.key))
        return (topic.name, str(row.id)) in self._told or (last is not None and last.at >= row.made_at)

    # --- the judge ---

    def weigh(self, messages: Sequence[Outgoing]) -> list[Outgoing]:
        """Return what has to be published. Raises `Differs` if a message is not what was published under its id."""
        frame, lost = self._frames[-1], []
        for out in messages:
            topic = MESSAGES[out.type].topic_of(self.service.principal)
            known = self._told.get((topic.name, str(out.id)))
            if known is not None and not self.particular.is_same(out, known):
                came = "with other content" if out.type == known.type else f"as {out.type}"
                raise Differs(f"{known.type} of {known.key}, published at {known.at:%H:%M:%S}, came {came}")
            frame.said.add((topic.name, str(out.id)))
            if topic.compacted:
                frame.newest[topic.name, out.key] = out, self._moment.now
            elif known is None:
                if not self._speaks:
                    raise Undecided
                if self._moment.now < self._last_told - NEAR:  # what was published later went through the same outbox
                    raise Differs(f"{out.type} of {out.key} at {self._moment.now:%H:%M:%S}: it was never published")
                lost.append(out)
        frame.lost += len(lost)
        return lost

    def note_fresh(self, ids: Iterable[UUID]) -> None:
        """Note which messages the database did not know."""
        self._frames[-1].fresh.update(ids)

    def take(self, limit: int) -> list[Any]:
        """Return the keys of rows that the step's messages were given, at most so many."""
        taken, self._taken = self._taken[:limit], self._taken[limit:]
        return taken

    def _require(self, told: Iterable[Told], is_known: bool) -> None:
        missing = [t for t in told if not t.is_compacted and (t.topic, t.id) not in self._frames[-1].said]
        if missing and not is_known:
            first = missing[0]
            raise Differs(f"{first.type} of {first.key}, published at {first.at:%H:%M:%S}, did not come again")

    def _now(self, at: datetime, heard: Sequence[Heard]) -> None:
        tokens = iter(self.particular.tokens(heard))
        self._moment = Moment(at, lambda size: next(tokens, None) or token_bytes(size))
        self._taken = list(self.particular.taken(heard))

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Take back what an exception leaves behind: in the database, and of what was noted."""
        self._pipeline.tell(_SAVE, {})
        self._frames.append(_Frame())
        try:
            with translated():
                yield
                await self._pipeline.flush()
        except BaseException:
            self._frames.pop()
            await self._pipeline.discard()
            self._pipeline.tell(_BACK, {})
            self._pipeline.tell(_RELEASE, {})
            await self._pipeline.flush()
            raise
        self._pipeline.tell(_RELEASE, {})
        done = self._frames.pop()
        self._frames[-1].take(done)


class Rehearsal(PostgresTransaction):
    """A transaction of the replay: what is sent is weighed, and what was taken then is taken again."""

    def __init__(self, connection: AsyncConnection, pipeline: Pipeline, replay: Replay) -> None:
        super().__init__(connection, pipeline)
        self._replay = replay

    def claim_inbox(
        self, ids: Sequence[UUID], now: datetime, looked_up: Sequence[UUID] = ()
    ) -> Awaitable[Collection[UUID]]:
        """Record message ids, and note which were new."""
        claim = super().claim_inbox(ids, now, looked_up)

        async def noted() -> Collection[UUID]:
            fresh = await claim
            self._replay.note_fresh(fresh)
            return fresh

        return Later(noted)

    async def send(self, messages: Sequence[Outgoing], now: datetime) -> None:
        """Append to the outbox what was never published."""
        await self.publish(self._replay.weigh(messages), now)

    async def publish(self, messages: Sequence[Outgoing], now: datetime) -> None:
        """Append messages to the outbox."""
        await super().send(messages, now)

    async def take(self, mapped: Mapped[K, R], matching: Mapping[str, Any], limit: int) -> Rows[K, R]:
        """Load the rows that were taken then, and for what is decided now others."""
        again = self._replay.take(limit)
        found = await self.fetch(mapped, again)
        rows = [row for key in again if (row := found.find(key)) is not None]
        if len(rows) < limit:
            kept = self._replay.particular.reserved()
            others = (await super().take(mapped, matching, limit + len(kept))).loaded()
            rows += [row for row in others if mapped.key_of(row) not in kept][: limit - len(rows)]
        return Rows(mapped, {mapped.key_of(row): row for row in rows})


class _Handled:
    """How far the service got with each partition."""

    def __init__(self, told: Mapping[Place, int], committed: Mapping[Place, int], lost_at: datetime) -> None:
        self._told = told
        self._committed = committed
        self._lost_at = lost_at
        self.late: list[Heard] = []
        self._late_ids: set[UUID] = set()
        self._late_keys: set[tuple[str, bytes | None]] = set()
        self._left: set[Place] = set()
        self.left = 0

    def copy(self) -> "_Handled":
        """Return it as it is now."""
        made = copy(self)
        made.become(self)
        return made

    def become(self, other: "_Handled") -> None:
        """Be as another was."""
        self.late, self.left = list(other.late), other.left
        self._late_ids, self._late_keys, self._left = set(other._late_ids), set(other._late_keys), set(other._left)

    def passes(self, message: Heard) -> bool:
        """Say whether a message is not to be handled now: it waits for one before it, or for the service."""
        record = message.arrival.record
        if message.id in self._late_ids:
            return True
        if (record.topic, record.key) in self._late_keys:
            return self.puts_off(message)
        is_new = record.offset >= self._committed.get(message.place, 0) and message.received_at > self._lost_at + NEAR
        return (message.place in self._left or is_new) and self.puts_off(message)

    def puts_off(self, message: Heard) -> bool:
        """Leave a message for later, or to the service; return False if it has to be handled now."""
        record = message.arrival.record
        if record.offset < self._told.get(message.place, -1):
            return False
        if record.offset < self._committed.get(message.place, 0):
            self.late.append(message)
            self._late_ids.add(message.id)
            self._late_keys.add((record.topic, record.key))
        else:
            self.left += 1
            self._left.add(message.place)
        return True


def _lines(heard: Iterable[Heard]) -> list[list[Heard]]:
    lines: dict[Place, list[Heard]] = {}
    for each in heard:
        lines.setdefault(each.place, []).append(each)
    return list(lines.values())


def _sent(arrival: Any) -> str | None:
    return getattr(arrival, "command_id", None) or getattr(arrival, "sent_id", None)


def _values(told: Told) -> Iterable[str]:
    try:
        fields = json.loads(told.value or b"{}")
    except ValueError:
        return ()
    return [told.key, *(value for value in fields.values() if isinstance(value, str))]


def _of_operator(message: Message, told: Told) -> StoredRecord:
    """Return the record that an operator's message was, as the events that followed from it show."""
    headers: list[tuple[str, bytes | None]] = [
        ("ce_type", message.TYPE.encode()),
        ("ce_id", told.cause.encode()),
        ("ce_correlationid", told.correlation_id.encode()),
    ]
    if told.actor is not None:
        headers.append(("ce_actor", str(told.actor).encode()))
    return StoredRecord(UUID(told.cause), None, TIMERS, 0, 0, message.key().encode(), message.to_json(), headers)
