"""Who is a member of which group: today's members first, then every change, with plain confluent-kafka.

It knows nothing of this project's code (`pip install confluent-kafka`), and connects as the principal `platform`:

    PLATFORM_KAFKA_BOOTSTRAP, PLATFORM_KAFKA_USERNAME, PLATFORM_KAFKA_PASSWORD
"""

# ruff: noqa: T201
import json
import os

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

TOPIC = "popfax.groups.members"


def main() -> None:
    """Follow the topic until interrupted. It is kept in memory, so every start reads it from the beginning."""
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ["PLATFORM_KAFKA_BOOTSTRAP"],
            "security.protocol": os.environ.get("PLATFORM_KAFKA_SECURITY", "SASL_PLAINTEXT"),
            "ssl.ca.location": os.environ.get("PLATFORM_KAFKA_CA_FILE", "probe"),  # which is the system's
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": os.environ["PLATFORM_KAFKA_USERNAME"],
            "sasl.password": os.environ["PLATFORM_KAFKA_PASSWORD"],
            "group.id": "platform",  # a principal may name no other; it is not joined, and nothing is committed
            "enable.auto.commit": False,
        }
    )
    partitions = consumer.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions
    consumer.assign([TopicPartition(TOPIC, number, OFFSET_BEGINNING) for number in partitions])
    members: dict[str, dict[str, object]] = {}
    while True:
        record = consumer.poll(1.0)
        if record is None or record.error() is not None:
            continue
        # Markers keep Kafka compacting, and say nothing. Whoever does not know a type leaves it out.
        if not dict(record.headers() or ()).get("ce_type", b"").startswith(b"popfax.groups.membership-"):
            continue
        key, value = (record.key() or b"").decode(), record.value()
        if value:
            members[key] = json.loads(value)
        else:  # a tombstone: the membership is over
            members.pop(key, None)
        print(f"{len(members)} members; {key} {'is one' if key in members else 'is none any more'}", flush=True)


if __name__ == "__main__":
    main()
