"""Types what a document says to type, in one shell, and compares what is printed with what it is said to print."""

import re
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.paths import CHECKOUT

DIFFERS = "…"
"""What stands for output that differs each time."""

_TIMEOUT_S = 120
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
        return bool(self.expected) and "popfax" in self.command and "popfax send" not in self.command


def steps_of(document: str, whole_blocks: bool = False) -> list[Step]:
    """Read the steps out of a document's blocks, in order.

    In a `console` block, `$` begins a command, `>` or a backslash goes on with it, and what it prints follows. An `sh`
    block is one step, if those are to be typed, too.
    """
    steps: list[Step] = []
    for kind, block in re.findall(r"^```(console|sh)\n(.*?)^```$", document, re.MULTILINE | re.DOTALL):
        if kind == "console":
            steps += _console_steps(block)
        elif whole_blocks:
            steps.append(Step(block))
    return steps


def _console_steps(block: str) -> list[Step]:
    steps: list[Step] = []
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


class Shell:
    """One shell session: each command sees the variables that the ones before it set.

    As in a document that is read with care, nothing goes on after a command that has failed.
    """

    def __init__(self, environment: Mapping[str, str], directory: Path = CHECKOUT) -> None:
        self._bash = subprocess.Popen(
            ["bash", "-e"],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def follow(self, steps: Iterable[Step]) -> None:
        """Type each step; fails unless it succeeds and prints what it should, within a moment if it only looks."""
        for step in steps:
            deadline = time.monotonic() + (_PATIENCE_S if step.repeatable else 0)
            while (line := unmet(step.expected, output := self.run(step.command))) is not None:
                assert time.monotonic() < deadline, f"$ {step.command}\n{output}\n-- has no: {line}"
                time.sleep(0.5)

    def run(self, command: str) -> str:
        """Run a command; return what it printed. Fails with the command."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{command}\nprintf '\\n%s\\n' {_MARK}\n")
        self._bash.stdin.flush()
        printed: list[str] = []
        limit = threading.Timer(_TIMEOUT_S, self._bash.kill)
        limit.start()
        try:
            for line in self._bash.stdout:
                if line.rstrip("\n") == _MARK:
                    return "".join(printed)
                printed.append(line)
        finally:
            limit.cancel()
        raise AssertionError(f"$ {command}\n{''.join(printed)}\n-- failed, or not done after {_TIMEOUT_S} s")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bash.kill()
        self._bash.communicate()
