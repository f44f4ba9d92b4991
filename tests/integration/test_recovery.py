"""Recovery costs what the ordinary way costs: in batches, in order, several keys side by side."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import pytest

from services.chassis import timers
from services.chassis.database import Outage, Why
from services.chassis.postgres import RETRIED_BYTES, PostgresDatabase
from services.chassis.shell import FromKafka, FromParked, Shell
from services.chassis.timers import retry_requested, run_retries
from tests.integration.line import Line
from tests.integration.line import id_of_record as _id
from tests.integration.recorder import Sent, credit, effects, eventually, execute, parked


async def _blocked(line: Line, *accounts: UUID, behind: int, first: int = 1) -> dict[UUID, list[Sent]]:
    """A failed message on each account's key, and so many behind it, numbered from `first`."""
    numbers = range(first, first + behind + 1)
    lines = {account: [line.record(credit(account, n)) for n in numbers] for account in accounts}
    line.recorder.broken.update(_id(records[0]) for records in lines.values())
    for start in range(0, behind + 1, 1000):
        await line.handle(*(record for records in lines.values() for record in records[start : start + 1000]))
    assert len(await parked(line.engine)) == len(accounts) * (behind + 1)
    return lines


async def _drain(line: Line) -> list[int]:
    """Retry until nothing is left to try; return how many each batch tried."""
    tried = []
    while count := await retry_requested(line.shell):
        tried.append(count)
    return tried


def _numbers(*ranges: range) -> list[int]:
    return [n for each in ranges for n in each]


async def test_a_long_line_costs_each_of_its_messages_once(line: Line, ledger_url: str) -> None:
    account, behind = uuid4(), 2000
    (records,) = (await _blocked(line, account, behind=behind, first=1000)).values()
    line.recorder.broken.clear()
    before = await _written(line, ledger_url)
    calls = line.recorder.calls
    await line.shell.database.request_retry([_id(records[0])])
    assert await _drain(line) == [2000, 1]
    updated, deleted = (
        after - earlier for after, earlier in zip(await _written(line, ledger_url), before, strict=True)
    )
    assert (updated, deleted) == (1, behind + 1 + 1), "a mark on the key; the messages and the key"
    assert line.recorder.calls - calls == behind + 1, "each is handled once"
    assert await line.amounts(account) == _numbers(range(1000, 1000 + behind + 1))
    await line.handle(line.record(credit(account, 7)))
    assert (await line.amounts(account))[-1] == 7


async def _written(line: Line, url: str) -> tuple[int, int]:
    """How many rows of the parked messages and their keys were ever updated, and deleted.

    A connection's counts are counted once its backend has ended.
    """
    await line.engine.dispose()
    others = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    await eventually(lambda: not execute(url, others), "all connections have ended")
    query = """SELECT sum(n_tup_upd)::int, sum(n_tup_del)::int FROM pg_stat_user_tables
        WHERE relname IN ('parked', 'parked_keys')"""
    ((updated, deleted),) = execute(url, query)
    return updated, deleted


async def test_keys_drain_side_by_side_and_one_that_fails_again_stops_alone(line: Line) -> None:
    accounts = [uuid4() for _ in range(5)]
    lines = await _blocked(line, *accounts, behind=20)
    bad = lines[accounts[2]][10]
    line.recorder.broken = {_id(bad)}
    await line.shell.database.request_retry([_id(records[0]) for records in lines.values()])
    await _drain(line)
    for account in accounts:
        last = 10 if account == accounts[2] else 21
        assert await line.amounts(account) == _numbers(range(1, last + 1))
    rows = await parked(line.engine)
    assert [(row.id, row.why, row.attempts) for row in rows[:2]] == [
        (_id(bad), Why.FAILED, 2),
        (_id(lines[accounts[2]][11]), Why.BEHIND, 1),
    ]
    assert len(rows) == 11
    assert rows[0].code == "RuntimeError"
    later = line.record(credit(accounts[2], 22))
    await line.handle(later)
    assert (await parked(line.engine))[-1].id == _id(later), "its key is still blocked"
    line.recorder.broken.clear()
    await line.shell.database.request_retry([_id(bad)])
    await _drain(line)
    assert await line.amounts(accounts[2]) == _numbers(range(1, 23))


