"""Measures sagas, transfers and mails on the whole product, and a yardstick beside them, on this machine.

    python -m tests.bench [--runs N]

Each run starts a fresh product (real Kafka with acks=all, real PostgreSQL with fsync) and prints one JSON line:

- `sagas_per_s`: account creations, commands published at full speed, until the last event of the last saga is back on
  Kafka and its mails are committed for sending. `saga_cpu_us`: CPU of all processes for one.
- `saga_p50_ms`, `saga_p99_ms`: from publishing the command to its last event in a reader's hands, at 1,000 sagas/s.
- `transfers_per_s`: the ledger alone, from commands on Kafka to events on Kafka; `transfer_cpu_us_by_process` for one.
- `page_p95_ms`: the group page with 1,000 members and 10,000 lines of history, from request to last byte.
- `mails_per_s`: the sender alone, over SMTP to a sink on this machine.
- `pgbench_transfers_per_s`: the yardstick, in the same run on the same PostgreSQL.

With more than one run, a last line gives the medians and the spread.
"""

import argparse
import asyncio
import gc
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from aiokafka import AIOKafkaProducer
from pydantic import SecretStr

from deploy.local.ports import Ports
from deploy.local.product import Product
from deploy.local.stack import Stack
from deploy.paths import STATE
from popfax_contracts.fields import Language
from popfax_contracts.groups import CreateMemberAccount, MemberAccountCreated, MemberAccountRefused
from popfax_contracts.ledger import CreditUnits, Leg, PostTransfers, TransfersPosted, TransfersRefused, UnitsCredited
from popfax_contracts.message import Message, group_of
from popfax_contracts.notifications import PasswordLinkIssued
from popfax_contracts.provisioning import RegisterSubscriber, SubscriberRegistered
from popfax_contracts.topics import (
    GROUPS_EVENTS,
    LEDGER_EVENTS,
    NOTIFICATIONS_EVENTS,
    PROVISIONING_EVENTS,
    Principal,
    Topic,
)
from services.chassis import postgres
from services.chassis.kafka import producer as start_producer
from services.chassis.settings import KafkaSettings
from services.provisioning import catalogue
from tests.bench import page
from tests.bench.load import Command, Follower, command, publish, publish_at
from tests.bench.pgbench import transfers_per_s
from tests.bench.usage import Meter

OWNERS = 1000
WARM_UP = 3000
SAGAS = 30_000
STEADY_S = 10
STEADY_RATE = 1000
TRANSFERS = 150_000
LIMIT_S = 120.0
PRICES = {"send_only": 60, "send_receive": 120}


Ends = Sequence[tuple[Topic, Sequence[type[Message]]]]
"""Topics, and the events on them that end a command."""


