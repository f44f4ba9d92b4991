"""How long what is on a topic is kept, what of it is promised, and a broker that does not get on."""

import time

import pytest

from contracts import topics
from deploy import topics as administration
from deploy.topics import Stalled, _Patience
from services._platform.runtime import retention
from services._platform.settings import ServiceSettings


def test_what_is_erased_is_gone_when_it_is_promised() -> None:
    assert topics.erased_within() <= topics.ERASURE


def test_the_inbox_outlasts_what_topics_keep() -> None:
    default = ServiceSettings.model_fields["inbox_retention_days"].default
    settings = ServiceSettings.model_construct(inbox_retention_days=default)
    assert retention(settings) > topics.kept_at_most() > topics.RETENTION


@pytest.mark.parametrize("topic", topics.TOPICS, ids=lambda topic: topic.name)
def test_the_settings_of_a_topic_are_those_that_its_bound_rests_on(topic: topics.Topic) -> None:
    config = administration.expected_config(topic, administration.ONE_BROKER)
    cut = topics.COMPACTION_LAG if topic.compacted else topics.SEGMENT
    assert config["message.timestamp.type"] == "LogAppendTime"
    assert config["segment.ms"] == str(round(cut.total_seconds() * 1000))
    assert config["segment.jitter.ms"] == "0"


def test_a_topic_belongs_to_the_service_in_its_name_and_its_commands_are_asked_of_it_alone() -> None:
    for topic in topics.TOPICS:
        assert topic.name.startswith(f"popfax.{topic.service}.")
        assert topic.readers == {topic.service} if topic.commands else topic.writer is topic.service


# --- a broker that does not get on ---


def test_a_broker_that_gets_on_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(administration, "STALLED_S", 0.2)
    patience = _Patience()
    for missing in (5, 4, 3, 2, 1):
        time.sleep(0.15)
        patience.look(missing, "a topic")


@pytest.mark.parametrize(
    ("missing", "said"),
    [(3, "for 0.1 s, 3 of them missing: missing topic: x"), (None, "it does not say what is there: missing topic: x")],
)
def test_a_broker_that_does_not_get_on_is_given_up_with_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, missing: int | None, said: str
) -> None:
    monkeypatch.setattr(administration, "STALLED_S", 0.1)
    patience = _Patience()
    patience.look(missing, "missing topic: x")
    time.sleep(0.15)
    with pytest.raises(Stalled, match=said):
        patience.look(missing, "missing topic: x")
