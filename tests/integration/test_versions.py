"""Two versions on one database: the one before works while the next one migrates, and after a return to it.

The one before is the last release, where there is one and its commit is here; else this version, and the next one is a
scratch copy of it with one more migration.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.product import ServiceProcess
from deploy.local.stack import Stack
from deploy.paths import CHECKOUT
from popfax_contracts.topics import Principal
from services.chassis import migrate
from tests.e2e.driver import Wire
from tests.integration.recorder import count, credit, eventually, execute
from tests.integration.test_consumer import _metric, _skip_to_end, _status

ADDITIVE = """
ALTER TABLE accounts ADD COLUMN note TEXT;
ALTER TABLE transfers ADD COLUMN channel TEXT NOT NULL DEFAULT 'kafka';
CREATE TABLE notes (id UUID NOT NULL, PRIMARY KEY (id));
"""
BREAKING = """
ALTER TABLE transfers ADD COLUMN channel TEXT NOT NULL DEFAULT 'kafka';
ALTER TABLE transfers ALTER channel DROP DEFAULT;
"""
MIGRATION = '''"""One more."""

from alembic import op

revision = "ledger_next"
down_revision = "{head}"
{compatible_from}

def upgrade() -> None:
    """Apply."""
    op.execute("""{sql}""")
'''


def next_version(directory: Path, sql: str, *, compatible: bool) -> Path:
    """Make the next version: this one, with a migration more, that works with the version before if `compatible`."""
    for package in ("contracts", "services"):
        shutil.copytree(CHECKOUT / package, directory / package, ignore=shutil.ignore_patterns("__pycache__"))
    compatible_from = f'compatible_from = "{_revision_before()}"\n' if compatible else ""
    made = MIGRATION.format(head=migrate.known(Principal.LEDGER).head, compatible_from=compatible_from, sql=sql)
    (directory / "services/ledger/migrations/9999_next.py").write_text(made)
    return directory


@cache
def _last_release() -> tuple[bytes, str] | None:
    """Return the last release's code, as an archive, and its newest migration of the ledger; None if it is not here."""
    releases = tomllib.loads((CHECKOUT / "releases.toml").read_text())["release"]
    for release in [release for release in releases if release["commit"]][-1:]:
        command = ["git", "archive", release["commit"], "contracts", "services"]
        archive = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=False)
        if archive.returncode == 0:
            return archive.stdout, release["heads"]["ledger"]
    return None


def _revision_before() -> str:
    """Return the newest migration of the code that `_before` returns."""
    release = _last_release()
    return migrate.known(Principal.LEDGER).head if release is None else release[1]


def _before(directory: Path) -> Path:
    """Return the last release's code, where its commit is known and here; else this version's."""
    if (release := _last_release()) is None:
        return CHECKOUT
    directory.mkdir()
    subprocess.run(["tar", "-x", "-C", str(directory)], input=release[0], check=True)
    return directory


