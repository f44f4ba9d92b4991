"""More partitions for a topic in use: on the real broker, with a real relay and a real consumer, under traffic."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import count, takewhile
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner, Result

from deploy.local.process import wait_until
from deploy.local.running import write_settings
from deploy.local.stack import Stack
from deploy.operator import switching, topics
from deploy.operator.cli.app import app
from deploy.operator.cli.errors import Exit
from deploy.operator.cli.output import out
from deploy.operator.kafka import ADMIN
from deploy.operator.switching import Refused, Switch, Unread
from popfax_contracts.topics import LEDGER_COMMANDS, Principal
from services.chassis import postgres, relay
from services.chassis.messages import Outgoing
from services.chassis.postgres import PostgresDatabase
from tests.integration.recorder import Recorder, consuming, credit, effects, eventually, scratch_database
from tests.integration.test_outbox import relaying

TOPIC = LEDGER_COMMANDS.name
BEFORE, AFTER = LEDGER_COMMANDS.partitions, 2 * LEDGER_COMMANDS.partitions
ACCOUNTS = 40


@pytest.fixture
def admin(stack: Stack) -> AdminClient:
    return AdminClient({**stack.kafka.client_config(ADMIN), "log_level": 0})


@pytest.fixture(autouse=True)
def as_before(stack: Stack, admin: AdminClient) -> Iterator[None]:
    """Leave the topic as others expect it: partitions can't be taken away."""
    yield
    with suppress(Refused):
        switch = Switch(stack.kafka.client_config(ADMIN), LEDGER_COMMANDS)
        topics.reopen(admin, LEDGER_COMMANDS)
        if switch.partitions() != BEFORE:
            admin.delete_topics([TOPIC])[TOPIC].result()
    assert wait_until(lambda: topics.apply(stack.kafka.client_config(ADMIN)) == [], 30)


@pytest.fixture
def popfax(stack: Stack, tmp_path: Path) -> Iterator["Popfax"]:
    settings = tmp_path / "topics.toml"
    settings.write_text(f'[topics."{TOPIC}"]\npartitions = {AFTER}\n')
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(out, "_width", 200)  # no cell of a table is wrapped
        yield Popfax(write_settings(stack.directory, stack), settings)


class Popfax:
    """The command line, with a deployment's settings."""

    def __init__(self, file: Path, settings: Path) -> None:
        self._options = ("--env-file", str(file))
        self._settings = ("--settings", str(settings))

    def __call__(self, *arguments: str, settings: bool = True) -> Result:
        options = (*self._options, *self._settings) if settings else self._options
        return CliRunner().invoke(app, ["topics", *arguments, *options])


class Traffic:
    """Commands on many keys, numbered in order on each, written to an outbox until told to stop."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._accounts = [uuid4() for _ in range(ACCOUNTS)]
        self.written: Counter[UUID] = Counter()
        self.over = False

    async def write(self) -> None:
        for turn in takewhile(lambda _: not self.over, count()):
            accounts = self._accounts[turn % 4 :: 4]
            self.written.update(accounts)
            bodies = [credit(account, self.written[account]) for account in accounts]
            rows = [
                Outgoing(uuid4(), body.TYPE, body.key(), body.to_json(), str(uuid4()), str(uuid4()), None, None)
                for body in bodies
            ]
            async with PostgresDatabase(self._engine).begin() as tx:
                await tx.send(rows, datetime.now(UTC))
            await asyncio.sleep(0.01)

    async def handled(self, engine: AsyncEngine) -> dict[UUID, list[int]]:
        """Return what was handled of each key, in the order in which it was."""
        found: dict[UUID, list[int]] = {account: [] for account in self._accounts}
        for effect in await effects(engine, self._accounts):
            found[effect.account_id].append(effect.amount_units)
        return found


@pytest.fixture
def platform_url(stack: Stack) -> Iterator[str]:
    """A database with the outbox of the platform, which writes this topic."""
    with scratch_database(stack, Principal.GROUPS) as url:
        yield url


@pytest_asyncio.fixture
async def traffic(platform_url: str) -> AsyncIterator[Traffic]:
    engine = postgres.engine(platform_url)
    yield Traffic(engine)
    await engine.dispose()


@asynccontextmanager
async def running(traffic: Traffic) -> AsyncIterator[None]:
    """Write, until the end of the block."""
    writing = asyncio.create_task(traffic.write())
    try:
        yield
    finally:
        traffic.over = True
        await writing


async def test_a_topic_under_traffic_gets_more_partitions_and_each_key_keeps_its_order(
    stack: Stack,
    popfax: Popfax,
    admin: AdminClient,
    platform_url: str,
    traffic: Traffic,
    ledger_url: str,
    ledger_engine: AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "CHECK_S", 0.5)
    monkeypatch.setattr(switching, "CLIENT_LEARNS_S", 2.0)
    async with (
        consuming(stack, ledger_url, Recorder().service, offset_commit_s=0.2),
        relaying(stack, platform_url, Principal.PLATFORM),
    ):
        async with running(traffic):
            await eventually(lambda: _handled(traffic, ledger_engine), "the first effects")
            early = await asyncio.to_thread(popfax, "switch", TOPIC)
            assert (early.exit_code, f"First: popfax topics drain {TOPIC}" in early.stderr) == (Exit.NO, True)
            drained = await asyncio.to_thread(popfax, "drain", TOPIC)
            assert drained.exit_code == Exit.OK, drained.output
            before = traffic.written.total()
            compared = await asyncio.to_thread(popfax)
            assert "closed to its writers" in compared.stdout
            switched = await asyncio.to_thread(popfax, "switch", TOPIC)
            assert (switched.exit_code, f"{AFTER} partitions" in switched.stdout) == (Exit.OK, True), switched.output
            assert traffic.written.total() > before, "its writer went on, into the outbox"
            assert (await asyncio.to_thread(popfax)).exit_code == Exit.OK
            await asyncio.sleep(1)

        async def done() -> bool:
            return await _handled(traffic, ledger_engine) == traffic.written.total()

        await eventually(done, "every command's effect")
    in_order = {account: list(range(1, many + 1)) for account, many in traffic.written.items()}
    assert await traffic.handled(ledger_engine) == in_order
    ends = Switch(stack.kafka.client_config(ADMIN), LEDGER_COMMANDS).ends()
    assert any(end > 0 for partition, (_, end) in ends.items() if partition >= BEFORE), "keys have moved"


async def _handled(traffic: Traffic, engine: AsyncEngine) -> int:
    return sum(map(len, (await traffic.handled(engine)).values()))


async def test_without_draining_a_key_is_in_two_partitions_at_once(
    stack: Stack, admin: AdminClient, platform_url: str, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the refusals are for: nobody has read these records, and nothing says which partition is read first."""
    monkeypatch.setattr(relay, "CHECK_S", 0.5)
    switch = Switch(stack.kafka.client_config(ADMIN), LEDGER_COMMANDS)
    async with relaying(stack, platform_url, Principal.PLATFORM), running(traffic):
        await eventually(switch.unread, "records that nobody reads")
        admin.create_partitions([NewPartitions(TOPIC, AFTER)])[TOPIC].result()
        await eventually(lambda: any(each.partition >= BEFORE for each in switch.unread()), "and in new partitions")
    assert {each.group for each in switch.unread()} == {"ledger"}
    assert {each.partition < BEFORE for each in switch.unread()} == {True, False}


