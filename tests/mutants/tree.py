"""A copy of the checkout in which mistakes are made, and processes that run on it."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import cache_from_source
from pathlib import Path

from deploy.paths import CHECKOUT, STATE
from tests.mutants.known import Patch, patched

BROKEN_OFF = -1
"""The exit code of a process that took too long."""

ENDS_WITHIN_S = 30.0
"""How long an interrupted process may take to stop its servers."""


class Tree:
    """A copy of the checkout. Every process that a test starts runs its code, too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in filter(None, listed.split("\0")):
            if (CHECKOUT / name).is_file():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(CHECKOUT / name, path / name)
        for kept in (CHECKOUT / ".venv", STATE):
            (path / kept.name).symlink_to(kept)

    @contextmanager
    def with_mistake(self, patch: Patch) -> Iterator[None]:
        """Make a mistake, and take it back."""
        path = self.path / patch.file
        right = path.read_text()
        self._write(path, patched(patch, self.path))
        try:
            yield
        finally:
            self._write(path, right)

    def _write(self, path: Path, text: str) -> None:
        """Write a module, and forget its compiled form: within a second Python takes an old one of the same size."""
        path.write_text(text)
        Path(cache_from_source(str(path))).unlink(missing_ok=True)

    def run(self, arguments: list[str], seconds: float) -> tuple[int, str]:
        """Run Python on the copy; return its exit code, `BROKEN_OFF` if it took too long, and what it printed."""
        # Wide, so that pytest's last lines are whole: they say why a test failed.
        environment = os.environ | {"PYTHONPATH": f"{self.path}:{self.path / 'contracts'}", "COLUMNS": "300"}
        with subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                printed = process.communicate(timeout=seconds)[0]
                return process.returncode, printed
            except subprocess.TimeoutExpired:
                return BROKEN_OFF, _ended(process)


def _ended(process: "subprocess.Popen[str]") -> str:
    """End a process and all that it has started, if possible by asking; return what it printed."""
    for number in (signal.SIGINT, signal.SIGKILL):
        os.killpg(process.pid, number)
        try:
            return process.communicate(timeout=ENDS_WITHIN_S)[0]
        except subprocess.TimeoutExpired:
            continue
    return ""
