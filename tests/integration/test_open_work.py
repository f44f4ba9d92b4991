"""The metrics of what is open: how much, and for how long the oldest."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY

from deploy.local.stack import Stack
from popfax_contracts.topics import Principal
from services.chassis import open_work
from services.chassis.postgres import engine
from services.groups.consumers import GROUPS
from tests.integration.recorder import eventually, execute, scratch_database
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
    monkeypatch.setattr(open_work, "EVERY_S", 0.05)
    _insert(url, "ended", timedelta(days=1), "done")
    connected = engine(url, 1)
    measuring = asyncio.create_task(open_work.OpenWork(connected, open_work.kinds_of(GROUPS)).run())
    try:
        _insert(url, "young", timedelta(minutes=1))
        _insert(url, "old", timedelta(hours=1))
        await _until(2)
        assert 3600 <= _value("popfax_oldest_open_seconds") < 3700
        execute(url, "UPDATE transfers SET state = 'done' WHERE id = %s", id_of("old"))
        await _until(1)
        assert 60 <= _value("popfax_oldest_open_seconds") < 160
        execute(url, "ALTER TABLE transfers RENAME TO away")
        await asyncio.sleep(0.3)
        execute(url, "ALTER TABLE away RENAME TO transfers")
        execute(url, "UPDATE transfers SET state = 'done'")
        await _until(0)
        assert _value("popfax_oldest_open_seconds") == 0
    finally:
        measuring.cancel()
        await connected.dispose()


def test_it_looks_at_the_open_ones_alone(url: str) -> None:
    """However many have ended: an index of those that have not is all that it reads."""
    ended = "SELECT gen_random_uuid(), %s, %s, 'amount', 5, 'done', now() FROM generate_series(1, 5000)"
    execute(url, f"INSERT INTO transfers (id, group_id, owner_id, mode, amount_units, state, asked_at) {ended}", *_IDS)
    execute(url, "ANALYZE transfers")
    plan = execute(url, "EXPLAIN SELECT count(*), min(asked_at) FROM transfers WHERE state = 'pending'")
    assert any("transfers_open" in line for (line,) in plan), plan
