"""From facts to findings: pure functions, one for each thing that was asked.

What follows from something else that is wrong is left out where that is certain: without a process, nobody is in the
group; without Kafka, no relay leads.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from deploy.operator.cli.doctor.facts import (
    Answer,
    Cluster,
    Database,
    Facts,
    Fit,
    Group,
    Leader,
    Mails,
    ParkedMessages,
    Process,
    Schema,
    Silence,
    Stop,
    Stuck,
    Unanswered,
    Waits,
)
from deploy.operator.cli.doctor.findings import Area, Code, Finding, by_urgency
from deploy.operator.cli.output import duration
from deploy.operator.topics import Difference, Kind
from popfax_contracts.topics import Principal
from services.chassis.process_names import Does

LATE_S = 60.0
"""A record that waits for longer is late."""

OUTBOX_OLD_S = 30.0
"""A message that waits in an outbox for longer is not being published."""

SILENT_S = 5.0
"""A leader looks at the outbox every second; one that has not for longer waits for Kafka, or hangs."""

TIMER_LATE_S = 30.0
"""A timer that is due for longer does not fire: a service looks every second."""

UNDECIDED_S = 300.0
"""A posted command that has no outcome for longer is stuck."""

MAIL_LATE_S = 300.0
"""A mail that is not sent for longer is late."""

SETTLED = frozenset({"stable", "empty", "dead"})
"""The states of a consumer group that is not sharing out its partitions just now."""


def judge(facts: Facts) -> list[Finding]:
    """Return what is wrong and what could not be asked, the most urgent first."""
    return sorted(_findings(facts), key=by_urgency)


def unasked(facts: Facts) -> list[Unanswered]:
    """Return the questions that were not answered."""
    of_kafka = [facts.cluster, facts.topics, facts.groups]
    of_databases = [answer for each in facts.databases.values() for answer in answers(each).values()]
    return [each for each in (*of_kafka, *of_databases) if isinstance(each, Unanswered)]


def answers(database: Database) -> Mapping[str, Answer[Any]]:
    """Return what was asked of a database, by the question's name."""
    return {name: getattr(database, name) for name in Database.__slots__ if name != "address"}


def _findings(facts: Facts) -> Iterator[Finding]:
    here = {"bootstrap": facts.bootstrap}
    if isinstance(facts.cluster, Unanswered):
        yield Finding(Code.KAFKA_UNREACHABLE, values=here | {"detail": facts.cluster.detail})
    else:
        yield from _of_cluster(facts.cluster, here)
        yield from _of_silence("Kafka", {"topics": facts.topics, "consumers": facts.groups}, Area.TOPICS)
    if not isinstance(facts.topics, Unanswered):
        yield from _of_topics(facts.topics)
    for service, database in facts.databases.items():
        works = _works(database)
        yield from _of_database(service, database, relays=works and not isinstance(facts.cluster, Unanswered))
        if not isinstance(facts.groups, Unanswered) and service in facts.groups:
            yield from _of_group(service, facts.groups[service], _where(database), works=works)


def _works(database: Database) -> bool:
    """Return whether a process does the service's work, as far as the database knows."""
    if isinstance(database.processes, Unanswered):
        return True  # nobody knows otherwise
    return any(each.name is None or each.name.does is not Does.WEB for each in database.processes)


def _where(database: Database) -> Mapping[str, str]:
    """Return the host of one of the service's processes, to ask it."""
    processes = [] if isinstance(database.processes, Unanswered) else database.processes
    return {"host": next((each.address for each in processes if each.address), "HOST")}


# --- Kafka ---


def _of_cluster(cluster: Cluster, here: Mapping[str, str]) -> Iterator[Finding]:
    for code, partitions in (
        (Code.PARTITIONS_OFFLINE, cluster.offline),
        (Code.PARTITIONS_BELOW_MIN_ISR, cluster.below_min),
        (Code.PARTITIONS_UNDER_REPLICATED, cluster.under_replicated),
    ):
        if partitions:
            yield Finding(code, values={**here, **_some(partitions), "all": cluster.partitions})
    for id_ in cluster.away:
        yield Finding(Code.BROKER_AWAY, str(id_), values=here)
    for broker in cluster.brokers:
        if not broker.answers:
            yield Finding(Code.BROKER_SILENT, str(broker.id), values={**here, "address": broker.address})


