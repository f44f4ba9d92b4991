"""How each of Kafka's clients is told where the brokers are, who we are, and whom to trust."""

import ssl
from typing import Any, NamedTuple

from services.chassis import security
from services.chassis.settings import KafkaSettings

MECHANISM = "SCRAM-SHA-512"


class Access(NamedTuple):
    """What a connection is opened with that may change while we run."""

    username: str
    password: str
    tls: tuple[bytes | None, ...]
    """What is in the files for TLS."""


def access(settings: KafkaSettings) -> Access:
    """Return what the next connection is to be opened with. Raises `OSError`, of a file that is just being replaced."""
    return Access(*credentials(settings), security.contents(settings.kafka_tls_files))


def credentials(settings: KafkaSettings) -> tuple[str, str]:
    """Return our user and password."""
    return settings.kafka_username, password(settings)


def password(settings: KafkaSettings) -> str:
    """Return our password, empty if our certificate says who we are."""
    return settings.kafka_password.get_secret_value() if settings.kafka_password else ""


def context(settings: KafkaSettings) -> ssl.SSLContext | None:
    """Return the context for TLS; None without. Raises `ValueError` for a file that is no good."""
    if settings.kafka_security == "SASL_PLAINTEXT":
        return None
    return security.client_context(*settings.kafka_tls_files)


def librdkafka(settings: KafkaSettings) -> dict[str, str]:
    """Return how every client of librdkafka connects."""
    made = {
        "bootstrap.servers": settings.kafka_bootstrap,
        "client.id": settings.kafka_username,
        "security.protocol": settings.kafka_security,
        # Which broker is the controller, an administrator's client learns only so, even if that one is gone.
        "topic.metadata.refresh.interval.ms": "5000",
    }
    if settings.kafka_security != "SSL":
        made |= {
            "sasl.mechanism": MECHANISM,
            "sasl.username": settings.kafka_username,
            "sasl.password": password(settings),
        }
    if settings.kafka_security != "SASL_PLAINTEXT":
        ca_file, certificate_file, key_file = settings.kafka_tls_files
        made["ssl.ca.location"] = str(ca_file) if ca_file else security.BY_DEFAULT
        if certificate_file:
            made["ssl.certificate.location"] = str(certificate_file)
            made["ssl.key.location"] = str(key_file or certificate_file)
    return made


def aiokafka(settings: KafkaSettings) -> dict[str, Any]:
    """Return how every client of aiokafka connects."""
    made: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap.split(","),
        "client_id": settings.kafka_username,
        "security_protocol": settings.kafka_security,
        "ssl_context": context(settings),
    }
    if settings.kafka_security != "SSL":
        made |= {
            "sasl_mechanism": MECHANISM,
            "sasl_plain_username": settings.kafka_username,
            "sasl_plain_password": password(settings),
        }
    return made
