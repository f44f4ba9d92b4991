"""PostgreSQL as the chassis uses it: sessions whose statements arrive one by one, transactions that meet.

As there, a statement of READ COMMITTED sees what was committed when it began; rows are locked one after the other, and
read again once a lock was waited for; an insertion waits for another of the same key that is not committed yet; numbers
of an outbox are taken when a row is written, and seen when it is committed. A connection may be lost at every trip,
also after the commit and before its answer. What is not here: SQL, unique indexes beside the keys, other isolation
levels. An insertion of a row that is there by now is refused at once, while PostgreSQL waits if another has updated
that row; it has lost its race in either case.
"""

import asyncio
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Hashable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import count
from math import inf
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import psycopg
import sqlalchemy as sa

from popfax_contracts.topics import Principal
from services.chassis import relay, wakeups
from services.chassis.alarms import Alarm
from services.chassis.database import Among, Cause, Conflict, Key, Outage, Parked, Ready, Why
from services.chassis.memory import Contents, MemoryDatabase, _keep_constants, _ParkedRow
from services.chassis.messages import Incoming, Outgoing, SetTimer, StoredRecord
from services.chassis.pipeline import Statement, statement
from services.chassis.rows import Appended, AppendOnly, Changes, Mapped, Rows, replace
from tests.simulation.hub import Hub, Process

K = TypeVar("K")
R = TypeVar("R")
T = TypeVar("T")

LOCK_TIMEOUT_S = 10.0
IN_TRANSACTION_S = 60.0
"""The server's `lock_timeout` and `idle_in_transaction_session_timeout`, as in `postgres._SETTINGS`."""


class Lost(psycopg.OperationalError):
    """The connection is lost, and with it the answer."""


class _Gone:
    """A row that the transaction has deleted."""


GONE: Final = _Gone()


@dataclass(slots=True)
class _Lock:
    holders: dict["ServerTransaction", bool] = field(default_factory=dict)
    """Who holds it, and whether shared."""
    waiting: deque[tuple["ServerTransaction", bool, "asyncio.Future[None]"]] = field(default_factory=deque)

    def is_free_for(self, who: "ServerTransaction", shared: bool) -> bool:
        return all(each is who or (shared and others) for each, others in self.holders.items())


