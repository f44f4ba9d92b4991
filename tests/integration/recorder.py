"""A service for tests: it records each message that it handles, and fails on those that a test chooses."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.stack import Stack
from popfax_contracts.ledger import CreditUnits, LedgerCommandMalformed, UnitsCredited
from popfax_contracts.topics import LEDGER_COMMANDS, Principal
from services.chassis import migrate, postgres
from services.chassis.consumer import Consumer
from services.chassis.database import Transaction
from services.chassis.messages import Incoming, Outcome
from services.chassis.partitions import Stops
from services.chassis.postgres import PostgresDatabase
from services.chassis.rows import Appended, AppendOnly, Changes
from services.chassis.service import Handler, Moment, Service, nothing
from services.chassis.settings import ServiceSettings
from services.chassis.shell import Shell

WITHIN_S = 30.0


@dataclass
class Sent:
    """A record as the consumer hands it to the shell."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Effect:
    """The row that one handled message leaves."""

    message_id: UUID
    account_id: UUID
    amount_units: int


EFFECT_TABLE = sa.Table(
    "effects",
    sa.MetaData(),
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("message_id", sa.Uuid, nullable=False),
    sa.Column("account_id", sa.Uuid, nullable=False),
    sa.Column("amount_units", sa.BigInteger, sa.CheckConstraint("amount_units <> 666"), nullable=False),
)
EFFECTS: AppendOnly[Effect] = AppendOnly(EFFECT_TABLE, Effect)

UNSAVABLE = 666
"""An amount that the database refuses: a failure when saving, not in the handler."""


@dataclass(frozen=True)
class State:
    effects: Appended[Effect]

    def changes(self) -> Sequence[Changes]:
        return (self.effects,)


class LoadPlan:
    async def fetch(self, tx: Transaction) -> State:
        return State(tx.append(EFFECTS))


@dataclass
class Recorder:
    """The service, and the message ids that it fails on."""

    broken: set[UUID] = field(default_factory=set)
    before: Callable[[], None] = lambda: None
    """Called before each message is handled."""
    calls: int = 0

    @property
    def service(self) -> Service:
        return Service(
            principal=Principal.LEDGER,
            topics=(LEDGER_COMMANDS,),
            handlers={CreditUnits: Handler(self._record, nothing)},
            load=LoadPlan,
            malformed=LedgerCommandMalformed,
        )

    def _record(self, state: State, message: Incoming[CreditUnits], moment: Moment) -> Outcome:
        self.calls += 1
        self.before()
        if message.id in self.broken:
            raise RuntimeError("told to fail")
        body = message.body
        state.effects.add(Effect(message.id, body.account_id, body.amount_units))
        return [UnitsCredited(credit_id=body.credit_id, account_id=body.account_id, amount_units=body.amount_units)]


def credit(account_id: UUID, amount_units: int = 1) -> CreditUnits:
    return CreditUnits(credit_id=uuid4(), account_id=account_id, amount_units=amount_units)


async def effects(engine: AsyncEngine, accounts: Collection[UUID]) -> list[Effect]:
    """Return what was handled for these accounts, in the order in which it was written."""
    table = EFFECT_TABLE.c
    query = sa.select(table.message_id, table.account_id, table.amount_units).order_by(table.id)
    async with engine.connect() as connection:
        return [Effect(*row) for row in await connection.execute(query) if row.account_id in accounts]


async def parked(engine: AsyncEngine) -> Sequence[Any]:
    async with engine.connect() as connection:
        return (await connection.execute(sa.select(postgres.PARKED).order_by(postgres.PARKED.c.seq))).all()


async def count(engine: AsyncEngine, table: str) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(sa.select(sa.func.count()).select_from(sa.table(table)))).scalar_one())


@contextmanager
def scratch_database(stack: Stack, principal: Principal | None = None) -> Iterator[str]:
    """Yield the URL of a new database with a service's migrations and the table of effects."""
    name = f"test_{uuid4().hex}"
    admin = stack.postgres.superuser_url
    execute(admin, f"CREATE DATABASE {name}")
    url = f"{admin.rsplit('/', 1)[0]}/{name}"
    try:
        if principal is not None:
            migrate.upgrade(principal, url)
            execute(
                url,
                "CREATE TABLE effects (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, message_id UUID NOT NULL,"
                " account_id UUID NOT NULL, amount_units BIGINT NOT NULL CHECK (amount_units <> 666))",
            )
        yield url
    finally:
        execute(admin, f"DROP DATABASE {name} WITH (FORCE)")


def execute(url: str, statement: str, *parameters: Any) -> list[Any]:
    """Execute one statement on a new connection; return its rows."""
    with psycopg.connect(plain(url), autocommit=True) as connection:
        found = connection.execute(statement.encode(), parameters or None)
        return found.fetchall() if found.description else []


def plain(url: str) -> str:
    """Return the URL in the form that psycopg accepts."""
    return url.replace("+psycopg", "", 1)


NO_DATABASE = "postgresql+psycopg://127.0.0.1:1/none"
"""For the settings of what connects to Kafka alone."""


def settings(stack: Stack, url: str, principal: Principal = Principal.LEDGER, **more: Any) -> ServiceSettings:
    given = {
        "kafka_bootstrap": stack.kafka.bootstrap,
        "kafka_username": principal.value,
        "kafka_password": stack.kafka.password(principal),
        "database_url": url,
    }
    return ServiceSettings.model_validate(given | more)


@asynccontextmanager
async def consuming(stack: Stack, url: str, service: Service, **more: Any) -> AsyncIterator[Consumer]:
    """Run a replica of a service that consumes, without a relay."""
    engine = postgres.engine(url)
    given = settings(stack, url, service.principal, **more)
    consumer = Consumer(service, Shell(service, PostgresDatabase(engine)), given, Stops(engine))
    running = asyncio.create_task(consumer.run())
    try:
        yield consumer
    finally:
        await asyncio.sleep(0)  # it may not have started
        await consumer.stop()
        await running
        await engine.dispose()


async def eventually(condition: Callable[[], Any], what: str, within_s: float = WITHIN_S) -> None:
    """Wait until a condition, which may be awaitable, holds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        holds = condition()
        if asyncio.iscoroutine(holds):
            holds = await holds
        if holds:
            return
        assert loop.time() < deadline, f"{what}: not after {within_s:g} s"
        await asyncio.sleep(0.02)
