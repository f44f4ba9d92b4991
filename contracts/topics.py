"""The topics: who writes each, who may read it, how long it keeps what it holds.

This is the one place that says so. The broker's topics and ACLs are made from it (`popfax topics`), the relay finds
a message's topic through it, and a service that is not in a topic's `readers` can't subscribe to it.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class Principal(StrEnum):
    """Who may connect to Kafka: one principal a service, and one for the Popfax platform."""

    PLATFORM = "platform"
    GROUPS = "groups"
    LEDGER = "ledger"
    PROVISIONING = "provisioning"
    NOTIFICATIONS = "notifications"


EVERYONE = frozenset(Principal)
"""Every principal inside: what carries ids alone is open to all of them."""

RETENTION = timedelta(days=7)
"""How long a topic keeps a record. Every inbox remembers longer (checked when a service starts)."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A Kafka topic. A `compacted` one keeps the newest record of each key for ever; the others keep `RETENTION`."""

    name: str
    writers: frozenset[Principal]
    readers: frozenset[Principal]
    compacted: bool = False
    partitions: int = 12


def _commands(service: Principal, *writers: Principal) -> Topic:
    return Topic(f"popfax.{service}.commands", frozenset(writers), frozenset({service}))


def _facts(service: Principal, name: str, readers: frozenset[Principal] = EVERYONE, compacted: bool = False) -> Topic:
    return Topic(f"popfax.{service}.{name}", frozenset({service}), readers, compacted)


GROUPS_COMMANDS = _commands(Principal.GROUPS, Principal.PLATFORM, Principal.GROUPS)
"""Groups writes here what people ask for over HTTP: it is decided like what comes from the platform."""

GROUPS_EVENTS = _facts(Principal.GROUPS, "events")
GROUPS_MEMBERS = _facts(Principal.GROUPS, "members", compacted=True)
"""Today's memberships (key: a membership's id; a tombstone ends it): whoever reads from the start gets them all."""

LEDGER_COMMANDS = _commands(Principal.LEDGER, Principal.PLATFORM, Principal.GROUPS, Principal.PROVISIONING)
LEDGER_EVENTS = _facts(Principal.LEDGER, "events")
LEDGER_BALANCES = _facts(
    Principal.LEDGER, "balances", readers=frozenset({Principal.LEDGER, Principal.GROUPS}), compacted=True
)
"""What is on each account. Groups alone may read it, and shows it to the account's own side."""

PROVISIONING_COMMANDS = _commands(Principal.PROVISIONING, Principal.PLATFORM, Principal.GROUPS)
PROVISIONING_EVENTS = _facts(Principal.PROVISIONING, "events")
PROVISIONING_PLANS = _facts(Principal.PROVISIONING, "plans", compacted=True)
PROVISIONING_DIRECTORY = _facts(
    Principal.PROVISIONING,
    "directory",
    readers=frozenset({Principal.PROVISIONING, Principal.GROUPS, Principal.NOTIFICATIONS}),
    compacted=True,
)
"""Personal data (key: the subscriber's id; a tombstone erases). Nobody else may read it."""

NOTIFICATIONS_COMMANDS = _commands(Principal.NOTIFICATIONS, Principal.PLATFORM, Principal.GROUPS)
NOTIFICATIONS_EVENTS = _facts(Principal.NOTIFICATIONS, "events")

TOPICS: tuple[Topic, ...] = (
    GROUPS_COMMANDS,
    GROUPS_EVENTS,
    GROUPS_MEMBERS,
    LEDGER_COMMANDS,
    LEDGER_EVENTS,
    LEDGER_BALANCES,
    PROVISIONING_COMMANDS,
    PROVISIONING_EVENTS,
    PROVISIONING_PLANS,
    PROVISIONING_DIRECTORY,
    NOTIFICATIONS_COMMANDS,
    NOTIFICATIONS_EVENTS,
)
