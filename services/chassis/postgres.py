"""A service's database on PostgreSQL: every statement takes a whole batch.

Lists are passed as binary arrays through `unnest` (measured: 2 to 4 times cheaper than one row of parameters per item,
and one statement for any number of rows). Every transaction locks rows in the order of their keys.
"""

import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar, cast
from uuid import UUID

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus
from psycopg.types.array import ListBinaryDumper
from pydantic_core import from_json
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from popfax_contracts.message import Message
from services.chassis import metrics
from services.chassis.alarms import Alarm
from services.chassis.database import UNIQUE_VIOLATION, Among, Cause, Conflict, Key, Later, Outage, Parked, Ready, Why
from services.chassis.messages import TIMERS, Incoming, Outgoing, SetTimer, StoredRecord, timer_record
from services.chassis.pipeline import Answer, Driver, Pipeline, Row, statement
from services.chassis.rows import Appended, AppendOnly, Changes, Converter, Mapped, Rows
from services.chassis.settings import DatabaseSettings
from services.chassis.tables import add_messaging_tables

K = TypeVar("K")
R = TypeVar("R")
T = TypeVar("T")

# What a message may be blamed for, by SQLSTATE or its class: values that do not fit, break a constraint, or are too
# large to be indexed. Anything else is blamed on the world.
_OF_A_MESSAGE = ("22", "23", "54000")
# Deadlocks, serialization failures, and duplicate keys, since another transaction may have inserted the row first.
_CONFLICTS = ("40", UNIQUE_VIOLATION)
_CAUSES = {
    "08": Cause.AWAY,
    "57": Cause.AWAY,
    "55P03": Cause.LOCKED,
    "25006": Cause.READ_ONLY,
    "42501": Cause.PRIVILEGE,
    "28": Cause.PRIVILEGE,
    "42": Cause.SCHEMA,
    "3F": Cause.SCHEMA,
    "0A": Cause.SCHEMA,  # "cached plan must not change result type"
    "53": Cause.RESOURCES,
}
_REFUSALS = {
    "authentication failed": ("it refuses our password", Cause.PRIVILEGE),
    "pg_hba.conf": ("no line of its pg_hba.conf lets us in", Cause.PRIVILEGE),
    "certificate": ("its certificate is not accepted, or ours is not", Cause.AWAY),
    "does not support SSL": ("it has no TLS", Cause.AWAY),
}
"""What a refused connection means, by what its error's text contains."""
_NOT_SENT = (psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError)
"""Errors that psycopg itself raises, without a SQLSTATE, for values that it can't send."""

_METADATA = sa.MetaData()
add_messaging_tables(_METADATA)
INBOX = _METADATA.tables["inbox"]
OUTBOX = _METADATA.tables["outbox"]
TIMER = _METADATA.tables["timers"]
PARKED = _METADATA.tables["parked"]
PARKED_KEYS = _METADATA.tables["parked_keys"]
PARTITION_STOPS = _METADATA.tables["partition_stops"]
REMOVALS = _METADATA.tables["removals"]


VANISHED_S = 15
"""How long a host may be silent before its peer gives it up: probes after 6, 9, 12 and 15 s."""

# With the server's defaults, a vanished host's locks last for two hours, and its statements run to their end.
_VANISHED = {
    "tcp_keepalives_idle": "6",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": f"{VANISHED_S}s",
    "client_connection_check_interval": "5s",
}
_SETTINGS = {
    # Generic plans are made while the tables are empty, and then kept, which cost a fifth of all CPU when measured.
    "plan_cache_mode": "force_custom_plan",
    # The default is a rotating disk's: a batch of 1,000 rows then reads a table of 100,000 from end to end (measured:
    # 55 ms instead of 12).
    "random_page_cost": "1.1",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
}


def sessions(**settings: str) -> dict[str, Any]:
    """Return the arguments of every connection: each side notices within seconds that the other's host is gone.

    `settings` are server settings for the session.
    """
    options = {"timezone": "UTC"} | _VANISHED | settings
    return {
        "connect_timeout": 5,
        "keepalives_idle": 6,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": VANISHED_S * 1000,
        "options": " ".join(f"-c {name}={_escaped(value)}" for name, value in options.items()),
    }


def _escaped(value: str) -> str:
    """Return an option's value so that the server does not end it at a space."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


_OVERFLOW = 2
"""How many connections there may be beyond a pool's size while it is busy."""


class _Pool(sa.AsyncAdaptedQueuePool):
    """A pool whose users' waits are measured."""

    def connect(self) -> sa.PoolProxiedConnection:
        """Return a free connection, or a new one; wait if there can't be more."""
        begun = time.perf_counter()
        try:
            return super().connect()
        finally:
            metrics.CONNECTION_WAIT.labels(self.logging_name).observe(time.perf_counter() - begun)


