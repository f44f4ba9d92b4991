"""Compares what a process exports with what the documents say that it does."""

from collections.abc import Collection, Iterator

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from services.chassis.metrics import DEFINITIONS, Definition, Part
from tests.documents.metrics import MODULES

assert MODULES, "their import defines their metrics"
_OWN = ("popfax_", "http_")


def differences(text: str, *parts: Part) -> list[str]:
    """Return what is wrong with the answer of `/metrics` of a process that has these parts."""
    found = {family.name: family for family in text_string_to_metric_families(text) if family.name.startswith(_OWN)}
    defined = {name: each for each in DEFINITIONS if each.part in parts for name in _names(each)}
    return [
        *(f"{name} is not documented" for name in sorted(found.keys() - defined.keys())),
        *(f"{name} is not exported" for name in sorted(defined.keys() - found.keys())),
        *(wrong for name in sorted(found.keys() & defined.keys()) for wrong in _wrong(found[name], defined[name])),
    ]


def _names(definition: Definition) -> Iterator[str]:
    for family in definition.metric.describe():
        yield family.name


def _wrong(family: Metric, definition: Definition) -> Iterator[str]:
    if not family.samples:
        yield f"{family.name} has no series"
    if family.type != next(iter(definition.metric.describe())).type:
        yield f"{family.name} is a {family.type}"
    labels = {label for sample in family.samples for label in sample.labels} - {"le"}
    for label in sorted(labels ^ definition.labels.keys()):
        yield f"{family.name} differs in its label {label}"
    for label, values in definition.labels.items():
        if not isinstance(values, str):
            yield from _strangers(family, label, set(map(str, values)))


def _strangers(family: Metric, label: str, known: Collection[str]) -> Iterator[str]:
    found = {sample.labels.get(label, "") for sample in family.samples}
    if found != set(known):
        yield f"{family.name} has {label} {sorted(found ^ set(known))}"
