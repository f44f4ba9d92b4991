"""Client configurations for the broker, and whether the broker answers them."""

from collections.abc import Mapping

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

ADMIN = "admin"
"""The super user: the broker itself and its administrators."""

MECHANISM = "SCRAM-SHA-512"

PLAINTEXT = "SASL_PLAINTEXT"


def client_config(bootstrap: str, user: str, password: str, security: str = PLAINTEXT) -> dict[str, str]:
    """Return what confluent-kafka needs to connect as `user`, with `security` as Kafka names its protocols."""
    return {
        "bootstrap.servers": bootstrap,
        "security.protocol": security,
        "sasl.mechanism": MECHANISM,
        "sasl.username": str(user),  # confluent-kafka doesn't take a subclass of str such as Principal everywhere
        "sasl.password": password,
    }


def answers_authenticated(config: Mapping[str, str], timeout_s: float) -> bool:
    """Return whether a broker answers an authenticated request within `timeout_s` seconds."""
    quiet = {"log_level": 0, "reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 200}
    try:
        AdminClient({**config, **quiet}).list_topics(timeout=timeout_s)
    except KafkaException:
        return False
    return True
