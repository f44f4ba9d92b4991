"""Reads the snapshots that invariants are checked on, from the services' databases or the simulation's in memory."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa

from deploy.operator.invariants import (
    GroupsSnapshot,
    LedgerSnapshot,
    NotificationsSnapshot,
    OutboxRow,
    ParkedRow,
    ProvisioningSnapshot,
    RemovalRow,
    Snapshot,
    TimerRow,
)
from deploy.operator.invariants.rows import Ordered
from popfax_contracts.topics import Principal
from services.chassis.memory import MemoryDatabase
from services.chassis.postgres import OUTBOX, PARKED, REMOVALS, TIMER
from services.chassis.rows import AppendOnly, Mapped
from services.groups import tables as groups
from services.ledger import tables as ledger
from services.notifications import tables as notifications
from services.provisioning import tables as provisioning

R = TypeVar("R")


_OF_LEDGER: Mapping[str, Mapped[Any, Any]] = {
    "accounts": ledger.ACCOUNTS,
    "holds": ledger.HOLDS,
    "transfers": ledger.TRANSFERS,
    "entries": ledger.ENTRIES,
    "corrections": ledger.CORRECTIONS,
}
_OF_GROUPS: Mapping[str, Mapped[Any, Any]] = {
    "sagas": groups.SAGAS,
    "subscribers": groups.SUBSCRIBERS,
    "groups": groups.GROUPS,
    "low_balances": groups.LOW_BALANCES,
    "plans": groups.PLANS,
    "options": groups.OPTIONS,
    "memberships": groups.MEMBERSHIPS,
    "invitations": groups.INVITATIONS,
    "tallies": groups.TALLIES,
    "transfers": groups.TRANSFERS,
    "orders": groups.ORDERS,
    "history": groups.HISTORY,
    "commands": groups.COMMANDS,
}
_OF_PROVISIONING: Mapping[str, Mapped[Any, Any]] = {
    "purchases": provisioning.PURCHASES,
    "payments": provisioning.PAYMENTS,
    "sagas": provisioning.SAGAS,
    "subscribers": provisioning.SUBSCRIBERS,
    "addresses": provisioning.ADDRESSES,
    "requests": provisioning.REQUESTS,
    "grants": provisioning.GRANTS,
    "plans": provisioning.PLANS,
    "options": provisioning.OPTIONS,
    "fax_numbers": provisioning.FAX_NUMBERS,
}
_OF_NOTIFICATIONS: Mapping[str, Mapped[Any, Any]] = {
    "people": notifications.PEOPLE,
    "erased": notifications.ERASED,
    "mails": notifications.MAILS,
}

READS: Sequence[tuple[Principal, Mapping[str, Mapped[Any, Any]], bool]] = (
    (Principal.NOTIFICATIONS, _OF_NOTIFICATIONS, True),
    (Principal.GROUPS, _OF_GROUPS, True),
    (Principal.PROVISIONING, {"purchases_before": provisioning.PURCHASES}, False),
    (Principal.LEDGER, _OF_LEDGER, True),
    (Principal.PROVISIONING, _OF_PROVISIONING, True),
)
"""The groups of tables that are each read as of one moment, earliest first; and whether with the chassis's tables.

Effects before their causes, so that a running product never looks broken. A mail that is seen has its membership, its
transfer or its purchase; a membership that began with an account, a transfer that is done and a purchase that is paid
have their entries; a capture has its account, or the saga of its purchase: whatever is written meanwhile.
"""

Tables = dict[tuple[Principal, str], Iterable[Any]]
Progress = Callable[[int], None]
"""Called with the number of rows read since the last call."""


@contextmanager
def snapshots(urls: Mapping[Principal, str], progress: Progress = lambda _: None) -> Iterator[Snapshot]:
    """Open a snapshot of each database, in the order of `READS`, readable until the context ends.

    They are taken within milliseconds of each other, before anything is read. Nothing is written. While
    they are open, the databases keep rows deleted meanwhile. Raises SQLAlchemy's errors.
    """
    with ExitStack() as stack:
        tables: Tables = {}
        for principal, mapped, with_chassis in READS:
            connection = stack.enter_context(_snapshot(urls[principal]))
            tables |= {(principal, name): _stored(connection, each, progress) for name, each in mapped.items()}
            if with_chassis:
                waiting = _stored_chassis_tables(connection, progress)
                tables |= {(principal, name): rows for name, rows in waiting.items()}
        yield _assembled(tables)


@contextmanager
def ledger_snapshot(url: str, progress: Progress = lambda _: None) -> Iterator[LedgerSnapshot]:
    """Open a snapshot of the ledger alone."""
    with _snapshot(url) as connection:
        tables = {name: _stored(connection, each, progress) for name, each in _OF_LEDGER.items()}
        yield LedgerSnapshot(**tables, **_stored_chassis_tables(connection, progress))


def memory_snapshot(
    databases: Mapping[Principal, MemoryDatabase], meanwhile: Callable[[], None] = lambda: None
) -> Snapshot:
    """Return a snapshot of databases in memory; `meanwhile` is called between one database and the next."""
    tables: Tables = {}
    for principal, mapped, with_chassis in READS:
        database = databases[principal]
        tables |= {(principal, name): _contents(database, each) for name, each in mapped.items()}
        if with_chassis:
            tables |= {(principal, name): rows for name, rows in _chassis_contents(database).items()}
        meanwhile()
    return _assembled(tables)


def _assembled(tables: Tables) -> Snapshot:
    def of(principal: Principal) -> dict[str, Any]:
        return {name: rows for (owner, name), rows in tables.items() if owner is principal}

    return Snapshot(
        ledger=LedgerSnapshot(**of(Principal.LEDGER)),
        groups=GroupsSnapshot(**of(Principal.GROUPS)),
        provisioning=ProvisioningSnapshot(**of(Principal.PROVISIONING)),
        notifications=NotificationsSnapshot(**of(Principal.NOTIFICATIONS)),
    )


# --- PostgreSQL -------------------------------------------------------------------------------------------------------

_AT_ONCE = 2_000
"""How many rows are fetched from the server at a time."""


class Unknown(str):
    """A text in an enum's column that is not a member in this version."""

    __slots__ = ()

    @property
    def value(self) -> str:
        """The text, under the name that an enum's member has for it."""
        return str(self)


