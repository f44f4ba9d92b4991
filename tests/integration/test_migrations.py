"""Migrations: what they make is what the code expects, and making it again changes nothing."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from contracts.topics import Principal
from deploy.local.paths import CHECKOUT
from deploy.local.postgres import SERVICES
from deploy.local.stack import Stack
from services._platform import migrate, postgres
from services._platform.tables import storage
from tests.integration.recorder import execute, scratch_database


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
async def test_at_head_is_false_before_and_true_after(service: Principal, empty: str) -> None:
    engine = postgres.engine(empty)
    try:
        assert not await migrate.at_head(service, engine)
        migrate.upgrade(service, empty)
        assert await migrate.at_head(service, engine)
        execute(empty, "UPDATE alembic_version SET version_num = 'of_another_version'")
        assert not await migrate.at_head(service, engine)
    finally:
        await engine.dispose()


def test_running_twice_keeps_what_is_there(empty: str) -> None:
    migrate.upgrade(Principal.LEDGER, empty)
    execute(empty, "INSERT INTO accounts VALUES (gen_random_uuid(), 5, 0, 1)")
    migrate.upgrade(Principal.LEDGER, empty)
    assert execute(empty, "SELECT balance_units FROM accounts") == [(5,)]


def test_running_at_the_same_moment_is_harmless(stack: Stack, empty: str) -> None:
    environment = {**os.environ, **stack.service_environment(Principal.LEDGER), "LEDGER_DATABASE_URL": empty}
    command = [sys.executable, "-m", "services._platform.migrate", "ledger"]
    running = [
        subprocess.Popen(command, cwd=CHECKOUT, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    answers = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], [errors for _, errors in answers]
    assert _differences(empty, _metadata(Principal.LEDGER)) == []