class Locks:
    """The locks on rows. A cycle of transactions that wait for each other is a conflict for the one that closes it."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, _Lock] = {}
        self._awaited: dict[ServerTransaction, Hashable] = {}
        self.deadlocks: list[list[Hashable]] = []
        """What was waited for in each cycle."""

    async def take(self, who: "ServerTransaction", what: Hashable, *, shared: bool = False) -> None:
        """Lock a row, and wait for it if necessary. Raises `Conflict` for a deadlock, `Outage` after `lock_timeout`.

        As in PostgreSQL, who shares a row that is shared already does not queue behind those who wait to have it alone.
        """
        lock = self._locks.setdefault(what, _Lock())
        if lock.is_free_for(who, shared) and (shared or who in lock.holders or not lock.waiting):
            self._grant(lock, who, what, shared)
            return
        self._awaited[who] = what
        granted = asyncio.get_running_loop().create_future()
        lock.waiting.append((who, shared, granted))
        try:
            if cycle := self._cycle(who):
                self.deadlocks.append(cycle)
                raise Conflict("40P01")
            async with asyncio.timeout(LOCK_TIMEOUT_S):
                await granted
        except TimeoutError:
            raise Outage("55P03", Cause.LOCKED) from None
        finally:
            del self._awaited[who]
            lock.waiting = deque(each for each in lock.waiting if each[2] is not granted)

    def is_locked(self, who: "ServerTransaction", what: Hashable, *, shared: bool = False) -> bool:
        """Return whether another transaction has locked a row; if `shared`, not only shared."""
        lock = self._locks.get(what)
        return lock is not None and not lock.is_free_for(who, shared)

    def release(self, who: "ServerTransaction") -> None:
        """Release all that a transaction holds: whoever waited longest is next."""
        for what in who.locked:
            lock = self._locks[what]
            lock.holders.pop(who, None)
            while lock.waiting and lock.is_free_for(*lock.waiting[0][:2]):
                next_, shared, granted = lock.waiting.popleft()
                if not granted.done():
                    self._grant(lock, next_, what, shared)
                    granted.set_result(None)
            if not lock.holders and not lock.waiting:
                del self._locks[what]
        who.locked.clear()

    @staticmethod
    def _grant(lock: _Lock, who: "ServerTransaction", what: Hashable, shared: bool) -> None:
        lock.holders[who] = shared and lock.holders.get(who, True)
        who.locked[what] = None

    def _cycle(self, who: "ServerTransaction") -> list[Hashable]:
        """Return what is waited for in the cycle that a transaction closes; nothing if there is none."""
        ways: list[tuple[ServerTransaction, list[Hashable]]] = [(who, [])]
        seen: set[ServerTransaction] = set()
        while ways:
            each, way = ways.pop()
            if (what := self._awaited.get(each)) is None:
                continue
            for holder in self._locks[what].holders:
                if holder is who and each is not who:
                    return [*way, what]
                if holder not in seen and holder is not each:
                    seen.add(holder)
                    ways.append((holder, [*way, what]))
        return []


class ServerTransaction:
    """A transaction, as the server knows it: what it has written and nobody else sees yet."""

    def __init__(self, server: "Server", name: str) -> None:
        self.server = server
        self.name = name
        self.xid: int | None = None
        self.locked: dict[Hashable, None] = {}
        self.failed = False
        self._tables: dict[str, dict[Any, Any]] = {}
        self._appended: dict[str, list[Any]] = {}
        self._inbox: set[UUID] = set()
        self._outbox: dict[int, tuple[Outgoing, datetime]] = {}
        self._timers: dict[UUID, Any] = {}
        self._parked: dict[UUID, Any] = {}
        self._blocked: dict[Key, bool] = {}
        self._requested: set[Key] = set()

    def number(self) -> None:
        """Take a transaction id, as whatever writes or locks does."""
        if self.xid is None:
            self.xid = self.server.next_xid
            self.server.next_xid += 1
            self.server.open.add(self.xid)

    async def lock(self, kind: str, what: Hashable, *, shared: bool = False) -> None:
        """Lock a row."""
        self.number()
        await self.server.locks.take(self, (kind, what), shared=shared)

    def commit(self) -> None:
        """Make visible what was written."""
        contents = self.server.contents
        for name, rows in self._tables.items():
            _merge(contents.tables.setdefault(name, {}), rows)
        for name, added in self._appended.items():
            contents.appended.setdefault(name, []).extend(added)
        contents.inbox |= self._inbox
        self.server.outbox.update(self._outbox)
        self.server.written += [message for message, _ in self._outbox.values()]
        _merge(contents.timers, self._timers)
        _merge(contents.parked, self._parked)
        contents.retrying |= self._requested
        for key, is_blocked in self._blocked.items():
            if is_blocked:
                contents.blocked.add(key)
            else:
                contents.blocked.discard(key)
                contents.retrying.discard(key)

    def end(self) -> None:
        """Release everything."""
        self.server.open.discard(self.xid or 0)
        self.server.locks.release(self)

    # --- statements ---

    async def claim_inbox(self, ids: Sequence[UUID], looked_up: Sequence[UUID]) -> set[UUID]:
        self.number()
        known: set[UUID] = set()
        contents = self.server.contents
        for id_ in sorted(set(ids)):
            if id_ not in contents.inbox and id_ not in self._inbox:
                await self.lock("inbox", id_)
            if id_ in contents.inbox or id_ in self._inbox:
                known.add(id_)
            else:
                self._inbox.add(id_)
        return ({*ids, *looked_up} - known) - {id_ for id_ in looked_up if id_ in contents.inbox}

    async def claim_timers(self, timers: Sequence[tuple[UUID, datetime]]) -> set[UUID]:
        claimed = set()
        for id_, due_at in timers:
            if self._timer(id_) is not None:
                await self.lock("timers", id_)
                if (found := self._timer(id_)) is not None and found[0].due_at == due_at:
                    self._timers[id_] = GONE
                    claimed.add(id_)
        return claimed

    def _timer(self, id_: UUID) -> tuple[SetTimer, Incoming[Any]] | None:
        found = self._timers.get(id_, self.server.contents.timers.get(id_))
        return None if found is GONE else found

    async def set_timers(self, timers: Sequence[tuple[SetTimer, Incoming[Any]]]) -> None:
        for timer, cause in timers:
            await self.lock("timers", timer.id)
            self._timers[timer.id] = (timer, cause)

    async def clear_timers(self, ids: Sequence[UUID]) -> None:
        for id_ in ids:
            if self._timer(id_) is not None:
                await self.lock("timers", id_)
                self._timers[id_] = GONE

    def _all_parked(self) -> dict[UUID, _ParkedRow]:
        rows = {**self.server.contents.parked, **self._parked}
        return {id_: row for id_, row in rows.items() if row is not GONE}

    async def claim_parked(self, ids: Sequence[UUID]) -> dict[UUID, _ParkedRow]:
        there = self._all_parked()
        for key in sorted({there[id_].key for id_ in ids if id_ in there} & self.server.contents.blocked):
            await self.lock("parked_keys", key)
        taken = {}
        for id_ in ids:
            if id_ in there:
                await self.lock("parked", id_)
                if id_ in (now := self._all_parked()):
                    taken[id_] = now[id_]
                    self._parked[id_] = GONE
        left = {row.key for row in self._all_parked().values() if row.is_in_line}
        self._blocked |= dict.fromkeys({row.key for row in taken.values()} - left, False)
        return taken

    async def drop_parked(self, ids: Sequence[UUID]) -> set[UUID]:
        taken = await self.claim_parked(ids)
        failed = {row.key for row in taken.values() if row.parked.why is Why.FAILED}
        self._requested |= {key for key in failed & self.server.contents.blocked if self._blocked.get(key, True)}
        return set(taken)

    async def blocked(self, keys: Collection[Key]) -> set[Key]:
        found = set()
        for key in sorted(self.server.contents.blocked & set(keys)):
            await self.lock("parked_keys", key, shared=True)
            if key in self.server.contents.blocked:
                found.add(key)
        return found | {key for key in keys if self._blocked.get(key)}

    async def park(self, parked: Sequence[Parked]) -> None:
        await self.claim_inbox([each.id for each in parked], ())
        for each in parked:
            if each.id not in self._all_parked():
                await self.lock("parked", each.id)
            if each.id not in self._all_parked():
                self._parked[each.id] = _ParkedRow(each)
        for each in parked:
            if each.why is Why.FAILED and each.record.key is not None:
                key = each.record.topic, each.record.key
                if key not in self.server.contents.blocked:
                    await self.lock("parked_keys", key)
                self._blocked[key] = True

    def rows(self, mapped: Mapped[Any, Any]) -> Mapping[Any, Any]:
        """Return the rows of a table, as a statement that begins now sees them."""
        committed, own = self.server.contents.tables.get(mapped.table.name, {}), self._tables.get(mapped.table.name)
        if not own:
            return committed
        return {key: row for key, row in {**committed, **own}.items() if row is not GONE}

    def row(self, mapped: Mapped[Any, Any], key: Any) -> Any:
        """Return a row, or None."""
        name = mapped.table.name
        found = self._tables.get(name, {}).get(key) or self.server.contents.tables.get(name, {}).get(key)
        return None if found is GONE else found

    def among(self, mapped: Mapped[Any, Any], among: Among) -> set[Any]:
        wanted = [(name, set(values)) for name, values in among.items()]
        rows = self.rows(mapped).items()
        return {key for key, row in rows if all(getattr(row, name) in them for name, them in wanted)}

    async def fetch(
        self, mapped: Mapped[Any, Any], keys: Collection[Any], sets: Sequence[Among], for_update: bool
    ) -> dict[Any, Any]:
        found: dict[Any, Any] = dict.fromkeys(keys)
        wanted = {key for key in keys if self.row(mapped, key) is not None}
        for among in sets:
            wanted |= self.among(mapped, among)
        for key in self.server.order(wanted):
            if for_update:
                await self.lock(mapped.table.name, key)
            if (row := self.row(mapped, key)) is not None:
                found[key] = row
        return found

    async def take(
        self, mapped: Mapped[Any, Any], matching: Mapping[str, Any], limit: int, skips: bool
    ) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key in sorted(self.among(mapped, {name: [value] for name, value in matching.items()})):
            if len(found) == limit:
                break
            if skips and self.server.locks.is_locked(self, (mapped.table.name, key)):
                continue
            await self.lock(mapped.table.name, key)
            row = self.row(mapped, key)
            if row is not None and all(getattr(row, name) == value for name, value in matching.items()):
                found[key] = row
        return found

    async def write(self, change: Changes) -> None:
        mapped, name = change.mapped, change.mapped.table.name
        if isinstance(change, Appended):
            self.number()
            self._appended.setdefault(name, []).extend(change.rows)
            return
        inserted, updated, removed = change.written()
        own = self._tables.setdefault(name, {})
        for key in removed:
            await self.lock(name, key)
            own[key] = GONE
        for row in updated:
            key = mapped.key_of(row)
            await self.lock(name, key)
            if (before := self.row(mapped, key)) is not None:
                _keep_constants(mapped, before, row)
                own[key] = row
        rows = {mapped.key_of(row): row for row in inserted}
        for key in self.server.order(rows):
            if self.row(mapped, key) is None:
                await self.lock(name, key)
            if self.row(mapped, key) is not None:
                raise Conflict("23505")
            own[key] = rows[key]

    async def do(self, statement: Callable[["ServerTransaction", Any], Awaitable[T]], given: Any) -> T:
        """Do what a statement says."""
        return await statement(self, given)

    async def update(
        self, mapped: Mapped[Any, Any], keys: Iterable[Any], changed: Callable[[Any], Any | None]
    ) -> list[Any]:
        """Update rows, each as it is once it is locked, unless None is what becomes of it; return which."""
        done = []
        for key in self.server.order(key for key in keys if self.row(mapped, key) is not None):
            await self.lock(mapped.table.name, key)
            if (row := self.row(mapped, key)) is not None and (new := changed(row)) is not None:
                self._tables.setdefault(mapped.table.name, {})[key] = new
                done.append(key)
        return done

    async def upsert(self, mapped: Mapped[Any, Any], row: Any, kept: Collection[str]) -> None:
        """Insert a row; of one that is there once it is locked, update all columns but those that are `kept`."""
        key = mapped.key_of(row)
        await self.lock(mapped.table.name, key)
        if (before := self.row(mapped, key)) is not None:
            row = replace(row, **{name: getattr(before, name) for name in kept})
        self._tables.setdefault(mapped.table.name, {})[key] = row

    async def send(self, messages: Sequence[Outgoing], now: datetime) -> None:
        self.number()
        for message in messages:
            self._outbox[self.server.next_seq] = message, now
            self.server.next_seq += 1


def _merge(rows: dict[Any, Any], written: Mapping[Any, Any]) -> None:
    for key, row in written.items():
        if row is GONE:
            rows.pop(key, None)
        else:
            rows[key] = row


class Server:
    """A service's PostgreSQL."""

    order: Callable[[Iterable[Any]], Sequence[Any]] = staticmethod(sorted)
    """In which order a statement locks its rows."""

    def __init__(self, hub: Hub, name: Principal) -> None:
        self.hub = hub
        self.name = name
        self.process = Process(hub, f"{name}'s PostgreSQL")
        self.contents = Contents()
        self.outbox: dict[int, tuple[Outgoing, datetime]] = {}
        self.written: list[Outgoing] = []
        """All rows that were ever in the outbox, in the order of their commits."""
        self.locks = Locks()
        self.next_seq = self.next_xid = 1
        self.open: set[int] = set()
        self.leader: Session | None = None
        """Who holds the advisory lock."""
        self.listeners: set[Session] = set()
        self.losses = 0.0
        """How likely a trip loses its connection."""
        self.sessions: set[Session] = set()

    @property
    def snapshot(self) -> tuple[int, int]:
        """Return `pg_snapshot_xmin` and `pg_snapshot_xmax`."""
        return min(self.open, default=self.next_xid), self.next_xid

    async def take_time(self) -> None:
        """Let a statement take its time, in which others do theirs."""
        chance = self.hub.random.random()
        if chance < 0.2:
            await asyncio.sleep(0.02 * chance if chance < 0.19 else 0.5)

    def terminate(self) -> None:
        """End all sessions, as an operator may."""
        for session in list(self.sessions):
            session.close()

    def notify(self) -> None:
        """Wake whoever listens."""
        for session in sorted(self.listeners, key=lambda each: each.number):
            self.hub.after(self.hub.latency(), partial(session.process.post, session.hear))