class Stored(Ordered[R]):
    """A table in PostgreSQL as of one moment: sorted by the server, and read row by row."""

    def __init__(
        self,
        connection: sa.Connection,
        columns: Sequence[sa.Column[Any]],
        make: Callable[[Sequence[Any]], R],
        progress: Progress,
    ) -> None:
        self._connection = connection
        self._columns = {column.name: column for column in columns}
        self._make = make
        self._progress = progress

    def __iter__(self) -> Iterator[R]:
        """Read all rows, in no order."""
        return self._read(sa.select(*self._columns.values()))

    def by(self, columns: Sequence[str]) -> Iterator[R]:
        """Read the rows that have a value in each of these columns, in the order of the columns."""
        wanted = [self._columns[name] for name in columns]
        query = sa.select(*self._columns.values()).where(*(column.is_not(None) for column in wanted))
        return self._read(query.order_by(*map(_as_python_orders, wanted)))

    def distinct(self, column: str) -> Iterable[Any]:
        """Return the distinct values of a column."""
        return list(self._connection.execute(sa.select(self._columns[column]).distinct()).scalars())

    def count(self) -> int:
        """Return how many rows there are."""
        count = sa.select(sa.func.count()).select_from(next(iter(self._columns.values())).table)
        return int(self._connection.execute(count).scalar_one())

    def _read(self, query: sa.Select[Any]) -> Iterator[R]:
        result = self._connection.execution_options(yield_per=_AT_ONCE).execute(query)
        try:
            for block in result.partitions():
                self._progress(len(block))
                yield from map(self._make, block)
        finally:
            result.close()


def counted(rows: Iterable[Any]) -> int:
    """Count the rows of a table."""
    return rows.count() if isinstance(rows, Stored) else sum(1 for _ in rows)


def _as_python_orders(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Sort texts by code point, as Python does, rather than by the database's collation."""
    return column.collate("C") if isinstance(column.type, sa.Text) else column


@contextmanager
def _snapshot(url: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(
        url,
        poolclass=sa.NullPool,
        isolation_level="REPEATABLE READ",
        hide_parameters=True,
        connect_args={
            "connect_timeout": 5,
            "options": "-c timezone=UTC -c default_transaction_read_only=on -c application_name=popfax",
        },
    )
    with engine.connect() as connection:
        connection.execute(sa.select(1))  # the first statement fixes the snapshot's moment
        yield connection


def _stored(connection: sa.Connection, mapped: Mapped[Any, Any], progress: Progress) -> Stored[Any]:
    return Stored(connection, mapped.columns, mapped.tolerant(Unknown).from_values, progress)


def _stored_chassis_tables(connection: sa.Connection, progress: Progress) -> dict[str, Stored[Any]]:
    rows = {
        "timers": (TIMER, TimerRow, ("id", "due_at", "type", "key")),
        "outbox": (OUTBOX, OutboxRow, ("id", "type", "key", "made_at")),
        "parked": (PARKED, ParkedRow, ("id", "topic", "code", "parked_at")),
        "removals": (REMOVALS, RemovalRow, ("of_table", "before")),
    }
    return {
        name: Stored(connection, [table.c[each] for each in columns], partial(_made, row), progress)
        for name, (table, row, columns) in rows.items()
    }


def _made(row: Callable[..., R], values: Sequence[Any]) -> R:
    return row(*values)


# --- memory -----------------------------------------------------------------------------------------------------------


def _contents(database: MemoryDatabase, mapped: Mapped[Any, Any]) -> list[Any]:
    name = mapped.table.name
    if isinstance(mapped, AppendOnly):
        return list(database.contents.appended.get(name, []))
    return list(database.contents.tables.get(name, {}).values())


def _chassis_contents(database: MemoryDatabase) -> dict[str, list[Any]]:
    held = database.contents
    timers = [TimerRow(t.id, t.due_at, t.message.TYPE, t.message.key()) for t, _ in held.timers.values()]
    parked = [ParkedRow(id_, row.parked.record.topic, row.parked.code, None) for id_, row in held.parked.items()]
    return {
        "timers": timers,
        "outbox": [OutboxRow(out.id, out.type, out.key, None) for out in held.outbox],
        "parked": parked,
    }
