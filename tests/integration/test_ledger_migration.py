"""The ledger's rows of the version before, after its migrations."""

import json
from collections.abc import Iterator

import pytest
from alembic import command

from deploy.local.stack import Stack
from deploy.operator.snapshots import ledger_snapshot
from popfax_contracts.ledger import BalanceChanged
from popfax_contracts.topics import Principal
from services.chassis import migrate
from services.ledger.domain import Account, AccountState
from tests.integration.recorder import execute, scratch_database
from tests.unit.given import id_of

ADA, BOB = id_of("ada"), id_of("bob")


@pytest.fixture
def before(stack: Stack) -> Iterator[str]:
    """A database as the first version left it, with some of its rows."""
    with scratch_database(stack) as url:
        command.upgrade(migrate.config(Principal.LEDGER, url), "ledger_0001")
        execute(url, "INSERT INTO accounts VALUES (%s, 50, 20, 3), (%s, 0, 0, 2)", ADA, BOB)
        execute(url, "INSERT INTO holds VALUES (%s, %s, 20, 'open', now(), NULL)", id_of("open"), ADA)
        execute(url, "INSERT INTO holds VALUES (%s, %s, 99, 'refused', now(), NULL)", id_of("refused"), ADA)
        yield url


def test_accounts_are_active_and_their_changes_counted(before: str) -> None:
    migrate.upgrade(Principal.LEDGER, before)
    with ledger_snapshot(before) as snapshot:
        accounts = sorted(snapshot.accounts, key=lambda account: account.balance_units)
    # Three entries, and a hold that was opened.
    assert accounts == [Account(BOB, 0, 0, 2, AccountState.ACTIVE, 2), Account(ADA, 50, 20, 3, AccountState.ACTIVE, 4)]


def test_refused_holds_have_the_one_reason_that_there_was(before: str) -> None:
    migrate.upgrade(Principal.LEDGER, before)
    with ledger_snapshot(before) as snapshot:
        holds = {hold.id: (hold.extends, hold.code) for hold in snapshot.holds}
    assert holds == {id_of("open"): (False, None), id_of("refused"): (False, "units_short")}


def test_what_is_on_every_account_is_told_once(before: str) -> None:
    migrate.upgrade(Principal.LEDGER, before)
    migrate.upgrade(Principal.LEDGER, before)
    rows = execute(before, "SELECT type, key, value FROM outbox ORDER BY seq")
    assert {(type_, key) for type_, key, _ in rows} == {
        (BalanceChanged.TYPE, str(ADA)),
        (BalanceChanged.TYPE, str(BOB)),
    }
    told = {json.loads(value)["account_id"]: BalanceChanged.from_json(value) for _, _, value in rows}
    assert told == {
        str(ADA): BalanceChanged(account_id=ADA, version=4, balance_units=50, available_units=30),
        str(BOB): BalanceChanged(account_id=BOB, version=2, balance_units=0, available_units=0),
    }
    assert len(rows) == 2


def test_a_replica_of_the_version_before_can_still_insert(before: str) -> None:
    migrate.upgrade(Principal.LEDGER, before)
    columns = "id, balance_units, held_units, version"
    execute(before, f"INSERT INTO accounts ({columns}) VALUES (%s, 5, 0, 1)", id_of("new"))
