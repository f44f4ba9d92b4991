"""Migrations: what they make is what the code expects, and making it again changes nothing."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from deploy.local.stack import Stack
from deploy.paths import CHECKOUT
from popfax_contracts.topics import SERVICES, Principal
from services.chassis import migrate, postgres
from services.chassis.tables import storage
from tests.integration.recorder import execute, plain, scratch_database

BEFORE_PARKED_CHANGES = "ledger_0004"
"""The revision whose successor changes `parked` and `parked_keys`, and so waits for their locks."""


@pytest.fixture
def empty(stack: Stack) -> Iterator[str]:
    with scratch_database(stack) as url:
        yield url


def _metadata(service: Principal) -> sa.MetaData:
    found: sa.MetaData = import_module(f"services.{service}.tables").metadata
    return found


def _differences(url: str, metadata: sa.MetaData) -> list[object]:
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            return list(compare_metadata(MigrationContext.configure(connection), metadata))
    finally:
        engine.dispose()


def _storage(url: str) -> dict[str, dict[str, str]]:
    rows = execute(url, "SELECT relname, reloptions FROM pg_class WHERE relkind = 'r' AND reloptions IS NOT NULL")
    return {name: dict(option.split("=", 1) for option in options) for name, options in rows}


@pytest.mark.parametrize("service", SERVICES)
def test_migrations_make_the_tables_that_the_code_declares(service: Principal, empty: str) -> None:
    migrate.upgrade(service, empty)
    metadata = _metadata(service)
    assert _differences(empty, metadata) == []
    declared = {table.name: storage(table) for table in metadata.sorted_tables if storage(table)}
    found = _storage(empty)
    assert {name: _as_numbers(options) for name, options in found.items()} == {
        name: _as_numbers(options) for name, options in declared.items()
    }


def _as_numbers(options: dict[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in options.items()}


def test_comparison_finds_a_column_that_no_migration_makes(empty: str) -> None:
    migrate.upgrade(Principal.LEDGER, empty)
    execute(empty, "ALTER TABLE accounts DROP COLUMN version")
    assert _differences(empty, _metadata(Principal.LEDGER)) != []


def test_comparison_finds_a_check_that_no_migration_makes(empty: str) -> None:
    migrate.upgrade(Principal.LEDGER, empty)
    assert _checks(empty) == _declared_checks(Principal.LEDGER)
    execute(empty, "ALTER TABLE accounts DROP CONSTRAINT available_not_negative")
    assert _checks(empty) != _declared_checks(Principal.LEDGER)


@pytest.mark.parametrize("service", SERVICES)
def test_migrations_make_the_checks_that_the_code_declares(service: Principal, empty: str) -> None:
    migrate.upgrade(service, empty)
    assert _checks(empty) == _declared_checks(service)


def _checks(url: str) -> set[str]:
    ours = "contype = 'c' AND conrelid <> 0 AND connamespace = 'public'::regnamespace"
    return {name for (name,) in execute(url, f"SELECT conname FROM pg_constraint WHERE {ours}")}


def _declared_checks(service: Principal) -> set[str]:
    tables = _metadata(service).sorted_tables
    return {str(c.name) for t in tables for c in t.constraints if isinstance(c, sa.CheckConstraint)}


@pytest.mark.parametrize("service", SERVICES)
async def test_a_version_works_on_its_own_schema_and_on_newer_ones_that_say_so(service: Principal, empty: str) -> None:
    engine, head = postgres.engine(empty), migrate.known(service).head
    try:
        assert await migrate.trouble(service, engine) == f"it is at None, and this version is made for {head}"
        migrate.upgrade(service, empty)
        assert await migrate.trouble(service, engine) is None
        execute(empty, "UPDATE alembic_version SET version_num = 'newer'")
        assert await migrate.trouble(service, engine) == f"it is at newer, and this version is made for {head}"
        execute(empty, "INSERT INTO schema_support VALUES ('newer', %s)", head)
        assert await migrate.trouble(service, engine) is None
        migrate.upgrade(service, empty)  # who goes back a version deploys that one's migrations, too
        assert execute(empty, "SELECT version_num FROM alembic_version") == [("newer",)]
        execute(empty, "UPDATE schema_support SET oldest = 'newer' WHERE revision = 'newer'")
        assert await migrate.trouble(service, engine) is not None
    finally:
        await engine.dispose()


async def test_a_database_that_only_reads_is_not_ready(empty: str) -> None:
    migrate.upgrade(Principal.LEDGER, empty)
    engine = postgres.engine(empty, 8, default_transaction_read_only="on")
    try:
        assert await migrate.trouble(Principal.LEDGER, engine) == "it is read-only"
    finally:
        await engine.dispose()


def test_a_migration_that_waits_for_a_lock_gives_way_and_goes_on(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command.upgrade(migrate.config(Principal.LEDGER, empty), BEFORE_PARKED_CHANGES)
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT_S", 1)
    monkeypatch.setattr(migrate, "LOCK_PAUSE_S", 0.2)
    with psycopg.connect(plain(empty)) as backup, ThreadPoolExecutor() as pool:
        backup.execute("LOCK TABLE parked, parked_keys IN ACCESS SHARE MODE")
        migrating = pool.submit(migrate.upgrade, Principal.LEDGER, empty)
        waited: list[float] = []
        while len(waited) < 3:  # what comes meanwhile gets through, though the change of the table waits
            began = time.monotonic()
            execute(empty, "SELECT count(*) FROM parked_keys")
            waited.append(time.monotonic() - began)
            time.sleep(0.7)
        assert not migrating.done()
        backup.rollback()
        migrating.result(60)
    assert max(waited) < 5
    assert _differences(empty, _metadata(Principal.LEDGER)) == []


def test_a_migration_that_gets_no_lock_ends_with_a_clear_error(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command.upgrade(migrate.config(Principal.LEDGER, empty), BEFORE_PARKED_CHANGES)
    for name, value in (("LOCK_TIMEOUT_S", 1), ("LOCK_PAUSE_S", 0.1), ("LOCK_ATTEMPTS", 2)):
        monkeypatch.setattr(migrate, name, value)
    with psycopg.connect(plain(empty)) as backup:
        backup.execute("LOCK TABLE parked, parked_keys IN ACCESS SHARE MODE")
        with pytest.raises(migrate.LockedError, match="lock timeout"):
            migrate.upgrade(Principal.LEDGER, empty)
    migrate.upgrade(Principal.LEDGER, empty)
    assert _differences(empty, _metadata(Principal.LEDGER)) == []


@pytest.mark.parametrize("service", SERVICES)
def test_a_database_says_which_versions_its_schema_supports(service: Principal, empty: str) -> None:
    migrate.upgrade(service, empty)
    ((oldest,),) = execute(empty, "SELECT oldest FROM schema_support JOIN alembic_version ON version_num = revision")
    newest = migrate.revisions(service)[-1]
    assert oldest == getattr(newest.module, "compatible_from", newest.revision)


def test_running_twice_keeps_what_is_there(empty: str) -> None:
    migrate.upgrade(Principal.LEDGER, empty)
    execute(empty, "INSERT INTO accounts VALUES (gen_random_uuid(), 5, 0, 1)")
    migrate.upgrade(Principal.LEDGER, empty)
    assert execute(empty, "SELECT balance_units FROM accounts") == [(5,)]


def test_running_at_the_same_moment_is_harmless(stack: Stack, empty: str) -> None:
    environment = {**os.environ, **stack.service_environment(Principal.LEDGER), "LEDGER_DATABASE_URL": empty}
    command = [sys.executable, "-m", "services.chassis.migrate", "ledger"]
    running = [
        subprocess.Popen(command, cwd=CHECKOUT, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    answers = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], [errors for _, errors in answers]
    assert _differences(empty, _metadata(Principal.LEDGER)) == []
