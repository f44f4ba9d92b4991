"""The history of one thing: every record, statement, row and line of a log that names it, in the order of time."""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from deploy.operator.invariants import logged
from popfax_contracts.topics import SERVICES, Principal
from tests.e2e.driver import Seen
from tests.nemesis import statements

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d(?::?\d\d)?)?")
_LONGEST = 600

STATEMENTS = "statements"
"""Where, in a run's directory, PostgreSQL writes its statements down: beside the disk that may be full."""


@dataclass(frozen=True, order=True, slots=True)
class Entry:
    """Something that is known to have happened, or was written down, at a moment."""

    at: datetime
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.at:%H:%M:%S.%f} {self.where:24} {self.text[:_LONGEST]}"


def history(subject: str, records: Iterable[Seen], urls: Mapping[Principal, str], directory: Path) -> list[Entry]:
    """Return all that names a subject: an id, or what else is its key. A row stands at the first moment it names."""
    return sorted([*without_rows(subject, records, directory), *_of_databases(subject, urls)])


def without_rows(subject: str, records: Iterable[Seen], directory: Path) -> list[Entry]:
    """Return the records, the statements that name the subject or one of these records, and the lines of logs alone."""
    named = [seen for seen in records if _names(seen, subject)]
    ids = {record.id for seen in named if (record := logged(seen)) is not None}
    return sorted([*_of_topics(named), *_of_statements(subject, ids, directory), *_of_logs(subject, directory)])


def _names(seen: Seen, subject: str) -> bool:
    wanted = subject.encode()
    parts = (seen.key, seen.value, *(text for _, text in seen.headers))
    return any(wanted in (part or b"") for part in parts)


def _of_topics(records: Iterable[Seen]) -> Iterator[Entry]:
    for seen in records:
        place = f"{seen.topic.removeprefix('popfax.')}/{seen.partition}@{seen.offset}"
        record = logged(seen)
        what = f"{record.type} id={record.id}" if record else "unreadable"
        said = f"{what} {(seen.value or b'').decode(errors='replace')}"
        yield Entry(datetime.fromtimestamp(seen.at, UTC), place, said)


def _of_statements(subject: str, ids: Collection[str], directory: Path) -> Iterator[Entry]:
    for each in statements.naming(subject, ids, directory / STATEMENTS):
        yield Entry(each.at, f"{each.session} sql", each.text)


def _of_databases(subject: str, urls: Mapping[Principal, str]) -> Iterator[Entry]:
    for service in SERVICES:
        with psycopg.connect(urls[service].replace("+psycopg", "", 1)) as connection:
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
            for (table,) in tables.fetchall():
                query = sql.SQL("SELECT row_to_json(t)::text FROM {} t WHERE t::text LIKE %s LIMIT 200")
                found = connection.execute(query.format(sql.Identifier(table)), [f"%{subject}%"]).fetchall()
                for (row,) in found:
                    filled = {name: value for name, value in json.loads(row).items() if value is not None}
                    yield Entry(moment_in(row), f"{service}.{table}", json.dumps(filled))


def _of_logs(subject: str, directory: Path) -> Iterator[Entry]:
    for path in sorted([*directory.glob("*.log"), *directory.glob("*/*.log")]):
        with path.open(errors="replace") as lines:
            for line in lines:
                if subject in line:
                    yield Entry(moment_in(line), path.stem, line.strip())


def moment_in(text: Any) -> datetime:
    """Return the first moment in time that a text names; the end of time if it names none."""
    moments = [datetime.fromisoformat(found) for found in _MOMENT.findall(str(text))]
    known = [each if each.tzinfo else each.replace(tzinfo=UTC) for each in moments]
    return min(known, default=datetime.max.replace(tzinfo=UTC))
