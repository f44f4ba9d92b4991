"""More partitions for a topic that is in use, with the order of each key kept: close it, drain it, switch, open it.

A key's partition follows from their number, so with another number most keys move. What was written before and after
would then be read side by side, in any order. So nothing may be written until everything has been read:

- `close` denies everybody to write the topic. The broker itself refuses, whoever tries: a relay keeps its rows in the
  outbox and tries again.
- `unread` says what the readers have not handled yet.
- `widen` adds partitions, and only to a topic that is closed and drained.
- `reopen` lets the writers in again, once they must have learned of the new partitions.

Each can be repeated after a crash. Compacted topics are refused: the old value of a key would stay in its old
partition, where no newer record and no tombstone reaches it.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, OffsetSpec  # type: ignore[attr-defined]

from deploy.operator import topics
from popfax_contracts.topics import Principal, Topic
from services.chassis.relay import LEARNS_WITHIN_S
from services.groups.consumers import GROUPS
from services.ledger.consumers import LEDGER
from services.notifications.consumers import NOTIFICATIONS
from services.provisioning.consumers import PROVISIONING

_SERVICES = (GROUPS, LEDGER, PROVISIONING, NOTIFICATIONS)
_REQUEST_TIMEOUT_S = 15.0
_POLL_S = 0.5
_MARKERS = 10
"""So few unread offsets may be the markers of a platform's transactions, which no reader ever gets to see."""

_LEADERLESS = frozenset({KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE})

SERVICE_LEARNS_S = LEARNS_WITHIN_S + 5.0
"""How long after a switch a service's relay may still write by the old number of partitions, with a margin."""

CLIENT_LEARNS_S = 330.0
"""The same for the platform's producers: Kafka's clients ask for partitions every 5 minutes by default."""


class Refused(Exception):
    """The step would break the order of a key, or lose a record. The message is one line, and says what to do."""


@dataclass(frozen=True, slots=True)
class Unread:
    """What a group of readers has yet to handle of a partition, in records."""

    group: str
    partition: int
    records: int


