"""A product under load: its start, its people, sagas at full speed or at a rate, and what they used."""

import asyncio
import gc
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import sqlalchemy as sa
from aiokafka import AIOKafkaProducer
from pydantic import SecretStr

from deploy.local.ports import Ports
from deploy.local.product import Product, ServiceProcess
from deploy.local.stack import Stack
from popfax_contracts.fields import Language
from popfax_contracts.groups import CreateMemberAccount, MemberAccountCreated, MemberAccountRefused
from popfax_contracts.ledger import CreditUnits, UnitsCredited
from popfax_contracts.message import Message, group_of
from popfax_contracts.notifications import PasswordLinkIssued
from popfax_contracts.provisioning import RegisterSubscriber, SubscriberRegistered
from popfax_contracts.topics import (
    GROUPS_EVENTS,
    LEDGER_EVENTS,
    NOTIFICATIONS_EVENTS,
    PROVISIONING_EVENTS,
    SERVICES,
    Principal,
    Topic,
)
from services.chassis import postgres
from services.chassis.kafka import producer as start_producer
from services.chassis.settings import KafkaSettings
from services.provisioning import catalogue
from tests.bench import counters
from tests.bench.counters import Counters
from tests.bench.load import Command, Follower, command, publish, publish_at
from tests.bench.sizes import Sizes
from tests.bench.statistic import latencies
from tests.bench.usage import LOAD, Meter, per

LIMIT_S = 180.0
PRICES = {"send_only": 60, "send_receive": 120}
UNITS = 10_000_000
"""What each owner has: more than any run spends."""
NUMBERS = 100_000
"""Fax numbers beside the shipped ones: every other saga takes one."""
SETTLED_S = 2.0
"""How long what came before is given to end: mails that are still committed, rows that are still deleted."""

Ends: TypeAlias = Sequence[tuple[Topic, Sequence[type[Message]]]]
"""Topics, and the events on them that end a command."""

SAGA_ENDS: Ends = [
    (GROUPS_EVENTS, [MemberAccountCreated, MemberAccountRefused]),
    (NOTIFICATIONS_EVENTS, [PasswordLinkIssued]),
]
"""A saga's last event, and that its mails are committed for sending."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What so many commands took."""

    count: int
    elapsed_s: float
    latencies_s: list[float]
    used: dict[str, float]
    counted: dict[str, Counters]
    looked: tuple[Any, Any]
    """What the caller's own look returned before and after."""

    @property
    def per_s(self) -> float:
        """Return how many ended per second."""
        return self.count / self.elapsed_s

    @property
    def product_cpu_us(self) -> float:
        """Return what one cost the product: all processes but the load."""
        return sum(spent for name, spent in self.used.items() if name != LOAD) / self.count * 1e6

    def costs(self) -> dict[str, Any]:
        """Return what one cost, by process, and in which batches it was handled."""
        return {
            "cpu_us": round(sum(self.used.values()) / self.count * 1e6),
            "cpu_us_by_process": per(self.used, self.count),
            "batches": {name: counted.per_saga(self.count) for name, counted in self.counted.items()},
        }

    def latencies(self) -> dict[str, int]:
        """Return p50, p99 and the maximum, in milliseconds."""
        return latencies(self.latencies_s)


