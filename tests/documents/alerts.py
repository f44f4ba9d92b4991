"""The table of alerts, from the rules."""

from deploy.observability.alerts import ALERTS, OBJECTIVES
from deploy.observability.rules import BURNS
from tests.documents.tables import table


def table_of_alerts() -> str:
    """Return every alert on a cause, by group: when it fires, after how long, how severe."""
    rows = [
        (_linked(alert.name), alert.severity.value, f"`{_escaped(alert.expression)}`", _after(alert.lasting))
        for group in ALERTS.values()
        for alert in group
    ]
    return table(("alert", "severity", "fires when", "for"), rows)


def table_of_objectives() -> str:
    """Return every objective with its alert."""
    rows = [(objective.promise, _linked(objective.alert)) for objective in OBJECTIVES]
    return table(("promise", "alert"), rows)


def table_of_burns() -> str:
    """Return the speeds at which a budget burns that are told."""
    rows = [(f"{burn.rate:g}", burn.long, burn.short, _after(burn.lasting), burn.severity.value) for burn in BURNS]
    return table(("times the even pace", "over", "and over", "for", "severity"), rows)


def _linked(name: str) -> str:
    return f"[{name}](runbooks/{name}.md)"


def _escaped(expression: str) -> str:
    return expression.replace("|", "\\|")


def _after(lasting: str) -> str:
    return "at once" if lasting == "0s" else lasting
