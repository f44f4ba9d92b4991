"""A relay that was paused must not publish what it still holds behind its successor's back: on the real broker."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.groups import MembershipEnded, MembershipRecorded
from contracts.message import Message
from contracts.topics import GROUPS_MEMBERS, Principal
from deploy.local.stack import Stack
from services._platform import kafka, postgres
from services._platform.postgres import PostgresDatabase
from tests.e2e.driver import Log, Seen
from tests.integration.paused_relay import paused_relay
from tests.integration.recorder import count, eventually, scratch_database, settings
from tests.integration.test_outbox import _enveloped, _kill_leader, relaying


def _recorded(membership: UUID) -> MembershipRecorded:
    return MembershipRecorded(
        membership_id=membership,
        group_id=uuid4(),
        owner_id=uuid4(),
        member_id=uuid4(),
        epoch=1,
        state="active",
        joined_at=datetime.now(UTC),
    )


async def _append(engine: AsyncEngine, *bodies: Message) -> None:
    async with PostgresDatabase(engine).begin() as tx:
        await tx.send([_enveloped(body) for body in bodies], datetime.now(UTC))


async def _is_empty(engine: AsyncEngine) -> bool:
    return await count(engine, "outbox") == 0


def _newest(records: Sequence[Seen], key: UUID) -> Seen:
    """What compaction keeps of a key."""
    return max((seen for seen in records if seen.key == str(key).encode()), key=lambda seen: seen.offset)


async def _overtaken(stack: Stack, url: str, engine: AsyncEngine, *, fenced: bool, crash: bool) -> tuple[str, Seen]:
    """Pause a leader that holds a record; let its successor publish that one and a newer one; let it go on.

    Gives what became of what it held, and the newest record of the key.
    """
    membership, log = uuid4(), Log(stack.kafka, [GROUPS_MEMBERS])
    await _append(engine, _recorded(membership))
    given = settings(stack, url, Principal.GROUPS)
    with paused_relay(given, Principal.GROUPS, fenced=fenced) as leader:
        assert await asyncio.to_thread(leader.says) == "holds"
        await _kill_leader(engine)
        async with relaying(stack, url, Principal.GROUPS):
            await eventually(lambda: _is_empty(engine), "the successor has published what the leader still holds")
            await _append(engine, MembershipEnded(membership_id=membership))
            await eventually(lambda: _is_empty(engine), "and a newer record of the same key")
            if crash:
                await asyncio.to_thread(stack.kafka.kill)
                await asyncio.to_thread(stack.kafka.start)
            leader.resume()
            outcome = await asyncio.to_thread(leader.says)
    await asyncio.to_thread(log.read_to_end)
    log.close()
    return outcome, _newest(log.seen, membership)


class TestStaleLeader:
    async def test_what_it_held_is_refused(self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine) -> None:
        outcome, newest = await _overtaken(stack, ledger_url, ledger_engine, fenced=True, crash=False)
        assert (outcome, newest.value) == ("ProducerFenced", None)

    async def test_what_it_held_is_refused_by_a_broker_that_has_crashed_meanwhile(self, fragile: Stack) -> None:
        with scratch_database(fragile, Principal.LEDGER) as url:
            engine = postgres.engine(url)
            outcome, newest = await _overtaken(fragile, url, engine, fenced=True, crash=True)
            await engine.dispose()
        assert (outcome, newest.value) == ("ProducerFenced", None)

    async def test_without_its_fence_the_stale_record_stays_for_ever(
        self, stack: Stack, ledger_url: str, ledger_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The tests above can fail: this is what they saw before there was a fence."""
        producer = kafka.producer
        monkeypatch.setattr(kafka, "producer", lambda given, fence=None: producer(given))
        outcome, newest = await _overtaken(stack, ledger_url, ledger_engine, fenced=False, crash=False)
        assert outcome == "published"
        assert newest.value is not None, "active again, although it has ended"