_numbers = count(1)
_END = object()
Work = Callable[[], Awaitable[Any]]


class Session:
    """A connection of a process to its server."""

    def __init__(self, server: Server, process: Process) -> None:
        self.server = server
        self.process = process
        self.number = next(_numbers)
        self.lost = False
        self.idle_s = inf
        self.tx: ServerTransaction | None = None
        self.heard: list[Callable[[Any], None]] = []
        self._ended = False
        self._heard_at = server.hub.now
        self._arrived: deque[tuple[Any, asyncio.Future[Any] | None, bool]] = deque()
        self._works = False
        self._open: set[asyncio.Future[Any]] = set()
        process.on_death.append(self.close)
        server.sessions.add(self)

    async def request(self, work: Work) -> Any:
        """Send statements, and return the answer. Raises `Lost`, or what the server raises."""
        if self.lost or self.process.dead:
            raise Lost
        hub, random = self.server.hub, self.server.hub.random
        answer = self.process.loop.create_future()
        self._open.add(answer)
        breaks = random.random() < self.server.losses
        item = (_END if breaks and random.random() < 0.5 else work, answer, breaks)
        hub.after(hub.latency(), partial(self.server.process.post, self._arrive, item))
        try:
            return await answer
        finally:
            self._open.discard(answer)

    def retire(self) -> None:
        """Return the connection to the pool, with nothing begun; here that is its end."""
        self.lost = self._ended = True
        self.server.sessions.discard(self)

    def close(self) -> None:
        """Close the connection: the server rolls back once it has done what it was asked before."""
        if self._ended:
            return
        hub = self.server.hub
        self.lose()
        hub.after(hub.latency(), partial(self.server.process.post, self._arrive, (_END, None, False)))

    def lose(self) -> None:
        """Know that the connection is lost."""
        self.lost = True
        with_answers, self._open = self._open, set()
        for answer in with_answers:
            if not answer.done() and not self.process.dead:
                answer.set_exception(Lost("the connection is lost"))
        self.hear()

    def hear(self) -> None:
        """Notice that something has arrived without being asked for."""
        if not self.process.dead:
            for reader in list(self.process.loop.readers.values()):
                reader()
            for tell in self.heard:
                tell(None)

    # What follows happens in the server.

    def _arrive(self, item: tuple[Any, "asyncio.Future[Any] | None", bool]) -> None:
        self._arrived.append(item)
        if not self._works and not self._ended:
            self._works = True
            self.server.process.loop.create_task(self._work())

    async def _work(self) -> None:
        hub = self.server.hub
        while self._arrived and not self._ended:
            work, answer, breaks = self._arrived.popleft()
            if work is _END:
                self._end()
                break
            result: Any
            try:
                result = await work()
            except Exception as error:
                result = error
                if self.tx is not None:
                    self.tx.failed = True
            if breaks:
                self._end()
            elif answer is not None:
                hub.after(hub.latency(), partial(self.process.post, _deliver, answer, result))
            self._heard_at = hub.now
            self.watch()
        self._works = False

    def watch(self) -> None:
        """End the session if it is silent for too long."""
        idle_s = IN_TRANSACTION_S if self.tx is not None else self.idle_s
        if idle_s < inf and not self._ended:
            self.server.hub.after(idle_s, partial(self.server.process.post, self._look, self._heard_at))

    def _look(self, heard_at: float) -> None:
        if self._heard_at == heard_at and not self._works and not self._ended:
            self._end()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self.roll_back()
        if self.server.leader is self:
            self.server.leader = None
        self.server.listeners.discard(self)
        self.server.sessions.discard(self)
        self.server.hub.after(self.server.hub.latency(), partial(self.process.post, self.lose))

    def begin(self) -> ServerTransaction:
        """Return the transaction, which begins with its first statement. Raises `Lost` after a failure."""
        if self.tx is None:
            self.tx = ServerTransaction(self.server, f"{self.process.name}/{self.number}")
        if self.tx.failed:
            raise psycopg.errors.InFailedSqlTransaction
        return self.tx

    def commit(self) -> None:
        """Commit."""
        if self.tx is not None:
            if not self.tx.failed:
                self.tx.commit()
            self.roll_back()

    def roll_back(self) -> None:
        """Forget the transaction."""
        if self.tx is not None:
            ended, self.tx = self.tx, None
            ended.end()


