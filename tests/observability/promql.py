"""The metrics that PromQL names, and those that a running process exports."""

import re
from collections.abc import Iterable, Iterator, Set
from typing import Any

import promql_parser
from prometheus_client.parser import text_string_to_metric_families

PROMETHEUS_OWN = frozenset({"up", "ALERTS", "ALERTS_FOR_STATE"})
"""Series that Prometheus makes by itself."""

_VARIABLES = re.compile(r"\[\$__\w+\]")


def names(expression: str) -> set[str]:
    """Return the metrics that an expression names. Raises ValueError if it is no PromQL.

    Grafana's variables for ranges are understood.
    """
    return set(_names(promql_parser.parse(_VARIABLES.sub("[5m]", expression))))


def exported(text: str) -> set[str]:
    """Return the metrics in a process's answer to `/metrics`: every name under which Prometheus stores a series."""
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def unknown(expressions: Iterable[str], known: Set[str]) -> dict[str, set[str]]:
    """Return the expressions that name metrics which are not known, with those names."""
    found = {expression: names(expression) - known - PROMETHEUS_OWN for expression in expressions}
    return {expression: missing for expression, missing in found.items() if missing}


def _names(node: Any) -> Iterator[str]:
    if isinstance(node, promql_parser.VectorSelector) and node.name is not None:
        yield node.name
    for name in ("expr", "lhs", "rhs", "param", "vs", "vector_selector"):
        if (child := getattr(node, name, None)) is not None and not isinstance(child, str | float | int):
            yield from _names(child)
    for child in getattr(node, "args", ()):
        yield from _names(child)
