"""The ledger's promises when everything happens at once, on a real PostgreSQL."""

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import pairwise
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from deploy.operator.invariants import LedgerSnapshot, check_ledger
from deploy.operator.snapshots import ledger_snapshot
from popfax_contracts.ledger import (
    BalanceChanged,
    CaptureHold,
    CreditUnits,
    LedgerCommand,
    Leg,
    PostTransfers,
    ReserveUnits,
    SpendUnits,
    TransfersPosted,
    TransfersRefused,
)
from services.chassis import metrics, postgres
from services.chassis.postgres import OUTBOX, PostgresDatabase
from services.chassis.shell import FromKafka, Shell
from services.ledger.consumers import LEDGER
from services.ledger.domain import TransferKind
from services.ledger.tables import accounts, holds
from tests.counted import total
from tests.integration.recorder import Sent, count, eventually


def _records(commands: Iterable[LedgerCommand]) -> list[Sent]:
    """Make records of commands, each by the holder of the account that is its key."""
    return [
        Sent(
            command.TOPICS[0].name,
            0,
            offset,
            command.key().encode(),
            command.to_json(),
            [
                ("ce_id", str(uuid4()).encode()),
                ("ce_type", command.TYPE.encode()),
                ("ce_actor", command.key().encode()),
            ],
        )
        for offset, command in enumerate(commands)
    ]


async def _handle(engine: AsyncEngine, commands: Iterable[LedgerCommand]) -> None:
    await Shell(LEDGER, PostgresDatabase(engine)).process(_records(commands), FromKafka())


def _credit(account: UUID, units: int) -> CreditUnits:
    return CreditUnits(credit_id=uuid4(), account_id=account, amount_units=units)


def _transfer(source: UUID, *legs: tuple[UUID, int]) -> PostTransfers:
    made = tuple(Leg(account_id=target, amount_units=units) for target, units in legs)
    return PostTransfers(transfer_id=uuid4(), source_id=source, legs=made)


def _check_books(url: str) -> LedgerSnapshot:
    """See that the books are right; return what stands in them."""
    with ledger_snapshot(url) as snapshot:
        assert list(check_ledger(snapshot)) == []
        tables = {name: list(getattr(snapshot, name)) for name in LedgerSnapshot.__dataclass_fields__}
    return LedgerSnapshot(**tables)


async def _balances(engine: AsyncEngine) -> dict[UUID, int]:
    async with engine.connect() as connection:
        rows = (await connection.execute(sa.select(accounts))).all()
    return {row.id: row.balance_units for row in rows}


async def _outcomes(engine: AsyncEngine) -> list[tuple[str, str]]:
    """The answers to transfers in the order in which they were given: type and transfer."""
    query = sa.select(OUTBOX.c.type, OUTBOX.c.value).order_by(OUTBOX.c.seq)
    async with engine.connect() as connection:
        rows = (await connection.execute(query)).all()
    wanted = (TransfersPosted.TYPE, TransfersRefused.TYPE)
    return [(row.type, json.loads(row.value)["transfer_id"]) for row in rows if row.type in wanted]


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ({"balance_units": 9}, "available_not_negative"),
        ({"held_units": 101}, "available_not_negative"),
        ({"held_units": -1}, "held_not_negative"),
    ],
)
async def test_the_database_itself_refuses_to_overdraw(
    ledger_engine: AsyncEngine, change: dict[str, int], constraint: str
) -> None:
    account = uuid4()
    await _handle(
        ledger_engine,
        [_credit(account, 100), ReserveUnits(hold_id=uuid4(), account_id=account, amount_units=10)],
    )
    async with ledger_engine.connect() as connection:
        with pytest.raises(sa.exc.IntegrityError, match=constraint):
            await connection.execute(sa.update(accounts).values(change).where(accounts.c.id == account))
        await connection.rollback()
        await connection.execute(sa.update(accounts).values(balance_units=10).where(accounts.c.id == account))


