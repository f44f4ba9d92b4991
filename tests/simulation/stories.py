"""All stories of replicas, by the names that the command line knows; and the search for seeds that find something."""

from collections.abc import Mapping
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.simulation import campaign
from tests.simulation.mails import Mails
from tests.simulation.product import Product
from tests.simulation.replicas import Consumers, Relays, Story
from tests.simulation.world import World

STORIES: Mapping[str, type[Story]] = {"relay": Relays, "consumer": Consumers, "product": Product, "mails": Mails}

PLAIN = "world"
"""The stories of services that run once each."""

CHUNK = 10
"""How many seeds a process runs before it says what it has found."""


def look(name: str, seeds: range, jobs: int, console: Console) -> dict[int, list[str]]:
    """Run so many seeds, and print and return what they find."""
    found: dict[int, list[str]] = {}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress, campaign.processes(jobs) as side_by_side:
        bar = progress.add_task("seeds", total=len(seeds))
        for part in side_by_side(partial(_run, name, seeds.stop), range(seeds.start, seeds.stop, CHUNK)):
            for seed, findings in part.items():
                progress.console.print(f"[bold red]{seed}[/]", *findings, sep="\n    ", highlight=False, soft_wrap=True)
            found |= part
            done = min(CHUNK, len(seeds) - int(progress.tasks[bar].completed))
            progress.update(bar, advance=done, description=f"seeds ({len(found)} find something)")
    console.print(f"{len(found)} of {len(seeds)} seeds find something", highlight=False)
    return found


def told(name: str, seed: int) -> list[str]:
    """Return what a seed of a story finds; any name that is no story of replicas is that of `PLAIN`."""
    made: type[Story] | type[World] = STORIES.get(name, World)
    return made(seed).run()


def _run(name: str, stop: int, first: int) -> dict[int, list[str]]:
    """Run a chunk of seeds; return those that find something."""
    return {seed: found for seed in range(first, min(first + CHUNK, stop)) if (found := told(name, seed))}