def _deliver(answer: "asyncio.Future[Any]", result: Any) -> None:
    if answer.done():
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)


class Answer(Generic[T]):
    """What a statement will return; awaiting it sends everything that was asked before."""

    def __init__(self, flush: Callable[[], Awaitable[None]], read: Callable[[Any], T]) -> None:
        self._flush: Callable[[], Awaitable[None]] | None = flush
        self._read = read
        self._value: Any = None

    def __await__(self) -> Generator[Any, None, T]:
        if self._flush is not None:
            yield from self._flush().__await__()
        return self._value  # type: ignore[no-any-return]

    def arrive(self, result: Any) -> None:
        self._flush, self._value = None, self._read(result)


class Trips:
    """Statements that travel together, as in `pipeline`: none is done after one that failed."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._asked: list[tuple[Work, Answer[Any]]] = []
        self._failure: Exception | None = None

    def ask(self, work: Work, read: Callable[[Any], T]) -> Answer[T]:
        """Ask, with whatever is asked until somebody waits."""
        if self._failure is not None:
            raise self._failure
        answer = Answer(self.flush, read)
        self._asked.append((work, answer))
        return answer

    async def flush(self) -> None:
        """Send what was asked, and wait for all answers. Raises the first failure, ever after."""
        if self._failure is not None:
            raise self._failure
        asked, self._asked = self._asked, []
        if not asked:
            return
        try:
            results = await self.session.request(partial(self._in_turn, [work for work, _ in asked]))
        except BaseException as error:
            self._failure = error if isinstance(error, Exception) else Lost("the answers are lost")
            raise
        for (_, answer), result in zip(asked, results, strict=True):
            answer.arrive(result)

    async def _in_turn(self, works: Sequence[Work]) -> list[Any]:
        done = []
        for work in works:
            done.append(await work())
            await self.session.server.take_time()
        return done


class ModelTransaction:
    """A transaction, as the shell uses it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._trips = Trips(session)

    def _ask(self, method: str, *given: Any, read: Callable[[Any], T]) -> Answer[T]:
        async def work() -> Any:
            return await getattr(self._session.begin(), method)(*given)

        return self._trips.ask(work, read)

    def _tell(self, method: str, *given: Any) -> None:
        self._ask(method, *given, read=_as_is)

    def claim_inbox(
        self, ids: Sequence[UUID], now: datetime, looked_up: Sequence[UUID] = ()
    ) -> Awaitable[Collection[UUID]]:
        return self._ask("claim_inbox", list(ids), list(looked_up), read=_as_is)

    def claim_timers(self, timers: Sequence[tuple[UUID, datetime]]) -> Awaitable[Collection[UUID]]:
        return self._ask("claim_timers", list(timers), read=_as_is)

    async def claim_parked(self, ids: Sequence[UUID]) -> Collection[UUID]:
        return await self._ask("claim_parked", list(ids), read=set)

    async def drop_parked(self, ids: Sequence[UUID]) -> Collection[UUID]:
        return await self._ask("drop_parked", list(ids), read=set)

    def blocked(self, keys: Iterable[Key]) -> Awaitable[Collection[Key]]:
        return self._ask("blocked", list(keys), read=_as_is)

    async def park(self, parked: Sequence[Parked], now: datetime) -> None:
        if parked:
            await self._ask("park", list(parked), read=_as_is)

    async def require_known_schema(self) -> None:
        pass

    def fetch(
        self, mapped: Mapped[K, R], keys: Iterable[K], sets: Sequence[Among] = (), *, for_update: bool = True
    ) -> Awaitable[Rows[K, R]]:
        wanted, sets = frozenset(keys), [among for among in sets if all(among.values())]
        if not wanted and not sets:
            return Ready(Rows(mapped, {}))
        return self._ask("fetch", mapped, wanted, sets, for_update, read=partial(Rows, mapped))

    def keys(self, mapped: Mapped[K, R], among: Among) -> Awaitable[set[K]]:
        async def work() -> set[K]:
            return self._session.begin().among(mapped, among)

        return self._trips.ask(work, _as_is) if all(among.values()) else Ready(set())

    async def take(self, mapped: Mapped[K, R], matching: Mapping[str, Any], limit: int) -> Rows[K, R]:
        if limit == 0:
            return Rows(mapped, {})
        found = await self._ask("take", mapped, matching, limit, True, read=_as_is)
        if len(found) < limit:
            found = await self._ask("take", mapped, matching, limit, False, read=_as_is)
        return Rows(mapped, found)

    def append(self, mapped: AppendOnly[R]) -> Appended[R]:
        return Appended(mapped)

    async def save(self, changes: Sequence[Changes]) -> None:
        for change in changes:
            self._tell("write", change)

    async def send(self, messages: Sequence[Outgoing], now: datetime) -> None:
        if messages:
            self._tell("send", list(messages), now)

    async def set_timers(self, timers: Sequence[tuple[SetTimer, Incoming[Any]]]) -> None:
        if timers:
            self._tell("set_timers", list(timers))

    async def clear_timers(self, ids: Sequence[UUID]) -> None:
        if ids:
            self._tell("clear_timers", list(ids))

    async def commit(self) -> None:
        """Commit, in one trip with what was written."""

        async def work() -> None:
            self._session.commit()

        await self._trips.ask(work, _as_is)


