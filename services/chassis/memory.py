"""A service's database as a dictionary, for the simulation and unit tests, which need thousands of cheap runs.

It keeps the same promises as `postgres` (all or nothing, the same answers to the same questions) and passes the same
tests. Only one task uses it at a time, so it locks nothing.
"""

from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from popfax_contracts.message import Message
from services.chassis.alarms import Alarm
from services.chassis.database import Among, Conflict, Key, Parked, Ready, Why
from services.chassis.messages import TIMERS, Incoming, Outgoing, SetTimer, StoredRecord, timer_record
from services.chassis.rows import Appended, AppendOnly, Changes, Mapped, Rows

K = TypeVar("K")
R = TypeVar("R")


@dataclass(slots=True)
class _ParkedRow:
    parked: Parked
    attempts: int = 1
    retry_requested: bool = False

    @property
    def key(self) -> Key:
        return self.parked.record.topic, self.parked.record.key or b""

    @property
    def is_in_line(self) -> bool:
        """Whether it blocks its key."""
        return self.parked.why is not Why.UNDECODABLE and self.parked.record.key is not None


@dataclass(slots=True)
class Contents:
    """All committed data."""

    tables: dict[str, dict[Any, Any]] = field(default_factory=dict)
    appended: dict[str, list[Any]] = field(default_factory=dict)
    inbox: set[UUID] = field(default_factory=set)
    outbox: list[Outgoing] = field(default_factory=list)
    timers: dict[UUID, tuple[SetTimer, Incoming[Message]]] = field(default_factory=dict)
    parked: dict[UUID, _ParkedRow] = field(default_factory=dict)
    blocked: set[Key] = field(default_factory=set)
    retrying: set[Key] = field(default_factory=set)
    """The blocked keys whose retry was requested."""

    def copy(self) -> "Contents":
        """Copy down to the rows, which are frozen."""
        return Contents(
            {name: dict(rows) for name, rows in self.tables.items()},
            {name: list(rows) for name, rows in self.appended.items()},
            set(self.inbox),
            list(self.outbox),
            dict(self.timers),
            dict(self.parked),
            set(self.blocked),
            set(self.retrying),
        )


class MemoryDatabase:
    """A database that lives as long as this object does."""

    def __init__(self) -> None:
        self.contents = Contents()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator["MemoryTransaction"]:
        """Open a transaction, whose effects are dropped on any exception."""
        tx = MemoryTransaction(self.contents.copy())
        yield tx
        self.contents = tx.contents

    async def due_timers(self, now: datetime, limit: int) -> Sequence[StoredRecord]:
        """Return timers that are due, oldest first."""
        due = [(t.due_at, t.id, t, c) for t, c in self.contents.timers.values() if t.due_at <= now]
        return [_timer_record(timer, cause) for _, _, timer, cause in sorted(due, key=lambda d: d[:2])[:limit]]

    async def next_timer(self) -> datetime | None:
        """Return the moment at which the next timer is due, or was; None if none is set."""
        return min((timer.due_at for timer, _ in self.contents.timers.values()), default=None)

    async def due_alarms(self, alarms: Sequence[Alarm[Any]], now: datetime, limit: int) -> Sequence[StoredRecord]:
        """Return what is due of rows, the oldest of each alarm first."""
        due: list[StoredRecord] = []
        for alarm in alarms:
            ahead = [(at, record) for at, record in self._ahead(alarm) if at <= now]
            due += [record for _, record in sorted(ahead, key=lambda each: each[0])[: min(limit, alarm.at_once)]]
        return due

    async def next_alarm(self, alarms: Sequence[Alarm[Any]]) -> datetime | None:
        """Return the moment at which the next row is due, or was; None if no row waits."""
        return min((at for alarm in alarms for at, _ in self._ahead(alarm)), default=None)

    def _ahead(self, alarm: Alarm[Any]) -> list[tuple[datetime, StoredRecord]]:
        rows = self.contents.tables.get(alarm.mapped.table.name, {}).values()
        waiting = [record for row in rows if (record := alarm.record(row)) is not None]
        blocked = {key for topic, key in self.contents.blocked if topic == TIMERS}
        return [(record.due_at, record) for record in waiting if record.due_at and record.key not in blocked]

    async def request_retry(self, ids: Collection[UUID]) -> None:
        """Ask for parked messages to be handled again."""
        for row in map(self.contents.parked.__getitem__, ids):
            if row.is_in_line:
                self.contents.retrying.add(row.key)
            else:
                row.retry_requested = True

    async def requested_retries(self, limit: int) -> Sequence[StoredRecord]:
        """Return the next requested retries, the oldest of each key first."""
        wanted = [
            row
            for row in self.contents.parked.values()
            if (row.key in self.contents.retrying if row.is_in_line else row.retry_requested)
        ]
        return [_parked_record(row.parked) for row in wanted[:limit]]

    async def retry_failed(self, id_: UUID, code: str, detail: str) -> None:
        """Note that a parked message failed again."""
        row = self.contents.parked[id_]
        failed = row.parked
        failed.code, failed.detail = code, detail
        row.attempts += 1
        row.retry_requested = False
        if row.is_in_line:
            failed.why = Why.FAILED
            self.contents.retrying.discard(row.key)


