"""What a service's database is asked, with the rights of the service's own role."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from deploy.operator.cli import mail, parked, partitions, saga, transfer
from deploy.operator.cli.connection import Connection
from deploy.operator.cli.doctor.facts import (
    Fit,
    Leader,
    Mails,
    ParkedMessages,
    Process,
    Schema,
    Stop,
    Stuck,
    Waits,
)
from deploy.operator.cli.doctor.questions import Questions
from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.topics import Principal
from services.chassis import migrate
from services.chassis.database import Why
from services.chassis.open_work import kinds_of
from services.chassis.postgres import OUTBOX
from services.chassis.process_names import ProcessName
from services.chassis.relay import LOCK
from services.chassis.service import Service

_MOVES_S = 1.5
"""How long the relay's lock may be free while it moves from one replica to another."""

MOST = 1_000
"""So many stuck sagas and transfers are counted; more count as that many."""

_ACTIVITY = sa.table(
    "pg_stat_activity",
    *map(sa.column, ("pid", "datname", "backend_type", "application_name", "client_addr", "state_change")),
)
_LOCKS = sa.table("pg_locks", *map(sa.column, ("pid", "locktype", "classid", "objid", "objsubid", "granted")))

_here = (_ACTIVITY.c.datname == sa.func.current_database(), _ACTIVITY.c.backend_type == "client backend")
_address = sa.func.coalesce(sa.func.host(_ACTIVITY.c.client_addr), "")
_PROCESSES = (
    sa.select(_ACTIVITY.c.application_name, _address.label("address"), sa.func.count().label("connections"))
    .where(*_here, _ACTIVITY.c.pid != sa.func.pg_backend_pid())
    .group_by(_ACTIVITY.c.application_name, _address)
    .order_by(_ACTIVITY.c.application_name, _address)
)
_silent_s: sa.ColumnElement[Any] = sa.extract("epoch", sa.func.clock_timestamp() - _ACTIVITY.c.state_change)
# A lock of one number shows as its two halves.
_LEADER = (
    sa.select(_ACTIVITY.c.application_name, _ACTIVITY.c.pid, _silent_s.label("silent_s"))
    .join_from(_LOCKS, _ACTIVITY, _ACTIVITY.c.pid == _LOCKS.c.pid)
    .where(
        *_here,
        _LOCKS.c.locktype == "advisory",
        _LOCKS.c.granted,
        _LOCKS.c.objsubid == 1,
        sa.cast(_LOCKS.c.classid, sa.BigInteger) == LOCK >> 32,
        sa.cast(_LOCKS.c.objid, sa.BigInteger) == LOCK & 0xFFFFFFFF,
    )
)
_NEXT_TYPE = sa.select(OUTBOX.c.type).order_by(OUTBOX.c.seq).limit(1)


def questions(connection: Connection, service: Service) -> Questions:
    """Return what to ask a service's database: the names are those of `facts.Database`."""
    principal = service.principal
    asked: dict[str, Callable[..., Any]] = {
        "schema": schema,
        "processes": processes,
        "leader": leader,
        "next_type": next_type,
        "waits": partial(waits, service),
        "parked": messages_parked,
        "stops": stops,
        "sagas": sagas,
        "transfers": transfers,
        "mails": mails,
    }
    return {name: partial(each, connection, principal) for name, each in asked.items()}


def schema(connection: Connection, service: Principal) -> Schema:
    """Ask for the revision, and compare it with this version's."""
    state = connection.ask(service, partial(migrate.state, service))
    known = migrate.known(service)
    return Schema(state.revision, known.head, _fit(known, state), state.read_only)


def _fit(known: migrate.Known, state: migrate.State) -> Fit:
    suits = known.suits(state.revision, state.oldest)
    if state.revision == known.head:
        return Fit.CURRENT
    if state.revision is None or state.revision in known.all:
        return Fit.BEHIND if suits else Fit.OLDER
    return Fit.AHEAD if suits else Fit.NEWER


def processes(connection: Connection, service: Principal) -> Sequence[Process]:
    """Ask which processes are connected. Whatever else is, such as a person's psql, has a name of its own."""
    rows = connection.rows(service, _PROCESSES)
    return [
        Process(name, row.address, row.connections)
        for row in rows
        for name in [ProcessName.read(row.application_name)]
        if name is not None or not row.application_name
    ]


def leader(connection: Connection, service: Principal) -> Leader | None:
    """Ask who holds the relay's lock; once more if it is just moving from one replica to another."""
    rows = connection.rows(service, _LEADER)
    if not rows:
        time.sleep(_MOVES_S)
        rows = connection.rows(service, _LEADER)
    if not rows:
        return None
    name = ProcessName.read(rows[0].application_name)
    return Leader(name.name if name else f"process {rows[0].pid} of the server", max(0.0, float(rows[0].silent_s)))


def next_type(connection: Connection, service: Principal) -> str | None:
    """Ask for the type of the next message to be published, if this version does not know it."""
    rows = connection.rows(service, _NEXT_TYPE)
    return rows[0].type if rows and rows[0].type not in MESSAGES else None


def waits(definition: Service, connection: Connection, service: Principal) -> Mapping[str, Waits]:
    """Ask for all that waits."""
    found: dict[str, Waits] = {}
    for kind in kinds_of(definition):
        count, age_s = connection.rows(service, kind.query)[0]
        before = found.get(kind.what, Waits())
        found[kind.what] = Waits(before.count + count, max(before.oldest_s, float(age_s or 0)))
    return found


def messages_parked(connection: Connection, service: Principal) -> ParkedMessages:
    """Ask for what is parked."""
    by_why = {row.why: row for row in parked.tally(connection, service)}
    counts = {why: by_why[why].messages if why in by_why else 0 for why in Why}
    firsts = {why: by_why[why].first if why in by_why else None for why in Why}
    return ParkedMessages(
        counts[Why.FAILED],
        counts[Why.BEHIND],
        counts[Why.UNDECODABLE],
        firsts[Why.FAILED],
        firsts[Why.UNDECODABLE],
        max((float(row.oldest_s) for row in by_why.values()), default=0.0),
    )


def stops(connection: Connection, service: Principal) -> Sequence[Stop]:
    """Ask for the partitions that stand still."""
    return [
        Stop(f"{row.topic}/{row.partition}", row.position, row.error, float(row.age_s))
        for row in partitions.stops(connection, service)
    ]


def sagas(connection: Connection, service: Principal) -> Stuck:
    """Ask for the sagas that are open for longer than they may."""
    runners = [each for each in saga.RUNNERS if each.service is service]
    found = [each for runner in runners for each in saga.some(connection, runner, False, MOST)]
    return _stuck([(each.row.id, each.row.opened_at) for each in found if each.stuck(_now())])


def transfers(connection: Connection, service: Principal) -> Stuck:
    """Ask for the transfers that have waited for the ledger for too long."""
    found = transfer.pending(connection, MOST) if service is Principal.GROUPS else []
    return _stuck([(each.row.id, each.row.asked_at) for each in found if each.stuck(_now())])


def mails(connection: Connection, service: Principal) -> Mails:
    """Ask for the mails that are parked, or wait for somebody's record."""
    return Mails(*mail.troubles(connection)) if service is Principal.NOTIFICATIONS else Mails()


def _stuck(found: Sequence[tuple[UUID, datetime]]) -> Stuck:
    if not found:
        return Stuck()
    first, since = min(found, key=lambda each: each[1])
    return Stuck(len(found), first, (_now() - since).total_seconds())


def _now() -> datetime:
    return datetime.now(UTC)
