"""Prometheus' rules: what an alert and an objective are, and the rule groups that follow from them.

An objective (SLO) says which share of something must be good. What may be bad over a month is its error budget. Two
windows have to agree before anybody is told: the long one says that it matters, the short one that it still goes on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import yaml

from deploy.observability.pace import Pace, seconds

RUNBOOKS = "https://runbooks.popfax.example"
"""Where `docs/operations/runbooks/` is published, for the links in alerts: an example, to be replaced by your own."""

WINDOW = "[window]"
"""Stands for an objective's window in its expression."""


class Severity(StrEnum):
    """Who is told."""

    CRITICAL = "critical"
    """Somebody is woken: people can't do what they came for, or soon won't be able to."""
    WARNING = "warning"
    """Somebody looks at it in working hours."""


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert on a cause. Durations in it are those of production (`pace`)."""

    name: str
    expression: str
    lasting: str
    """How long the expression must hold before anybody is told: Prometheus' `for`."""
    severity: Severity
    summary: str
    """One line for whoever is told. `{{ $labels.job }}` and the like are filled in by Prometheus."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A service-level objective: the share of good events that is promised."""

    name: str
    alert: str
    """The name of its alerts, which differ in their windows and severity."""
    goal: float
    """The promised share, such as 0.99."""
    promise: str
    """What is promised, as a sentence."""
    errors: str
    """The share of what is bad over `[window]`; nothing, or not a number, while nothing happens."""
    now: str = ""
    """Of an objective about time rather than events: 1 while it is bad now, else 0. `errors` is then its average."""

    @property
    def moment(self) -> str:
        """Return the name of the series that says whether it is bad now."""
        return f"popfax:{self.name}_errors:now"

    def record(self, window: str) -> str:
        """Return the name of the series that holds the share of bad events over a window."""
        return f"popfax:{self.name}_errors:ratio_rate{window}"


@dataclass(frozen=True, slots=True)
class Burn:
    """A speed at which an error budget burns that is worth telling somebody."""

    rate: float
    """Times the speed that uses up a month's budget in exactly a month."""
    long: str
    short: str
    lasting: str
    severity: Severity


BURNS = (
    Burn(14.4, "1h", "5m", "2m", Severity.CRITICAL),  # 2 % of a month's budget in an hour
    Burn(6, "6h", "30m", "15m", Severity.CRITICAL),  # 5 % in six hours
    Burn(3, "1d", "2h", "1h", Severity.WARNING),  # 10 % in a day
    Burn(1, "3d", "6h", "3h", Severity.WARNING),  # 10 % in three days
)
"""Those of the Site Reliability Workbook, chapter 5."""

WINDOWS = tuple(sorted({window for burn in BURNS for window in (burn.short, burn.long)}, key=seconds))

Rule = dict[str, Any]


def groups(
    alerts: Mapping[str, Sequence[Alert]],
    objectives: Sequence[Objective],
    pace: Pace = Pace(),  # noqa: B008 - it is frozen
    runbooks: str = RUNBOOKS,
) -> list[dict[str, Any]]:
    """Return the rule groups, in the form of a rule file and of a PrometheusRule's `spec.groups`.

    `alerts` are by the name of their group. `pace` is for tests; `runbooks` is the address of the runbooks' directory.
    """
    ours: list[dict[str, Any]] = []
    for objective in objectives:
        burning = [_alert_rule(alert, pace, runbooks, labels) for alert, labels in _burn_alerts(objective)]
        ours.append({"name": f"popfax-{objective.name}", "rules": [*_records(objective, pace), *burning]})
    for name, members in alerts.items():
        rules = [_alert_rule(alert, pace, runbooks, {}) for alert in members]
        ours.append({"name": f"popfax-{name}", "rules": rules})
    return ours


def as_yaml(document: object) -> str:
    """Return a document as YAML, in the order in which it was made."""
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120))


def _records(objective: Objective, pace: Pace) -> Iterator[Rule]:
    if objective.now:
        yield {"record": objective.moment, "expr": pace.expression(objective.now)}
    for window in WINDOWS:
        expression = objective.errors.replace(WINDOW, f"[{window}]")
        yield {"record": objective.record(window), "expr": pace.expression(expression)}


def _burn_alerts(objective: Objective) -> Iterator[tuple[Alert, Mapping[str, str]]]:
    for burn in BURNS:
        limit = f"({burn.rate:g} * {1 - objective.goal:.4g})"
        both = " and ".join(f"{objective.record(window)} > {limit}" for window in (burn.long, burn.short))
        summary = f"{objective.promise} Over {burn.long} it was {{{{ $value | humanizePercentage }}}} that did not."
        yield (
            Alert(objective.alert, both, burn.lasting, burn.severity, summary),
            {"long": burn.long, "short": burn.short},
        )


def _alert_rule(alert: Alert, pace: Pace, runbooks: str, labels: Mapping[str, str]) -> Rule:
    rule: Rule = {"alert": alert.name, "expr": pace.expression(alert.expression)}
    if alert.lasting != "0s":
        rule["for"] = pace.duration(alert.lasting)
    rule["labels"] = {"severity": alert.severity.value, **labels}
    rule["annotations"] = {"summary": alert.summary, "runbook_url": f"{runbooks}/{alert.name}.md"}
    return rule
