"""Mistakes that are planted into a service, as data: each must be found by the cell that is named beside it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import sqlalchemy as sa
from confluent_kafka import TopicPartition

from services.chassis.postgres import OUTBOX
from tests.crashpoints import seams


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake: the function that is replaced, and what replaces it. `cell` names the cell that must find it."""

    where: str
    make: Callable[[Any], Any]
    cell: str


def _deletes_first(publish: Any) -> Any:
    """Delete rows from the outbox, and only then have Kafka acknowledge them."""

    @wraps(publish)
    async def wrapped(relay: Any, producer: Any, rows: Sequence[Any]) -> None:
        async with relay.engine.begin() as connection:
            await connection.execute(sa.delete(OUTBOX).where(OUTBOX.c.seq.in_([row.seq for row in rows])))
        await publish(relay, producer, rows)

    return wrapped


def _commits_offsets_first(until_handled: Any) -> Any:
    """Commit the offsets of a batch, and only then have the database commit what it led to."""

    @wraps(until_handled)
    def wrapped(consumer: Any, records: Sequence[Any]) -> Any:
        newest = {(record.topic, record.partition): record.offset + 1 for record in records}
        offsets = [TopicPartition(*place, at) for place, at in newest.items()]
        consumer._client.commit(offsets=offsets, asynchronous=False)
        return until_handled(consumer, records)

    return wrapped


MISTAKES: Mapping[str, Mistake] = {
    "outbox deleted before the acknowledgement": Mistake(
        "services.chassis.relay:Relay._publish",
        _deletes_first,
        # Not at the ledger: ReserveUnits is delivered again, and answered again, by its hold.
        "between reading the outbox and publishing · groups CaptureHold · account · kill · 1",
    ),
    "offsets committed before the commit": Mistake(
        "services.chassis.consumer:Consumer._until_handled",
        _commits_offsets_first,
        "before the commit · provisioning ProvisionAccount · account · kill · 1",
    ),
}


def plant(name: str) -> None:
    """Plant a mistake into this process, after the seams: so it comes before whatever the trap does."""
    mistake = MISTAKES[name]
    seams.replace(mistake.where, mistake.make)