class Switch:
    """The way of one topic to more partitions."""

    def __init__(self, admin_config: Mapping[str, str], topic: Topic) -> None:
        """`admin_config` is a super user's client configuration. Raises `Refused` for a compacted topic."""
        if topic.compacted:
            raise Refused(
                f"{topic.name} is compacted: a key's old value would stay in its old partition forever, "
                "out of reach of newer values and tombstones"
            )
        self._config = admin_config
        self._client = AdminClient({**admin_config, "log_level": 0})
        self._topic = topic

    @property
    def learns_s(self) -> float:
        """Return how long its writers may take to learn of new partitions."""
        return CLIENT_LEARNS_S if self._topic.writer is Principal.PLATFORM else SERVICE_LEARNS_S

    def partitions(self) -> int:
        """Return how many partitions the topic has."""
        name = self._topic.name
        found = self._client.list_topics(name, timeout=_REQUEST_TIMEOUT_S).topics[name]
        if found.error is not None:
            raise KafkaException(found.error)
        return len(found.partitions)

    def is_closed(self) -> bool:
        """Return whether the broker refuses what anybody but an administrator writes to the topic."""
        return topics.is_closed(self._client, self._topic)

    def close(self, wanted: int) -> None:
        """Have the broker refuse whatever is written to the topic from now on. Raises `Refused` without a reason to."""
        found = self.partitions()
        if found > wanted:
            raise Refused(f"{self._topic.name} has {found} partitions, and Kafka can't take any away")
        if found == wanted:
            raise Refused(f"{self._topic.name} has {found} partitions, as the settings say: nothing to switch")
        topics.close(self._client, self._topic)

    def unread(self) -> list[Unread]:
        """Return what readers have not handled yet; a reader has handled what it has committed."""
        ends = self.ends()
        return [each for group in sorted(self._groups()) for each in self._unread_by(group, ends)]

    def ends(self) -> dict[int, tuple[int, int]]:
        """Return the first and the next offset of each partition."""
        first, following = self._offsets(OffsetSpec.earliest()), self._offsets(OffsetSpec.latest())  # type: ignore[no-untyped-call]
        return {partition: (first[partition], end) for partition, end in following.items()}

    def widen(self, wanted: int) -> None:
        """Add the partitions that are missing. Raises `Refused` while the topic is open or not drained."""
        if not self.is_closed():
            raise Refused(f"{self._topic.name} is open to its writers. First: popfax topics drain {self._topic.name}")
        self._require_drained()
        if self.partitions() < wanted:
            new = NewPartitions(self._topic.name, wanted)
            for future in self._client.create_partitions([new], request_timeout=_REQUEST_TIMEOUT_S).values():
                future.result()
        while self.partitions() < wanted:
            time.sleep(_POLL_S)

    def reopen(self, learned: bool = False, wait: Callable[[float], None] = time.sleep) -> None:
        """Let the writers in again, once they have learned how many partitions there are: they have if `learned`.

        Raises `Refused` if somebody else has opened it, or has written since it was drained and is not read yet.
        """
        if not learned:
            wait(self.learns_s)
        if not self.is_closed():
            raise Refused(
                f"{self._topic.name} was opened by somebody else: "
                "what was written since may be out of order within a key"
            )
        self._require_drained()
        topics.reopen(self._client, self._topic)

    def _require_drained(self) -> None:
        if left := self.unread():
            records = sum(each.records for each in left)
            groups = ", ".join(sorted({each.group for each in left}))
            raise Refused(f"{self._topic.name} is not drained, {records} records are left: wait for {groups}")

    def _groups(self) -> set[str]:
        """Return the groups that read the topic: services by their code, the platform if it has ever committed."""
        services = {each.principal.value for each in _SERVICES if self._topic in each.topics}
        platform = {Principal.PLATFORM.value} if Principal.PLATFORM in self._topic.readers else set()
        return services | {group for group in platform if self._committed(group)}

    def _committed(self, group: str) -> dict[int, int]:
        """Return the offsets that a group has committed, by partition."""
        places = [TopicPartition(self._topic.name, number) for number in range(self.partitions())]
        asked = self._client.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group, places)], request_timeout=_REQUEST_TIMEOUT_S
        )
        try:
            found = asked[group].result().topic_partitions
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return {}
            raise
        return {each.partition: each.offset for each in found if each.offset >= 0}

    def _offsets(self, spec: Any) -> dict[int, int]:
        deadline = time.monotonic() + _REQUEST_TIMEOUT_S
        while True:
            places = {TopicPartition(self._topic.name, number): spec for number in range(self.partitions())}
            found = self._client.list_offsets(places, request_timeout=_REQUEST_TIMEOUT_S)
            try:
                return {place.partition: future.result().offset for place, future in found.items()}
            except KafkaException as error:  # a partition that was just made has no leader yet
                if error.args[0].code() not in _LEADERLESS or time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_S)

    def _unread_by(self, group: str, ends: Mapping[int, tuple[int, int]]) -> Iterator[Unread]:
        committed = self._committed(group)
        for partition, (first, end) in ends.items():
            at = max(committed.get(partition, first), first)
            if at < end and not (end - at <= _MARKERS and self._is_empty(partition, at)):
                yield Unread(group, partition, end - at)

    def _is_empty(self, partition: int, offset: int) -> bool:
        """Return whether a reader of committed records finds none from an offset on."""
        config = {**self._config, "group.id": "popfax-topics", "enable.auto.commit": False, "log_level": 0}
        consumer = Consumer(config | {"enable.partition.eof": True, "isolation.level": "read_committed"})
        try:
            consumer.assign([TopicPartition(self._topic.name, partition, offset)])
            message = consumer.poll(_REQUEST_TIMEOUT_S)
            error = None if message is None else message.error()
            return error is not None and error.code() == KafkaError._PARTITION_EOF
        finally:
            consumer.close()


def await_drained(
    switch: Switch, within_s: float, told: Callable[[Collection[Unread]], None], poll_s: float = 1.0
) -> bool:
    """Wait until readers have handled everything, and tell what is left meanwhile; return whether they have."""
    deadline = time.monotonic() + within_s
    while left := switch.unread():
        told(left)
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)
    return True
