"""Replicas of real code under a seed: relays and consumers, on models of Kafka and PostgreSQL, frozen, killed, cut off.

A story is one seed's run. In `Relays`, some replicas relay the outbox of one service into which others write.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from random import Random
from typing import Any, TypeVar
from unittest.mock import patch
from uuid import UUID

from popfax_contracts.ledger import BalanceChanged, CreditUnits
from popfax_contracts.message import Message
from popfax_contracts.provisioning import PlanPublished
from popfax_contracts.topics import LEDGER_BALANCES, LEDGER_COMMANDS, PROVISIONING_PLANS, TOPICS, Principal, Topic
from services.chassis import arrivals, client_state, consumer, kafka, partitions, relay, topic_ids
from services.chassis.arrivals import Fetched
from services.chassis.database import Conflict, Outage
from services.chassis.gathering import Gathering
from services.chassis.messages import TIMERS, Incoming, Outgoing, StoredRecord, outgoing, source_of
from services.chassis.partitions import Stops
from services.chassis.relay import Relay
from services.chassis.rows import replace
from services.chassis.service import Service
from services.chassis.settings import ServiceSettings, settings_from
from services.chassis.shell import Shell
from services.chassis.timers import run_retries, run_timers
from services.chassis.wakeups import Bell
from services.ledger.consumers import LEDGER
from services.ledger.tables import ACCOUNTS
from services.provisioning.domain import Plan
from services.provisioning.tables import PLANS
from tests.simulation.consumers import Coordinator, ModelAdmin, ModelConsumer
from tests.simulation.hub import Hub, HubClock, Process, VirtualThreading, VirtualTime
from tests.simulation.kafka import Broker, ModelProducer
from tests.simulation.transactions import ModelDatabase, ModelEngine, Server, outbox_on

T = TypeVar("T")

PARTITIONS = 3
DEADLOCKS = 0.2
"""In how many stories of services a client deadlocks."""
LOOKED_AFTER_S = 10.0
"""How often whatever runs the replicas asks whether they are alive."""
SETTLES_WITHIN_S = 400.0
"""How long everything may take once nothing fails any more, in virtual time."""

Tell = Callable[[str, str, Any], None]
"""Called with what happens: what it is, who does it, and the event."""


def silent(does: str, who: str, what: Any) -> None:
    """Tell nobody."""


def settings(**given: str) -> ServiceSettings:
    """Return a replica's settings; nothing is reached by them."""
    known = {
        "kafka_bootstrap": "localhost:1",
        "kafka_username": "simulated",
        "kafka_password": "simulated",
        "database_url": "postgresql+psycopg://simulated:simulated@localhost:1/simulated",
    }
    return settings_from(
        ServiceSettings, "simulated", {f"SIMULATED_{n.upper()}": v for n, v in (known | given).items()}
    )


SETTINGS = settings()


@contextmanager
def simulated(hub: Hub, broker: Broker, coordinator: Coordinator) -> Iterator[None]:
    """Put the models in the places of `time`, of threads, and of the clients of Kafka and PostgreSQL."""

    def here() -> Process:
        assert hub.current is not None
        return hub.current

    with ExitStack() as stack:
        for module in (arrivals, client_state, consumer, partitions, relay, topic_ids):
            stack.enter_context(patch.object(module, "time", VirtualTime(hub)))
        # Small, so that rounds are full and dead rows are many after seconds.
        stack.enter_context(patch.object(relay, "ROWS", 20))
        stack.enter_context(patch.object(relay, "DEAD_ROWS", 5))
        for module, name, stands in (
            (consumer, "threading", VirtualThreading(hub)),
            (consumer, "Gathering", partial(Gathering, clock=hub.time)),
            (consumer, "Client", lambda config, **_: ModelConsumer(coordinator, here(), config)),
            (topic_ids, "AdminClient", ModelAdmin),
            (kafka, "AIOKafkaProducer", lambda **given: ModelProducer(broker, here(), **given)),
            (relay, "outbox_on", outbox_on),
        ):
            stack.enter_context(patch.object(module, name, stands))
        yield


