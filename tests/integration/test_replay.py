"""A replay on a real PostgreSQL finds the order in which two replicas worked, and says so when there is none."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from deploy.local.stack import Stack
from deploy.operator.replay.again import Replay, Report
from deploy.operator.replay.particular import particular_of
from deploy.operator.replay.story import Told, heard_of, steps
from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.fields import Language
from popfax_contracts.groups import (
    CreateMemberAccount,
    LowBalanceSet,
    PayForMember,
    SetLowBalance,
    SetStandingOrder,
    StandingOrderStopped,
)
from popfax_contracts.ledger import (
    BalanceChanged,
    CreditUnits,
    Leg,
    PostedLeg,
    PostTransfers,
    ReserveUnits,
    SpendUnits,
    TransfersPosted,
    UnitsReserved,
)
from popfax_contracts.message import Message, group_of
from popfax_contracts.notifications import SendMembersLow
from popfax_contracts.provisioning import PlanPublished
from popfax_contracts.topics import Principal
from services.chassis import postgres
from services.chassis.arrivals import Fetched
from services.chassis.kafka import partition_of
from services.chassis.messages import Incoming, Outgoing, SetTimer, StoredRecord, headers_of, source_of
from services.chassis.partitions import Place
from services.chassis.pipeline import Pipeline
from services.chassis.postgres import OUTBOX, TIMER, PostgresDatabase, driver_of
from services.chassis.sagas import CancelSaga, RetrySaga
from services.chassis.service import Moment
from services.chassis.shell import FromKafka, Shell
from services.chassis.timers import fire_due
from services.groups.domain import HistoryEntry, Kind, Membership, history_of_membership, membership_of
from services.groups.tables import history, low_balances, memberships, sagas, standing_orders
from services.groups.tables import transfers as groups_transfers
from services.ledger.tables import accounts, transfers
from tests.integration.recorder import scratch_database
from tests.integration.seeding import seed

BEGINNING = datetime(2026, 3, 1, 10, tzinfo=UTC)
DAY = 24 * 3600
"""In seconds."""


@dataclass
class Clock:
    now: datetime = BEGINNING

    def moment(self) -> Moment:
        return Moment(self.now, bytes)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


@dataclass
class Topics:
    """What was sent to the ledger."""

    records: list[Fetched] = field(default_factory=list)

    def send(self, body: Message, writer: Principal, actor: UUID | None = None) -> Fetched:
        topic = body.topic_of(writer)
        place: Place = topic.name, partition_of(body.key(), topic.partitions)
        id_ = uuid4()
        out = Outgoing(id_, body.TYPE, body.key(), body.to_json(), str(id_), str(id_), actor, None)
        headers = headers_of(out, source_of(writer), BEGINNING.isoformat())
        timestamp = int((BEGINNING + timedelta(milliseconds=len(self.records))).timestamp() * 1000)
        made = Fetched(*place, len(self.records), body.key().encode(), body.to_json(), headers, timestamp)
        self.records.append(made)
        return made


@dataclass
class Database:
    """A service's database."""

    url: str
    service: Principal = Principal.LEDGER

    async def handle(self, *batches: tuple[int, Sequence[Fetched]]) -> list[Told]:
        """Handle batches, each at so many seconds, and whatever is due by then; return what was published."""
        engine, clock = postgres.engine(self.url, 1), Clock()
        try:
            shell = Shell(particular_of(self.service).definition, PostgresDatabase(engine), clock)
            for seconds, records in batches:
                clock.now = BEGINNING + timedelta(seconds=seconds)
                await shell.process(records, FromKafka())
                await fire_due(shell)
        finally:
            await engine.dispose()
        async with self.connected() as connection:
            rows = (await connection.execute(sa.select(OUTBOX).order_by(OUTBOX.c.seq))).all()
        return [_told(self.service, row) for row in rows]

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        """Yield a connection."""
        engine = postgres.engine(self.url, 1)
        try:
            async with engine.connect() as connection:
                yield connection
        finally:
            await engine.dispose()

    async def intervene(self, message: Message, seconds: int) -> None:
        """Set an operator's message as a timer, as the command line does."""
        engine = postgres.engine(self.url, 1)
        record = StoredRecord(uuid4(), None, "operator", 0, 0, None, None, ())
        cause = Incoming[Message](record.row_id, message, record, str(uuid4()), None)
        async with PostgresDatabase(engine).begin() as tx:
            await tx.set_timers([(SetTimer(uuid4(), BEGINNING + timedelta(seconds=seconds), message), cause)])
        await engine.dispose()

    @asynccontextmanager
    async def replay(self, topics: Topics, told: Sequence[Told]) -> AsyncIterator[tuple[Report, Any]]:
        """Replay it; yield the report, and the connection with the replay's open transaction."""
        async with self.connected() as connection:
            await connection.execute(sa.select(1))
            pipeline = Pipeline(await driver_of(connection), set())
            again = Replay(connection, pipeline, told, particular_of(self.service), BEGINNING)
            heard = [heard_of(arrival) for each in topics.records if (arrival := again.shell.read(each))]
            committed = {(each.topic, each.partition): 1000 for each in topics.records}
            await again.tell(steps(heard, told), committed, BEGINNING + timedelta(seconds=9))
            await pipeline.flush()
            yield again.report, connection


