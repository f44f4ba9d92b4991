"""The drill of an upgrade: its steps, under traffic, and what is checked after them."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

import sqlalchemy as sa

from deploy.drill.asked import Figures, answered_wrongly, figures, unanswered
from deploy.drill.fleet import Fleet
from deploy.drill.traffic import Traffic
from deploy.drill.versions import Version
from deploy.local.errors import StackError
from deploy.local.mailsink import read_mails
from deploy.operator.cli.auditing import open_snapshots
from deploy.operator.cli.connection import Connection
from deploy.operator.invariants import Logged, Violation, check, check_log, check_topics, published
from deploy.operator.log import Reader
from popfax_contracts.topics import SERVICES, TOPICS, Principal
from services.chassis import migrate

READERS_FIRST = (Principal.NOTIFICATIONS, Principal.LEDGER, Principal.PROVISIONING, Principal.GROUPS)
"""The order of the services: whoever reads what another one writes is replaced before it, and goes back after it."""

QUICK = (Principal.LEDGER, Principal.GROUPS)
"""The services that the quick drill upgrades: every saga passes through both, and the others stay old beside them."""

MORE = 6
"""How many commands, sent after a step, show that traffic goes on."""

_BASELINE_S = 2.0
_POLL_S = 0.3
_SETTLING_S = 0.5
_SHOWN = 5


class Broken(Exception):
    """The upgrade does not hold what it must. The message says what was seen."""


@dataclass(frozen=True)
class Step:
    """A step that was done: how long it took, and what its commands met."""

    name: str
    took_s: float
    figures: Figures | None
    """None for an audit, during which no commands are sent."""


@dataclass
class Result:
    """What a drill has found."""

    steps: list[Step] = field(default_factory=list)
    broken: str | None = None
    commands: int = 0
    """Commands that an audit has found answered, each with one outcome."""
    mails: int = 0
    schemas: dict[Principal, str] = field(default_factory=dict)
    """The revision of each database at the last audit: a rollback leaves it."""


Do = Callable[[], None]
Todo = tuple[str, Do]
"""A step's name, and what it does."""


class Teller(Protocol):
    """Whom the drill tells what it does."""

    def begin(self, name: str) -> None:
        """A step begins."""

    def end(self, step: Step) -> None:
        """It is done."""


