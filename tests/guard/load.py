"""A small fixed load on all four services, in this process: always the same messages in the same batches.

PostgreSQL is real. Kafka is a list: what the relays publish is counted, and handed to the services that read it.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, LiteralString
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg
import sqlalchemy as sa
from aiokafka.producer.message_accumulator import BatchBuilder
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection

from deploy.local.postgres import PostgresServer
from popfax_contracts.fields import Language
from popfax_contracts.groups import CreateMemberAccount, MemberAccountCreated, TransferUnits
from popfax_contracts.ledger import CreditUnits
from popfax_contracts.message import Message, group_of
from popfax_contracts.provisioning import RegisterSubscriber
from popfax_contracts.topics import BY_NAME, TOPICS, Principal
from services.chassis import metrics, migrate, postgres, relay
from services.chassis.messages import source_of
from services.chassis.pipeline import Driver, Pipeline
from services.chassis.postgres import PostgresDatabase
from services.chassis.relay import Relay, outbox_on
from services.chassis.service import Service
from services.chassis.settings import KafkaSettings
from services.chassis.shell import FromKafka, Shell
from services.provisioning import catalogue
from tests.counted import total
from tests.simulation.bus import BusRecord
from tests.simulation.world import BEGINNING, SERVICES, VirtualClock

OWNERS = 20
COUNT = 200
"""So many sagas, and so many transfers: each batch has about as many messages."""

BATCH = 2000
PRICES = {"send_only": 60, "send_receive": 120}


@dataclass(slots=True)
class Counts:
    """What one service did."""

    batches: int = 0
    statements: int = 0
    trips: int = 0
    handled: int = 0
    relayed: int = 0
    wire_bytes: int = 0


class Kafka:
    """Stands for the broker, and for a relay's producer."""

    def __init__(self) -> None:
        self.logs: dict[str, list[BusRecord]] = {topic.name: [] for topic in TOPICS}

    def append(self, topic: str, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> int:
        """Append a record to a topic; return its size: key, value and headers."""
        log = self.logs[topic]
        log.append(BusRecord(topic, 0, len(log), key, value, headers))
        return len(key) + len(value or b"") + sum(len(name) + len(text) for name, text in headers)

    def send(self, body: Message, id_: UUID, actor: UUID | None = None) -> None:
        """Publish a command of the platform's."""
        headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", str(id_).encode()),
            ("ce_source", source_of(Principal.PLATFORM).encode()),
            ("ce_type", body.TYPE.encode()),
        ]
        if actor is not None:
            headers.append(("ce_actor", str(actor).encode()))
        self.append(body.topic_of(Principal.PLATFORM).name, body.key().encode(), body.to_json(), headers)


class _Batch(BatchBuilder):  # type: ignore[misc]
    """A batch as aiokafka builds it, which also keeps its records."""

    def __init__(self) -> None:
        super().__init__(1 << 20, 0)
        self.records: list[dict[str, Any]] = []

    def append(self, **record: Any) -> Any:
        appended = super().append(**record)
        if appended is not None:
            self.records.append(record)
        return appended


@dataclass(slots=True)
class _Producer:
    """A relay's producer."""

    kafka: Kafka
    counts: Counts

    @property
    def client(self) -> "_Producer":
        """Its connection."""
        return self

    async def force_metadata_update(self) -> bool:
        """Answer, as a broker does that is there."""
        return True

    async def partitions_for(self, topic: str) -> range:
        """Return a topic's partitions."""
        return range(BY_NAME[topic].partitions)

    def create_batch(self) -> _Batch:
        """Begin a batch."""
        return _Batch()

    async def send_batch(self, batch: _Batch, topic: str, *, partition: int) -> "asyncio.Future[None]":
        """Publish a batch, and count it."""
        self.counts.relayed += len(batch.records)
        self.counts.wire_bytes += sum(
            self.kafka.append(topic, record["key"], record["value"], record["headers"]) for record in batch.records
        )
        acknowledged = asyncio.get_running_loop().create_future()
        acknowledged.set_result(None)
        return acknowledged


