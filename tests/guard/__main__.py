"""Counts what a saga and a transfer cost, and records it: `make costs`. With `--print`, only prints it."""

import asyncio
import json
import os
import sys

from deploy.paths import STATE
from tests.guard.costs import RECORDED, compare, measure, record, recorded
from tests.quiet import silence_logs


def main() -> None:
    """Count, and record or print."""
    silence_logs()
    costs = asyncio.run(measure(STATE / f"guard-{os.getpid()}"))
    if "--print" in sys.argv:
        print(json.dumps(costs))
        return
    moved = compare(recorded(), costs) if RECORDED.exists() else []
    record(costs)
    print(*(moved or ["nothing has moved beyond the tolerance"]), sep="\n")


if __name__ == "__main__":
    main()
