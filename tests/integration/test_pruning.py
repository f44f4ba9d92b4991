"""What is older than anybody asks for is removed, and nothing else."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.stack import Stack
from popfax_contracts.topics import Principal
from services.chassis import postgres, pruning
from services.chassis.postgres import INBOX, PostgresDatabase
from services.notifications.app import ended_mails
from services.notifications.domain import UNDONE, MailState
from services.notifications.store import LoadPlan
from services.notifications.tables import WAITING_ABOUT, WAITING_FOR
from tests.integration.recorder import count, eventually, execute, plain, scratch_database
from tests.unit.given import id_of

NOW = datetime.now(UTC)
OLD = NOW - timedelta(days=10)
BEFORE = NOW - timedelta(days=5)
RECENT = NOW - timedelta(days=3)


@pytest.fixture
def mails_url(stack: Stack) -> Iterator[str]:
    with scratch_database(stack, Principal.NOTIFICATIONS) as url:
        yield url


async def test_removes_what_is_older_in_parts(
    ledger_url: str, ledger_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "AT_ONCE", 2)
    for number in range(7):
        receive(ledger_url, f"{number}", OLD if number < 5 else RECENT)
    pruner = asyncio.create_task(pruning.prune(ledger_engine, pruning.Old(INBOX.c.received_at, timedelta(days=5))))
    try:
        await eventually(lambda: len(execute(ledger_url, "SELECT id FROM inbox")) == 2, "old ones are removed")
        await asyncio.sleep(0.3)
    finally:
        pruner.cancel()
    assert await count(ledger_engine, "inbox") == 2
    assert await count(ledger_engine, "removals") == 0, "nothing else tells of the ids of messages"


async def test_passes_over_what_is_locked_and_removes_it_in_the_next_round(
    ledger_url: str, ledger_engine: AsyncEngine
) -> None:
    receive(ledger_url, "locked", OLD)
    receive(ledger_url, "free", OLD)
    database, old = PostgresDatabase(ledger_engine), pruning.Old(INBOX.c.received_at, timedelta(days=5))
    with psycopg.connect(plain(ledger_url)) as other:
        other.execute("SELECT id FROM inbox WHERE id = %s FOR UPDATE", [id_of("locked")])
        assert await pruning.remove(database, old, BEFORE) == 1
        assert ids(ledger_url, "SELECT id FROM inbox") == {id_of("locked")}
    assert await pruning.remove(database, old, BEFORE) == 1


async def test_mails_that_ended_go_with_their_deliveries_and_those_that_may_still_be_sent_stay(mails_url: str) -> None:
    for state in MailState:
        for moment, age in ((OLD, "old"), (RECENT, "recent")):
            write(mails_url, f"{age} {state}", state, moment)
    engine = postgres.engine(mails_url)
    try:
        database, old = PostgresDatabase(engine), ended_mails(timedelta(days=5))
        removed = await pruning.remove(database, old, BEFORE)
        again = await pruning.remove(database, old, BEFORE - timedelta(days=1))
    finally:
        await engine.dispose()
    assert (removed, again) == (len(MailState) - len(UNDONE), 0)
    expected = {id_of(f"recent {state}") for state in MailState} | {id_of(f"old {state}") for state in UNDONE}
    assert ids(mails_url, "SELECT id FROM mails") == expected
    assert ids(mails_url, "SELECT mail_id FROM deliveries") == expected
    assert execute(mails_url, "SELECT of_table, before FROM removals") == [("mails", BEFORE)]


async def test_mails_to_and_about_a_person_are_found_by_indexes_that_hold_only_those_that_may_be_sent(
    mails_url: str,
) -> None:
    load = LoadPlan()
    load.mails.add_all(WAITING_FOR, id_of("somebody"))
    load.mails.add_all(WAITING_ABOUT, id_of("somebody"))
    engine = postgres.engine(mails_url, enable_seqscan="off")  # there are too few mails to need an index
    try:
        async with PostgresDatabase(engine).begin() as tx:
            await load.fetch(tx)
    finally:
        await engine.dispose()
    used = "SELECT indexrelname FROM pg_stat_user_indexes WHERE relname = 'mails' AND idx_scan > 0"
    indexes = {("mails_waiting_for",), ("mails_waiting_about",)}
    await eventually(lambda: indexes <= set(execute(mails_url, used)), "both indexes are used")


def receive(url: str, name: str, at: datetime) -> None:
    execute(url, "INSERT INTO inbox (id, received_at) VALUES (%s, %s)", id_of(name), at)


def write(url: str, name: str, state: MailState, at: datetime) -> None:
    execute(
        url,
        "INSERT INTO mails (id, template, recipient_id, params, state, made_at, next_attempt_at)"
        " VALUES (%s, 'welcome', %s, '{}', %s, %s, %s)",
        *(id_of(name), id_of("somebody"), state.value, at, at),
    )
    execute(url, "INSERT INTO deliveries (mail_id, attempts, uncertain) VALUES (%s, 1, 0)", id_of(name))


def ids(url: str, query: str) -> set[UUID]:
    return {id_ for (id_,) in execute(url, query)}
