"""`popfax`: the command line of whoever runs the product. One module a command, and what they share."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130


def main() -> None:
    """Run it. Its imports take a second, and on a busy machine several: Ctrl-C may come meanwhile."""
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
    """While this lasts, Ctrl-C ends the process at once.

    An exception would surface in the middle of some import, which may take it for its own: and we would go on.
    """
    earlier = signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)


def _end(_: int, __: FrameType | None) -> None:
    os.write(sys.stderr.fileno(), b"popfax: interrupted\n")
    os._exit(INTERRUPTED)