class Watch:
    """Watches each service at work; this one does nothing."""

    def over(self, principal: Principal) -> AbstractContextManager[Any]:
        """Watch while a service handles a batch, or relays."""
        return _nothing()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@dataclass(slots=True)
class Node:
    """A service on its own database."""

    principal: Principal
    connection: AsyncConnection
    shell: Shell
    relay: Relay
    outbox: Pipeline
    producer: Any
    positions: dict[str, int]
    counts: Counts

    def batch(self, kafka: Kafka) -> list[BusRecord]:
        """Take what has arrived, at most `BATCH` records."""
        records: list[BusRecord] = []
        for topic, position in self.positions.items():
            records += kafka.logs[topic][position : position + BATCH - len(records)]
        for record in records:
            self.positions[record.topic] = record.offset + 1
        return records


class Line:
    """All four services."""

    def __init__(self, server: PostgresServer, watch: Watch) -> None:
        """Begin at the beginning of every topic."""
        self.server = server
        self.watch = watch
        self.random = Random(1)
        self.clock = VirtualClock(self.random)
        self.kafka = Kafka()
        self.positions = {service.principal: {topic.name: 0 for topic in service.topics} for service in SERVICES}
        self.owners: list[UUID] = []

    def id(self) -> UUID:
        """Return the next random id."""
        return UUID(int=self.random.getrandbits(128), version=4)

    async def prepare(self) -> None:
        """Put plans on sale, and register owners who have units."""
        engine = postgres.engine(self.server.url(Principal.PROVISIONING))
        await catalogue.store(catalogue.read(catalogue.DEFAULT), engine, BEGINNING)
        async with engine.begin() as connection:
            numbers = catalogue.NumberRange(first="+33198000000", count=50_000)
            await connection.execute(catalogue.add_numbers(numbers))
        await engine.dispose()
        self.owners = [self.id() for _ in range(OWNERS)]
        for owner in self.owners:
            person = RegisterSubscriber(
                subscriber_id=owner,
                email=f"owner-{owner}@example.com",
                first_name="Anne",
                last_name="Martin",
                language=Language.FR,
            )
            self.kafka.send(person, self.id())
            self.kafka.send(CreditUnits(credit_id=self.id(), account_id=owner, amount_units=100_000_000), self.id())
        await self.settle()

    def ask_for_accounts(self, count: int) -> None:
        """Publish account creations, spread over owners and plans; no address twice."""
        for number in range(count):
            owner = self.owners[number % len(self.owners)]
            plan = "send_receive" if number % 2 else "send_only"
            body = CreateMemberAccount(
                group_id=group_of(owner),
                plan=plan,
                price_units=PRICES[plan],
                email=f"member-{self.id()}@example.com",
                first_name="Luc",
                last_name="Bernard",
                language=Language.FR,
            )
            self.kafka.send(body, self.id(), owner)

    def ask_for_transfers(self, count: int) -> None:
        """Publish transfers of owners to their newest members."""
        type_ = MemberAccountCreated.TYPE.encode()
        events = [r for log in self.kafka.logs.values() for r in log if ("ce_type", type_) in r.headers]
        for record in events[-count:]:
            created = MemberAccountCreated.from_json(record.value or b"")
            body = TransferUnits(group_id=created.group_id, mode="amount", amount_units=1, members=(created.member_id,))
            self.kafka.send(body, self.id(), created.owner_id)

    async def settle(self) -> dict[Principal, Counts]:
        """Handle and relay, service after service, until nothing is left; return what each did."""
        async with self._nodes() as nodes:
            while any([await self._round(node) for node in nodes]):
                pass
            return {node.principal: node.counts for node in nodes}

    async def _round(self, node: Node) -> bool:
        records = node.batch(self.kafka)
        with self.watch.over(node.principal):
            if records:
                handled = _handled()
                await node.shell.process(records, FromKafka())
                node.counts.batches += 1
                node.counts.handled += _handled() - handled
            relayed = await node.relay.relay_once(node.outbox, node.producer)
        return bool(records or relayed)

    @asynccontextmanager
    async def _nodes(self) -> AsyncIterator[list[Node]]:
        """Connect the services; when they have disconnected, the server's statistics are complete."""
        nodes = [await self._node(service) for service in SERVICES]
        yield nodes
        for node in nodes:
            await node.connection.close()
            await node.connection.engine.dispose()
        while _ask(self.server, _SESSIONS) != [(0,)]:  # noqa: ASYNC110  (a session's end is no event)
            await asyncio.sleep(0.05)

    async def _node(self, service: Service) -> Node:
        name, counts = service.principal, Counts()
        engine = postgres.engine(self.server.url(name))
        sa.event.listen(engine.sync_engine, "connect", _counting(counts))
        settings = KafkaSettings(kafka_bootstrap="127.0.0.1:1", kafka_username="", kafka_password=SecretStr("none"))
        connection = await (await engine.connect()).execution_options(isolation_level="AUTOCOMMIT")
        return Node(
            name,
            connection,
            Shell(service, PostgresDatabase(engine), self.clock),
            Relay(name, engine, settings),
            await outbox_on(connection),
            _Producer(self.kafka, counts),
            self.positions[name],
            counts,
        )

    def rows_written(self) -> dict[Principal, int]:
        """Return how many rows each service has inserted, updated and deleted so far, as PostgreSQL counted them."""
        return {s.principal: _ask(self.server, _ROWS, s.principal)[0][0] for s in SERVICES}


