"""`popfax saga`: open and stuck sagas, and the two things that an operator can do about them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
import typer

from deploy.operator.cli.connection import Connection, connect
from deploy.operator.cli.errors import Exit, Failure, Unreachable
from deploy.operator.cli.intervening import begins, hand_over, the_one, wait_for
from deploy.operator.cli.options import EnvFile, Json, Timeout
from deploy.operator.cli.output import ago, out, print_json, print_table, say, short
from popfax_contracts.message import Message
from popfax_contracts.topics import Principal
from services.chassis.rows import Mapped
from services.chassis.sagas import ENDED, CancelSaga, RetrySaga, Saga, SagaRow, Sagas
from services.groups import sagas as groups
from services.groups import tables as groups_tables
from services.provisioning import sagas as provisioning
from services.provisioning import tables as provisioning_tables

app = typer.Typer(help="List, show, retry and cancel sagas.", no_args_is_help=True)


@dataclass(frozen=True, slots=True)
class Runner:
    """A service that runs sagas."""

    service: Principal
    sagas: Sagas
    table: Mapped[UUID, SagaRow]


RUNNERS = (
    Runner(Principal.GROUPS, groups.SAGAS, groups_tables.SAGAS),
    Runner(Principal.PROVISIONING, provisioning.SAGAS, provisioning_tables.SAGAS),
)


@dataclass(frozen=True, slots=True)
class Found:
    """A saga, and the service that runs it."""

    runner: Runner
    row: SagaRow

    @property
    def definition(self) -> Saga | None:
        """The saga's definition; None if this version has none."""
        return self.runner.sagas.definitions.get(self.row.name)

    def stuck(self, now: datetime) -> bool:
        """Return whether it has been open for longer than its definition allows."""
        definition, row = self.definition, self.row
        return row.ended_at is None and definition is not None and now - row.opened_at > definition.deadline

    def data(self) -> Mapping[str, Any]:
        """Return the saga's data without its personal fields; nothing if its definition is unknown."""
        if self.definition is None:
            return {}
        return {name: value for name, value in self.row.data.items() if name not in self.definition.forget}


