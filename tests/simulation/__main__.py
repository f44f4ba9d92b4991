"""Replays one seed, readably: `python -m tests.simulation SEED`; or looks for failing ones: `… FIRST LAST`.

Before the seeds may stand the name of a story of replicas: `relay`, `consumer`, `product`, `mails`. `--jobs 2` looks in
two processes. Very many seeds of the plain stories are a campaign: `… campaign --seeds 200000 --jobs 2 --resume FILE`.
"""

import sys
from argparse import ArgumentParser

from rich.console import Console

from tests.quiet import silence_logs
from tests.simulation import campaign
from tests.simulation.stories import PLAIN, STORIES, look
from tests.simulation.story import replay, replay_replicas


def main(arguments: list[str]) -> int:
    """Exit with 1 if anything was found."""
    silence_logs()
    console = Console(width=None if sys.stdout.isatty() else 200)
    if arguments[:1] == ["campaign"]:
        return campaign.main(arguments[1:], console, lambda seed, made: replay(seed, console, made))
    name = arguments.pop(0) if arguments and arguments[0] in STORIES else PLAIN
    parser = ArgumentParser("python -m tests.simulation", description=__doc__)
    parser.add_argument("first", type=int, metavar="SEED")
    parser.add_argument("last", type=int, nargs="?", help="look for failing seeds up to here")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    given = parser.parse_args(arguments)
    if given.last is None:
        kind = STORIES.get(name)
        return 1 if (replay_replicas(kind, given.first, console) if kind else replay(given.first, console)) else 0
    return 1 if look(name, range(given.first, given.last + 1), given.jobs, console) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
