"""Runs a replay: reads the topics, tells the story, and commits it, or only says what it would do."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from deploy.operator.replay import window
from deploy.operator.replay.again import NEAR, Replay, Report
from deploy.operator.replay.particular import Particular
from deploy.operator.replay.story import Heard, firsts, heard_of, steps, told_of
from popfax_contracts.topics import GROUPS_COMMANDS_FROM_HTTP, PROVISIONING_DIRECTORY, TOPICS, Principal
from services.chassis import migrate
from services.chassis.envelopes import id_of
from services.chassis.pipeline import Pipeline
from services.chassis.postgres import INBOX, driver_of, engine
from services.chassis.relay import LOCK

BEGINNING = datetime.fromtimestamp(0, UTC)


class InUse(Exception):
    """Somebody else works with the database; the text says who."""


class NotMigrated(Exception):
    """The database is not one that this version works on; the text says why."""


class TooLate(Exception):
    """The topics are to be read from a moment that the database does not know any more; the text says which it does."""


async def replay(
    url: str,
    kafka: Mapping[str, Any],
    particular: Particular,
    since: datetime,
    begin: Callable[[str], None],
    progress: window.Progress,
    *,
    commit: bool,
) -> Report:
    """Replay a stopped service; commit only if `commit` is set, and if everything happened again as it did.

    Raises `InUse`, `TooLate`, and the errors of both servers.
    """
    async with _alone(url, particular.definition.principal) as connection:
        known_until = await _known_until(connection, particular)
        if since > known_until - NEAR:
            raise TooLate(f"the database knows nothing after {known_until:%Y-%m-%d %H:%M:%S} UTC")
        service = particular.definition
        begin("topics")
        if particular.forgets is not None:
            particular.people = _people(kafka, progress)
        own = [each for each in TOPICS if each.writer is service.principal and each is not GROUPS_COMMANDS_FROM_HTTP]
        told = firsts(
            told for record in window.read(kafka, own, since, progress) if (told := told_of(record)) is not None
        )
        pipeline = Pipeline(await driver_of(connection), set())
        again = Replay(connection, pipeline, told, particular, known_until)
        records = window.read(kafka, service.topics, since, progress)
        heard = [heard_of(arrival) for record in records if (arrival := again.shell.read(record)) is not None]
        committed = window.committed(kafka, service.principal)
        for gone in window.gone(kafka, {*own, *service.topics}, since):
            problem = f"{gone.topic}/{gone.partition} begins at offset {gone.offset}: what was before is gone"
            again.report.problems.append(problem)
        begin("messages")
        async with again.begin() as tx:
            await particular.begin(tx, told, heard)
        lost_at = _lost_at(heard, committed, max((each.at for each in told), default=known_until))
        await again.tell(steps(heard, told), committed, lost_at)
        await pipeline.flush()
        if commit and not again.report.problems:
            await connection.commit()
        return again.report


@asynccontextmanager
async def _alone(url: str, service: Principal) -> AsyncIterator[AsyncConnection]:
    """Open a transaction in a database of this version that nobody else uses, neither a relay nor a page."""
    made = engine(url, 1, idle_in_transaction_session_timeout="0")
    try:
        if reason := await migrate.trouble(service, made):
            raise NotMigrated(reason)
        async with made.connect() as connection:
            if not await connection.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(LOCK))):
                raise InUse("a relay works on its outbox")
            if others := await connection.scalar(OTHERS):
                raise InUse(f"{others} other sessions use its database")
            yield connection
    finally:
        await made.dispose()


OTHERS = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = current_user"
    " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)
"""Counts the other sessions of the service's role in its database."""


async def _known_until(connection: AsyncConnection, particular: Particular) -> datetime:
    """Return the moment of the newest thing that the database knows."""
    found = [
        await connection.scalar(sa.select(sa.func.max(column))) for column in (INBOX.c.received_at, *particular.moments)
    ]
    return max((moment for moment in found if moment is not None), default=BEGINNING)


def _lost_at(heard: Sequence[Heard], committed: Mapping[tuple[str, int], int], told_at: datetime) -> datetime:
    """Return about when the service last worked: it published something then, or committed an offset."""
    done = (each.received_at for each in heard if each.arrival.record.offset < committed.get(each.place, 0))
    return max([told_at, *done])


def _people(kafka: Mapping[str, Any], progress: window.Progress) -> dict[UUID, bool]:
    """Return everybody in the directory, and whether they are still there."""
    people: dict[UUID, bool] = {}
    for record in window.read(kafka, [PROVISIONING_DIRECTORY], BEGINNING, progress):
        if (id_ := id_of(record.key)) is not None:
            people[id_] = bool(record.value)
    return people


def replicas(kafka: Mapping[str, Any], service: Principal) -> int:
    """Return how many replicas of a service are in its consumer group."""
    return window.members(kafka, service)