class Bench:
    """A running product, its owners with their units, and the load."""

    def __init__(self, product: Product, sizes: Sizes) -> None:
        self.product = product
        self.sizes = sizes
        self.meter = Meter(product.stack)
        self.owners = [uuid4() for _ in range(sizes.owners)]
        self._created = 0
        self._running: dict[str, list[ServiceProcess]] = {}
        for service in product.services.values():
            self.watch(service)

    # Processes.

    def watch(self, service: ServiceProcess) -> None:
        """Count what a process of a service uses and does."""
        self.meter.watch(service.principal.value, service.pid)
        self._running.setdefault(service.principal.value, []).append(service)

    def restart(self, principal: Principal, **settings: str) -> None:
        """Stop a service if it runs, and start it with other settings."""
        service = self.product.services[principal]
        self.stop(service)
        service.launch(**(SETTINGS.get(principal, {}) | settings))
        service.wait_ready()
        self.watch(service)

    @contextmanager
    def beside(self, principal: Principal, name: str, **settings: str) -> Iterator[ServiceProcess]:
        """Run another process of a service for a while."""
        other = ServiceProcess(principal, self.product.stack, name=f"{principal}-{name}")
        try:
            other.launch(**(SETTINGS.get(principal, {}) | settings))
            other.wait_ready()
            if settings.get("role") != "web":  # which counts no work
                self.watch(other)
            else:
                self.meter.watch(f"{principal}-{name}", other.pid)
            yield other
        finally:
            self.stop(other)

    def stop(self, *services: ServiceProcess) -> None:
        """Stop processes of services, those that run, at the same time."""
        for service in services:
            running = self._running.get(service.principal.value, [])
            if service in running:
                running.remove(service)
        with ThreadPoolExecutor() as pool:
            list(pool.map(ServiceProcess.stop, services))

    def counters(self) -> dict[str, Counters]:
        """Return the services' counters, summed over replicas."""
        found = {}
        for name, services in self._running.items():
            if services:
                found[name] = sum((counters.read(service.url) for service in services), Counters({}))
        return found

    # The load.

    def settings(self, principal: str = Principal.PLATFORM) -> KafkaSettings:
        """Return how to reach Kafka as somebody."""
        environment = self.product.stack.service_environment(principal)
        prefix = principal.upper()
        return KafkaSettings(
            kafka_bootstrap=environment[f"{prefix}_KAFKA_BOOTSTRAP"],
            kafka_username=environment[f"{prefix}_KAFKA_USERNAME"],
            kafka_password=SecretStr(environment[f"{prefix}_KAFKA_PASSWORD"]),
        )

    @asynccontextmanager
    async def _producing(self, principal: Principal) -> AsyncIterator[AIOKafkaProducer]:
        producer = await start_producer(self.settings(principal))
        try:
            yield producer
        finally:
            await producer.stop()

    async def prepare(self) -> None:
        """Register owners with all the units they need, and let one round of sagas warm everything up."""
        await self.open_accounts(self.owners)
        await self.sagas(self.sizes.warm_up)

    async def open_accounts(self, owners: Sequence[UUID]) -> None:
        """Register owners, and give them units."""
        people = [
            command(
                RegisterSubscriber(
                    subscriber_id=owner,
                    email=f"owner-{owner}@example.com",
                    first_name="Anne",
                    last_name="Martin",
                    language=Language.FR,
                )
            )
            for owner in owners
        ]
        await self.run(people, [(PROVISIONING_EVENTS, [SubscriberRegistered])])
        credits = [command(CreditUnits(credit_id=uuid4(), account_id=owner, amount_units=UNITS)) for owner in owners]
        await self.run(credits, [(LEDGER_EVENTS, [UnitsCredited])])

    async def sagas(
        self,
        count: int,
        rate: float | None = None,
        owners: Sequence[UUID] = (),
        ends: Ends | None = None,
        look: Callable[[], Any] = lambda: None,
    ) -> Ran:
        """Run account creations to their ends, at full speed or so many per second.

        At full speed the end is that of the saga and of its mails; at a rate that of the saga.
        """
        commands = self._creations(count, owners or self.owners)
        await asyncio.sleep(SETTLED_S)
        return await self.run(commands, ends or (SAGA_ENDS if rate is None else SAGA_ENDS[:1]), rate, look=look)

    def _creations(self, count: int, owners: Sequence[UUID]) -> list[Command]:
        """Make so many account creations, spread over owners and plans; no address twice."""
        commands = []
        for _ in range(count):
            self._created += 1
            owner = owners[self._created % len(owners)]
            plan = "send_only" if self._created % 2 else "send_receive"
            body = CreateMemberAccount(
                group_id=group_of(owner),
                plan=plan,
                price_units=PRICES[plan],
                email=f"member-{self._created}@example.com",
                first_name="Luc",
                last_name="Bernard",
                language=Language.FR,
            )
            commands.append(command(body, owner))
        return commands

    async def run(
        self,
        commands: Sequence[Command],
        ends: Ends,
        rate: float | None = None,
        writer: Principal = Principal.PLATFORM,
        look: Callable[[], Any] = lambda: None,
    ) -> Ran:
        """Publish commands and wait for all their ends; `look` is called just before and just after.

        Raises `RuntimeError` when one was refused: every command here is made to succeed.
        """
        followers = [Follower(self.settings(), [topic], models) for topic, models in ends]
        async with AsyncExitStack() as cleanup:
            producer = await cleanup.enter_async_context(self._producing(writer))
            for follower in followers:
                cleanup.push_async_callback(follower.stop)
                await follower.start()
            gc.collect()
            gc.freeze()  # the load's own garbage collection is no part of the product
            sent_at: dict[str, float] = {}
            looked, counted, used = look(), self.counters(), self.meter.look()
            began = time.perf_counter()
            waiting = asyncio.gather(*(f.until(len(commands), LIMIT_S, lambda _: None) for f in followers))
            if rate is None:
                await publish(producer, commands, sent_at)
            else:
                await publish_at(producer, commands, rate, sent_at)
            await waiting
            elapsed = time.perf_counter() - began
            spent = self.meter.look().since(used)
            added = {name: now.since(counted[name]) for name, now in self.counters().items()}
            looked = looked, look()
        gc.unfreeze()
        for follower in followers:
            refused = {name: n for name, n in follower.outcomes.types.items() if "refused" in name}
            if refused:
                raise RuntimeError(f"refused: {refused}")
        at = followers[0].outcomes.at
        return Ran(len(commands), elapsed, [at[id_] - sent for id_, sent in sent_at.items()], spent, added, looked)