class Story:
    """One seed's processes and faults; `run` returns the findings, of which there should be none."""

    kinds: Sequence[tuple[int, str]] = ((6, "freeze"), (2, "kill"), (2, "away"), (2, "losses"), (1, "terminate"))
    """The faults, each with its weight."""

    faults_every_s = 8.0
    longest_freeze_s = 40.0
    """Longer than any session lasts without its heartbeat."""

    def __init__(self, seed: int, tell: Tell = silent) -> None:
        self.random = Random(seed)
        self.hub = Hub(self.random)
        self.broker = Broker(self.hub, {topic.name: PARTITIONS for topic in TOPICS})
        self.coordinator = Coordinator(self.broker)
        self.servers: list[Server] = []
        self.findings: list[str] = []
        self.tell = tell
        self.replicas: list[Process] = []
        self.starts: dict[str, Callable[[Process], None]] = {}
        self.is_calm = False
        self.lasts_s = self.random.choice([15.0, 30.0, 60.0])
        if tell is not silent:
            self.broker.appended = self._tell_appended

    def _tell_appended(self, record: Fetched) -> None:
        self.tell("appends", "Kafka", record)

    # --- replicas ---

    def replica(self, name: str, start: Callable[[Process], None]) -> None:
        """Start a replica, which is started again under the same name if it is killed."""
        self.starts[name] = start
        process = Process(self.hub, name)
        self.replicas.append(process)
        start(process)

    def revive(self, name: str) -> None:
        """Start a killed replica again."""
        self.replicas = [each for each in self.replicas if each.name != name]
        self.replica(name, self.starts[name])
        self.tell("starts", name, "")

    # --- what is published ---

    def uuid(self) -> UUID:
        """Return an id that nobody has had."""
        return UUID(int=self.random.getrandbits(128), version=4)

    def publish(self, topic: Topic, body: Message, id_: UUID) -> None:
        """Publish a message, as the topic's writer would; one without a value deletes what was said."""
        headers = [
            ("ce_id", str(id_).encode()),
            ("ce_type", body.TYPE.encode()),
            ("ce_source", source_of(topic.writer).encode()),
        ]
        place = topic.name, kafka.partition_of(body.key(), PARTITIONS)
        self.broker.append(place, [(body.key().encode(), body.to_json() or None, headers)])

    # --- faults ---

    def plan(self) -> None:
        """Plan the first fault, and what comes beside those."""
        self.hub.after(self.random.uniform(1.0, 5.0), self.fault)

    def fault(self) -> None:
        """Cause a fault, and plan the next."""
        if self.is_calm:
            return
        kind = self.random.choices([kind for _, kind in self.kinds], [weight for weight, _ in self.kinds])[0]
        getattr(self, f"_{kind}")()
        self.hub.after(self.random.expovariate(1 / self.faults_every_s), self.fault)

    def _freeze(self) -> None:
        server = self.random.choice(self.servers)
        leads = [] if server.leader is None else [server.leader.process] * len(self.replicas)
        process = self.random.choice([*self.replicas, *leads, server.process])
        seconds = self.random.choice([0.2, 2.0, 12.0, 20.0, self.longest_freeze_s])
        if process is server.process:
            seconds = min(seconds, 2.0)
        self.tell("fault", process.name, f"is frozen for {seconds} s")
        process.freeze(seconds, self.random.randint(1, 30))

    def _kill(self) -> None:
        process = self.random.choice(self.replicas)
        if not process.dead:
            self.tell("fault", process.name, "is killed")
            process.kill()
            self.hub.after(self.random.choice([0.5, 5.0, 15.0]), partial(self.revive, process.name))

    def _away(self) -> None:
        seconds = self.random.choice([0.5, 3.0, 15.0])
        self.tell("fault", "Kafka", f"is away for {seconds} s")
        self.broker.away_until = self.hub.now + seconds

    def _losses(self) -> None:
        share = self.random.choice([0.0, 0.02, 0.2])
        self.tell("fault", "network", f"loses {share:.0%} of all connections")
        self.broker.losses = share
        for server in self.servers:
            server.losses = share / 2

    def _terminate(self) -> None:
        server = self.random.choice(self.servers)
        self.tell("fault", server.process.name, "ends all sessions")
        server.terminate()

    def calm(self) -> None:
        """Stop all faults; frozen replicas still sleep on."""
        self.is_calm = True
        self.tell("calm", "all", "nothing fails any more")
        self.broker.losses = self.broker.away_until = 0.0
        for server in self.servers:
            server.losses = 0.0
        for process in self.hub.processes:
            process.spare()  # a frozen one would begin its next freeze when this one ends, long after the last fault

    # --- the run ---

    def simulated(self) -> AbstractContextManager[None]:
        """Put models in the places of whatever the processes meet."""
        return simulated(self.hub, self.broker, self.coordinator)

    def run(self) -> list[str]:
        """Run the seed's story, settle, and return the findings."""
        with self.simulated():
            try:
                self.begin()
                self.plan()
                self.hub.run(self.lasts_s)
                self.calm()
                if not self.hub.run(SETTLES_WITHIN_S, self._settled_since()):
                    self.findings.append(f"does not settle: {self.unsettled()}")
                self.hub.run(self.longest_freeze_s + 20.0)  # whoever was frozen wakes up, and has its say
                self.check()
                self.findings += self.hub.failures
            finally:
                self.hub.end()
        return self.findings

    def _settled_since(self) -> Callable[[], bool]:
        looked_at = [0.0]

        def done() -> bool:
            if self.hub.now < looked_at[0] + 1.0:
                return False
            looked_at[0] = self.hub.now
            return not self.unsettled()

        return done

    def begin(self) -> None:
        """Start everything."""
        raise NotImplementedError

    def unsettled(self) -> str:
        """Say what is still to be done; nothing if all is."""
        raise NotImplementedError

    def check(self) -> None:
        """Look for what is wrong now that all is done."""
        raise NotImplementedError