def engine(url: str, pool_size: int = 8, pool: str = "work", **settings: str) -> AsyncEngine:
    """Return an engine, which connects on first use. `settings` are server settings for its sessions.

    `pool` is its pool's name in the metrics. Raises `sqlalchemy.exc.ArgumentError` for an invalid URL. Parameters never
    appear in an error's text.
    """
    made = create_async_engine(
        url,
        poolclass=_Pool,
        pool_logging_name=pool,
        pool_size=pool_size,
        max_overflow=_OVERFLOW,
        pool_pre_ping=False,  # an outage shows in the batch, which is retried anyway
        hide_parameters=True,
        json_deserializer=from_json,
        connect_args={
            "prepare_threshold": 0,
            **sessions(**_SETTINGS | settings),
        },
    )

    @sa.event.listens_for(made.sync_engine, "connect")
    def _binary_lists(connection: Any, _: Any) -> None:
        connection.adapters.register_dumper(list, ListBinaryDumper)

    @sa.event.listens_for(made.sync_engine, "rollback")
    def _rolls_back(connection: sa.Connection) -> None:
        if not connection.invalidated:  # asked for what is gone, it would raise, in place of a cancellation
            _about_to_roll_back(connection.connection)

    sa.event.listen(made.sync_engine, "reset", lambda _, record, __: _about_to_roll_back(record))
    _measure_pool(pool, made, pool_size + _OVERFLOW)
    return made


def _measure_pool(name: str, engine: AsyncEngine, most: int) -> None:
    def pool() -> _Pool:  # another one after each `dispose`
        return cast(_Pool, engine.pool)

    metrics.CONNECTIONS_MAX.labels(name).set(most)
    metrics.CONNECTIONS.labels(name, "used").set_function(lambda: pool().checkedout())
    metrics.CONNECTIONS.labels(name, "idle").set_function(lambda: pool().checkedin())
    metrics.CONNECTION_WAIT.labels(name)


def engine_of(settings: DatabaseSettings, pool_size: int, pool: str = "work", **sessions: str) -> AsyncEngine:
    """Return the engine of a service's own database, each of whose connections is opened with the newest password."""
    made = engine(settings.database_url.get_secret_value(), pool_size, pool, **sessions)

    @sa.event.listens_for(made.sync_engine, "do_connect")
    def _newest_password(_: Any, __: Any, ___: Any, given: dict[str, Any]) -> None:
        settings.reread()
        url = sa.make_url(settings.database_url.get_secret_value())
        given |= {"user": url.username, "password": url.password}

    return made