def _told(service: Principal, row: Any) -> Told:
    topic = MESSAGES[row.type].topic_of(service)
    place = topic.name, partition_of(row.key, topic.partitions), row.seq
    envelope = row.causation_id, row.correlation_id, row.actor, row.made_at
    return Told(*place, row.key, row.value, str(row.id), row.type, *envelope)


@pytest.fixture
def lost(stack: Stack) -> Iterator[Database]:
    """The ledger's database that is lost."""
    with scratch_database(stack, Principal.LEDGER) as url:
        yield Database(url)


@pytest.fixture
def restored(stack: Stack) -> Iterator[Database]:
    """The ledger's database that knows nothing of it."""
    with scratch_database(stack, Principal.LEDGER) as url:
        yield Database(url)


async def _books(connection: Any) -> list[Any]:
    found = [(await connection.execute(sa.select(table).order_by(table.c.id))).all() for table in (accounts, transfers)]
    return [tuple(row) for rows in found for row in rows]


def _payments(topics: Topics, account: UUID) -> tuple[Fetched, Fetched]:
    """Two payments of which the account can afford one."""
    spend = SpendUnits(spend_id=uuid4(), account_id=account, amount_units=80, purpose="fax", reference="fax-1")
    legs = (Leg(account_id=uuid4(), amount_units=80),)
    transfer = PostTransfers(transfer_id=uuid4(), source_id=account, legs=legs, reference="group")
    return topics.send(spend, Principal.PLATFORM, account), topics.send(transfer, Principal.GROUPS, account)


async def test_two_replicas_batches_come_in_the_order_that_explains_what_was_told(
    lost: Database, restored: Database
) -> None:
    topics, account = Topics(), uuid4()
    credit = topics.send(CreditUnits(credit_id=uuid4(), account_id=account, amount_units=100), Principal.PLATFORM)
    spend, transfer = _payments(topics, account)
    # The replica that began later had the account's lock first.
    told = await lost.handle((1, [credit]), (3, [transfer]), (2, [spend]))
    assert [each.type for each in told if "refused" in each.type] == ["popfax.ledger.spend-refused.v1"]
    async with restored.replay(topics, told) as (report, connection):
        assert report.problems == []
        books = await _books(connection)
        assert await connection.scalar(sa.select(sa.func.count()).select_from(OUTBOX)) == 0, "it is all published"
    async with lost.connected() as connection:
        assert books == await _books(connection)


async def test_a_batch_comes_in_the_order_that_explains_what_was_told(lost: Database, restored: Database) -> None:
    topics, account = Topics(), uuid4()
    credit = topics.send(CreditUnits(credit_id=uuid4(), account_id=account, amount_units=100), Principal.PLATFORM)
    spend, transfer = _payments(topics, account)
    told = await lost.handle((1, [credit]), (2, [transfer, spend]))
    told = [each for each in told if not each.is_compacted]  # compaction has been there
    for number, each in enumerate(told):
        each.partition = number  # and no partition shows their order
    async with restored.replay(topics, told) as (report, connection):
        assert report.problems == []
        assert {row[0] for row in await connection.execute(sa.select(transfers.c.code))} == {None, "units_short"}


