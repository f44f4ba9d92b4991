"""The table of figures: in a terminal, and in a document."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from tests.bench.figures import Row, Run, Verdict, rows

HEADINGS = ("figure", "measured", "ratio", "spread", "first mark", "goal", "reached")

_COLOURS = {Verdict.GOAL: "bold green", Verdict.MARK: "green", Verdict.NONE: "bold red", Verdict.UNKNOWN: "dim"}


def show(runs: Sequence[Run], console: Console) -> None:
    """Print the table to a terminal."""
    table = Table(title=f"{'median of ' if len(runs) > 1 else ''}{len(runs)} run{'s' if len(runs) > 1 else ''}")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in ("figure", "reached") else "right", no_wrap=True)
    for row, cells in _cells(runs):
        colour = _COLOURS[row.verdict]
        table.add_row(*cells[:-1], f"[{colour}]{cells[-1]}[/]", style=None if row.value is not None else "dim")
    console.print(table)


def markdown(runs: Sequence[Run]) -> str:
    """Return the table as a document has it."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "| --- |" + " ---: |" * 5 + " --- |"]
    lines += ["| " + " | ".join(cells) + " |" for _, cells in _cells(runs)]
    return "\n".join(lines)


def _cells(runs: Sequence[Run]) -> Iterator[tuple[Row, list[str]]]:
    for row in rows(runs):
        figure = row.figure
        if row.value is None and figure.mark is None:
            continue
        yield (
            row,
            [
                figure.title,
                number(row.value, figure.unit),
                number(row.ratio),
                _spread(row, figure.unit if figure.ratio is None else "", len(runs)),
                number(figure.mark, figure.unit if figure.ratio is None else ""),
                number(figure.goal, figure.unit if figure.ratio is None else ""),
                row.verdict.value,
            ],
        )


def number(value: float | None, unit: str = "") -> str:
    """Return a number as people read it, with its unit: 1,600/s, 0.124, 365 ms."""
    if value is None:
        return "—"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text + (unit if unit.startswith("/") else f" {unit}" if unit else "")


def _spread(row: Row, unit: str, runs: int) -> str:
    if runs < 2 or row.least is None:
        return "—"
    return f"{number(row.least)}–{number(row.most, unit)}"
