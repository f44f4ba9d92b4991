"""The metrics of what is open: how much, and for how long the oldest."""

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY

from deploy.local.stack import Stack
from popfax_contracts.topics import Principal
from services.chassis import open_work
from services.chassis.postgres import engine
from services.chassis.service import Service
from services.groups.consumers import GROUPS
from tests.integration.recorder import eventually, execute, plain, scratch_database
from tests.simulation.world import SERVICES
from tests.unit.given import id_of

_IDS = id_of("group"), id_of("owner")


@pytest.fixture
def url(stack: Stack) -> Iterator[str]:
    with scratch_database(stack, Principal.GROUPS) as url:
        yield url


def _insert(url: str, name: str, age: timedelta, state: str = "pending") -> None:
    row = (id_of(name), *_IDS, "amount", 5, state, datetime.now(UTC) - age)
    columns = "id, group_id, owner_id, mode, amount_units, state, asked_at"
    execute(url, f"INSERT INTO transfers ({columns}) VALUES (%s, %s, %s, %s, %s, %s, %s)", *row)


def _value(name: str) -> float:
    return REGISTRY.get_sample_value(name, {"what": "transfer"}) or 0


async def _until(count: int) -> None:
    await eventually(lambda: _value("popfax_open") == count, f"{count} are open")


async def test_the_open_ones_are_counted_and_the_oldest_has_its_age_until_it_ends(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_work, "LATE_S", 0.3)
    _insert(url, "ended", timedelta(days=1), "done")
    connected = engine(url, 1)
    measuring = asyncio.create_task(open_work.OpenWork(connected, open_work.kinds_of(GROUPS), 0.05).run())
    try:
        _insert(url, "young", timedelta(minutes=1))
        _insert(url, "old", timedelta(hours=1))
        await _until(2)
        assert 3600 <= _value("popfax_oldest_open_seconds") < 3700
        execute(url, "UPDATE transfers SET state = 'done' WHERE id = %s", id_of("old"))
        await _until(1)
        assert 60 <= _value("popfax_oldest_open_seconds") < 160
        execute(url, "ALTER TABLE transfers RENAME TO away")
        seen = _value("popfax_oldest_open_seconds")
        await eventually(lambda: _value("popfax_oldest_open_seconds") > seen + 0.5, "an age goes on")
        assert (REGISTRY.get_sample_value("popfax_open_measured_seconds") or 0) > 0.5
        execute(url, "ALTER TABLE away RENAME TO transfers")
        execute(url, "UPDATE transfers SET state = 'done'")
        await _until(0)
        assert _value("popfax_oldest_open_seconds") == 0
    finally:
        measuring.cancel()
        await connected.dispose()


INDEXES = {
    "outbox": "outbox_pkey",
    "parked": "parked_seq_key",
    "timer": "ix_timers_due_at|sagas_open|subscribers_due|standing_orders_due|low_balances_to_look_at",
    "partition": "partition_stops_open",
    "saga": "sagas_open",
    "transfer": "transfers_open",
    "command": "commands_pending",
    "mail": "mails_due",
    "mail_to_unknown": "mails_due",
}
"""The indexes by which what waits is found, however much there is that does not."""


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.principal)
def test_each_kind_is_found_by_an_index(stack: Stack, service: Service) -> None:
    with scratch_database(stack, service.principal) as url, psycopg.connect(plain(url)) as connection:
        connection.execute("SET enable_seqscan = off")  # tables are empty, where a scan costs nothing
        for kind in open_work.kinds_of(service):
            query = str(kind.query.compile(dialect=psycopg_dialect(), compile_kwargs={"literal_binds": True}))
            plan = "\n".join(line for (line,) in connection.execute(f"EXPLAIN {query}".replace("%%", "%").encode()))
            assert re.search(INDEXES[kind.what], plan), plan


def psycopg_dialect() -> sa.Dialect:
    return sa.make_url("postgresql+psycopg://").get_dialect()()
