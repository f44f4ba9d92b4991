"""The figures that are judged: how each is found in a run, and what it has to reach."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

Run: TypeAlias = Mapping[str, Any]
"""What one run measured."""

Value: TypeAlias = Callable[[Run], float]
"""Finds a value in a run; raises `KeyError` if it was not measured."""


class Verdict(StrEnum):
    """What a figure has reached."""

    GOAL = "goal"
    MARK = "mark"
    NONE = "no"
    UNKNOWN = "—"


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of the table. What is judged is its ratio if it has one, else its value."""

    title: str
    value: Value
    unit: str = ""
    ratio: Value | None = None
    mark: float | None = None
    goal: float | None = None
    more_is_better: bool = False

    @property
    def judged(self) -> Value:
        """Return what is compared with mark and goal."""
        return self.ratio or self.value


@dataclass(frozen=True, slots=True)
class Row:
    """A figure over several runs: medians, the spread of what is judged, and the verdict."""

    figure: Figure
    value: float | None
    ratio: float | None
    least: float | None
    most: float | None
    verdict: Verdict


def rows(runs: Sequence[Run]) -> list[Row]:
    """Return the table's rows. A ratio is taken within each run, before the median."""
    return [_row(figure, runs) for figure in FIGURES]


def _row(figure: Figure, runs: Sequence[Run]) -> Row:
    judged = _found(figure.judged, runs)
    median = statistics.median(judged) if judged else None
    return Row(
        figure,
        _median(_found(figure.value, runs)),
        _median(_found(figure.ratio, runs)) if figure.ratio else None,
        min(judged, default=None),
        max(judged, default=None),
        verdict(figure, median),
    )


def verdict(figure: Figure, judged: float | None) -> Verdict:
    """Return what a figure has reached."""
    if judged is None or figure.mark is None:
        return Verdict.UNKNOWN
    sign = 1 if figure.more_is_better else -1
    if figure.goal is not None and sign * judged >= sign * figure.goal:
        return Verdict.GOAL
    return Verdict.MARK if sign * judged >= sign * figure.mark else Verdict.NONE


def number(value: float | None, unit: str = "") -> str:
    """Return a number as people read it, with its unit: 1,600/s, 0.124, 365 ms."""
    if value is None:
        return "—"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text + (unit if unit.startswith("/") else f" {unit}" if unit else "")


def _found(value: Value, runs: Sequence[Run]) -> list[float]:
    found = []
    for run in runs:
        try:
            found.append(value(run))
        except KeyError:
            continue
    return found


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def at(*path: str) -> Value:
    """Return the value at a place in a run."""

    def value(run: Run) -> float:
        found: Any = run
        for name in path:
            found = found[name]
        return float(found)

    return value


def divided(above: Value, below: Value) -> Value:
    """Return one value divided by another of the same run."""
    return lambda run: above(run) / below(run)


YARDSTICK = at("pgbench_transfers_per_s")
_SAGAS = at("full", "sagas_per_s")
_TRANSFERS = at("transfers", "per_s")


def _mails(senders: str, mark: float, goal: float) -> Figure:
    mails, sagas = at("mails", senders, "mails_per_s"), at("mails", senders, "sagas_per_s")
    title = f"mails ÷ sagas running beside them, {senders} sender{'s' if senders == 'two' else ''}"
    return Figure(title, mails, "/s", divided(mails, sagas), mark, goal, more_is_better=True)


def _ratio(title: str, above: Value, below: Value, mark: float, goal: float, more_is_better: bool = False) -> Figure:
    return Figure(title, above, "", divided(above, below), mark, goal, more_is_better)


def _steady(rate: str, name: str, title: str, mark: float | None = None, goal: float | None = None) -> Figure:
    unit = "µs" if name == "cpu_us" else "ms"
    return Figure(title, at("steady", rate, name), unit, mark=mark, goal=goal)


FIGURES: Sequence[Figure] = (
    Figure("pgbench, the yardstick", YARDSTICK, "/s"),
    Figure("sagas at full speed ÷ pgbench", _SAGAS, "/s", divided(_SAGAS, YARDSTICK), 0.20, 0.28, True),
    Figure("CPU per saga at full speed", at("full", "cpu_us"), "µs"),
    Figure("transfers ÷ pgbench", _TRANSFERS, "/s", divided(_TRANSFERS, YARDSTICK), 1.5, 2.0, True),
    _steady("10", "cpu_us", "CPU per saga at 10/s"),
    _steady("100", "cpu_us", "CPU per saga at 100/s", 6500, 3000),
    _steady("300", "cpu_us", "CPU per saga at 300/s"),
    _steady("half", "cpu_us", "CPU per saga at half the full rate"),
    Figure("the idle product, all processes", at("idle", "cores"), "cores", mark=0.1, goal=0.03),
    _steady("10", "p50_ms", "p50 at 10/s"),
    _steady("10", "p99_ms", "p99 at 10/s"),
    _steady("100", "p50_ms", "p50 at 100/s", 200, 80),
    _steady("100", "p99_ms", "p99 at 100/s", 350, 150),
    _steady("300", "p50_ms", "p50 at 300/s"),
    _steady("300", "p99_ms", "p99 at 300/s"),
    _steady("half", "p50_ms", "p50 at half the full rate"),
    _steady("half", "p99_ms", "p99 at half the full rate", 500, 150),
    _mails("one", 1.0, 2.0),
    _mails("two", 2.0, 2.0),
    Figure("mails, one sender alone", at("mails", "alone", "per_s"), "/s"),
    Figure("page p95, nothing else running", at("page", "alone", "p95_ms"), "ms"),
    Figure("page p95 while 300 sagas/s run", at("page", "beside_sagas", "p95_ms"), "ms", mark=100, goal=50),
    Figure("large group's page p50, nothing else running", at("large_page", "alone", "p50_ms"), "ms"),
    Figure("large group's page p95, nothing else running", at("large_page", "alone", "p95_ms"), "ms", mark=100),
    Figure(
        "large group's page p95 beside 500 commands/s", at("large_page", "beside_commands", "p95_ms"), "ms", mark=100
    ),
    Figure(
        "search in a large group p95, nothing else running", at("large_page", "search_alone", "p95_ms"), "ms", mark=100
    ),
    Figure(
        "search in a large group p95 beside 500 commands/s",
        at("large_page", "search_beside_commands", "p95_ms"),
        "ms",
        mark=100,
    ),
    Figure("large group's page", at("large_page", "kb"), "kB", mark=100),
    Figure(
        "cost of a saga, full ÷ empty databases",
        at("growth", "full_cpu_us"),
        "µs",
        divided(at("growth", "full_cpu_us"), at("growth", "empty_cpu_us")),
        1.15,
        1.05,
    ),
    Figure(
        "all sagas on one account ÷ spread",
        at("one_account", "sagas_per_s"),
        "/s",
        divided(at("one_account", "sagas_per_s"), at("one_account", "spread_sagas_per_s")),
        0.5,
        0.8,
        True,
    ),
    Figure(
        "cost of a saga, two replicas ÷ one",
        at("replicas", "two_cpu_us"),
        "µs",
        divided(at("replicas", "two_cpu_us"), at("replicas", "one_cpu_us")),
        1.10,
        1.05,
    ),
)