async def test_what_a_batch_gets_stuck_at_was_before_the_rest(lost: Database, restored: Database) -> None:
    topics, account, giver = Topics(), uuid4(), uuid4()
    credits_ = [
        topics.send(CreditUnits(credit_id=uuid4(), account_id=each, amount_units=100), Principal.PLATFORM)
        for each in (account, giver)
    ]
    legs = (Leg(account_id=account, amount_units=50),)
    gift = PostTransfers(transfer_id=uuid4(), source_id=giver, legs=legs, reference="group")
    given = topics.send(gift, Principal.GROUPS, giver)
    spend = SpendUnits(spend_id=uuid4(), account_id=account, amount_units=120, purpose="fax", reference="fax-1")
    too_early = topics.send(spend, Principal.PLATFORM, account)
    told = await lost.handle((1, credits_), (2, [too_early, given]))
    for number, each in enumerate(told):
        each.partition = number  # no partition shows their order
    async with restored.replay(topics, told) as (report, connection):
        assert report.problems == []
        assert "units_short" in {row[0] for row in await connection.execute(sa.select(transfers.c.code))}


async def test_what_was_never_published_is_published_now_and_decided_now(lost: Database, restored: Database) -> None:
    topics, account = Topics(), uuid4()
    credit = topics.send(CreditUnits(credit_id=uuid4(), account_id=account, amount_units=100), Principal.PLATFORM)
    spend, _ = _payments(topics, account)
    told = await lost.handle((1, [credit]), (2, [spend]))
    published = [each for each in told if each.correlation_id != dict(spend.headers)["ce_id"].decode()]  # type: ignore[union-attr]
    async with restored.replay(topics, published) as (report, connection):
        assert (report.problems, report.decided) == ([], 2), "the transfer was never handled either"
        types = [row.type for row in await connection.execute(sa.select(OUTBOX).order_by(OUTBOX.c.seq))]
    assert types[:2] == ["popfax.ledger.transfers-posted.v1", "popfax.ledger.spend-refused.v1"], "nobody was told"
    assert types[2:] == ["popfax.ledger.balance-changed.v1"] * 2, "of the source, too, of which there is an older one"


async def test_what_waits_in_the_restored_outbox_goes_out_only_if_it_never_did(
    lost: Database, restored: Database
) -> None:
    topics, account = Topics(), uuid4()
    first, second = (
        topics.send(CreditUnits(credit_id=uuid4(), account_id=account, amount_units=100), Principal.PLATFORM)
        for _ in range(2)
    )
    told = await lost.handle((1, [first]), (2, [second]))
    assert len(await restored.handle((1, [first]))) == 2, "the backup came before the relay"
    async with restored.replay(topics, told) as (report, connection):
        assert (report.problems, report.settled, report.lost) == ([], 2, 0)
        assert await connection.scalar(sa.select(sa.func.count()).select_from(OUTBOX)) == 0
    async with restored.replay(topics, []) as (report, connection):
        assert (report.problems, report.settled, report.decided) == ([], 0, 1)
        kept = (await connection.execute(sa.select(OUTBOX.c.key, OUTBOX.c.type).order_by(OUTBOX.c.seq))).all()
        assert len(kept) == 4


async def test_what_no_order_explains_is_named(lost: Database, restored: Database) -> None:
    topics, account = Topics(), uuid4()
    credit = topics.send(CreditUnits(credit_id=uuid4(), account_id=account, amount_units=100), Principal.PLATFORM)
    spend, transfer = _payments(topics, account)
    told = await lost.handle((1, [credit]), (2, [spend]), (3, [transfer]))
    (refused,) = [each for each in told if each.type == "popfax.ledger.transfers-refused.v1"]
    refused.value = refused.value.replace(b"units_short", b"target_closed")
    async with restored.replay(topics, told) as (report, _):
        assert report.problems == [
            f"popfax.ledger.transfers-refused.v1 of {account}, published at 10:00:03, came with other content"
        ]


async def test_an_event_without_a_known_cause_is_named(lost: Database, restored: Database) -> None:
    topics, account = Topics(), uuid4()
    credit = topics.send(CreditUnits(credit_id=uuid4(), account_id=account, amount_units=100), Principal.PLATFORM)
    told = await lost.handle((1, [credit]))
    async with restored.replay(Topics(), told) as (report, _):
        (problem,) = report.problems
        assert f"popfax.ledger.units-credited.v1 of {account}" in problem
        assert "what caused it" in problem


@pytest.fixture
def groups(stack: Stack) -> Iterator[tuple[Database, Database]]:
    """The database of groups that is lost, and the one that knows nothing of it."""
    with scratch_database(stack, Principal.GROUPS) as lost, scratch_database(stack, Principal.GROUPS) as restored:
        yield Database(lost, Principal.GROUPS), Database(restored, Principal.GROUPS)


