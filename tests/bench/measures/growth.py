"""Growth: what a saga costs once the databases are full, divided by what it costs while they are all but empty.

The databases are filled with copies of what real sagas have left, in every table of every service. The copy of an id is
a hash of the id and the copy's number, the same in all tables and databases, so a copied member is in a copied group,
with a copied account, holds, history and mails. All that is spread over three years, and ids of messages over the
inbox's retention; of what the services remove because of its age, only what is younger is copied. Then everything is
analysed, and the services are started again. It takes some minutes, and 16 GB of disk.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from deploy.local.stack import Stack
from popfax_contracts.topics import SERVICES, Principal
from services.chassis.settings import SagaSettings
from services.notifications.settings import NotificationsSettings
from tests.bench.running import Bench
from tests.bench.sizes import Sizes

RATE = 100

_LEFT_OUT = {
    *("alembic_version", "schema_support", "partition_stops"),  # about the database
    *("outbox", "parked", "parked_keys"),  # passed through
    *("plans", "options"),  # as many as there are products
}
"""The tables that do not grow with the accounts."""

YEARS_DAYS = 3 * 365
"""Over how many days the accounts have come."""

_DAYS = {
    "inbox": SagaSettings.model_fields["inbox_retention_days"].default,
    "sagas": SagaSettings.model_fields["saga_retention_days"].default,
    "mails": NotificationsSettings.model_fields["mail_retention_days"].default,
    "deliveries": NotificationsSettings.model_fields["mail_retention_days"].default,
}
"""The days of which there are still rows where old ones are removed."""

_MOMENTS = {
    *("at", "opened_at", "made_at", "asked_at", "decided_at", "closed_at", "updated_at", "ended_at", "sent_at"),
    *("next_attempt_at", "received_at"),
}
"""The columns that say when something was."""

_SETTINGS = "-c synchronous_commit=off -c maintenance_work_mem=512MB -c max_parallel_maintenance_workers=0"

_COLUMNS = """
SELECT column_name, data_type FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = %s AND is_identity = 'NO' AND is_generated = 'NEVER'
ORDER BY ordinal_position
"""
_TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname"
_CONSTRAINTS = """
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid = %s::regclass AND contype IN ('p', 'u') ORDER BY contype
"""
_INDEXES = """
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
WHERE indrelid = %(table)s::regclass
  AND indexrelid NOT IN (SELECT conindid FROM pg_constraint WHERE conrelid = %(table)s::regclass)
"""


async def growth(bench: Bench) -> dict[str, Any]:
    """Measure, fill, and measure again."""
    empty = await _cost(bench)
    bench.stop(*bench.product.services.values())
    filled = fill(bench.product.stack, bench.sizes)
    full = await _cost(bench)
    return {
        "growth": {
            "rows": filled,
            **{f"empty_{name}": value for name, value in empty.items()},
            **{f"full_{name}": value for name, value in full.items()},
        }
    }


async def _cost(bench: Bench) -> dict[str, Any]:
    """Return a saga's cost at full speed and at `RATE`, for services that have just started and are warm."""
    for principal in SERVICES:
        bench.restart(principal)
    await bench.sagas(bench.sizes.warm_up)
    ran = await bench.sagas(bench.sizes.replica_sagas)
    steady = await bench.sagas(RATE * bench.sizes.steady_s, RATE)
    return {
        "cpu_us": round(ran.product_cpu_us),
        "cpu_us_by_process": ran.costs()["cpu_us_by_process"],
        "cpu_us_at_100": round(steady.product_cpu_us),
        "p99_ms_at_100": steady.latencies()["p99_ms"],
    }


def fill(stack: Stack, sizes: Sizes) -> dict[str, dict[str, int]]:
    """Fill all databases, two at a time; return how many rows each table has then."""
    factor = _factor(stack, sizes)
    with ThreadPoolExecutor(2) as pool:
        filled = list(pool.map(lambda each: _fill_one(stack, each, sizes, factor), SERVICES))
    with _connected(stack.postgres.superuser_url) as connection:
        connection.execute("CHECKPOINT")
    return {str(principal): rows for principal, rows in zip(SERVICES, filled, strict=True)}


