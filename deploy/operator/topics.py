"""The broker's topics and ACLs, compared with what `popfax_contracts.topics` and a deployment's settings say.

`compare` says what differs, and what would put it right. `apply` creates what is missing and alters settings. What
could lose a record or a guarantee it alters only when told to; it never deletes anything, and never touches a topic's
partitions, replicas or cleanup policy.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, StrEnum
from itertools import groupby
from typing import Any

from confluent_kafka import KafkaError, KafkaException

# The package re-exports these names and documents them, but not in a form that mypy accepts.
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from deploy.operator.topic_settings import ONE_BROKER, TopicSettings
from popfax_contracts.topics import COMPACTION_LAG, SEGMENT, TOPICS, Principal, Topic

MAX_MESSAGE_BYTES = 1024 * 1024

_REQUEST_TIMEOUT_S = 15.0
_POLL_S = 0.1

STALLED_S = 60.0
"""How long a broker may make no progress with a request, in seconds."""


class Kind(StrEnum):
    """What a difference is about."""

    MISSING_TOPIC = "missing topic"
    WRONG_PARTITIONS = "wrong number of partitions"
    WRONG_REPLICATION = "wrong replication factor"
    WRONG_CONFIG = "wrong topic configuration"
    MISSING_ACL = "missing ACL"
    EXTRA_ACL = "ACL too many"
    CLOSED = "closed to its writers"


class Remedy(StrEnum):
    """What puts a difference right."""

    APPLY = "popfax topics --apply"
    ACCEPT_LOSS = "popfax topics --apply --accept-loss"
    """It shortens what is kept, or weakens a guarantee."""
    SWITCH = "popfax topics drain, then switch"
    OPEN = "popfax topics switch, or open"
    BY_HAND = "by hand"
    NEVER = "never: change the settings"
    """Kafka can't do it, or it would lose records."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between the broker and what it should be."""

    kind: Kind
    subject: str
    expected: str = ""
    found: str = ""
    remedy: Remedy = Remedy.APPLY

    def __str__(self) -> str:
        values = f": {self.found or 'nothing'} instead of {self.expected}" if self.expected else ""
        return f"{self.kind}: {self.subject}{values}"


@dataclass(frozen=True, slots=True, order=True)
class Acl:
    """A permission, from any host: a principal may do an operation on a topic, a group or a transactional id."""

    principal: str
    operation: str
    resource: str
    name: str
    pattern: str = "LITERAL"
    permission: str = "ALLOW"
    host: str = "*"

    def covers(self, name: str) -> bool:
        """Return whether it applies to the resource of this name."""
        return name.startswith(self.name) if self.pattern == "PREFIXED" else self.name in (name, "*")

    def __str__(self) -> str:
        literal = "" if self.pattern == "LITERAL" else f"{self.pattern.lower()} "
        host = "" if self.host == "*" else f" from {self.host}"
        permission = self.permission.lower()
        return f"{permission} {self.principal} {self.operation} on {self.resource.lower()} {literal}{self.name}{host}"


def compare(admin_config: Mapping[str, str], settings: TopicSettings = ONE_BROKER) -> list[Difference]:
    """Return what differs on the broker. `admin_config` is a super user's client configuration.

    Raises confluent_kafka.KafkaException when the broker doesn't answer in time or refuses.
    """
    return _compare(_client(admin_config), settings)


