"""The screen: one line for each thing that was asked, then what is wrong, the most urgent first."""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from itertools import groupby
from typing import Any

from rich.text import Text

from deploy.operator.cli.doctor.facts import (
    Answer,
    Cluster,
    Database,
    Facts,
    Fit,
    Group,
    Leader,
    ParkedMessages,
    Process,
    Unanswered,
    Waits,
)
from deploy.operator.cli.doctor.findings import Area, Finding, Severity
from deploy.operator.cli.doctor.judging import several
from deploy.operator.cli.output import duration, out
from deploy.operator.topics import Difference
from popfax_contracts.topics import TOPICS, Principal

_SIGNS = {Severity.CRITICAL: ("✗", "red"), Severity.WARNING: ("!", "yellow"), Severity.UNKNOWN: ("?", "yellow")}
_WELL = ("✓", "green")
_NAME_WIDTH = max(map(len, Area)) + 2
_INDENT = "  "
RUNBOOKS = "docs/operations/runbooks"


def show(facts: Facts, findings: Sequence[Finding]) -> None:
    """Print it, as wide as the terminal. Commands are never broken into lines, so that they can be copied."""
    out.print(Text(f"popfax {facts.version}, {facts.asked_at:%Y-%m-%d %H:%M:%S} UTC", style="bold"))
    out.print()
    for area in Area:
        _show_line(area, facts, [each.severity for each in findings if each.line is area])
    out.print()
    if not findings:
        out.print(Text("✓ All is well.", style="bold green"))
        return
    out.print(Text(_headline(findings), style="bold"))
    for number, (_, alike) in enumerate(groupby(findings, key=lambda each: each.code), 1):
        _show_finding(number, list(alike))


def _headline(findings: Sequence[Finding]) -> str:
    counts = {severity: sum(each.severity is severity for each in findings) for severity in Severity}
    told = [f"{count} {severity}" for severity, count in counts.items() if count]
    return f"{', '.join(told)}. First things first:"


def _show_line(area: Area, facts: Facts, severities: Sequence[Severity]) -> None:
    worst = next((each for each in Severity if each in severities), None)
    if worst is None and any(isinstance(each, Unanswered) for each in _asked(area, facts)):
        worst = Severity.UNKNOWN
    sign, style = _WELL if worst is None else _SIGNS[worst]
    first, *rest = _wrapped(_LINES[area](facts), 2 + _NAME_WIDTH)
    out.print(Text.assemble((f"{sign} ", style), (f"{area:<{_NAME_WIDTH}}", "bold"), first))
    for line in rest:
        out.print(Text(" " * (2 + _NAME_WIDTH) + line))


def _show_finding(number: int, alike: Sequence[Finding]) -> None:
    """Show findings with one code: the first in full, of the others whom they are about."""
    first, *others = alike
    sign, style = _SIGNS[first.severity]
    out.print()
    about = ", ".join(each.subject for each in alike if each.subject)
    out.print(
        Text.assemble(f"{number:>2} ", (f"{sign} {first.severity}", style), f" {first.code}", f" {about}".rstrip())
    )
    for line in _wrapped(first.meaning, 5):
        out.print(Text(f"     {line}"))
    if others:
        for line in _wrapped(f"The same of {', '.join(each.subject for each in others)}.", 5):
            out.print(Text(f"     {line}"))
    out.print(Text.assemble("   → ", (first.command, "bold")), soft_wrap=True)
    if first.case.runbook:
        out.print(Text(f"     {RUNBOOKS}/{first.case.runbook}.md", style="dim"), soft_wrap=True)


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, max(20, out.width - indent), break_on_hyphens=False) or [""]


# --- the lines ---


def _brokers(facts: Facts) -> str:
    def line(cluster: Cluster) -> str:
        answering = sum(each.answers for each in cluster.brokers)
        all_ = len(cluster.brokers) + len(cluster.away)
        odd = len(cluster.offline) + len(cluster.below_min) + len(cluster.under_replicated)
        sync = "all" if not odd else f"{cluster.partitions - odd} of"
        return f"{answering} of {all_} answer, {sync} {several(cluster.partitions, 'partition')} in sync"

    return _of(facts.cluster, line)


def _databases(facts: Facts) -> str:
    schemas = {service: each.schema for service, each in facts.databases.items()}
    known = {service: each for service, each in schemas.items() if not isinstance(each, Unanswered)}
    others = [f"{service} is {each.fit}" for service, each in known.items() if each.fit is not Fit.CURRENT]
    at = ", ".join(others) or ("at this version's revision" if known else "")
    return f"{len(known)} of {len(schemas)} answer{', ' if at else ''}{at}"


def _topics(facts: Facts) -> str:
    def line(differences: Sequence[Difference]) -> str:
        if not differences:
            return f"{len(TOPICS)}, with their permissions, as they should be"
        return several(len(differences), "difference")

    return _of(facts.topics, line)


