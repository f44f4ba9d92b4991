"""Writes what was measured into the documents: what stands between two markers, and the picture.

<!-- measured: figures (python -m tests.bench report FILE) -->
…
<!-- end -->
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.bench import picture, table
from tests.bench.details import DETAILS
from tests.bench.figures import Run, rows
from tests.bench.statistic import medians

DOCUMENT = Path("docs/performance.md")
DOCUMENTS = (DOCUMENT, Path("docs/operations/capacity.md"))
PICTURE = Path("docs/images/performance.svg")

_BLOCK = re.compile(r"(?<=<!-- measured: )([a-z-]+)( \([^)]*\) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def write(checkout: Path, runs: Sequence[Run]) -> list[Path]:
    """Write the blocks whose figures the runs have, and the picture; return what was written."""
    written = [checkout / document for document in DOCUMENTS]
    for document in written:
        document.write_text(renewed(document.read_text(), runs))
    middle = medians(runs)
    if middle.keys() >= {"trace", "hops"}:
        (checkout / PICTURE).write_text(picture.svg(middle))
        written.append(checkout / PICTURE)
    return written


def renewed(text: str, runs: Sequence[Run]) -> str:
    """Return a document with its measured blocks as these runs have them; one that they did not measure stays."""

    def renew(block: re.Match[str]) -> str:
        try:
            return f"{block[1]}{block[2]}{BLOCKS[block[1]](runs)}\n"
        except KeyError:
            return block[0]

    return _BLOCK.sub(renew, text)


def names(text: str) -> list[str]:
    """Return the names of the measured blocks in a document."""
    return [name for name, _ in _BLOCK.findall(text)]


def hops(runs: Sequence[Run]) -> str:
    """Return the picture, for which runs are needed that traced and profiled."""
    middle = medians(runs)
    trace, _ = middle["trace"], middle["hops"]
    total = sum(hop["wait_ms"] + hop["work_ms"] for hop in trace["hops"])
    return (
        f"![A saga's hops one after the other, {total:.0f} ms together, and its CPU by process and"
        f" phase]({PICTURE.relative_to(DOCUMENT.parent)})"
    )


def figures(runs: Sequence[Run]) -> str:
    """Return the table of figures."""
    return table.markdown(table.HEADINGS, [cells for _, cells in table.judged(runs)])


def _figures_if_any(runs: Sequence[Run]) -> str:
    """Return the table of figures. Raises `KeyError` if none of them was measured: a run of one step leaves them."""
    if all(row.value is None for row in rows(runs)):
        raise KeyError("figures")
    return figures(runs)


def _detail(name: str, runs: Sequence[Run]) -> str:
    return table.markdown(*DETAILS[name][1](runs))


BLOCKS: Mapping[str, Callable[[Sequence[Run]], str]] = {
    "figures": _figures_if_any,
    "hops": hops,
    **{name: partial(_detail, name) for name in DETAILS},
}
"""A block's name, and the function that returns its text. Raises `KeyError` for what was not measured."""
