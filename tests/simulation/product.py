"""The whole product in replicas: all four services, two or three of each, and whatever the platform may send.

Each replica is the chassis' consumer, shell, relay, timers and retries over the service's own handlers and load plans;
the transactions of replicas meet statement by statement. In the end the invariants of a running product hold.
"""

import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from deploy.operator.invariants import check, check_actors, check_log, check_tokens, check_topics, logged, published
from deploy.operator.snapshots import memory_snapshot
from popfax_contracts.message import Message
from popfax_contracts.provisioning import OptionPublished, PlanPublished
from popfax_contracts.topics import Principal
from services.chassis.database import Key, Why
from services.chassis.kafka import partition_of
from services.chassis.memory import Contents, MemoryDatabase
from services.chassis.messages import SetTimer, outgoing
from services.chassis.rows import Mapped, replace
from services.chassis.sagas import CancelSaga, RetrySaga, SagaDeadline, SagaRow
from services.chassis.service import Service
from services.groups.timers import LowBalanceDue
from services.ledger.messages import CorrectBalance
from services.notifications.domain import WAITING, MailState
from services.notifications.tables import ERASED, MAILS
from services.provisioning.domain import FaxNumber, NumberState
from services.provisioning.tables import FAX_NUMBERS, OPTIONS, PLANS
from tests.simulation import commands
from tests.simulation.bus import Bus
from tests.simulation.checks import kept_after_the_end
from tests.simulation.commands import Cast, Sent
from tests.simulation.hub import Process
from tests.simulation.kafka import Broker
from tests.simulation.replicas import PARTITIONS, Services, Tell, cause, silent
from tests.simulation.transactions import ModelDatabase, Server
from tests.simulation.world import SERVICES, drive, exchanged, poisonable

RETRIED_EVERY_S = 2.0
"""How often the operator retries what is parked once the bugs are fixed, in seconds."""

_RECURRING = LowBalanceDue.TYPE.encode()
"""What is due again and again: nobody waits for its end."""


class _Seen(Bus):
    """The topics, as the cast of a story reads them."""

    def __init__(self, broker: Broker) -> None:
        self.logs = {place: log.records for place, log in broker.logs.items()}  # type: ignore[misc]