def _as_is(result: Any) -> Any:
    return result


class ModelDatabase(MemoryDatabase):
    """A service's database, as a process of it uses it; what only reads takes a trip and is not interrupted."""

    transaction = ModelTransaction

    def __init__(self, server: Server, process: Process) -> None:
        self.server = server
        self._process = process

    @property
    def contents(self) -> Contents:  # type: ignore[override]
        return self.server.contents

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[ModelTransaction]:  # type: ignore[override]
        session = Session(self.server, self._process)
        try:
            tx = self.transaction(session)
            yield tx
            await tx.commit()
            session.retire()
        except Lost as lost:
            raise Outage(str(lost)) from lost
        finally:
            self._process.on_death.remove(session.close)
            session.close()

    async def _trip(self) -> None:
        session = Session(self.server, self._process)
        try:
            await session.request(_nothing)
            session.retire()
        except Lost as lost:
            raise Outage(str(lost)) from lost
        finally:
            self._process.on_death.remove(session.close)
            session.close()

    async def due_timers(self, now: datetime, limit: int) -> Sequence[StoredRecord]:
        await self._trip()
        return await super().due_timers(now, limit)

    async def next_timer(self) -> datetime | None:
        await self._trip()
        return await super().next_timer()

    async def due_alarms(self, alarms: Sequence[Alarm[Any]], now: datetime, limit: int) -> Sequence[StoredRecord]:
        await self._trip()
        return await super().due_alarms(alarms, now, limit)

    async def next_alarm(self, alarms: Sequence[Alarm[Any]]) -> datetime | None:
        await self._trip()
        return await super().next_alarm(alarms)

    async def request_retry(self, ids: Collection[UUID]) -> None:
        await self._trip()
        await super().request_retry([id_ for id_ in ids if id_ in self.contents.parked])

    async def requested_retries(self, limit: int) -> Sequence[StoredRecord]:
        await self._trip()
        return await super().requested_retries(limit)

    async def retry_failed(self, id_: UUID, code: str, detail: str) -> None:
        await self._trip()
        if id_ in self.contents.parked:
            await super().retry_failed(id_, code, detail)


