"""Decides what is handled at once, and what waits a moment for company: a batch costs as much as dozens of messages.

A message that somebody waits for, such as a step of a saga or its answer, is handled at once. What begins something is
gathered for a moment, and then travels from service to service as a group: the batches of all its steps are saved for
one short wait at its beginning. Facts that nobody waits for come along with whatever is handled next.

The wait follows from what a batch costs, and there is none if nothing was begun for so long, nor for a full batch.
"""

import time
from collections.abc import Callable, Collection
from typing import Generic, Protocol, TypeVar

from services.chassis.partitions import Place
from services.chassis.service import Service

BATCH_TIMES = 32
"""Groups begin at least so many batch times apart: about as many batches as a group leads to in all services."""

LONGEST_S = 0.2
"""The longest wait. Slower batches are large anyway: what arrives meanwhile is the next."""

FACTS_S = 0.03
"""How long facts wait for company in any case. What follows from the same cause often arrives a moment later."""


class Placed(Protocol):
    """A record, as far as it matters here."""

    @property
    def topic(self) -> str:
        """Return its topic's name."""

    @property
    def partition(self) -> int:
        """Return its partition."""


R = TypeVar("R", bound=Placed)


class Gathering(Generic[R]):
    """Records of one consumer that have been fetched, in their order, and are not being handled yet."""

    def __init__(self, service: Service, full: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`full` is the number of records that need no company."""
        self._awaited = service.awaited
        self._entries = service.entries
        self._full = full
        self._clock = clock
        self._records: list[R] = []
        self._since = 0.0
        self._closed_until = 0.0
        self._begun_at: float | None = None

    def __len__(self) -> int:
        return len(self._records)

    def add(self, records: list[R]) -> None:
        """Add what was fetched."""
        if not self._records:
            self._since = self._clock()
        self._records += records

    def take(self) -> list[R]:
        """Return what is to be handled now; call `handled` after that."""
        if not self._records:
            return []
        now, awaited = self._clock(), self._has(self._awaited)
        opens_at = self._closed_until if awaited else self._opens_at()
        if now >= opens_at or len(self._records) >= self._full:
            if not awaited or self._has(self._entries):
                self._begun_at = now
            return self.clear()
        if not awaited:
            return []
        taken = [record for record in self._records if record.topic not in self._entries]
        self._records = [record for record in self._records if record.topic in self._entries]
        return taken

    def _has(self, topics: Collection[str]) -> bool:
        return any(record.topic in topics for record in self._records)

    def _opens_at(self) -> float:
        """Return when what waits is handled if nothing else comes."""
        return self._closed_until if self._has(self._entries) else max(self._closed_until, self._since + FACTS_S)

    def handled(self) -> None:
        """Note that what was taken has been handled: the time that this took decides when the next group begins."""
        if self._begun_at is not None:
            took, begun_at, self._begun_at = self._clock() - self._begun_at, self._begun_at, None
            self._closed_until = begun_at + min(took * BATCH_TIMES, LONGEST_S)

    def patience_s(self, longest: float) -> float:
        """Return how long to wait for other records at most, in seconds."""
        return min(longest, max(0.0, self._opens_at() - self._clock())) if self._records else longest

    def clear(self) -> list[R]:
        """Return all records, and forget them."""
        taken, self._records = self._records, []
        return taken

    def lose(self, places: Collection[Place]) -> None:
        """Forget the records of lost partitions, which their next owner fetches again."""
        self._records = [record for record in self._records if (record.topic, record.partition) not in places]
