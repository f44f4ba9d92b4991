"""`popfax`: the operator's command line. One module per command, and the code that they share."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130


def main() -> None:
    """Run the command line. Importing takes a second or more, so Ctrl-C may arrive in the middle of it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with importing():
        from deploy.operator.cli.app import main as run  # noqa: PLC0415

    try:
        run()
    except KeyboardInterrupt:
        print("popfax: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


@contextmanager
def importing() -> Iterator[None]:
    """End the process at once if Ctrl-C arrives inside this context.

    A KeyboardInterrupt would be raised inside an import, and the importing module might swallow it.
    """
    earlier = signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)


def _end(_: int, __: FrameType | None) -> None:
    os.write(sys.stderr.fileno(), b"popfax: interrupted\n")
    os._exit(INTERRUPTED)
