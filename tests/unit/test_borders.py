"""Each row of the table of borders names the test that shows it; a row without one, or whose test is gone, fails."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "borders.md"
COLUMNS = ("what", "accepts", "bound", "otherwise", "shown by")


def rows(text: str) -> Iterator[tuple[str, ...]]:
    """Return the cells of each row of the tables with the columns above."""
    return examples(text, COLUMNS)


def examples(text: str, wanted: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Return the cells of each row of the tables that have these columns, without backticks around a cell."""
    columns: tuple[str, ...] = ()
    for line in text.splitlines():
        if not line.startswith("|"):
            columns = ()
            continue
        cells = tuple(_bare(cell.strip()) for cell in line.strip("|").split("|"))
        if not columns:
            columns = cells
        elif columns == wanted and not set(line) <= set("|- "):
            yield cells


def _bare(cell: str) -> str:
    inside = cell[1:-1]
    return inside if cell == f"`{inside}`" and "`" not in inside else cell


@cache
def names_of_tests(path: Path) -> frozenset[str]:
    """Return the names of a file's test functions, those in classes included."""
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


def faults(text: str) -> list[str]:
    """Say what is wrong with the tables."""
    found = []
    for cells in rows(text):
        if len(cells) != len(COLUMNS) or not all(cells):
            found.append(f"{cells[0]}: a cell is missing")
            continue
        for named in cells[-1].replace("`", "").split("<br>"):
            path, _, name = named.strip().partition("::")
            file = ROOT / path
            if not file.is_file() or name.rpartition("::")[2] not in names_of_tests(file):
                found.append(f"{cells[0]}: no test {named}")
    return found


def test_every_row_is_shown_by_a_test_that_exists() -> None:
    assert faults(TABLE.read_text()) == []


HEADING = "| what | accepts | bound | otherwise | shown by |\n| --- | --- | --- | --- | --- |\n"


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("| a | b | c | d | `tests/unit/test_borders.py::test_gone` |", "no test"),
        ("| a | b | c | d | `tests/unit/gone.py::test_gone` |", "no test"),
        ("| a | b | c | d | |", "a cell is missing"),
        ("| a | b | c | `tests/unit/test_borders.py::rows` |", "a cell is missing"),
    ],
)
def test_finds_a_row_that_nothing_shows(row: str, fault: str) -> None:
    assert fault in faults(HEADING + row)[0]
