"""A first command to Popfax Groups, and the first event that it causes, from a program of your own.

It knows nothing of this project's code: a Kafka client is all it needs (`pip install confluent-kafka`). It connects as
the principal `platform`, with what these environment variables say:

    PLATFORM_KAFKA_BOOTSTRAP, PLATFORM_KAFKA_USERNAME, PLATFORM_KAFKA_PASSWORD
"""

# ruff: noqa: T201
import json
import os
import sys
import time
from datetime import UTC, datetime
from uuid import uuid4

from confluent_kafka import Consumer, KafkaError, Message, Producer

COMMANDS = "popfax.provisioning.commands"
EVENTS = "popfax.provisioning.events"
TIMEOUT_S = 30


def main() -> None:
    """Register a subscriber, and print the event that answers."""
    connection = {
        "bootstrap.servers": os.environ["PLATFORM_KAFKA_BOOTSTRAP"],
        "security.protocol": os.environ.get("PLATFORM_KAFKA_SECURITY", "SASL_PLAINTEXT"),
        "ssl.ca.location": os.environ.get("PLATFORM_KAFKA_CA_FILE", "probe"),  # which is the system's
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": os.environ["PLATFORM_KAFKA_USERNAME"],
        "sasl.password": os.environ["PLATFORM_KAFKA_PASSWORD"],
    }
    command_id = publish(connection)
    await_outcome(connection, command_id)


def publish(connection: dict[str, str]) -> str:
    """Publish one RegisterSubscriber; return its id."""
    producer = Producer(
        {
            **connection,
            "acks": "all",
            "enable.idempotence": True,
            # Every writer of a topic must put a key on the same partition. librdkafka's default would not.
            "partitioner": "murmur2_random",
        }
    )
    # Send the same id again after a failure, and the command is carried out once.
    command_id = str(uuid4())
    subscriber_id = str(uuid4())
    value = {
        "subscriber_id": subscriber_id,
        "email": f"anne.{subscriber_id[:8]}@example.com",
        "first_name": "Anne",
        "last_name": "Martin",
        "language": "fr",
    }
    headers: list[tuple[str, str | bytes | None]] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", command_id.encode()),
        ("ce_source", b"popfax/platform"),
        ("ce_type", b"popfax.provisioning.register-subscriber.v1"),
        ("ce_time", datetime.now(UTC).isoformat().encode()),
        # A command on somebody's behalf, such as create-member-account, also says whose: ("ce_actor", subscriber_id)
    ]
    producer.produce(
        COMMANDS,
        key=subscriber_id,  # the aggregate's id: the field that the message's contract names as its key
        value=json.dumps(value),
        headers=headers,
        on_delivery=acknowledged,
    )
    producer.flush(TIMEOUT_S)
    print(f"published  register-subscriber {command_id}")
    return command_id


def acknowledged(error: KafkaError | None, _: Message) -> None:
    """Hear from Kafka whether it has the command."""
    if error is not None:
        sys.exit(f"Kafka did not take it: {error.str()}")


def await_outcome(connection: dict[str, str], command_id: str) -> None:
    """Read events until the one that carries our command's correlation comes, and print it."""
    # A principal may use the consumer group that has its name, and no other.
    consumer = Consumer({**connection, "group.id": "platform", "auto.offset.reset": "earliest"})
    consumer.subscribe([EVENTS])
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while time.monotonic() < deadline:
            record = consumer.poll(1.0)
            if record is None or record.error() is not None:
                continue
            headers = {name: bytes(text or b"").decode(errors="replace") for name, text in (record.headers() or ())}
            if headers.get("ce_correlationid") == command_id:
                print(f"read       {headers['ce_type']} {record.value().decode()}")
                return
    finally:
        consumer.close()
    sys.exit(f"no answer to {command_id} in {TIMEOUT_S} s")


if __name__ == "__main__":
    main()
