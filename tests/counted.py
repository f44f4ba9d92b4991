"""Reads this process's metrics."""

from prometheus_client import Counter


def total(counter: Counter) -> float:
    """Return a counter's value, summed over its labels."""
    return sum(sample.value for family in counter.collect() for sample in family.samples if "_total" in sample.name)
