"""`popfax topics`: the topics and permissions that the code expects, compared with the broker's."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Annotated

import typer

from deploy.operator import topics as administration
from deploy.operator.cli.connection import connect, require_kafka
from deploy.operator.cli.errors import Exit, Unreachable
from deploy.operator.cli.options import EnvFile, Json
from deploy.operator.cli.output import print_json, print_table, say
from deploy.operator.topics import CLUSTER, ONE_BROKER, Difference, Stalled
from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.topics import RETENTION, TOPICS, Topic


def topics(
    apply: Annotated[bool, typer.Option("--apply", help="Create what is missing. Nothing is altered or deleted.")] = (
        False
    ),
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Expect three replicas, two in sync, instead of one broker's one.")
    ] = False,
    types: Annotated[
        bool, typer.Option("--types", help="Say for each type of message who can send it, as the broker has it.")
    ] = False,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Compare the broker's topics and permissions with the code's: 0 the same, 1 they differ."""
    do = administration.apply if apply else administration.compare
    config = connect(env_file).admin
    require_kafka(config)
    try:
        differences = do(config, CLUSTER if cluster else ONE_BROKER)
    except Stalled as error:
        raise Unreachable(f"Kafka is too slow, or stuck: {error}") from error
    senders = _senders(administration.writers(config)) if types else {}
    if json:
        summary = {"topics": [_summary(topic) for topic in TOPICS], "differences": [asdict(d) for d in differences]}
        print_json(summary | ({"types": senders} if types else {}))
    else:
        _show_types(senders) if types else _show_topics()
        _show_differences(differences)
    if differences:
        raise typer.Exit(Exit.NO)


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


def _show_topics() -> None:
    print_table(
        ("topic", "keeps", "written by", "read by"),
        [
            (
                topic.name.removeprefix("popfax."),
                "newest" if topic.compacted else f"{RETENTION.days} days",
                topic.writer,
                "everyone" if len(topic.readers) > 3 else ", ".join(sorted(topic.readers)),
            )
            for topic in TOPICS
        ],
    )


def _show_differences(differences: list[Difference]) -> None:
    if not differences:
        say("✓ The broker has these topics, and the permissions that follow, and no others.", "green")
    for difference in differences:
        say(f"✗ {difference}", "red")


def _summary(topic: Topic) -> dict[str, object]:
    return {
        "name": topic.name,
        "partitions": topic.partitions,
        "compacted": topic.compacted,
        "writer": topic.writer,
        "readers": topic.readers,
    }
