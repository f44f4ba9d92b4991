"""Who is gone, or hangs, holds no lock for long. A host vanishes here by a packet filter that drops what comes."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.stack import Stack
from popfax_contracts.groups import MembershipEnded
from popfax_contracts.topics import Principal
from services.chassis import postgres
from services.chassis.pipeline import Driver
from services.chassis.postgres import VANISHED_S, driver_of
from services.chassis.relay import PAUSE_S
from tests.integration.paused_relay import discard, paused_relay
from tests.integration.recorder import eventually, execute, scratch_database, settings
from tests.integration.test_outbox import _append, _leader, relaying

CHECK_S = 5
"""How often the server looks after the connection of a statement that runs."""

SLOW_S = 10
"""What a busy machine may add."""


@pytest.mark.drill
async def test_another_relay_leads_soon_when_the_leader_hangs_or_its_host_vanished(stack: Stack) -> None:
    """One after the other: two relays of a service fence each other, whichever databases they have."""
    for vanish in (False, True):
        with scratch_database(stack, Principal.LEDGER) as url:
            assert await _leaderless_s(stack, url, vanish=vanish) < PAUSE_S + SLOW_S


async def _leaderless_s(stack: Stack, url: str, *, vanish: bool) -> float:
    """Pause a leader, and say for how long nobody leads."""
    engine = postgres.engine(url)
    await _append(engine, MembershipEnded(membership_id=uuid4()))
    with paused_relay(settings(stack, url, Principal.GROUPS), Principal.GROUPS, vanish=vanish) as leader:
        assert await asyncio.to_thread(leader.says) == "holds"
        begun = time.monotonic()
        assert await _leader(engine) is not None
        async with relaying(stack, url, Principal.GROUPS) as successor:
            await eventually(lambda: successor.working, "a new leader", within_s=60)
        gap = time.monotonic() - begun
    await engine.dispose()
    print(f"led after {gap:.1f} s")
    return gap


async def _idle(driver: Driver) -> None:
    """Say nothing more, as whoever vanished between two statements."""


async def _running(driver: Driver) -> None:
    """Have a statement running that takes longer than anybody's patience."""
    await driver.execute("SELECT pg_sleep(300)")


async def _answering(driver: Driver) -> None:
    """Be sent an answer that never arrives."""
    await driver.execute("SELECT repeat('x', 1000), pg_sleep(0.5)")


@pytest.mark.drill
async def test_locks_are_free_soon_when_the_host_of_their_holder_vanished(stack: Stack) -> None:
    """Whatever it was doing: without its session's settings, up to 60 s, 300 s and forever."""
    with scratch_database(stack, Principal.LEDGER) as url:
        engine = postgres.engine(url)
        doings = {"effects": _idle, "inbox": _running, "outbox": _answering}
        held = await asyncio.gather(*(_held_s(engine, url, table, doing) for table, doing in doings.items()))
        await engine.dispose()
    assert max(held) < VANISHED_S + CHECK_S + SLOW_S, held


async def _held_s(engine: AsyncEngine, url: str, table: str, doing: Callable[[Driver], Awaitable[None]]) -> float:
    """Lock a table, let the host vanish, and say for how long the lock is held."""
    async with engine.connect() as connection:
        driver = await driver_of(connection)
        await driver.execute(f"LOCK TABLE {table}".encode())
        gone = asyncio.ensure_future(doing(driver))
        await asyncio.sleep(0.2)
        discard(driver.fileno())
        begun = time.monotonic()
        await asyncio.to_thread(execute, url, f"SET lock_timeout = '120s'; LOCK TABLE {table}")
        held = time.monotonic() - begun
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await connection.invalidate()
    print(f"free after {held:.1f} s: {doing.__name__}")
    return held
