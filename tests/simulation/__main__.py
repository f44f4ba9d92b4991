"""Replays one seed, readably: `python -m tests.simulation SEED`; or looks for failing ones: `… FIRST LAST`.

Before the seeds may stand the name of a story of replicas: `relay`, `consumer`. Very many are a campaign:
`… campaign --seeds 200000 --jobs 2 --resume FILE`.
"""

import sys

from rich.console import Console

from tests.quiet import silence_logs
from tests.simulation import campaign
from tests.simulation.replicas import STORIES
from tests.simulation.story import replay, replay_replicas
from tests.simulation.world import World


def main(arguments: list[str]) -> int:
    """Exit with 1 if anything was found."""
    silence_logs()
    console = Console(width=None if sys.stdout.isatty() else 200)
    if arguments[:1] == ["campaign"]:
        return campaign.main(arguments[1:], console, lambda seed, made: replay(seed, console, made))
    kind = STORIES.get(arguments[0]) if arguments else None
    seeds = arguments[1:] if kind else arguments
    if len(seeds) not in (1, 2) or not all(seed.isdecimal() for seed in seeds):
        print(__doc__)
        return 2
    first, *last = map(int, seeds)
    if not last:
        return 1 if (replay_replicas(kind, first, console) if kind else replay(first, console)) else 0
    made = kind or World
    found = {seed: findings for seed in range(first, last[0] + 1) if (findings := made(seed).run())}
    for seed, findings in found.items():
        print(seed, *findings, sep="\n    ")
    print(f"{len(found)} of {last[0] - first + 1} seeds find something")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
