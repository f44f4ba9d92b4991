"""Topics' partitions, replicas and retention as a deployment's settings: what is refused, and what differs how."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from deploy.operator import topics
from deploy.operator.topic_settings import InvalidSettings, TopicSettings, read_settings
from deploy.operator.topics import Remedy
from deploy.paths import CHECKOUT
from popfax_contracts.topics import LEDGER_COMMANDS, LEDGER_EVENTS, PROVISIONING_DIRECTORY, SERVICES, Topic

CLUSTER = "replication_factor = 3\nmin_insync_replicas = 2\n"


def read(tmp_path: Path, text: str) -> TopicSettings:
    file = tmp_path / "topics.toml"
    file.write_text(text)
    return read_settings(file)


def test_what_a_topic_does_not_say_is_as_for_all_and_what_nothing_says_as_in_the_contracts(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        CLUSTER + 'partitions = 24\nretention_days = 10\n[topics."popfax.ledger.commands"]\npartitions = 48\n',
    )
    assert settings.partitions_of(LEDGER_COMMANDS) == 48
    assert settings.partitions_of(LEDGER_EVENTS) == 24
    assert settings.retention_of(LEDGER_COMMANDS) == timedelta(days=10)
    assert TopicSettings().partitions_of(LEDGER_EVENTS) == LEDGER_EVENTS.partitions
    config = topics.expected_config(LEDGER_COMMANDS, settings)
    assert (config["retention.ms"], config["min.insync.replicas"]) == (str(10 * 24 * 3600 * 1000), "2")
    assert topics.expected_config(PROVISIONING_DIRECTORY, settings)["delete.retention.ms"] == config["retention.ms"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partitions = 0", "partitions: Input should be greater than or equal to 1"),
        ("partitions = '12'", "partitions: Input should be a valid integer"),
        ("partition = 12", "partition: Extra inputs are not permitted"),
        ("partitions 12", "Expected '='"),
        ("retention_days = 0", "greater than or equal to 1"),
        ("min_insync_replicas = 2", "must not be more than replication_factor"),
        ("replication_factor = 3\nmin_insync_replicas = 3", "one broker's restart stops all"),
        ("replication_factor = 3", "one broker's loss loses acknowledged records"),
        ('[topics."popfax.ledger.nothing"]\npartitions = 3', "there is no topic popfax.ledger.nothing"),
        ('[topics."popfax.ledger.balances"]\nretention_days = 3', "popfax.ledger.balances is compacted"),
    ],
)
def test_settings_that_are_not_safe_or_not_meant_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidSettings, match=said):
        read(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"missing\.toml: No such file"):
        read_settings(tmp_path / "missing.toml")


@pytest.mark.parametrize(("days", "safe"), [(12, True), (13, False)])
def test_no_topic_may_keep_a_record_longer_than_its_readers_inboxes_remember_it(days: int, safe: bool) -> None:
    """13 days, a segment of one more and the broker's hour are more than 14 days."""
    settings = TopicSettings(retention_days=days)
    settings.require_memory(dict.fromkeys(SERVICES, 99))
    if safe:
        settings.require_memory(dict.fromkeys(SERVICES, 14))
    else:
        with pytest.raises(InvalidSettings, match="GROUPS_INBOX_RETENTION_DAYS is 14: raise that first"):
            settings.require_memory(dict.fromkeys(SERVICES, 14))


@pytest.mark.parametrize(
    ("name", "wanted", "found", "remedy"),
    [
        ("retention.ms", "2", "1", Remedy.APPLY),
        ("retention.ms", "1", "2", Remedy.ACCEPT_LOSS),
        ("retention.ms", "1", "-1", Remedy.ACCEPT_LOSS),
        ("retention.bytes", "-1", "100", Remedy.APPLY),
        ("delete.retention.ms", "1", "2", Remedy.ACCEPT_LOSS),
        ("min.insync.replicas", "1", "2", Remedy.ACCEPT_LOSS),
        ("min.insync.replicas", "2", "1", Remedy.APPLY),
        ("segment.ms", "1", "2", Remedy.APPLY),
        ("cleanup.policy", "delete", "compact", Remedy.BY_HAND),
        ("cleanup.policy", "compact", "delete", Remedy.BY_HAND),
    ],
)
def test_what_would_lose_records_or_a_guarantee_needs_an_explicit_yes(
    name: str, wanted: str, found: str, remedy: Remedy
) -> None:
    assert topics._remedy_of(name, wanted, found) is remedy


@pytest.mark.parametrize(
    ("topic", "wanted", "found", "remedy"),
    [
        (LEDGER_EVENTS, 24, 12, Remedy.SWITCH),
        (LEDGER_EVENTS, 6, 12, Remedy.NEVER),
        (PROVISIONING_DIRECTORY, 24, 12, Remedy.NEVER),
    ],
)
def test_partitions_are_never_changed_by_applying(topic: Topic, wanted: int, found: int, remedy: Remedy) -> None:
    (difference,) = topics._compare_partitions(topic, TopicSettings(partitions=wanted), found)
    assert difference.remedy is remedy


def test_the_documents_example_can_be_read(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", (CHECKOUT / "docs/operations/scaling.md").read_text(), re.DOTALL)
    assert read(tmp_path, example).partitions_of(LEDGER_COMMANDS) == 48