async def test_the_first_batch_takes_from_every_key(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "RETRIES_AT_ONCE", 10)
    accounts = [uuid4() for _ in range(5)]
    lines = await _blocked(line, *accounts, behind=9)
    line.recorder.broken.clear()
    await line.shell.database.request_retry([_id(records[0]) for records in lines.values()])
    assert await retry_requested(line.shell) == 10
    for account in accounts:
        assert await line.amounts(account) == [1, 2]
    await _drain(line)
    for account in accounts:
        assert await line.amounts(account) == _numbers(range(1, 11))


async def test_what_arrives_while_a_line_drains_joins_it_and_overtakes_nobody(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "RETRIES_AT_ONCE", 25)
    account, behind, more = uuid4(), 200, 300
    (records,) = (await _blocked(line, account, behind=behind)).values()
    line.recorder.broken.clear()
    other = Shell(line.recorder.service, PostgresDatabase(line.engine))  # a second replica retries, too
    draining = [asyncio.create_task(run_retries(shell, 0.01)) for shell in (line.shell, other)]
    try:
        await line.shell.database.request_retry([_id(records[0])])
        for number in range(behind + 2, behind + more + 2):
            await line.shell.process([line.record(credit(account, number))], FromKafka())
        await eventually(lambda: _is_empty(line), "all are handled")
    finally:
        for task in draining:
            task.cancel()
        await asyncio.gather(*draining, return_exceptions=True)
    assert await line.amounts(account) == _numbers(range(1, behind + more + 2))
    assert execute(line.url, "SELECT count(*) FROM parked_keys") == [(0,)]


async def _is_empty(line: Line) -> bool:
    return await parked(line.engine) == []


async def test_a_crash_in_the_middle_loses_nothing_and_repeats_nothing(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "RETRIES_AT_ONCE", 30)
    account = uuid4()
    (records,) = (await _blocked(line, account, behind=99)).values()
    line.recorder.broken.clear()
    await line.shell.database.request_retry([_id(records[0])])
    assert await retry_requested(line.shell) == 30
    async with _crashing(line):
        with pytest.raises(Outage):
            await retry_requested(line.shell)
    assert await line.amounts(account) == _numbers(range(1, 31))
    line.shell = Shell(line.recorder.service, PostgresDatabase(line.engine))  # as after a restart
    await _drain(line)
    assert await line.amounts(account) == _numbers(range(1, 101))


@asynccontextmanager
async def _crashing(line: Line) -> AsyncIterator[None]:
    """The connection breaks in the middle of the batch, when its messages are taken away and handled already."""

    def break_() -> None:
        execute(
            line.url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'",
        )

    line.recorder.before = break_
    yield
    line.recorder.before = lambda: None


async def test_dropping_the_head_lets_the_line_go_on(line: Line) -> None:
    account = uuid4()
    (records,) = (await _blocked(line, account, behind=50)).values()
    async with PostgresDatabase(line.engine).begin() as tx:
        await tx.drop_parked([_id(records[0])])
    await _drain(line)
    assert await line.amounts(account) == _numbers(range(2, 52))
    assert execute(line.url, "SELECT count(*) FROM parked_keys") == [(0,)]


async def test_a_batch_of_retries_is_bounded_by_its_bytes(line: Line) -> None:
    account, size, count = uuid4(), 700_000, 30
    (records,) = (await _blocked(line, account, behind=count - 1)).values()
    # As large as Kafka takes them: blanks in JSON mean nothing.
    execute(line.url, f"UPDATE parked SET value = value || decode(repeat('20', {size}), 'hex')")
    line.recorder.broken.clear()
    await line.shell.database.request_retry([_id(records[0])])
    first = await line.shell.database.requested_retries(2000)
    assert len(first) == RETRIED_BYTES // (size + 1000)
    execute(line.url, f"UPDATE parked SET value = value || decode(repeat('20', {RETRIED_BYTES}), 'hex') WHERE seq = 1")
    assert len(await line.shell.database.requested_retries(2000)) == 1, "one at least, however large"
    await _drain(line)
    assert await line.amounts(account) == _numbers(range(1, count + 1))


async def test_who_retries_what_others_have_just_done_does_nothing(line: Line) -> None:
    account = uuid4()
    (records,) = (await _blocked(line, account, behind=5)).values()
    line.recorder.broken.clear()
    await line.shell.database.request_retry([_id(records[0])])
    stale = await line.shell.database.requested_retries(99)
    await _drain(line)
    await line.shell.process(stale, FromParked())
    assert await line.amounts(account) == _numbers(range(1, 7))
    assert len(await effects(line.engine, [account])) == 6
