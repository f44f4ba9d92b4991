"""The path of a batch: decode, claim, load once, decide in memory, save once, commit.

Everything that a handler must not do happens here, and only here. The same code runs on PostgreSQL and, in the
simulation, on a dictionary.
"""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import token_bytes
from typing import Any, Protocol, TypeAlias
from uuid import UUID

import structlog

from popfax_contracts.message import Message
from popfax_contracts.topics import Principal
from services.chassis import metrics
from services.chassis.database import Cause, Conflict, Database, Key, Later, Outage, Parked, Ready, Transaction, Why
from services.chassis.messages import (
    BROKEN_PROCESS,
    Incoming,
    Outgoing,
    Record,
    SetTimer,
    StoredRecord,
    Undecodable,
    decode,
    outgoing,
)
from services.chassis.observed import Observed, count_conflict
from services.chassis.outages import Outages
from services.chassis.rows import Changes
from services.chassis.service import Moment, Service, State
from services.chassis.tracing import tracing

log = structlog.get_logger(__name__)

Arrival: TypeAlias = Incoming[Message] | Undecodable

MAX_VALUE_BYTES = 900_000
"""The largest value that may be published: topics accept 1 MiB per record, including the envelope."""

ATTEMPTS = 3
"""How often a message that fails on its own is tried before it is parked."""

CONFLICT_ATTEMPTS = 10
"""How often a batch that lost a race is retried at once. After that it waits, as in any outage."""

PARKED_AT_ONCE = 10
PARK_PAUSE = timedelta(minutes=1)
"""How many messages may be parked as failed while none succeeds, and after which pause as many again.

A broken deployment fails every message. It must not park a whole topic, and what only looks like one must not block
the service for good.
"""


class StillUndecodable(Exception):
    """A parked message was retried, and this version of the service can't read it either."""


class Clock(Protocol):
    """Time and randomness: the real ones, or a simulation's."""

    def moment(self) -> Moment:
        """Return the present moment."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class RealClock:
    """The system's clock and randomness."""

    def moment(self) -> Moment:
        """Return the present moment, in UTC."""
        return Moment(datetime.now(UTC), token_bytes)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class Source(Protocol):
    """The source of a batch, which decides how messages are claimed and what happens to one that fails."""

    name: str
    """The name of its loop in reports of outages."""
    parks: bool
    """Whether its messages can be parked, and wait behind parked ones."""

    def claim(
        self, tx: Transaction, arrivals: Sequence[Arrival], now: datetime, by_row: Collection[type[Message]]
    ) -> Awaitable[Collection[UUID]]:
        """Claim arrivals; return the ids of those to handle. The claim is final once the transaction commits.

        A message of one of the types `by_row` is told from a repetition by its handler, by a row of the business.
        """


class FromKafka:
    """Records from Kafka: the inbox tells new ones from duplicates."""

    name = "messages"
    parks = True

    def claim(
        self, tx: Transaction, arrivals: Sequence[Arrival], now: datetime, by_row: Collection[type[Message]]
    ) -> Awaitable[Collection[UUID]]:
        """Record the ids; known ones are duplicates. What is claimed by a row is known only if it was parked.

        A copy that can't be read of a message that was handled is a duplicate, too: its sender has that one's answer.
        """
        recorded: list[UUID] = []
        looked_up: list[UUID] = []
        copies: dict[UUID, UUID] = {}
        for arrival in arrivals:
            if not isinstance(arrival, Undecodable):
                (looked_up if type(arrival.body) in by_row else recorded).append(arrival.id)
                continue
            recorded.append(arrival.id)
            if arrival.copy_of is not None:
                copies[arrival.id] = arrival.copy_of
        if not copies:
            return tx.claim_inbox(recorded, now, looked_up)
        claim = tx.claim_inbox(recorded, now, [*looked_up, *copies.values()])

        async def without_copies() -> Collection[UUID]:
            fresh, here = set(await claim), {*recorded, *looked_up}
            return fresh & here - {id_ for id_, of in copies.items() if of in here or of not in fresh}

        return Later(without_copies)


class FromTimers:
    """Timers that are due: the transaction that deletes one fires it."""

    name = "timers"
    parks = True

    async def claim(
        self, tx: Transaction, arrivals: Sequence[Arrival], now: datetime, by_row: Collection[type[Message]]
    ) -> Collection[UUID]:
        """Delete the timers."""
        stored = {record.row_id: (record.due_at, arrival.id) for arrival, record in _stored(arrivals)}
        claimed = await tx.claim_timers([(row, due) for row, (due, _) in stored.items() if due is not None])
        return {stored[row][1] for row in claimed}


