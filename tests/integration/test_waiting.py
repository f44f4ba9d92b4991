"""What waits for company in a consumer, on a real broker: nothing is lost with it, nothing is committed for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.stack import Stack
from services.chassis.consumer import Consumer
from tests.e2e.driver import Wire
from tests.integration.recorder import Recorder, consuming, effects, eventually
from tests.integration.test_consumer import Commands, _committed, _skip_to_end


@pytest.fixture(autouse=True)
def gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first batch, whatever begins waits until `_open`, or until a batch is full."""
    closes(monkeypatch)


def closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make what begins wait forever."""
    monkeypatch.setattr("services.chassis.gathering.BATCH_TIMES", 1e9)
    monkeypatch.setattr("services.chassis.gathering.LONGEST_S", 1e9)


def _open(*consumers: Consumer) -> None:
    for consumer in consumers:
        consumer._gathering._closed_until = 0.0


@asynccontextmanager
async def _replica(stack: Stack, url: str, **more: object) -> AsyncIterator[Consumer]:
    async with consuming(stack, url, Recorder().service, offset_commit_s=0.05, **more) as consumer:
        await eventually(lambda: consumer.trouble() is None, "it consumes")
        yield consumer


def _waiting(*consumers: Consumer) -> int:
    return sum(len(consumer._gathering) for consumer in consumers)


class Given:
    """Commands, and what has become of them."""

    def __init__(self, stack: Stack, engine: AsyncEngine) -> None:
        _skip_to_end(stack)
        self.wire, self.commands, self._stack, self._engine = Wire(stack.kafka), Commands(), stack, engine
        self._before = _committed(stack)

    async def send(self, each: int) -> None:
        await asyncio.to_thread(self.commands.send, self.wire, each)

    async def handled(self) -> int:
        return len(await effects(self._engine, self.commands.accounts))

    async def until(self, holds: Callable[[int], bool], what: str) -> int:
        """Wait until the number of handled ones is as it should be; return it."""

        async def is_so() -> bool:
            return holds(await self.handled())

        await eventually(is_so, what)
        return await self.handled()

    async def assert_committed(self) -> None:
        """What is handled is committed, and nothing else."""
        handled = await self.handled()
        await eventually(lambda: _committed(self._stack) - self._before >= handled, "offsets")
        await asyncio.sleep(0.2)
        assert _committed(self._stack) - self._before == await self.handled()

    async def assert_all(self) -> None:
        await self.until(lambda handled: handled >= self.commands.sent, "all of them")
        await self.commands.assert_each_once_in_order(self._engine)


@pytest.fixture
def given(stack: Stack, ledger_engine: AsyncEngine) -> Given:
    return Given(stack, ledger_engine)


async def test_a_replica_that_stops_while_records_wait_leaves_them_to_the_next(
    stack: Stack, ledger_url: str, given: Given
) -> None:
    async with _replica(stack, ledger_url) as first:
        await given.send(1)
        await given.until(bool, "the first batch")
        await given.send(3)
        await eventually(lambda: _waiting(first) >= 60, "they wait")
    await given.assert_committed()
    assert await given.handled() <= 20, "stopping handles nothing more"
    async with _replica(stack, ledger_url) as second:
        await given.until(lambda handled: handled > 20, "its first batch")
        _open(second)
        await given.assert_all()


async def test_records_wait_through_a_second_replica_that_comes_and_goes(
    stack: Stack, ledger_url: str, given: Given
) -> None:
    async with _replica(stack, ledger_url) as first:
        await given.send(1)
        await given.until(bool, "the first batch")
        await given.send(9)
        handled = await given.handled()
        left = given.commands.sent - handled
        await eventually(lambda: _waiting(first) == left, "the rest waits")
        async with _replica(stack, ledger_url) as second:
            await given.until(lambda now: now > handled, "the second one's first batch")
            await eventually(lambda: 0 < _waiting(first) < left, "the first has lost some")
            await given.send(10)
            both = (first, second)

            async def all_wait() -> bool:
                return _waiting(*both) + await given.handled() == given.commands.sent

            await eventually(all_wait, "each holds what is on its partitions")
            assert _waiting(second) > 0
            await given.assert_committed()
        handled = await given.handled()
        await eventually(lambda: _waiting(first) == given.commands.sent - handled, "the first has them all again")
        await given.assert_committed()
        _open(first)
        await given.assert_all()


async def test_a_full_batch_waits_for_nobody_and_keeps_the_order(stack: Stack, ledger_url: str, given: Given) -> None:
    async with _replica(stack, ledger_url, batch_records=50) as consumer:
        await given.send(20)
        await given.until(lambda handled: handled > given.commands.sent - 50, "full batches")
        await given.assert_committed()
        _open(consumer)
        await given.assert_all()
