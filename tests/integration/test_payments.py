"""Money pays once, whatever runs at the same time: on a real database, with replicas that claim one payment at once."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest_asyncio
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.stack import Stack
from popfax_contracts.fields import Language
from popfax_contracts.message import Command
from popfax_contracts.provisioning import AccountExtended, ExtendAccount, PaidActionRefused, RegisterSubscriber
from popfax_contracts.topics import PROVISIONING_COMMANDS, Principal
from services.chassis import postgres
from services.chassis.postgres import OUTBOX, PostgresDatabase
from services.chassis.shell import FromKafka, Shell
from services.provisioning.consumers import PROVISIONING
from services.provisioning.domain import Plan
from services.provisioning.tables import PLANS, payments
from tests.integration.recorder import Sent, scratch_database

ROUNDS = 15


@pytest_asyncio.fixture
async def engine(stack: Stack) -> AsyncIterator[AsyncEngine]:
    """A fresh database with provisioning's tables, and a plan."""
    with scratch_database(stack, Principal.PROVISIONING) as url:
        made = postgres.engine(url)
        async with PostgresDatabase(made).begin() as tx:
            plans = await tx.fetch(PLANS, ["send_only"])
            plans.put(Plan("send_only", 60, 12, fax_number=False))
            await tx.save([plans])
        yield made
        await made.dispose()


async def handle(engine: AsyncEngine, *commands: Command) -> None:
    records = []
    for command in commands:
        headers = [("ce_id", str(uuid4()).encode()), ("ce_type", command.TYPE.encode())]
        headers += [("ce_specversion", b"1.0"), ("ce_source", b"popfax/tests")]
        key = command.key().encode()
        records.append(Sent(PROVISIONING_COMMANDS.name, 0, 0, key, command.to_json(), headers))
    await Shell(PROVISIONING, PostgresDatabase(engine)).process(records, FromKafka())


def register(account: UUID) -> RegisterSubscriber:
    return RegisterSubscriber(
        subscriber_id=account,
        email=f"{account}@example.org",
        first_name="Ada",
        last_name="L.",
        language=Language.EN,
        plan="send_only",
        expires_at=datetime(2035, 1, 1, tzinfo=UTC),
    )


async def test_of_two_purchases_with_one_payment_at_once_one_is_refused(engine: AsyncEngine) -> None:
    accounts = [uuid4(), uuid4()]
    await handle(engine, *map(register, accounts))
    for number in range(ROUNDS):
        extensions = [
            ExtendAccount(request_id=uuid4(), account_id=account, payment_reference=f"card/{number}")
            for account in accounts
        ]
        await asyncio.gather(*(handle(engine, extension) for extension in extensions))
    async with engine.connect() as connection:
        told = (await connection.execute(sa.select(OUTBOX.c.type, sa.func.count()).group_by(OUTBOX.c.type))).all()
        paid = (await connection.execute(sa.select(sa.func.count()).select_from(payments))).scalar_one()
    counts = {row[0]: row[1] for row in told}
    assert counts[AccountExtended.TYPE] == counts[PaidActionRefused.TYPE] == paid == ROUNDS