SagaId = Annotated[str, typer.Argument(help="The saga's id, or as much of its beginning as is unique.")]


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Include those that have ended.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, the oldest open ones first.")] = 100,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """List the open sagas with step and age; a stuck one has been open for longer than its definition allows."""
    connection = connect(env_file)
    found = sorted((saga for runner in RUNNERS for saga in some(connection, runner, everything, limit)), key=_age)
    now = datetime.now(UTC)
    if json:
        print_json([_summary(saga, now) for saga in found[:limit]])
        return
    if not found:
        say("No saga." if everything else "No open saga.")
        return
    print_table(
        ("saga", "of", "what", "at", "status", "age", ""),
        [
            (
                short(row.id),
                saga.runner.service,
                row.name,
                row.step,
                row.status,
                ago(row.opened_at, now),
                _remark(saga, now),
            )
            for saga in found[:limit]
            for row in [saga.row]
        ],
    )


def some(connection: Connection, runner: Runner, everything: bool, limit: int) -> Sequence[Found]:
    """Return the open sagas of a service, oldest first; with `everything` those that have ended too, latest first."""
    columns = runner.table.table.c
    query = sa.select(*runner.table.columns).limit(limit)
    if everything:
        query = query.order_by(columns.ended_at.desc().nulls_first(), columns.opened_at)
    else:
        query = query.where(columns.ended_at.is_(None)).order_by(columns.opened_at)
    return [Found(runner, runner.table.from_values(row)) for row in connection.rows(runner.service, query)]


def _age(saga: Found) -> tuple[float, float]:
    """Sort key: open sagas first, oldest first; then ended ones, latest first."""
    ended_at = saga.row.ended_at
    return (-ended_at.timestamp() if ended_at else -math.inf, saga.row.opened_at.timestamp())


@app.command()
def show(saga: SagaId, json: Json = False, env_file: EnvFile = None) -> None:
    """Show one saga: where it is, what happened to it, what it remembers. Personal data is left out."""
    found = _find(connect(env_file), saga)
    now = datetime.now(UTC)
    if json:
        print_json(_summary(found, now) | {"data": found.data(), "trail": found.row.trail})
        return
    _show(found, now)


@app.command()
def retry(saga: SagaId, timeout: Timeout = 5.0, json: Json = False, env_file: EnvFile = None) -> None:
    """Ask again for what a saga is waiting for. The participants give the same answers again, so this is harmless."""
    _intervene(connect(env_file), saga, lambda id_: RetrySaga(saga_id=id_), timeout, json)


@app.command()
def cancel(saga: SagaId, timeout: Timeout = 5.0, json: Json = False, env_file: EnvFile = None) -> None:
    """Call a saga off. It takes back what was done, unless it is past its pivot: then the answer is no (1)."""
    _intervene(connect(env_file), saga, lambda id_: CancelSaga(saga_id=id_), timeout, json)


def _intervene(
    connection: Connection, saga: str, make: Callable[[UUID], Message], timeout_s: float, json: bool
) -> None:
    found = _find(connection, saga)
    before, service = found.row, found.runner.service
    if before.status in ENDED:
        raise Failure(f"saga {before.id} has ended: {before.status}")
    message = make(before.id)
    hand_over(connection, service, message, before.correlation_id, before.actor)
    found = _await_change(connection, before, timeout_s)
    after = found.row
    new = [line for line in after.trail if line not in before.trail]
    if json:
        print_json(_summary(found, datetime.now(UTC)) | {"trail": after.trail, "new": new})
    else:
        say(f"saga {after.id}: {_where(after)}")
        for line in new:
            say(f"  {line}")
    if not new:
        raise Unreachable(f"{service} did not take it up within {timeout_s:g} s: it will when it runs")
    if isinstance(message, CancelSaga) and any("too late" in line for line in new):
        raise typer.Exit(Exit.NO)


def _await_change(connection: Connection, before: SagaRow, timeout_s: float) -> Found:
    """Wait until the saga has moved to another step or its end; return it as it is then, or at the timeout."""

    def moved(found: Found) -> bool:
        row = found.row
        too_late = any("too late" in line for line in row.trail if line not in before.trail)
        return row.status in ENDED or row.step != before.step or too_late

    return wait_for(lambda: _find(connection, str(before.id)), moved, timeout_s)


def _find(connection: Connection, id_: str) -> Found:
    found = [
        Found(runner, table.from_values(row))
        for runner in RUNNERS
        for table in [runner.table]
        for row in connection.rows(
            runner.service, sa.select(*table.columns).where(begins(table.key_column, id_)).limit(2)
        )
    ]
    return the_one(found, "saga", id_)


def _summary(saga: Found, now: datetime) -> dict[str, Any]:
    row = saga.row
    return {
        "id": row.id,
        "service": saga.runner.service,
        "name": row.name,
        "status": row.status,
        "step": row.step,
        "code": row.code,
        "opened_at": row.opened_at,
        "ended_at": row.ended_at,
        "age_s": round(((row.ended_at or now) - row.opened_at).total_seconds(), 3),
        "stuck": saga.stuck(now),
        "correlation_id": row.correlation_id,
        "actor": row.actor,
    }


def _remark(saga: Found, now: datetime) -> str:
    return "STUCK" if saga.stuck(now) else saga.row.code or ""


def _where(row: SagaRow) -> str:
    if row.status in ENDED:
        return f"{row.status} {row.code or ''}".rstrip()
    return f"{row.status}, at “{row.step}”"


def _show(saga: Found, now: datetime) -> None:
    row = saga.row
    say(f"{row.name} {row.id}", "bold")
    details: list[tuple[str, object]] = [
        ("status", _where(row)),
        ("service", saga.runner.service),
        ("opened", f"{row.opened_at:%Y-%m-%d %H:%M:%S} UTC, {ago(row.opened_at, now)} ago"),
        ("ended", f"{row.ended_at:%Y-%m-%d %H:%M:%S} UTC" if row.ended_at else "not yet"),
        ("stuck", "yes: open for longer than its definition allows" if saga.stuck(now) else "no"),
        ("correlation", row.correlation_id),
        ("actor", row.actor),
        *saga.data().items(),
    ]
    print_table(("", ""), details)
    say("What happened", "bold")
    for line in row.trail:
        say(f"  {line}")
    out.file.flush()
