"""`popfax parked`: messages that a service has parked, and the two things that can be done with each."""

import asyncio
import base64
import json as jsonlib
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
import typer
from rich.progress import Progress
from sqlalchemy.dialects.postgresql import aggregate_order_by

from deploy.operator.cli.connection import APPLICATION, Connection, connect
from deploy.operator.cli.errors import Exit, Failure, Unreachable, UsageError
from deploy.operator.cli.intervening import begins
from deploy.operator.cli.options import EnvFile, Json, Service, Timeout, services
from deploy.operator.cli.output import ago, err, print_json, print_table, say, short
from popfax_contracts.topics import GROUPS_COMMANDS_FROM_HTTP, Principal
from services.chassis.database import Conflict, Outage, Why
from services.chassis.postgres import IN_LINE, PARKED, PARKED_KEYS, PostgresDatabase, engine, retry_requests
from services.groups.domain import CommandState
from services.groups.tables import commands

app = typer.Typer(help="List, show, retry and drop the messages that were put aside.", no_args_is_help=True)

_POLL_S = 0.2

DROPPED = "dropped"
"""The code that refuses a posted command whose message was dropped."""

_PENDING = sa.and_(commands.c.state == CommandState.PENDING.value, commands.c.awaits == 0)

REQUESTED = sa.case((IN_LINE, PARKED_KEYS.c.retry_requested_at), else_=PARKED.c.retry_requested_at)
"""When a retry was requested: of a message itself, or of the blocked key that it waits behind."""

_SAME_KEY = sa.and_(PARKED_KEYS.c.topic == PARKED.c.topic, PARKED_KEYS.c.key == PARKED.c.key)
ROWS = sa.select(
    *(column for column in PARKED.c if column.name != "retry_requested_at"), REQUESTED.label("retry_requested_at")
).select_from(PARKED.outerjoin(PARKED_KEYS, _SAME_KEY))

MessageId = Annotated[str, typer.Argument(help="The parked message's id, or as much of its beginning as is unique.")]
Limit = Annotated[int, typer.Option(min=1, help="At most this many of each service, the oldest first.")]


@dataclass(frozen=True, slots=True)
class Found:
    """A parked message, and the service that parked it."""

    service: Principal
    row: Any


@app.command("list")
def list_(service: Service = None, limit: Limit = 100, json: Json = False, env_file: EnvFile = None) -> None:
    """List parked messages of all four services, oldest first. A failed one blocks its key until it is dealt with."""
    connection = connect(env_file)
    query = ROWS.order_by(PARKED.c.seq).limit(limit)
    found = [Found(each, row) for each in services(service) for row in connection.rows(each, query)]
    if json:
        print_json([_summary(each) for each in found])
        return
    if not found:
        say("Nothing is parked.")
        return
    print_table(
        ("message", "service", "topic", "why", "code", "age", "attempts"),
        [
            (
                short(each.row.id),
                each.service,
                each.row.topic.removeprefix("popfax."),
                each.row.why,
                each.row.code,
                ago(each.row.parked_at),
                each.row.attempts,
            )
            for each in found
        ],
    )


