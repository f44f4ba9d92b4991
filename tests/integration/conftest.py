"""Databases and stacks for a single test or module."""

import logging
import os
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.stack import Stack
from deploy.paths import STATE
from popfax_contracts.topics import Principal
from services.chassis import postgres
from tests.conftest import running_stack
from tests.integration.line import Line
from tests.integration.recorder import scratch_database


@pytest.fixture(scope="package", autouse=True)
def quiet() -> Iterator[None]:
    """Reduce the logs of services that run in the tests' own process: one line per message would bury the rest."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def fragile() -> Iterator[Stack]:
    """A stack whose servers tests may kill. A test that kills one starts it again."""
    with running_stack(STATE / f"test-{os.getpid()}-fragile") as running:
        yield running


@pytest.fixture
def ledger_url(stack: Stack) -> Iterator[str]:
    """The URL of a new database with the ledger's tables."""
    with scratch_database(stack, Principal.LEDGER) as url:
        yield url


@pytest_asyncio.fixture
async def ledger_engine(ledger_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on that database, configured as the ledger's own."""
    engine = postgres.engine(ledger_url)
    yield engine
    await engine.dispose()


@pytest.fixture
def line(ledger_engine: AsyncEngine) -> Line:
    """A shell of the recording service on that database."""
    return Line(ledger_engine)
