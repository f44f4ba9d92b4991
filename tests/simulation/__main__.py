"""Replays one seed, readably: `python -m tests.simulation SEED`; or looks for failing ones: `… FIRST LAST`."""

import sys

from rich.console import Console

from tests.quiet import silence_logs
from tests.simulation.story import replay
from tests.simulation.world import World


def main(arguments: list[str]) -> int:
    """Exit with 1 if anything was found."""
    silence_logs()
    match [int(argument) for argument in arguments]:
        case [seed]:
            return 1 if replay(seed, Console(width=None if sys.stdout.isatty() else 200)) else 0
        case [first, last]:
            found = {seed: findings for seed in range(first, last + 1) if (findings := World(seed).run())}
            for seed, findings in found.items():
                print(seed, *findings, sep="\n    ")
            print(f"{len(found)} of {last - first + 1} seeds find something")
            return 1 if found else 0
        case _:
            print(__doc__)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
