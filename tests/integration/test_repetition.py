"""Two replicas on a real PostgreSQL handle the same messages at the same time, and again later: nothing happens twice.

What they are given is what the simulation puts on the topics, every message without a row of the inbox among it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.stack import Stack
from popfax_contracts.topics import Principal
from services.chassis import postgres
from services.chassis.postgres import PostgresDatabase
from services.chassis.rows import Mapped, Rows
from services.chassis.service import Moment, Service
from services.chassis.shell import FromKafka, Shell
from services.provisioning.domain import FaxNumber, NumberState
from services.provisioning.tables import FAX_NUMBERS, OPTIONS, PLANS
from tests.integration.recorder import execute, scratch_database
from tests.simulation.bus import BusRecord
from tests.simulation.world import BEGINNING, SERVICES, World

SEEDS = range(100)
"""Their stories are told until all that is needed was in them; one that has nothing new is passed over."""

BATCH = 7


@dataclass
class Clock:
    """Time that stands still, so that what is decided does not depend on when."""

    now: datetime = BEGINNING

    def moment(self) -> Moment:
        return Moment(self.now, bytes)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 10)


@dataclass
class Side:
    """A service on a database of its own, with one or two replicas."""

    service: Service
    engine: AsyncEngine
    url: str
    clock: Clock = field(default_factory=Clock)

    @property
    def shell(self) -> Shell:
        return Shell(self.service, PostgresDatabase(self.engine), self.clock)

    def rows(self) -> dict[str, list[str]]:
        """Return all rows of the business, without numbers that only say in which order they were written."""
        tables = execute(self.url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {table: self._rows(table) for (table,) in tables if table not in _PLUMBING}

    def _rows(self, table: str) -> list[str]:
        identities = execute(
            self.url,
            "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND is_identity = 'YES'",
            table,
        )
        without = "".join(f" - '{name}'" for (name,) in identities)
        return sorted(str(row) for row in execute(self.url, f"SELECT to_jsonb(t){without} FROM {table} t"))

    def told(self) -> set[Any]:
        """Return what was published, as often as it was."""
        columns = "id, type, key, value, correlation_id, causation_id, actor, requester"
        return set(execute(self.url, f"SELECT {columns} FROM outbox"))

    def whichever_number(self) -> tuple[dict[str, list[str]], set[str]]:
        """Return `rows` and `told` with whose a fax number is in its place.

        Two replicas pass over numbers that the other is just taking, so which one an account gets is left open.
        """
        whose: dict[str, str] = {}
        if self.service.principal is Principal.PROVISIONING:
            whose = dict(execute(self.url, "SELECT number, coalesce(subscriber_id::text, state) FROM fax_numbers"))
        rows = {table: sorted(_renamed(row, whose) for row in found) for table, found in self.rows().items()}
        return rows, {_renamed(str(row), whose) for row in self.told()}

    def clear(self) -> None:
        tables = execute(self.url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        names = ", ".join(table for (table,) in tables if table != "alembic_version")
        execute(self.url, f"TRUNCATE {names}")


def _renamed(text: str, names: Mapping[str, str]) -> str:
    for name, other in names.items():
        text = text.replace(name, other)
    return text


_PLUMBING = ("alembic_version", "inbox", "outbox", "parked", "parked_keys", "partition_stops", "effects")


@pytest_asyncio.fixture
async def sides(stack: Stack) -> AsyncIterator[list[tuple[Side, Side]]]:
    """Each service twice: one that is alone, and one that has two replicas."""
    with ExitStack() as scratch:
        urls = [[scratch.enter_context(scratch_database(stack, s.principal)) for _ in range(2)] for s in SERVICES]
        made = [
            tuple(Side(service, postgres.engine(url), url) for url in pair)
            for service, pair in zip(SERVICES, urls, strict=True)
        ]
        yield made  # type: ignore[misc]
        for pair in made:
            for side in pair:
                await side.engine.dispose()


def _story(seed: int) -> tuple[World, list[BusRecord]]:
    """Run a seed; return what it put on the topics, in the order in which it did."""
    world, records = World(seed), []

    def recording(publish: Callable[..., BusRecord]) -> Callable[..., BusRecord]:
        def recorded(*given: Any) -> BusRecord:
            records.append(publish(*given))
            return records[-1]

        return recorded

    for name in ("publish", "publish_again"):
        setattr(world.bus, name, recording(getattr(world.bus, name)))
    world.run()  # whether it finds anything is not the question here
    return world, records


async def _put_on_sale(world: World, side: Side) -> None:
    found = world.by_name[Principal.PROVISIONING].database.contents.tables
    async with PostgresDatabase(side.engine).begin() as tx:
        tables: tuple[Mapped[Any, Any], ...] = (PLANS, OPTIONS)
        for mapped in tables:
            await tx.save([_new(mapped, found.get(mapped.table.name, {}).values())])
        numbers = [FaxNumber(number, NumberState.FREE, None) for number in found[FAX_NUMBERS.table.name]]
        await tx.save([_new(FAX_NUMBERS, numbers)])


def _new(mapped: Mapped[Any, Any], rows: Any) -> Rows[Any, Any]:
    made: Rows[Any, Any] = Rows(mapped, {})
    for row in rows:
        made.put(row)
    return made


def _batches(records: Sequence[BusRecord]) -> Iterator[Sequence[BusRecord]]:
    for start in range(0, len(records), BATCH):
        yield records[start : start + BATCH]


async def _process(shell: Shell, records: Sequence[BusRecord]) -> None:
    await shell.process(records, FromKafka())


async def test_nothing_happens_twice(sides: list[tuple[Side, Side]]) -> None:
    by_row = {model.TYPE.encode() for service in SERVICES for model in service.by_row}
    for seed in SEEDS:
        world, published = _story(seed)
        if not (found := by_row & {dict(record.headers).get("ce_type") for record in published}):
            continue
        by_row -= found
        for alone, both in sides:
            topics = {topic.name for topic in alone.service.topics}
            records = [record for record in published if record.topic in topics]
            for side in (alone, both):
                side.clock.now = BEGINNING
                side.clear()
                if side.service.principal is Principal.PROVISIONING:
                    await _put_on_sale(world, side)
            await _at_once(alone, both, records)
            await _again(both, records, Random(seed))
        if not by_row:
            break
    assert not by_row, "every one was among them"


async def _at_once(alone: Side, both: Side, records: Sequence[BusRecord]) -> None:
    for batch in _batches(records):
        await _process(alone.shell, batch)
        await asyncio.gather(_process(both.shell, batch), _process(both.shell, batch))
    assert both.whichever_number() == alone.whichever_number(), both.service.principal


async def _again(side: Side, records: Sequence[BusRecord], random: Random) -> None:
    """Two replicas read everything once more, at another time, each in other batches."""
    rows, told = side.rows(), side.told()
    side.clock.now += timedelta(days=400)
    late = [record for place in sorted({(r.topic, r.partition) for r in records}) for record in _on(records, place)]

    async def replica(records: Sequence[BusRecord]) -> None:
        for batch in _batches(records):
            await _process(side.shell, batch)

    await asyncio.gather(replica(records), replica(late[random.randrange(len(late)) :] if late else []))
    assert side.rows() == rows, side.service.principal
    assert side.told() == told, side.service.principal


def _on(records: Sequence[BusRecord], place: tuple[str, int]) -> list[BusRecord]:
    return [record for record in records if (record.topic, record.partition) == place]
