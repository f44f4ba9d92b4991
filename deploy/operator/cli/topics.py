"""`popfax topics`: the topics and permissions that there should be, compared with the broker's, and put right."""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from deploy.operator import topics as administration
from deploy.operator.cli.connection import connect, require_kafka
from deploy.operator.cli.errors import Exit, Failure, Unreachable, UsageError
from deploy.operator.cli.options import EnvFile, Json
from deploy.operator.cli.output import print_json, print_table, say
from deploy.operator.switching import Refused, Switch, Unread, await_drained
from deploy.operator.topic_settings import CLUSTER, ONE_BROKER, InvalidSettings, TopicSettings, read_settings
from deploy.operator.topics import Difference, Kind, Remedy, Stalled
from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.topics import BY_NAME, SERVICES, TOPICS, Principal, Topic
from services.chassis.settings import ServiceSettings

app = typer.Typer(
    help="Compare the broker's topics and permissions with what they should be: 0 the same, 1 they differ.",
    invoke_without_command=True,
)

Settings = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        envvar="POPFAX_TOPICS",
        help="A TOML file with the deployment's partitions, replicas and retention. Without it: one broker's defaults.",
    ),
]
Cluster = Annotated[
    bool,
    typer.Option("--cluster", help="Without --settings: three replicas, two in sync, instead of one broker's one."),
]
Name = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic, such as popfax.ledger.commands.")]


