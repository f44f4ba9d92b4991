"""Who may send what, how long it is kept and what of that is promised, and a broker that does not get on."""

import time
from uuid import UUID

import pytest
from confluent_kafka import KafkaError, KafkaException

from deploy.contract_tools.asyncapi import SERVICES
from deploy.operator import topics as administration
from deploy.operator.topic_settings import ONE_BROKER
from deploy.operator.topics import Stalled, _Patience
from popfax_contracts import topics
from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.ledger import CaptureHold, CreditUnits, PostTransfers, ReleaseHold, ReserveUnits, SpendUnits
from popfax_contracts.message import Command, Message
from popfax_contracts.notifications import MailBounced, SendInvitation, SendMembersLow
from popfax_contracts.provisioning import CancelGrant, CancelProvisioning, GrantPurchase, ProvisionAccount
from popfax_contracts.topics import Principal
from services.chassis.markers import markers
from services.chassis.messages import StoredRecord, decode, headers_of
from services.chassis.runtime import retention
from services.chassis.service import Service
from services.chassis.settings import ServiceSettings

PARTITIONS = {topic.name: topic.partitions for topic in topics.TOPICS}


def test_what_is_erased_is_gone_when_it_is_promised() -> None:
    assert topics.erased_within() <= topics.ERASURE


def test_the_inbox_outlasts_what_topics_keep() -> None:
    default = ServiceSettings.model_fields["inbox_retention_days"].default
    settings = ServiceSettings.model_construct(inbox_retention_days=default)
    assert retention(settings) > topics.kept_at_most() > topics.RETENTION


@pytest.mark.parametrize("topic", topics.TOPICS, ids=lambda topic: topic.name)
def test_the_settings_of_a_topic_are_those_that_its_bound_rests_on(topic: topics.Topic) -> None:
    config = administration.expected_config(topic, ONE_BROKER)
    cut = topics.COMPACTION_LAG if topic.compacted else topics.SEGMENT
    assert config["message.timestamp.type"] == "LogAppendTime"
    assert config["segment.ms"] == str(round(cut.total_seconds() * 1000))
    assert config["segment.jitter.ms"] == "0"


def test_a_topic_belongs_to_the_service_in_its_name_and_its_commands_are_asked_of_it_alone() -> None:
    for topic in topics.TOPICS:
        assert topic.name.startswith(f"popfax.{topic.service}.")
        assert topic.readers == {topic.service} if topic.commands else topic.writer is topic.service


# --- who may send what ---

SENDERS: dict[type[Message], set[Principal]] = {
    CreditUnits: {Principal.PLATFORM},
    SpendUnits: {Principal.PLATFORM},
    PostTransfers: {Principal.GROUPS},
    ReserveUnits: {Principal.GROUPS, Principal.PROVISIONING},
    CaptureHold: {Principal.GROUPS, Principal.PROVISIONING},
    ReleaseHold: {Principal.GROUPS, Principal.PROVISIONING},
    ProvisionAccount: {Principal.GROUPS},
    CancelProvisioning: {Principal.GROUPS},
    GrantPurchase: {Principal.GROUPS},
    CancelGrant: {Principal.GROUPS},
    SendInvitation: {Principal.GROUPS},
    SendMembersLow: {Principal.GROUPS},
    MailBounced: {Principal.PLATFORM},
}


@pytest.mark.parametrize("model", SENDERS, ids=lambda model: model.__name__)
def test_a_command_is_sent_by(model: type[Message]) -> None:
    assert {topic.writer for topic in model.TOPICS} == SENDERS[model]
    for nobody in set(Principal) - SENDERS[model]:
        with pytest.raises(TypeError, match="may not send"):
            model.topic_of(nobody)


def test_no_other_command_is_sent_by_an_orchestrator_to_another_service() -> None:
    for model in MESSAGES.values():
        if issubclass(model, Command) and model not in SENDERS:
            service = model.TOPICS[0].service
            assert {topic.writer for topic in model.TOPICS} <= {Principal.PLATFORM, service}


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.principal)
def test_a_marker_is_none_of_a_reader_s_business(service: Service) -> None:
    handled = {model.TYPE.encode(): model for model in service.handlers}
    for out in (out for principal in Principal for out in markers(principal, PARTITIONS)):
        (topic,) = MESSAGES[out.type].TOPICS
        headers = headers_of(out, f"popfax/{topic.writer}", "2031-01-01T00:00:00+00:00")
        record = StoredRecord(UUID(str(out.id)), None, topic.name, 0, 0, out.key.encode(), None, list(headers))
        assert decode(record, handled, service.command_topics) is None


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


@pytest.mark.parametrize(
    ("why", "passes"),
    [
        ("All brokers are currently fenced, or have all their log directories cordoned.", True),
        ("The target replication factor of 3 cannot be reached because only 1 broker(s) are registered", False),
    ],
)
def test_a_broker_that_was_frozen_is_asked_again_and_a_cluster_that_is_too_small_is_not(why: str, passes: bool) -> None:
    """Kafka's controller has one code for both: as one broker said it, after 2.6 s without a heartbeat, and before."""
    said = f"Unable to replicate the partition 1 time(s): {why}"
    refused = KafkaException(KafkaError(KafkaError.INVALID_REPLICATION_FACTOR, said))
    assert administration._is_passing(refused) is passes
