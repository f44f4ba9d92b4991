"""Where a saga's CPU goes: by service and phase, and in PostgreSQL by service and statement.

On a product of its own, whose services run with a sampler beside them (`profiled`) and whose PostgreSQL has
pg_stat_statements loaded: neither is in any other figure. What they cost can be read off the figures: the sampler's own
CPU stands among the phases, and the whole cost of a saga here beside its cost without them.
"""

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import psycopg

from deploy.local.ports import Port, Ports
from deploy.local.postgres import PostgresServer
from deploy.local.stack import Database, Stack
from popfax_contracts.topics import SERVICES
from tests.bench.counters import BATCHES
from tests.bench.profiled import WRITTEN_S, Seen, phases_file, read
from tests.bench.running import Bench, Ran

RATE = 100
STATEMENTS = 12
"""How many statements are named: those that take longest."""

_SETTINGS = {
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "top",
    "pg_stat_statements.track_planning": "on",
    "pg_stat_statements.max": "2000",
}
_READ = """
SELECT datname, query, sum(calls)::int, sum(total_plan_time), sum(total_exec_time), sum(rows)::int
FROM pg_stat_statements JOIN pg_database d ON d.oid = dbid WHERE datname = ANY(%s) GROUP BY 1, 2
"""
_BACKENDS = "SELECT pid, coalesce(datname, backend_type) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"


class WithStatements(Stack):
    """A stack whose PostgreSQL counts statements."""

    def _make_postgres(self, port: Port) -> Database:
        return PostgresServer(self.directory / "postgres", port, _SETTINGS)


def stack(directory: Path) -> Stack:
    """Return such a stack, fresh."""
    return WithStatements(directory, Ports.model_construct(), fresh=True)


class Statement(NamedTuple):
    """What one statement of a service took, over all its calls. Times in ms, from its arrival to its end."""

    service: str
    query: str
    calls: int
    plan_ms: float
    exec_ms: float
    rows: int


class Server:
    """Looks into PostgreSQL."""

    def __init__(self, bench: Bench) -> None:
        url = bench.product.stack.postgres.superuser_url.replace("+psycopg", "", 1)
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    def forget(self) -> None:
        """Begin to count statements from nothing."""
        self._connection.execute("SELECT pg_stat_statements_reset()")

    def statements(self) -> list[Statement]:
        """Return what was counted of the services."""
        return [Statement(*row) for row in self._connection.execute(_READ, [[str(each) for each in SERVICES]])]

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU time so far of each service's sessions, and of each of the server's own processes."""
        found: dict[str, float] = {}
        for pid, name in self._connection.execute(_BACKENDS):
            try:
                times = psutil.Process(pid).cpu_times()
            except psutil.NoSuchProcess:
                continue
            found[name] = found.get(name, 0.0) + times.user + times.system
        return found


async def hops(bench: Bench) -> dict[str, Any]:
    """Profile sagas at `RATE` per second, and at full speed."""
    server = Server(bench)
    steady = await _profiled(bench, server, RATE * bench.sizes.steady_s, RATE)
    full = await _profiled(bench, server, bench.sizes.sagas // 3, None)
    return {str(RATE): steady, "full": full}


async def _profiled(bench: Bench, server: Server, count: int, rate: float | None) -> dict[str, Any]:
    server.forget()
    ran = await bench.sagas(count, rate, look=lambda: (_phases(bench), server.cpu_s()))
    (phases, cpu), (phases_then, cpu_then) = ran.looked
    spent = {name: now.booked_since(phases[name]) for name, now in phases_then.items()}
    return {
        "cpu_us": round(ran.product_cpu_us),
        "services_us": {name: _per(each, count) for name, each in spent.items()},
        "postgres_us": _per(_since(cpu_then, cpu), count),
        "kafka_us": round(ran.used["kafka"] / count * 1e6),
        **_by_statement(server.statements(), ran),
    }


def _phases(bench: Bench) -> dict[str, Seen]:
    time.sleep(2 * WRITTEN_S)  # until all have written what they saw up to now
    directory = bench.product.stack.directory
    return {str(each): read(phases_file(directory, each)) for each in SERVICES}


def _since(now: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0.0) for name, value in now.items()}


def _per(spent: dict[str, float], count: int) -> dict[str, int]:
    each = {name: round(seconds / count * 1e6) for name, seconds in spent.items()}
    return {name: us for name, us in sorted(each.items(), key=lambda item: -item[1]) if us > 0}


def _by_statement(statements: Iterable[Statement], ran: Ran) -> dict[str, Any]:
    found = sorted(statements, key=lambda each: -each.plan_ms - each.exec_ms)
    calls = {str(service): sum(each.calls for each in found if each.service == service) for service in SERVICES}
    return {
        "statements_per_saga": {name: round(count / ran.count, 3) for name, count in calls.items()},
        "statements_per_batch": {
            name: round(count / max(ran.counted[name][BATCHES], 1), 1) for name, count in calls.items()
        },
        "slowest": [
            {
                "service": each.service,
                "statement": short(each.query),
                "calls_per_saga": round(each.calls / ran.count, 3),
                "rows_per_saga": round(each.rows / ran.count, 2),
                "plan_us": round(each.plan_ms / ran.count * 1e3),
                "exec_us": round(each.exec_ms / ran.count * 1e3),
            }
            for each in found[:STATEMENTS]
        ],
    }


_WRITES = re.compile(r"(?<!FOR )(?<!DO )\b(INSERT|UPDATE|DELETE)\s+(?:INTO\s+|FROM\s+)?(\w+)")
_READS = re.compile(r"\bFROM\s+(?!unnest\b)(\w+)")


def short(query: str) -> str:
    """Return what a statement does, in a few words: what it writes to which tables, or which it reads or locks."""
    if written := list(dict.fromkeys(_WRITES.findall(query))):
        return ", ".join(f"{verb} {table}" for verb, table in written)
    verb = query.split(maxsplit=1)[0].upper()
    if verb not in ("SELECT", "WITH"):
        return verb
    tables = ", ".join(dict.fromkeys(_READS.findall(query)))
    locks = " FOR UPDATE" if "FOR UPDATE" in query else " FOR SHARE" if "FOR SHARE" in query else ""
    return f"SELECT {tables}{locks}"
