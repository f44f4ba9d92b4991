"""What a broker keeps, and for how long: on a real one, with our settings and short times."""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.kafka import KafkaBroker
from deploy.operator import topics
from deploy.operator.kafka import ADMIN
from deploy.operator.topic_settings import ONE_BROKER, TopicSettings
from popfax_contracts.ledger import BalancesMarker
from popfax_contracts.topics import LEDGER_BALANCES, LEDGER_EVENTS, TOPICS, Principal, Topic
from services.chassis.kafka import partition_of
from services.chassis.markers import keys_of, mark, markers
from services.chassis.relay import Relay
from services.chassis.settings import ServiceSettings

DAY_MS = 24 * 60 * 60 * 1000
SHORT = timedelta(seconds=3)
PATIENCE_S = 60.0
"""Many times the bounds: the machine may be busy with other things."""

QUICK = {
    "log.retention.check.interval.ms": "500",
    "log.cleaner.backoff.ms": "500",
    "log.initial.task.delay.ms": "100",
    "log.segment.delete.delay.ms": "100",
}
"""A broker that looks all the time: what it does in between takes hours otherwise."""

PARTITIONS = 15
"""Another number than the contracts' default: a deployment chooses."""

Kept = list[tuple[bytes | None, bytes | None]]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    made = KafkaBroker(tmp_path_factory.mktemp("retention") / "kafka", settings=QUICK)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEGMENT", "COMPACTION_LAG"):
        monkeypatch.setattr(topics, name, SHORT)
    monkeypatch.setattr(TopicSettings, "retention_of", lambda _, topic: SHORT)


def make(broker: KafkaBroker, name: str, config: dict[str, str], partitions: int = 1) -> str:
    admin = AdminClient({**broker.client_config(ADMIN)})
    for future in admin.create_topics([NewTopic(name, partitions, 1, config=config)]).values():
        future.result()
    return name


def config_of(kind: str, **changed: str) -> dict[str, str]:
    topic = LEDGER_BALANCES if kind == "compacted" else LEDGER_EVENTS
    return topics.expected_config(topic, ONE_BROKER) | {
        name.replace("_", "."): value for name, value in changed.items()
    }


def send(broker: KafkaBroker, topic: str, *records: tuple[bytes, bytes | None, int]) -> list[KafkaError | None]:
    """Send records with a moment each, in one batch; return what became of them."""
    producer = Producer({**broker.client_config(ADMIN), "linger.ms": 500, "log_level": 0})
    found: list[KafkaError | None] = []
    for key, value, at_ms in records:
        producer.produce(
            topic, value, key, partition=0, timestamp=at_ms, on_delivery=lambda error, _: found.append(error)
        )
    producer.flush(30)
    return found


def kept(broker: KafkaBroker, topic: str, partition: int = 0) -> Kept:
    """What can still be read."""
    consumer = Consumer(
        {**broker.client_config(ADMIN), "group.id": "kept", "enable.partition.eof": True, "log_level": 0}
    )
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
    found: Kept = []
    while (message := consumer.poll(20)) is not None and message.error() is None:
        found.append((message.key(), message.value()))
    consumer.close()
    return found


