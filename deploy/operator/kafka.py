"""Client configurations for the broker, and whether the broker answers them."""

from collections.abc import Mapping

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from services.chassis.kafka_access import MECHANISM, librdkafka
from services.chassis.settings import KafkaSettings, settings_from

__all__ = ["ADMIN", "MECHANISM", "answers_authenticated", "client_config"]

ADMIN = "admin"
"""The super user: the broker itself and its administrators."""


def client_config(user: str, values: Mapping[str, str]) -> dict[str, str]:
    """Return what confluent-kafka needs to connect as `user`, whose settings are among `values` by environment names.

    Raises pydantic's `ValidationError`, also for brokers that must not be reached in this way.
    """
    return librdkafka(settings_from(KafkaSettings, user, values))


def answers_authenticated(config: Mapping[str, str], timeout_s: float) -> bool:
    """Return whether a broker answers an authenticated request within `timeout_s` seconds."""
    quiet = {"log_level": 0, "reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 200}
    try:
        AdminClient({**config, **quiet}).list_topics(timeout=timeout_s)
    except KafkaException:
        return False
    return True