_OF_KIND = {
    Kind.MISSING_TOPIC: Code.TOPIC_MISSING,
    Kind.MISSING_ACL: Code.ACL_MISSING,
    Kind.EXTRA_ACL: Code.ACL_EXTRA,
    Kind.CLOSED: Code.TOPIC_CLOSED,
}


def _of_topics(differences: Sequence[Difference]) -> Iterator[Finding]:
    found: dict[Code, list[str]] = {}
    for each in differences:
        code = _OF_KIND.get(each.kind, Code.TOPIC_DIFFERS)
        found.setdefault(code, []).append(str(each) if code is Code.TOPIC_DIFFERS else each.subject)
    for code, subjects in found.items():
        yield Finding(code, values=_some(subjects))


def _of_group(service: Principal, group: Group, where: Mapping[str, str], *, works: bool) -> Iterator[Finding]:
    if works and group.state not in SETTLED:
        yield Finding(Code.GROUP_UNSTABLE, service, values={"state": group.state})
    elif works and not group.members:
        yield Finding(Code.GROUP_EMPTY, service, values=where)
    elif works and group.unassigned:
        yield Finding(Code.PARTITIONS_UNASSIGNED, service, values={**where, **_some(group.unassigned)})
    if group.late:
        most = max(group.late, key=lambda topic: group.late[topic])
        values = {"count": sum(group.late.values()), "first": most, "seconds": f"{LATE_S:g}"}
        yield Finding(Code.RECORDS_LATE, service, values={**where, **values})


# --- databases ---


def _of_database(service: Principal, database: Database, *, relays: bool) -> Iterator[Finding]:
    at = asdict(database.address)
    asked = answers(database)
    if (away := _away(asked)) is not None:
        yield Finding(Code.DATABASE_UNREACHABLE, service, values={**at, "detail": away.detail})
    elif isinstance(database.schema, Unanswered) or database.schema.fit not in (Fit.OLDER, Fit.NEWER):
        yield from _of_silence(service, asked, Area.DATABASES)
    if not isinstance(database.schema, Unanswered):
        yield from _of_schema(service, database.schema, at)
    if not isinstance(database.processes, Unanswered):
        yield from _of_processes(service, database.processes, works=_works(database))
    if relays and not isinstance(database.leader, Unanswered):
        yield from _of_leader(service, database.leader, _where(database))
    if not isinstance(database.waits, Unanswered):
        next_type = None if isinstance(database.next_type, Unanswered) else database.next_type
        yield from _of_waits(service, database.waits, next_type, _where(database))
    if not isinstance(database.parked, Unanswered):
        yield from _of_parked(service, database.parked)
    if not isinstance(database.stops, Unanswered):
        yield from _of_stops(service, database.stops)
    yield from _of_stuck(service, database.sagas, Code.SAGA_STUCK, "saga")
    yield from _of_stuck(service, database.transfers, Code.TRANSFER_STUCK, "transfer")
    if not isinstance(database.mails, Unanswered):
        yield from _of_mails(service, database.mails)


def _away(asked: Mapping[str, Answer[Any]]) -> Unanswered | None:
    return next((e for e in asked.values() if isinstance(e, Unanswered) and e.silence is Silence.AWAY), None)


def _of_silence(subject: str, asked: Mapping[str, Answer[Any]], area: Area) -> Iterator[Finding]:
    silent = {name: each for name, each in asked.items() if isinstance(each, Unanswered)}
    if silent:
        values = {"questions": ", ".join(silent), "detail": next(iter(silent.values())).detail}
        yield Finding(Code.UNANSWERED, subject, area, values)


_OF_FIT = {Fit.OLDER: Code.SCHEMA_OLDER, Fit.NEWER: Code.SCHEMA_NEWER, Fit.BEHIND: Code.SCHEMA_BEHIND}


def _of_schema(service: Principal, schema: Schema, at: Mapping[str, str]) -> Iterator[Finding]:
    if schema.fit in _OF_FIT:
        revision = {"revision": schema.revision or "none", "head": schema.head}
        yield Finding(_OF_FIT[schema.fit], service, values={**at, **revision})
    if schema.read_only:
        yield Finding(Code.DATABASE_READ_ONLY, service, values=at)