class Relays(Story):
    """Several relays of one outbox, and processes that write into it: prices of plans, each one more than the last."""

    NAMES = ("basic", "plus", "pro", "max")

    def begin(self) -> None:
        self.server = Server(self.hub, Principal.PROVISIONING)
        self.servers.append(self.server)
        self.server.contents.tables[PLANS.table.name] = {
            name: Plan(name, 1, 1, fax_number=False) for name in self.NAMES
        }
        for number in range(self.random.choice([2, 2, 3])):
            self.replica(f"relay {number}", self._relays)
        self.writers = self.random.choice([1, 2, 3])
        self.pause_s = self.random.choice([0.01, 0.05, 0.2])
        for number in range(self.writers):
            process = Process(self.hub, f"writer {number}")
            process.start(partial(self._writes, process))

    def _relays(self, process: Process) -> None:
        async def work() -> None:
            await Relay(Principal.PROVISIONING, ModelEngine(self.server, process), SETTINGS).run()  # type: ignore[arg-type]

        process.start(work)

    async def _writes(self, process: Process) -> None:
        database, bell = ModelDatabase(self.server, process), Bell(ModelEngine(self.server, process))  # type: ignore[arg-type]
        while not self.is_calm:
            try:
                await self._write(database)
                bell.ring()
            except (Outage, Conflict):
                pass
            burst = self.random.random() < 0.9
            await asyncio.sleep(self.random.expovariate(1 / self.pause_s) if burst else self.random.uniform(0, 2.0))

    async def _write(self, database: ModelDatabase) -> None:
        names = self.random.sample(self.NAMES, self.random.choice([1, 1, 2]))
        async with database.begin() as tx:
            id_ = self.uuid()
            await tx.claim_inbox([id_], self.hub.date())
            plans = await tx.fetch(PLANS, names)
            sent: list[Outgoing] = []
            for name in names:
                plans.put(plan := replace(plans[name], price_units=plans[name].price_units + 1))
                body = PlanPublished(plan=name, price_units=plan.price_units, validity_months=1, fax_number=False)
                sent.append(outgoing(body, len(sent), cause(body, id_)))
            await tx.save([plans])
            await tx.send(sent, self.hub.date())
            if self.random.random() < 0.2:
                await asyncio.sleep(self.random.choice([0.01, 0.1, 1.0]))

    def unsettled(self) -> str:
        return f"{len(self.server.outbox)} rows are in the outbox" if self.server.outbox else ""

    def check(self) -> None:
        written: dict[str, list[UUID]] = {name: [] for name in self.NAMES}
        for out in self.server.written:
            written[out.key].append(out.id)
        published: dict[str, list[UUID]] = {name: [] for name in self.NAMES}
        for n in range(PARTITIONS):
            for record in self.broker.logs[PROVISIONING_PLANS.name, n].records:
                id_ = UUID((dict(record.headers)["ce_id"] or b"").decode())
                published[(record.key or b"").decode()].append(id_)
        for name, ids in written.items():
            found = published[name]
            first = list(dict.fromkeys(found))
            if missing := set(ids) - set(found):
                self.findings.append(f"{len(missing)} of {len(ids)} rows of {name} were never published")
            elif first != ids:
                self.findings.append(f"{name}: not published in the order of the commits")
            elif found and found[-1] != ids[-1]:
                self.findings.append(f"{name}: the last record is row {ids.index(found[-1])} of {len(ids)}")


class _Stops(Stops):
    """Stopped partitions, of which nobody keeps a row here."""

    def __init__(self) -> None:
        pass

    async def _execute(self, _: Any) -> list[tuple[int | None]]:
        return []