class FromAlarms:
    """Rows that are due: each handler locks its row, and looks whether it still is."""

    name = "timers"
    parks = True

    async def claim(
        self, tx: Transaction, arrivals: Sequence[Arrival], now: datetime, by_row: Collection[type[Message]]
    ) -> Collection[UUID]:
        """Claim nothing: the row decides."""
        return {arrival.id for arrival in arrivals}


class FromParked:
    """Parked messages that an operator wants retried: their ids have been in the inbox since they were parked."""

    name = "retries"
    parks = False

    async def claim(
        self, tx: Transaction, arrivals: Sequence[Arrival], now: datetime, by_row: Collection[type[Message]]
    ) -> Collection[UUID]:
        """Delete the parked messages."""
        ids = {record.row_id: arrival.id for arrival, record in _stored(arrivals)}
        claimed = await tx.claim_parked(list(ids))
        known = {row for row in claimed if ids[row] == row}
        # An undecodable record was recorded under its position. Now that it can be decoded it has an id, which a
        # readable record may have brought meanwhile, and that one may be among these.
        new = {ids[row] for row in claimed} - known
        return known | set(await tx.claim_inbox(list(new), now)) if new else known


def _fresh(arrivals: Sequence[Arrival], claimed: Collection[UUID]) -> Sequence[Arrival]:
    """Return the arrivals that were claimed, and of each id the first, as if they came in two batches."""
    if len(claimed) == len(arrivals):  # almost always: none was known, and none is there twice
        return arrivals
    first: dict[UUID, Arrival] = {}
    for arrival in arrivals:
        if arrival.id in claimed:
            first.setdefault(arrival.id, arrival)
    return list(first.values())


def _stored(arrivals: Iterable[Arrival]) -> Iterable[tuple[Arrival, StoredRecord]]:
    for arrival in arrivals:
        if isinstance(arrival.record, StoredRecord):
            yield arrival, arrival.record


@dataclass(slots=True)
class _Decided:
    messages: list[Outgoing]
    set_timers: dict[UUID, tuple[SetTimer, Incoming[Message]]]
    clear_timers: list[UUID]


@contextmanager
def _of_the_process() -> Iterator[None]:
    """Raise `Outage` for errors of the process, which no message is to blame for."""
    try:
        yield
    except BROKEN_PROCESS as error:
        raise Outage(type(error).__name__, Cause.PROCESS) from error


class _ParkingLimit:
    """Limits how many messages are parked while none succeeds."""

    def __init__(self) -> None:
        self._parked = 0
        self._since = datetime.min.replace(tzinfo=UTC)

    def release(self) -> None:
        """Note a success: whatever fails now is to blame itself."""
        self._parked = 0

    def allows(self, now: datetime) -> bool:
        """Say whether another message may be parked."""
        return self._parked < PARKED_AT_ONCE or now - self._since >= PARK_PAUSE

    def count(self, now: datetime) -> None:
        """Count a parked message."""
        if self._parked % PARKED_AT_ONCE == 0:
            self._parked, self._since = 0, now
        self._parked += 1


