"""Runs seeds of the simulation until one finds something: `python -m tests.mutants.seeds FIRST [MISTAKE]`.

FIRST is tried before all others. `python -m tests.mutants.seeds only STORY SEED...` runs a story's seeds without any
mistake, and no others.
"""

import sys
from collections.abc import Callable, Iterable
from functools import partial

from tests.quiet import silence_logs
from tests.simulation.mistakes import MISTAKES
from tests.simulation.mutations import MUTATIONS
from tests.simulation.stories import PLAIN, told

SEEDS = 300
"""So many are tried: a mistake that they do not find is a hole."""


def first_finding(seeds: Iterable[int], tells: Callable[[int], list[str]]) -> str | None:
    """Return the first seed that finds something, and what it finds first; None if none does."""
    found = ((seed, tells(seed)) for seed in seeds)
    return next((f"seed {seed}: {findings[0]}" for seed, findings in found if findings), None)


def in_order(first: int) -> list[int]:
    """Return the seeds in the order in which they are tried."""
    return sorted({first, *range(SEEDS)}, key=lambda seed: (seed != first, seed))


def _with_mistake(name: str, seed: int) -> list[str]:
    return MISTAKES[name].findings(seed) if name in MISTAKES else MUTATIONS[name].world(seed).run()


def main(arguments: list[str]) -> int:
    """Exit with 1 if a seed has found something, and print it."""
    silence_logs()
    match arguments:
        case ["only", story, *seeds]:
            found = first_finding(map(int, seeds), partial(told, story))
        case [first]:
            found = first_finding(in_order(int(first)), partial(told, PLAIN))
        case [first, mistake]:
            found = first_finding(in_order(int(first)), partial(_with_mistake, mistake))
        case _:
            print(__doc__)
            return 2
    if found is not None:
        print(found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
