"""What handlers refuse with is what their commands declare; and all that commands declare, some unit test reaches.

The former is checked wherever a handler is run (`note`). The latter is known only at the end of a run of all unit
tests, in whichever processes they ran: the plugin gathers what each of them has reached.
"""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from popfax_contracts.catalogue import COMMANDS, is_declared
from popfax_contracts.message import Command, MalformedCommand, Message, Refusal

Reached = tuple[str, str]
"""A command's type, and a code with which it was refused."""

REACHED: set[Reached] = set()
"""What was reached in this process."""


def note(message: Message, effects: Iterable[object]) -> None:
    """Note the refusals that a handler returned. Fails on one that the command does not declare."""
    for effect in effects:
        if not isinstance(effect, Refusal):
            continue
        told = f"{effect.command_type!r} does not declare {type(effect).__name__} with {effect.code!r}"
        assert is_declared(type(effect), effect.command_type, effect.code), told
        if isinstance(message, Command):
            assert type(effect) in message.outcomes(), f"{message.TYPE} does not declare {type(effect).__name__}"
        if not isinstance(effect, MalformedCommand):
            REACHED.add((effect.command_type, effect.code))


def declared() -> set[Reached]:
    """Return all that there is to be reached."""
    return {(type_, code.value) for type_, model in COMMANDS.items() for code in model.CODES}


class WholeRun:
    """A pytest plugin that fails a run of all of some modules in which not all of `wanted` was reached.

    A run of some tests only, or one that has failed already, says nothing.
    """

    def __init__(self, wanted: Collection[Reached], modules: Collection[Path]) -> None:
        self._wanted = set(wanted)
        self._modules = set(modules)
        self._is_chosen = False
        self._is_whole = False
        self._reached: set[Reached] = set()
        self.missing: list[str] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """See whether all tests of the modules are going to run."""
        chosen = self._is_chosen or any("::" in each for each in session.config.args)
        self._is_whole = not chosen and self._modules <= {item.path for item in session.items}

    def pytest_deselected(self, items: Collection[pytest.Item]) -> None:
        """Note that some tests of the modules were left out, by whatever option."""
        self._is_chosen = self._is_chosen or any(item.path in self._modules for item in items)

    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Take what a worker has reached."""
        told = getattr(node, "workeroutput", {})
        self._is_whole = self._is_whole or told.get("is_whole", False)
        self._reached |= {(type_, code) for type_, code in told.get("reached", ())}

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Tell the controller what this worker has reached; or, where there is no other process, judge."""
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output.update(is_whole=self._is_whole, reached=sorted(REACHED))
            return
        if exitstatus == pytest.ExitCode.OK and self._is_whole:
            self.missing = sorted(f"{type_}: {code}" for type_, code in self._wanted - self._reached - REACHED)
            if self.missing:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what no test has reached."""
        for line in self.missing:
            terminalreporter.write_line(f"declared, and reached by no unit test: {line}", red=True)


def unit_modules() -> Iterator[Path]:
    """Find the modules of the unit tests."""
    return (Path(__file__).parent / "unit").glob("test_*.py")