def _creation(topics: Topics) -> list[Fetched]:
    """A plan, and the wish for an account with it."""
    plan = PlanPublished(plan="send_only", price_units=60, validity_months=12, fax_number=False)
    owner_id = uuid4()
    fields = {"plan": "send_only", "price_units": 60, "email": "ben@example.com", "first_name": "Ben"}
    command = CreateMemberAccount(group_id=group_of(owner_id), last_name="Petit", language=Language.EN, **fields)
    return [topics.send(plan, Principal.PROVISIONING), topics.send(command, Principal.PLATFORM, owner_id)]


async def _sagas(connection: Any) -> list[Any]:
    query = sa.select(sagas.c.id, sagas.c.status, sagas.c.step, sagas.c.code, sagas.c.updated_at, sagas.c.trail)
    return [tuple(row) for row in await connection.execute(query)]


async def test_a_saga_is_called_off_again_by_its_deadline(groups: tuple[Database, Database]) -> None:
    lost, restored = groups
    topics = Topics()
    told = await lost.handle((1, _creation(topics)), (400, []))
    assert [each.type for each in told] == ["popfax.ledger.reserve-units.v1", "popfax.ledger.release-hold.v1"]
    async with restored.replay(topics, told) as (report, connection):
        assert (report.problems, report.due) == ([], 1)
        found = await _sagas(connection)
    async with lost.connected() as connection:
        assert found == await _sagas(connection)


async def test_what_an_owner_pays_for_is_called_off_again_and_retried_again(groups: tuple[Database, Database]) -> None:
    """By its deadline, and by an operator: neither is on any topic."""
    lost, restored = groups
    owner_id, member_id = await _with_member(groups)
    group_id, topics = group_of(owner_id), Topics()
    paid = [
        PayForMember(group_id=group_id, member_id=member_id, action="options_pack", price_units=price)
        for price in (30, 40)
    ]
    asked = await lost.handle((1, [topics.send(each, Principal.PLATFORM, owner_id) for each in paid]))
    held = [ReserveUnits.from_json(each.value) for each in asked]
    units = {"account_id": owner_id, "amount_units": 30}
    reserved = topics.send(UnitsReserved(hold_id=held[0].hold_id, **units), Principal.LEDGER)
    await lost.handle((2, [reserved]))
    await lost.intervene(RetrySaga(saga_id=held[1].hold_id), 3)
    told = await lost.handle((3, []), (400, []))
    types = [each.type.rpartition(".v")[0].removeprefix("popfax.") for each in told]
    assert types[2:4] == ["provisioning.grant-purchase", "ledger.reserve-units"]
    assert sorted(types[4:]) == ["ledger.release-hold", "provisioning.cancel-grant"]
    async with restored.replay(topics, told) as (report, connection):
        assert (report.problems, report.due) == ([], 3)
        found = await _rows(connection, sagas, history)
    async with lost.connected() as connection:
        assert found == await _rows(connection, sagas, history)


async def test_members_who_were_told_as_low_are_not_told_again(groups: tuple[Database, Database]) -> None:
    lost, restored = groups
    owner_id, member_id = await _with_member(groups)
    setting = SetLowBalance(group_id=group_of(owner_id), below_units=5, mail=True)
    topics = Topics()
    told = await lost.handle((1, [topics.send(setting, Principal.PLATFORM, owner_id)]), (DAY, []))
    assert [each.type for each in told] == [LowBalanceSet.TYPE, SendMembersLow.TYPE]
    async with restored.replay(topics, told) as (report, connection):
        assert report.problems == []
        found = await _rows(connection, low_balances)
    async with lost.connected() as connection:
        assert found == await _rows(connection, low_balances)
    assert [(row.mails, row.low) for row in found] == [(1, member_id.hex)]


async def _with_member(databases: Sequence[Database]) -> tuple[UUID, UUID]:
    """Have an owner and a member in each database; return both."""
    owner_id, member_id = uuid4(), uuid4()
    group_id = group_of(owner_id)
    id_ = membership_of(group_id, member_id)
    member = Membership(id_, group_id, owner_id, member_id, True, 1, None, BEGINNING, None)
    began = history_of_membership(id_, 1), group_id, Kind.MEMBERSHIP, BEGINNING, None, member_id, id_
    for database in databases:
        engine = postgres.engine(database.url, 1)
        await seed(engine, [member, HistoryEntry(*began, None, "active", None, None)])
        await engine.dispose()
    return owner_id, member_id