async def _nothing() -> None:
    pass


# --- the relay's connection -------------------------------------------------------------------------------------------


class _Scalar:
    def __init__(self, value: Any) -> None:
        self._value = value

    def scalar(self) -> Any:
        return self._value


class ModelConnection:
    """SQLAlchemy's connection, as far as the relay and its bell use one."""

    def __init__(self, session: Session) -> None:
        self.session = session

    async def execution_options(self, **_: Any) -> "ModelConnection":
        return self

    async def execute(self, executable: sa.Executable, parameters: Mapping[str, str] | None = None) -> _Scalar:
        try:
            return _Scalar(await self.session.request(partial(self._do, executable, parameters or {})))
        except Lost as lost:
            raise sa.exc.OperationalError("", {}, lost, connection_invalidated=True) from lost

    async def invalidate(self) -> None:
        self.session.close()

    async def _do(self, executable: sa.Executable, parameters: Mapping[str, str]) -> Any:
        server, session = self.session.server, self.session
        if executable is relay._SESSION:
            session.idle_s = float(parameters["pause"].removesuffix("s"))
        elif executable is relay._LISTEN:
            server.listeners.add(session)
        elif executable is wakeups._RING:
            server.notify()
        elif server.leader in (None, session):  # it asks for the advisory lock
            server.leader = session
            return True
        return False