@app.command()
def show(
    message: MessageId,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show the value too: it may hold personal data.")] = False,
    service: Service = None,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Show one parked message: why it is parked, its headers and, with --reveal, its value."""
    connection = connect(env_file)
    found = _find(connection, message, service)
    posted = _posted(connection, found)
    headers = [(name, _text(None if value is None else base64.b64decode(value))) for name, value in found.row.headers]
    if json:
        shown = _summary(found) | {"headers": headers, "detail": found.row.detail}
        if posted:
            shown["posted_command"] = {"id": posted.id, "type": posted.type, "asked_at": posted.asked_at}
        print_json(shown | ({"value": _text(found.row.value)} if reveal else {}))
        return
    say(f"{found.row.id} of {found.service}", "bold")
    print_table(
        ("", ""),
        [
            ("why", f"{found.row.why}: {found.row.code}"),
            ("detail", found.row.detail),
            ("parked", f"{found.row.parked_at:%Y-%m-%d %H:%M:%S} UTC, {ago(found.row.parked_at)} ago"),
            ("attempts", found.row.attempts),
            ("retry asked for", found.row.retry_requested_at or "no"),
            ("from", f"{found.row.topic}, partition {found.row.partition}, offset {found.row.position}"),
            ("key", _text(found.row.key)),
            *([("posted command", f"{posted.id}, pending for {ago(posted.asked_at)}")] if posted else []),
        ],
    )
    say("Headers", "bold")
    print_table(("", ""), headers)
    say("Value", "bold")
    say(_pretty(found.row.value) if reveal else "not shown: it may hold personal data (--reveal shows it)")


@app.command()
def retry(
    message: Annotated[str | None, typer.Argument(help="A parked message's id, or its beginning.")] = None,
    code: Annotated[str | None, typer.Option("--code", help="All that were parked with this code.")] = None,
    topic: Annotated[str | None, typer.Option("--topic", help="All from this topic.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All that there are.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be retried, and retry nothing.")] = False,
    service: Service = None,
    timeout: Timeout = 10.0,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Have messages handled again, with what waits behind them on their keys: 0 handled, 1 some failed again.

    It waits while they get on. After --timeout seconds without one handled it leaves the rest to the services.
    """
    if (message is not None) + (code is not None or topic is not None) + all_ != 1:
        raise UsageError("say what to retry: a message, or --code and --topic, or --all")
    connection = connect(env_file)
    if message is not None and not dry_run:
        return _retry_one(connection, _find(connection, message, service), timeout, json)
    if message is not None:
        found = _find(connection, message, service)
        selections = [_select(connection, found.service, PARKED.c.id == found.row.id)]
    else:
        wanted = sa.and_(True, *_that_match(code, topic))
        selections = [_select(connection, each, wanted) for each in services(service)]
    if dry_run:
        return _show_selected(selections, json)
    for selection in selections:
        selection.request(connection)
    waiting = _follow(connection, selections, timeout, quiet=json)
    return _tell_retried(connection, selections, waiting, json)


@app.command()
def drop(
    message: MessageId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    service: Service = None,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Delete a parked message for good: it will never be handled. What is behind one that failed is retried."""
    connection = connect(env_file)
    found = _find(connection, message, service)
    if not yes:
        _ask(found)
    left = _left_behind(connection, found)
    posted = _posted(connection, found)
    dropped = asyncio.run(_drop(connection.database_url(found.service), found, posted))
    if not dropped:
        raise Failure(f"{found.row.id} is not parked any more: somebody else was first")
    if json:
        told = {"id": found.row.id, "service": found.service, "dropped": True, "left_on_key": left}
        print_json(told | {"posted_command_id": posted.id if posted else None})
        return
    say(f"✓ {found.row.id} is dropped", "green")
    if posted:
        say(f"  whoever posted it is told: {posted.type} {posted.id} is refused with {DROPPED}")
    if left and found.row.why == Why.FAILED:
        say(f"  {left} behind it on the same key are retried now, in their order")


def _ask(found: Found) -> None:
    if not sys.stdin.isatty():
        raise UsageError("dropping loses the message for good: confirm with --yes")
    typer.confirm(f"Drop {found.row.id} of {found.service} ({found.row.why}: {found.row.code}) for good?", abort=True)


async def _drop(url: str, found: Found, posted: Any) -> bool:
    """Remove a message as a retry would, without handling it. Unblocks the key if nothing is left on it.

    If it was a posted command, that command ends as refused: nothing else will ever answer it.
    """
    connected = engine(url, pool_size=1, application_name=APPLICATION)
    try:
        async with PostgresDatabase(connected).begin() as tx:
            dropped = found.row.id in await tx.drop_parked([found.row.id])
            if dropped and posted:
                end = {"state": CommandState.REFUSED.value, "code": DROPPED, "ended_at": sa.func.now()}
                await tx.connection.execute(sa.update(commands).values(end).where(commands.c.id == posted.id, _PENDING))
            return dropped
    except (Outage, Conflict) as error:
        raise Unreachable(f"{found.service}'s database did not take it: {error}") from error
    finally:
        await connected.dispose()


def _posted(connection: Connection, found: Found) -> Any:
    """Return the row of the posted command that a parked message carries, if it is pending; otherwise None."""
    if found.row.topic != GROUPS_COMMANDS_FROM_HTTP.name or found.service is not Principal.GROUPS:
        return None
    sent = dict(found.row.headers).get("ce_id")
    id_ = _text(base64.b64decode(sent or ""))
    query = sa.select(commands).where(sa.cast(commands.c.id, sa.Text) == id_, _PENDING)
    return next(iter(connection.rows(found.service, query)), None)


def _left_behind(connection: Connection, found: Found) -> int:
    """Count the messages parked behind one. Call it before a retry, which may handle them at once."""
    same = (PARKED.c.topic == found.row.topic, PARKED.c.key == found.row.key, PARKED.c.why != Why.UNDECODABLE.value)
    others = sa.select(sa.func.count()).select_from(PARKED).where(*same, PARKED.c.id != found.row.id)
    count = connection.rows(found.service, others)
    return int(count[0][0])


def _retry_one(connection: Connection, found: Found, timeout: float, json: bool) -> None:
    _select(connection, found.service, PARKED.c.id == found.row.id).request(connection)
    outcome, row = _await_retry(connection, found, time.monotonic() + timeout)
    if json:
        print_json(_summary(found if row is None else Found(found.service, row)) | {"outcome": outcome})
    elif row is None:
        say(f"✓ {found.row.id} was handled", "green")
    elif outcome == "failed":
        say(f"✗ {found.row.id} stays parked: {row.code}", "red")
        say(f"  {row.detail}")
    if outcome == "waiting":
        raise Unreachable(f"{found.service} did not take it up within {timeout:g} s: it will when it runs")
    if outcome == "failed":
        raise typer.Exit(Exit.NO)


def _await_retry(connection: Connection, found: Found, deadline: float) -> tuple[str, Any]:
    """Wait until it is gone ("handled") or has failed again ("failed"); return "waiting" at the deadline."""
    while True:
        rows = connection.rows(found.service, ROWS.where(PARKED.c.id == found.row.id))
        if not rows:
            return "handled", None
        if rows[0].retry_requested_at is None:
            return "failed", rows[0]
        if time.monotonic() > deadline:
            return "waiting", rows[0]
        time.sleep(_POLL_S)


@dataclass(frozen=True, slots=True)
class Selection:
    """The messages of one service to be retried: those that match, and all others on the same keys."""

    service: Principal
    wanted: sa.ColumnElement[bool]
    keys: frozenset[tuple[str, bytes]]
    """The blocked keys."""
    ids: frozenset[UUID]
    """The messages that block no key: those that could not be read."""
    counts: Sequence[Any]
    """How many messages there are of each topic, reason and code."""

    @property
    def total(self) -> int:
        """The number of messages."""
        return sum(row.messages for row in self.counts)

    def request(self, connection: Connection) -> None:
        """Ask the service to retry them."""
        if self.total:
            for statement in retry_requests(self.wanted):
                connection.rows(self.service, statement)

    def waiting(self, connection: Connection) -> int:
        """Count the messages still to be tried, including those parked on the same keys meanwhile."""
        query = sa.select(sa.func.count()).select_from(ROWS.where(REQUESTED.is_not(None)).subquery())
        return int(connection.rows(self.service, query)[0][0]) if self.total else 0

    def failed(self, connection: Connection) -> list[Found]:
        """Return the messages that have failed again, without those parked behind them."""
        rows = connection.rows(self.service, ROWS.where(PARKED.c.why != Why.BEHIND.value).order_by(PARKED.c.seq))
        return [Found(self.service, row) for row in rows if row.id in self.ids or (row.topic, row.key) in self.keys]


def _that_match(code: str | None, topic: str | None) -> Iterable[sa.ColumnElement[bool]]:
    if code is not None:
        yield PARKED.c.code == code
    if topic is not None:
        yield PARKED.c.topic == topic


def _select(connection: Connection, service: Principal, wanted: sa.ColumnElement[bool]) -> Selection:
    keys = connection.rows(service, sa.select(PARKED.c.topic, PARKED.c.key).where(IN_LINE, wanted).distinct())
    ids = connection.rows(service, sa.select(PARKED.c.id).where(~IN_LINE, wanted))
    lines = sa.select(PARKED.c.topic, PARKED.c.key).where(IN_LINE, wanted).correlate(None)
    chosen = sa.case((IN_LINE, sa.tuple_(PARKED.c.topic, PARKED.c.key).in_(lines)), else_=wanted)
    groups = (PARKED.c.topic, PARKED.c.why, PARKED.c.code)
    count = sa.select(*groups, sa.func.count().label("messages")).where(chosen).group_by(*groups).order_by(*groups)
    return Selection(
        service,
        wanted,
        frozenset((row.topic, row.key) for row in keys),
        frozenset(row.id for row in ids),
        connection.rows(service, count),
    )


def _show_selected(selections: Sequence[Selection], json: bool) -> None:
    rows = [(each.service, *row) for each in selections for row in each.counts]
    if json:
        print_json([dict(zip(("service", "topic", "why", "code", "messages"), row, strict=True)) for row in rows])
    elif rows:
        print_table(("service", "topic", "why", "code", "messages"), rows)
    else:
        say("Nothing that is parked matches.")


def _follow(connection: Connection, selections: Sequence[Selection], timeout: float, *, quiet: bool) -> int:
    """Show progress until no message waits, or none is handled for `timeout` seconds; return how many wait."""
    total = left = sum(each.waiting(connection) for each in selections)
    moved_at = time.monotonic()
    with Progress(console=err, disable=quiet or not err.is_terminal, transient=True) as progress:
        bar = progress.add_task("retrying", total=total)
        while left and time.monotonic() - moved_at < timeout:
            time.sleep(_POLL_S)
            before, left = left, sum(each.waiting(connection) for each in selections)
            if left != before:
                moved_at = time.monotonic()
            total = max(total, left)
            progress.update(bar, total=total, completed=total - left)
    return left


def _tell_retried(connection: Connection, selections: Sequence[Selection], waiting: int, json: bool) -> None:
    failed = [found for each in selections for found in each.failed(connection)] if not waiting else []
    asked = sum(each.total for each in selections)
    if json:
        told = {"asked_for": asked, "waiting": waiting, "failed": [_summary(found) for found in failed]}
        print_json(told)
    elif not asked:
        say("Nothing that is parked matches.")
    elif failed:
        say(f"✗ {len(failed)} failed again, and what is behind them on their keys waits with them", "red")
        print_table(("message", "service", "code"), [(short(f.row.id), f.service, f.row.code) for f in failed])
    elif not waiting:
        say(f"✓ {asked} were handled", "green")
    if waiting:
        raise Unreachable(f"{waiting} wait: the services go on with them when they run")
    if failed:
        raise typer.Exit(Exit.NO)


def tally(connection: Connection, service: Principal) -> Sequence[Any]:
    """Return for each reason how many messages are parked, the id of the first, and how many seconds ago that was."""
    by_why = PARKED.c.why
    first = sa.func.array_agg(aggregate_order_by(PARKED.c.id, PARKED.c.seq))[1].label("first")
    oldest: sa.ColumnElement[Any] = sa.extract("epoch", sa.func.now() - sa.func.min(PARKED.c.parked_at))
    query = sa.select(by_why, sa.func.count().label("messages"), first, oldest.label("oldest_s")).group_by(by_why)
    return connection.rows(service, query)


def _find(connection: Connection, id_: str, service: Principal | None) -> Found:
    query = ROWS.where(begins(PARKED.c.id, id_)).limit(2)
    found = [Found(each, row) for each in services(service) for row in connection.rows(each, query)]
    if not found:
        raise Failure(f"no message {id_} is parked")
    if len(found) > 1:
        raise UsageError(f"several parked messages begin with {id_}: type more of it, or add --service")
    return found[0]


def _summary(found: Found) -> dict[str, Any]:
    row = found.row
    return {
        "id": row.id,
        "service": found.service,
        "topic": row.topic,
        "partition": row.partition,
        "offset": row.position,
        "key": _text(row.key),
        "why": row.why,
        "code": row.code,
        "attempts": row.attempts,
        "parked_at": row.parked_at,
        "retry_requested_at": row.retry_requested_at,
    }


def _text(value: bytes | None) -> str | None:
    """Return bytes as text if they are printable, otherwise in hexadecimal."""
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"
    return text if all(each.isprintable() or each in "\n\t" for each in text) else f"0x{value.hex()}"


def _pretty(value: bytes | None) -> str:
    if value is None:
        return "(none)"
    try:
        return jsonlib.dumps(jsonlib.loads(value), indent=2, ensure_ascii=False)
    except ValueError:
        return _text(value) or "(empty)"
