"""The picture of docs/performance.md: where a saga's time and its CPU go. It suits light and dark backgrounds."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from popfax_contracts.topics import SERVICES
from tests.bench.figures import Run
from tests.bench.phases import CLIENT, FETCH, REST

WIDTH, MARGIN = 960, 24
LABELS = 276
"""Where the names of the hops end and their bars begin."""
ROW, BAR = 24, 14

COLOURS = {
    FETCH: "#8091a7",
    "decode": "#4c78a8",
    "inbox": "#72b7b2",
    "load": "#54a24b",
    "handlers": "#e45756",
    "save": "#f58518",
    "commit": "#eeca3b",
    "relay": "#b279a2",
    REST: "#bab0ac",
}
"""The phases that are shown, from left to right. What is none of them belongs to the rest."""

_SAME = {CLIENT: FETCH}

OTHERS = {"PostgreSQL": "#6b8fb5", "Kafka": "#9d8461"}

STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.small { font-size: 11.5px; fill: #57606a }
.end { text-anchor: end }
.paper { fill: #ffffff; stroke: #d0d7de }
.grid { stroke: #d8dee4; stroke-width: 1 }
.wait { fill: #c3ccd5 }
.work { fill: #4c78a8 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.small { fill: #9da7b3 }
.paper { fill: #0d1117; stroke: #30363d }
.grid { stroke: #30363d }
.wait { fill: #4b535d }
.work { fill: #6ea8dc }
}
""".strip()


def svg(run: Run) -> str:
    """Return the picture of one run's figures, or of several runs' medians. Raises `KeyError` for what is missing."""
    time, below = _time(run["trace"])
    cpu, height = _cpu(run["hops"], below + 36)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            "<title>Where the time and the CPU of an account-creation saga go, hop by hop</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
            *time,
            *cpu,
            "</svg>\n",
        ]
    )


def _time(trace: Mapping[str, Any]) -> tuple[list[str], int]:
    """Return the waterfall of hops, and where it ends."""
    hops: Sequence[Mapping[str, Any]] = trace["hops"]
    total = sum(hop["wait_ms"] + hop["work_ms"] for hop in hops)
    room = WIDTH - MARGIN - LABELS - 120
    scale = room / total
    top = 84
    bottom = top + ROW * len(hops)
    lines = [
        _text(MARGIN, 34, f"Time: one saga at {trace['per_s']:g} per second, command to last event", "title"),
        *_legend(MARGIN, 58, {"waits for its batch to begin": "wait", "transaction and relay": "work"}),
        *_grid(total, top, bottom, scale),
    ]
    at = 0.0
    for number, hop in enumerate(hops):
        y = top + ROW * number
        wait, work = hop["wait_ms"], hop["work_ms"]
        lines += [
            _text(MARGIN, y + 16, hop["by"]),
            _text(MARGIN + 92, y + 16, hop["makes"], "small"),
            _rect(LABELS + at * scale, y + 5, wait * scale, "wait", f"waits {wait:g} ms"),
            _rect(LABELS + (at + wait) * scale, y + 5, work * scale, "work", f"works {work:g} ms"),
            _text(WIDTH - MARGIN, y + 16, f"{wait:.0f} + {work:.0f} ms", "small end"),
        ]
        at += wait + work
    return lines, bottom + 24


def _grid(total: float, top: int, bottom: int, scale: float) -> Iterator[str]:
    step = next(each for each in _STEPS if total / each <= 6)
    for number in range(int(total / step) + 1):
        x = LABELS + number * step * scale
        yield f'<path class="grid" d="M{x:.1f} {top}V{bottom}"/>'
        yield _text(x, bottom + 16, f"{number * step:g}{' ms' if number == 0 else ''}", "small", "text-anchor: middle")


_STEPS = [base * 10**power for power in range(7) for base in (1, 2, 5)]


def _cpu(hops: Mapping[str, Any], top: int) -> tuple[list[str], int]:
    """Return the bars of CPU time at two rates, side by side on a scale of their own, and where they end."""
    column = (WIDTH - 2 * MARGIN - 100 - 30) / 2
    lines = [_text(MARGIN, top, "CPU: one saga, by process and by what it does", "title")]
    lines += _legend(MARGIN, top + 24, COLOURS)
    names = [*map(str, SERVICES), *OTHERS]
    for number, name in enumerate(names):
        lines.append(_text(MARGIN, top + 76 + ROW * number, name))
    for number, (key, title) in enumerate({"100": "at 100 per second", "full": "at full speed"}.items()):
        x = MARGIN + 100 + number * (column + 30)
        bars = _bars(hops[key])
        lines.append(_text(x, top + 54, f"{title}: {sum(map(_sum, bars.values())):,.0f} µs", "small"))
        scale = (column - 62) / max(map(_sum, bars.values()))
        for row, name in enumerate(names):
            lines += _stack(x, top + 65 + ROW * row, bars[name], scale)
    return lines, top + 65 + ROW * len(names) + 18


def _bars(hops: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return each process's CPU by phase, in microseconds; the sampler's own is no part of the product."""
    bars: dict[str, dict[str, float]] = {}
    for service, phases in hops["services_us"].items():
        bar = bars[service] = dict.fromkeys(COLOURS, 0.0)
        for phase, spent in phases.items():
            if phase != "sampler":
                shown = _SAME.get(phase, phase)
                bar[shown if shown in bar else REST] += spent
    return bars | {"PostgreSQL": {"PostgreSQL": _sum(hops["postgres_us"])}, "Kafka": {"Kafka": hops["kafka_us"]}}


def _stack(x: float, y: float, bar: Mapping[str, float], scale: float) -> Iterator[str]:
    for phase, spent in bar.items():
        colour = COLOURS.get(phase) or OTHERS[phase]
        yield _rect(x, y, spent * scale, colour, f"{phase}: {spent:,.0f} µs")
        x += spent * scale
    yield _text(x + 6, y + 11, f"{_sum(bar):,.0f} µs", "small")


def _legend(x: float, y: float, entries: Mapping[str, str]) -> Iterator[str]:
    for name, colour in entries.items():
        yield _rect(x, y - 10, 11, colour, name, 11)
        yield _text(x + 17, y, name, "small")
        x += 36 + 6.4 * len(name)


def _rect(x: float, y: float, width: float, colour: str, says: str, height: float = BAR) -> str:
    """Return a bar in a colour or of a class, with what it says when it is pointed at."""
    looks = f'style="fill: {colour}"' if colour.startswith("#") else f'class="{colour}"'
    size = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height}"'
    return f"<rect {looks} {size}><title>{escape(says)}</title></rect>"


def _text(x: float, y: float, words: str, kind: str = "", style: str = "") -> str:
    styled = f' style="{style}"' if style else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{styled}>{escape(words)}</text>'


def _sum(parts: Mapping[str, float]) -> float:
    return float(sum(parts.values()))