class Product(Services):
    """All four services in replicas."""

    kinds = (*Services.kinds, (3, "poison"), (2, "time_passes"))
    faults_every_s = 4.0
    longest_freeze_s = 20.0

    def __init__(self, seed: int, tell: Tell = silent) -> None:
        super().__init__(seed, tell)
        self.lasts_s = self.random.choice([8.0, 15.0])
        self.pause_s = self.random.choice([0.1, 0.3])
        self.cast = Cast(self.random, _Seen(self.broker), self._rows, self.hub.date)
        self.poisoned: dict[Principal, set[Key]] = {}
        self.by_name: dict[Principal, Server] = {}

    def begin(self) -> None:
        for service in SERVICES:
            self.by_name[service.principal] = self.serve(self._breakable(service), self.random.choice([2, 2, 3]))
        self._put_on_sale()
        self.hub.after(self.random.uniform(0.0, 3.0), self._register)
        self.hub.after(3.0, self._send)
        self.hub.after(3.0, self._operate)

    def _breakable(self, service: Service) -> Service:
        poisoned = self.poisoned[service.principal] = set()
        return exchanged(service, {model: poisonable(each, poisoned) for model, each in service.handlers.items()})

    def _rows(self, service: Principal, mapped: Mapped[Any, Any]) -> list[Any]:
        return list(self.by_name[service].contents.tables.get(mapped.table.name, {}).values())

    # --- what is sent ---

    def _put_on_sale(self) -> None:
        """Have the catalogue publish plans and options; there are few fax numbers."""
        server = self.by_name[Principal.PROVISIONING]
        numbers = [f"+3317000000{n}" for n in range(self.random.randint(1, commands.FAX_NUMBERS))]
        server.contents.tables[FAX_NUMBERS.table.name] = {
            number: FaxNumber(number, NumberState.FREE, None) for number in numbers
        }
        server.contents.tables[OPTIONS.table.name] = dict(self.cast.options)
        server.contents.tables[PLANS.table.name] = dict(self.cast.plans)
        bodies: list[Message] = [
            PlanPublished(
                plan=plan.plan,
                price_units=plan.price_units,
                validity_months=plan.validity_months,
                fax_number=plan.fax_number,
            )
            for plan in self.cast.plans.values()
        ]
        bodies += [OptionPublished(option=o.option, price_units=o.price_units) for o in self.cast.options.values()]
        process = Process(self.hub, "catalogue")
        process.start(partial(self._publish, ModelDatabase(server, process), bodies))

    async def _publish(self, database: ModelDatabase, bodies: list[Message]) -> None:
        async with database.begin() as tx:
            await tx.claim_inbox([self.cast.uuid()], self.hub.date())
            await tx.send([outgoing(body, 0, cause(body, self.cast.uuid())) for body in bodies], self.hub.date())

    def _register(self) -> None:
        for command in commands.register_owners(self.cast):
            self._append(command)

    def _send(self) -> None:
        if not self.is_calm:
            for command in commands.next_command(self.cast):
                self._append(command)
            self.hub.after(self.random.expovariate(1 / self.pause_s), self._send)

    def _append(self, command: Sent) -> None:
        place = command.topic.name, partition_of(command.key, PARTITIONS)
        self.broker.append(place, [(command.key.encode(), command.value, command.headers)])

    # --- what operators do ---

    def _operate(self) -> None:
        """Retry, cancel or hasten sagas, or correct a balance: as a timer that all replicas may know beforehand."""
        if not self.is_calm:
            if (timer := self._due()) is not None:
                server, body, id_, saga = timer
                known = ("", None) if saga is None else (saga.correlation_id, saga.actor)
                due_at = self.hub.date() + timedelta(seconds=self.random.choice([0, 2]))
                server.contents.timers[id_] = SetTimer(id_, due_at, body), cause(body, id_, *known)
                self.tell("operator", server.name, f"{body.TYPE} {body.key()}")
            self.hub.after(self.random.expovariate(1 / 2.0), self._operate)

    def _due(self) -> tuple[Server, Message, UUID, SagaRow | None] | None:
        server = self.random.choice(list(self.by_name.values()))
        if server.name == Principal.LEDGER:
            fix = CorrectBalance(
                correction_id=self.cast.uuid(),
                account_id=self.cast.account(),
                amount_units=self.random.choice([-30, -3, 3, 30]),
                reason="charged twice",
                operator="Olga",
            )
            return server, fix, fix.correction_id, None
        sagas = [saga for saga in server.contents.tables.get("sagas", {}).values() if saga.ended_at is None]
        if not sagas:
            return None
        saga: SagaRow = self.random.choice(sagas)
        if self.random.random() < 0.5:
            return server, SagaDeadline(saga_id=saga.id), saga.id, saga
        body = self.random.choice([RetrySaga, CancelSaga])(saga_id=saga.id)
        return server, body, self.cast.uuid(), saga

    # --- faults ---

    def _poison(self) -> None:
        """From now on, every message on some key fails at a service, until the bug is fixed after a while."""
        service = self.random.choice(SERVICES)
        topic = self.random.choice(service.topics).name
        logs = [log for n in range(PARTITIONS) if (log := self.broker.logs[topic, n].records)]
        if logs:
            key = topic, self.random.choice(self.random.choice(logs)).key or b""
            self.tell("poison", service.principal, f"{topic} {key[1]!r}")
            self.poisoned[service.principal].add(key)
            self.hub.after(self.random.choice([1.0, 5.0]), self._mend)

    def _mend(self) -> None:
        """Fix all bugs; the operator retries what is parked."""
        for poisoned in self.poisoned.values():
            poisoned.clear()
        self._retry()

    def _retry(self) -> None:
        for server in self.servers:
            contents = server.contents
            failed = [id_ for id_, row in contents.parked.items() if row.parked.why is not Why.UNDECODABLE]
            if failed:
                self.tell("retries", server.name, f"{len(failed)} parked messages")
                drive(MemoryDatabase.request_retry(_database(server), failed))

    def _time_passes(self) -> None:
        time = timedelta(seconds=self.random.choice([10, 60, 400, 10_000, 8 * 86_400]))
        self.tell("time", "all clocks", f"are set forward by {time}")
        self.hub.skip(time)

    # --- the end ---

    def calm(self) -> None:
        super().calm()
        self._mend_for_good()

    def _mend_for_good(self) -> None:
        self._mend()
        self.hub.after(RETRIED_EVERY_S, self._mend_for_good)

    def unsettled(self) -> str:
        found = [super().unsettled()]
        for server in self.servers:
            found += [f"{server.name}: parked ({why}) {code}" for why, code in _left(server)]
        if not any(found):
            found += [f"{server.name}: {type_} is due" for server in self.servers for type_ in self._due_now(server)]
        return "; ".join(filter(None, found))

    def _due_now(self, server: Server) -> Iterator[str]:
        now, (service,) = self.hub.date(), [each for each in SERVICES if each.principal is server.name]
        yield from (timer.message.TYPE for timer, _ in server.contents.timers.values() if timer.due_at <= now)
        for record in drive(MemoryDatabase.due_alarms(_database(server), service.alarms, now, sys.maxsize)):
            if (type_ := dict(record.headers)["ce_type"]) != _RECURRING:
                yield (type_ or b"").decode()

    def check(self) -> None:
        super().check()
        _drop_mails_to_erased(self.by_name[Principal.NOTIFICATIONS].contents)
        snapshot = memory_snapshot({name: _database(server) for name, server in self.by_name.items()})
        log = [entry for record in self.broker.records() if (entry := logged(record)) is not None]
        found = [*check(snapshot, settled=True), *check_log(log), *check_topics(published(log), snapshot)]
        found += [*check_tokens(log, snapshot), *check_actors(log)]
        self.findings += map(str, found)
        self.findings += kept_after_the_end(log, [*snapshot.groups.sagas, *snapshot.provisioning.sagas])
        self.findings += [
            f"{server.name}: {key} is blocked" for server in self.servers for key in server.contents.blocked
        ]


def _database(server: Server) -> ModelDatabase:
    """Return what the server has, to be read at once."""
    return ModelDatabase(server, server.process)


def _drop_mails_to_erased(contents: Contents) -> None:
    """Drop what the sender, which does not run here, would as it comes to it: `sender.py:_give_up`."""
    erased, mails = (contents.tables.get(each.table.name, {}) for each in (ERASED, MAILS))
    for mail in list(mails.values()):
        if mail.recipient_id in erased and mail.state in WAITING:
            mails[mail.id] = replace(mail, state=MailState.ERASED, params={})


def _left(server: Server) -> Iterator[tuple[Why, str]]:
    """Yield what is parked and could be read: each with its reason and its code."""
    for row in server.contents.parked.values():
        if row.parked.why is not Why.UNDECODABLE:
            yield row.parked.why, row.parked.code