def _handled() -> int:
    return int(total(metrics.HANDLED))


_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
_ROWS = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::int FROM pg_stat_user_tables"


def _ask(server: PostgresServer, query: LiteralString, database: str = "postgres") -> list[Any]:
    url = server.superuser_url.replace("+psycopg", "", 1).rpartition("/")[0]
    with psycopg.connect(f"{url}/{database}", autocommit=True) as connection:
        return connection.execute(query).fetchall()


def _counting(counts: Counts) -> Callable[[Any, Any], None]:
    """Return a listener that makes a connection count its statements, and its round trips."""

    class Counting(psycopg.AsyncCursor[Any]):
        async def execute(self, *args: Any, **options: Any) -> Any:
            counts.statements += 1
            counts.trips += 1
            return await super().execute(*args, **options)

        async def executemany(self, *args: Any, **options: Any) -> Any:
            counts.statements += 1
            counts.trips += 1
            return await super().executemany(*args, **options)

    def connected(connection: Any, _: Any) -> None:
        connection.driver_connection.cursor_factory = Counting
        _COUNTS[connection.driver_connection] = counts

    return connected


_COUNTS: WeakKeyDictionary[Driver, Counts] = WeakKeyDictionary()


class CountingPipeline(Pipeline):
    """A pipeline that counts its statements, BEGIN and COMMIT among them, and its round trips."""

    def __init__(self, driver: Driver, prepared: set[bytes], *, begins: bool = True) -> None:
        super().__init__(driver, prepared, begins=begins)
        self._counts = _COUNTS.get(driver, Counts())

    def _execute(self, *args: Any) -> None:
        self._counts.statements += 1
        super()._execute(*args)

    def _exchange(self) -> Any:
        self._counts.trips += 1
        return super()._exchange()


@contextmanager
def line(directory: Path, watch: Watch) -> Iterator[Line]:
    """Start a server in a directory, which is removed at the end, and migrate its databases."""
    server = PostgresServer(directory)
    server.start()
    for user in (postgres, relay):
        user.Pipeline = CountingPipeline  # type: ignore[attr-defined]
    try:
        for service in SERVICES:
            migrate.upgrade(service.principal, server.url(service.principal))
        yield Line(server, watch)
    finally:
        for user in (postgres, relay):
            user.Pipeline = Pipeline  # type: ignore[attr-defined]
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)
