"""Feeds the shell from the database: timers and rows that are due, and parked messages that an operator wants retried.

All of them wait in tables, so that neither a crash, nor an outage of a week, nor a jump of the clock loses any.
"""

import asyncio

import structlog

from services.chassis import metrics
from services.chassis.database import Outage
from services.chassis.shell import FromAlarms, FromParked, FromTimers, Shell

log = structlog.get_logger(__name__)

TIMERS_AT_ONCE = 500
RETRIES_AT_ONCE = 2000

LOOK_S = 1.0
"""How long a timer that was set since the last look, or a requested retry, may go unnoticed."""


async def run_timers(shell: Shell) -> None:
    """Fire timers until cancelled."""
    while True:
        pause = LOOK_S
        try:
            pause = await _round(shell)
        except Outage:
            pass
        except Exception as error:
            log.error("timers_failed", error=type(error).__name__, exc_info=True)
        await asyncio.sleep(pause)


async def _round(shell: Shell) -> float:
    """Fire what is due; return for how many seconds there is nothing to do."""
    with shell.outages.watching(FromTimers.name):
        pause = await _until_next(shell)
        if pause <= 0 and not await fire_due(shell):
            return LOOK_S  # another replica was faster
        return pause


async def _until_next(shell: Shell) -> float:
    """Return the seconds until the next timer or row that is known is due, at most `LOOK_S`; 0 if one is."""
    ahead = [await shell.database.next_timer()]
    if shell.service.alarms:
        ahead.append(await shell.database.next_alarm(shell.service.alarms))
    now = shell.clock.moment().now
    return min([LOOK_S, *(max(0.0, (due_at - now).total_seconds()) for due_at in ahead if due_at is not None)])


async def fire_due(shell: Shell) -> int:
    """Pass the timers and rows that are due to their handlers; return how many there were."""
    with shell.outages.watching(FromTimers.name):
        now = shell.clock.moment().now
        timers = await shell.database.due_timers(now, TIMERS_AT_ONCE)
        rows = await shell.database.due_alarms(shell.service.alarms, now, TIMERS_AT_ONCE)
        if timers:
            await shell.process(timers, FromTimers())
        if rows:
            await shell.process(rows, FromAlarms())
    fired = len(timers) + len(rows)
    if fired:
        metrics.TIMERS_FIRED.inc(fired)
    return fired


async def run_retries(shell: Shell, look_s: float = LOOK_S) -> None:
    """Retry parked messages until cancelled."""
    while True:
        tried = 0
        try:
            tried = await retry_requested(shell)
        except Outage:
            pass
        except Exception as error:
            log.error("retries_failed", error=type(error).__name__, exc_info=True)
        if not tried:
            await asyncio.sleep(look_s)


async def retry_requested(shell: Shell) -> int:
    """Retry the next batch of what an operator requested; return how many messages were tried.

    Oldest first within each key. A key stops at a message that fails again; the others go on.
    """
    with shell.outages.watching(FromParked.name):
        records = await shell.database.requested_retries(RETRIES_AT_ONCE)
        if records:
            await shell.process(records, FromParked())
            log.info("parked_messages_retried", tried=len(records))
    return len(records)