class Bench:
    """One run on one product."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.meter = Meter(product)
        self.settings = _settings(product, Principal.PLATFORM)
        self.owners = [uuid4() for _ in range(OWNERS)]
        self.random = Random(1)
        self.created = 0

    async def run(self) -> dict[str, Any]:
        """Do all that is measured while the services run."""
        self.producer: AIOKafkaProducer = await start_producer(self.settings)
        try:
            await self._prepare()
            figures = await self._sagas()
            figures |= await self._steady_sagas()
            figures["memory_mb"] = self.meter.memory_mb()
            note("the page")
            figures |= await asyncio.to_thread(page.measure, self.product)
            for principal in (Principal.GROUPS, Principal.PROVISIONING, Principal.NOTIFICATIONS):
                self.product.services[principal].stop()
        finally:
            await self.producer.stop()
        # Transfers are asked for by groups, which rests now.
        self.producer = await start_producer(_settings(self.product, Principal.GROUPS))
        try:
            figures |= await self._transfers()
            figures |= await self._mails()
        finally:
            await self.producer.stop()
        return figures

    async def _prepare(self) -> None:
        """Register owners with all the units they need, and let one round of sagas warm everything up."""
        note("owners")
        people: list[Command] = [
            command(
                RegisterSubscriber(
                    subscriber_id=owner,
                    email=f"owner-{owner}@example.com",
                    first_name="Anne",
                    last_name="Martin",
                    language=Language.FR,
                )
            )
            for owner in self.owners
        ]
        await self._to_the_end(people, [(PROVISIONING_EVENTS, [SubscriberRegistered])])
        credits = [
            command(CreditUnits(credit_id=uuid4(), account_id=owner, amount_units=1_000_000)) for owner in self.owners
        ]
        await self._to_the_end(credits, [(LEDGER_EVENTS, [UnitsCredited])])
        note("warm-up")
        await self._to_the_end(self._creations(WARM_UP), SAGA_ENDS)

    async def _sagas(self) -> dict[str, Any]:
        note(f"{SAGAS} sagas at full speed")
        commands = self._creations(SAGAS)
        await asyncio.sleep(2)  # what the warm-up left to do
        before = self.meter.look()
        elapsed, _ = await self._to_the_end(commands, SAGA_ENDS)
        used = self.meter.look().since(before)
        return {
            "sagas_per_s": round(SAGAS / elapsed),
            "saga_cpu_us": round(sum(used.values()) / SAGAS * 1e6),
            "saga_cpu_us_by_process": _each(used, SAGAS),
        }

    async def _steady_sagas(self) -> dict[str, Any]:
        note(f"{STEADY_RATE} sagas/s for {STEADY_S} s")
        commands = self._creations(STEADY_RATE * STEADY_S)
        before = self.meter.look()
        _, latencies = await self._to_the_end(commands, SAGA_ENDS[:1], STEADY_RATE)
        used = self.meter.look().since(before)
        ordered = sorted(latencies)
        return {
            "saga_p50_ms": round(ordered[len(ordered) // 2] * 1e3),
            "saga_p99_ms": round(ordered[len(ordered) * 99 // 100] * 1e3),
            "saga_max_ms": round(ordered[-1] * 1e3),
            "steady_saga_cpu_us": round(sum(used.values()) / len(commands) * 1e6),
        }

    async def _transfers(self) -> dict[str, Any]:
        note(f"{TRANSFERS} transfers, the ledger alone")
        commands = []
        for _ in range(TRANSFERS):
            source, target = self.random.sample(self.owners, 2)
            legs = (Leg(account_id=target, amount_units=1),)
            body = PostTransfers(transfer_id=uuid4(), source_id=source, legs=legs)
            commands.append(command(body, source, Principal.GROUPS))
        ends: Ends = [(LEDGER_EVENTS, [TransfersPosted, TransfersRefused])]
        await self._to_the_end(commands[:5000], ends)
        commands = commands[5000:]
        await asyncio.sleep(1)
        before = self.meter.look()
        elapsed, _ = await self._to_the_end(commands, ends)
        used = self.meter.look().since(before)
        return {
            "transfers_per_s": round(len(commands) / elapsed),
            "transfer_cpu_us_by_process": _each(used, len(commands)),
        }

    async def _mails(self) -> dict[str, Any]:
        """Let the sender loose on the mails that the sagas left, for a few seconds."""
        note("mails")
        service = self.product.services[Principal.NOTIFICATIONS]
        service.launch()
        service.wait_ready()
        sink = self.product.stack.mail.mails
        count, began = len(list(sink.iterdir())), time.perf_counter()
        await asyncio.sleep(6)
        sent = len(list(sink.iterdir())) - count
        return {"mails_per_s": round(sent / (time.perf_counter() - began))}

    def _creations(self, count: int) -> list[Command]:
        """Make so many account creations, spread over owners and plans; no address twice."""
        commands = []
        for _ in range(count):
            self.created += 1
            owner = self.owners[self.created % OWNERS]
            plan = "send_only" if self.created % 2 else "send_receive"
            body = CreateMemberAccount(
                group_id=group_of(owner),
                plan=plan,
                price_units=PRICES[plan],
                email=f"member-{self.created}@example.com",
                first_name="Luc",
                last_name="Bernard",
                language=Language.FR,
            )
            commands.append(command(body, owner))
        return commands

    async def _to_the_end(
        self,
        commands: Sequence[Command],
        ends: Sequence[tuple[Topic, Sequence[type[Message]]]],
        rate: int | None = None,
    ) -> tuple[float, list[float]]:
        """Publish commands and wait for all their ends; return the time that took, and each command's latency.

        Raises `RuntimeError` when one was refused: every command here is made to succeed.
        """
        followers = [Follower(self.settings, topic, models) for topic, models in ends]
        for follower in followers:
            await follower.start()
        gc.collect()
        gc.freeze()  # the load's own garbage collection is no part of the product
        sent_at: dict[str, float] = {}
        began = time.perf_counter()
        waiting = asyncio.gather(*(f.until(len(commands), LIMIT_S, lambda _: None) for f in followers))
        if rate is None:
            await publish(self.producer, commands, sent_at)
        else:
            await publish_at(self.producer, commands, rate, sent_at)
        await waiting
        elapsed = time.perf_counter() - began
        for follower in followers:
            await follower.stop()
            refused = {name: n for name, n in follower.outcomes.types.items() if "refused" in name}
            if refused:
                raise RuntimeError(f"refused: {refused}")
        at = followers[0].outcomes.at
        return elapsed, [at[id_] - sent for id_, sent in sent_at.items()]


def _settings(product: Product, principal: Principal) -> KafkaSettings:
    environment = product.stack.service_environment(principal)
    prefix = principal.upper()
    return KafkaSettings(
        kafka_bootstrap=environment[f"{prefix}_KAFKA_BOOTSTRAP"],
        kafka_username=environment[f"{prefix}_KAFKA_USERNAME"],
        kafka_password=SecretStr(environment[f"{prefix}_KAFKA_PASSWORD"]),
    )


SAGA_ENDS: Ends = [
    (GROUPS_EVENTS, [MemberAccountCreated, MemberAccountRefused]),
    (NOTIFICATIONS_EVENTS, [PasswordLinkIssued]),
]


def _each(used: dict[str, float], count: int) -> dict[str, int]:
    return {name: round(seconds / count * 1e6) for name, seconds in used.items()}


def note(what: str) -> None:
    """Show a person how far it is."""
    print(f"bench: {what}", file=sys.stderr, flush=True)


def one_run(directory: Path) -> dict[str, Any]:
    """Measure once, on a fresh product."""
    note("starting the product")
    stack = Stack(directory, Ports.model_construct(), fresh=True)
    product = Product(stack)
    try:
        stack.start()
        product.prepare()
        asyncio.run(_more_numbers(stack))
        for service in product.services.values():
            sender = {"mail_sender": "false"} if service.principal is Principal.NOTIFICATIONS else {}
            service.launch(**sender)
        for service in product.services.values():
            service.wait_ready()
        figures = asyncio.run(Bench(product).run())
        product.stop_services()  # the sender has mails left for minutes
        note("pgbench")
        figures["pgbench_transfers_per_s"] = round(transfers_per_s(stack.postgres.superuser_url, directory))
    finally:
        product.stop_services()
        stack.stop()
    return figures


async def _more_numbers(stack: Stack) -> None:
    """Fill the pool: a run creates more accounts than the shipped pool has numbers."""
    engine = postgres.engine(stack.postgres.url(Principal.PROVISIONING))
    async with engine.begin() as connection:
        numbers = catalogue.NumberRange(first="+33198000000", count=50_000)
        await connection.execute(catalogue.add_numbers(numbers))
        await connection.execute(sa.text("ANALYZE"))
    await engine.dispose()


def _summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = [name for name, value in runs[0].items() if isinstance(value, int)]
    return {
        name: {"median": statistics.median(r[name] for r in runs), "all": [r[name] for r in runs]} for name in names
    }


def main() -> None:
    """Run as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="how many runs (default 3)")
    runs = []
    directory = STATE / f"bench-{os.getpid()}"
    for _ in range(parser.parse_args().runs):
        runs.append(one_run(directory))
        print(json.dumps(runs[-1]), flush=True)
        shutil.rmtree(directory, ignore_errors=True)
    if len(runs) > 1:
        print(json.dumps({"runs": len(runs)} | _summary(runs)), flush=True)


if __name__ == "__main__":
    main()
