"""The topics: who writes each, who may read it, and how long it keeps its records.

Each topic has one writer, so the broker's ACLs decide who may send what, and a record's topic says who sent it. A
service that several others send commands to has a topic of commands for each of them.

This is the only place that says so. The broker's topics and ACLs are made from it (`popfax topics`), the relay finds
a message's topic through it, and a service that is not among a topic's `readers` can't subscribe to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType


class Principal(StrEnum):
    """Who may connect to Kafka: one principal per service, and one for the Popfax platform."""

    PLATFORM = "platform"
    GROUPS = "groups"
    LEDGER = "ledger"
    PROVISIONING = "provisioning"
    NOTIFICATIONS = "notifications"


SERVICES: tuple[Principal, ...] = tuple(each for each in Principal if each is not Principal.PLATFORM)
"""The principals that have a database and a role that owns it, both named after them."""

EVERYONE = frozenset(Principal)
"""Every principal: what carries only ids is open to all of them."""

RETENTION = timedelta(days=7)
"""The least time that a topic keeps a record; the most is `kept_at_most()`. Tombstones are kept as long."""

SEGMENT = timedelta(days=1)
"""A segment of the log ends at the first append after this time. It is deleted whole, by its newest record's age."""

ERASURE = timedelta(days=7)
"""The promise: this long after its tombstone, a record of a compacted topic is on no broker's disk any more."""

COMPACTION_LAG = timedelta(days=6)
"""A compacted log is cleaned after this time, but only when something is appended: hence the markers."""

MARKED_EVERY = timedelta(hours=12)
"""How often each writer appends a marker to the partitions of its compacted topics, quiet or not."""

BROKER_ROUND = timedelta(hours=1)
"""The time that the broker takes to find what is to be deleted or cleaned (5 min, 15 s), and to do it (a minute)."""


def kept_at_most() -> timedelta:
    """Return the most time that a record can be read, on topics that are not compacted. Inboxes remember for longer."""
    return RETENTION + SEGMENT + BROKER_ROUND


def erased_within() -> timedelta:
    """Return how long after its tombstone a record is gone, if its writer runs."""
    return COMPACTION_LAG + MARKED_EVERY + BROKER_ROUND


@dataclass(frozen=True, slots=True)
class Topic:
    """A Kafka topic. A `compacted` one keeps the newest record of each key forever, others keep all for `RETENTION`.

    A topic of `commands` has one reader, who is asked for what is on it.
    """

    name: str
    writer: Principal
    readers: frozenset[Principal]
    commands: bool = False
    compacted: bool = False
    partitions: int = 12

    @property
    def service(self) -> Principal:
        """The service that the topic belongs to: it receives the commands, or publishes the events."""
        return Principal(self.name.split(".")[1])


def _commands(service: Principal, writer: Principal = Principal.PLATFORM, kind: str = "commands") -> Topic:
    return Topic(f"popfax.{service}.{kind}", writer, frozenset({service}), commands=True)


def _published(
    service: Principal, kind: str, readers: frozenset[Principal] = EVERYONE, compacted: bool = False
) -> Topic:
    return Topic(f"popfax.{service}.{kind}", service, readers, compacted=compacted)


GROUPS_COMMANDS = _commands(Principal.GROUPS)
GROUPS_COMMANDS_FROM_HTTP = _commands(Principal.GROUPS, Principal.GROUPS, "commands-from-http")
"""What people ask for on the page and over its API. It is handled like the platform's commands."""
GROUPS_EVENTS = _published(Principal.GROUPS, "events")
GROUPS_MEMBERS = _published(Principal.GROUPS, "members", compacted=True)
"""Today's memberships (key: the membership's id; a tombstone ends it). Read from the start, it has all of them."""

LEDGER_COMMANDS = _commands(Principal.LEDGER)
"""The commands that create units and that use them up."""
LEDGER_COMMANDS_FROM_GROUPS = _commands(Principal.LEDGER, Principal.GROUPS, "commands-from-groups")
"""Transfers, and the holds of the account-creation saga."""
LEDGER_COMMANDS_FROM_PROVISIONING = _commands(Principal.LEDGER, Principal.PROVISIONING, "commands-from-provisioning")
"""The holds of the paid actions."""
LEDGER_EVENTS = _published(Principal.LEDGER, "events")
LEDGER_BALANCES = _published(
    Principal.LEDGER, "balances", readers=frozenset({Principal.LEDGER, Principal.GROUPS}), compacted=True
)
"""What is on each account. Groups shows a balance to the account's holder, and a member's to the group's owner."""

PROVISIONING_COMMANDS = _commands(Principal.PROVISIONING)
PROVISIONING_COMMANDS_FROM_GROUPS = _commands(Principal.PROVISIONING, Principal.GROUPS, "commands-from-groups")
PROVISIONING_EVENTS = _published(Principal.PROVISIONING, "events")
PROVISIONING_PLANS = _published(Principal.PROVISIONING, "plans", compacted=True)
PROVISIONING_DIRECTORY = _published(
    Principal.PROVISIONING,
    "directory",
    readers=frozenset({Principal.PROVISIONING, Principal.GROUPS, Principal.NOTIFICATIONS}),
    compacted=True,
)
"""Personal data (key: the subscriber's id; a tombstone erases). Nobody else may read it."""

NOTIFICATIONS_COMMANDS = _commands(Principal.NOTIFICATIONS)
NOTIFICATIONS_COMMANDS_FROM_GROUPS = _commands(Principal.NOTIFICATIONS, Principal.GROUPS, "commands-from-groups")
NOTIFICATIONS_EVENTS = _published(Principal.NOTIFICATIONS, "events")

TOPICS: tuple[Topic, ...] = (
    GROUPS_COMMANDS,
    GROUPS_COMMANDS_FROM_HTTP,
    GROUPS_EVENTS,
    GROUPS_MEMBERS,
    LEDGER_COMMANDS,
    LEDGER_COMMANDS_FROM_GROUPS,
    LEDGER_COMMANDS_FROM_PROVISIONING,
    LEDGER_EVENTS,
    LEDGER_BALANCES,
    PROVISIONING_COMMANDS,
    PROVISIONING_COMMANDS_FROM_GROUPS,
    PROVISIONING_EVENTS,
    PROVISIONING_PLANS,
    PROVISIONING_DIRECTORY,
    NOTIFICATIONS_COMMANDS,
    NOTIFICATIONS_COMMANDS_FROM_GROUPS,
    NOTIFICATIONS_EVENTS,
)

BY_NAME: Mapping[str, Topic] = MappingProxyType({topic.name: topic for topic in TOPICS})
