"""README.md and docs/walkthrough.md tell the truth: their commands print what they say."""

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from deploy.local.product import Product
from deploy.local.running import write_settings
from deploy.paths import CHECKOUT, STATE
from tests.conftest import make_stack

README = CHECKOUT / "README.md"
WALKTHROUGH = CHECKOUT / "docs" / "walkthrough.md"

DIFFERS = "…"
"""What stands for output that differs each time."""

_TIMEOUT_S = 60
_PATIENCE_S = 15.0
_MARK = "--done--"


@dataclass
class Step:
    """A command, and the lines that it is said to print, among others and in this order."""

    command: str
    expected: list[str] = field(default_factory=list)

    @property
    def repeatable(self) -> bool:
        """Say whether it only looks: what it looks at may take a moment to come about."""
        return "popfax" in self.command and "popfax send" not in self.command


def steps_of(document: str) -> list[Step]:
    """Read the steps out of a document's console blocks: `$` begins a command, `>` or a backslash goes on with it."""
    steps: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```$", document, re.MULTILINE | re.DOTALL):
        goes_on = False
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append(Step(line[2:]))
            elif goes_on or line.startswith("> "):
                steps[-1].command += "\n" + line.removeprefix("> ")
            else:
                steps[-1].expected.append(line)
            goes_on = line.endswith("\\")
    return steps


def unmet(expected: list[str], output: str) -> str | None:
    """Return the first expected line that the output has not, at its place; None if it has them all."""
    lines = iter([" ".join(line.split()) for line in output.splitlines()])
    for line in expected:
        pattern = re.compile(".*".join(map(re.escape, " ".join(line.split()).split(DIFFERS))))
        if not any(pattern.fullmatch(found) for found in lines):
            return line
    return None


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """A running product of our own, and the environment in which `popfax` finds it."""
    stack = make_stack(STATE / f"test-{os.getpid()}-walkthrough")
    inherited = {name: value for name, value in os.environ.items() if not name.endswith(("_URL", "_BOOTSTRAP"))}
    try:
        with Product(stack):
            file = write_settings(stack.directory, stack)
            yield {**inherited, "POPFAX_ENV_FILE": str(file), "COLUMNS": "160", "NO_COLOR": "1"}
    finally:
        stack.remove()


@pytest.mark.parametrize(("document", "least"), [(README, 4), (WALKTHROUGH, 10)], ids=["readme", "walkthrough"])
def test_commands_print_what_the_document_says(environment: dict[str, str], document: Path, least: int) -> None:
    steps = steps_of(document.read_text())
    assert len(steps) >= least
    with Shell(environment) as shell:
        for step in steps:
            deadline = time.monotonic() + (_PATIENCE_S if step.repeatable else 0)
            while (line := unmet(step.expected, output := shell.run(step.command))) is not None:
                assert time.monotonic() < deadline, f"$ {step.command}\n{output}\n-- has no: {line}"
                time.sleep(0.5)


def test_example_program_publishes_and_reads(environment: dict[str, str]) -> None:
    with Shell(environment) as shell:
        shell.run('set -a; . "$POPFAX_ENV_FILE"; set +a')
        printed = shell.run(".venv/bin/python examples/first_command.py")
    assert unmet(["published …", "read popfax.provisioning.subscriber-registered.v1 …"], printed) is None, printed


def test_output_that_differs_is_found() -> None:
    assert unmet(["a … c", "d"], "a b c\n  d  \n") is None
    assert unmet(["d", "a … c"], "a b c\nd\n") == "a … c"
    assert unmet(["code units_short"], "code email_taken\n") == "code units_short"


def test_steps_are_read_with_their_continuations() -> None:
    found = steps_of("```console\n$ one \\\n    two\n1\n$ x='\n> y'\n```\n\n```sh\n$ no\n```\n")
    assert found == [Step("one \\\n    two", ["1"]), Step("x='\ny'", [])]


class Shell:
    """One shell session: each command sees the variables that the ones before it set."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash"],
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> str:
        """Run a command; return what it printed. Fails with the command."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{command}\nprintf '\\n%s %s\\n' {_MARK} $?\n")
        self._bash.stdin.flush()
        printed: list[str] = []
        limit = threading.Timer(_TIMEOUT_S, self._bash.kill)
        limit.start()
        for line in self._bash.stdout:
            if line.startswith(_MARK):
                limit.cancel()
                assert line.split()[1] == "0", f"$ {command}\n{''.join(printed)}"
                return "".join(printed)
            printed.append(line)
        raise AssertionError(f"$ {command}\n{''.join(printed)}\n-- not done after {_TIMEOUT_S} s")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bash.kill()
        self._bash.communicate()