SETTINGS: dict[Principal, dict[str, str]] = {
    # One owner asks about thousands of addresses here.
    Principal.GROUPS: {"invitations_owner_day": "100000000", "web_limit_person": "100000/minute"}
    | {"web_limit_address": "100000/minute"},
    # The sender would have work for minutes: it is measured by itself.
    Principal.NOTIFICATIONS: {"mail_sender": "false"},
}
"""What the services are told beside the local stack's settings."""


def plain_stack(directory: Path) -> Stack:
    """Return the local stack, fresh, on ports that are free."""
    return Stack(directory, Ports.model_construct(), fresh=True)


StackOf: TypeAlias = Callable[[Path], Stack]
"""Makes a stack in a directory."""


@contextmanager
def running(directory: Path, stack_of: StackOf = plain_stack, module: str = "") -> Iterator[Product]:
    """Run a fresh product in a directory, which is deleted at the end. `module` runs services, if not their apps."""
    stack = stack_of(directory)
    product = Product(stack)
    if module:
        product.services = {each: ServiceProcess(each, stack, run=("-m", module, each)) for each in SERVICES}
    try:
        stack.start()
        product.prepare()
        asyncio.run(_add_numbers(stack))
        for service in product.services.values():
            service.launch(**SETTINGS.get(service.principal, {}))
        for service in product.services.values():
            service.wait_ready()
        yield product
    finally:
        product.stop_services()
        stack.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def _add_numbers(stack: Stack) -> None:
    """Fill the pool: a run creates more accounts than the shipped pool has numbers."""
    engine = postgres.engine(stack.postgres.url(Principal.PROVISIONING))
    async with engine.begin() as connection:
        numbers = catalogue.NumberRange(first="+33198000000", count=NUMBERS)
        await connection.execute(catalogue.add_numbers(numbers))
        await connection.execute(sa.text("ANALYZE"))
    await engine.dispose()
