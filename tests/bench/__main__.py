"""Measures the product on this machine, and a yardstick beside it (`make bench`).

    python -m tests.bench [--quick] [--runs N] [--growth]
    python -m tests.bench report FILE...

Each run starts a fresh product (real Kafka with acks=all, real PostgreSQL with fsync, four services), measures one
thing after the other, and prints one JSON line. At the end stands a table of the medians, with what is to be reached.
Progress goes to stderr. `report` writes the table and the picture of docs/performance.md from the JSON lines in files.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from deploy.paths import STATE
from tests.bench import table
from tests.bench.measures import hops, yardstick
from tests.bench.plan import PROFILE, Figures, Progress, Step, measured, profile_steps, steps
from tests.bench.running import Bench, running
from tests.bench.sizes import FULL, QUICK, Sizes

START_S = 25.0
"""About how long a product takes to start and to stop."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run measures: on one product, and on products of their own."""

    sizes: Sizes
    steps: Sequence[Step]
    profile: bool

    @property
    def about_s(self) -> float:
        """Return about how long it takes."""
        profile_s = START_S + sum(step.about_s for step in profile_steps(self.sizes)) if self.profile else 0
        return START_S + sum(step.about_s for step in self.steps) + self.sizes.pgbench_s + profile_s


def one_run(directory: Path, plan: Plan, progress: Progress) -> Figures:
    """Measure everything once, on fresh products."""
    sizes = plan.sizes
    with ExitStack() as cleanup:
        with progress.doing("the product starts", START_S):
            product = cleanup.enter_context(running(directory))
        figures = asyncio.run(measured(Bench(product, sizes), plan.steps, progress))
        product.stop_services()
        with progress.doing("pgbench", sizes.pgbench_s):
            per_s = yardstick.transfers_per_s(product.stack.postgres.superuser_url, directory, sizes.pgbench_s)
    figures = {"pgbench_transfers_per_s": round(per_s), **figures}
    if plan.profile:
        with ExitStack() as cleanup:
            with progress.doing("the product starts, profiled", START_S):
                product = cleanup.enter_context(running(directory, hops.stack, "tests.bench.profiled"))
            figures |= asyncio.run(measured(Bench(product, sizes), profile_steps(sizes), progress))
    return figures


def bench(plans: Sequence[Plan]) -> list[Figures]:
    """Run each plan; print each run's line."""
    progress = Progress(sum(plan.about_s for plan in plans))
    done: list[Figures] = []
    for number, plan in enumerate(plans, 1):
        print(f"run {number} of {len(plans)}: {progress.remaining()}", file=sys.stderr, flush=True)
        done.append(one_run(STATE / f"bench-{os.getpid()}", plan, progress))
        print(json.dumps(done[-1]), flush=True)
    return done


def read(files: Sequence[Path]) -> list[Figures]:
    """Return the runs in files: every line that is a JSON object."""
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one run with smaller numbers, in two minutes")
    parser.add_argument("--runs", type=int, help="how many runs (default: 3, with --quick 1)")
    parser.add_argument("--only", default="", metavar="WORD", help="only the steps whose titles have this word")
    options = parser.parse_args(arguments)
    sizes = QUICK if options.quick else FULL
    planned = [step for step in steps(sizes) if not step.may_be_left_out or options.only in step.title]
    profiled = options.only in PROFILE if options.only else not options.quick
    count = options.runs or (1 if options.quick else 3)
    runs = bench([Plan(sizes, planned, profile=profiled and number == 0) for number in range(count)])
    table.show(runs, Console(width=120 if not sys.stdout.isatty() else None))


if __name__ == "__main__":
    main()