def _of_processes(service: Principal, processes: Sequence[Process], *, works: bool) -> Iterator[Finding]:
    if not works:
        yield Finding(Code.NO_PROCESS, service)
    versions = sorted({each.name.version if each.name else "unknown" for each in processes})
    if len(versions) > 1:
        yield Finding(Code.VERSIONS_DIFFER, service, values={"versions": ", ".join(versions)})


def _of_leader(service: Principal, leader: Leader | None, where: Mapping[str, str]) -> Iterator[Finding]:
    if leader is None:
        yield Finding(Code.RELAY_LEADERLESS, service, values=where)
    elif leader.silent_s > SILENT_S:
        values = {"process": leader.process, "seconds": f"{leader.silent_s:.0f}"}
        yield Finding(Code.RELAY_SILENT, service, values=values)


def _of_waits(
    service: Principal, waits: Mapping[str, Waits], next_type: str | None, where: Mapping[str, str]
) -> Iterator[Finding]:
    outbox, timers = waits.get("outbox", Waits()), waits.get("timer", Waits())
    commands, mails = waits.get("command", Waits()), waits.get("mail", Waits())
    if outbox.oldest_s > OUTBOX_OLD_S:
        values = {**where, "messages": several(outbox.count, "message"), "age": _age(outbox.oldest_s)}
        code = Code.OUTBOX_OLD if next_type is None else Code.OUTBOX_HELD
        yield Finding(code, service, values=values | {"type": next_type})
    if timers.oldest_s > TIMER_LATE_S:
        values = {**where, "timers": several(timers.count, "timer"), "age": _age(timers.oldest_s)}
        yield Finding(Code.TIMERS_LATE, service, values=values)
    if commands.oldest_s > UNDECIDED_S:
        values = {"commands": several(commands.count, "command"), "age": _age(commands.oldest_s)}
        yield Finding(Code.COMMAND_UNDECIDED, service, values=values)
    if mails.oldest_s > MAIL_LATE_S:
        values = {"mails": several(mails.count, "mail"), "age": _age(mails.oldest_s)}
        yield Finding(Code.MAILS_LATE, service, values=values)


def _of_parked(service: Principal, parked: ParkedMessages) -> Iterator[Finding]:
    if parked.failed:
        values = {"messages": several(parked.failed, "message"), "behind": parked.behind, "age": _age(parked.oldest_s)}
        yield Finding(Code.KEY_BLOCKED, service, values=values | {"first": parked.first_failed})
    if parked.undecodable:
        values = {"messages": several(parked.undecodable, "message"), "first": parked.first_undecodable}
        yield Finding(Code.MESSAGE_UNREADABLE, service, values=values)


def _of_stops(service: Principal, stops: Sequence[Stop]) -> Iterator[Finding]:
    for stop in stops:
        values = {"partition": stop.partition, "position": stop.position, "error": stop.error}
        yield Finding(Code.PARTITION_STOPPED, service, values={**values, "age": _age(stop.age_s)})


def _of_stuck(service: Principal, stuck: Answer[Stuck], code: Code, noun: str) -> Iterator[Finding]:
    if not isinstance(stuck, Unanswered) and stuck.count:
        values = {f"{noun}s": several(stuck.count, noun), "first": stuck.first, "age": _age(stuck.oldest_s)}
        yield Finding(code, service, values=values)


def _of_mails(service: Principal, mails: Mails) -> Iterator[Finding]:
    if mails.parked:
        yield Finding(Code.MAIL_PARKED, service, values={"mails": several(mails.parked, "mail")})
    if mails.stuck:
        yield Finding(Code.MAIL_STUCK, service, values={"mails": several(mails.stuck, "mail")})


def several(count: int, noun: str) -> str:
    """Return a number of things, such as `1 mail` and `2 mails`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _some(found: Sequence[str]) -> dict[str, Any]:
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return {"count": len(found), "first": f"{found[0]}{more}"}


def _age(seconds: float) -> str:
    return duration(timedelta(seconds=seconds))