def wait_until(holds: Callable[[], bool]) -> float:
    """Wait until something holds; return how long that took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < PATIENCE_S, "not in time"
        time.sleep(0.3)
    return time.monotonic() - began


def now_ms() -> int:
    return round(time.time() * 1000)


# --- a sender's clock ---


def test_a_sender_s_clock_decides_over_its_records_when_the_broker_trusts_it(broker: KafkaBroker) -> None:
    """The fault that our settings are for: an acknowledged record is deleted, a good one is refused with another."""
    topic = make(broker, "trusting", config_of("deleted", message_timestamp_type="CreateTime"))
    assert send(broker, topic, (b"old", b"v", now_ms() - 30 * DAY_MS)) == [None]
    wait_until(lambda: kept(broker, topic) == [])
    errors = send(broker, topic, (b"early", b"v", now_ms() + 30 * DAY_MS), (b"good", b"v", now_ms()))
    assert [error is not None and error.name() for error in errors] == ["INVALID_TIMESTAMP"] * 2


def test_a_sender_s_clock_decides_nothing_on_our_topics(broker: KafkaBroker) -> None:
    topic = make(broker, "ours", config_of("deleted"))
    moments = (now_ms() - 30 * DAY_MS, now_ms() + 30 * DAY_MS, now_ms())
    records = [(str(at).encode(), b"v", at) for at in moments]
    assert send(broker, topic, *records) == [None] * 3
    time.sleep(3)  # the broker has looked several times
    assert [key for key, _ in kept(broker, topic)] == [key for key, _, _ in records]


# --- how long a record is kept ---


@pytest.mark.usefixtures("short")
def test_a_record_on_a_quiet_partition_is_deleted_in_time(broker: KafkaBroker) -> None:
    """Nothing is appended, and nothing need be: a log that has expired to its end is deleted to its end."""
    topic = make(broker, "quiet", config_of("deleted"))
    send(broker, topic, (b"k", b"v", 0))
    assert wait_until(lambda: kept(broker, topic) == []) >= 1


@pytest.mark.usefixtures("short")
def test_a_record_among_newer_ones_is_deleted_in_time(broker: KafkaBroker) -> None:
    topic = make(broker, "busy", config_of("deleted"))
    send(broker, topic, (b"first", b"v", 0))

    def is_gone() -> bool:
        send(broker, topic, (b"more", b"v", 0))
        return (b"first", b"v") not in kept(broker, topic)

    wait_until(is_gone)


# --- erasure ---


@pytest.mark.usefixtures("short")
@pytest.mark.drill
async def test_an_erased_value_on_a_quiet_partition_is_gone_once_its_writer_marks_it(
    broker: KafkaBroker, ledger_engine: AsyncEngine
) -> None:
    """Through the outbox and the relay, as in the product; without markers it would stay forever."""
    topic = make(broker, LEDGER_BALANCES.name, config_of("compacted"), PARTITIONS)
    unmarked = make(broker, "unmarked", config_of("compacted"))
    for each in (topic, unmarked):
        send(broker, each, (b"anne", b"her address", 0))
        send(broker, each, (b"anne", None, 0))
    settings = ServiceSettings.model_validate(
        {
            "database_url": ledger_engine.url.render_as_string(hide_password=False),
            "kafka_bootstrap": broker.bootstrap,
            "kafka_username": ADMIN,
            "kafka_password": broker.password(ADMIN),
        }
    )
    relay = Relay(Principal.LEDGER, ledger_engine, settings)
    often = timedelta(seconds=1)
    running = [
        asyncio.create_task(relay.run()),
        asyncio.create_task(mark(ledger_engine, settings, Principal.LEDGER, relay.wake, often, often)),
    ]
    try:
        gone = ((b"anne", b"her address"), (b"anne", None))
        await asyncio.to_thread(wait_until, lambda: not set(gone) & set(kept(broker, topic)))
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    assert kept(broker, unmarked) == list(gone)
    for partition in range(PARTITIONS):
        found = kept(broker, topic, partition)
        assert {key for key, _ in found} == {str(keys_of(LEDGER_BALANCES, PARTITIONS)[partition]).encode()}
        assert {value for _, value in found} == {None}


@pytest.mark.parametrize("partitions", [1, 12, 100])
def test_each_partition_has_a_marker_s_key_of_its_own(partitions: int) -> None:
    for topic in (topic for topic in TOPICS if topic.compacted):
        keys = keys_of(topic, partitions)
        assert [partition_of(str(key), partitions) for key in keys] == list(range(partitions))


@pytest.mark.parametrize("topic", [topic for topic in TOPICS if topic.compacted], ids=lambda topic: topic.name)
def test_every_compacted_topic_is_marked_by_its_writer(topic: Topic) -> None:
    partitions = {topic.name: topic.partitions for topic in TOPICS}
    marked = {(out.type, out.key) for principal in Principal for out in markers(principal, partitions)}
    types = {type_ for type_, key in marked if key in {str(each) for each in keys_of(topic, topic.partitions)}}
    assert len(types) == 1


def test_a_marker_has_no_value() -> None:
    assert BalancesMarker(marker_id=uuid4()).to_json() == b""
