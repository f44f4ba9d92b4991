"""The matrix as it came out: kept line by line, so that a run can go on where it ended, and printed as a table."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from deploy.paths import CHECKOUT
from tests.crashpoints.matrix import CELLS, REPLICAS, ROWS, SIGNALS, Cell
from tests.crashpoints.running import Verdict

KEPT = CHECKOUT / "build" / "crashpoints.jsonl"
"""Where verdicts are kept."""

COLUMNS = tuple((does, replicas) for does in SIGNALS for replicas in REPLICAS)
_BY_NAME: Mapping[str, Cell] = {cell.name: cell for cell in CELLS}


def keep(verdict: Verdict, path: Path | None = None) -> None:
    """Add a verdict."""
    path = path or KEPT
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {
        "cell": verdict.cell.name,
        "reached": verdict.reached,
        "violations": verdict.violations,
        "seconds": round(verdict.seconds, 1),
    }
    with path.open("a") as file:
        print(json.dumps(told), file=file)


def kept(path: Path | None = None) -> dict[str, Verdict]:
    """Return the newest verdict on each cell. Cells that the matrix no longer has are passed over."""
    path = path or KEPT
    lines = path.read_text().splitlines() if path.exists() else []
    told = [json.loads(line) for line in lines]
    return {
        each["cell"]: Verdict(_BY_NAME[each["cell"]], each["reached"], each["violations"], each["seconds"])
        for each in told
        if each["cell"] in _BY_NAME
    }


def mark(verdict: Verdict | None) -> str:
    """Return a verdict in a word."""
    if verdict is None:
        return "–"
    if verdict.violations:
        return "**broken**"
    return "✓" if verdict.reached else "not reached"


def table(verdicts: Mapping[str, Verdict]) -> str:
    """Return the matrix as a table in Markdown, with a line of figures below."""
    head = " | ".join(f"{does}, {replicas}" for does, replicas in COLUMNS)
    lines = [f"| point | passed with | {head} |", "| --- | --- |" + " --- |" * len(COLUMNS)]
    before = ""
    for row in ROWS:
        marks = " | ".join(mark(verdicts.get(Cell(row, *column).name)) for column in COLUMNS)
        lines.append(f"| {'' if row.point == before else row.point} | {row.what} | {marks} |")
        before = row.point
    return "\n".join([*lines, "", summary(verdicts.values())])


def summary(verdicts: Iterable[Verdict]) -> str:
    """Return how many cells hold, of how many."""
    tried = list(verdicts)
    broken = sum(bool(each.violations) for each in tried)
    missed = sum(not each.reached for each in tried)
    holding = sum(each.holds for each in tried)
    return f"{holding} of {len(CELLS)} cells hold, {broken} are broken, {missed} points were not reached."
