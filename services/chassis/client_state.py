"""What librdkafka reports about itself each second, and what that means for readiness."""

import math
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import structlog
from confluent_kafka import KafkaError
from pydantic_core import from_json

from services.chassis.partitions import Place

log = structlog.get_logger(__name__)

SILENT_S = 15.0
"""A broker that has not answered for this long counts as away, whatever the state of its connection: it may be frozen.

Even an idle partition is fetched twice a second, and the group's coordinator gets a heartbeat each second.
"""

STRANDED_S = 180.0
"""A client that has been in no group, or connected to no broker, for this long may not get there by itself.

A rebalance may take up to `max.poll.interval.ms` (120 s), when a member does not answer. And librdkafka may forget all
brokers for good, when one that is just coming back knows topics and no broker (its issue 5301).
"""

MUTE_S = 180.0
"""A client that has said nothing for this long has deadlocked (librdkafka's issue 5476): even closing it hangs.

Longer than `consumer.STALLED_S`: a thread that waits for a batch does not listen.
"""

UNREAD_S = 60.0
"""A partition with records of which none has been fetched for this long is not read, whatever its state is called."""

REFUSED = {
    KafkaError._AUTHENTICATION: "a broker refuses our password",
    KafkaError._SSL: "a broker's certificate is not accepted, or ours is not",
}
"""What it means for a connection, by the code of the client's error."""


class ClientState:
    """Judges the client's latest statistics (see STATISTICS.md of librdkafka)."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()
        self._found: str | None = "it has not joined yet"
        self._apart_since: float | None = None
        """Since when it has been in no group, or connected to no broker."""
        self._ends: dict[Place, tuple[int, int]] = {}
        """By topic and partition: where it ends, and where the group stands by what was committed last."""
        self._unread: dict[Place, tuple[int, float]] = {}
        """Where a partition stands that has more, and since when."""
        self._refused = ""
        self._refused_at = -math.inf

    def take(self, statistics: str, owned: Container[Place], held: Container[Place] = ()) -> None:
        """Judge new statistics: librdkafka's `stats_cb`. Partitions that are not `owned` don't matter.

        librdkafka still calls a partition desired that it has handed over to another replica, and active one that is
        paused: what is not read although nobody has it `held` is told from where it stands.
        """
        told: Mapping[str, Any] = from_json(statistics)
        self._told_at = time.monotonic()
        stands = {place: at for place, at in _unread(told, owned) if place not in held}
        self._unread = {
            place: known if (known := self._unread.get(place)) is not None and known[0] == at else (at, self._told_at)
            for place, at in stands.items()
        }
        self._found = next(chain(_troubles(told, owned), self._stuck()), None)
        if _has_joined(told) and _is_connected(told):
            self._apart_since = None
        elif self._apart_since is None:
            self._apart_since = self._told_at
        self._ends = dict(_ends(told, owned))

    def failed(self, error: KafkaError) -> None:
        """Note an error that the client reports: librdkafka's `error_cb`."""
        if (refused := REFUSED.get(error.code())) is not None:
            log.warning("kafka_refused", reason=refused)
            self._refused, self._refused_at = refused, time.monotonic()

    def trouble(self) -> str | None:
        """Say why the client does not consume as it should; None if it does."""
        now = time.monotonic()
        if now - self._told_at >= SILENT_S:
            return f"the client has said nothing for {now - self._told_at:.0f} s"
        if self._found is not None and now - self._refused_at < SILENT_S:
            return f"{self._found} ({self._refused})"
        return self._found

    def _stuck(self) -> Iterator[str]:
        for (topic, partition), (at, since) in self._unread.items():
            if self._told_at - since > UNREAD_S:
                yield f"{topic}/{partition} has more than {at}, and is not read"

    @property
    def stranded(self) -> bool:
        """Return whether it should be replaced, as a restart would: if Kafka is only away, that does no harm."""
        return self._apart_since is not None and time.monotonic() - self._apart_since > STRANDED_S

    @property
    def mute(self) -> bool:
        """Return whether the client has gone silent: only ending the process helps."""
        return time.monotonic() - self._told_at > MUTE_S

    def lags(self, topics: Iterable[str], handled: Mapping[Place, int]) -> dict[str, int]:
        """Return how many records are not handled by topic, in this replica's partitions.

        `handled` is where it stands in those of which it has handled anything. Offsets of markers count as records.
        """
        found = dict.fromkeys(topics, 0)
        for place, (end, committed) in self._ends.items():
            found[place[0]] += max(0, end - handled.get(place, committed))
        return found


def _ends(told: Mapping[str, Any], owned: Container[Place]) -> Iterator[tuple[Place, tuple[int, int]]]:
    """Yield what is known of the partitions that are consumed; the client asks for their ends every ten seconds."""
    for place, partition in _owned(told, owned):
        if (end := partition["ls_offset"]) >= 0:
            committed = max(partition["committed_offset"], partition["lo_offset"], 0)
            yield place, (end, committed)


def _unread(told: Mapping[str, Any], owned: Container[Place]) -> Iterator[tuple[Place, int]]:
    """Yield the partitions with more than was fetched, of which nothing waits to be handled; and where they stand."""
    for place, partition in _owned(told, owned):
        if partition["fetchq_cnt"] == 0 and partition["next_offset"] < partition["ls_offset"]:
            yield place, partition["next_offset"]


def _owned(told: Mapping[str, Any], owned: Container[Place]) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    for topic in told["topics"].values():
        for partition in topic["partitions"].values():
            if (place := (topic["topic"], partition["partition"])) in owned:
                yield place, partition


def _troubles(told: Mapping[str, Any], owned: Container[Place]) -> Iterator[str]:
    if not _has_joined(told):
        joining = told.get("cgrp", {})
        yield f"it has not joined: {joining.get('state')}, {joining.get('join_state')}"
    brokers = told["brokers"]
    if silent := _silent(brokers.get("GroupCoordinator", {})):
        yield f"the coordinator {silent}"
    for (topic, number), partition in _owned(told, owned):
        if partition["fetch_state"] != "active":
            yield f"{topic}/{number} is not fetched: {partition['fetch_state']}"
        if partition["fetchq_cnt"] == 0 and (silent := _silent_leader(brokers, partition["leader"], topic, number)):
            yield f"the leader of {topic}/{number} {silent}"


def _silent_leader(brokers: Mapping[str, Any], leader: int, topic: str, number: int) -> str | None:
    """Say why a partition's leader can't be read from; None if it can, or is read over a connection that is not listed.

    librdkafka drops a broker that was missing from the metadata for a moment, lists it again, and goes on as it was.
    """
    listed = [broker for broker in brokers.values() if broker["nodeid"] == leader and broker["source"] != "logical"]
    if not listed:
        return _silent({})
    return next((_silent(broker) for broker in listed if f"{topic}-{number}" in broker["toppars"]), None)


def _has_joined(told: Mapping[str, Any]) -> bool:
    joining = told.get("cgrp", {})
    return (joining.get("state"), joining.get("join_state")) == ("up", "steady")


def _is_connected(told: Mapping[str, Any]) -> bool:
    """Return whether a broker is connected by which it could hear of others: a coordinator's is not asked for any."""
    return any(broker["state"] == "UP" and broker["source"] != "logical" for broker in told["brokers"].values())


def _silent(broker: Mapping[str, Any]) -> str | None:
    if broker.get("state") != "UP":
        return f"is not connected: {broker.get('state', 'unknown')}"
    idle_s = broker["rxidle"] / 1e6
    return f"has not answered for {idle_s:.0f} s" if idle_s > SILENT_S else None