@app.callback()
def topics(
    context: typer.Context,
    apply: Annotated[
        bool, typer.Option("--apply", help="Create what is missing, and alter settings. Nothing is deleted.")
    ] = False,
    accept_loss: Annotated[
        bool,
        typer.Option("--accept-loss", help="With --apply: also shorten what is kept, and weaken what is guaranteed."),
    ] = False,
    settings: Settings = None,
    cluster: Cluster = False,
    types: Annotated[
        bool, typer.Option("--types", help="Say for each type of message who can send it, as the broker has it.")
    ] = False,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Compare the broker's topics and permissions with what they should be: 0 the same, 1 they differ."""
    if context.invoked_subcommand is not None:
        return
    if accept_loss and not apply:
        raise UsageError("--accept-loss goes with --apply")
    wanted = wanted_settings(settings, cluster)
    config = connect(env_file).admin
    require_kafka(config)
    try:
        differences = (
            administration.apply(config, wanted, accept_loss) if apply else administration.compare(config, wanted)
        )
    except Stalled as error:
        raise Unreachable(f"Kafka is too slow, or stuck: {error}") from error
    senders = _senders(administration.writers(config)) if types else {}
    if json:
        summary = {
            "topics": [_summary(topic, wanted) for topic in TOPICS],
            "differences": [asdict(each) for each in differences],
        }
        print_json(summary | ({"types": senders} if types else {}))
    else:
        _show_types(senders) if types else _show_topics(wanted)
        _show_differences(differences)
    if differences:
        raise typer.Exit(Exit.NO)


Within = Annotated[float, typer.Option("--timeout", min=1, help="How many seconds readers may take.")]
Learned = Annotated[
    bool,
    typer.Option("--writers-restarted", help="All writers were started after the switch: don't wait until they learn."),
]


@app.command()
def drain(
    topic: Name,
    settings: Settings = None,
    cluster: Cluster = False,
    timeout: Within = 600.0,
    env_file: EnvFile = None,
) -> None:
    """Close a topic to its writers, and wait until its readers have handled everything: before it gets more partitions.

    Exit codes: 0 it is drained; 1 there is no reason to; 3 readers have not caught up in time, and it stays closed.
    """
    wanted, config = wanted_settings(settings, cluster), connect(env_file).admin
    require_kafka(config)
    try:
        change = Switch(config, _topic(topic))
        change.close(wanted.partitions_of(_topic(topic)))
    except Refused as refused:
        raise Failure(str(refused)) from refused
    say(f"{topic} is closed: what services write waits in their outboxes, and the broker refuses the platform.")
    if not await_drained(change, timeout, _show_unread):
        raise Unreachable(
            f"{topic} is closed and not drained: look at its readers, then repeat this, or: popfax topics open {topic}"
        )
    say(f"✓ {topic} is drained. Next: popfax topics switch {topic}", "green")


@app.command()
def switch(
    topic: Name,
    settings: Settings = None,
    cluster: Cluster = False,
    writers_restarted: Learned = False,
    env_file: EnvFile = None,
) -> None:
    """Add to a drained topic the partitions that the settings name, wait until its writers know, and open it again.

    Exit codes: 0 it is open, with its new partitions; 1 refused: it is not closed, or not drained.
    """
    wanted, config = wanted_settings(settings, cluster), connect(env_file).admin
    require_kafka(config)
    try:
        change = Switch(config, _topic(topic))
        change.widen(wanted.partitions_of(_topic(topic)))
        say(f"{topic} has {change.partitions()} partitions now.")
        _open(change, topic, writers_restarted)
    except Refused as refused:
        raise Failure(str(refused)) from refused


@app.command("open")
def open_(topic: Name, writers_restarted: Learned = False, env_file: EnvFile = None) -> None:
    """Open a topic again, whether it was switched or not: what gives a drain up, or ends an interrupted switch."""
    config = connect(env_file).admin
    require_kafka(config)
    try:
        change = Switch(config, _topic(topic))
        if not change.is_closed():
            raise Refused(f"{topic} is open")
        _open(change, topic, writers_restarted)
    except Refused as refused:
        raise Failure(str(refused)) from refused


def _open(change: Switch, topic: str, learned: bool) -> None:
    if not learned:
        say(f"Waiting {change.learns_s:g} s, until every writer has learned how many partitions there are …")
    change.reopen(learned)
    say(f"✓ {topic} is open.", "green")


def _topic(name: str) -> Topic:
    try:
        return BY_NAME[name]
    except KeyError:
        raise UsageError(f"there is no topic {name}") from None


def wanted_settings(file: Path | None, cluster: bool) -> TopicSettings:
    """Return the deployment's settings. Raises UsageError if they are not safe with what services remember."""
    try:
        found = read_settings(file) if file else CLUSTER if cluster else ONE_BROKER
        found.require_memory({service: _inbox_days(service) for service in SERVICES})
    except InvalidSettings as error:
        raise UsageError(str(error)) from error
    return found


def _inbox_days(service: Principal) -> int:
    name = f"{service.upper()}_INBOX_RETENTION_DAYS"
    default = ServiceSettings.model_fields["inbox_retention_days"].default
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        raise UsageError(f"{name} is not a number") from None


def _senders(writers: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return who can send each type: the principals that can write to one of its topics."""
    return {
        type_: sorted({writer for topic in MESSAGES[type_].TOPICS for writer in writers[topic.name]})
        for type_ in sorted(MESSAGES)
    }


def _show_types(senders: Mapping[str, list[str]]) -> None:
    print_table(
        ("type", "can be sent by"),
        [(type_.removeprefix("popfax."), ", ".join(who) or "nobody") for type_, who in senders.items()],
    )


def _show_topics(settings: TopicSettings) -> None:
    print_table(
        ("topic", "partitions", "keeps", "written by", "read by"),
        [
            (
                topic.name.removeprefix("popfax."),
                settings.partitions_of(topic),
                "newest" if topic.compacted else _days(settings.retention_of(topic)),
                topic.writer,
                "everyone" if len(topic.readers) > 3 else ", ".join(sorted(topic.readers)),
            )
            for topic in TOPICS
        ],
    )


def _show_differences(differences: Collection[Difference]) -> None:
    if not differences:
        say("✓ The broker has these topics, and the permissions that follow, and no others.", "green")
        return
    say("")
    print_table(
        ("differs", "what", "is", "should be", "put right by"),
        [
            (
                Text(f"✗ {each.kind}", style="red"),
                each.subject.removeprefix("popfax."),
                *(_value(each, value) for value in (each.found, each.expected)),
                Text(each.remedy, style="red" if each.remedy in {Remedy.NEVER, Remedy.ACCEPT_LOSS} else ""),
            )
            for each in differences
        ],
    )


def _value(difference: Difference, value: str) -> str:
    """Show a duration as people count it."""
    if difference.kind is Kind.WRONG_CONFIG and difference.subject.endswith(".ms") and value.isdecimal():
        return _days(timedelta(milliseconds=int(value)))
    return value


def _days(span: timedelta) -> str:
    days = span / timedelta(days=1)
    return f"{days:g} days" if days >= 1 else str(span)


def _show_unread(left: Collection[Unread]) -> None:
    for group in sorted({each.group for each in left}):
        own = [each for each in left if each.group == group]
        say(f"{group}: {sum(each.records for each in own)} records left, in {len(own)} partitions")


def _summary(topic: Topic, settings: TopicSettings) -> dict[str, object]:
    return {
        "name": topic.name,
        "partitions": settings.partitions_of(topic),
        "compacted": topic.compacted,
        "retention_days": None if topic.compacted else settings.retention_of(topic).days,
        "writer": topic.writer,
        "readers": topic.readers,
    }