def _migrate(stack: Stack, code: Path, url: str) -> None:
    environment = {**os.environ, **stack.service_environment(Principal.LEDGER), "LEDGER_DATABASE_URL": url}
    environment["PYTHONPATH"] = f"{code}{os.pathsep}{code / 'contracts'}"
    command = [sys.executable, "-m", "services.chassis.migrate", "ledger"]
    done = subprocess.run(command, cwd=code, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Traffic:
    """Credits of one unit to some accounts, for as long as it lasts."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.accounts = [uuid4() for _ in range(10)]
        self.rounds = 0

    async def flow(self) -> None:
        while True:
            for account in self.accounts:
                self._wire.send(credit(account, 1))
            self.rounds += 1
            await asyncio.to_thread(self._wire.flush)
            await asyncio.sleep(0.05)

    def is_handled(self, url: str) -> bool:
        rows = execute(url, "SELECT balance_units FROM accounts WHERE id = ANY(%s)", self.accounts)
        return [units for (units,) in rows] == [self.rounds] * len(self.accounts)

    async def goes_on(self, service: ServiceProcess) -> None:
        """Wait for this service to handle some more."""
        before = _metric(service, "popfax_messages_handled_total")
        await eventually(lambda: _metric(service, "popfax_messages_handled_total") > before + 20, "traffic flows")


@asynccontextmanager
async def _flowing(stack: Stack) -> AsyncIterator[Traffic]:
    await asyncio.to_thread(_skip_to_end, stack)
    traffic = Traffic(Wire(stack.kafka))
    flowing = asyncio.create_task(traffic.flow())
    try:
        yield traffic
    finally:
        flowing.cancel()
        await asyncio.gather(flowing, return_exceptions=True)


async def _running(service: ServiceProcess, url: str) -> None:
    service.launch(database_url=url)
    await asyncio.to_thread(service.wait_ready)


@pytest.mark.drill
async def test_the_version_before_works_while_the_next_migrates_and_after_a_return_to_it(
    stack: Stack, ledger_url: str, ledger_engine: AsyncEngine, tmp_path: Path
) -> None:
    next_code = next_version(tmp_path / "next", ADDITIVE, compatible=True)
    before = ServiceProcess(Principal.LEDGER, stack, _before(tmp_path / "before"))
    after = ServiceProcess(Principal.LEDGER, stack, next_code)
    try:
        async with _flowing(stack) as traffic:
            await _running(before, ledger_url)
            await traffic.goes_on(before)
            await asyncio.to_thread(_migrate, stack, next_code, ledger_url)
            await traffic.goes_on(before)
            assert before.ready(), "the schema says that it still knows the version before"
            before.stop()
            await _running(after, ledger_url)
            await traffic.goes_on(after)
            after.stop()
            await _running(before, ledger_url)
            await traffic.goes_on(before)
        await eventually(lambda: traffic.is_handled(ledger_url), "everything is handled once")
        assert _metric(before, "popfax_outages_total") == 0
    finally:
        before.stop()
        after.stop()
    assert await count(ledger_engine, "parked") == 0


async def test_a_version_whose_schema_was_broken_under_it_waits_parks_nothing_and_goes_on(
    stack: Stack, ledger_url: str, ledger_engine: AsyncEngine, tmp_path: Path
) -> None:
    next_code = next_version(tmp_path / "next", BREAKING, compatible=False)
    service = ServiceProcess(Principal.LEDGER, stack)
    try:
        async with _flowing(stack) as traffic:
            await _running(service, ledger_url)
            await traffic.goes_on(service)
            await asyncio.to_thread(_migrate, stack, next_code, ledger_url)
            await eventually(lambda: _metric(service, "popfax_outages_total") > 2, "it waits")
            status, said = _status(service, "ready")
            assert (status, said["database"], said["work"]) == (503, False, False)
            assert "ledger_next" in said["why"]["database"]
            assert "schema" in said["why"]["work"]
            assert await count(ledger_engine, "parked") == 0
            execute(ledger_url, "ALTER TABLE transfers ALTER channel SET DEFAULT 'kafka'")
            execute(ledger_url, "UPDATE schema_support SET oldest = %s", migrate.known(Principal.LEDGER).head)
            await traffic.goes_on(service)
            await eventually(service.ready, "it is ready again")
        await eventually(lambda: traffic.is_handled(ledger_url), "everything is handled once")
    finally:
        service.stop()
    assert await count(ledger_engine, "parked") == 0


@pytest.mark.parametrize("compatible", [True, False])
def test_the_next_version_says_whether_it_breaks_this_one(
    stack: Stack, ledger_url: str, tmp_path: Path, compatible: bool
) -> None:
    code = next_version(tmp_path / "next", ADDITIVE if compatible else BREAKING, compatible=compatible)
    _migrate(stack, code, ledger_url)
    ((oldest,),) = execute(ledger_url, "SELECT oldest FROM schema_support WHERE revision = 'ledger_next'")
    assert oldest == (_revision_before() if compatible else "ledger_next")
