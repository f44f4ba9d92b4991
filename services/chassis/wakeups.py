"""Ends a task's rest when there is something to do: within a process by an event, between processes by NOTIFY.

Nothing depends on a wake-up arriving: whoever rests also looks by themselves, every second or so.
"""

import asyncio
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.postgres import autocommitting

OUTBOX_CHANNEL = "outbox"
"""Where a service's processes tell its leading relay that the outbox has new rows."""

# PostgreSQL lets one notifying transaction at a time commit, in all of a cluster. So it is a transaction of its own
# that does not wait for the disk, and never one that does work.
_RING = sa.select(sa.func.set_config("synchronous_commit", "off", True), sa.func.pg_notify(OUTBOX_CHANNEL, ""))


class Wakeup:
    """Ends one task's rest early."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        """End the present rest or, if there is none, the next one."""
        self._event.set()

    async def rest(self, seconds: float) -> None:
        """Wait until woken, at most for `seconds`. What was committed before the call that woke it is visible then."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        self._event.clear()


class Bell:
    """Tells a service's leading relay, in whichever process it is, that rows for it have been committed."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._ringing: asyncio.Task[None] | None = None
        self._again = False

    def ring(self) -> None:
        """Ring without waiting; while it rings, any number of calls lead to one more."""
        if self._ringing is None or self._ringing.done():
            self._ringing = asyncio.create_task(self._ring())
        else:
            self._again = True

    async def _ring(self) -> None:
        self._again = True
        with suppress(sa.exc.SQLAlchemyError, OSError):  # the relay looks by itself before long
            while self._again:
                self._again = False
                async with autocommitting(self._engine) as connection:
                    await connection.execute(_RING)
