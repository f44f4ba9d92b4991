"""How many partitions and replicas a deployment's topics have, and for how long they keep their records.

A TOML file says what differs from the defaults:

    replication_factor = 3
    min_insync_replicas = 2
    partitions = 24
    retention_days = 10

    [topics."popfax.ledger.commands"]
    partitions = 48
"""

import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from popfax_contracts.topics import BROKER_ROUND, BY_NAME, RETENTION, SEGMENT, Principal, Topic

Partitions = Annotated[int, Field(strict=True, ge=1, le=1000)]
RetentionDays = Annotated[int, Field(strict=True, ge=1, le=3650)]

_SAFE_REPLICAS = 3
"""From so many replicas on, a record that is acknowledged is on two brokers at least."""


class InvalidSettings(Exception):
    """The settings can't be meant, or are not safe. The message is one line."""


class OneTopic(BaseModel):
    """What differs for one topic; what is missing is as for all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    partitions: Partitions | None = None
    retention_days: RetentionDays | None = None


class TopicSettings(BaseModel):
    """A deployment's settings of all topics."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    replication_factor: Annotated[int, Field(strict=True, ge=1, le=10)] = 1
    """How many brokers keep each record."""
    min_insync_replicas: Annotated[int, Field(strict=True, ge=1, le=10)] = 1
    """How many of them must have it before it is acknowledged."""
    partitions: Partitions | None = None
    """How many partitions a topic has; without it, as many as the contracts say."""
    retention_days: RetentionDays = RETENTION.days
    """The least time that a topic which is not compacted keeps a record."""
    topics: Mapping[str, OneTopic] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_safe(self) -> "TopicSettings":
        if self.replication_factor > 1 and self.min_insync_replicas >= self.replication_factor:
            raise ValueError(
                "min_insync_replicas must be less than replication_factor, or one broker's restart stops all"
            )
        if self.min_insync_replicas > self.replication_factor:
            raise ValueError("min_insync_replicas must not be more than replication_factor")
        if self.replication_factor >= _SAFE_REPLICAS and self.min_insync_replicas == 1:
            raise ValueError("min_insync_replicas must be 2 or more, or one broker's loss loses acknowledged records")
        for name, one in self.topics.items():
            if name not in BY_NAME:
                raise ValueError(f"there is no topic {name}")
            if BY_NAME[name].compacted and one.retention_days is not None:
                raise ValueError(f"{name} is compacted: it keeps the newest record of each key forever")
        return self

    def partitions_of(self, topic: Topic) -> int:
        """Return how many partitions a topic should have."""
        own = self.topics.get(topic.name, OneTopic()).partitions
        return own or self.partitions or topic.partitions

    def retention_of(self, topic: Topic) -> timedelta:
        """Return the least time that a topic keeps a record; a compacted one keeps tombstones for so long."""
        own = self.topics.get(topic.name, OneTopic()).retention_days
        return timedelta(days=own or self.retention_days)

    def kept_at_most(self, topic: Topic) -> timedelta:
        """Return the most time that a record of a topic that is not compacted can be read."""
        return self.retention_of(topic) + SEGMENT + BROKER_ROUND

    def require_memory(self, inbox_days: Mapping[Principal, int]) -> None:
        """Raise `InvalidSettings` if a topic keeps records for longer than a reader's inbox remembers their ids."""
        for topic in BY_NAME.values():
            for reader in sorted(topic.readers & inbox_days.keys()):
                if not topic.compacted and self.kept_at_most(topic) >= timedelta(days=inbox_days[reader]):
                    raise InvalidSettings(
                        f"{topic.name} can keep a record for {self.kept_at_most(topic)}, and "
                        f"{reader.upper()}_INBOX_RETENTION_DAYS is {inbox_days[reader]}: raise that first"
                    )


def read_settings(file: Path) -> TopicSettings:
    """Read a deployment's settings. Raises `InvalidSettings`."""
    try:
        found: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        return TopicSettings.model_validate(found)
    except OSError as error:
        raise InvalidSettings(f"{file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{file}: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidSettings(f"{file}: {where + ': ' if where else ''}{first['msg']}") from error


ONE_BROKER = TopicSettings()
CLUSTER = TopicSettings(replication_factor=3, min_insync_replicas=2)