async def _rows(connection: Any, *tables: sa.Table) -> list[Any]:
    return [row for table in tables for row in await connection.execute(sa.select(table).order_by(*table.primary_key))]


ORDERED = (standing_orders, groups_transfers, history, TIMER)


async def test_what_a_standing_order_asked_for_is_taken_over(groups: tuple[Database, Database]) -> None:
    """It asked twice, and a second time for what was not answered; the balances between are gone from their topic."""
    lost, restored = groups
    owner_id, member_id = await _with_member(groups)
    topics, terms = Topics(), {"threshold_units": 10, "target_units": 30, "monthly_bound_units": 40}
    setting = SetStandingOrder(group_id=group_of(owner_id), member_id=member_id, kind="keep_at", **terms)
    (_, asked) = await lost.handle((1, [topics.send(setting, Principal.PLATFORM, owner_id)]))
    id_ = PostTransfers.from_json(asked.value).transfer_id
    leg = PostedLeg(account_id=member_id, amount_units=30, version=1)
    answer = TransfersPosted(transfer_id=id_, source_id=owner_id, legs=(leg,), total_units=30)
    seen = topics.send(answer, Principal.LEDGER)
    compacted = [
        Topics().send(_balance(member_id, units, version), Principal.LEDGER) for units, version in ((30, 1), (5, 2))
    ]
    newest = topics.send(_balance(member_id, 4, 3), Principal.LEDGER)
    told = await lost.handle((2, [seen]), (3, compacted[:1]), (4, compacted[1:]), (5, [newest]), (70, []))
    assert [each.type for each in told].count(PostTransfers.TYPE) == 3
    async with restored.replay(topics, told) as (report, connection):
        assert report.problems == []
        found = await _rows(connection, *ORDERED)
    async with lost.connected() as connection:
        assert found == await _rows(connection, *ORDERED)
    told[1].value = told[1].value.replace(b'"top_up_to_units":30', b'"top_up_to_units":31')
    async with restored.replay(topics, told) as (report, _):
        assert report.problems, "another order would have asked for that"
    told[1].correlation_id = str(uuid4())
    async with restored.replay(topics, told) as (report, _):
        assert f"{PostTransfers.TYPE} of {owner_id}" in report.problems[0]


def _balance(account_id: UUID, units: int, version: int) -> BalanceChanged:
    return BalanceChanged(account_id=account_id, version=version, balance_units=units, available_units=units)


async def test_an_order_that_ended_when_it_was_looked_at_has_ended(groups: tuple[Database, Database]) -> None:
    lost, restored = groups
    owner_id, member_id = await _with_member(groups)
    topics = Topics()
    setting = SetStandingOrder(group_id=group_of(owner_id), member_id=member_id, kind="monthly", amount_units=5)
    asked = topics.send(setting, Principal.PLATFORM, owner_id)
    for database in groups:
        await database.handle((1, [asked]))
        async with database.connected() as connection:
            await connection.execute(sa.update(memberships).values(active=False))
            await connection.execute(sa.update(history).values(outcome="left"))
            await connection.execute(sa.update(standing_orders).values(due_at=BEGINNING))
            await connection.commit()
    told = await lost.handle((2, []))
    assert StandingOrderStopped.from_json(told[-1].value).reason == "left"
    async with restored.connected() as connection:
        await connection.execute(sa.update(standing_orders).values(due_at=None))  # what set the look off is gone
        await connection.commit()
    async with restored.replay(topics, told) as (report, connection):
        assert report.problems == []
        found = await _rows(connection, standing_orders)
    async with lost.connected() as connection:
        assert found == await _rows(connection, standing_orders)


@pytest.mark.parametrize("message", [CancelSaga, RetrySaga])
async def test_what_an_operator_did_to_a_saga_is_done_again(
    groups: tuple[Database, Database], message: type[CancelSaga | RetrySaga]
) -> None:
    lost, restored = groups
    topics = Topics()
    (asked,) = await lost.handle((1, _creation(topics)))
    await lost.intervene(message(saga_id=ReserveUnits.from_json(asked.value).hold_id), 2)
    told = await lost.handle((2, []))
    assert len(told) == 2
    async with restored.replay(topics, told) as (report, connection):
        assert (report.problems, report.due) == ([], 1)
        found = await _sagas(connection)
    async with lost.connected() as connection:
        assert found == await _sagas(connection)
