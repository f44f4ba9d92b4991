"""Tables in a terminal and in a document; the last one is that of the figures which are judged."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table

from tests.bench.details import DETAILS
from tests.bench.figures import Row, Run, Verdict, number, rows

HEADINGS = ("figure", "measured", "ratio", "spread", "first mark", "goal", "reached")

_COLOURS = {Verdict.GOAL: "bold green", Verdict.MARK: "green", Verdict.NONE: "bold red", Verdict.UNKNOWN: "dim"}


def show(runs: Sequence[Run], console: Console) -> None:
    """Print all tables to a terminal, that of the figures at the end."""
    for title, grid_of in DETAILS.values():
        try:
            grid = grid_of(runs)
        except KeyError:  # not measured
            continue
        console.print(_table(title, grid.headings, grid.rows))
    judged_rows = []
    for row, cells in judged(runs):
        colour = _COLOURS[row.verdict]
        judged_rows.append([*cells[:-1], f"[{colour}]{cells[-1]}[/]"])
    title = f"median of {len(runs)} runs" if len(runs) > 1 else "one run"
    console.print(_table(title, HEADINGS, judged_rows))


def _table(title: str, headings: Sequence[str], cells: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title)
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    return table


def markdown(headings: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """Return a table as a document has it: the first column is text, the others are numbers."""
    lines = [_line(headings), "| --- |" + " ---: |" * (len(headings) - 1)]
    return "\n".join([*lines, *map(_line, cells)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def judged(runs: Sequence[Run]) -> Iterator[tuple[Row, list[str]]]:
    """Return the rows of the figures, each with its cells; without those that have neither a value nor a mark."""
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


def _spread(row: Row, unit: str, runs: int) -> str:
    if runs < 2 or row.least is None:
        return "—"
    return f"{number(row.least)}–{number(row.most, unit)}"
