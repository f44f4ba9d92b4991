"""Fixtures for all tests: real Kafka, real PostgreSQL and a real mail sink, when a test asks for them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from deploy.local.stack import Ports, Stack, StackError, remove_abandoned
from deploy.operator import topics
from deploy.operator.kafka import ADMIN
from deploy.paths import STATE
from tests.declared import WholeRun, declared, unit_modules

ANY_PORTS = Ports.model_construct()
"""Free ports, whatever the environment names: a test run must not collide with a demo."""

settings.register_profile("popfax", deadline=None)  # a deadline tests the machine, not the code
settings.load_profile("popfax")


def pytest_configure(config: pytest.Config) -> None:
    """Hold the unit tests to reaching every code that a command declares."""
    config.pluginmanager.register(WholeRun(declared(), list(unit_modules())))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remove what killed runs have left behind: once, before any test, for some have directories that nothing locks."""
    if not hasattr(session.config, "workerinput"):
        remove_abandoned(STATE, "test-")


_SHARED = ("product", "fragile")
"""Fixtures that are dear to make and to keep: whatever uses one runs in one process, which makes it once."""

_LONGEST = (
    "e2e/test_walkthrough.py",
    "integration/test_audit.py",
    "integration/test_cli.py",
    "integration/test_versions.py",
    "simulation/test_simulation.py",
    "e2e/test_demo.py",
    "integration/test_endings.py",
)
"""What takes longest of the rest: begun last, it would be waited for alone."""


@pytest.hookimpl(tryfirst=True)  # xdist looks at the groups in this hook, too
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have several processes share the tests by file, or by what files share, and the longest first."""
    shared: dict[Path, str] = {}
    for item in items:
        for fixture in _SHARED:
            if fixture in getattr(item, "fixturenames", ()):
                shared.setdefault(item.path, fixture)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(shared.get(item.path, item.path.stem)))
    items.sort(key=lambda item: _turn(item.path, shared.get(item.path)))


def _turn(path: Path, shared: str | None) -> int:
    if shared is not None:
        return _SHARED.index(shared) - len(_SHARED)
    return next((turn for turn, name in enumerate(_LONGEST) if path.match(name)), len(_LONGEST))


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The infrastructure, with all topics and ACLs. Shared: leave it running, and its passwords as they are."""
    with running_stack(STATE / f"test-{os.getpid()}") as running:
        yield running


@contextmanager
def running_stack(directory: Path) -> Iterator[Stack]:
    """A stack of its own, with all topics and ACLs, which is removed at the end."""
    running = make_stack(directory)
    try:
        running.start()
        assert topics.apply(running.kafka.client_config(ADMIN)) == []
        yield running
    finally:
        running.remove()


def make_stack(directory: Path) -> Stack:
    """The kind of stack that the environment variable STACK asks for: `embedded`, or `containers`, never another."""
    kind = os.environ.get("STACK", "embedded")
    if kind == "embedded":
        return Stack(directory, ANY_PORTS, fresh=True)
    if kind == "containers":
        from deploy.local.containers import ContainerStack  # noqa: PLC0415 - its packages are slow to import

        return ContainerStack(directory, ANY_PORTS, fresh=True)
    raise StackError(f"STACK={kind} is neither embedded nor containers")
