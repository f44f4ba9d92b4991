"""Where a saga's CPU goes, as tables: by process, by phase, by batch, and in PostgreSQL by session and statement."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from popfax_contracts.topics import SERVICES
from tests.bench.figures import Run
from tests.bench.phases import ALL
from tests.bench.profiled import SAMPLER
from tests.bench.statistic import medians


class Grid(NamedTuple):
    """A table: its first column is text, the others are numbers."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def processes(runs: Sequence[Run]) -> Grid:
    """Return what one saga costs each process at each rate, in microseconds of CPU."""
    middle = medians(runs)
    costs = {f"{rate}/s": each for rate, each in middle["steady"].items() if rate.isdigit()}
    costs |= {"half the full rate": middle["steady"]["half"], "full speed": middle["full"]}
    names = list(middle["full"]["cpu_us_by_process"])
    rows = [[name, *(_us(each["cpu_us_by_process"].get(name, 0)) for each in costs.values())] for name in names]
    return Grid(["µs per saga", *costs], [*rows, ["all", *(_us(each["cpu_us"]) for each in costs.values())]])


def phases(runs: Sequence[Run]) -> Grid:
    """Return what one saga costs each service by phase, at 100 per second and at full speed."""
    hops = medians(runs)["hops"]
    columns = {
        f"{service} {title}": hops[key]["services_us"][service]
        for key, title in {"100": "100/s", "full": "full"}.items()
        for service in SERVICES
    }
    seen = [phase for phase in (*ALL, SAMPLER) if any(phase in each for each in columns.values())]
    rows = [[phase, *(_us(each.get(phase, 0)) for each in columns.values())] for phase in seen]
    return Grid(["µs per saga", *columns], rows)


def batches(runs: Sequence[Run]) -> Grid:
    """Return how large batches are, and how many statements each takes."""
    middle = medians(runs)
    loads = {"100": middle["steady"]["100"], "full": middle["full"]}
    rows = []
    for service in map(str, SERVICES):
        cells = [service]
        for key, load in loads.items():
            counted = load["batches"][service]
            statements = middle["hops"][key]["statements_per_batch"][service]
            cells += [
                f"{counted['messages_per_batch']:.0f}",
                f"{counted['rows_per_relay_round']:.0f}",
                f"{statements:.1f}",
            ]
        rows.append(cells)
    titles = ["messages per batch", "rows per relay round", "statements per batch"]
    return Grid(["service", *(f"{title}, {rate}" for rate in ("100/s", "full") for title in titles)], rows)


def statements(runs: Sequence[Run]) -> Grid:
    """Return the statements that take PostgreSQL longest at full speed."""
    slowest = medians(runs)["hops"]["full"]["slowest"]
    rows = [
        [
            each["service"],
            each["statement"],
            f"{each['calls_per_saga']:.3f}",
            f"{each['rows_per_saga']:.1f}",
            _us(each["plan_us"]),
            _us(each["exec_us"]),
        ]
        for each in slowest
    ]
    return Grid(["service", "statement", "calls per saga", "rows per saga", "planned, µs", "executed, µs"], rows)


def server(runs: Sequence[Run]) -> Grid:
    """Return PostgreSQL's CPU by service and by its own processes."""
    hops = medians(runs)["hops"]
    names = dict.fromkeys(name for key in ("100", "full") for name in hops[key]["postgres_us"])
    rows = [[name, *(_us(hops[key]["postgres_us"].get(name, 0)) for key in ("100", "full"))] for name in names]
    return Grid(["µs per saga", "100/s", "full speed"], rows)


def room(runs: Sequence[Run]) -> Grid:
    """Return how many bytes each saga leaves in each table and on each topic, and in the write-ahead log meanwhile."""
    grown: Mapping[str, float] = medians(runs)["room"]
    places = dict.fromkeys(name.rpartition("/")[0] for name in grown if name.count("/") == 2)
    tables = [[grown.get(f"{place}/{part}", 0.0) for part in ("rows", "table", "indexes")] for place in places]
    rows = [
        (place.replace("/", " "), f"{count:.2g}", _us(table), _us(indexes), _us(table + indexes))
        for place, (count, table, indexes) in zip(places, tables, strict=True)
    ]
    topics = {name.removeprefix("topic/"): size for name, size in grown.items() if name.startswith("topic/")}
    return Grid(
        ["bytes per saga", "rows", "table", "indexes", "together"],
        [
            *rows,
            ("**all tables**", "", *(f"**{_us(sum(each))}**" for each in _table_bytes(tables))),
            ("write-ahead log", "", "", "", _us(grown["wal"])),
            *((name, "", "", "", _us(size)) for name, size in sorted(topics.items())),
            ("**all topics, one copy**", "", "", "", f"**{_us(sum(topics.values()))}**"),
        ],
    )


def _table_bytes(tables: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    """Return the bytes of all tables, of all indexes, and of both."""
    _, heaps, indexes = zip(*tables, strict=True)
    return heaps, indexes, (*heaps, *indexes)


DETAILS: Mapping[str, tuple[str, Callable[[Sequence[Run]], Grid]]] = {
    "processes": ("CPU by process", processes),
    "phases": ("CPU of the services by phase", phases),
    "batches": ("batches and statements", batches),
    "server": ("PostgreSQL's CPU by session", server),
    "room": ("bytes of a saga", room),
    "statements": ("the statements that take longest, at full speed", statements),
}
"""A table's name, its title, and the function that makes it of runs. Raises `KeyError` for what was not measured."""


def _us(value: Any) -> str:
    return f"{value:,.0f}"
