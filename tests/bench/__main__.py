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
from pathlib import Path

from rich.console import Console

from deploy.local.stack import remove_abandoned
from deploy.paths import CHECKOUT, STATE
from tests.bench import report, table
from tests.bench.plan import (
    FAILED,
    START_S,
    Figures,
    Progress,
    Section,
    growth_section,
    large_section,
    main_section,
    measured,
    profile_section,
)
from tests.bench.running import Bench, running
from tests.bench.sizes import FULL, QUICK


def one_run(directory: Path, sections: Sequence[Section], progress: Progress) -> Figures:
    """Measure each section on a fresh product of its own."""
    figures: Figures = {}
    for section in sections:
        with ExitStack() as cleanup:
            with progress.doing(f"start {section.title}", START_S):
                product = cleanup.enter_context(running(directory, section.stack_of, section.module))
            figures |= asyncio.run(measured(Bench(product, section.sizes), section.steps, progress))
    return figures


def bench(runs: Sequence[Sequence[Section]]) -> list[Figures]:
    """Do all runs; print each one's line."""
    progress = Progress(sum(section.about_s for sections in runs for section in sections))
    done: list[Figures] = []
    for number, sections in enumerate(runs, 1):
        print(f"run {number} of {len(runs)}: {progress.remaining()}", file=sys.stderr, flush=True)
        done.append(one_run(STATE / f"bench-{os.getpid()}", sections, progress))
        print(json.dumps(done[-1]), flush=True)
    return done


def read(files: Sequence[Path]) -> list[Figures]:
    """Return the runs in files: every line that is a JSON object."""
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or report."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one run with smaller numbers, in two minutes")
    parser.add_argument("--runs", type=int, help="how many runs (default: 3, with --quick 1)")
    parser.add_argument("--growth", action="store_true", help="fill the databases, too: some minutes, 16 GB of disk")
    parser.add_argument("--only", default="", metavar="WORD", help="only the steps whose titles have this word")
    report_parser = parser.add_subparsers(dest="command").add_parser("report", help="write docs/performance.md")
    report_parser.add_argument("files", nargs="+", type=Path, help="what the bench printed")
    options = parser.parse_args(arguments)
    if options.command == "report":
        for path in report.write(CHECKOUT, read(options.files)):
            print(f"{path} written")
        return
    sizes = QUICK if options.quick else FULL
    once = [profile_section(sizes), large_section(sizes)] if options.only or not options.quick else []
    once += [growth_section(sizes)] if options.growth else []
    count = options.runs or (1 if options.quick else 3)
    planned = [[main_section(sizes), *(once if number == 0 else [])] for number in range(count)]
    chosen = [[each for section in run if (each := section.only(options.only)).measures()] for run in planned]
    remove_abandoned(STATE, "bench-")
    runs = bench(chosen)
    table.show(runs, Console(width=None if sys.stdout.isatty() else 140))
    if failed := [title for run in runs for title in run.get(FAILED, [])]:
        sys.exit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
