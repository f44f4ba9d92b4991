"""`popfax`: the command line of whoever runs the product. One module a command, and what they share."""

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130


def main() -> None:
    """Run it. Its imports take a second, and on a busy machine several: Ctrl-C may come meanwhile."""
    signal.signal(signal.SIGINT, _end)
    from deploy.operator.cli.app import main as run  # noqa: PLC0415

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run()
    except KeyboardInterrupt:
        print("popfax: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _end(_: int, __: FrameType | None) -> None:
    # An exception would surface in the middle of some import, which may take it for its own: and we would go on.
    os.write(sys.stderr.fileno(), b"popfax: interrupted\n")
    os._exit(INTERRUPTED)
