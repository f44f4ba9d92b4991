"""A simulated product: the four real services, on a database, a clock and a bus that a seed can break.

Each step is a choice of the seed's: a batch arrives, a relay publishes, a connection drops at the worst moment, a
service crashes, a day passes. The same seed makes the same choices, so every finding can be reproduced.
"""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from random import Random
from typing import Any, TypeVar
from uuid import UUID

from deploy.operator.invariants import (
    Place,
    check,
    check_actors,
    check_log,
    check_tokens,
    check_topics,
    logged,
    published,
)
from deploy.operator.snapshots import memory_snapshot
from popfax_contracts.codes import MalformedCode
from popfax_contracts.ledger import TransfersPosted, TransfersRefused, UnitsReserved
from popfax_contracts.message import Message
from popfax_contracts.provisioning import OptionPublished, PlanPublished
from popfax_contracts.topics import Principal
from services.chassis.database import Among, Conflict, Key, Outage, Why
from services.chassis.memory import Contents, MemoryDatabase, MemoryTransaction
from services.chassis.messages import TIMERS, Incoming, Outcome, Outgoing, SetTimer, StoredRecord, outgoing
from services.chassis.rows import Mapped, Rows
from services.chassis.sagas import CancelSaga, RetrySaga, SagaDeadline, SagaRow
from services.chassis.service import AnyHandler, Handler, Moment, Service
from services.chassis.shell import FromKafka, FromTimers, Shell, Source, StillUndecodable
from services.chassis.timers import TIMERS_AT_ONCE, fire_due, retry_requested
from services.groups.consumers import GROUPS
from services.groups.domain import InvitationState
from services.groups.tables import INVITATIONS, ORDERS
from services.groups.timers import LowBalanceDue, RetryTransfer, TransferDue
from services.ledger.consumers import LEDGER
from services.ledger.messages import CorrectBalance
from services.notifications.consumers import NOTIFICATIONS
from services.provisioning.consumers import PROVISIONING
from services.provisioning.domain import AccountState, FaxNumber, NumberState, Plan
from services.provisioning.tables import FAX_NUMBERS, OPTIONS, PLANS, SUBSCRIBERS
from tests.simulation import commands
from tests.simulation.bus import PARTITIONS, Bus, BusRecord, Consumer
from tests.simulation.checks import LockOrder, given_to_outsiders, kept_after_the_end, topped_up_wrongly
from tests.simulation.commands import Cast, Sent
from tests.simulation.posts import Posts

T = TypeVar("T")
K = TypeVar("K")
R = TypeVar("R")

Decide = Callable[[Any, Incoming[Any], Moment], Outcome]
"""A handler's function, without its needs."""

SERVICES: tuple[Service, ...] = (LEDGER, GROUPS, PROVISIONING, NOTIFICATIONS)

BEGINNING = datetime(2031, 1, 1, tzinfo=UTC)
A_WHILE = timedelta(hours=1)
"""Longer than any saga's deadline, shorter than any timer that people wait for."""
READ_WITHIN = timedelta(seconds=10)
"""Longer than everything takes that is read again, at a millisecond for each transaction."""

_RECURRING = frozenset({LowBalanceDue.TYPE})
"""What is due again and again: nobody waits for its end."""

_RESERVED = UnitsReserved.TYPE.encode()
_ANSWERS = frozenset({TransfersPosted.TYPE.encode(), TransfersRefused.TYPE.encode()})

_UNREAD = f'"code":"{MalformedCode.UNKNOWN_TYPE}"'.encode()
"""Stands in the refusal of a command that a version could not read."""

MAX_ROUNDS = 5000
"""The most rounds of fair delivery: what is not settled by then never will be.

A standing order of one unit a month takes a rich owner's units for fifteen years, and some hundred rounds in each.
"""


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits: nothing in memory does, and an event loop would take most of the time."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise RuntimeError("it waits for something")


def exchanged(service: Service, handlers: Mapping[type[Message], Decide | AnyHandler]) -> Service:
    """Return the service with some handlers replaced: only their functions, or their needs as well."""
    new = {
        model: handler if isinstance(handler, Handler) else replace(service.handlers[model], handle=handler)
        for model, handler in handlers.items()
    }
    return replace(service, handlers={**service.handlers, **new})


