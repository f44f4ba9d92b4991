"""Runs the whole product while everything fails that can: `python -m tests.nemesis --minutes 10 --seed 1`.

Exits with 1 if a violation was found, which is told with its history.
"""

import argparse
import os
import secrets
import sys
import time
from pathlib import Path

from rich.console import Console

from deploy.local.errors import StackError
from deploy.paths import STATE
from tests.nemesis.report import Result, print_campaign, print_report
from tests.nemesis.run import Run
from tests.nemesis.schedule import KINDS, faults
from tests.quiet import silence_logs


def main(arguments: list[str]) -> int:
    """Run, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.nemesis", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long it is struck (10)")
    parser.add_argument(
        "--seed",
        type=int,
        nargs="+",
        help="whose schedule of commands and faults it is (one at random); a run for each",
    )
    parser.add_argument("--plan", action="store_true", help="print the schedule's faults, and do nothing")
    parser.add_argument("--table", action="store_true", help="print the table for docs/testing.md, too")
    parser.add_argument("--keep", type=Path, help="a directory, not there yet, for data and logs that are kept")
    parser.add_argument(
        "--only", action="append", choices=KINDS, default=[], help="a kind of fault, if not all are meant"
    )
    options = parser.parse_args(arguments)
    silence_logs()
    seeds = options.seed or [secrets.randbelow(1_000_000)]
    console = Console(width=None if sys.stdout.isatty() else 160)
    if options.plan:
        for each in (each for seed in seeds for each in faults(seed, options.minutes, options.only)):
            console.print(f"{each.begins_s:7.1f} … {each.ends_s:6.1f} s  {each}", highlight=False)
        return 0
    results = []
    for seed in seeds:
        try:
            results.append(_run(seed, options, console))
        except StackError as error:
            console.print(f"[red]{error}")
            return 2
        print_report(results[-1], console)
    if options.table:
        print_campaign(results, console)
    return 1 if any(result.breaches for result in results) else 0


def _run(seed: int, options: argparse.Namespace, console: Console) -> Result:
    began = time.monotonic()

    def progress(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:5.0f}[/] {text}", highlight=False, soft_wrap=True)

    planned = faults(seed, options.minutes, options.only)
    progress(f"seed {seed}: {len(planned)} faults in {options.minutes:g} minutes")
    directory = options.keep / f"{seed}" if options.keep else STATE / f"nemesis-{os.getpid()}"
    return Run(directory, seed, options.minutes, progress, options.only, options.keep is not None).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
