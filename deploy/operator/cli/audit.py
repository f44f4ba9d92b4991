"""`popfax audit`: whether what the four services have written, and told for good, is one story."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from deploy.operator.cli.auditing import Found, Progress, conclude, open_snapshots
from deploy.operator.cli.connection import connect, require_kafka
from deploy.operator.cli.options import EnvFile, Json, StuckAfter
from deploy.operator.invariants import Lateness, Snapshot, check_topics, parts, published
from deploy.operator.log import Reader
from deploy.operator.snapshots import counted
from popfax_contracts.topics import TOPICS


def audit(
    settled: Annotated[
        bool,
        typer.Option("--settled", help="Nothing is in flight: also check what is true only then."),
    ] = False,
    stuck_after: StuckAfter = 900,
    topics: Annotated[
        bool,
        typer.Option("--topics/--no-topics", help="Also read the compacted topics from their start."),
    ] = True,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Audit all services and the compacted topics against each other: 0 all right, 1 not, 3 something can't be reached.

    The history must be what the ledger's entries and the memberships say, each account paid, each mail due, each timer
    set, each topic what the databases say. It reads while the product works, and asks only what is true at every
    moment, unless nothing is in flight (`--settled`); and whatever is open for too long is a violation.
    """
    connection = connect(env_file)
    found = Found()
    reader = None
    with Progress().shown() as progress:
        if topics:
            require_kafka(connection.admin)
            reader = Reader(connection.admin, [topic for topic in TOPICS if topic.compacted], progress)
            progress.begin("topics")
            records = published(reader.read())
        now = datetime.now(UTC)
        with open_snapshots(connection, progress) as snapshot:
            # Records published between this and the snapshots may be newer than the snapshots.
            moving = {(record.topic, record.key) for record in reader.read()} if reader is not None else set()
            for part, violations in parts(snapshot, Lateness(settled, now - timedelta(seconds=stuck_after))):
                progress.begin(part)
                found.add(violations)
            if reader is not None:
                progress.begin("topics")
                found.add(check_topics(records, snapshot, moving))
            counts = _counts(snapshot)
    sound = "The history is what the entries and the memberships say, and all else is as it must be."
    conclude(counts, found, sound, json)


def _counts(snapshot: Snapshot) -> dict[str, int]:
    return {
        "groups": counted(snapshot.groups.groups),
        "memberships": counted(snapshot.groups.memberships),
        "invitations": counted(snapshot.groups.invitations),
        "transfers": counted(snapshot.groups.transfers),
        "history_lines": counted(snapshot.groups.history),
        "accounts": counted(snapshot.provisioning.subscribers),
        "purchases": counted(snapshot.provisioning.purchases),
        "mails": counted(snapshot.notifications.mails),
        "holds": counted(snapshot.ledger.holds),
        "entries": counted(snapshot.ledger.entries),
    }
