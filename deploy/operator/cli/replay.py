"""`popfax replay`: brings a service whose database was restored to what it had told the others."""

import asyncio
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import psycopg
import sqlalchemy as sa
import structlog
import typer

from deploy.operator.cli.auditing import Progress
from deploy.operator.cli.connection import Connection, connect, require_kafka
from deploy.operator.cli.errors import Exit, Failure, Unreachable, UsageError
from deploy.operator.cli.options import EnvFile, Json
from deploy.operator.cli.output import complain, print_json, print_table, say
from deploy.operator.replay.again import Report
from deploy.operator.replay.particular import Mails, particular_of
from deploy.operator.replay.running import OTHERS, InUse, NotMigrated, TooLate, replay, replicas
from popfax_contracts.topics import SERVICES, Principal
from services.chassis.database import Conflict, Outage

_LEFT_S = 20.0
"""How long a replica that was stopped may still count as a member of its group."""

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def replay_(
    service: Annotated[Principal, typer.Option("--service", help="The service whose database was restored.")],
    since: Annotated[
        str,
        typer.Option("--since", help="From when the topics are read: a while before the backup, in UTC (ISO 8601)."),
    ],
    apply: Annotated[bool, typer.Option("--apply", help="Do it. Without this, it says what it would do.")] = False,
    accepted: Annotated[
        Path | None,
        typer.Option(
            "--accepted",
            help="Notifications: a file with the Message-IDs that the mail server has accepted since, such as its log. "
            "The other mails are sent. Without it, all that may have been sent count as sent.",
        ),
    ] = None,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Handle again what a restored database has forgotten, as it was handled: 0 all as it was, 1 not, and nothing done.

    The service is stopped meanwhile. Its own events say what it decided, in which order and when; whatever comes out
    otherwise is named, and then nothing is changed. What is published already is not published again. It can be
    repeated.
    """
    if service not in SERVICES:
        raise UsageError(f"{service} has no database")
    particular = particular_of(service)
    if accepted is not None:
        if not isinstance(particular, Mails):
            raise UsageError("--accepted is for notifications")
        particular.accepted = _ids(accepted)
    connection = connect(env_file)
    require_kafka(connection.admin)
    _require_stopped(connection, service)
    progress = Progress()
    with progress.shown(), _without_logs():
        url, kafka = connection.database_url(service), connection.admin
        running = replay(url, kafka, particular, _moment(since), progress.begin, progress, commit=apply)
        try:
            report = asyncio.run(running)
        except InUse as error:
            raise Failure(f"stop {service} first, its web processes too: {error}") from error
        except NotMigrated as error:
            raise Failure(f"migrate {service}'s database first: {error}") from error
        except TooLate as error:
            raise Failure(f"--since is too late: {error}") from error
        except (sa.exc.SQLAlchemyError, psycopg.Error, Outage, Conflict) as error:
            raise Unreachable(
                f"{service}'s database does not answer, or refuses: {error or type(error).__name__}"
            ) from error
    _tell(report, apply, json)


@contextmanager
def _without_logs() -> Iterator[None]:
    """Leave out what the service's code would log, of which the report tells, and log again afterwards."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text} is no moment such as 2026-03-01T10:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _ids(file: Path) -> frozenset[UUID]:
    """Return the ids of the mails in a mail server's log, whatever its format: a Message-ID begins with one."""
    try:
        return frozenset(map(UUID, _ID.findall(file.read_text(errors="replace").lower())))
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error


def _require_stopped(connection: Connection, service: Principal) -> None:
    """Raise Failure while the service runs. A replica that has ended counts as one of its group for a while."""
    ((sessions,),) = connection.rows(service, OTHERS)
    connection.close()
    deadline = time.monotonic() + _LEFT_S
    while left := replicas(connection.admin, service):
        if sessions or time.monotonic() > deadline:
            raise Failure(f"stop {service} first: {left} replicas are in its consumer group")
        time.sleep(0.5)


_COUNTS = {
    "again": "messages handled again",
    "due": "timers, and what operators did",
    "decided": "decided now: nobody was told of an outcome",
    "left": "left to the service",
    "lost": "messages to be published: they never were",
    "settled": "messages out of the outbox: they were published",
}


def _tell(report: Report, applied: bool, json: bool) -> None:
    if json:
        print_json(asdict(report) | {"applied": applied and not report.problems})
    else:
        say(f"The database knew everything up to {report.known_until:%Y-%m-%d %H:%M:%S} UTC.")
        shown: list[tuple[Any, str]] = [(getattr(report, name), words) for name, words in _COUNTS.items()]
        print_table(("", ""), shown)
        for note in report.notes:
            say(f"  {note}")
        for problem in report.problems:
            say(f"  ✗ {problem}", "red")
    if report.problems:
        if not json:
            complain(f"{len(report.problems)} things can't happen again as they did: nothing was changed")
        raise typer.Exit(Exit.NO)
    if not json:
        say("✓ done: start the service, then popfax audit" if applied else "✓ this is what --apply does", "green")