def _replicas(facts: Facts) -> str:
    def line(service: Principal, processes: Sequence[Process]) -> str:
        versions = ", ".join(sorted({each.name.version if each.name else "?" for each in processes}))
        return f"{service} {len(processes)}" + (f" ({versions})" if versions else "")

    return _each(facts, lambda database: database.processes, line)


def _consumers(facts: Facts) -> str:
    def line(groups: Mapping[Principal, Group]) -> str:
        lag = sum(each.lag for each in groups.values())
        late = sum(sum(each.late.values()) for each in groups.values())
        members = ", ".join(f"{service} {len(each.members)}" for service, each in groups.items())
        return f"{members}; {several(lag, 'record')} to handle" + (f", {late:,} of them late" if late else "")

    return _of(facts.groups, line)


def _relays(facts: Facts) -> str:
    leaders = [each.leader for each in facts.databases.values()]
    leading = sum(isinstance(each, Leader) for each in leaders)
    return f"{leading} of {len(leaders)} lead; {_sum(facts, 'outbox', 'to publish')}"


def _parked(facts: Facts) -> str:
    def line(service: Principal, parked: ParkedMessages) -> str:
        count = parked.failed + parked.behind + parked.undecodable
        return f"{service} {count:,} for {_age(parked.oldest_s)}" if count else ""

    return _each(facts, lambda database: database.parked, line) or "nothing"


_OF_KAFKA = {Area.BROKERS: "cluster", Area.TOPICS: "topics", Area.CONSUMERS: "groups"}
_OF_DATABASES = {
    Area.DATABASES: ("schema",),
    Area.REPLICAS: ("processes",),
    Area.CONSUMERS: ("stops",),
    Area.RELAYS: ("leader", "next_type", "waits"),
    Area.SAGAS: ("sagas", "waits"),
    Area.TRANSFERS: ("transfers", "waits"),
    Area.COMMANDS: ("waits",),
    Area.TIMERS: ("waits",),
    Area.PARKED: ("parked",),
    Area.MAILS: ("mails", "waits"),
}


def _asked(area: Area, facts: Facts) -> Iterable[Answer[Any]]:
    """Return the answers that a line is about."""
    if area in _OF_KAFKA:
        yield getattr(facts, _OF_KAFKA[area])
    for database in facts.databases.values():
        yield from (getattr(database, name) for name in _OF_DATABASES.get(area, ()))


_LINES: Mapping[Area, Callable[[Facts], str]] = {
    Area.BROKERS: _brokers,
    Area.DATABASES: _databases,
    Area.TOPICS: _topics,
    Area.REPLICAS: _replicas,
    Area.CONSUMERS: _consumers,
    Area.RELAYS: _relays,
    Area.SAGAS: lambda facts: _sum(facts, "saga", "open"),
    Area.TRANSFERS: lambda facts: _sum(facts, "transfer", "open"),
    Area.COMMANDS: lambda facts: _sum(facts, "command", "without an outcome"),
    Area.TIMERS: lambda facts: _sum(facts, "timer", "due"),
    Area.PARKED: _parked,
    Area.MAILS: lambda facts: _sum(facts, "mail", "to send"),
}


def _of(answer: Answer[Any], line: Callable[[Any], str]) -> str:
    return f"not asked: {answer.detail}" if isinstance(answer, Unanswered) else line(answer)


def _each(facts: Facts, answer: Callable[[Database], Answer[Any]], line: Callable[[Principal, Any], str]) -> str:
    """Return what there is to say of each service, and of which ones nothing is known."""
    found = {service: answer(database) for service, database in facts.databases.items()}
    told = [line(service, each) for service, each in found.items() if not isinstance(each, Unanswered)]
    return "; ".join([", ".join(filter(None, told)), *_silent(found)]).removeprefix("; ")


def _sum(facts: Facts, what: str, state: str) -> str:
    """Return how many of a kind wait in all databases, and for how long the oldest has."""
    found = {service: each.waits for service, each in facts.databases.items()}
    waits = [each.get(what, Waits()) for each in found.values() if not isinstance(each, Unanswered)]
    count, oldest_s = sum(each.count for each in waits), max((each.oldest_s for each in waits), default=0)
    text = f"{count:,} {state}, the oldest for {_age(oldest_s)}" if count else f"none {state}"
    return "; ".join([*([text] if waits else []), *_silent(found)])


def _silent(found: Mapping[Principal, Answer[Any]]) -> Iterable[str]:
    silent = [service for service, each in found.items() if isinstance(each, Unanswered)]
    if silent:
        yield "not asked" if len(silent) == len(found) else f"not asked: {', '.join(silent)}"


def _age(seconds: float) -> str:
    return duration(timedelta(seconds=seconds))