class _Consumer(consumer.Consumer):
    """The consumer, whose thread waits for the event loop as a simulated one does."""

    @property
    def is_deadlocked(self) -> bool:
        """Return whether nothing but the end of its process helps."""
        return bool(self._client.is_deadlocked)  # type: ignore[attr-defined]

    @property
    def has_ended(self) -> bool:
        """Return whether its process would have ended by itself."""
        return self._ended is not None and self._ended.done()

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        ended: list[asyncio.Task[T]] = []

        def begin() -> None:
            self._loop.create_task(work).add_done_callback(ended.append)

        self._loop.call_soon_threadsafe(begin)
        self._thread.wait(lambda: ended)  # type: ignore[attr-defined]
        return ended[0].result()


class Services(Story):
    """Replicas of whole services: each consumes in its thread, decides, writes, relays, fires timers, and retries."""

    kinds = (*Story.kinds, (4, "freeze_within"), (2, "unreadable"), (2, "overload"))

    def __init__(self, seed: int, tell: Tell = silent) -> None:
        super().__init__(seed, tell)
        self.consumers: dict[str, _Consumer] = {}
        self.read: list[Topic] = []
        """The topics that some service reads."""
        self.is_static = self.random.random() < 0.5
        self.coordinator.strands = self.random.random() < 0.5
        self._rarely = Random(f"{seed}, rarely")

    def serve(self, service: Service, replicas: int) -> Server:
        """Start a service's database and its replicas."""
        server = Server(self.hub, service.principal)
        self.servers.append(server)
        self.read += service.topics
        for number in range(replicas):
            self.replica(f"{service.principal} {number}", partial(self._works, service, server))
        return server

    def _works(self, service: Service, server: Server, process: Process) -> None:
        async def work() -> None:
            given = {"batch_records": "20"} | ({"replica": process.name} if self.is_static else {})
            relays = Relay(service.principal, ModelEngine(server, process), SETTINGS)  # type: ignore[arg-type]
            database = ModelDatabase(server, process)
            shell = Shell(service, database, HubClock(self.hub), lambda sent: relays.wake() if sent else None)
            self.consumers[process.name] = consumes = _Consumer(service, shell, settings(**given), _Stops())
            await asyncio.gather(relays.run(), consumes.run(), run_timers(shell), run_retries(shell))

        process.start(work)

    def _freeze_within(self, looks: int = 200) -> None:
        """A replica is frozen for longer than its session, within a transaction: the next that anybody is in."""
        sessions = [each for server in self.servers for each in server.sessions if each.tx and not each.process.dead]
        if sessions and not self.is_calm:
            process = self.random.choice(sorted(sessions, key=lambda each: each.number)).process
            seconds = self.random.choice([12.0, self.longest_freeze_s])
            self.tell("fault", process.name, f"is frozen within a transaction, for {seconds} s")
            process.freeze(seconds, self.random.randint(0, 3))
        elif looks:
            self.hub.after(0.003, partial(self._freeze_within, looks - 1))

    def _unreadable(self) -> None:
        """The next batch of some partition can't be unpacked for a while."""
        place = self.random.choice(self.read).name, self.random.randrange(PARTITIONS)
        log, seconds = self.broker.logs[place], self.random.choice([0.5, 3.0, 20.0])
        self.tell("fault", f"{place[0]}/{place[1]}", f"{len(log.records)} can't be unpacked for {seconds} s")
        log.unreadable[len(log.records)] = self.hub.now + seconds

    def _overload(self) -> None:
        """A replica begins beside a broker that does not answer for a moment."""
        self.broker.away_until = max(self.broker.away_until, self.hub.now + 3.0)
        process = self.random.choice(self.replicas)
        if not process.dead:
            self.tell("fault", process.name, "is killed, and begins while Kafka is away")
            process.kill()
            self.hub.after(0.5, partial(self.revive, process.name))

    def plan(self) -> None:
        super().plan()
        if self._rarely.random() < DEADLOCKS:
            self.hub.after(self._rarely.uniform(1.0, self.lasts_s), self._deadlock)
        self.hub.after(LOOKED_AFTER_S, self._look_after)

    def _deadlock(self) -> None:
        """The client of some replica deadlocks."""
        if living := [each.name for each in self.replicas if not each.dead and each.name in self.consumers]:
            name = self._rarely.choice(living)
            self.tell("fault", name, "has a client that deadlocks")
            self.consumers[name]._client.deadlock()  # type: ignore[attr-defined]

    def _look_after(self) -> None:
        """Start again what has ended by itself, or is not alive, as whatever runs the replicas would."""
        for process in [each for each in self.replicas if not each.dead]:
            consumes = self.consumers.get(process.name)
            if consumes is not None and (not consumes.alive or consumes.has_ended):
                self.tell("fault", process.name, "has ended" if consumes.has_ended else "is not alive, and killed")
                del self.consumers[process.name]
                process.kill()
                self.revive(process.name)
        self.hub.after(LOOKED_AFTER_S, self._look_after)

    def calm(self) -> None:
        super().calm()
        self.coordinator.strands = False

    def unsettled(self) -> str:
        found = [f"{name}: {why}" for name, each in self.consumers.items() if (why := each.trouble()) is not None]
        found += [f"{name}: its client has deadlocked" for name, each in self.consumers.items() if each.is_deadlocked]
        for server in self.servers:
            if server.outbox:
                found.append(f"{server.name}: {len(server.outbox)} rows are in the outbox")
        for name, group in self.coordinator.groups.items():
            for place in group.places:
                end, committed = len(self.broker.logs[place].records), group.committed.get(place, (0, ""))[0]
                if committed < end:
                    found.append(f"{name}: {committed} of {end} are committed of {place[0]}/{place[1]}")
        return "; ".join(found)

    def check(self) -> None:
        if unsettled := self.unsettled():
            self.findings.append(unsettled)
        for server in self.servers:
            self.findings += [f"{server.name}: deadlock about {each}" for each in _avoidable(server)]


