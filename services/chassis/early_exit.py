"""Ends a process on a signal while it has nothing, or nothing any more, to clean up.

Importing a service takes a second, or several on a busy machine. This module imports nothing, so that it can come
first.
"""

import os
import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def exit_on_signal() -> None:
    """End with exit code 0 on SIGTERM or SIGINT, from now on until other handlers take over.

    The parent process may have blocked the signals (`deploy.local.process` does): they are delivered from now on.
    """
    for number in SIGNALS:
        signal.signal(number, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _end(_: int, __: FrameType | None) -> None:
    # An exception would surface in the middle of some import, which might handle it as its own.
    os._exit(0)