async def test_thousands_of_transfers_in_one_batch_are_decided_one_after_the_other(
    ledger_engine: AsyncEngine,
) -> None:
    chance, source, targets = random.Random(7), uuid4(), [uuid4() for _ in range(20)]
    transfers = []
    for _ in range(4000):
        legs = [(target, chance.randint(1, 40)) for target in chance.sample(targets, chance.randint(1, 3))]
        # Now and then something comes back, so that refused and done alternate to the end.
        back = chance.random() < 0.1
        transfers.append(_transfer(targets[0], (source, chance.randint(1, 900))) if back else _transfer(source, *legs))
    await _handle(ledger_engine, [_credit(source, 30_000), *transfers])

    units: dict[UUID, int] = defaultdict(int, {source: 30_000})
    expected = []
    for transfer in transfers:
        total = sum(leg.amount_units or 0 for leg in transfer.legs)
        done = units[transfer.source_id] >= total
        if done:
            units[transfer.source_id] -= total
            for leg in transfer.legs:
                units[leg.account_id] += leg.amount_units or 0
        expected.append((TransfersPosted.TYPE if done else TransfersRefused.TYPE, str(transfer.transfer_id)))
    refused = sum(kind == TransfersRefused.TYPE for kind, _ in expected)
    assert 500 < refused < 3500, "a batch in which nearly all have one outcome shows little"
    assert await _outcomes(ledger_engine) == expected
    assert await _balances(ledger_engine) == {account: left for account, left in units.items() if account in units}


async def test_two_replicas_that_post_crosswise_lose_no_unit_and_no_transfer(
    ledger_url: str, ledger_engine: AsyncEngine
) -> None:
    chance, people = random.Random(11), [uuid4() for _ in range(12)]
    await _handle(ledger_engine, [_credit(person, 1000) for person in people])
    conflicts = total(metrics.CONFLICTS)

    async def replica(seed: int) -> int:
        mine = random.Random(seed)
        engine = postgres.engine(ledger_url, 3)
        for _ in range(20):
            batch = []
            for _ in range(50):
                source, *targets = mine.sample(people, mine.randint(2, 4))
                batch.append(_transfer(source, *((target, mine.randint(1, 300)) for target in targets)))
            # Accounts of which nobody spoke before: two replicas that make the same row at the same moment.
            newcomer = UUID(int=mine.randint(1, 60))
            await _handle(engine, [*batch, _credit(newcomer, 1)])
        await engine.dispose()
        return 20 * 50

    posted = await asyncio.gather(*(replica(chance.randint(0, 10**6)) for _ in range(3)))
    assert len(await _outcomes(ledger_engine)) == sum(posted)
    assert await count(ledger_engine, "parked") == 0
    balances = await _balances(ledger_engine)
    assert sum(balances.values()) == 1000 * len(people) + 60
    assert min(balances.values()) >= 0
    _check_books(ledger_url)
    print(f"conflicts retried: {total(metrics.CONFLICTS) - conflicts:.0f}")


async def test_rows_are_locked_in_the_order_of_their_keys_whatever_a_batch_names_first(
    ledger_engine: AsyncEngine,
) -> None:
    """So no two batches wait for each other. A batch that waits for one row has those before it, and none after it."""
    people = sorted(uuid4() for _ in range(13))
    await _handle(ledger_engine, [_credit(person, 1000) for person in people])
    async with _holding(ledger_engine, accounts, people[6]) as holder:
        batch = [_transfer(source, (target, 1)) for source, target in pairwise(people[::-1])]
        waiting = asyncio.create_task(_handle(ledger_engine, batch))
        await eventually(lambda: _waiting(ledger_engine, 1), "the batch waits for the row")
        query = sa.select(accounts.c.id).order_by(accounts.c.id).with_for_update(skip_locked=True)
        async with ledger_engine.connect() as connection:
            free = (await connection.execute(query)).scalars().all()
        await holder.rollback()
        await waiting
    assert free == people[7:]


async def test_new_rows_are_inserted_in_the_order_of_their_keys(ledger_engine: AsyncEngine) -> None:
    """A batch that waits for somebody else's new row has inserted those before it, and none after it."""
    people = sorted(uuid4() for _ in range(13))
    new = dict.fromkeys(("balance_units", "held_units", "version"), 0) | {"id": people[6]}
    async with ledger_engine.connect() as holder:
        await holder.execute(sa.insert(accounts).values(new))
        waiting = asyncio.create_task(_handle(ledger_engine, [_credit(person, 1) for person in people]))
        await eventually(lambda: _waiting(ledger_engine, 1), "the batch waits for the row")
        async with asyncio.timeout(10):
            await _handle(ledger_engine, [_credit(person, 1) for person in people[7:]])
        await holder.rollback()
        await waiting
    balances = await _balances(ledger_engine)
    assert [balances[person] for person in people] == [1] * 7 + [2] * 6


