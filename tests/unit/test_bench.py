"""The bench's own arithmetic: percentiles, medians, verdicts, counters."""

from typing import Any

import pytest

from tests.bench import table
from tests.bench.counters import Counters, parsed
from tests.bench.figures import FIGURES, Figure, Run, Verdict, at, divided, rows, verdict
from tests.bench.statistic import latencies, medians, percentile


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (95, 95), (99, 99), (99.5, 100), (100, 100)]
)
def test_percentile_is_the_nearest_rank(percent: float, expected: int) -> None:
    assert percentile([*range(100, 0, -1)], percent) == expected


def test_percentile_of_few_values_is_one_of_them() -> None:
    assert percentile([3.0], 99) == 3.0
    assert percentile([1.0, 2.0], 99) == 2.0
    assert percentile([1.0, 2.0], 50) == 1.0


def test_latencies_are_milliseconds() -> None:
    assert latencies([0.1, 0.2, 0.3]) == {"p50_ms": 200, "p99_ms": 300, "max_ms": 300}


def test_medians_go_to_any_depth_and_take_each_figure_from_the_runs_that_have_it() -> None:
    runs: list[Run] = [
        {"a": 1, "deep": {"b": 10}, "path": ["x"]},
        {"a": 3, "deep": {"b": 30, "c": 5}, "path": ["y"]},
        {"a": 2, "deep": {"b": 20}},
    ]
    assert medians(runs) == {"a": 2, "deep": {"b": 20, "c": 5}, "path": ["x"]}


MORE = Figure("more", at("x"), mark=1.0, goal=2.0, more_is_better=True)
LESS = Figure("less", at("x"), mark=100, goal=50)


@pytest.mark.parametrize(
    ("figure", "value", "expected"),
    [
        (MORE, 2.0, Verdict.GOAL),
        (MORE, 1.99, Verdict.MARK),
        (MORE, 1.0, Verdict.MARK),
        (MORE, 0.99, Verdict.NONE),
        (LESS, 50, Verdict.GOAL),
        (LESS, 51, Verdict.MARK),
        (LESS, 100, Verdict.MARK),
        (LESS, 101, Verdict.NONE),
        (LESS, None, Verdict.UNKNOWN),
        (Figure("no mark", at("x")), 1.0, Verdict.UNKNOWN),
    ],
)
def test_verdict_compares_with_mark_and_goal(figure: Figure, value: float | None, expected: Verdict) -> None:
    assert verdict(figure, value) is expected


def test_ratio_is_taken_within_each_run_before_the_median() -> None:
    figure = Figure("sagas", at("sagas"), ratio=divided(at("sagas"), at("yardstick")), mark=0.1)
    runs: list[Run] = [
        {"sagas": 100, "yardstick": 1000},
        {"sagas": 90, "yardstick": 300},  # a slow machine: the ratio is better
        {"sagas": 120, "yardstick": 1000},
    ]
    ratios = [figure.judged(run) for run in runs]
    assert ratios == pytest.approx([0.1, 0.3, 0.12])


def test_table_shows_medians_spread_and_verdict() -> None:
    runs: list[dict[str, Any]] = [
        {"pgbench_transfers_per_s": 10_000, "full": {"sagas_per_s": per_s}} for per_s in (1900, 2100, 2900)
    ]
    assert (
        "| sagas at full speed ÷ pgbench | 2,100/s | 0.21 | 0.19–0.29 | 0.2 | 0.28 | mark |"
        in table.markdown(runs).splitlines()
    )


def test_every_judged_figure_stands_in_the_table_even_if_it_was_not_measured() -> None:
    assert [row.figure for row in rows([{}])] == list(FIGURES)
    titles = [line.split(" | ")[0].removeprefix("| ") for line in table.markdown([{}]).splitlines()[2:]]
    assert titles == [figure.title for figure in FIGURES if figure.mark is not None]


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1600.4, "/s", "1,600/s"),
        (0.12444, "", "0.124"),
        (365, "ms", "365 ms"),
        (17.25, "ms", "17.2 ms"),
        (None, "ms", "—"),
    ],
)
def test_numbers_are_written_for_people(value: float | None, unit: str, expected: str) -> None:
    assert table.number(value, unit) == expected


METRICS = """# TYPE popfax_messages_handled counter
popfax_messages_handled_total 30.0
# TYPE popfax_batch_messages histogram
popfax_batch_messages_bucket{le="1.0"} 4.0
popfax_batch_messages_bucket{le="+Inf"} 5.0
popfax_batch_messages_count 5.0
popfax_batch_messages_sum 40.0
# TYPE popfax_messages_parked counter
popfax_messages_parked_total{why="failed"} 1.0
popfax_messages_parked_total{why="behind"} 2.0
"""


def test_counters_are_summed_over_labels_and_subtracted() -> None:
    counted = parsed(METRICS)
    assert counted["popfax_messages_parked_total"] == 3
    assert counted["popfax_batch_messages_bucket"] == 0
    since = (counted + counted).since(Counters({"popfax_messages_handled_total": 20.0}))
    assert since.per_saga(10) == {
        "handled_per_saga": 4.0,
        "relayed_per_saga": 0.0,
        "messages_per_batch": 8.0,
        "rows_per_relay_round": 0.0,
        "batches_per_saga": 1.0,
    }
