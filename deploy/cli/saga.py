"""`popfax saga`: what is open, what is stuck, and the two things that an operator can do about it."""

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

import sqlalchemy as sa
import typer

from contracts.message import Message
from contracts.topics import Principal
from deploy.cli.connection import Connection, connect
from deploy.cli.errors import Exit, Failure, Unreachable, UsageError
from deploy.cli.options import EnvFile, Json, Timeout
from deploy.cli.output import ago, out, print_json, print_table, say, short
from services._platform.database import Conflict, Outage
from services._platform.messages import Incoming, SetTimer, StoredRecord
from services._platform.postgres import PostgresDatabase, engine
from services._platform.sagas import ENDED, CancelSaga, RetrySaga, Saga, SagaRow
from services.groups.sagas import SAGAS
from services.groups.tables import SAGAS as TABLE

app = typer.Typer(help="List, show, retry and cancel sagas.", no_args_is_help=True)

OWNER = Principal.GROUPS
"""The service that runs the sagas."""

_POLL_S = 0.1
SagaId = Annotated[str, typer.Argument(help="The saga's id, or as much of its beginning as is unique.")]


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the oldest open ones first.")] = 100,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """List the open sagas with step and age; a stuck one has been open for longer than its definition allows."""
    query = sa.select(*TABLE.columns).limit(limit)
    columns = TABLE.table.c
    if everything:
        query = query.order_by(columns.ended_at.desc().nulls_first(), columns.opened_at)
    else:
        query = query.where(columns.ended_at.is_(None)).order_by(columns.opened_at)
    rows = [TABLE.from_values(row) for row in connect(env_file).rows(OWNER, query)]
    now = datetime.now(UTC)
    if json:
        print_json([_summary(row, now) for row in rows])
        return
    if not rows:
        say("No saga." if everything else "No open saga.")
        return
    print_table(
        ("saga", "what", "at", "status", "age", ""),
        [(short(row.id), row.name, row.step, row.status, ago(row.opened_at, now), _remark(row, now)) for row in rows],
    )


@app.command()
def show(saga: SagaId, json: Json = False, env_file: EnvFile = None) -> None:
    """Show one saga: where it is, what happened to it, what it remembers. Personal data is left out."""
    row = _find(connect(env_file), saga)
    now = datetime.now(UTC)
    if json:
        print_json(_summary(row, now) | {"data": _data(row), "trail": row.trail})
        return
    _show(row, now)


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
    before = _find(connection, saga)
    if before.status in ENDED:
        raise Failure(f"saga {before.id} has ended: {before.status}")
    message = make(before.id)
    asyncio.run(_set_timer(connection.database_url(OWNER), message, before))
    after = _await_change(connection, before, timeout_s)
    new = [line for line in after.trail if line not in before.trail]
    if json:
        print_json(_summary(after, datetime.now(UTC)) | {"trail": after.trail, "new": new})
    else:
        say(f"saga {after.id}: {_where(after)}")
        for line in new:
            say(f"  {line}")
    if not new:
        raise Unreachable(f"groups did not take it up within {timeout_s:g} s: it will when it runs")
    if isinstance(message, CancelSaga) and any("too late" in line for line in new):
        raise typer.Exit(Exit.NO)


async def _set_timer(url: str, message: Message, row: SagaRow) -> None:
    """Set a timer that is due now, as a handler would: the running service's timers hand it on.

    It has an id of its own: the saga's id is its deadline's.
    """
    now = datetime.now(UTC)
    record = StoredRecord(uuid4(), None, "operator", 0, 0, None, None, ())
    cause = Incoming[Message](record.row_id, message, record, row.correlation_id, row.actor)
    connected = engine(url, pool_size=1)
    try:
        async with PostgresDatabase(connected).begin() as tx:
            await tx.set_timers([(SetTimer(uuid4(), now, message), cause)])
    except (Outage, Conflict) as error:
        raise Unreachable(f"{OWNER}'s database did not take it: {error}") from error
    finally:
        await connected.dispose()


def _await_change(connection: Connection, before: SagaRow, timeout_s: float) -> SagaRow:
    """Wait until the saga has moved: to its end, or to another place. Gives it as it is then, or at the timeout."""
    deadline = time.monotonic() + timeout_s
    while True:
        row = _find(connection, str(before.id))
        too_late = any("too late" in line for line in row.trail if line not in before.trail)
        if row.status in ENDED or row.step != before.step or too_late or time.monotonic() > deadline:
            return row
        time.sleep(_POLL_S)


def _find(connection: Connection, id_: str) -> SagaRow:
    found = connection.rows(OWNER, sa.select(*TABLE.columns).where(begins(TABLE.key_column, id_)).limit(2))
    if not found:
        raise Failure(f"there is no saga {id_}")
    if len(found) > 1:
        raise UsageError(f"several sagas begin with {id_}: give more of it")
    return TABLE.from_values(found[0])


def begins(column: sa.ColumnElement[Any], id_: str) -> sa.ColumnElement[bool]:
    """Match the ids that begin like this. Raises UsageError for what is no beginning of an id."""
    if not id_ or set(id_.lower()) - set("0123456789abcdef-"):
        raise UsageError(f"{id_!r} is no id")
    return sa.cast(column, sa.Text).startswith(id_.lower(), autoescape=True)


def _definition(row: SagaRow) -> Saga | None:
    return SAGAS.definitions.get(row.name)


def _stuck(row: SagaRow, now: datetime) -> bool:
    definition = _definition(row)
    return row.ended_at is None and definition is not None and now - row.opened_at > definition.deadline


def _data(row: SagaRow) -> Mapping[str, Any]:
    """Give what a saga remembers, without what its definition calls personal; nothing of one that is unknown."""
    definition = _definition(row)
    if definition is None:
        return {}
    return {name: value for name, value in row.data.items() if name not in definition.forget}


def _summary(row: SagaRow, now: datetime) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "status": row.status,
        "step": row.step,
        "code": row.code,
        "opened_at": row.opened_at,
        "ended_at": row.ended_at,
        "age_s": round(((row.ended_at or now) - row.opened_at).total_seconds(), 3),
        "stuck": _stuck(row, now),
        "correlation_id": row.correlation_id,
        "actor": row.actor,
    }


def _remark(row: SagaRow, now: datetime) -> str:
    return "STUCK" if _stuck(row, now) else row.code or ""


def _where(row: SagaRow) -> str:
    if row.status in ENDED:
        return f"{row.status} {row.code or ''}".rstrip()
    return f"{row.status}, at “{row.step}”"


def _show(row: SagaRow, now: datetime) -> None:
    say(f"{row.name} {row.id}", "bold")
    facts: list[tuple[str, object]] = [
        ("status", _where(row)),
        ("opened", f"{row.opened_at:%Y-%m-%d %H:%M:%S} UTC, {ago(row.opened_at, now)} ago"),
        ("ended", f"{row.ended_at:%Y-%m-%d %H:%M:%S} UTC" if row.ended_at else "not yet"),
        ("stuck", "yes: open for longer than its definition allows" if _stuck(row, now) else "no"),
        ("correlation", row.correlation_id),
        ("actor", row.actor),
        *_data(row).items(),
    ]
    print_table(("", ""), facts)
    say("What happened", "bold")
    for line in row.trail:
        say(f"  {line}")
    out.file.flush()
