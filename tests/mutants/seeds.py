"""Runs seeds of the simulation until one finds something: `python -m tests.mutants.seeds FIRST [MUTATION]`.

FIRST is tried before all others, and alone if no more is wanted: `python -m tests.mutants.seeds only FIRST...`.
"""

import sys
from collections.abc import Callable, Iterable

from tests.quiet import silence_logs
from tests.simulation.mutations import MUTATIONS
from tests.simulation.world import World

SEEDS = 300
"""So many are tried: a mistake that they do not find is a hole."""


def first_finding(seeds: Iterable[int], world: Callable[[int], World]) -> str | None:
    """Return the first seed that finds something, and what it finds first; None if none does."""
    found = ((seed, world(seed).run()) for seed in seeds)
    return next((f"seed {seed}: {findings[0]}" for seed, findings in found if findings), None)


def in_order(first: int) -> list[int]:
    """Return the seeds in the order in which they are tried."""
    return sorted({first, *range(SEEDS)}, key=lambda seed: (seed != first, seed))


def main(arguments: list[str]) -> int:
    """Exit with 1 if a seed has found something, and print it."""
    silence_logs()
    match arguments:
        case ["only", *seeds]:
            found = first_finding(map(int, seeds), World)
        case [first]:
            found = first_finding(in_order(int(first)), World)
        case [first, mutation]:
            found = first_finding(in_order(int(first)), MUTATIONS[mutation].world)
        case _:
            print(__doc__)
            return 2
    if found is not None:
        print(found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
