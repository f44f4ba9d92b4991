"""`popfax topics`: what the code expects of the broker, and what the broker has."""

from dataclasses import asdict
from typing import Annotated

import typer

from contracts.topics import RETENTION, TOPICS, Topic
from deploy import topics as administration
from deploy.cli.connection import connect, require_kafka
from deploy.cli.errors import Exit, Unreachable
from deploy.cli.options import EnvFile, Json
from deploy.cli.output import print_json, print_table, say
from deploy.topics import CLUSTER, ONE_BROKER, Difference


def topics(
    apply: Annotated[bool, typer.Option("--apply", help="Create what is missing. Nothing is altered or deleted.")] = (
        False
    ),
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Expect three replicas, two in sync, instead of one broker's one.")
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
    except TimeoutError as error:
        raise Unreachable(f"the broker goes on without it: {error}") from error
    if json:
        print_json({"topics": [_summary(topic) for topic in TOPICS], "differences": [asdict(d) for d in differences]})
    else:
        _show(differences)
    if differences:
        raise typer.Exit(Exit.NO)


def _show(differences: list[Difference]) -> None:
    print_table(
        ("topic", "partitions", "keeps", "written by", "read by"),
        [
            (
                topic.name.removeprefix("popfax."),
                topic.partitions,
                "newest of a key" if topic.compacted else f"{RETENTION.days} days",
                ", ".join(sorted(topic.writers)),
                "everyone" if len(topic.readers) > 3 else ", ".join(sorted(topic.readers)),
            )
            for topic in TOPICS
        ],
    )
    if not differences:
        say("✓ The broker has these topics, and the permissions that follow, and no others.", "green")
    for difference in differences:
        say(f"✗ {difference}", "red")


def _summary(topic: Topic) -> dict[str, object]:
    return {
        "name": topic.name,
        "partitions": topic.partitions,
        "compacted": topic.compacted,
        "writers": topic.writers,
        "readers": topic.readers,
    }
