"""A trap: what a test tells a process to do when it reaches a point, and what the process says before it does it.

Two files in a directory of the service, so that nothing need be restarted to set one. Of several replicas, the first
one to get there springs it: renaming a file is atomic.
"""

import json
import os
import signal
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class About:
    """What a point is passed with: a message's type, if it is one's, and a text that holds its correlation id.

    For a mail, the text is its content.
    """

    type: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Armed:
    """What is to happen: at which point, with which message, by which signal."""

    point: str
    type: str | None
    """A message's type; None if any will do."""
    texts: tuple[str, ...]
    """The cause: one of these must be in the text."""
    signal: int

    def catches(self, point: str, about: About) -> bool:
        """Return whether this is the moment."""
        return (
            point == self.point and self.type in (None, about.type) and any(text in about.text for text in self.texts)
        )


class Trap:
    """The trap of one service: set by a test, sprung by a process of the service."""

    def __init__(self, directory: Path) -> None:
        """`directory` is the service's own; the processes' side does not make it."""
        self._armed = directory / "armed.json"
        self._sprung = directory / "sprung.json"

    # The test's side.

    def arm(self, armed: Armed) -> None:
        """Set it. What an earlier one left is forgotten."""
        self.disarm()
        self._armed.parent.mkdir(parents=True, exist_ok=True)
        _write(self._armed, json.dumps(asdict(armed)))

    def disarm(self) -> None:
        """Take it away, whether it was sprung or not."""
        for path in (self._armed, self._sprung):
            path.unlink(missing_ok=True)

    def sprung_by(self) -> int | None:
        """Return the process that has reached the point, None if none has."""
        try:
            return int(self._sprung.read_text())
        except FileNotFoundError:
            return None

    # The process's side.

    def pass_by(self, point: str, abouts: Iterable[About]) -> None:
        """Say so and send this very thread the signal, if it has come to the point that the trap is for."""
        with suppress(FileNotFoundError):
            armed = _read(self._armed)
            if any(armed.catches(point, about) for about in abouts):
                self._armed.rename(self._armed.with_suffix(f".{os.getpid()}"))  # another one may have been faster
                _write(self._sprung, str(os.getpid()))
                # A process-wide signal might be delivered to another thread, while this one goes on.
                signal.pthread_kill(threading.get_ident(), armed.signal)


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(f".partial{os.getpid()}")
    partial.write_text(text)
    partial.rename(path)


def _read(path: Path) -> Armed:
    told = json.loads(path.read_text())
    return Armed(told["point"], told["type"], tuple(told["texts"]), told["signal"])
