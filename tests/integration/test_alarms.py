"""What is due of a row is told once, on a real database: whoever looks, however often, and whatever the clock does."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest_asyncio

from deploy.local.stack import Stack
from popfax_contracts.provisioning import AccountExpiring
from popfax_contracts.topics import Principal
from services.chassis import postgres, timers
from services.chassis.database import Why
from services.chassis.messages import Incoming, Outcome
from services.chassis.postgres import PostgresDatabase
from services.chassis.rows import Rows
from services.chassis.service import Moment
from services.chassis.shell import Shell
from services.chassis.timers import fire_due, retry_requested
from services.provisioning.consumers import PROVISIONING
from services.provisioning.domain import Subscriber
from services.provisioning.store import Registry
from services.provisioning.tables import SUBSCRIBERS
from services.provisioning.timers import ExpiryDue
from tests.integration.recorder import execute, parked, scratch_database
from tests.integration.test_repetition import Clock
from tests.simulation.world import exchanged
from tests.unit.given import NOW
from tests.unit.test_provisioning import SIGNED_UP

DAY = timedelta(1)


class Accounts:
    """Accounts that end in 30 days, and what was told of it."""

    def __init__(self, url: str) -> None:
        self.engine = postgres.engine(url)
        self.clock = Clock(NOW)
        self.url = url
        self.broken = False

    def replica(self) -> Shell:
        handler = PROVISIONING.handlers[ExpiryDue]

        def handle(registry: Registry, message: Incoming[ExpiryDue], moment: Moment) -> Outcome:
            if self.broken:
                raise RuntimeError("told to fail")
            return handler.handle(registry, message, moment)

        return Shell(exchanged(PROVISIONING, {ExpiryDue: handle}), PostgresDatabase(self.engine), self.clock)

    async def add(self, count: int) -> Sequence[UUID]:
        rows: Rows[UUID, Subscriber] = Rows(SUBSCRIBERS, {})
        ids = [uuid4() for _ in range(count)]
        for id_ in ids:
            rows.put(replace(SIGNED_UP, id=id_, plan="send_only", expires_at=NOW + 30 * DAY, fax_number=None))
        async with PostgresDatabase(self.engine).begin() as tx:
            await tx.save([rows])
        return ids

    def told(self) -> Counter[tuple[str, int]]:
        query = "SELECT key, convert_from(value, 'UTF8')::json ->> 'days' FROM outbox WHERE type = %s"
        return Counter((key, int(days)) for key, days in execute(self.url, query, AccountExpiring.TYPE))


@pytest_asyncio.fixture
async def accounts(stack: Stack) -> AsyncIterator[Accounts]:
    with scratch_database(stack, Principal.PROVISIONING) as url:
        made = Accounts(url)
        yield made
        await made.engine.dispose()


async def _fire_at(shell: Shell, clock: Clock, now: datetime) -> int:
    clock.now = now
    return await fire_due(shell)


async def test_it_is_due_exactly_at_its_moment_and_then_no_more(accounts: Accounts) -> None:
    (id_,), shell = await accounts.add(1), accounts.replica()
    assert await _fire_at(shell, accounts.clock, NOW - timedelta(microseconds=1)) == 0
    assert 0 < await timers._until_next(shell) < 0.001
    accounts.clock.now = NOW
    assert await timers._until_next(shell) == 0, "the loop does not rest"
    assert await fire_due(shell) == 1
    assert accounts.told() == {(str(id_), 30): 1}
    assert await timers._until_next(shell) == timers.LOOK_S, "it rests again"
    assert await fire_due(shell) == 0


async def test_a_clock_that_is_set_back_and_forth_tells_nothing_twice(accounts: Accounts) -> None:
    (id_,), shell = await accounts.add(1), accounts.replica()
    for days in (0, -40, 0, 23, -1, 0, 23, 22):
        await _fire_at(shell, accounts.clock, NOW + days * DAY)
    assert accounts.told() == {(str(id_), 30): 1, (str(id_), 7): 1}


async def test_of_two_replicas_that_find_the_same_rows_at_once_one_tells(accounts: Accounts) -> None:
    ids, replicas = await accounts.add(50), [accounts.replica(), accounts.replica()]
    for days in (0, 23):
        accounts.clock.now = NOW + days * DAY
        await asyncio.gather(*(fire_due(shell) for shell in replicas))
    assert accounts.told() == {(str(id_), days): 1 for id_ in ids for days in (30, 7)}


async def test_a_row_whose_message_is_parked_waits_until_it_is_released_and_is_told_once(accounts: Accounts) -> None:
    (id_,), replicas = await accounts.add(1), [accounts.replica(), accounts.replica()]
    accounts.broken = True
    await asyncio.gather(*(fire_due(shell) for shell in replicas))
    (row,) = await parked(accounts.engine)
    assert row.why == Why.FAILED
    accounts.broken = False
    for shell in replicas:
        assert await fire_due(shell) == 0, "its key is blocked"
        assert await timers._until_next(shell) == timers.LOOK_S
    await replicas[0].database.request_retry([row.id])
    await asyncio.gather(*(retry_requested(shell) for shell in replicas), *(fire_due(shell) for shell in replicas))
    assert await parked(accounts.engine) == []
    for shell in replicas:
        await fire_due(shell)
    assert accounts.told() == {(str(id_), 30): 1}


async def test_a_row_whose_message_was_dropped_is_still_due(accounts: Accounts) -> None:
    (id_,), shell = await accounts.add(1), accounts.replica()
    accounts.broken = True
    await fire_due(shell)
    (row,) = await parked(accounts.engine)
    async with PostgresDatabase(accounts.engine).begin() as tx:
        await tx.drop_parked([row.id])
    accounts.broken = False
    assert await fire_due(shell) == 1
    assert accounts.told() == {(str(id_), 30): 1}