class TestRefused:
    def test_while_readers_have_not_handled_everything(self, stack: Stack, popfax: Popfax, admin: AdminClient) -> None:
        config = stack.kafka.client_config(ADMIN)
        switch = Switch(config, LEDGER_COMMANDS)
        switch.close(AFTER)
        left = [Unread("ledger", 3, 7)]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Switch, "unread", lambda _: left)
            with pytest.raises(Refused, match="not drained, 7 records are left: wait for ledger"):
                switch.widen(AFTER)
            with pytest.raises(Refused, match="not drained"):
                switch.reopen(learned=True)
            late = popfax("drain", TOPIC, "--timeout", "1")
            assert late.exit_code == Exit.UNREACHABLE
            assert "ledger: 7 records left, in 1 partitions" in late.stdout
        assert switch.partitions() == BEFORE
        assert switch.is_closed()

    def test_when_somebody_else_has_opened_it_meanwhile(self, stack: Stack, admin: AdminClient) -> None:
        switch = Switch(stack.kafka.client_config(ADMIN), LEDGER_COMMANDS)
        switch.close(AFTER)
        with pytest.raises(Refused, match="was opened by somebody else"):
            switch.reopen(wait=lambda _: topics.reopen(admin, LEDGER_COMMANDS))


def test_retention_is_prolonged_at_once_and_shortened_only_when_that_is_meant(popfax: Popfax, tmp_path: Path) -> None:
    def days(number: int) -> None:
        (tmp_path / "topics.toml").write_text(f'[topics."{TOPIC}"]\nretention_days = {number}\n')

    days(9)
    assert "7 days  9 days     popfax topics --apply" in popfax().stdout
    assert popfax("--apply").exit_code == Exit.OK
    days(7)
    shorter = popfax("--apply")
    assert (shorter.exit_code, "--accept-loss" in shorter.stdout) == (Exit.NO, True)
    assert popfax("--apply", "--accept-loss").exit_code == Exit.OK
    days(13)
    refused = popfax("--apply")
    assert (refused.exit_code, "INBOX_RETENTION_DAYS is 14" in refused.stderr) == (Exit.USAGE, True)


@pytest.mark.parametrize(
    ("topic", "said"), [("popfax.ledger.balances", "is compacted"), ("popfax.ledger.events", "nothing to switch")]
)
def test_a_drain_without_a_reason_closes_nothing(popfax: Popfax, topic: str, said: str) -> None:
    refused = popfax("drain", topic)
    assert (refused.exit_code, said in refused.stderr) == (Exit.NO, True)
    assert "closed to its writers" not in popfax().stdout
    assert popfax("open", topic, settings=False).exit_code == Exit.NO
