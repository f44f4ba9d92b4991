"""The metrics that the code defines: under these names Prometheus stores what a running product exports.

That it exports them is shown by the test with a real Prometheus (`test_faults.py`).
"""

from collections.abc import Iterator
from functools import cache

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from deploy.observability.alerts import OBJECTIVES
from deploy.observability.rules import WINDOWS
from services.chassis.metrics import DEFINITIONS
from services.groups.web import metrics as _web
from services.notifications import metrics as _mails

_IMPORTED = (_web, _mails)
"""Whose definitions count, too."""

_PROCESS = frozenset({"process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"})
"""Those of Prometheus' client that we use."""


@cache
def known_metrics() -> frozenset[str]:
    """Return every name that PromQL may use: metrics, and what rules record."""
    records = {objective.record(window) for objective in OBJECTIVES for window in WINDOWS}
    records |= {objective.moment for objective in OBJECTIVES if objective.now}
    ours = {name for definition in DEFINITIONS for name in _names(definition.metric)}
    return frozenset(ours | records | _PROCESS)


def _names(metric: MetricWrapperBase) -> Iterator[str]:
    name = metric._name
    if isinstance(metric, Counter):
        yield f"{name}_total"
    elif isinstance(metric, Histogram):
        yield from (f"{name}_{end}" for end in ("bucket", "count", "sum"))
    elif isinstance(metric, Gauge):
        yield name
