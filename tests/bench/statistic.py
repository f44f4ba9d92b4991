"""Percentiles, medians and spreads."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -int(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(rank, 1) - 1]


def latencies(seconds: Sequence[float]) -> dict[str, int]:
    """Return p50, p99 and the maximum, in milliseconds."""
    return {
        "p50_ms": round(percentile(seconds, 50) * 1e3),
        "p99_ms": round(percentile(seconds, 99) * 1e3),
        "max_ms": round(max(seconds) * 1e3),
    }


def medians(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one run's figures from several: each number's median over the runs that have it, at any depth."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: _median([run[name] for run in runs if name in run]) for name in names}


def _median(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Mapping):
        return medians(values)
    if isinstance(first, int | float) and not isinstance(first, bool):
        return statistics.median(values)
    return first
