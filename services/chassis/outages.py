"""What each loop of a service is waiting for, and since when: a service that waits out an outage is not ready.

Every loop that uses the database (messages, timers, retries, mails) reports here, so that an outage is counted by
cause, logged without flooding the log, and shown by `/ready`, whichever loop meets it.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import structlog

from services.chassis import metrics
from services.chassis.database import Cause, Outage

log = structlog.get_logger(__name__)

LOG_EVERY_S = 30.0
"""How often an ongoing wait is logged again."""

FORGOTTEN_S = 60.0
"""A wait not reported again for this long is over: the loop no longer has that work. No attempt takes longer."""

_ROUNDS: ContextVar[frozenset[str]] = ContextVar("rounds", default=frozenset())
"""The loops in whose rounds this is."""


@dataclass(slots=True)
class Wait:
    """One loop's wait. Times are in seconds of the clock given to `Outages`."""

    cause: Cause
    detail: str
    since: float
    met_at: float
    logged_at: float


class Outages:
    """What the loops of one process are waiting for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waits: dict[str, Wait] = {}

    @property
    def waits(self) -> Mapping[str, Wait]:
        """Return the current waits by loop; empty while all is well."""
        now = self._clock()
        known = list(self._waits.items())  # at once: metrics are read in another thread
        return {who: wait for who, wait in known if now - wait.met_at < FORGOTTEN_S}

    def trouble(self) -> str | None:
        """Say what is waited for, and since when; None while all is well."""
        now = self._clock()
        waits = [f"{who} wait: {w.cause} {w.detail}, for {now - w.since:.0f} s" for who, w in self.waits.items()]
        return "; ".join(waits) or None

    def waited_s(self, cause: Cause) -> float:
        """Return how long a loop has been waiting for that reason: the longest of them, 0 if there is none."""
        return max((self._clock() - wait.since for wait in self.waits.values() if wait.cause is cause), default=0.0)

    @contextmanager
    def watching(self, who: str) -> Iterator[None]:
        """Note an `Outage` raised in the block and re-raise it; a block that succeeds ends the wait.

        A block within another one of the same loop is a part of its round, and ends nothing: that a loop can look for
        work does not mean that it can do it.
        """
        rounds = _ROUNDS.get()
        if who in rounds:
            yield
            return
        token = _ROUNDS.set(rounds | {who})
        try:
            yield
        except Outage as outage:
            self._met(who, outage)
            raise
        finally:
            _ROUNDS.reset(token)
        if (waited_s := self._end(who)) is not None:
            log.info("goes_on", what=who, waited_s=waited_s)

    def given_up(self, who: str) -> None:
        """End a loop's wait: its work is another replica's now, and may wait there."""
        if (waited_s := self._end(who)) is not None:
            log.info("waits_no_longer", what=who, waited_s=waited_s)

    def _end(self, who: str) -> float | None:
        """Forget a loop's wait; return how many seconds it took, or None if there was none."""
        wait = self._waits.pop(who, None)
        return None if wait is None else round(self._clock() - wait.since, 1)

    def _met(self, who: str, outage: Outage) -> None:
        metrics.OUTAGES.labels(outage.cause).inc()
        now, detail = self._clock(), str(outage)
        known = self.waits.get(who)
        wait = known if known is not None and known.cause is outage.cause else Wait(outage.cause, detail, now, now, 0)
        if not wait.logged_at or now - wait.logged_at >= LOG_EVERY_S:
            wait.logged_at = now
            log.warning("waiting", what=who, cause=wait.cause, detail=detail, since_s=round(now - wait.since, 1))
        wait.met_at, wait.detail = now, detail
        self._waits[who] = wait
