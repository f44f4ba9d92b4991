"""A first command with the contracts' package: models instead of JSON by hand, and each code with its meaning.

It needs `popfax-contracts`, built from `contracts/`, and a Kafka client (`pip install confluent-kafka`). It connects as
the principal `platform`, with what these environment variables say:

    PLATFORM_KAFKA_BOOTSTRAP, PLATFORM_KAFKA_USERNAME, PLATFORM_KAFKA_PASSWORD

With `--offline` it needs neither Kafka nor a client: it shows the record that it would publish, and reads an answer.
"""

# ruff: noqa: T201, PLC0415
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.codes import ProvisioningCode
from popfax_contracts.fields import Language
from popfax_contracts.message import Command, Message, Refusal
from popfax_contracts.provisioning import RegisterSubscriber, RegistrationRefused
from popfax_contracts.topics import PROVISIONING_EVENTS, Principal

TIMEOUT_S = 30


def main() -> None:
    """Register a subscriber, and print the event that answers."""
    subscriber_id = uuid4()
    command = RegisterSubscriber(
        subscriber_id=subscriber_id,
        email=f"anne.{subscriber_id.hex[:8]}@example.com",
        first_name="Anne",
        last_name="Martin",
        language=Language.FR,
    )
    command_id = str(uuid4())  # send the same id again after a failure, and the command is carried out once
    record = record_of(command, command_id)
    if sys.argv[1:] == ["--offline"]:
        print(f"would publish to {record['topic']}: {record['key']} {record['value'].decode()}")
        tell(command, message_of(*an_answer(command, command_id)))
    else:
        tell(command, publish_and_wait(record, command_id))


def record_of(command: Command, command_id: str) -> dict[str, Any]:
    """Return the record of a command, as a Kafka client takes it."""
    return {
        "topic": command.topic_of(Principal.PLATFORM).name,
        "key": command.key(),
        "value": command.to_json(),
        "headers": [
            ("ce_specversion", b"1.0"),
            ("ce_id", command_id.encode()),
            ("ce_source", b"popfax/platform"),
            ("ce_type", command.TYPE.encode()),
            ("ce_time", datetime.now(UTC).isoformat().encode()),
        ],
    }


def message_of(headers: Mapping[str, str], key: bytes | None, value: bytes | None) -> Message | None:
    """Read a record; None for a type that this version of the contracts does not know."""
    model = MESSAGES.get(headers["ce_type"])
    return None if model is None else model.from_record(key, value)


def tell(command: Command, answer: Message | None) -> None:
    """Print what became of a command: its class says which events mean that it was done, and which that it was not."""
    if isinstance(answer, type(command).ANSWERS):
        print(f"done       {type(answer).__name__} {answer.to_json().decode()}")
    elif isinstance(answer, Refusal):
        meanings = {code.value: code.meaning for code in type(command).CODES}
        print(f"refused    {type(answer).__name__}: {answer.code} ({meanings.get(answer.code, 'a newer code')})")
    else:
        print(f"read       {answer!r}")


def an_answer(command: RegisterSubscriber, command_id: str) -> tuple[dict[str, str], bytes, bytes]:
    """Return the headers, key and value of an answer as they might come from Kafka."""
    refused = RegistrationRefused(
        subscriber_id=command.subscriber_id, code=ProvisioningCode.EMAIL_TAKEN, command_type=command.TYPE
    )
    headers = {"ce_type": refused.TYPE, "ce_correlationid": command_id}
    return headers, refused.key().encode(), refused.to_json()


def publish_and_wait(record: Mapping[str, Any], command_id: str) -> Message | None:
    """Publish a command, and return the event that carries its correlation."""
    from confluent_kafka import Consumer, Producer

    connection = {
        "bootstrap.servers": os.environ["PLATFORM_KAFKA_BOOTSTRAP"],
        "security.protocol": os.environ.get("PLATFORM_KAFKA_SECURITY", "SASL_PLAINTEXT"),
        "ssl.ca.location": os.environ.get("PLATFORM_KAFKA_CA_FILE", "probe"),  # which is the system's
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": os.environ["PLATFORM_KAFKA_USERNAME"],
        "sasl.password": os.environ["PLATFORM_KAFKA_PASSWORD"],
    }
    # Every writer of a topic must put a key on the same partition. librdkafka's default would not.
    producer = Producer({**connection, "acks": "all", "enable.idempotence": True, "partitioner": "murmur2_random"})
    producer.produce(**record)
    if producer.flush(TIMEOUT_S):
        sys.exit("Kafka did not take it in time")
    # A principal may use the consumer group that has its name, and no other.
    consumer = Consumer({**connection, "group.id": "platform", "auto.offset.reset": "earliest"})
    consumer.subscribe([PROVISIONING_EVENTS.name])
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while time.monotonic() < deadline:
            found = consumer.poll(1.0)
            if found is None or found.error() is not None:
                continue
            headers = {name: bytes(text or b"").decode(errors="replace") for name, text in (found.headers() or ())}
            if headers.get("ce_correlationid") == command_id:
                return message_of(headers, found.key(), found.value())
    finally:
        consumer.close()
    sys.exit(f"no answer to {command_id} in {TIMEOUT_S} s")


if __name__ == "__main__":
    main()
