"""Fixtures for all tests: real Kafka, real PostgreSQL and a real mail sink, when a test asks for them."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from deploy.local.stack import Ports, Stack, StackError, remove_abandoned
from deploy.operator import topics
from deploy.operator.kafka import ADMIN
from deploy.paths import STATE
from tests.declared import WholeRun, declared, unit_modules
from tests.quiet import silence_logs

ANY_PORTS = Ports.model_construct()
"""Free ports, whatever the environment names: a test run must not collide with a demo."""

settings.register_profile("popfax", deadline=None)  # a deadline tests the machine, not the code
settings.load_profile("popfax")


def pytest_configure(config: pytest.Config) -> None:
    """Hold the unit tests to reaching every code that a command declares, and run all on the services' event loop.

    What goes wrong on it does not on asyncio's own. It is the policy that says so, not pytest-asyncio's hook: by that,
    asynchronous tests have a parameter of the session, and pytest takes them out of their file's order.
    """
    os.environ.pop("FORCE_COLOR", None)  # what is printed to a file or a pipe has no colours
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    config.pluginmanager.register(WholeRun(declared(), list(unit_modules())))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remove what killed runs have left behind: once, before any test, for some have directories that nothing locks."""
    if not hasattr(session.config, "workerinput"):
        remove_abandoned(STATE, "test-")


_OWN_PRODUCT = ("test_crashes.py", "test_demo.py", "test_drill.py", "test_walkthrough.py")
_ROUGH = ("test_restore.py", "test_attacks.py", "test_saga.py", "test_redelivery.py")
_FRAGILE = ("test_consumer.py", "test_kafka_client.py", "test_outbox.py", "test_relay_fence.py")
_SECURE = ("test_install.py", "test_scale.py", "test_secure.py")
"""The files that share three brokers with TLS (`secure_stack`)."""
_SHARED = ("rough", "product", "fragile", "secure")
_SHARED_FIXTURES = {
    "product": ("rough", "product"),
    "fragile": ("fragile",),
    "secure_stack": ("secure",),
}
"""Fixtures that are dear to make, and the groups whose tests may ask for them."""
_FIRST = "test_nemesis.py"
"""The file that begins first: nothing takes longer by itself, and it mostly waits."""
_LONGEST = (
    "test_crashes.py",
    "test_faults.py",
    "test_drill.py",
    "test_walkthrough.py",
    "test_demo.py",
    "test_local_stack.py",
    "test_audit.py",
    "test_cli.py",
    "test_endings.py",
    "test_vanished.py",
    "test_retention.py",
    "test_versions.py",
    "test_simulation.py",
    "test_world.py",
    "test_recipe.py",
    "test_stores.py",
)
"""The files that take longest: begun last, one of them would be waited for alone."""
_FILLING = (*_ROUGH, "test_units.py", "test_scale.py", "test_secure.py")
"""The files that fill a shared product, by how much: all invariants are checked on all its rows after most tests.

The restores come first all the same: they audit the topics, on which the others leave what can't be read. So does the
installation on three brokers, whose databases are new.
"""


def group_of(file: Path) -> str:
    """Return the group of a file: several processes share the tests by group.

    A product, or a stack whose servers may be killed, is dear to make and to keep: all that use it are one group. The
    tests of a product are two groups, each with a product of its own: in one, they would take as long as all others.
    """
    if file.name in _SECURE:
        return "secure"
    if "e2e" in file.parts and file.name not in _OWN_PRODUCT:
        return "rough" if file.name in _ROUGH else "product"
    return "fragile" if file.name in _FRAGILE else str(file)


class ByGroup(LoadFileScheduling):  # type: ignore[misc]
    """Hands out tests by group (xdist's own groups come to nothing with pytest 9.2, which has other node ids)."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(Path(nodeid.split("::", 1)[0]))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGroup | None:
    """Hand out tests by group where xdist was asked to by file."""
    return ByGroup(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the nemesis first, then the groups, then what takes longest.

    Raises for a test that is not in a group of what it uses.
    """
    for item in items:
        for fixture, groups in _SHARED_FIXTURES.items():
            own = item.path.name in _OWN_PRODUCT
            if fixture in getattr(item, "fixturenames", ()) and not own and group_of(item.path) not in groups:
                raise pytest.UsageError(f"{item.nodeid} uses {fixture}, and is not in its group")
    items.sort(key=lambda item: _turn(item.path))


def _turn(file: Path) -> tuple[int, int]:
    if file.name == _FIRST:
        return -len(_SHARED) - 1, 0
    if (group := group_of(file)) in _SHARED:
        return -len(_SHARED) + _SHARED.index(group), _FILLING.index(file.name) if file.name in _FILLING else -1
    return _LONGEST.index(file.name) if file.name in _LONGEST else len(_LONGEST), 0


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """Let the machine's own clock be another one than UTC's, in another day."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Pacific/Kiritimati")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def quiet() -> Iterator[None]:
    """Silence the logs about what goes wrong on purpose."""
    before = structlog.get_config()
    silence_logs()
    yield
    structlog.configure(**before)


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