def _factor(stack: Stack, sizes: Sizes) -> int:
    """Return how many copies make as many accounts as are wanted."""
    with _connected(stack.postgres.url(Principal.PROVISIONING)) as connection:
        return math.ceil(sizes.grown_accounts / _count(connection, "subscribers"))


def _fill_one(stack: Stack, principal: Principal, sizes: Sizes, factor: int) -> dict[str, int]:
    wanted = {
        "accounts": sizes.grown_accounts,  # the ledger's: only owners have one so far
        "history": sizes.grown_history,
        "inbox": round(sizes.grown_inbox * _SHARES[principal]),
    }
    rows = {}
    with _connected(stack.postgres.url(principal)) as connection:
        for (table,) in connection.execute(_TABLES).fetchall():
            if table in _LEFT_OUT or not (there := _count(connection, table)):
                continue
            days = _DAYS.get(table, YEARS_DAYS)
            copies = math.ceil(wanted[table] / there if table in wanted else factor * days / YEARS_DAYS)
            with _without_indexes(connection, table):
                columns = connection.execute(_COLUMNS, [table]).fetchall()
                connection.execute(copying(table, columns, factor), {"copies": copies, "days": days})
            rows[table] = _count(connection, table)
        connection.execute("VACUUM (ANALYZE)")
    return rows


_SHARES = {
    Principal.GROUPS: 0.45,
    Principal.LEDGER: 0.15,
    Principal.PROVISIONING: 0.25,
    Principal.NOTIFICATIONS: 0.15,
}
"""How the messages of a saga, and so the inboxes' rows, are spread over the services."""


def copying(table: str, columns: Sequence[tuple[str, str]], factor: int) -> sql.Composed:
    """Return the statement that copies a table's rows so many times; columns are names and types.

    A table that gets more than `factor` copies has more rows about the same things: only its key is new.
    """
    wanted = sql.SQL(", ").join(_copied(name, type_, factor) for name, type_ in columns)
    names = sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns)
    where = sql.SQL(" WHERE state = 'assigned'") if table == "fax_numbers" else sql.SQL("")
    return sql.SQL(
        "INSERT INTO {table} ({names}) SELECT {wanted} FROM generate_series(1, %(copies)s) n, {table}{where}"
    ).format(table=sql.Identifier(table), names=names, wanted=wanted, where=where)


def _copied(name: str, type_: str, factor: int) -> sql.Composable:
    column = sql.Identifier(name)
    if type_ == "uuid":
        copy = sql.SQL("n") if name in ("id", "mail_id") else sql.SQL(f"(1 + (n - 1) %% {factor})")
        return sql.SQL("md5({}::text || {})::uuid").format(column, copy)
    if name == "email":
        return sql.SQL("n || '-' || {}").format(column)
    if name in ("number", "fax_number"):
        return sql.SQL("'+' || n || substr({}, 2)").format(column)
    if name in _MOMENTS:
        return sql.SQL("{} - n * interval '1 day' * %(days)s / %(copies)s").format(column)
    if name == "state":
        return sql.SQL("CASE {0} WHEN 'queued' THEN 'sent' ELSE {0} END").format(column)  # the mails of earlier times
    return column


@contextmanager
def _without_indexes(connection: psycopg.Connection[Any], table: str) -> Iterator[None]:
    """Take a table's indexes away for a while: to build one at the end is many times faster."""
    constraints = connection.execute(_CONSTRAINTS, [table]).fetchall()
    indexes = connection.execute(_INDEXES, {"table": table}).fetchall()
    name = sql.Identifier(table)
    for constraint, _ in constraints:
        connection.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(name, sql.Identifier(constraint)))
    for index, _ in indexes:
        connection.execute(sql.SQL("DROP INDEX {}").format(sql.SQL(index)))
    yield
    for constraint, definition in constraints:
        statement = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}")
        connection.execute(statement.format(name, sql.Identifier(constraint), sql.SQL(definition)))
    for _, definition in indexes:
        connection.execute(sql.SQL(definition))


def _count(connection: psycopg.Connection[Any], table: str) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
    assert row is not None
    return int(row[0])


def _connected(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True, options=_SETTINGS)
