"""Room: the bytes that each saga leaves, in each table, in the write-ahead log and on each topic.

Sagas run with their mails sent. Of tables the rows are counted, with what their pages keep free for updates: the room
of a row's earlier versions is used again after a vacuum. Of indexes it is what their files grow by. Nothing here
depends on how fast the machine is.
"""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from popfax_contracts.topics import SERVICES, Principal
from tests.bench.running import Bench

LIMIT_S = 300.0

QUEUES = {"outbox", "timers"}
"""Tables whose rows go as they come. What their indexes grow by depends on when they are vacuumed."""

_TABLES = """
SELECT relname, pg_indexes_size(oid), coalesce(substring(reloptions::text FROM 'fillfactor=(\\d+)')::int, 100)
FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
"""
# Beside its columns and its header a row has its place in the page's list.
_ROWS = "SELECT count(*), coalesce(sum(pg_column_size(t.*) + 4), 0)::bigint FROM {} t"
_WAITING = "SELECT EXISTS (SELECT FROM mails WHERE state IN ('queued', 'rendered'))"
_LOGGED = "SELECT (pg_current_wal_lsn() - '0/0')::bigint"


async def room(bench: Bench) -> dict[str, Any]:
    """Run sagas, and return what they have left."""
    url = bench.product.stack.postgres.url(Principal.NOTIFICATIONS)
    bench.restart(Principal.NOTIFICATIONS, mail_sender="true")
    await _all_mails_sent(url)
    before, logged = _look(bench), _one(url, _LOGGED)
    await bench.sagas(bench.sizes.room_sagas)
    await _all_mails_sent(url)
    grown = since(before, _look(bench)) | {"wal": _one(url, _LOGGED) - logged}
    bench.restart(Principal.NOTIFICATIONS)
    return {"room": {name: value / bench.sizes.room_sagas for name, value in grown.items()}}


async def _all_mails_sent(url: str) -> None:
    until = time.monotonic() + LIMIT_S
    while _one(url, _WAITING):
        if time.monotonic() > until:
            raise TimeoutError(f"mails are not sent within {LIMIT_S:.0f} s")
        await asyncio.sleep(0.5)


def _look(bench: Bench) -> dict[str, float]:
    """Return all sizes: rows and bytes of tables and indexes (`groups/inbox/rows`), bytes of topics (`topic/…`)."""
    sizes: dict[str, float] = {}
    for principal in SERVICES:
        with _connected(bench.product.stack.postgres.url(principal)) as connection:
            for table, indexes, fillfactor in connection.execute(_TABLES).fetchall():
                if table not in QUEUES:
                    rows, bytes_ = _row(connection, sql.SQL(_ROWS).format(sql.Identifier(table)))
                    place = f"{principal}/{table}"
                    sizes |= {f"{place}/rows": rows, f"{place}/table": bytes_ * 100 / fillfactor}
                    sizes |= {f"{place}/indexes": indexes}
    return sizes | topics(bench.product.stack.directory)


def topics(directory: Path) -> dict[str, float]:
    """Return the size of each topic's records on the broker whose data is somewhere below a directory."""
    sizes: dict[str, float] = {}
    for segment in directory.glob("kafka*/data/popfax.*/*.log"):
        name = f"topic/{segment.parent.name.rpartition('-')[0]}"
        sizes[name] = sizes.get(name, 0) + segment.stat().st_size
    return sizes


def since(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return what has grown, and by how much."""
    grown = {name: size - before.get(name, 0) for name, size in after.items()}
    return {name: size for name, size in grown.items() if size > 0}


def _one(url: str, query: str) -> Any:
    with _connected(url) as connection:
        return _row(connection, query.encode())[0]


def _row(connection: psycopg.Connection[Any], query: bytes | sql.Composed) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return tuple(row)


def _connected(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True)
