"""Runs the local product for as long as a command runs: reports its start, and ensures its end."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol, Self, TypeVar

from rich.console import Console
from rich.text import Text

from deploy.local.errors import StackError
from deploy.local.passwords import write_private
from deploy.local.product import Product
from deploy.local.stack import Stack
from deploy.operator.cli import connection
from deploy.operator.cli.connection import FILE_NAME, Connection
from deploy.operator.cli.errors import Unreachable
from deploy.operator.kafka import ADMIN
from popfax_contracts.topics import Principal

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def running(
    directory: Path, console: Console, *, fresh: bool, tls: bool = False, brokers: int = 1, **settings: str
) -> Iterator[tuple[Product, Connection]]:
    """Start the product in `directory`, and stop it in the end. Raises Unreachable when it does not come up.

    `settings` are those of all services.
    """

    def made(stack: Stack, progress: Callable[[str], None]) -> Product:
        return Product(stack, progress, **settings)

    with running_on_stack(directory, console, made, fresh=fresh, tls=tls, brokers=brokers) as both:
        yield both


class OnStack(Protocol):
    """Something that runs on a stack of its own, which it starts when it is entered, and stops at the end."""

    stack: Stack

    def __enter__(self) -> Self:
        """Start the stack, and what runs on it. Raises StackError."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all."""


P = TypeVar("P", bound=OnStack)


@contextmanager
def running_on_stack(
    directory: Path,
    console: Console,
    make: Callable[[Stack, Callable[[str], None]], P],
    *,
    fresh: bool,
    tls: bool = False,
    brokers: int = 1,
) -> Iterator[tuple[P, Connection]]:
    """Run what `make` makes of a stack in `directory` and of whom to report its start to. Raises Unreachable.

    Whatever asks us to end (Ctrl-C, a closed terminal) is a KeyboardInterrupt, once: the second does not disturb the
    stopping, which is bounded in time.
    """
    with _one_interrupt(), _said():
        progress = Progress(console)
        stack = Stack(directory, fresh=fresh, progress=progress, tls=tls, brokers=brokers)
        product = make(stack, progress)
        try:
            with progress, product:
                file = write_settings(directory, product.stack)
                connected = connection.connect(file)
                progress.done()
                try:
                    yield product, connected
                finally:
                    _ignore_signals()
                    connected.close()
                    file.unlink(missing_ok=True)
                    progress.stopping()
        finally:
            (directory / FILE_NAME).unlink(missing_ok=True)


def write_settings(directory: Path, stack: Stack) -> Path:
    """Write the settings of all principals, for commands in other terminals. They hold passwords: for our eyes only."""
    lines = ["# How to reach the product that runs here. Written by popfax, and gone when it stops."]
    for name in (ADMIN, *Principal):
        lines += [f"{key}={value}" for key, value in stack.service_environment(name).items()]
    path = directory / FILE_NAME
    write_private(path, "\n".join(lines) + "\n")
    return path


def wait_for_interrupt() -> None:
    """Return at Ctrl-C."""
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return


class Progress:
    """Ticks off the parts of the product as they come up. In a terminal something turns meanwhile."""

    def __init__(self, console: Console) -> None:
        """The clock starts now."""
        self._console = console
        self._started = time.monotonic()
        self._status = console.status("starting Kafka, PostgreSQL and the mail sink", spinner="line")

    def __call__(self, part: str) -> None:
        """Tick off a part."""
        seconds = time.monotonic() - self._started
        line = Text("  ✓ ", style="green").append(f"{part:<36}", style="default").append(f"{seconds:5.1f} s", "dim")
        self._console.print(line)
        if part.endswith("is up"):
            return
        self._status.update("waiting for the services")

    def done(self) -> None:
        """All is up."""
        self._status.stop()

    def stopping(self) -> None:
        """Say that it ends, which takes a moment."""
        self._status.update("stopping")
        self._status.start()

    def __enter__(self) -> "Progress":
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()


@contextmanager
def _said() -> Iterator[None]:
    """Let what goes wrong with the stack end the command in a line, as everything else does."""
    try:
        yield
    except StackError as error:
        raise Unreachable(str(error)) from error


@contextmanager
def _one_interrupt() -> Iterator[None]:
    earlier = {number: signal.getsignal(number) for number in _SIGNALS}

    def interrupt(_: int, __: FrameType | None) -> None:
        _ignore_signals()
        raise KeyboardInterrupt

    for number in _SIGNALS:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    # Not SIG_IGN: a server that is just being started would inherit that, and be deaf to our request to stop.
    for number in _SIGNALS:
        signal.signal(number, _nothing)


def _nothing(_: int, __: FrameType | None) -> None:
    """Take a signal, and do nothing."""