async def test_batches_that_name_the_same_accounts_and_holds_do_not_wait_for_each_other(
    ledger_engine: AsyncEngine,
) -> None:
    """The first names more holds, the second more accounts, and both wait when the row that they wait for is free."""
    account, hold, others = uuid4(), uuid4(), [uuid4() for _ in range(3)]
    await _handle(
        ledger_engine, [_credit(account, 100), ReserveUnits(hold_id=hold, account_id=account, amount_units=10)]
    )
    capture, conflicts = CaptureHold(hold_id=hold, account_id=account), total(metrics.CONFLICTS)
    async with _holding(ledger_engine, holds, hold) as holder:
        more_holds = [capture, *(CaptureHold(hold_id=uuid4(), account_id=account) for _ in range(2))]
        first = asyncio.create_task(_handle(ledger_engine, more_holds))
        await eventually(lambda: _waiting(ledger_engine, 1), "the first batch waits")
        more_accounts: list[LedgerCommand] = [capture, _transfer(account, *((other, 1) for other in others))]
        second = asyncio.create_task(_handle(ledger_engine, more_accounts))
        await eventually(lambda: _waiting(ledger_engine, 2), "and the second")
        await holder.rollback()
        await asyncio.gather(first, second)
    assert total(metrics.CONFLICTS) == conflicts, "PostgreSQL ended one of them, since each waited for the other"
    assert (await _balances(ledger_engine))[account] == 100 - 10 - len(others)


@asynccontextmanager
async def _holding(engine: AsyncEngine, table: sa.Table, id_: UUID) -> AsyncIterator[AsyncConnection]:
    """Hold a row's lock, until the connection is rolled back."""
    async with engine.connect() as connection:
        await connection.execute(sa.select(table.c.id).where(table.c.id == id_).with_for_update())
        yield connection


async def _waiting(engine: AsyncEngine, count: int) -> bool:
    """Return whether so many transactions wait for a lock on this database."""
    wait = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with engine.connect() as connection:
        found = (await connection.execute(wait)).scalar_one()
    return bool(found == count)


async def test_replicas_that_reserve_and_capture_at_once_never_hold_more_than_there_is(
    ledger_url: str, ledger_engine: AsyncEngine
) -> None:
    account = uuid4()
    await _handle(ledger_engine, [_credit(account, 1000)])

    async def replica(turns: int) -> None:
        engine = postgres.engine(ledger_url, 3)
        for _ in range(turns):
            holds = [uuid4() for _ in range(10)]
            reserve = [ReserveUnits(hold_id=hold, account_id=account, amount_units=7) for hold in holds]
            capture = [CaptureHold(hold_id=hold, account_id=account) for hold in holds]
            await _handle(engine, reserve)
            await _handle(engine, [*capture, *capture])
        await engine.dispose()

    await asyncio.gather(*(replica(12) for _ in range(3)))
    snapshot = _check_books(ledger_url)
    captured = [hold for hold in snapshot.holds if hold.state == "captured"]
    assert len(captured) == 1000 // 7
    assert (await _balances(ledger_engine))[account] == 1000 % 7


async def test_replicas_that_spend_and_transfer_at_once_never_use_a_unit_twice(
    ledger_url: str, ledger_engine: AsyncEngine
) -> None:
    account, friend = uuid4(), uuid4()
    await _handle(ledger_engine, [_credit(account, 1000)])

    def spending() -> SpendUnits:
        return SpendUnits(spend_id=uuid4(), account_id=account, amount_units=7, purpose="fax", reference="fax-1")

    async def replica(make: Callable[[], LedgerCommand]) -> None:
        engine = postgres.engine(ledger_url, 3)
        for _ in range(12):
            commands = [make() for _ in range(10)]
            await _handle(engine, [*commands, *commands])  # each twice: other message ids, the same units
        await engine.dispose()

    await asyncio.gather(replica(spending), replica(lambda: _transfer(account, (friend, 7))))
    snapshot = _check_books(ledger_url)
    done = Counter(transfer.kind for transfer in snapshot.transfers if transfer.code is None)
    assert done[TransferKind.SPEND] + done[TransferKind.TRANSFER] == 1000 // 7
    assert min(done[TransferKind.SPEND], done[TransferKind.TRANSFER]) > 0, (
        "one that comes first all the time shows little"
    )
    assert await _balances(ledger_engine) == {account: 1000 % 7, friend: 7 * done[TransferKind.TRANSFER]}
    assert await _told(ledger_engine, account) == {row.id: row.revision for row in snapshot.accounts}[account]


async def _told(engine: AsyncEngine, account: UUID) -> int:
    """Return the highest version of a balance that was told."""
    query = sa.select(OUTBOX.c.value).where(OUTBOX.c.type == BalanceChanged.TYPE, OUTBOX.c.key == str(account))
    async with engine.connect() as connection:
        values = (await connection.execute(query.order_by(OUTBOX.c.seq))).scalars().all()
    versions = [BalanceChanged.from_json(value).version for value in values]
    assert versions == sorted(set(versions)), "in the order of the changes"
    return versions[-1]