class Shell:
    """Takes batches of one service through its database."""

    def __init__(
        self,
        service: Service,
        database: Database,
        clock: Clock | None = None,
        committed: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """`committed` is called after each commit, with True if it left something to relay."""
        self.service = service
        self.database = database
        self.clock = clock or RealClock()
        self.outages = Outages()
        self._committed = committed
        self._limit = _ParkingLimit()
        self._observed = Observed(service)
        self._types = {model.TYPE.encode(): model for model in service.handlers}
        others = [each.value.encode() for each in Principal if each is not service.principal]
        self._to_others = {(model.TYPE.encode(), requester) for model in service.for_requester for requester in others}

    async def process(self, records: Sequence[Record], source: Source) -> None:
        """Handle a batch completely: in the end each message has had its effect, was a duplicate, or is parked.

        Raises `Outage` if it can't be handled at the moment: retry the same batch, of which the handled messages will
        be recognised. A parked message that fails again stays parked, and so do those behind it.
        """
        with self.outages.watching(source.name), _of_the_process():
            arrivals = [
                arrival
                for record in records
                if (arrival := decode(record, self._types, self.service.command_topics, self._to_others)) is not None
            ]
            held: set[Key] = set()
            await self._process(arrivals, source, held)
            if held and source.parks:
                raise Outage("message after message fails", Cause.BUG)

    def read(self, record: Record) -> Arrival | None:
        """Decode one record, as `process` does (which is spared the call); return None if it is nobody's here."""
        return decode(record, self._types, self.service.command_topics, self._to_others)

    async def _process(self, arrivals: Sequence[Arrival], source: Source, held: set[Key]) -> None:
        """Handle what can be handled. What fails on its own is parked or, with its key, `held` for another attempt."""
        if held:
            arrivals = [arrival for arrival in arrivals if _key(arrival) not in held]
        if not arrivals:
            return
        try:
            await self._with_retries(arrivals, source, 1 if held else ATTEMPTS)
        except (Outage, *BROKEN_PROCESS):
            raise
        except Exception as error:
            if len(arrivals) > 1:
                # Some message fails on its own. Halving finds it in a few steps and keeps the order.
                log.warning("batch_failed", size=len(arrivals), error=describe(error))
                middle = len(arrivals) // 2
                await self._process(arrivals[:middle], source, held)
                await self._process(arrivals[middle:], source, held)
                return
            self._observed.failed(arrivals[0])
            if not source.parks:
                await self._note_retry(arrivals[0], error)
                held.add(_key(arrivals[0]))
            elif self._limit.allows(self.clock.moment().now):
                await self._park_failed(arrivals[0], error, source)
            else:
                held.add(_key(arrivals[0]))

    async def _with_retries(self, arrivals: Sequence[Arrival], source: Source, attempts: int) -> None:
        """Try once; retry at once after a lost race; retry with pauses if a single message fails."""
        conflicts, failures = 0, 0
        while True:
            try:
                return await self._commit(arrivals, source)
            except (Outage, *BROKEN_PROCESS):
                raise
            except Conflict as conflict:
                conflicts += 1
                count_conflict(conflict)
                if conflicts == CONFLICT_ATTEMPTS:
                    if conflict.may_be_own:
                        raise
                    raise Outage(str(conflict), Cause.CONTENDED) from conflict
                await self.clock.sleep(0.01 * conflicts)
            except Exception:
                failures += 1
                if len(arrivals) > 1 or failures == attempts or not source.parks:
                    raise
                await self.clock.sleep(0.2 * failures)

    async def _commit(self, arrivals: Sequence[Arrival], source: Source) -> None:
        """Handle a batch in one transaction."""
        moment = self.clock.moment()
        with tracing().batch(source.name) as traced:
            async with self.database.begin() as tx:
                claim = source.claim(tx, arrivals, moment.now, self.service.by_row)
                asked = _blocked(tx, arrivals, source)
                claimed, blocked = await claim, await asked
                fresh = _fresh(arrivals, claimed)
                readable, parked = self._divert(fresh, blocked, source)
                await tx.park(parked, moment.now)
                decided = _Decided([], {}, [])
                changes: Sequence[Changes] = ()
                refusals = self._refusals(fresh)
                if decidable := [*readable, *refusals]:
                    traced.handles(decidable)
                    state = await self.service.state(tx, decidable)
                    self._decide(state, decidable, moment, decided)
                    traced.sends(decided.messages)
                    changes = state.changes()
                await tx.save(changes)
                await tx.send(decided.messages, moment.now)
                await tx.clear_timers(decided.clear_timers)
                await tx.set_timers(list(decided.set_timers.values()))
        self._committed(bool(decided.messages))
        if readable:
            self._limit.release()
        self._observed.batch(source.name, arrivals, fresh, readable)
        self._observed.effects(decided.messages, changes, moment)
        answered = {refusal.id for refusal in refusals}
        for aside in parked:
            self._tell_parked(aside, unanswered=aside.id not in answered)
        _tell_handled(readable)

    def _divert(
        self, fresh: Sequence[Arrival], blocked: Collection[Key], source: Source
    ) -> tuple[list[Incoming[Message]], list[Parked]]:
        """Separate what can be handled from what must be parked: undecodable, or behind a failed message on its key."""
        readable: list[Incoming[Message]] = []
        parked: list[Parked] = []
        for arrival in fresh:
            if isinstance(arrival, Undecodable):
                detail = "; ".join(arrival.errors)
                if not source.parks:
                    raise StillUndecodable(f"{arrival.code}: {detail}")
                parked.append(Parked(arrival.id, arrival.record, Why.UNDECODABLE, arrival.code, detail))
            elif blocked and (arrival.record.topic, arrival.record.key) in blocked:
                parked.append(Parked(arrival.id, arrival.record, Why.BEHIND, "behind", "a message before it is parked"))
            else:
                readable.append(arrival)
        return readable, parked

    def _decide(self, state: State, readable: Sequence[Incoming[Message]], moment: Moment, decided: _Decided) -> None:
        """Call each message's handler in order, and collect what they return.

        Compacted topics keep only the newest message of a key, so a batch sends no other.
        """
        newest: dict[tuple[str, Any], tuple[Message, int, Incoming[Message]]] = {}
        for message in readable:
            handler = self.service.handler(message)
            for ordinal, effect in enumerate(handler.handle(state, message, moment)):
                if isinstance(effect, Message):
                    topic = effect.topic_of(self.service.principal)
                    if topic.compacted:
                        newest[topic.name, getattr(effect, effect.KEY)] = effect, ordinal, message
                    else:
                        decided.messages.append(outgoing(effect, ordinal, message))
                elif isinstance(effect, SetTimer):
                    decided.set_timers[effect.id] = effect, message
                else:
                    decided.set_timers.pop(effect.id, None)  # the last one for a timer counts, within a batch as well
                    decided.clear_timers.append(effect.id)
        decided.messages += [outgoing(*each) for each in newest.values()]
        for out in decided.messages:
            if len(out.value) > MAX_VALUE_BYTES:
                raise ValueError(f"{out.type} has {len(out.value)} bytes; {MAX_VALUE_BYTES} can be published")

    def _refusals(self, arrivals: Sequence[Arrival]) -> list[Incoming[Message]]:
        """Return the answers to undecodable commands whose sender can recognise them."""
        own = self.service.command_topics
        unreadable = (a for a in arrivals if isinstance(a, Undecodable) and a.record.topic in own)
        return [self._refusal(a) for a in unreadable if a.command_id or a.correlation_id or a.key]

    def _refusal(self, arrival: Undecodable) -> Incoming[Message]:
        body = self.service.malformed(
            parked_id=arrival.id,
            command_id=arrival.command_id,
            command_key=arrival.key,
            command_type=arrival.command_type or "",
            code=arrival.code,
            errors=arrival.errors,
        )
        correlation_id = arrival.correlation_id or arrival.command_id or str(arrival.id)
        return Incoming(arrival.id, body, arrival.record, correlation_id, arrival.actor, sent_id=arrival.command_id)

    async def _park_failed(self, arrival: Arrival, error: Exception, source: Source) -> None:
        """Park a message that failed on its own, together with whatever follows on its key."""
        parked = Parked(arrival.id, arrival.record, Why.FAILED, describe(error), where(error))
        moment = self.clock.moment()
        async with self.database.begin() as tx:
            await tx.require_known_schema()
            claimed = await source.claim(tx, [arrival], moment.now, self.service.by_row)
            if claimed:
                await tx.park([parked], moment.now)
        if claimed:
            self._limit.count(moment.now)
            self._tell_parked(parked)

    async def _note_retry(self, arrival: Arrival, error: Exception) -> None:
        """Record that a parked message failed again."""
        assert isinstance(arrival.record, StoredRecord)
        code = describe(error)
        await self.database.retry_failed(arrival.record.row_id, code, where(error))
        log.warning("retry_failed", message_id=str(arrival.record.row_id), code=code)

    def _tell_parked(self, parked: Parked, *, unanswered: bool = True) -> None:
        """Count and log a parked message after the commit."""
        metrics.PARKED.labels(parked.why).inc()
        if unanswered:
            self._observed.parked(parked.record.topic)
        log.log(
            _LEVELS[parked.why],
            "message_parked",
            message_id=str(parked.id),
            topic=parked.record.topic,
            why=parked.why,
            code=parked.code,
            detail=parked.detail,
        )


def _blocked(tx: Transaction, arrivals: Sequence[Arrival], source: Source) -> Awaitable[Collection[Key]]:
    """Ask which of their keys wait behind a parked message."""
    if not source.parks:
        return Ready(())
    return tx.blocked((a.record.topic, a.record.key) for a in arrivals if a.record.key is not None)


def _key(arrival: Arrival) -> Key:
    """Return the key within which order is kept. Every decoded message has one."""
    return arrival.record.topic, arrival.record.key or b""


_LEVELS = {
    Why.FAILED: logging.ERROR,
    Why.UNDECODABLE: logging.WARNING,
    Why.BEHIND: logging.DEBUG,  # a line may become as long as the topic; the message it is behind was logged
}


def _tell_handled(messages: Sequence[Incoming[Message]]) -> None:
    """Log handled messages, if anybody wants to know: one line per message costs more than handling it."""
    if log.is_enabled_for(logging.DEBUG):
        for message in messages:
            log.debug(
                "message_handled",
                type=message.body.TYPE,
                message_id=str(message.id),
                correlation_id=message.correlation_id,
                topic=message.record.topic,
            )


def describe(error: BaseException) -> str:
    """Name an error without its text, which may quote personal data: its class, and the database's own code if any."""
    if isinstance(error, Conflict) and error.__cause__ is not None:
        error = error.__cause__
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None)
    constraint = getattr(getattr(original, "diag", None), "constraint_name", None)
    return " ".join(filter(None, (type(original).__name__, state, constraint)))


def where(error: BaseException) -> str:
    """Return the innermost frames of an error's traceback, innermost last, without values."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return " > ".join(
        f"{frame.filename.rsplit('/', 2)[-2]}/{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in frames
    )