def writers(admin_config: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Return who can write each topic, as the broker's ACLs have it: the names of users.

    Raises confluent_kafka.KafkaException when the broker doesn't answer in time or refuses.
    """
    acls = [
        acl for acl in _acls(_client(admin_config)) if acl.resource == "TOPIC" and acl.operation in ("WRITE", "ALL")
    ]
    return {topic.name: _users(acls, topic.name, "ALLOW") - _users(acls, topic.name, "DENY") for topic in TOPICS}


def _users(acls: Iterable[Acl], topic: str, permission: str) -> frozenset[str]:
    covering = (acl for acl in acls if acl.permission == permission and acl.covers(topic))
    return frozenset(acl.principal.removeprefix("User:") for acl in covering)


def apply(
    admin_config: Mapping[str, str], settings: TopicSettings = ONE_BROKER, accept_loss: bool = False
) -> list[Difference]:
    """Create what is missing, alter settings, wait until the broker applies that, and return what still differs.

    Safe to repeat and to run concurrently. A slow broker gets as long as it needs while it makes progress. Raises
    `Stalled` when it makes none for a minute, and confluent_kafka.KafkaException when it refuses.
    """
    client, patience = _client(admin_config), _Patience()
    remedies = {Remedy.APPLY, Remedy.ACCEPT_LOSS} if accept_loss else {Remedy.APPLY}
    while True:
        try:
            differences = _compare(client, settings)
            wrong = [each for each in differences if each.remedy in remedies]
            if not wrong:
                return differences
            patience.look(len(wrong), str(wrong[0]))
            # Repeated: what exists stays as it is, and what a slow broker did not accept before is asked for again.
            _create_topics(client, {each.subject for each in wrong if each.kind is Kind.MISSING_TOPIC}, settings)
            _create_acls(client, {each.subject for each in wrong if each.kind is Kind.MISSING_ACL})
            _alter_configs(client, [each for each in wrong if each.kind is Kind.WRONG_CONFIG])
        except KafkaException as error:
            if not _is_passing(error):
                raise
            patience.look(None, error.args[0].str())
        time.sleep(_POLL_S)


class Stalled(Exception):
    """The broker makes no progress. The message says what is missing."""


class _Patience:
    """Lasts as long as the number of missing things keeps falling."""

    def __init__(self) -> None:
        self._fewest: int | None = None
        self._since = time.monotonic()

    def look(self, missing: int | None, what: str) -> None:
        """Note how many things are missing (None: the broker did not say). Raises `Stalled`."""
        if missing is not None and (self._fewest is None or missing < self._fewest):
            self._fewest, self._since = missing, time.monotonic()
        if time.monotonic() - self._since > STALLED_S:
            counted = "it does not say what is there" if self._fewest is None else f"{self._fewest} of them missing"
            raise Stalled(f"no more topics and permissions for {STALLED_S:g} s, {counted}: {what}")


_PASSING = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError.REQUEST_TIMED_OUT,
    }
)


_FENCED = "All brokers are currently fenced"
"""What a controller says of topics to be made while no broker's heartbeat has come in time, as after a short freeze.

Its code is `INVALID_REPLICATION_FACTOR`, as where a cluster has too few brokers for good.
"""


def _is_passing(error: KafkaException) -> bool:
    """Return whether the same request may succeed a moment later."""
    what = error.args[0]
    return what.retriable() or what.code() in _PASSING or _FENCED in what.str()


def expected_config(topic: Topic, settings: TopicSettings) -> dict[str, str]:
    """Return the settings that a topic should have."""
    common = {
        "min.insync.replicas": str(settings.min_insync_replicas),
        "max.message.bytes": str(MAX_MESSAGE_BYTES),
        # A sender's wrong clock must neither delete a record early nor have its batch refused.
        "message.timestamp.type": "LogAppendTime",
        # Segments roll by time, equally on all topics: `kept_at_most` and `erased_within` depend on it.
        "segment.ms": _ms(COMPACTION_LAG if topic.compacted else SEGMENT),
        "segment.jitter.ms": "0",
    }
    if not topic.compacted:
        retention = _ms(settings.retention_of(topic))
        return common | {"cleanup.policy": "delete", "retention.ms": retention, "retention.bytes": "-1"}
    return common | {
        "cleanup.policy": "compact",
        "min.compaction.lag.ms": "0",
        "max.compaction.lag.ms": _ms(COMPACTION_LAG),
        # A reader that was away for this long still finds the tombstone.
        "delete.retention.ms": _ms(settings.retention_of(topic)),
    }


def _ms(duration: timedelta) -> str:
    return str(duration // timedelta(milliseconds=1))


def expected_acls() -> set[Acl]:
    """Return every permission that should exist."""
    return {acl for topic in TOPICS for acl in _topic_acls(topic)} | {acl for each in Principal for acl in _own(each)}


def _topic_acls(topic: Topic) -> Iterator[Acl]:
    yield Acl(f"User:{topic.writer}", "WRITE", "TOPIC", topic.name)
    for reader in topic.readers:
        yield Acl(f"User:{reader}", "READ", "TOPIC", topic.name)
    for either in {topic.writer} | topic.readers:
        yield Acl(f"User:{either}", "DESCRIBE", "TOPIC", topic.name)


def _own(principal: Principal) -> Iterator[Acl]:
    """Yield a principal's permissions on its consumer group and its transactional id (the fence), both of its name."""
    yield Acl(f"User:{principal}", "READ", "GROUP", str(principal))
    yield Acl(f"User:{principal}", "WRITE", "TRANSACTIONAL_ID", str(principal))


def _compare(client: AdminClient, settings: TopicSettings) -> list[Difference]:
    return [*_compare_topics(client, settings), *_compare_acls(client)]


def _compare_topics(client: AdminClient, settings: TopicSettings) -> Iterator[Difference]:
    present = client.list_topics(timeout=_REQUEST_TIMEOUT_S).topics
    configs = _configs(client, [topic.name for topic in TOPICS if topic.name in present])
    for topic in TOPICS:
        # A topic that was just deleted can still be listed, but no longer has a configuration.
        if topic.name not in present or topic.name not in configs:
            yield Difference(Kind.MISSING_TOPIC, topic.name)
            continue
        partitions = present[topic.name].partitions
        yield from _compare_partitions(topic, settings, len(partitions))
        replicas = min((len(each.replicas) for each in partitions.values()), default=0)
        if replicas != settings.replication_factor:
            numbers = str(settings.replication_factor), str(replicas)
            yield Difference(Kind.WRONG_REPLICATION, topic.name, *numbers, Remedy.BY_HAND)
        yield from _compare_config(topic, settings, configs[topic.name])


def _compare_partitions(topic: Topic, settings: TopicSettings, found: int) -> Iterator[Difference]:
    wanted = settings.partitions_of(topic)
    if wanted != found:
        remedy = Remedy.SWITCH if wanted > found and not topic.compacted else Remedy.NEVER
        yield Difference(Kind.WRONG_PARTITIONS, topic.name, str(wanted), str(found), remedy)


def _compare_config(topic: Topic, settings: TopicSettings, found: Mapping[str, str]) -> Iterator[Difference]:
    for name, value in expected_config(topic, settings).items():
        if found.get(name) != value:
            remedy = _remedy_of(name, value, found.get(name))
            yield Difference(Kind.WRONG_CONFIG, f"{topic.name} {name}", value, found.get(name, ""), remedy)


_KEPT = frozenset({"retention.ms", "retention.bytes", "delete.retention.ms"})
"""Settings that say how much is kept; less of it loses records. -1 is without a limit."""


def _remedy_of(name: str, wanted: str, found: str | None) -> Remedy:
    if name == "cleanup.policy":
        return Remedy.BY_HAND
    if name in _KEPT and found is not None:
        return Remedy.ACCEPT_LOSS if wanted != "-1" and (found == "-1" or int(wanted) < int(found)) else Remedy.APPLY
    if name == "min.insync.replicas" and found is not None and int(wanted) < int(found):
        return Remedy.ACCEPT_LOSS
    return Remedy.APPLY


def close(client: AdminClient, topic: Topic) -> None:
    """Have the broker refuse what anybody but an administrator writes to a topic."""
    for future in client.create_acls([to_binding(_closing(topic))], request_timeout=_REQUEST_TIMEOUT_S).values():
        future.result()
    while not is_closed(client, topic):  # the controller has answered, not each broker
        time.sleep(_POLL_S)


def is_closed(client: AdminClient, topic: Topic) -> bool:
    """Return whether a topic is closed to its writers."""
    return _closing(topic) in _acls(client)


def reopen(client: AdminClient, topic: Topic) -> None:
    """Let the writers of a topic in again."""
    binding = to_binding(_closing(topic))
    exactly = AclBindingFilter(
        binding.restype,
        binding.name,
        binding.resource_pattern_type,
        binding.principal,
        binding.host,
        binding.operation,
        binding.permission_type,
    )
    for future in client.delete_acls([exactly], request_timeout=_REQUEST_TIMEOUT_S).values():
        future.result()
    while is_closed(client, topic):
        time.sleep(_POLL_S)


def _closing(topic: Topic) -> Acl:
    return Acl("User:*", "WRITE", "TOPIC", topic.name, permission="DENY")


def _compare_acls(client: AdminClient) -> Iterator[Difference]:
    expected, found = expected_acls(), _acls(client)
    closed = {_closing(topic): topic.name for topic in TOPICS}
    yield from (Difference(Kind.MISSING_ACL, str(acl)) for acl in sorted(expected - found))
    for acl in sorted(found - expected):
        if acl in closed:
            yield Difference(Kind.CLOSED, closed[acl], remedy=Remedy.OPEN)
        else:
            yield Difference(Kind.EXTRA_ACL, str(acl), remedy=Remedy.BY_HAND)


def _configs(client: AdminClient, names: Iterable[str]) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    if not resources:
        return {}
    configs = {}
    for resource, future in client.describe_configs(resources, request_timeout=_REQUEST_TIMEOUT_S).items():
        entries = _result(future, unless=KafkaError.UNKNOWN_TOPIC_OR_PART)
        if entries is not None:
            configs[resource.name] = {entry.name: entry.value for entry in entries.values()}
    return configs


def _acls(client: AdminClient) -> set[Acl]:
    # None means any, which the package's annotations omit.
    everything = AclBindingFilter(
        ResourceType.ANY,
        None,  # type: ignore[arg-type]
        ResourcePatternType.ANY,
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    found: list[AclBinding] = client.describe_acls(everything, request_timeout=_REQUEST_TIMEOUT_S).result()
    return {_from_binding(binding) for binding in found}


def _create_topics(client: AdminClient, names: set[str], settings: TopicSettings) -> None:
    new = [
        NewTopic(
            topic.name,
            num_partitions=settings.partitions_of(topic),
            replication_factor=settings.replication_factor,
            config=expected_config(topic, settings),
        )
        for topic in TOPICS
        if topic.name in names
    ]
    if new:
        created = client.create_topics(new, request_timeout=_REQUEST_TIMEOUT_S, operation_timeout=_REQUEST_TIMEOUT_S)
        for future in created.values():
            _result(future, unless=KafkaError.TOPIC_ALREADY_EXISTS)


def _create_acls(client: AdminClient, subjects: set[str]) -> None:
    bindings = [to_binding(acl) for acl in expected_acls() if str(acl) in subjects]
    if bindings:
        for future in client.create_acls(bindings, request_timeout=_REQUEST_TIMEOUT_S).values():
            future.result()


def _alter_configs(client: AdminClient, wrong: Iterable[Difference]) -> None:
    for topic, differences in groupby(wrong, lambda each: each.subject.split()[0]):
        entries = [_entry(each.subject.split()[1], each.expected) for each in differences]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        for future in client.incremental_alter_configs([resource], request_timeout=_REQUEST_TIMEOUT_S).values():
            future.result()


def _entry(name: str, value: str) -> ConfigEntry:
    return ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)


def _result(future: "Future[Any]", unless: int) -> Any:
    """Return the result, or None when it failed with the error code `unless`. Other errors are raised."""
    try:
        return future.result()
    except KafkaException as error:
        if error.args[0].code() == unless:
            return None
        raise


def to_binding(acl: Acl) -> AclBinding:
    """Return the permission as confluent-kafka represents it."""
    return AclBinding(
        ResourceType[acl.resource],
        acl.name,
        ResourcePatternType[acl.pattern],
        acl.principal,
        acl.host,
        AclOperation[acl.operation],
        AclPermissionType[acl.permission],
    )


def _from_binding(binding: AclBinding) -> Acl:
    return Acl(
        principal=binding.principal,
        operation=_name(binding.operation),
        resource=_name(binding.restype),
        name=binding.name,
        pattern=_name(binding.resource_pattern_type),
        permission=_name(binding.permission_type),
        host=binding.host,
    )


def _name(value: Enum | str | int) -> str:
    """Return an enum member's name. confluent-kafka accepts names and numbers too, but answers with members."""
    if not isinstance(value, Enum):
        raise TypeError(f"{value!r} is not an enum member")
    return value.name


def _client(admin_config: Mapping[str, str]) -> AdminClient:
    # librdkafka would write its own log lines to the terminal; what matters comes back as an exception.
    return AdminClient({**admin_config, "log_level": 0})
