"""Ends a process that hangs, so that whatever runs it can start another one."""

import asyncio
import faulthandler
from collections.abc import Callable

HUNG_S = 120.0
"""A process that has not been alive for this long ends. Longer than a virtual machine is frozen while it moves."""

EVERY_S = 5.0
"""How often it is asked whether it is alive."""


async def watch(alive: Callable[[], bool]) -> None:
    """End the process once it has not been alive for `HUNG_S`: exit code 1, each Python thread's stack on stderr.

    A probe of `/live` restarts it sooner where there is one. The timer is faulthandler's, a C thread that does not need
    the interpreter's lock: C code that hangs while it has that lock stops everything that is written in Python.
    """
    faulthandler.dump_traceback_later(HUNG_S, exit=True)
    while True:
        await asyncio.sleep(EVERY_S)
        if alive():
            faulthandler.dump_traceback_later(HUNG_S, exit=True)