class Consumers(Services):
    """Several replicas of the ledger, whom the platform asks to credit units."""

    ACCOUNTS = 5

    def begin(self) -> None:
        self.accounts = [self.uuid() for _ in range(self.ACCOUNTS)]
        self.due = dict.fromkeys(self.accounts, 0)
        self.pause_s = self.random.choice([0.05, 0.2, 1.0])
        self.server = self.serve(LEDGER, self.random.choice([2, 2, 3]))
        self._credit()

    def _credit(self) -> None:
        """Credit somebody; some commands are sent twice."""
        if self.is_calm:
            return
        account, units, id_ = self.random.choice(self.accounts), self.random.randint(1, 9), self.uuid()
        body = CreditUnits(credit_id=self.uuid(), account_id=account, amount_units=units)
        for _ in range(self.random.choice([1, 1, 1, 2])):
            self.publish(LEDGER_COMMANDS, body, id_)
        self.due[account] += units
        self.hub.after(self.random.expovariate(1 / self.pause_s), self._credit)

    def balances(self) -> dict[UUID, int]:
        """Return what is on each account."""
        rows = self.server.contents.tables.get(ACCOUNTS.table.name, {})
        return {account: rows[account].balance_units if account in rows else 0 for account in self.accounts}

    def unsettled(self) -> str:
        found = [super().unsettled()]
        if (balances := self.balances()) != self.due:
            found.append(f"{sum(self.due.values())} units were credited, {sum(balances.values())} are there")
        return "; ".join(filter(None, found))

    def check(self) -> None:
        super().check()
        for key, ids in _by_key(self.server.written, BalanceChanged.TYPE).items():
            self._check_order(key, ids, LEDGER_BALANCES.name)

    def _check_order(self, key: str, written: Sequence[UUID], topic: str) -> None:
        log = self.broker.logs[topic, kafka.partition_of(key, PARTITIONS)]
        ids = [_id_of(record) for record in log.records if record.key == key.encode()]
        if list(dict.fromkeys(ids)) != list(written):
            self.findings.append(f"{key}: not published once and in the order of the commits")
        elif ids and ids[-1] != written[-1]:
            self.findings.append(f"{key}: the last record is row {written.index(ids[-1])} of {len(written)}")


def _avoidable(server: Server) -> Iterator[list[Hashable]]:
    """Yield the deadlocks in which no timer has a part.

    What fires a timer has it before the rows, and what moves it after them: they may meet, and one of them tries again.
    """
    for cycle in server.locks.deadlocks:
        if not any(isinstance(what, tuple) and what[0] == "timers" for what in cycle):
            yield cycle


def _by_key(written: Sequence[Outgoing], type_: str) -> dict[str, list[UUID]]:
    found: dict[str, list[UUID]] = {}
    for out in written:
        if out.type == type_:
            found.setdefault(out.key, []).append(out.id)
    return found


def _id_of(record: Fetched) -> UUID:
    return UUID((dict(record.headers)["ce_id"] or b"").decode())


def cause(body: Message, id_: UUID, correlation_id: str = "", actor: UUID | None = None) -> Incoming[Any]:
    """Return a cause for a message that none has caused: it has an id and an envelope, but is on no topic."""
    record = StoredRecord(id_, None, TIMERS, 0, 0, None, None, ())
    return Incoming(id_, body, record, correlation_id or str(id_), actor)
