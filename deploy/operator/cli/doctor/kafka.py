"""What Kafka is asked: its brokers, its topics and permissions, and how far each service's group has got."""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition

# The package re-exports these names and documents them, but not in a form that mypy accepts.
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    OffsetSpec,
    ResourceType,
)

from deploy.operator.cli.doctor.facts import Broker, Cluster, Group, Member
from deploy.operator.cli.doctor.judging import LATE_S, SETTLED
from deploy.operator.cli.doctor.services import ALL
from deploy.operator.cli.errors import Unreachable
from deploy.operator.kafka import answers_authenticated
from popfax_contracts.topics import Principal
from services.chassis.service import Service

_WITHIN_S = 5.0
"""How long the cluster may take for one answer."""

_PROBE_S = 3.0
"""How long a single broker may take to answer."""

_SHARING_S = 2.0
"""How long a group may take to share out its partitions."""

_NONE = -1
"""An offset or a leader that there is not."""

Offsets = Mapping[tuple[str, int], int]


def cluster(config: Mapping[str, str]) -> Cluster:
    """Ask for brokers and partitions. Raises Unreachable, saying what the client met, and KafkaException."""
    met: list[str] = []
    client = _client(config, met)
    try:
        found = client.list_topics(timeout=_WITHIN_S)
    except KafkaException as error:
        client.poll(0)  # has the client say what it met, such as a wrong password
        raise Unreachable(met[-1] if met else error.args[0].str()) from error
    brokers = {each.id: f"{each.host}:{each.port}" for each in found.brokers.values()}
    answering = _answering(config, brokers)
    minima = _min_insync(client, list(found.topics))
    offline, below, under, away = list[str](), list[str](), list[str](), set[int]()
    for topic, described in found.topics.items():
        for number, partition in described.partitions.items():
            name, in_sync = f"{topic}/{number}", len(partition.isrs)
            away |= set(partition.replicas) - brokers.keys()
            if partition.leader == _NONE:
                offline.append(name)
            elif in_sync < minima.get(topic, 1):
                below.append(name)
            elif in_sync < len(partition.replicas):
                under.append(name)
    return Cluster(
        brokers=[Broker(id_, address, id_ in answering) for id_, address in sorted(brokers.items())],
        partitions=sum(len(topic.partitions) for topic in found.topics.values()),
        away=sorted(away),
        offline=sorted(offline),
        below_min=sorted(below),
        under_replicated=sorted(under),
    )


def _answering(config: Mapping[str, str], brokers: Mapping[int, str]) -> set[int]:
    """Return the brokers that answer by themselves; one that hangs is listed until its session is over."""
    found: set[int] = set()

    def probe(id_: int, address: str) -> None:
        if answers_authenticated({**config, "bootstrap.servers": address}, _PROBE_S):
            found.add(id_)

    threads = [threading.Thread(target=probe, args=each, daemon=True) for each in brokers.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _PROBE_S + 1
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return set(found)


def _min_insync(client: AdminClient, topics: Iterable[str]) -> Mapping[str, int]:
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in topics]
    found = client.describe_configs(resources, request_timeout=_WITHIN_S) if resources else {}
    configs = {resource.name: _result(future, {}) for resource, future in found.items()}
    return {name: int(entries["min.insync.replicas"].value) for name, entries in configs.items() if entries}


def groups(config: Mapping[str, str]) -> Mapping[Principal, Group]:
    """Ask for each service's consumer group, and how far it is behind. Raises KafkaException."""
    client = _client(config, [])
    present = client.list_topics(timeout=_WITHIN_S).topics
    partitions = {
        service.principal: [
            (t.name, n) for t in service.topics if t.name in present for n in present[t.name].partitions
        ]
        for service in ALL
    }
    asked = {place for places in partitions.values() for place in places}
    ends = _offsets(client, asked, OffsetSpec.latest())  # type: ignore[no-untyped-call]
    starts = _offsets(client, asked, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    # The first record that is not late yet; none if all are late.
    young = _offsets(client, asked, OffsetSpec.for_timestamp(int((time.time() - LATE_S) * 1000)))
    described = _described(client)
    return {
        service.principal: _group(
            described[service.principal],
            partitions[service.principal],
            _behind(_committed(client, service, starts), ends, young, partitions[service.principal]),
        )
        for service in ALL
    }


def _described(client: AdminClient) -> Mapping[Principal, Any]:
    """Describe all groups; once more if one is sharing out its partitions, which takes a moment."""
    for pause_s in (_SHARING_S, 0):
        asked = client.describe_consumer_groups([str(each.principal) for each in ALL], request_timeout=_WITHIN_S)
        found = {each.principal: _result(asked[str(each.principal)], None) for each in ALL}
        if all(group is None or group.state.name.lower() in SETTLED for group in found.values()):
            break
        time.sleep(pause_s)
    return found


Behind = tuple[int, Mapping[str, int]]
"""How many records are not handled; and those among them that are late, by topic."""


def _behind(committed: Offsets, ends: Offsets, young: Offsets, places: Sequence[tuple[str, int]]) -> Behind:
    lag, late = 0, dict[str, int]()
    for place in places:
        at, end = committed[place], ends[place]
        lag += max(0, end - at)
        first_young = end if young[place] == _NONE else young[place]
        if first_young > at:
            late[place[0]] = late.get(place[0], 0) + first_young - at
    return lag, late


def _committed(client: AdminClient, service: Service, starts: Offsets) -> Offsets:
    """Return how far a service's group has committed; where it has not, it begins at the start."""
    group = ConsumerGroupTopicPartitions(str(service.principal))
    (future,) = client.list_consumer_group_offsets([group], request_timeout=_WITHIN_S).values()
    found = _result(future, None)
    committed = {} if found is None else {(p.topic, p.partition): p.offset for p in found.topic_partitions}
    return {place: max(start, committed.get(place, start)) for place, start in starts.items()}


def _group(described: Any, places: Sequence[tuple[str, int]], behind: Behind) -> Group:
    lag, late = behind
    if described is None:
        return Group("dead", (), [f"{topic}/{number}" for topic, number in places], lag, late)
    held = {(each.topic, each.partition) for member in described.members for each in member.assignment.topic_partitions}
    return Group(
        state=described.state.name.lower(),
        members=[
            Member(
                member.group_instance_id or member.client_id,
                member.host.removeprefix("/"),
                len(member.assignment.topic_partitions),
            )
            for member in described.members
        ],
        unassigned=[f"{topic}/{number}" for topic, number in places if (topic, number) not in held],
        lag=lag,
        late=late,
    )


def _offsets(client: AdminClient, places: Iterable[tuple[str, int]], spec: OffsetSpec) -> Offsets:
    wanted = {TopicPartition(*place): spec for place in places}
    found = client.list_offsets(wanted, request_timeout=_WITHIN_S) if wanted else {}
    return {(place.topic, place.partition): future.result().offset for place, future in found.items()}


_ABSENT = frozenset({KafkaError.GROUP_ID_NOT_FOUND, KafkaError.UNKNOWN_TOPIC_OR_PART})


def _result(future: Any, absent: Any) -> Any:
    """Return a future's result, `absent` for what does not exist."""
    try:
        return future.result()
    except KafkaException as error:
        if error.args[0].code() in _ABSENT:
            return absent
        raise


def _client(config: Mapping[str, str], met: list[str]) -> AdminClient:
    """Return a client that notes in `met` what it meets."""
    more: dict[str, Any] = {"log_level": 0, "error_cb": lambda error: met.append(error.str())}
    return AdminClient({**config, **more})