@asynccontextmanager
async def autocommitting(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Connect for single statements, each a transaction of its own: one round trip instead of three."""
    async with engine.connect() as connection:
        yield await connection.execution_options(isolation_level="AUTOCOMMIT")


_PREPARED = "popfax_prepared"
"""Where a connection keeps the names of the statements that `pipeline` has prepared on it."""


def _about_to_roll_back(connection: Any) -> None:
    """Forget what is prepared if there is anything to roll back: psycopg then makes the server forget everything."""
    if connection.driver_connection.pgconn.transaction_status != TransactionStatus.IDLE:
        connection.info.pop(_PREPARED, None)


Suits = Callable[[AsyncConnection], Awaitable[bool]]
"""Says whether this version of a service works on a database."""


class PostgresDatabase:
    """A service's own PostgreSQL database, for the shell."""

    def __init__(self, engine: AsyncEngine, suits: Suits | None = None) -> None:
        """Without `suits`, every schema counts as known."""
        self.engine = engine
        self._suits = suits

    @asynccontextmanager
    async def begin(self) -> AsyncIterator["PostgresTransaction"]:
        """Open a transaction (READ COMMITTED: rows that matter are locked). Raises `Outage` and `Conflict`."""
        try:
            with translated():
                async with self.engine.connect() as connection:
                    tx = PostgresTransaction(connection, await _pipeline_on(connection), self._suits)
                    try:
                        yield tx
                        await tx.pipeline.commit()
                    except BaseException:
                        try:
                            await tx.pipeline.rollback()
                        except psycopg.Error:  # the connection is lost, and the transaction with it
                            await connection.invalidate()
                        raise
        except Outage:
            # Some faults stick to a connection (a role's settings, a plan for another schema), and most of the other
            # connections are as bad as this one. The next attempt begins with new ones.
            await self.engine.dispose()
            raise

    async def due_timers(self, now: datetime, limit: int) -> Sequence[StoredRecord]:
        """Return timers that are due, oldest first, without locking them."""
        query = sa.select(TIMER).where(TIMER.c.due_at <= now).order_by(TIMER.c.due_at, TIMER.c.id).limit(limit)
        return [
            timer_record(r.id, r.due_at, r.type, r.key, r.value, r.correlation_id, r.actor, r.traceparent)
            for r in await self._look(query)
        ]

    async def next_timer(self) -> datetime | None:
        """Return the moment at which the next timer is due, or was; None if none is set."""
        ((due_at,),) = await self._look(_NEXT_TIMER)
        return due_at  # type: ignore[no-any-return]

    async def due_alarms(self, alarms: Sequence[Alarm[Any]], now: datetime, limit: int) -> Sequence[StoredRecord]:
        """Return what is due of rows, the oldest of each alarm first."""
        due: list[StoredRecord | None] = []
        with translated():
            async with autocommitting(self.engine) as connection:
                for alarm in alarms:
                    query = waiting_rows(alarm, *alarm.mapped.columns).where(alarm.moment <= now - alarm.after)
                    rows = await connection.execute(query.limit(min(limit, alarm.at_once)))
                    due += [alarm.record(alarm.mapped.from_values(values)) for values in rows]
        return [record for record in due if record is not None]

    async def next_alarm(self, alarms: Sequence[Alarm[Any]]) -> datetime | None:
        """Return the moment at which the next row is due, or was; None if no row waits."""
        due: list[datetime | None] = []
        with translated():
            async with autocommitting(self.engine) as connection:
                for alarm in alarms:
                    moment = await connection.scalar(waiting_rows(alarm, alarm.moment).limit(1))
                    due.append(None if moment is None else moment + alarm.after)
        return min((moment for moment in due if moment is not None), default=None)

    async def request_retry(self, ids: Collection[UUID]) -> None:
        """Ask for parked messages to be handled again."""
        async with self.begin() as tx:
            for statement in retry_requests(PARKED.c.id.in_(ids)):
                await tx.execute(statement)

    async def requested_retries(self, limit: int) -> Sequence[StoredRecord]:
        """Return the next requested retries, limited in number and bytes."""
        ((any_,),) = await self._look(_ANY_RETRIES)  # almost never: far cheaper to plan than the other
        return [stored_record(row) for row in await self._look(_RETRIES, {"most": limit})] if any_ else []

    async def _look(self, query: sa.Select[Any], parameters: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """Run a query that nothing else depends on."""
        with translated():
            async with autocommitting(self.engine) as connection:
                rows: Sequence[Any] = (await connection.execute(query, parameters or {})).all()
                return rows

    async def retry_failed(self, id_: UUID, code: str, detail: str) -> None:
        """Record that a parked message failed again. Raises `Outage` if the schema may be to blame."""
        async with self.begin() as tx:
            await tx.require_known_schema()
            row = (await tx.execute(_RETRY_FAILED, {"p_id": id_, "p_code": code, "p_detail": detail})).one()
            if row.why != Why.UNDECODABLE:
                here = sa.and_(PARKED_KEYS.c.topic == row.topic, PARKED_KEYS.c.key == row.key)
                await tx.execute(sa.update(PARKED_KEYS).values(retry_requested_at=None).where(here))


class PostgresTransaction:
    """One transaction on PostgreSQL; see `database.Transaction` for what each method means.

    What every batch needs goes through the pipeline; what is rare goes through SQLAlchemy (`execute`).
    """

    def __init__(self, connection: AsyncConnection, pipeline: Pipeline, suits: Suits | None = None) -> None:
        self.connection = connection
        self.pipeline = pipeline
        self._suits = suits

    def ask(self, query: sa.Executable, parameters: Mapping[str, Any], read: Callable[[list[Row]], T]) -> Answer[T]:
        """Send a query that is built once, and return what its answer will be, as `read` makes it from the rows."""
        return self.pipeline.ask(statement(query), parameters, read)

    def _tell(self, executable: sa.Executable, parameters: Mapping[str, Any]) -> None:
        self.pipeline.tell(statement(executable), parameters)

    async def execute(self, executable: sa.Executable, parameters: Any = None) -> sa.CursorResult[Any]:
        """Execute a statement through SQLAlchemy, after all that was asked before."""
        await self.pipeline.flush()
        return await self.connection.execute(executable, parameters)

    def claim_inbox(
        self, ids: Sequence[UUID], now: datetime, looked_up: Sequence[UUID] = ()
    ) -> Awaitable[Collection[UUID]]:
        """Record message ids. An id that another transaction is just recording makes this one wait until that ends."""
        asked = {"ids": list(ids), "now": now, "looked_up": list(looked_up)}
        return self.ask(_CLAIM_INBOX, asked, lambda known: {*ids, *looked_up} - _firsts(known))

    def claim_timers(self, timers: Sequence[tuple[UUID, datetime]]) -> Awaitable[Collection[UUID]]:
        """Remove timers; one that was moved meanwhile stays, because another replica has fired it and set it again."""
        ids, dues = [id_ for id_, _ in timers], [due_at for _, due_at in timers]
        return self.ask(_CLAIM_TIMERS, {"p_id": ids, "p_due": dues}, _firsts)

    async def claim_parked(self, ids: Sequence[UUID]) -> Collection[UUID]:
        """Remove parked messages, and unblock keys on which nothing is left."""
        return {row.id for row in await self._take_parked(ids)}

    async def drop_parked(self, ids: Sequence[UUID]) -> Collection[UUID]:
        """Remove messages, and request a retry of what was parked behind those that had failed."""
        rows = await self._take_parked(ids)
        failed = [(row.topic, row.key) for row in rows if row.why == Why.FAILED]
        await self.execute(_REQUEST_KEYS, _columns(failed))
        return {row.id for row in rows}

    async def _take_parked(self, ids: Sequence[UUID]) -> Sequence[Any]:
        # The keys are locked first: two replicas that retry the same ones do so one after the other, and a
        # transaction that is just parking behind one of them commits before we check whether anything is left on it.
        await self.execute(_LOCK_PARKED_KEYS, {"ids": list(ids)})
        rows = (await self.execute(_CLAIM_PARKED, {"ids": list(ids)})).all()
        await self.execute(_UNBLOCK, _columns((row.topic, row.key) for row in rows))
        return rows

    def blocked(self, keys: Iterable[Key]) -> Awaitable[Collection[Key]]:
        """Return the blocked ones, share-locked: a retry that would unblock them waits for this transaction."""
        is_any = self.ask(_ANY_BLOCKED, {}, bool)

        async def found() -> Collection[Key]:
            if not await is_any:  # almost always
                return ()
            return {(row.topic, row.key) for row in await self.execute(_BLOCKED, _columns(keys))}

        return Later(found)

    async def park(self, parked: Sequence[Parked], now: datetime) -> None:
        """Keep messages with their bytes and reasons."""
        if not parked:
            return
        rows = [
            {
                "id": p.id,
                "topic": p.record.topic,
                "partition": p.record.partition,
                "position": p.record.offset,
                "key": p.record.key,
                "value": p.record.value,
                "headers": _headers_to_json(p.record.headers),
                "why": p.why.value,
                "code": p.code,
                "detail": p.detail,
                "parked_at": now,
            }
            for p in parked
        ]
        await self.claim_inbox([p.id for p in parked], now)
        # Two replicas may park a message at the same time that is claimed by its row alone.
        await self.execute(insert(PARKED).on_conflict_do_nothing(), rows)
        blocked = [
            {"topic": p.record.topic, "key": p.record.key}
            for p in parked
            if p.why is Why.FAILED and p.record.key is not None
        ]
        if blocked:
            await self.execute(insert(PARKED_KEYS).on_conflict_do_nothing(), blocked)

    async def require_known_schema(self) -> None:
        """Raise `Outage` unless the database is one that this version knows."""
        if self._suits is not None and not await self._suits(self.connection):
            raise Outage("another version's schema", Cause.SCHEMA)

    def fetch(
        self, mapped: Mapped[K, R], keys: Iterable[K], sets: Sequence[Among] = (), *, for_update: bool = True
    ) -> Awaitable[Rows[K, R]]:
        """Load rows by key and by sets, and lock them unless they are only read."""
        found: dict[K, R | None] = dict.fromkeys(frozenset(keys))  # a set has their hashes
        sets = [among for among in sets if all(among.values())]
        if not found and not sets:
            return Ready(Rows(mapped, found))

        def read(rows: list[Row]) -> Rows[K, R]:
            for values in rows:
                row = mapped.from_values(values)
                found[mapped.key_of(row)] = row
            return Rows(mapped, found)

        parameters = {"keys": list(found)} | {
            f"p{number}_{name}": list(values) for number, among in enumerate(sets) for name, values in among.items()
        }
        return self.ask(_fetch(mapped, tuple(map(tuple, sets)), for_update), parameters, read)

    def keys(self, mapped: Mapped[K, R], among: Among) -> Awaitable[set[K]]:
        """Return the keys of the rows whose columns all have one of the given values; nothing is locked."""
        if not all(among.values()):
            return Ready(set())
        wanted = {f"p0_{name}": list(values) for name, values in among.items()}
        return self.ask(_keys_of(mapped, tuple(among)), wanted, _firsts)

    async def take(self, mapped: Mapped[K, R], matching: Mapping[str, Any], limit: int) -> Rows[K, R]:
        """Load and lock the first rows that match; rows locked by others only if no others are left."""
        if limit == 0:
            return Rows(mapped, {})
        names, wanted = tuple(matching), {f"p_{name}": value for name, value in matching.items()} | {"most": limit}
        rows = await self.ask(_take(mapped, names, skip_locked=True), wanted, list)
        if len(rows) < limit:  # there may be no more, or others have locked the last ones, which are worth waiting for
            rows = await self.ask(_take(mapped, names, skip_locked=False), wanted, list)
        found = [mapped.from_values(values) for values in rows]
        return Rows(mapped, {mapped.key_of(row): row for row in found})

    def append(self, mapped: AppendOnly[R]) -> Appended[R]:
        """Begin to append to a table."""
        return Appended(mapped)

    async def save(self, changes: Sequence[Changes]) -> None:
        """Write all changes: at most one DELETE, one UPDATE and one INSERT per table.

        In this order, so that what leaves a unique index makes room for what enters it.
        """
        for change in changes:
            mapped = change.mapped
            if isinstance(change, Appended):
                self._write(_insert(mapped), mapped, mapped.names, change.rows)
                continue
            inserted, updated, removed = change.written()
            if removed:
                self._tell(_delete(mapped), {"keys": removed})
            if updated:
                columns = {f"p_{name}": _column(updated, name, mapped.encoders[name]) for name in _often(mapped)}
                for name in mapped.rarely:
                    values, encode = (change.replaced(row, name) for row in updated), mapped.encoders[name] or _as_is
                    columns[f"p_{name}"] = [None if value is None else encode(value) for value in values]
                self._tell(_update(mapped), columns)
            self._write(_insert(mapped), mapped, mapped.names, inserted)

    async def send(self, messages: Sequence[Outgoing], now: datetime) -> None:
        """Append messages to the outbox.

        Their aggregates' rows are locked, so numbers within a key are in commit order.
        """
        if messages:
            columns: dict[str, Any] = {f"p_{name}": _column(messages, name) for name in _OUTGOING}
            self._tell(_SEND, columns | {"now": now})

    async def set_timers(self, timers: Sequence[tuple[SetTimer, Incoming[Message]]]) -> None:
        """Set or move timers. The last one for an id counts."""
        if not timers:
            return
        last = {timer.id: (timer, cause) for timer, cause in timers}
        columns: dict[str, list[Any]] = {
            "ids": list(last),
            "dues": [timer.due_at for timer, _ in last.values()],
            "types": [timer.message.TYPE for timer, _ in last.values()],
            "keys": [timer.message.key() for timer, _ in last.values()],
            "bodies": [timer.message.to_json() for timer, _ in last.values()],
            "correlations": [cause.correlation_id for _, cause in last.values()],
            "actors": [cause.actor for _, cause in last.values()],
            "traces": [cause.traceparent for _, cause in last.values()],
        }
        self._tell(_SET_TIMERS, columns)

    async def clear_timers(self, ids: Sequence[UUID]) -> None:
        """Forget timers."""
        if ids:
            self._tell(_CLEAR_TIMERS, {"ids": list(ids)})

    def _write(self, write: sa.Executable, mapped: Mapped[Any, R], names: Sequence[str], rows: Sequence[R]) -> None:
        if rows:
            self._tell(write, {f"p_{name}": _column(rows, name, mapped.encoders[name]) for name in names})


async def _pipeline_on(connection: AsyncConnection) -> Pipeline:
    raw = await connection.get_raw_connection()
    return Pipeline(_driver_of(raw), raw.info.setdefault(_PREPARED, set()))


def _firsts(rows: Iterable[Row]) -> set[Any]:
    """Return the only column of some rows."""
    return {value for (value,) in rows}


async def driver_of(connection: AsyncConnection) -> Driver:
    """Return the psycopg connection under SQLAlchemy's."""
    return _driver_of(await connection.get_raw_connection())


def _driver_of(raw: sa.PoolProxiedConnection) -> Driver:
    driver = raw.driver_connection
    assert isinstance(driver, psycopg.AsyncConnection)
    return driver


def stored_record(row: Any) -> StoredRecord:
    """Turn a row of `parked` back into the record, byte for byte."""
    headers = [(name, None if value is None else base64.b64decode(value)) for name, value in row.headers]
    return StoredRecord(row.id, None, row.topic, row.partition, row.position, row.key, row.value, headers)


def _columns(keys: Iterable[tuple[str, bytes | None]]) -> dict[str, list[Any]]:
    """Return keys as the parameters of `_keys`; a message without a key blocks none."""
    known = sorted({(topic, key) for topic, key in keys if key is not None})
    return {"p_topic": [topic for topic, _ in known], "p_key": [key for _, key in known]}


def retry_requests(wanted: sa.ColumnElement[bool]) -> tuple[sa.Update, sa.Update]:
    """Return the statements with which an operator requests a retry of the parked messages that match `wanted`.

    A message in the line of its key requests the key: one row, however long the line, which also covers whatever joins
    it. An undecodable message is not in a line, and is requested by itself.
    """
    keys = sa.update(PARKED_KEYS).where(_same_key, IN_LINE, wanted)
    return keys.values(retry_requested_at=sa.func.now()), (
        sa.update(PARKED).values(retry_requested_at=sa.func.now()).where(~IN_LINE, wanted)
    )


def _headers_to_json(headers: Iterable[tuple[str, bytes | None]]) -> list[list[str | None]]:
    # Values are kept byte for byte. Names are text, as far as JSONB can hold it, which excludes NUL.
    return [
        [name.replace("\x00", "\\x00"), None if value is None else base64.b64encode(value).decode()]
        for name, value in headers
    ]


@contextmanager
def translated() -> Iterator[None]:
    """Turn errors that no message is to blame for into `Outage` or `Conflict`; leave the others as they are."""
    try:
        yield
    except Exception as error:
        if (of_the_world := translate(error)) is not None:
            raise of_the_world from error
        raise


def translate(error: BaseException) -> Outage | Conflict | None:
    """Return an error as `Outage` or `Conflict`; None if a message may be to blame, or it is not a database error."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if isinstance(cause, sa.exc.TimeoutError):  # no free connection in the pool
        return Outage(type(cause).__name__)
    if not isinstance(cause, psycopg.Error):
        return None
    state = cause.sqlstate
    if state is None:
        return None if isinstance(cause, _NOT_SENT) else Outage(reason(cause), _cause_of_refusal(cause))
    if state.startswith(_CONFLICTS):
        return Conflict(state)
    if state.startswith(_OF_A_MESSAGE):
        return None
    return Outage(state, _CAUSES.get(state) or _CAUSES.get(state[:2]) or Cause.OTHER)


def reason(error: BaseException) -> str:
    """Return what is wrong with a connection: why the server did not let us in, or else the error's name.

    libpq passes on no SQLSTATE of a connection that was refused, so this reads its text; a server that speaks another
    language than English is misunderstood, and then the name is all.
    """
    cause = getattr(error, "orig", None) or error
    return next((meant for text, (meant, _) in _REFUSALS.items() if text in str(cause)), type(cause).__name__)


def _cause_of_refusal(error: psycopg.Error) -> Cause:
    return next((cause for text, (_, cause) in _REFUSALS.items() if text in str(error)), Cause.AWAY)


# Statements, built and compiled once.


def _array(name: str, type_: sa.types.TypeEngine[Any]) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=ARRAY(type_))


def unnest(**arrays: sa.types.TypeEngine[Any]) -> sa.TableValuedAlias:
    """Return a table made of arrays, each bound to the parameter of its name; `n` numbers the rows."""
    parameters = [_array(name, type_) for name, type_ in arrays.items()]
    columns = [sa.column(name, type_) for name, type_ in arrays.items()]
    return sa.func.unnest(*parameters).table_valued(*columns, with_ordinality="n", name="batch").render_derived()


_ids = unnest(ids=sa.Uuid())
_remembered = (
    insert(INBOX)
    .from_select(
        ["id", "received_at"],
        # Sorted, since two consumers that briefly have the same records must not deadlock.
        sa.select(_ids.c.ids, sa.bindparam("now", type_=INBOX.c.received_at.type)).order_by(_ids.c.ids),
    )
    .on_conflict_do_nothing()
    .returning(INBOX.c.id)
    .cte("remembered")
)
# It returns the ids that were known: almost always none, so there is nothing to read.
# The relay relies on every transaction having its number before it takes numbers of the outbox: one that records no id
# might not write anything before that.
_numbered = sa.func.pg_current_xact_id().is_not(None)
_CLAIM_INBOX = sa.union_all(
    sa.select(_ids.c.ids).where(_ids.c.ids.not_in(sa.select(_remembered.c.id))),
    sa.select(INBOX.c.id).where(INBOX.c.id == sa.any_(_array("looked_up", sa.Uuid())), _numbered),
)
_due = unnest(p_id=sa.Uuid(), p_due=TIMER.c.due_at.type)
_CLAIM_TIMERS = sa.delete(TIMER).where(TIMER.c.id == _due.c.p_id, TIMER.c.due_at == _due.c.p_due).returning(TIMER.c.id)
_CLEAR_TIMERS = sa.delete(TIMER).where(TIMER.c.id == sa.any_(_array("ids", sa.Uuid())))
_keys = unnest(p_topic=sa.Text(), p_key=PARKED_KEYS.c.key.type)
_same_key = sa.and_(PARKED.c.topic == PARKED_KEYS.c.topic, PARKED.c.key == PARKED_KEYS.c.key)
_named = sa.and_(PARKED_KEYS.c.topic == _keys.c.p_topic, PARKED_KEYS.c.key == _keys.c.p_key)
IN_LINE = sa.and_(PARKED.c.why != Why.UNDECODABLE.value, PARKED.c.key.is_not(None))
"""Parked messages that block their key: those that failed, and those behind them."""

_CLAIM_PARKED = (
    sa.delete(PARKED)
    .where(PARKED.c.id == sa.any_(_array("ids", sa.Uuid())))
    .returning(PARKED.c.id, PARKED.c.topic, PARKED.c.key, PARKED.c.why)
)
_LOCK_PARKED_KEYS = (
    sa.select(PARKED_KEYS.c.key)
    .where(sa.exists().where(_same_key, PARKED.c.id == sa.any_(_array("ids", sa.Uuid()))))
    .order_by(PARKED_KEYS.c.topic, PARKED_KEYS.c.key)
    .with_for_update()
)
_UNBLOCK = sa.delete(PARKED_KEYS).where(_named, ~sa.exists().where(_same_key, IN_LINE))
_REQUEST_KEYS = sa.update(PARKED_KEYS).values(retry_requested_at=sa.func.now()).where(_named)
_RETRY_FAILED = (
    sa.update(PARKED)
    .values(
        code=sa.bindparam("p_code"),
        detail=sa.bindparam("p_detail"),
        attempts=PARKED.c.attempts + 1,
        retry_requested_at=None,
        why=sa.case((PARKED.c.why == Why.BEHIND.value, Why.FAILED.value), else_=PARKED.c.why),
    )
    .where(PARKED.c.id == sa.bindparam("p_id"))
    .returning(PARKED.c.topic, PARKED.c.key, PARKED.c.why)
)

RETRIED_KEYS = 100
RETRIED_BYTES = 16 << 20
"""The limits of a batch of retries: keys side by side, and bytes (but at least one message)."""

_retried = (
    sa.select(PARKED_KEYS.c.topic, PARKED_KEYS.c.key)
    .where(PARKED_KEYS.c.retry_requested_at.is_not(None))
    .order_by(PARKED_KEYS.c.retry_requested_at, PARKED_KEYS.c.topic, PARKED_KEYS.c.key)
    .limit(RETRIED_KEYS)
    .cte("retried")
)
_size = sa.func.pg_column_size(PARKED.c.headers) + sa.func.coalesce(sa.func.octet_length(PARKED.c.value), 0)
_most = sa.bindparam("most", type_=sa.Integer)
_share = _most / sa.func.greatest(sa.select(sa.func.count()).select_from(_retried).scalar_subquery(), 1)
_line = (
    sa.select(PARKED.c.id, PARKED.c.seq, _size.label("size"))
    .where(PARKED.c.topic == _retried.c.topic, PARKED.c.key == _retried.c.key, IN_LINE)
    .order_by(PARKED.c.seq)
    .limit(sa.func.greatest(_share, 1))
    .lateral("line")
)
_beside = (
    sa.select(PARKED.c.id, PARKED.c.seq, _size.label("size"))
    .where(PARKED.c.retry_requested_at.is_not(None), ~IN_LINE)
    .order_by(PARKED.c.seq)
    .limit(_most)
)
_wanted = sa.union_all(
    sa.select(_line.c.id, _line.c.seq, _line.c.size).select_from(_retried.join(_line, sa.true())),
    sa.select(_beside.subquery("beside")),
).subquery("wanted")
_bounded = sa.select(
    _wanted.c.id,
    sa.func.sum(_wanted.c.size).over(order_by=_wanted.c.seq).label("bytes"),
    sa.func.row_number().over(order_by=_wanted.c.seq).label("n"),
).subquery("bounded")
_RETRIES = (
    sa.select(PARKED)
    .join(_bounded, _bounded.c.id == PARKED.c.id)
    .where(_bounded.c.n <= _most, sa.or_(_bounded.c.bytes <= RETRIED_BYTES, _bounded.c.n == 1))
    .order_by(PARKED.c.seq)
)
_requested = [sa.exists().select_from(t).where(t.c.retry_requested_at.is_not(None)) for t in (PARKED_KEYS, PARKED)]
_ANY_RETRIES = sa.select(sa.or_(*_requested))
_NEXT_TIMER = sa.select(sa.func.min(TIMER.c.due_at))
_ANY_BLOCKED = sa.select(PARKED_KEYS.c.topic).limit(sa.literal_column("1"))
_BLOCKED = (
    sa.select(PARKED_KEYS.c.topic, PARKED_KEYS.c.key).join(_keys, _named).with_for_update(read=True, of=PARKED_KEYS)
)

_OUTGOING = ("id", "type", "key", "value", "correlation_id", "causation_id", "actor", "traceparent", "requester")
_out = unnest(**{f"p_{name}": OUTBOX.c[name].type for name in _OUTGOING})
_SEND = sa.insert(OUTBOX).from_select(
    [*_OUTGOING, "made_at"],
    sa.select(*(_out.c[f"p_{name}"] for name in _OUTGOING), sa.bindparam("now", type_=OUTBOX.c.made_at.type)).order_by(
        _out.c.n
    ),
)


def _often(mapped: Mapped[Any, Any]) -> list[str]:
    return [name for name in mapped.changing if name not in mapped.rarely]


def _as_is(value: Any) -> Any:
    return value


def _column(rows: Sequence[Any], name: str, encode: Converter = None) -> list[Any]:
    """Return one field of many rows, as its column expects it."""
    values = map(attrgetter(name), rows)
    return list(values) if encode is None else [encode(value) for value in values]


_timer = unnest(
    ids=sa.Uuid(),
    dues=TIMER.c.due_at.type,
    types=sa.Text(),
    keys=sa.Text(),
    bodies=TIMER.c.value.type,
    correlations=sa.Text(),
    actors=sa.Uuid(),
    traces=sa.Text(),
)
_insert_timers = insert(TIMER).from_select(
    ["id", "due_at", "type", "key", "value", "correlation_id", "actor", "traceparent"],
    sa.select(*(column for column in _timer.c if column.name != "n")),
)
_SET_TIMERS = _insert_timers.on_conflict_do_update(
    index_elements=[TIMER.c.id],
    set_={column.name: _insert_timers.excluded[column.name] for column in TIMER.columns if column.name != "id"},
)


def _batch(mapped: Mapped[Any, Any], names: Sequence[str]) -> tuple[sa.TableValuedAlias, dict[str, Any]]:
    """Return a table for a batch of rows, and each column's value from it: JSON travels as text."""
    columns = [mapped.table.c[name] for name in names]
    types = {c.name: sa.Text() if isinstance(c.type, JSONB) else c.type for c in columns}
    batch = unnest(**{f"p_{name}": type_ for name, type_ in types.items()})
    values = {
        c.name: batch.c[f"p_{c.name}"].cast(JSONB) if isinstance(c.type, JSONB) else batch.c[f"p_{c.name}"]
        for c in columns
    }
    return batch, values


def waiting_rows(alarm: Alarm[Any], *columns: sa.ColumnElement[Any]) -> "sa.Select[Any]":
    """Select from the rows of an alarm, the next ones first; those whose key is blocked wait until it is not."""
    table, key = alarm.mapped.table, sa.func.convert_to(sa.cast(alarm.mapped.key_column, sa.Text), "UTF8")
    blocked = sa.exists().where(PARKED_KEYS.c.topic == TIMERS, PARKED_KEYS.c.key == key).correlate(table)
    return sa.select(*columns).select_from(table).where(alarm.waiting, ~blocked).order_by(alarm.moment)


@cache
def _fetch(mapped: Mapped[Any, Any], sets: tuple[tuple[str, ...], ...], for_update: bool) -> sa.Executable:
    """Return the query for rows by key, and by sets with values in these columns.

    The sets' keys are found first, in the same statement: rows are locked in one order, whatever led to them.
    """
    key = mapped.key_column
    keys: sa.ColumnElement[Any] = _array("keys", key.type)
    for number, names in enumerate(sets):
        keys = keys.op("||")(sa.func.array(_keys_of(mapped, names, number).scalar_subquery(), type_=keys.type))
    found = sa.select(*mapped.columns).where(key == sa.any_(keys))
    return found.order_by(key).with_for_update() if for_update else found


@cache
def _take(mapped: Mapped[Any, Any], names: tuple[str, ...], *, skip_locked: bool) -> sa.Executable:
    columns = [mapped.table.c[name] for name in names]
    matching = [column == sa.bindparam(f"p_{column.name}", type_=column.type) for column in columns]
    found = sa.select(*mapped.columns).where(*matching).order_by(mapped.key_column)
    return found.limit(sa.bindparam("most", type_=sa.Integer)).with_for_update(skip_locked=skip_locked)


@cache
def _keys_of(mapped: Mapped[Any, Any], names: tuple[str, ...], number: int = 0) -> sa.Select[Any]:
    table = mapped.table.alias()
    among = [table.c[name] == sa.any_(_array(f"p{number}_{name}", table.c[name].type)) for name in names]
    return sa.select(table.c[mapped.key_column.name]).where(*among)


@cache
def _insert(mapped: Mapped[Any, Any]) -> sa.Executable:
    """Return the statement that inserts rows in the order of their keys: two batches may bring the same new ones.

    Rows that are only appended have no key yet, and keep their order.
    """
    batch, values = _batch(mapped, mapped.names)
    order = values.get(mapped.key_column.name, batch.c.n)
    return sa.insert(mapped.table).from_select(list(values), sa.select(*values.values()).order_by(order))


@cache
def _update(mapped: Mapped[Any, Any]) -> sa.Executable:
    _, values = _batch(mapped, mapped.changing)
    key = values.pop(mapped.key_column.name)
    values |= {name: sa.func.coalesce(values[name], mapped.table.c[name]) for name in mapped.rarely}
    return sa.update(mapped.table).values(values).where(mapped.key_column == key)


@cache
def _delete(mapped: Mapped[Any, Any]) -> sa.Executable:
    key = mapped.key_column
    return sa.delete(mapped.table).where(key == sa.any_(_array("keys", key.type)))
