"""The output of commands: tables for people, JSON for programs, one line on stderr for an error."""

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segments
from rich.table import Table
from rich.text import Text

# Both look up the stream at each write, so they follow a test or a redirection that replaces it.
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_GAP = 2
"""Spaces between the columns of a table."""

_PROSE = 24
"""How narrow a column of prose may become."""

SHORT_ID = 8
"""How many characters of an id a table shows. Commands accept such a beginning of an id."""


def print_json(value: Any) -> None:
    """Print one JSON document, never wrapped or coloured."""
    out.file.write(json.dumps(value, default=_plain, indent=2, ensure_ascii=False) + "\n")


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table without a frame. Cells are shown verbatim, even if they look like markup.

    Prose is wrapped between its words. An id, a path or an address is never broken, however narrow the terminal is:
    whoever copies it must get the whole of it.
    """
    shown = [[cell if isinstance(cell, Text) else Text(_shown(cell)) for cell in row] for row in rows]
    is_headed = any(map(str.strip, headings))
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0), show_header=is_headed)
    width = 0
    for place, heading in enumerate(headings):
        column = [Text(heading), *(row[place] for row in shown)]
        justify: Literal["left", "right"] = "right" if heading in _NUMBERS else "left"
        is_prose = place > 0 and any(" " in cell.plain for cell in column[1:])
        table.add_column(heading, no_wrap=not is_prose, justify=justify)
        width += _GAP + max(_least(cell) if is_prose else cell.cell_len for cell in column)
    for row in shown:
        table.add_row(*row)
    options = out.options.update(width=max(out.width, width))
    out.print(Segments(out.render(table, options)), end="", crop=False, soft_wrap=True)


def _least(prose: Text) -> int:
    """Return the least width in which prose can be read, no word of it broken."""
    return max([min(_PROSE, prose.cell_len), *(cell_len(word) for word in prose.plain.split())])


def say(text: str, style: str = "") -> None:
    """Print a line, whole, however narrow the terminal is."""
    out.print(Text(text, style=style), soft_wrap=True)


def complain(text: str) -> None:
    """Print an error to stderr, in one line. Only its first word is styled: the rest may contain anything."""
    line = Text("popfax: ", style="bold red")
    err.print(line.append(text, style="not bold default"), soft_wrap=True)


def continued(command: str, width: int = 78) -> str:
    """Return a command on lines that fit a terminal, as a shell reads them: each but the last ends with a backslash."""
    lines = [" "]
    for words in re.split(r" (?=--)", command):
        if len(lines[-1]) + len(words) + 3 > width and lines[-1].strip():
            lines[-1] += " \\"
            lines.append("     ")
        lines[-1] += f" {words}"
    return "\n".join(lines)


def short(id_: UUID | str) -> str:
    """Shorten an id for a table."""
    return str(id_)[:SHORT_ID]


def ago(moment: datetime, now: datetime | None = None) -> str:
    """Return how long ago something was, in words."""
    return duration((now or datetime.now(UTC)) - moment)


def duration(span: timedelta) -> str:
    """Return a duration in its two largest units, in words."""
    seconds = max(0, int(span.total_seconds()))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    first = next((i for i, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count) or "0 s"


_NUMBERS = frozenset(
    {"attempts", "uncertain", "price", "partitions", "balance", "held", "available", "units", "members", "requests"}
)


def _shown(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, datetime):
        return cell.strftime("%Y-%m-%d %H:%M:%S")
    return json.dumps(cell, ensure_ascii=False, default=_plain) if isinstance(cell, list | dict) else str(cell)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)