class ModelEngine:
    """SQLAlchemy's engine, as far as the relay and its bell use one."""

    def __init__(self, server: Server, process: Process) -> None:
        self._server = server
        self._process = process

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[ModelConnection]:
        session = Session(self._server, self._process)
        try:
            yield ModelConnection(session)
        finally:
            self._process.on_death.remove(session.close)
            session.close()


class _Wire:
    def consume_input(self) -> None:
        pass

    def notifies(self) -> None:
        pass


class _Driver:
    """psycopg's connection, as far as the relay watches it."""

    pgconn = _Wire()

    def __init__(self, session: Session) -> None:
        self._session = session

    def fileno(self) -> int:
        return self._session.number

    def add_notify_handler(self, tell: Callable[[Any], None]) -> None:
        self._session.heard.append(tell)


class ModelOutbox(Trips):
    """The pipeline with which the relay reads and deletes."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.driver = _Driver(session)

    def ask(  # type: ignore[override]
        self, asked: Statement, parameters: Mapping[str, Any], read: Callable[[Any], T]
    ) -> Answer[T]:
        return super().ask(partial(self._do, asked, parameters), read)

    def tell(self, asked: Statement, parameters: Mapping[str, Any]) -> None:
        """Send a statement that returns nothing."""
        self.ask(asked, parameters, _as_is)

    async def _do(self, asked: Statement, parameters: Mapping[str, Any]) -> Any:
        server = self.session.server
        if asked is statement(relay._SNAPSHOT):
            return [server.snapshot]
        if asked is statement(relay._DELETE):
            for seq in parameters["seqs"]:
                server.outbox.pop(seq, None)
            return []
        seqs = sorted(seq for seq in server.outbox if seq > parameters["floor"])[: parameters["most"]]
        return [_unsent(seq, *server.outbox[seq]) for seq in seqs]


def _unsent(seq: int, out: Outgoing, made_at: datetime) -> tuple[Any, ...]:
    """Return a row of the outbox as it travels."""
    texts = (out.correlation_id, out.causation_id, out.actor, out.traceparent, made_at.isoformat(), out.requester)
    as_bytes = [None if text is None else str(text).encode() for text in texts]
    return (seq, str(out.id).encode(), out.type.encode(), out.key.encode(), out.value, *as_bytes)


async def outbox_on(connection: Any) -> ModelOutbox:
    """Stand for `relay.outbox_on`."""
    return ModelOutbox(connection.session)
