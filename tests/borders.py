"""The table of borders, as the tests read it: docs/borders.md."""

import re
from pathlib import Path

TABLE = Path(__file__).parents[1] / "docs" / "borders.md"

_ESCAPE = re.compile(r"\\u([0-9a-f]{4})|\\U([0-9a-f]{8})")
_REPEATED = re.compile(r"\{([^{}]+)\*(\d+)\}")


def examples(of: str) -> list[tuple[str, ...]]:
    """Return the rows of the table below the heading `Examples: …`, without its head; raises `StopIteration`."""
    lines = iter(TABLE.read_text(encoding="utf-8").splitlines())
    next(line for line in lines if line == f"### Examples: {of}")
    next(line for line in lines if line.startswith("| --- "))
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
    return rows


def quoted(cell: str) -> str:
    """Return the text in a cell's backticks, with `\\u200b` as that character and `{a*3}` as three of them."""
    text = _ESCAPE.sub(lambda found: chr(int(found[1] or found[2], 16)), cell[cell.index("`") + 1 : cell.rindex("`")])
    return _REPEATED.sub(lambda found: found[1] * int(found[2]), text)