class Poisoned(Exception):
    """A bug that makes every message on one key fail until it is fixed."""


class Race(Conflict):
    """A lost race that the seed has caused; any other conflict is a finding."""


class Fault(Enum):
    """What may happen to a transaction."""

    AT_BEGIN = auto()
    AT_COMMIT = auto()
    """The connection drops before the commit: nothing has happened."""
    AFTER_COMMIT = auto()
    """The connection drops after the commit, before its confirmation: all has happened, and nobody knows."""
    RACE = auto()


class VirtualClock:
    """Time that passes when the seed says so, and randomness that is the seed's."""

    def __init__(self, random: Random) -> None:
        self.now = BEGINNING
        self._random = random

    def moment(self) -> Moment:
        """Return the present moment, a little after the one before."""
        self.now += timedelta(milliseconds=1)
        return Moment(self.now, self._random.randbytes)

    async def sleep(self, seconds: float) -> None:
        """Advance the clock at once."""
        self.now += timedelta(seconds=seconds)


class LockingTransaction(MemoryTransaction):
    """A transaction that notes whose rows it would lock, in which order."""

    def __init__(self, contents: Contents) -> None:
        super().__init__(contents)
        self.locks: list[str] = []

    def fetch(
        self, mapped: Mapped[K, R], keys: Iterable[K], sets: Sequence[Among] = (), *, for_update: bool = True
    ) -> Awaitable[Rows[K, R]]:
        """Load rows by key and by sets."""
        found = super().fetch(mapped, keys, sets, for_update=for_update)
        if for_update and (keys or sets):
            self.locks.append(mapped.table.name)
        return found

    async def take(self, mapped: Mapped[K, R], matching: Mapping[str, Any], limit: int) -> Rows[K, R]:
        """Load the first rows that match."""
        if limit:
            self.locks.append(mapped.table.name)
        return await super().take(mapped, matching, limit)


class FaultyDatabase(MemoryDatabase):
    """A database in memory whose next transaction may be made to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.lock_order = LockOrder()
        self.fault: Fault | None = None
        self.committed: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[MemoryTransaction]:
        """Open a transaction, and raise the fault if one is set."""
        fault, self.fault = self.fault, None
        if fault is Fault.AT_BEGIN:
            raise Outage("at begin")
        async with super().begin() as plain:
            tx = LockingTransaction(plain.contents)
            yield tx
            self.lock_order.locked(tx.locks)
            if fault is Fault.AT_COMMIT:
                raise Outage("at commit")
            if fault is Fault.RACE:
                raise Race("40001")
        self.committed()
        if fault is Fault.AFTER_COMMIT:
            raise Outage("after commit")


class WatchedShell(Shell):
    """The shell, which records the failures that it survives: only poisoned batches may fail."""

    def __init__(self, service: Service, database: FaultyDatabase, clock: VirtualClock) -> None:
        super().__init__(service, database, clock)
        self.failures: list[str] = []
        self._all_types = self._types

    def forget_a_type(self, random: Random) -> str:
        """Become an older version that can't read one of its commands; return that command's type."""
        known = [model.TYPE for model in self.service.handlers if any(topic.commands for topic in model.TOPICS)]
        forgotten = random.choice(known) if known else ""
        self._types = {type_: model for type_, model in self._all_types.items() if forgotten != model.TYPE}
        return forgotten

    @property
    def outdated(self) -> bool:
        """Return whether an older version is running."""
        return self._types is not self._all_types

    def remember_types(self) -> None:
        """Become the newest version again."""
        self._types = self._all_types

    async def _commit(self, arrivals: Sequence[Any], source: Source) -> None:
        try:
            await super()._commit(arrivals, source)
        except (Outage, Race, Poisoned, StillUndecodable):
            raise
        except Exception as error:
            self.failures.append(f"{self.service.principal}: a batch failed: {error!r}")
            raise


@dataclass(slots=True)
class Node:
    """A running service."""

    service: Service
    shell: WatchedShell
    database: FaultyDatabase
    consumer: Consumer
    poisoned: set[Key]

    @property
    def principal(self) -> Principal:
        """The service's principal."""
        return self.service.principal


Tell = Callable[[str, str, Any], None]
"""Called with what happens: the step, the actor, the event."""


