"""The cells of migrations: one process, or two at once, migrate an empty database, and one of them crashes inside."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib import import_module

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from deploy.local.process import Child
from deploy.paths import CHECKOUT
from popfax_contracts.topics import Principal
from services.chassis import migrate
from tests.crashpoints.crew import Crew
from tests.crashpoints.matrix import SIGNALS, Cell
from tests.crashpoints.process import DATABASE_URL
from tests.crashpoints.running import REACHED_S, Verdict
from tests.crashpoints.trap import Armed
from tests.e2e.driver import SETTLED_S, wait
from tests.integration.recorder import execute, scratch_database

_OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


def differences(service: Principal, url: str) -> list[str]:
    """Return in what a database differs from what the service's code declares, and from what its migrations leave."""
    metadata = import_module(f"services.{service}.tables").metadata
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            found = [str(each) for each in compare_metadata(MigrationContext.configure(connection), metadata)]
    finally:
        engine.dispose()
    if (at := execute(url, "SELECT version_num FROM alembic_version")) != [(migrate.known(service).head,)]:
        found.append(f"it is at {at}")
    noted = [revision for (revision,) in execute(url, "SELECT revision FROM schema_support")]
    if len(noted) != len(set(noted)):
        found.append(f"a migration has noted twice what it supports: {sorted(noted)}")
    return found


def try_migration(crew: Crew, cell: Cell) -> Verdict:
    """Try a cell of a migration: the last one, of which a crash leaves as much as possible to be done again."""
    begun, service = time.monotonic(), cell.row.service
    trap = crew.traps[service]
    found: list[str] = []
    reached = False
    with scratch_database(crew.product.stack) as url:
        directory = crew.product.stack.directory
        children = [Child(f"{service}-migration-{number}", directory) for number in range(cell.replicas)]
        try:
            trap.arm(Armed(cell.row.point, None, (migrate.known(service).head,), SIGNALS[cell.does]))
            for child in children:
                _start(child, crew, service, url)
            wait(trap.sprung_by, "the point", REACHED_S)
            reached = True
            _come_back(crew, cell, children, url)
            found = differences(service, url)
        except AssertionError as error:
            found.append(str(error))
        finally:
            trap.disarm()
            for child in children:
                child.kill()
    return Verdict(cell, reached, found, time.monotonic() - begun)


def _come_back(crew: Crew, cell: Cell, children: Sequence[Child], url: str) -> None:
    """Let who was stopped go on once the other one waits; migrate again after a kill, or have the other one do it."""
    pid = crew.traps[cell.row.service].sprung_by()
    assert pid is not None
    if cell.does == "stop":
        if cell.replicas > 1:
            wait(lambda: execute(url, _OTHERS)[0][0] >= cell.replicas, "the other one is waiting", REACHED_S)
        os.kill(pid, signal.SIGCONT)
    elif cell.replicas == 1:
        wait(lambda: not children[0].running, "it is dead", SETTLED_S)
        children[0].kill()
        _start(children[0], crew, cell.row.service, url)
    wait(lambda: not any(child.running for child in children), "all have ended", SETTLED_S)


def _start(child: Child, crew: Crew, service: Principal, url: str) -> None:
    command = [sys.executable, "-m", "tests.crashpoints.process", "migrate", service.value, "-", "-"]
    child.start(
        [*command, str(crew.product.stack.directory)],
        directory=CHECKOUT,
        environment={DATABASE_URL: url, "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{CHECKOUT / 'contracts'}"},
    )