class MemoryTransaction:
    """One transaction on a dictionary; see `database.Transaction` for what each method means."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents

    def claim_inbox(
        self, ids: Sequence[UUID], now: datetime, looked_up: Sequence[UUID] = ()
    ) -> Awaitable[Collection[UUID]]:
        """Record message ids."""
        fresh = {*ids, *looked_up} - self.contents.inbox
        self.contents.inbox |= fresh & set(ids)
        return Ready(fresh)

    def claim_timers(self, timers: Sequence[tuple[UUID, datetime]]) -> Awaitable[Collection[UUID]]:
        """Remove timers."""
        known = self.contents.timers
        ours = {id_ for id_, due_at in timers if id_ in known and known[id_][0].due_at == due_at}
        for id_ in ours:
            del known[id_]
        return Ready(ours)

    async def claim_parked(self, ids: Sequence[UUID]) -> Collection[UUID]:
        """Remove parked messages, and unblock keys on which nothing is left."""
        return set(self._take_parked(ids))

    async def drop_parked(self, ids: Sequence[UUID]) -> Collection[UUID]:
        """Remove messages, and request a retry of what was parked behind those that had failed."""
        taken = self._take_parked(ids)
        failed = {row.key for row in taken.values() if row.parked.why is Why.FAILED}
        self.contents.retrying |= failed & self.contents.blocked
        return set(taken)

    def _take_parked(self, ids: Sequence[UUID]) -> dict[UUID, _ParkedRow]:
        taken = {id_: self.contents.parked.pop(id_) for id_ in ids if id_ in self.contents.parked}
        left = {row.key for row in self.contents.parked.values() if row.is_in_line}
        gone = {row.key for row in taken.values()} - left
        self.contents.blocked -= gone
        self.contents.retrying -= gone
        return taken

    def blocked(self, keys: Iterable[Key]) -> Awaitable[Collection[Key]]:
        """Return the blocked ones."""
        return Ready(self.contents.blocked & set(keys))

    async def park(self, parked: Sequence[Parked], now: datetime) -> None:
        """Keep messages with their bytes and reasons."""
        self.contents.inbox.update(message.id for message in parked)
        for message in parked:
            self.contents.parked[message.id] = _ParkedRow(message)
            if message.why is Why.FAILED and message.record.key is not None:
                self.contents.blocked.add((message.record.topic, message.record.key))

    async def require_known_schema(self) -> None:
        """Do nothing: there is only one schema."""

    def fetch(
        self, mapped: Mapped[K, R], keys: Iterable[K], sets: Sequence[Among] = (), *, for_update: bool = True
    ) -> Awaitable[Rows[K, R]]:
        """Load rows by key and by sets."""
        rows = self.contents.tables.get(mapped.table.name, {})
        wanted = dict.fromkeys(keys) | dict.fromkeys(key for among in sets for key in self._among(mapped, among))
        return Ready(Rows(mapped, {key: rows.get(key) for key in wanted}))

    def keys(self, mapped: Mapped[K, R], among: Among) -> Awaitable[set[K]]:
        """Return the keys of the rows whose columns all have one of the given values."""
        return Ready(self._among(mapped, among))

    def _among(self, mapped: Mapped[K, R], among: Among) -> set[K]:
        rows = self.contents.tables.get(mapped.table.name, {})
        wanted = {name: set(values) for name, values in among.items()}
        return {key for key, row in rows.items() if all(getattr(row, name) in them for name, them in wanted.items())}

    async def take(self, mapped: Mapped[K, R], matching: Mapping[str, Any], limit: int) -> Rows[K, R]:
        """Load the first rows that match."""
        rows = self.contents.tables.get(mapped.table.name, {})
        found = {
            key: rows[key]
            for key in sorted(rows)
            if all(getattr(rows[key], name) == value for name, value in matching.items())
        }
        return Rows(mapped, dict(list(found.items())[:limit]))

    def append(self, mapped: AppendOnly[R]) -> Appended[R]:
        """Begin to append to a table."""
        return Appended(mapped)

    async def save(self, changes: Sequence[Changes]) -> None:
        """Write all changes. A duplicate key is a conflict, as in PostgreSQL."""
        for change in changes:
            name = change.mapped.table.name
            if isinstance(change, Appended):
                self.contents.appended.setdefault(name, []).extend(change.rows)
                continue
            rows = self.contents.tables.setdefault(name, {})
            inserted, updated, removed = change.written()
            for row in inserted:
                if change.mapped.key_of(row) in rows:
                    raise Conflict("23505")
                rows[change.mapped.key_of(row)] = row
            for row in updated:
                _keep_constants(change.mapped, rows[change.mapped.key_of(row)], row)
                rows[change.mapped.key_of(row)] = row
            for key in removed:
                del rows[key]

    async def send(self, messages: Sequence[Outgoing], now: datetime) -> None:
        """Append messages to the outbox."""
        self.contents.outbox.extend(messages)

    async def set_timers(self, timers: Sequence[tuple[SetTimer, Incoming[Message]]]) -> None:
        """Set or move timers."""
        for timer, cause in timers:
            self.contents.timers[timer.id] = (timer, cause)

    async def clear_timers(self, ids: Sequence[UUID]) -> None:
        """Forget timers."""
        for id_ in ids:
            self.contents.timers.pop(id_, None)


def _keep_constants(mapped: Mapped[Any, Any], before: Any, after: Any) -> None:
    """Refuse a change of a column declared constant, which PostgreSQL's update would silently ignore."""
    for name in set(mapped.names) - set(mapped.changing):
        if getattr(before, name) != getattr(after, name):
            raise TypeError(f"{mapped.table.name}.{name} is constant, and was changed")


def _timer_record(timer: SetTimer, cause: Incoming[Message]) -> StoredRecord:
    body = timer.message
    envelope = (cause.correlation_id, cause.actor, cause.traceparent)
    return timer_record(timer.id, timer.due_at, body.TYPE, body.key(), body.to_json(), *envelope)


def _parked_record(parked: Parked) -> StoredRecord:
    r = parked.record
    return StoredRecord(parked.id, None, r.topic, r.partition, r.offset, r.key, r.value, r.headers)