class UpgradeDrill:
    """An upgrade from one version to another, and back, while commands come without a pause."""

    def __init__(
        self, fleet: Fleet, connection: Connection, traffic: Traffic, old: Version, new: Version, within_s: float
    ) -> None:
        """`within_s` is how long after a step its commands may still be unanswered, in seconds."""
        self.result = Result()
        self._fleet = fleet
        self._connection = connection
        self._traffic = traffic
        self._old = old
        self._new = new
        self._within_s = within_s
        self._reader = Reader(connection.admin, TOPICS, lambda _: None)
        self._log: list[Logged] = []
        self._known: frozenset[str] = frozenset()
        """What the audit found before the upgrade, and may find after it."""

    def run(self, teller: Teller, quick: bool = False) -> Result:
        """Do all steps, or those of the quick drill. What breaks ends it, and is in the result."""
        try:
            for name, do in self._quick() if quick else self._whole():
                teller.begin(name)
                teller.end(self._done(name, do))
        except (Broken, StackError) as error:
            self.result.broken = str(error)
        return self.result

    def _quick(self) -> Iterator[Todo]:
        """One replica of two services is upgraded, and goes back."""
        yield from self._prepared(list(SERVICES))
        yield "audit before the upgrade", self._learn
        yield from self._rolled(self._new, QUICK, 1)
        yield from self._rolled(self._old, QUICK[::-1], 1)
        yield "audit after the rollback", self._audit

    def _whole(self) -> Iterator[Todo]:
        yield from self._prepared(*([service] for service in SERVICES))
        yield from self._rolled(self._new, READERS_FIRST)
        yield "plans again", partial(self._fleet.publish_plans_again, self._new)
        yield "audit after the upgrade", self._audit
        yield from self._rolled(self._old, READERS_FIRST[::-1])
        yield "audit after the rollback", self._audit
        yield from self._rolled(self._new, READERS_FIRST)
        yield "audit after the second upgrade", self._audit

    def _prepared(self, *migrated: Sequence[Principal]) -> Iterator[Todo]:
        """What comes before any new replica; `migrated` are the services whose databases are migrated together."""
        yield f"all replicas are {self._old.name}", partial(time.sleep, _BASELINE_S)
        yield "topics and permissions", partial(self._fleet.apply_topics, self._new)
        for services in migrated:
            yield f"migrate {', '.join(services)}", partial(self._fleet.migrate, self._new, *services)
        yield "plans", partial(self._fleet.publish_plans, self._new)

    def _rolled(self, version: Version, order: Sequence[Principal], replicas: int | None = None) -> Iterator[Todo]:
        """Replace replicas one by one, first one of each service: then each service is of both versions."""
        for number in sorted({replica.number for replica in self._fleet.replicas})[:replicas]:
            for service in order:
                replica = self._fleet.of(service)[number - 1]
                yield (
                    f"{replica}: {replica.version.name} → {version.name}",
                    partial(self._fleet.replace, replica, version),
                )

    def _done(self, name: str, do: Do) -> Step:
        """Do a step, and check that traffic goes on."""
        began = datetime.now(UTC)
        do()
        self._see_traffic(name)
        ended = datetime.now(UTC)
        met = None if do in (self._audit, self._learn) else figures(self._traffic.asked, began, ended)
        step = Step(name, (ended - began).total_seconds(), met)
        self.result.steps.append(step)
        return step

    def _see_traffic(self, step: str) -> None:
        """Wait until all that was sent so far, and more, is answered, and all new replicas are ready. Raises Broken.

        Old ones are judged by what is answered: 0.2.0 works on once it has handed over partitions, and says unready.
        """
        deadline = time.monotonic() + self._within_s
        wanted = self._traffic.sent + MORE
        while True:
            over = self._traffic.has_answered(wanted) and not self._new_ones_not_ready()
            if found := self._parked() or self._wrong():
                raise Broken(f"{step}: {found}")
            if over:
                return
            if time.monotonic() > deadline:
                raise Broken(f"{step}: {self._why()}")
            time.sleep(_POLL_S)

    def _new_ones_not_ready(self) -> bool:
        return any(replica.version is self._new for replica in self._fleet.not_ready())

    def _why(self) -> str:
        """Say what is unanswered, and why as far as the replicas know."""
        left = Counter(type(asked.command).__name__ for asked in unanswered(self._traffic.asked))
        commands = ", ".join(f"{number} {name}" for name, number in left.items()) or "nothing"
        replicas = [
            f"{replica} ({replica.version.name}) is not ready: {replica.why_not_ready()}"
            for replica in self._fleet.not_ready()
        ]
        return f"after {self._within_s:g} s {commands} unanswered; {'; '.join(replicas) or 'all replicas are ready'}"

    def _parked(self) -> str | None:
        for service in SERVICES:
            if found := self._connection.rows(service, sa.text("SELECT topic, code FROM parked ORDER BY seq")):
                return f"{service} parked {len(found)} messages, the first from {found[0].topic} for {found[0].code}"
        return None

    def _wrong(self) -> str | None:
        wrong = answered_wrongly(self._traffic.asked)
        return f"{len(wrong)} commands have another outcome than theirs: {wrong[0]}" if wrong else None

    def _audit(self) -> None:
        """Let everything settle, and check all that is in the databases and on the topics since the start."""
        self._traffic.pause()
        deadline = time.monotonic() + self._within_s
        while found := self._violations():
            if time.monotonic() > deadline:
                said = "; ".join(map(str, found[:_SHOWN]))
                raise Broken(f"the audit finds {len(found)} violations: {said}")
            time.sleep(_SETTLING_S)
        self._check_deliveries()
        self.result.commands, self.result.mails = len(self._traffic.asked), len(self._mails())
        self.result.schemas = {service: self._revision(service) for service in SERVICES}
        self._traffic.resume()

    def _learn(self) -> None:
        """Note what this version's audit finds of the old one, which need not know all that it is held to."""
        self._traffic.pause()
        found: frozenset[str] | None = None
        while (seen := frozenset(map(str, self._violations()))) != found:
            found = seen
            time.sleep(_SETTLING_S)
        self._known = seen
        self._traffic.resume()

    def _violations(self) -> list[Violation]:
        self._log += self._reader.read()
        with open_snapshots(self._connection) as snapshot:
            of_databases = check(snapshot, settled=True)
            found = [*of_databases, *check_topics(published(self._log), snapshot), *check_log(self._log)]
        return [each for each in found if str(each) not in self._known]

    def _check_deliveries(self) -> None:
        """Check that what Kafka acknowledged is there, and that no mail came twice. Raises Broken."""
        there = {record.id for record in self._log}
        if lost := [asked for asked in self._traffic.asked if asked.id not in there]:
            raise Broken(f"{len(lost)} acknowledged commands are not on their topics")
        twice = [id_ for id_, number in Counter(self._mails()).items() if number > 1]
        if twice:
            raise Broken(f"{len(twice)} mails came twice, the first is {twice[0]}")

    def _mails(self) -> list[str]:
        return [str(mail["message-id"]) for mail in read_mails(self._fleet.stack.mail.mails)]

    def _revision(self, service: Principal) -> str:
        return str(self._connection.ask(service, partial(migrate.state, service)).revision)
