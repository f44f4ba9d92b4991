"""Try the matrix of crashes.

python -m tests.crashpoints                 all cells, some 25 minutes on a quiet machine (`make crashpoints`)
python -m tests.crashpoints --resume        those that no earlier run has seen hold
python -m tests.crashpoints --from 120      from this cell on
python -m tests.crashpoints --only ledger --only '· 2'     cells whose names contain all of these texts
python -m tests.crashpoints --list          the cells, numbered
python -m tests.crashpoints --table         what earlier runs found, as a table in Markdown

Exits with 1 if a cell is broken, or its point was not reached: such a cell proves nothing.
"""

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing

from deploy.paths import STATE
from tests.crashpoints import report
from tests.crashpoints.crew import Crew, crewed
from tests.crashpoints.matrix import CELLS, Cell, rounds
from tests.crashpoints.migrating import try_migration
from tests.crashpoints.running import Verdict, try_round
from tests.crashpoints.seams import MIGRATION
from tests.crashpoints.stories import STORIES, Person, cast
from tests.e2e.driver import World

AT_ONCE = 4
"""How many cells are tried side by side."""

_SEEN = 12
"""After how many rounds the log is read from a new beginning: each judgement reads it from there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Try what was asked for; return the exit code."""
    asked = _parsed(arguments)
    cells = chosen(asked.only, asked.begin, asked.resume)
    if asked.list:
        print("\n".join(f"{CELLS.index(cell):4} {cell.name}" for cell in cells))
        return 0
    if asked.table:
        print(report.table(report.kept()))
        return 0
    if not (asked.only or asked.begin or asked.resume):
        report.KEPT.unlink(missing_ok=True)
    begun, verdicts, together = time.monotonic(), list[Verdict](), list[Sequence[Verdict]]()
    for those in tried(cells, asked.at_once):
        if not _is_final(those):
            together.append(those)
            continue
        for verdict in those:
            report.keep(verdict)
            verdicts.append(verdict)
            spent = time.monotonic() - begun
            print(f"{len(verdicts):4}/{len(cells)} {spent:6.0f} s  {_line(verdict)}", flush=True)
    print(f"\n{report.table(report.kept())}")
    for those in together:
        print("Together they did not hold:", *map(_line, those), sep="\n  ")
    return 0 if all(verdict.holds for verdict in verdicts) and not together else 1


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crashpoints", description="Try the matrix of crashes.")
    parser.add_argument("--only", action="append", default=[], help="a text in a cell's name; all of several")
    parser.add_argument("--from", dest="begin", type=int, default=0, help="the number of the first cell")
    parser.add_argument("--resume", action="store_true", help="leave out what an earlier run has seen hold")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="how many cells are tried side by side")
    parser.add_argument("--list", action="store_true", help="list the cells with their numbers, and try none")
    parser.add_argument("--table", action="store_true", help="print what earlier runs found, and try none")
    return parser.parse_args(arguments)


def chosen(only: Sequence[str] = (), begin: int = 0, resume: bool = False) -> list[Cell]:
    """Return the cells that are to be tried, in their order."""
    done = {name for name, verdict in report.kept().items() if verdict.holds} if resume else set()
    return [cell for cell in CELLS[begin:] if all(text in cell.name for text in only) and cell.name not in done]


def _line(verdict: Verdict) -> str:
    said = "" if verdict.holds else "  " + ("; ".join(verdict.violations) or "its point was not reached")
    return f"{'✓' if verdict.holds else '✗'} {verdict.cell.name}  {verdict.seconds:.1f} s{said}"


def tried(cells: Sequence[Cell], at_once: int = AT_ONCE) -> Iterator[Sequence[Verdict]]:
    """Try cells, round by round, and yield what came of each.

    After a round that does not hold, each of its cells is tried alone, on a product of its own: then it is known whose
    fault it is, and no other cell suffers from what it left. If all of its cells hold alone, it takes several crashes
    at once, or one after another.
    """
    waiting = deque(rounds(cells, at_once))
    while waiting:
        with crewed(STATE / f"test-{os.getpid()}-crashpoints") as crew:
            yield from _while_it_holds(crew, waiting)


def _while_it_holds(crew: Crew, waiting: deque[Sequence[Cell]]) -> Iterator[Sequence[Verdict]]:
    """Try rounds on one product, until none is left or one does not hold."""
    while waiting:
        with closing(World(crew.product)) as world:
            taken = [waiting.popleft() for _ in range(min(_SEEN, len(waiting)))]
            people = iter(cast(world, [STORIES[cell.row.story] for cells in taken for cell in cells if cell.row.story]))
            while taken:
                cells = taken.pop(0)
                verdicts = _tried_now(crew, world, cells, people)
                yield verdicts
                if not all(verdict.holds for verdict in verdicts):
                    again = [] if _is_final(verdicts) else [[cell] for cell in cells]
                    waiting.extendleft(reversed([*again, *taken]))
                    return


def _is_final(verdicts: Sequence[Verdict]) -> bool:
    """Return whether it is known whose fault it is, if anybody's."""
    return len(verdicts) == 1 or all(verdict.holds for verdict in verdicts)


def _tried_now(
    crew: Crew, world: World, cells: Sequence[Cell], people: Iterator[Sequence[Person]]
) -> Sequence[Verdict]:
    if cells[0].row.point == MIGRATION:
        return [try_migration(crew, cells[0])]
    if cells[0].replicas > 1:
        crew.double()
    return try_round(crew, world, cells, [next(people) for _ in cells])


if __name__ == "__main__":
    sys.exit(main())
