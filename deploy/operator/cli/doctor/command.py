"""`popfax doctor`: whether all is well, and if not, what to do first."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import sqlalchemy as sa
import typer

from deploy.operator import topics as administration
from deploy.operator.cli.connection import Connection, connect, require_kafka
from deploy.operator.cli.doctor import databases, kafka
from deploy.operator.cli.doctor.facts import Address, Database, Facts, Group
from deploy.operator.cli.doctor.findings import Finding
from deploy.operator.cli.doctor.judging import answers, judge, unasked
from deploy.operator.cli.doctor.questions import Questions, ask
from deploy.operator.cli.doctor.screen import RUNBOOKS, show
from deploy.operator.cli.doctor.services import ALL
from deploy.operator.cli.errors import Exit, Failure
from deploy.operator.cli.options import EnvFile, Json
from deploy.operator.cli.output import err, print_json
from deploy.operator.cli.topics import Cluster, Settings, wanted_settings
from deploy.operator.topic_settings import TopicSettings
from popfax_contracts.topics import Principal
from services.chassis import build

_QUIET_S = 1.0
"""How long it may take without saying what it waits for."""


def doctor(
    settings: Settings = None,
    cluster: Cluster = False,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="How many seconds to wait for answers.")] = 10.0,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Say whether all is well and, if not, what to do first: 0 well, 1 something is wrong, 3 something did not answer.

    It asks Kafka and the four databases at once, and changes nothing. What is away holds up nothing else.
    """
    facts = examine(connect(env_file), wanted_settings(settings, cluster), timeout)
    findings = judge(facts)
    if json:
        print_json(_summary(facts, findings))
    else:
        show(facts, findings)
    if unasked(facts):
        raise typer.Exit(Exit.UNREACHABLE)
    if findings:
        raise typer.Exit(Exit.NO)


def examine(connection: Connection, wanted: TopicSettings, timeout_s: float) -> Facts:
    """Ask everything."""
    of_kafka: dict[str, Questions] = {
        "Kafka's brokers": {"cluster": lambda: kafka.cluster(connection.admin)},
        "Kafka's topics": {"topics": partial(_topics, connection, wanted)},
        "Kafka's groups": {"groups": partial(_groups, connection)},
    }
    of_databases = {_database(each.principal): databases.questions(connection, each) for each in ALL}
    with _progress() as waiting:
        told = ask({**of_kafka, **of_databases}, timeout_s, waiting)
    cluster, topics, groups = (told[name] for name in of_kafka)
    return Facts(
        version=build.version(),
        asked_at=datetime.now(UTC),
        bootstrap=_bootstrap(connection),
        **cluster,
        **topics,
        **groups,
        databases={
            each.principal: Database(_address(connection, each.principal), **told[_database(each.principal)])
            for each in ALL
        },
    )


def _database(service: Principal) -> str:
    return f"{service}'s database"


def _topics(connection: Connection, wanted: TopicSettings) -> Sequence[administration.Difference]:
    require_kafka(connection.admin)
    return administration.compare(connection.admin, wanted)


def _groups(connection: Connection) -> Mapping[Principal, Group]:
    require_kafka(connection.admin)
    return kafka.groups(connection.admin)


def _bootstrap(connection: Connection) -> str:
    try:
        return connection.admin["bootstrap.servers"]
    except Failure:
        return "BROKER:9092"


def _address(connection: Connection, service: Principal) -> Address:
    try:
        url = sa.make_url(connection.database_url(service))
    except (Failure, sa.exc.ArgumentError):
        return Address()
    return Address(url.host or "localhost", str(url.port or 5432), url.username or service, url.database or service)


@contextmanager
def _progress() -> Iterator[Callable[[list[str]], None]]:
    """Show on a terminal whose answers are missing, once that takes long."""
    status = err.status("") if err.is_terminal else None
    began = time.monotonic()

    def waiting(left: list[str]) -> None:
        if status is None or (took := time.monotonic() - began) < _QUIET_S:
            return
        status.update(f"{took:.0f} s: waiting for {', '.join(left)}")
        status.start()

    try:
        yield waiting
    finally:
        if status is not None:
            status.stop()


def _summary(facts: Facts, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "well": not findings,
        "complete": not unasked(facts),
        "version": facts.version,
        "asked_at": facts.asked_at,
        "findings": [_described(each) for each in findings],
        "kafka": {name: _plain(getattr(facts, name)) for name in ("cluster", "topics", "groups")},
        "databases": {
            service: {name: _plain(each) for name, each in answers(database).items()}
            for service, database in facts.databases.items()
        },
    }


def _described(finding: Finding) -> dict[str, Any]:
    runbook = finding.case.runbook
    return {
        "code": finding.code,
        "severity": finding.severity,
        "area": finding.line,
        "subject": finding.subject or None,
        "meaning": finding.meaning,
        "next": finding.command,
        "runbook": f"{RUNBOOKS}/{runbook}.md" if runbook else None,
    }


def _plain(answer: Any) -> Any:
    """Return an answer as JSON has it; one that did not come says why."""
    if hasattr(answer, "__dataclass_fields__"):
        return asdict(answer)
    if isinstance(answer, Mapping):
        return {key: _plain(each) for key, each in answer.items()}
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return [_plain(each) for each in answer]
    return answer
