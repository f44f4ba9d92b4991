"""`popfax parked`: messages that a service put aside, and the two things that can be done with each."""

import asyncio
import base64
import json as jsonlib
import sys
import time
from dataclasses import dataclass
from typing import Annotated, Any

import sqlalchemy as sa
import typer

from contracts.topics import Principal
from deploy.cli.connection import Connection, connect
from deploy.cli.errors import Exit, Failure, Unreachable, UsageError
from deploy.cli.options import EnvFile, Json, Service, Timeout, services
from deploy.cli.output import ago, print_json, print_table, say, short
from deploy.cli.saga import begins
from services._platform.database import Conflict, Outage, Why
from services._platform.postgres import PARKED, PostgresDatabase, engine

app = typer.Typer(help="List, show, retry and drop the messages that were put aside.", no_args_is_help=True)

_POLL_S = 0.2
MessageId = Annotated[str, typer.Argument(help="The parked message's id, or as much of its beginning as is unique.")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many of each service, the oldest first.")]


@dataclass(frozen=True, slots=True)
class Found:
    """A parked message, and whose it is."""

    service: Principal
    row: Any


@app.command("list")
def list_(service: Service = None, limit: Limit = 100, json: Json = False, env_file: EnvFile = None) -> None:
    """List parked messages of all four services, oldest first. A failed one blocks its key until it is dealt with."""
    connection = connect(env_file)
    query = sa.select(PARKED).order_by(PARKED.c.seq).limit(limit)
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
    found = _find(connect(env_file), message, service)
    headers = [(name, _text(None if value is None else base64.b64decode(value))) for name, value in found.row.headers]
    if json:
        shown = _summary(found) | {"headers": headers, "detail": found.row.detail}
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
        ],
    )
    say("Headers", "bold")
    print_table(("", ""), headers)
    say("Value", "bold")
    say(_pretty(found.row.value) if reveal else "not shown: it may hold personal data (--reveal shows it)")


@app.command()
def retry(
    message: MessageId,
    service: Service = None,
    timeout: Timeout = 10.0,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Have a message handled again, with what waits behind it on its key: 0 handled, 1 it failed again."""
    connection = connect(env_file)
    found = _find(connection, message, service)
    here = PARKED.c.id == found.row.id
    connection.rows(found.service, sa.update(PARKED).values(retry_requested_at=sa.func.now()).where(here))
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


@app.command()
def drop(
    message: MessageId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    service: Service = None,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Delete a parked message for good: it will never be handled. What is behind it on its key is retried."""
    connection = connect(env_file)
    found = _find(connection, message, service)
    if not yes:
        _ask(found)
    left = _left_behind(connection, found)
    dropped = asyncio.run(_drop(connection.database_url(found.service), found))
    if not dropped:
        raise Failure(f"{found.row.id} is not parked any more: somebody else was first")
    if json:
        print_json({"id": found.row.id, "service": found.service, "dropped": True, "left_on_key": left})
        return
    say(f"✓ {found.row.id} is dropped", "green")
    if left:
        say(f"  {left} behind it on the same key are retried now, in their order")


def _ask(found: Found) -> None:
    if not sys.stdin.isatty():
        raise UsageError("dropping loses the message for good: say --yes")
    typer.confirm(f"Drop {found.row.id} of {found.service} ({found.row.why}: {found.row.code}) for good?", abort=True)


async def _drop(url: str, found: Found) -> bool:
    """Take it away as a retry would, and handle nothing. Unblocks the key if nothing is left on it."""
    connected = engine(url, pool_size=1)
    try:
        async with PostgresDatabase(connected).begin() as tx:
            return found.row.id in await tx.claim_parked([found.row.id])
    except (Outage, Conflict) as error:
        raise Unreachable(f"{found.service}'s database did not take it: {error}") from error
    finally:
        await connected.dispose()


def _left_behind(connection: Connection, found: Found) -> int:
    """Count what stands in line behind a message; afterwards it would be too late, for a retry is quick."""
    same = (PARKED.c.topic == found.row.topic, PARKED.c.key == found.row.key, PARKED.c.why != Why.UNDECODABLE.value)
    others = sa.select(sa.func.count()).select_from(PARKED).where(*same, PARKED.c.id != found.row.id)
    count = connection.rows(found.service, others)
    return int(count[0][0])


def _await_retry(connection: Connection, found: Found, deadline: float) -> tuple[str, Any]:
    """Wait until it is gone ("handled") or its request is answered otherwise ("failed"); else it is "waiting"."""
    while True:
        rows = connection.rows(found.service, sa.select(PARKED).where(PARKED.c.id == found.row.id))
        if not rows:
            return "handled", None
        if rows[0].retry_requested_at is None:
            return "failed", rows[0]
        if time.monotonic() > deadline:
            return "waiting", rows[0]
        time.sleep(_POLL_S)


def _find(connection: Connection, id_: str, service: Principal | None) -> Found:
    query = sa.select(PARKED).where(begins(PARKED.c.id, id_)).limit(2)
    found = [Found(each, row) for each in services(service) for row in connection.rows(each, query)]
    if not found:
        raise Failure(f"no message {id_} is parked")
    if len(found) > 1:
        raise UsageError(f"several parked messages begin with {id_}: give more of it, or --service")
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
    """Give bytes as text if they are some that can be shown, else as hexadecimal."""
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
