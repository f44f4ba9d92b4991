"""The tables of metrics and of what waits, from their definitions."""

from services.chassis.metrics import DEFINITIONS, Definition, Part, Values
from services.chassis.open_work import kinds_of
from services.groups.web import metrics as web
from services.notifications import metrics as mails
from tests.documents.tables import table
from tests.documents.topics import SERVICES

MODULES = (web, mails)
"""The modules beside the chassis's that define metrics when they are imported."""


_EXPORTED_BY = {
    Part.PROCESS: "all",
    Part.WORK: "workers",
    Part.SAGAS: "workers of groups and provisioning",
    Part.SITE: "web",
    Part.MAILS: "notifications",
}


_LAST = {Part.SITE: 1, Part.MAILS: 2}
"""What is defined outside the chassis comes in the order in which modules happen to be imported; here it has one."""


def table_of_metrics() -> str:
    """Return each metric with its type, labels and meaning, the question that it answers, and what exports it."""
    rows = [
        (f"`{name_of(each)}`", kind_of(each), _labels(each), each.means, each.answers, _EXPORTED_BY[each.part])
        for each in sorted(DEFINITIONS, key=lambda each: _LAST.get(each.part, 0))
    ]
    return table(("metric", "type", "labels", "means", "answers", "exported by"), rows)


def table_of_waiting() -> str:
    """Return each value of the label `what`, with the services that have such rows."""
    found: dict[tuple[str, str], list[str]] = {}
    for service in SERVICES:
        for kind in {each.what: each for each in kinds_of(service)}.values():
            found.setdefault((kind.what, kind.means), []).append(service.principal.value)
    rows = [
        (f"`{what}`", means, "all" if len(services) == len(SERVICES) else ", ".join(services))
        for (what, means), services in found.items()
    ]
    return table(("`what`", "counts", "in"), rows)


def name_of(definition: Definition) -> str:
    """Return the name under which Prometheus knows a metric."""
    (family,) = definition.metric.describe()
    return f"{family.name}_total" if family.type == "counter" else family.name


def kind_of(definition: Definition) -> str:
    """Return a metric's type."""
    (family,) = definition.metric.describe()
    return family.type


def _labels(definition: Definition) -> str:
    return "; ".join(f"`{label}`: {_values(values)}" for label, values in definition.labels.items())


def _values(values: Values) -> str:
    return values if isinstance(values, str) else ", ".join(f"`{value}`" for value in values)
