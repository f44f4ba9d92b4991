"""`popfax partitions`: partitions that have stopped at an unreadable batch, and how to skip it."""

import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import sqlalchemy as sa
import typer
from confluent_kafka import Consumer, KafkaError, TopicPartition

from deploy.operator.cli.connection import Connection, connect, require_kafka
from deploy.operator.cli.errors import Failure, Unreachable, UsageError
from deploy.operator.cli.options import EnvFile, Json, Service, Timeout, services
from deploy.operator.cli.output import ago, print_json, print_table, say
from popfax_contracts.topics import Principal
from services.chassis.partitions import Outcome
from services.chassis.postgres import PARTITION_STOPS as STOPS

app = typer.Typer(help="List partitions that have stopped, and skip what they have stopped at.", no_args_is_help=True)

_POLL_S = 0.2
_PROBE_S = 20.0
_AGAIN_S = 4.0
_AGE_S: sa.ColumnElement[Any] = sa.cast(sa.extract("epoch", sa.func.now() - STOPS.c.stopped_at), sa.Double).label(
    "age_s"
)
_UNREADABLE = frozenset({KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION, KafkaError._NOT_IMPLEMENTED})
Topic = Annotated[str, typer.Argument(help="The topic, such as popfax.ledger.commands.")]
Partition = Annotated[int, typer.Argument(min=0, help="Its partition.")]


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Include those that have ended: what was skipped.")] = False,
    service: Service = None,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """List partitions that have stopped: the service tries them again and again, and handles nothing behind."""
    connection = connect(env_file)
    found = [(each, row) for each in services(service) for row in stops(connection, each, everything)]
    if json:
        print_json([{"service": each, **row._mapping} for each, row in found])
        return
    if not found:
        say("No partition has stopped.")
        return
    print_table(
        ("partition", "service", "offset", "error", "since", "outcome"),
        [
            (f"{row.topic}/{row.partition}", each, row.position, row.error, ago(row.stopped_at), _outcome(row))
            for each, row in found
        ],
    )


def stops(connection: Connection, service: Principal, everything: bool = False) -> Sequence[Any]:
    """Return the stops that have not ended, or all: their rows, and for how many seconds (`age_s`), oldest first."""
    query = sa.select(STOPS, _AGE_S).order_by(STOPS.c.id)
    return connection.rows(service, query if everything else query.where(STOPS.c.ended_at.is_(None)))


def _outcome(row: Any) -> str:
    if row.outcome == Outcome.SKIPPED:
        return f"skipped to {row.skip_to}: {row.skip_reason}"
    if row.outcome is not None:
        return str(row.outcome)
    return f"tried {row.attempts} times" if row.skip_to is None else f"to be skipped to {row.skip_to}"


@app.command()
def skip(
    topic: Topic,
    partition: Partition,
    reason: Annotated[str, typer.Option("--reason", help="Why: it is kept with the offsets that are passed over.")],
    to: Annotated[
        int | None, typer.Option("--to", min=1, help="Where to go on; without it, at the first batch that can be read.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    service: Service = None,
    timeout: Timeout = 60.0,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Go on behind what a partition has stopped at. What is passed over is never handled: publish it again if you can.

    Exit codes: 0 it flows again; 1 it has not stopped, or stopped once more; 3 the service did not take it up in time.
    """
    connection = connect(env_file)
    owner, stop = _find(connection, topic, partition, service)
    if not yes and not sys.stdin.isatty():
        raise UsageError("what is skipped is never handled: confirm with --yes")
    if to is None:
        say(f"Looking for the first batch behind offset {stop.position} that can be read …")
        to = _first_readable(connection, topic, partition, stop.position)
    if to <= stop.position:
        raise UsageError(f"it has stopped at {stop.position}: --to must be greater")
    if not yes:
        typer.confirm(f"Skip offsets {stop.position} to {to - 1} of {topic}/{partition} in {owner}?", abort=True)
    wanted = {"skip_to": to, "skip_reason": reason, "skip_requested_at": sa.func.now()}
    connection.rows(owner, sa.update(STOPS).values(wanted).where(STOPS.c.id == stop.id))
    ended = _await_end(connection, owner, stop, time.monotonic() + timeout)
    if json:
        print_json({"service": owner, "topic": topic, "partition": partition, "from": stop.position, "to": to} | ended)
    else:
        say(f"✓ offsets {stop.position} to {to - 1} are skipped, and it flows again", "green")


def _find(connection: Connection, topic: str, partition: int, service: Principal | None) -> tuple[Principal, Any]:
    here = (STOPS.c.topic == topic, STOPS.c.partition == partition, STOPS.c.ended_at.is_(None))
    found = [(each, row) for each in services(service) for row in connection.rows(each, sa.select(STOPS).where(*here))]
    if not found:
        raise Failure(f"{topic}/{partition} has not stopped")
    if len(found) > 1:
        raise UsageError(f"{topic}/{partition} has stopped in {', '.join(each for each, _ in found)}: add --service")
    return found[0]


def _await_end(connection: Connection, owner: Principal, stop: Any, deadline: float) -> dict[str, Any]:
    here = (STOPS.c.topic == stop.topic, STOPS.c.partition == stop.partition, STOPS.c.id >= stop.id)
    query = sa.select(STOPS).where(*here).order_by(STOPS.c.id)
    while time.monotonic() < deadline:
        this, *later = connection.rows(owner, query)
        if later:
            raise Failure(f"it has stopped again, at offset {later[-1].position}: {later[-1].error}")
        if this.outcome is not None:
            return {"ended_at": this.ended_at}
        time.sleep(_POLL_S)
    raise Unreachable(f"{owner} has not taken it up: it will when it runs and tries the partition again")


def _first_readable(connection: Connection, topic: str, partition: int, position: int) -> int:
    """Find the first readable offset by bisection: every offset within a batch fetches the whole batch."""
    require_kafka(connection.admin)
    reader = Consumer(
        connection.admin | {"group.id": "popfax-partitions", "enable.auto.commit": "false", "check.crcs": "true"}
    )
    try:
        _, end = reader.get_watermark_offsets(TopicPartition(topic, partition), timeout=_PROBE_S)
        bad, good = position, position + 1
        while good < end and not _reads(reader, TopicPartition(topic, partition, good)):
            bad, good = good, good + 2 * (good - position)
        good = min(good, end)
        while good - bad > 1:
            middle = (bad + good) // 2
            bad, good = (bad, middle) if _reads(reader, TopicPartition(topic, partition, middle)) else (middle, good)
        return good
    finally:
        reader.close()


def _reads(reader: Consumer, place: TopicPartition) -> bool:
    """Return whether reading at an offset begins with a record. Raises Unreachable if nothing comes at all."""
    deadline = time.monotonic() + _PROBE_S
    message = None
    while time.monotonic() < deadline:
        if message is None:  # also if nothing came: librdkafka may have gone to where a batch before it misled it
            reader.assign([place])
        message = reader.poll(_AGAIN_S)
        error = None if message is None else message.error()
        if message is not None and error is None:
            return True
        if error is not None and error.code() in _UNREADABLE:
            return False
    raise Unreachable(f"nothing came from offset {place.offset} in {_PROBE_S:g} s: try again, or add --to")