def _silent(step: str, who: str, what: Any) -> None:
    pass


SILENT: Tell = _silent


class World:
    """The product and its surroundings, for one seed."""

    def __init__(
        self,
        seed: int,
        services: Sequence[Service] = SERVICES,
        database: Callable[[], FaultyDatabase] = FaultyDatabase,
        source: type[FromKafka] = FromKafka,
        tell: Tell = SILENT,
    ) -> None:
        self._source = source
        self.random = Random(seed)
        self.clock = VirtualClock(self.random)
        self.bus = Bus()
        self.nodes = [self._node(service, database()) for service in services]
        self.by_name = {node.principal: node for node in self.nodes}
        groups, ledger = (self.by_name[name].database for name in (Principal.GROUPS, Principal.LEDGER))
        self.posts = Posts(self.random, groups, ledger)
        groups.committed, ledger.committed = self.posts.groups_committed, self.posts.ledger_committed
        self.cast = Cast(self.random, self.bus, self._rows, lambda: self.clock.now)
        self.findings: list[str] = []
        self.read_again: set[bytes] = set()
        """The types of what was on the topics when they were read again from their beginning."""
        self._told_again: set[Place] = set()
        self.lost = False
        self._late: list[BusRecord] = []
        self.step = 0
        self.tell = tell

    def _node(self, service: Service, database: FaultyDatabase) -> Node:
        poisoned: set[Key] = set()
        breakable = exchanged(service, {model: poisonable(each, poisoned) for model, each in service.handlers.items()})
        shell = WatchedShell(breakable, database, self.clock)
        return Node(breakable, shell, database, Consumer(self.bus, service.topics), poisoned)

    # --- the run ---

    def run(self) -> list[str]:
        """Run the seed's steps, settle, and return the findings, of which there should be none."""
        self._begin()
        for step in range(1, self.random.randint(40, 250)):
            self.step = step
            self._act()
            if self.random.random() < 0.04:
                self._check(settled=False)
        self._settle()
        self._check(settled=True)
        if self.random.random() < 0.3:
            self.tell("again", "bus", "everything is delivered once more")
            self.findings += self._read_again()
        self.tell("time", "clock", "goes on until nothing is left that waits for it")
        self._run_dry(datetime.max.replace(tzinfo=UTC))
        self._check(settled=True)
        self.findings += self._outlived()
        return self.findings

    def _read_again(self) -> list[str]:
        """Read all topics from their beginning: no row changes, and nothing is published that was not before.

        Commands that an older version could not read, and has refused, are the exception: they are read for the first
        time. And what is due while that is going on would be no consequence of it.
        """
        if any(moment <= self.clock.now + READ_WITHIN for node in self.nodes for moment, _ in _due(node)):
            return []
        self.read_again |= {value for record in self.bus.records() if (value := dict(record.headers).get("ce_type"))}
        before = [(dict(node.database.contents.tables), dict(node.database.contents.appended)) for node in self.nodes]
        published = {(record.topic, _id_of(record)) for record in self.bus.records()}
        for node in self.nodes:
            node.consumer.positions.update(dict.fromkeys(node.consumer.positions, 0))
        self._run_dry(self.clock.now)
        if any(_UNREAD in record.value for record in self.bus.records() if record.value is not None):
            return []
        found = [
            f"{node.principal}: {name} changed when everything was read again"
            for node, (tables, appended) in zip(self.nodes, before, strict=True)
            for name, rows in {**node.database.contents.tables, **node.database.contents.appended}.items()
            if rows and rows != {**tables, **appended}.get(name)
        ]
        again = {(record.topic, _id_of(record)) for record in self.bus.records()}
        return found + [f"{topic}: {id_} was published only when read again" for topic, id_ in again - published]

    def _outlived(self) -> list[str]:
        """Return the invitations and accounts that should have expired and have not, and orders not looked at."""
        invitations = self._rows(Principal.GROUPS, INVITATIONS)
        accounts = self._rows(Principal.PROVISIONING, SUBSCRIBERS)
        found = [
            f"{i.id} was never answered, and is pending" for i in invitations if i.state is InvitationState.PENDING
        ]
        found += [
            f"{order.id} is due at {order.due_at}, and nobody looks"
            for order in self._rows(Principal.GROUPS, ORDERS)
            if order.due_at is not None
        ]
        return found + [
            f"{account.id} ended at {account.expires_at}, and is active"
            for account in accounts
            if account.state is AccountState.ACTIVE and account.expires_at is not None
        ]

    def _act(self) -> None:
        self.random.choices(_ACTIONS, _WEIGHTS)[0](self)

    def _rows(self, service: Principal, mapped: Mapped[Any, Any]) -> Sequence[Any]:
        return list(self.by_name[service].database.contents.tables.get(mapped.table.name, {}).values())

    def _begin(self) -> None:
        """Put plans and numbers on sale, and register the owners; usually let this settle before anything else."""
        provisioning = self.by_name[Principal.PROVISIONING]
        numbers = {
            number: FaxNumber(number, NumberState.FREE, None)
            for number in (f"+3317000000{n}" for n in range(self.random.randint(1, commands.FAX_NUMBERS)))
        }
        provisioning.database.contents.tables[FAX_NUMBERS.table.name] = numbers
        provisioning.database.contents.tables[OPTIONS.table.name] = dict(self.cast.options)
        for plan in self.cast.plans.values():
            self._publish_plan(plan)
        for option in self.cast.options.values():
            told = OptionPublished(option=option.option, price_units=option.price_units)
            drive(_publish(provisioning.database, told, self.cast.uuid()))
        if self.random.random() < 0.8:
            self._settle()
        for command in commands.register_owners(self.cast):
            self._send(command)
        if self.random.random() < 0.8:
            self._settle()

    def _settle(self) -> None:
        """Deliver everything without faults until nothing is left but timers in the future."""
        if self._late or self.random.random() < 0.5:
            self._run_dry(self.clock.now + A_WHILE)  # bugs remain until every saga's deadline is over
        self.it_comes_late()
        for node in self.nodes:
            node.poisoned.clear()
            node.shell.remember_types()
            self._retry(node, list(node.database.contents.parked))
        self._run_dry(self.clock.now + A_WHILE if self.lost else self.clock.now)  # lost answers are asked for again
        self.lost = False

    def _run_dry(self, until: datetime) -> None:
        """Deliver everything fairly; whenever only timers are left, advance to the next, up to `until`."""
        for node in self.nodes:
            node.database.fault = None
            node.consumer.delayed.clear()
        for _ in range(MAX_ROUNDS):
            moved = [self._round(node) for node in self.nodes]
            if any(moved):
                continue
            due = [(moment, recurs) for node in self.nodes for moment, recurs in _due(node) if moment <= until]
            if all(recurs for _, recurs in due):
                return
            # To the next timer, or to the last at once, as after an outage of a year.
            self.clock.now = max(self.clock.now, self.random.choice([min, max])(due)[0])
        self.findings.append("does not settle")

    def _round(self, node: Node) -> bool:
        """Let a service do everything that it can do now; return whether there was anything."""
        retried = self._retry_mended(node)
        relayed = self._publish(node, list(node.database.contents.outbox))
        fired = drive(fire_due(node.shell))
        batch = node.consumer.batch(self.random, self.step, self.random.choice([3, 50, 500]))
        if batch:
            self._deliver(node, batch)
        node.consumer.commit()
        return bool(batch or relayed or fired or retried)

    def _check(self, settled: bool) -> None:
        databases = {node.principal: node.database for node in self.nodes}
        snapshot = memory_snapshot(databases) if settled else memory_snapshot(databases, self._act)
        found = [str(violation) for violation in check(snapshot, settled)]
        if settled:
            log = [entry for record in self.bus.records() if (entry := logged(record)) is not None]
            topics = check_topics(published(log), snapshot, self._told_again)
            shown = [*check_log(log), *topics, *check_tokens(log, snapshot), *check_actors(log)]
            found += [str(violation) for violation in shown]
            found += given_to_outsiders(snapshot.groups.history)
            found += topped_up_wrongly(log, snapshot.ledger.entries, snapshot.ledger.holds)
            found += kept_after_the_end(log, [*snapshot.groups.sagas, *snapshot.provisioning.sagas])
            found += [finding for node in self.nodes for finding in self._left_behind(node)]
            found += [failure for node in self.nodes for failure in node.shell.failures]
            found += [*self.posts.findings, *self.posts.unended()]
        self.findings += found

    def _left_behind(self, node: Node) -> list[str]:
        """Check that only unreadable messages are parked, and that no key is blocked."""
        contents = node.database.contents
        found = [
            f"{node.principal}: parked ({row.parked.why}) {row.parked.code} {row.parked.detail}"
            for row in contents.parked.values()
            if row.parked.why is not Why.UNDECODABLE
        ]
        if (tables := node.database.lock_order.broken()) is not None:
            found.append(f"{node.principal} locks {tables}")
        return found + [f"{node.principal}: {key} is blocked" for key in contents.blocked]

    # --- what may happen ---

    def platform_sends(self) -> None:
        """The platform sends its next command."""
        for command in commands.next_command(self.cast):
            self._send(command)

    def deliver(self) -> None:
        """A batch arrives at a service, and a fault may occur while it is handled."""
        waiting = [node for node in self.nodes if node.consumer.waiting(self.step)]
        if not waiting:
            return
        node = self.random.choice(waiting)
        batch = node.consumer.batch(self.random, self.step, self.random.choice([1, 2, 5, 20, 100]))
        if self.random.random() < 0.15:
            node.database.fault = self.random.choice(list(Fault))
        self._deliver(node, batch)
        node.database.fault = None
        if self.random.random() < 0.5:
            node.consumer.commit()

    def relay(self) -> None:
        """A relay publishes some of its rows, each key's in order; it may crash before it deletes them."""
        unsent = [node for node in self.nodes if node.database.contents.outbox]
        if not unsent:
            return
        node = self.random.choice(unsent)
        share = self.random.choice([0.3, 0.7, 1.0])
        stopped: set[str] = set()
        rows = []
        for out in node.database.contents.outbox:
            if out.key in stopped or self.random.random() > share:
                stopped.add(out.key)
            else:
                rows.append(out)
        self._publish(node, rows, crash=self.random.random() < 0.15)

    def crash(self) -> None:
        """A service crashes and restarts: it reads again what it had not committed."""
        node = self.random.choice(self.nodes)
        self.tell("crash", node.principal, "falls back to its committed offsets")
        node.consumer.crash()

    def lose_offsets(self) -> None:
        """A service's committed offsets go back to an earlier place."""
        node = self.random.choice(self.nodes)
        self.tell("rewind", node.principal, "loses committed offsets")
        node.consumer.commit()
        node.consumer.rewind(self.random)

    def lose_an_answer(self) -> None:
        """Groups loses the ledger's answer to a transfer, until it asks again or offsets are lost."""
        consumer = self.by_name[Principal.GROUPS].consumer
        answers = [
            place
            for place in consumer.waiting(self.step)
            if dict(self.bus.logs[place][consumer.positions[place]].headers).get("ce_type") in _ANSWERS
        ]
        if answers:
            place = self.random.choice(answers)
            self.tell("loses", Principal.GROUPS, self.bus.logs[place][consumer.positions[place]])
            consumer.positions[place] += 1
            self.lost = True

    def an_older_version_reads(self) -> None:
        """Somebody who reserved units is not told: an older version could not read it, and it is retried later."""
        node = self.by_name[self.random.choice([Principal.GROUPS, Principal.PROVISIONING])]
        heads = {
            place: self.bus.logs[place][node.consumer.positions[place]] for place in node.consumer.waiting(self.step)
        }
        told = [record for record in heads.values() if dict(record.headers).get("ce_type") == _RESERVED]
        if told:
            record = self.random.choice(told)
            self.tell("loses", node.principal, record)
            node.consumer.positions[record.topic, record.partition] += 1
            self._late.append(record)

    def it_comes_late(self) -> None:
        """What an older version could not read is read."""
        for record in self._late:
            self.tell("again", "bus", self.bus.publish_again(record))
        self._late.clear()

    def delay(self) -> None:
        """A partition's records are delayed for one service, for a long time."""
        node = self.random.choice(self.nodes)
        topic = self.random.choice(node.service.topics)
        place = topic.name, self.random.randrange(PARTITIONS)
        node.consumer.delayed[place] = self.step + self.random.randint(5, 60)
        self.tell("delay", node.principal, f"{place[0]}/{place[1]} until step {node.consumer.delayed[place]}")

    def a_day_later(self) -> None:
        """An old record is published once more, a day later."""
        record = self.random.choice(self.random.choice([log for log in self.bus.logs.values() if log]))
        self.clock.now += timedelta(days=1)
        # A compacted topic's newest record is an old one now, so it is wrong about that key until the next.
        self._told_again.add((record.topic, (record.key or b"").decode()))
        self.tell("again", "bus", self.bus.publish_again(record))

    def time_passes(self) -> None:
        """Time passes, from a moment to hours."""
        self.clock.now += timedelta(seconds=self.random.choice([0.1, 10, 60, 400, 10_000]))
        self.tell("time", "clock", "goes on")

    def calm(self) -> None:
        """For a moment nothing fails, and everything in flight arrives; bugs remain."""
        self.tell("calm", "all", "whatever is on its way arrives")
        self._run_dry(self.clock.now)

    def weeks_pass(self) -> None:
        """Nothing happens for days or weeks: longer than an invitation, or than the warnings of an account's end."""
        self.clock.now += timedelta(days=self.random.choice([1, 8, 40, 100]))
        self.tell("time", "clock", "goes on by days")

    def operator_corrects(self) -> None:
        """An operator posts a correction to some account; a negative one may be refused."""
        ledger = self.by_name[Principal.LEDGER]
        units = self.random.choice([-30, -3, 3, 30])
        body = CorrectBalance(
            correction_id=self.cast.uuid(),
            account_id=self.cast.account(),
            amount_units=units,
            reason="charged twice",
            operator="Olga",
        )
        cause = _cause(body, str(body.correction_id), body.correction_id)
        drive(_set_timer(ledger.database, SetTimer(cause.id, self.clock.now, body), cause))
        self.tell("operator", ledger.principal, f"corrects {body.account_id} by {units}")
        self._fire(ledger)

    def fire_timers(self) -> None:
        """Due timers are handled; the connection may drop meanwhile."""
        node = self.random.choice(self.nodes)
        if self.random.random() < 0.1:
            node.database.fault = self.random.choice(list(Fault))
        self._fire(node)
        node.database.fault = None

    def fire_late(self) -> None:
        """A timer is due; before it is handled, another replica handles it, or a batch that moves it."""
        waiting = [node for node in self.nodes if node.database.contents.timers]
        if not waiting:
            return
        node = self.random.choice(waiting)
        self.clock.now = max(self.clock.now, min(timer.due_at for timer, _ in node.database.contents.timers.values()))
        timers = drive(node.database.due_timers(self.clock.moment().now, TIMERS_AT_ONCE))
        if self.random.random() < 0.3:
            self._fire(node)
        else:
            for command in commands.renewals(self.cast, {timer.row_id for timer in timers}):
                self.tell("sends", "platform", self._published(command))
            self._deliver(node, node.consumer.batch(self.random, self.step, 500))
        self.tell("timers", node.principal, f"{len(timers)} fire late")
        drive(node.shell.process(timers, FromTimers()))

    def hasten_a_timer(self) -> None:
        """A saga's deadline is reached now, whatever its step, as a timer of version 0.2.0 would say."""
        node = self.random.choice(self.nodes)
        sagas: dict[UUID, SagaRow] = node.database.contents.tables.get("sagas", {})
        open_ = [saga for saga in sagas.values() if saga.ended_at is None]
        if open_:
            saga = self.random.choice(open_)
            body = SagaDeadline(saga_id=saga.id)
            cause = _cause(body, saga.correlation_id, saga.causation_id, saga.actor)
            drive(_set_timer(node.database, SetTimer(saga.id, self.clock.now, body), cause))
            self._fire(node)

    def operator_acts(self) -> None:
        """An operator retries or cancels a saga, whatever its state."""
        node = self.random.choice(self.nodes)
        sagas: Mapping[UUID, SagaRow] = node.database.contents.tables.get("sagas", {})
        if sagas:
            running = [saga for saga in sagas.values() if saga.ended_at is None]
            ended = not running or self.random.random() < 0.2
            saga = self.random.choice(list(sagas.values()) if ended else running)
            body = self.random.choice([RetrySaga, CancelSaga])(saga_id=saga.id)
            cause = _cause(body, saga.correlation_id, self.cast.uuid(), saga.actor)
            drive(_set_timer(node.database, SetTimer(cause.id, self.clock.now, body), cause))
            self.tell("operator", node.principal, f"{type(body).__name__} {saga.id}")
            self._fire(node)

    def operator_asks_again(self) -> None:
        """An operator asks the ledger for a transfer again, on behalf of the command whose timer waits for it."""
        groups = self.by_name[Principal.GROUPS]
        waiting = [
            (timer.message, cause)
            for timer, cause in groups.database.contents.timers.values()
            if isinstance(timer.message, TransferDue)
        ]
        if waiting:
            due, asked = self.random.choice(waiting)
            body = RetryTransfer(transfer_id=due.transfer_id)
            cause = _cause(body, asked.correlation_id, self.cast.uuid(), asked.actor)
            drive(_set_timer(groups.database, SetTimer(cause.id, self.clock.now, body), cause))
            self.tell("operator", groups.principal, f"asks again for {due.transfer_id}")
            self._fire(groups)

    def operator_retries(self) -> None:
        """An operator retries parked messages, whether their bug is fixed or not."""
        node = self.random.choice(self.nodes)
        parked = list(node.database.contents.parked)
        self._retry(node, self.random.sample(parked, self.random.randint(0, len(parked))))

    def poison(self) -> None:
        """From now on, every message on some key fails at a service until the bug is fixed."""
        node = self.random.choice(self.nodes)
        topic = self.random.choice(node.service.topics).name
        logs = [log for partition in range(PARTITIONS) if (log := self.bus.logs[topic, partition])]
        if logs:
            record = self.random.choice(self.random.choice(logs))
            node.poisoned.add((record.topic, record.key or b""))
            self.tell("poison", node.principal, f"{record.topic} {record.key!r}")

    def downgrade(self) -> None:
        """An older version runs for a while: it parks what it can't read, without blocking the key."""
        node = self.random.choice(self.nodes)
        self.tell("poison", node.principal, f"can't read {node.shell.forget_a_type(self.random)}")

    def mend(self) -> None:
        """Bugs are fixed and the newest version runs; parked messages still wait for an operator."""
        self.tell("mend", "all", "services are mended")
        for node in self.nodes:
            node.poisoned.clear()
            node.shell.remember_types()

    def change_a_price(self) -> None:
        """A plan's price changes."""
        name = self.random.choice(list(self.cast.plans))
        plan = replace(self.cast.plans[name], price_units=self.random.choice(commands.PRICES))
        self.cast.plans[name] = plan
        self._publish_plan(plan)

    # --- how it happens ---

    def _send(self, command: Sent) -> None:
        if command.by_http and self.posts.take(command, self.clock.now):
            self.tell("posts", "somebody", f"{command.topic.name} {command.key}")
            return
        self.tell("sends", "platform", self._published(command))

    def _published(self, command: Sent) -> BusRecord:
        return self.bus.publish(command.topic, command.key, command.value, command.headers)

    def _deliver(self, node: Node, batch: Sequence[BusRecord]) -> None:
        for record in batch:
            self.tell("reads", node.principal, record)
        try:
            drive(node.shell.process(batch, self._source()))
        except Outage as outage:
            self.tell("outage", node.principal, str(outage))
        else:
            node.consumer.done(batch)

    def _fire(self, node: Node) -> None:
        try:
            fired = drive(fire_due(node.shell))
        except Outage as outage:
            self.tell("outage", node.principal, str(outage))
        else:
            if fired:
                self.tell("timers", node.principal, f"{fired} fire")

    def _publish(self, node: Node, rows: Sequence[Outgoing], crash: bool = False) -> bool:
        time = self.clock.now.isoformat()
        for out in rows:
            self.tell("relays", node.principal, self.bus.relay(out, node.principal, time))
        if rows and not crash:
            gone = {id(out) for out in rows}
            contents = node.database.contents
            contents.outbox = [out for out in contents.outbox if id(out) not in gone]
        return bool(rows)

    def _retry(self, node: Node, ids: Sequence[UUID]) -> None:
        if ids:
            self.tell("retries", node.principal, f"{len(ids)} parked messages")
            drive(node.database.request_retry(ids))
            drive(retry_requested(node.shell))

    def _retry_mended(self, node: Node) -> bool:
        """Retry messages whose bug is fixed. Unreadable ones stay parked forever."""
        if node.poisoned or node.shell.outdated:
            return False
        failed = [id_ for id_, row in node.database.contents.parked.items() if row.parked.why is not Why.UNDECODABLE]
        self._retry(node, failed)
        return bool(failed)

    def _publish_plan(self, plan: Plan) -> None:
        body = PlanPublished(
            plan=plan.plan,
            price_units=plan.price_units,
            validity_months=plan.validity_months,
            fax_number=plan.fax_number,
        )
        drive(_store_plan(self.by_name[Principal.PROVISIONING].database, plan, body, self.cast.uuid()))


