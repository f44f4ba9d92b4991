"""Follows a correlation id through Kafka, and tells each message once its cause is told and its effect is visible."""

import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime

from deploy.demo.reading import Reader
from deploy.operator.cli.connection import Connection
from deploy.operator.cli.wire import Seen, Sent, Watch
from deploy.operator.kafka import ADMIN
from popfax_contracts.provisioning import AccountExpired, AccountExpiring, RegisterSubscriber
from popfax_contracts.topics import TOPICS, Principal
from services.chassis.service import Service
from services.groups.consumers import GROUPS
from services.ledger.consumers import LEDGER
from services.notifications.consumers import NOTIFICATIONS
from services.provisioning.consumers import PROVISIONING

_SERVICES: tuple[Service, ...] = (GROUPS, LEDGER, PROVISIONING, NOTIFICATIONS)
_HANDLED_WITHIN_S = 5.0
_POLL_S = 0.02


def _handlers() -> Mapping[str, frozenset[Principal]]:
    """Return for each message type the services that handle it, from their tables of contents."""
    types = {model.TYPE for service in _SERVICES for model in service.handlers}
    return {
        type_: frozenset(s.principal for s in _SERVICES if any(type_ == model.TYPE for model in s.handlers))
        for type_ in types
    }


HANDLERS = _handlers()

AT_THE_END = frozenset({AccountExpiring.TYPE, AccountExpired.TYPE})
"""The messages that no message causes, but the end of an account."""

Tell = Callable[[Seen, float, set[Principal]], None]


class Trail:
    """The messages that followed from one or more commands, as read from Kafka."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.unhandled: list[str] = []

    def types(self, sent: Sent) -> tuple[str, ...]:
        """Return the short names of a command's messages, beginning with its own."""
        return tuple(seen.short_name for seen in self.of(sent))

    def of(self, sent: Sent) -> list[Seen]:
        """Return a command's messages, beginning with itself."""
        return [seen for seen in self.seen if seen.correlation_id == str(sent.id)]


class Follower:
    """Reads all topics from their beginning, as the administrator."""

    def __init__(self, connection: Connection, reader: Reader) -> None:
        self._watch = Watch(connection.admin, TOPICS, group=ADMIN, from_beginning=True)
        self._reader = reader
        self._unread: dict[str, Seen] = {}

    def close(self) -> None:
        """Stop reading."""
        self._watch.close()

    def wait_for(self, is_there: Callable[[list[Seen]], bool], topic: str, timeout_s: float) -> list[Seen]:
        """Return the records of one topic once `is_there` holds for them or `timeout_s` seconds are over."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = [seen for seen in self._unread.values() if seen.topic == topic]
            if is_there(found) or time.monotonic() > deadline:
                return found
            self._read(_POLL_S)

    def follow(
        self, sent: Collection[Sent], ends: Callable[[Trail], bool], tell: Tell, timeout_s: float, quiet_s: float
    ) -> Trail:
        """Follow commands until `ends` holds and no message has come for `quiet_s` seconds, or until the timeout."""
        trail, correlations = Trail(), {str(each.id) for each in sent}
        accounts = {each.command.key() for each in sent if isinstance(each.command, RegisterSubscriber)}
        started: datetime | None = None
        deadline = time.monotonic() + timeout_s
        quiet_since = time.monotonic()
        while time.monotonic() < deadline:
            self._read(_POLL_S)
            ready = self._ready(correlations, accounts, trail)
            for seen in ready:
                started = started or seen.at
                tell(seen, (seen.at - started).total_seconds(), self._handled(seen, trail))
                trail.seen.append(seen)
                quiet_since = time.monotonic()
            if not ready and ends(trail) and time.monotonic() - quiet_since >= quiet_s:
                break
        return trail

    def _read(self, timeout_s: float) -> None:
        """Read all records that are available, without repetitions."""
        seen = self._watch.poll(timeout_s)
        while seen is not None:
            self._unread.setdefault(seen.id, seen)
            seen = self._watch.poll(0)

    def _ready(self, correlations: set[str], accounts: set[str], trail: Trail) -> list[Seen]:
        """Return what can be told now: partitions are read in any order, but effects are told after their causes.

        What the end of an account brings is told of those that were registered here.
        """
        told = {seen.id for seen in trail.seen}
        ready = [
            seen
            for seen in self._unread.values()
            if seen.id not in told
            and (
                (seen.body is not None and seen.body.key() in accounts)
                if seen.type in AT_THE_END
                else seen.correlation_id in correlations and (seen.id in correlations or seen.causation_id in told)
            )
        ]
        return sorted(ready, key=lambda seen: (seen.at, seen.topic))

    def _handled(self, seen: Seen, trail: Trail) -> set[Principal]:
        """Wait until the services that handle a message have done so; return those that have."""
        expected = HANDLERS.get(seen.type, frozenset())
        deadline = time.monotonic() + _HANDLED_WITHIN_S
        while True:
            found = self._reader.handled_by(seen, expected)
            if found >= expected:
                return found
            if time.monotonic() > deadline:
                trail.unhandled.append(seen.short_name)
                return found
            time.sleep(_POLL_S)
