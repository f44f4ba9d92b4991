"""Ends a process that is told to while it has nothing yet, or nothing any more, that could be left in disorder.

Importing a service takes a second, on a busy machine several. It imports nothing itself, so that it can come first.
"""

import os
import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def end_at_once() -> None:
    """End with exit code 0 when told to, from now on and until other handlers take over.

    Whoever started us may have held the signals back (`deploy.local.process` does): they come through now.
    """
    for number in SIGNALS:
        signal.signal(number, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _end(_: int, __: FrameType | None) -> None:
    # An exception would surface in the middle of some import, which may take it for its own.
    os._exit(0)