def _id_of(record: BusRecord) -> tuple[bytes | None, bytes | None]:
    headers = dict(record.headers)
    return headers.get("ce_source"), headers.get("ce_id")


def _due(node: Node) -> list[tuple[datetime, bool]]:
    """Return the moments for which a service's timers and rows wait, each with whether it comes again every day."""
    rows = drive(node.database.due_alarms(node.service.alarms, datetime.max.replace(tzinfo=UTC), sys.maxsize))
    timers = [(timer.due_at, timer.message.TYPE in _RECURRING) for timer, _ in node.database.contents.timers.values()]
    types = [(record.due_at, (dict(record.headers)["ce_type"] or b"").decode()) for record in rows]
    return timers + [(due_at, type_ in _RECURRING) for due_at, type_ in types if due_at is not None]


def poisonable(handler: AnyHandler, poisoned: Collection[Key]) -> Decide:
    """Return a handler that fails on poisoned keys after it has changed the state: all of that must be undone."""

    def handle(state: Any, message: Incoming[Any], moment: Moment) -> Outcome:
        outcome = handler(state, message, moment)
        if poisoned and (message.record.topic, message.record.key) in poisoned:
            raise Poisoned
        return outcome

    return handle


def _cause(body: Message, correlation_id: str, id_: UUID, actor: UUID | None = None) -> Incoming[Message]:
    """Return a cause for an operator's message: it has an id and an envelope, but is on no topic."""
    return Incoming(id_, body, StoredRecord(id_, None, TIMERS, 0, 0, None, None, ()), correlation_id, actor)


