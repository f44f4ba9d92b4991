"""Visits every state that a model can reach, nearest first, so that the trace of a violation is a shortest one.

Explicit-state search as in TLC (Yu, Manolios and Lamport, *Model checking TLA+ specifications*, 1999): a state that was
visited is never visited again, and what is reachable is finite because a model counts its faults.
"""

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

S = TypeVar("S")


class Model(Protocol[S]):
    """What may happen, and what must never."""

    def initial(self) -> S:
        """Return the state in which everything begins."""

    def key(self, state: S) -> Hashable:
        """Return what distinguishes a state from all others that could still behave differently."""

    def steps(self, state: S) -> Iterable[tuple[str, S]]:
        """Yield everything that may happen next: what it is, and the state that follows."""

    def violation(self, state: S) -> str | None:
        """Say what is wrong with a state, if anything is."""

    def ending(self, state: S) -> str | None:
        """Say what is wrong with a state in which nothing more can happen, if anything is."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found: how many states there are, and a shortest way to one that is wrong."""

    states: int
    endings: int
    violation: str | None = None
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.violation is None:
            return f"{self.states} states, {self.endings} of them endings: nothing is wrong"
        steps = (f"{number:>3}. {step}" for number, step in enumerate(self.trace, 1))
        return "\n".join((f"{self.violation}, after", *steps))


class TooLarge(Exception):
    """There are more states than a search was allowed to visit: it proves nothing."""


def search(model: Model[S], most: int = 2_000_000) -> Found:
    """Visit all states, up to the first violation. Raises `TooLarge` if there are more than `most`."""
    first = model.initial()
    came_from: dict[Hashable, tuple[Hashable, str] | None] = {model.key(first): None}
    waiting = deque([(model.key(first), first)])
    endings = 0
    while waiting:
        key, state = waiting.popleft()
        wrong, is_ending = model.violation(state), True
        if wrong is None:
            for step, following in model.steps(state):
                is_ending = False
                known = model.key(following)
                if known not in came_from:
                    came_from[known] = key, step
                    waiting.append((known, following))
            if len(came_from) > most:
                raise TooLarge(f"more than {most} states")
            if is_ending:
                endings += 1
                wrong = model.ending(state)
        if wrong is not None:
            return Found(len(came_from), endings, wrong, _trace(came_from, key))
    return Found(len(came_from), endings)


def _trace(came_from: dict[Hashable, tuple[Hashable, str] | None], key: Hashable) -> tuple[str, ...]:
    steps: list[str] = []
    while (before := came_from[key]) is not None:
        key, step = before
        steps.append(step)
    return tuple(reversed(steps))