async def _set_timer(database: MemoryDatabase, timer: SetTimer, cause: Incoming[Message]) -> None:
    async with database.begin() as tx:
        await tx.set_timers([(timer, cause)])


async def _publish(database: MemoryDatabase, body: Message, id_: UUID) -> None:
    async with database.begin() as tx:
        await tx.send([outgoing(body, 0, _cause(body, str(id_), id_))], BEGINNING)


async def _store_plan(database: MemoryDatabase, plan: Plan, body: PlanPublished, id_: UUID) -> None:
    """Change a plan and publish it, as the catalogue does."""
    async with database.begin() as tx:
        plans = await tx.fetch(PLANS, [plan.plan])
        plans.put(plan)
        await tx.save([plans])
        await tx.send([outgoing(body, 0, _cause(body, str(id_), id_))], BEGINNING)


ACTIONS: Sequence[tuple[int, Callable[[World], None]]] = (
    (40, World.deliver),
    (30, World.relay),
    (20, World.platform_sends),
    (3, World.delay),
    (3, World.lose_an_answer),
    (3, World.crash),
    (1, World.lose_offsets),
    (1, World.a_day_later),
    (2, World.time_passes),
    (2, World.weeks_pass),
    (3, World.calm),
    (1, World.operator_corrects),
    (2, World.fire_timers),
    (2, World.fire_late),
    (2, World.an_older_version_reads),
    (1, World.it_comes_late),
    (2, World.hasten_a_timer),
    (3, World.operator_acts),
    (1, World.operator_asks_again),
    (2, World.operator_retries),
    (2, World.poison),
    (1, World.downgrade),
    (2, World.mend),
    (1, World.change_a_price),
)
"""Everything that may happen, each with its weight."""

_WEIGHTS = [weight for weight, _ in ACTIONS]
_ACTIONS = [action for _, action in ACTIONS]
