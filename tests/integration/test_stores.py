"""One contract, two databases: what the shell may rely on holds in memory and in PostgreSQL alike.

Without it the simulation would show that a dictionary is correct.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Protocol
from uuid import UUID

import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.stack import Stack
from deploy.operator.invariants import Snapshot
from deploy.operator.snapshots import memory_snapshot, snapshots
from popfax_contracts.ledger import CaptureHold, CreditUnits, ReleaseHold, ReserveUnits
from popfax_contracts.message import Command
from popfax_contracts.topics import LEDGER_COMMANDS, SERVICES, Principal
from services.chassis import postgres
from services.chassis.alarms import Alarm
from services.chassis.database import Conflict, Database, Parked, Why
from services.chassis.loading import NeededRows
from services.chassis.memory import MemoryDatabase, MemoryTransaction
from services.chassis.messages import TIMERS, Incoming, Outgoing, SetTimer, StoredRecord, timer_message_id, timer_record
from services.chassis.postgres import INBOX, OUTBOX, PARKED, PARKED_KEYS, TIMER, PostgresDatabase, PostgresTransaction
from services.chassis.rows import AppendOnly, Mapped, NotLoaded, RowSet
from services.chassis.sagas import CancelSaga, SagaDeadline, SagaRow, Status
from services.chassis.shell import FromKafka, Shell
from services.groups import domain as groups
from services.groups.consumers import GROUPS
from services.groups.sagas import CREATE_MEMBER_ACCOUNT
from services.groups.tables import INVITATIONS, SAGAS
from services.groups.timers import LOOKS
from services.ledger import domain as ledger
from services.ledger.consumers import LEDGER
from services.ledger.tables import ACCOUNTS, ENTRIES, HOLDS
from services.notifications import domain as notifications
from services.provisioning import domain as provisioning
from services.provisioning.tables import ADDRESSES, FAX_NUMBERS, PLANS
from services.provisioning.timers import EXPIRY
from tests.integration.recorder import scratch_database
from tests.simulation.bus import BusRecord
from tests.simulation.world import VirtualClock
from tests.unit.given import TABLES, id_of, incoming

NOW = datetime(2031, 1, 1, 12, 30, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)

A, B, C = sorted(id_of(name) for name in "abc")


class Store(Protocol):
    """A database, and what an operator can see and ask of it."""

    @property
    def database(self) -> Database: ...
    async def outbox(self) -> list[Outgoing]: ...
    async def parked(self) -> list[tuple[UUID, Why, str, int]]: ...
    async def every(self, mapped: Mapped[Any, Any]) -> list[Any]: ...


class InMemory:
    def __init__(self) -> None:
        self.database = MemoryDatabase()

    async def outbox(self) -> list[Outgoing]:
        return list(self.database.contents.outbox)

    async def parked(self) -> list[tuple[UUID, Why, str, int]]:
        rows = self.database.contents.parked.items()
        return [(id_, row.parked.why, row.parked.code, row.attempts) for id_, row in rows]

    async def every(self, mapped: Mapped[Any, Any]) -> list[Any]:
        contents, name = self.database.contents, mapped.table.name
        if isinstance(mapped, AppendOnly):
            return list(contents.appended.get(name, ()))
        return list(contents.tables.get(name, {}).values())


class InPostgres:
    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.database = PostgresDatabase(engine)

    async def outbox(self) -> list[Outgoing]:
        columns = [column for column in OUTBOX.c if column.name not in ("seq", "made_at")]
        return [Outgoing(*row) for row in await self._read(sa.select(*columns).order_by(OUTBOX.c.seq))]

    async def parked(self) -> list[tuple[UUID, Why, str, int]]:
        columns = (PARKED.c.id, PARKED.c.why, PARKED.c.code, PARKED.c.attempts)
        rows = await self._read(sa.select(*columns).order_by(PARKED.c.seq))
        return [(id_, Why(why), code, attempts) for id_, why, code, attempts in rows]

    async def every(self, mapped: Mapped[Any, Any]) -> list[Any]:
        found = await self._read(sa.select(*mapped.columns).order_by(*mapped.table.primary_key.columns))
        return [mapped.from_values(values) for values in found]

    async def clear(self, tables: Sequence[sa.Table]) -> None:
        """Empty it, for the next test."""
        async with self.engine.begin() as connection:
            await connection.execute(sa.text("TRUNCATE " + ", ".join(table.name for table in tables)))

    async def _read(self, query: sa.Select[Any]) -> Sequence[Any]:
        async with self.engine.connect() as connection:
            found: Sequence[Any] = (await connection.execute(query)).all()
            return found


CHASSIS_TABLES = (INBOX, OUTBOX, TIMER, PARKED, PARKED_KEYS)
OWNERS: dict[str, Principal] = {
    mapped.row.__module__: principal
    for principal in SERVICES
    for mapped in TABLES.values()
    if mapped.row.__module__.startswith(f"services.{principal}.")
} | {SagaRow.__module__: Principal.GROUPS}


@pytest.fixture(scope="module")
def urls(stack: Stack) -> Iterator[dict[Principal, str]]:
    """Fresh databases with each service's tables."""
    with ExitStack() as databases:
        yield {service: databases.enter_context(scratch_database(stack, service)) for service in SERVICES}


Stores = Callable[[Principal], Store]


@pytest_asyncio.fixture(params=["memory", "postgres"])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    """Yield a service's empty database."""
    if request.param == "memory":
        kept = {service: InMemory() for service in SERVICES}
        yield kept.__getitem__
        return
    async with AsyncExitStack() as engines:
        found: dict[Principal, Store] = {}
        for service, url in request.getfixturevalue("urls").items():
            engine = postgres.engine(url)
            engines.push_async_callback(engine.dispose)
            own = [m.table for m in TABLES.values() if OWNERS[m.row.__module__] is service]
            emptied = InPostgres(engine)
            await emptied.clear([*CHASSIS_TABLES, *own])
            found[service] = emptied
        yield found.__getitem__


@pytest.fixture
def store(stores: Stores) -> Store:
    """The ledger's database: its chassis tables are like everybody's."""
    return stores(Principal.LEDGER)


# --- rows ---

SAGA = SagaRow(
    A,
    "create-member-account",
    Status.COMPENSATING,
    "reserve units",
    "timed_out",
    {"price_units": 20, "email": "é@example.org", "deep": {"list": [1, None, "x"]}},
    "corr",
    B,
    C,
    NOW,
    LATER,
    None,
    ("first", "second: ü"),
)

ROWS: dict[str, tuple[Any, Any]] = {
    # a row, and what it may become
    "account": (
        ledger.Account(A, 100, 20, 3),
        ledger.Account(A, 2**40, 0, 4, ledger.AccountState.EXPIRED, 2**40),
    ),
    "hold": (
        ledger.Hold(A, B, 5, ledger.HoldState.OPEN, NOW, None),
        ledger.Hold(A, B, 5, ledger.HoldState.CAPTURED, NOW, LATER),
    ),
    "refused hold": (
        ledger.Hold(C, B, 5, ledger.HoldState.REFUSED, NOW, None, True, "account_closed"),
        ledger.Hold(C, B, 5, ledger.HoldState.REFUSED, NOW, LATER, True, "account_closed"),
    ),
    "transfer": (
        ledger.Transfer(A, ledger.TransferKind.TRANSFER, B, b"\x00\xff", None, (1, 2, 3), NOW),
        ledger.Transfer(A, ledger.TransferKind.TRANSFER, B, b"", "units_short", (), NOW, "fax-1"),
    ),
    "correction": (
        ledger.Correction(A, B, -5, "charged twice", "Olga", None, NOW),
        ledger.Correction(A, B, 5, "ü", "Olga", "units_short", LATER),
    ),
    "group": (groups.Group(A, B, "Ada L.", False, None), groups.Group(A, B, "L'équipe", True, NOW)),
    "what is low": (
        groups.LowBalance(A, B, 2**40, NOW, None, 0, ()),
        groups.LowBalance(A, B, None, None, NOW.date(), 3, (B.hex, C.hex)),
    ),
    "subscriber of groups": (
        groups.Subscriber(A, "a@example.org", "Ada", "L.", "fr", groups.AccountState.ACTIVE, NOW, 2**40, 7),
        groups.Subscriber(A, None, None, None, None, groups.AccountState.CLOSED, None, 0, 8),
    ),
    "plan of groups": (groups.Plan("send_only", 10, 12), groups.Plan("send_only", 20, 30)),
    "option of groups": (groups.Option("options_pack", 30), groups.Option("options_pack", 31, False)),
    "membership": (
        groups.Membership(A, B, C, A, True, 1, None, NOW, None),
        groups.Membership(A, B, C, A, False, 1, B, NOW, LATER),
    ),
    "invitation": (
        groups.Invitation(A, B, C, A, groups.InvitationState.PENDING, 1, b"\x00\xff", NOW, LATER, None),
        groups.Invitation(A, B, C, A, groups.InvitationState.BOUNCED, 2, b"", NOW, NOW, LATER),
    ),
    "tally": (groups.Tally(A, 1, NOW.date(), 2), groups.Tally(A, 0, NOW.date() + timedelta(days=1), 0)),
    "transfer of groups": (
        groups.Transfer(A, B, C, "top_up_to", 5, groups.TransferState.PENDING, None, None, NOW, None),
        groups.Transfer(A, B, C, "top_up_to", 5, groups.TransferState.REFUSED, "units_short", 0, NOW, LATER),
    ),
    "transfer of a standing order": (
        groups.Transfer(
            *(B, B, C, "amount", 5, groups.TransferState.PENDING, None, None, NOW, None, 1),
            *(A, 2, NOW.date(), 50),
        ),
        groups.Transfer(
            *(B, B, C, "amount", 5, groups.TransferState.DONE, None, 5, NOW, LATER, 2),
            *(A, 2, NOW.date(), 50),
        ),
    ),
    "standing order": (
        groups.StandingOrder(
            *(A, B, C, A, groups.OrderState.ACTIVE, 1, groups.OrderKind.KEEP_AT, 5, 10, 50, None, NOW, None, None),
            *(NOW.date(), 0, NOW.date(), None, LATER, 1, 3),
        ),
        groups.StandingOrder(
            *(A, B, C, A, groups.OrderState.PAUSED, 2, groups.OrderKind.MONTHLY, None, None, None, 9, LATER, None, "x"),
            *(NOW.date() + timedelta(days=1), 5, NOW.date(), B, None, 2, 4),
        ),
    ),
    "posted command": (
        groups.PostedCommand(A, "x.v1", B, b"\x00\xff", groups.CommandState.PENDING, None, None, NOW, None),
        groups.PostedCommand(A, "x.v1", B, b"\x00\xff", groups.CommandState.DONE, "x", {"id": [1]}, NOW, LATER),
    ),
    "line of the history": (
        groups.HistoryEntry(A, B, groups.Kind.TRANSFER, NOW, C, A, B, None, "pending", None, None),
        groups.HistoryEntry(A, B, groups.Kind.TRANSFER, NOW, C, A, B, 5, "done", "x", LATER),
    ),
    "saga": (SAGA, replace(SAGA, status=Status.REFUSED, data={}, trail=(), ended_at=NOW, code=None)),
    "subscriber": (
        provisioning.Subscriber(A, "a@example.org", "Ada", "L.", "fr", None, None, NOW, None),
        provisioning.Subscriber(A, "a@example.org", "Ada", "M.", "en", "send_receive", "+331", NOW, LATER),
    ),
    "subscriber with everything": (
        provisioning.Subscriber(
            A,
            "a@example.org",
            "Ada",
            "L.",
            "fr",
            "send_only",
            None,
            NOW,
            LATER,
            options_pack=True,
            forward_to="+33199000001",
            reminded_days=30,
            registration=b"\x00\xff",
        ),
        provisioning.Subscriber(A, "a@example.org", "Ada", "L.", "fr", None, None, NOW, LATER).closed(LATER),
    ),
    "address": (provisioning.Address("a@example.org", A), provisioning.Address("a@example.org", B)),
    "request": (
        provisioning.Request(A, B, None, b"\x01\x02", NOW),
        provisioning.Request(A, B, "cancelled", b"", LATER, LATER),
    ),
    "grant": (
        provisioning.Grant(A, B, provisioning.Action.EXTENSION, C, 10, b"\x01", None, NOW, LATER),
        provisioning.Grant(A, B, provisioning.Action.OPTIONS_PACK, None, None, b"", "cancelled", LATER),
    ),
    "purchase": (
        provisioning.Purchase(A, B, provisioning.Action.EXTENSION, 10, b"\x01"),
        provisioning.Purchase(A, B, provisioning.Action.EXTENSION, 10, b"\x01", "units_short", LATER, NOW),
    ),
    "payment": (provisioning.Payment("card/1", A), provisioning.Payment("card/1", B)),
    "option": (provisioning.Option("options_pack", 30), provisioning.Option("options_pack", 31)),
    "plan": (provisioning.Plan("send_only", 10, 12, False), provisioning.Plan("send_only", 20, 30, True)),
    "fax number": (
        provisioning.FaxNumber("+331", provisioning.NumberState.FREE, None),
        provisioning.FaxNumber("+331", provisioning.NumberState.ASSIGNED, A),
    ),
    "person": (
        notifications.Person(A, "a@example.org", "Ada", "L.", "fr", None),
        notifications.Person(A, "a@example.org", "Ada", "L.", "en", "+331"),
    ),
    "mail": (
        notifications.Mail(
            A, notifications.Template.WELCOME, B, C, {"a": [1]}, notifications.MailState.QUEUED, NOW, NOW, C, 2
        ),
        notifications.Mail(A, notifications.Template.WELCOME, B, C, {}, notifications.MailState.SENT, NOW, LATER, C, 2),
    ),
    "mail about nothing": (
        notifications.Mail(C, notifications.Template.WELCOME, B, None, {}, notifications.MailState.QUEUED, NOW, NOW),
        notifications.Mail(C, notifications.Template.WELCOME, B, None, {}, notifications.MailState.SENT, NOW, LATER),
    ),
    "delivery": (
        notifications.Delivery(A, b"\x00\xff", "a@example.org", 2, NOW, 1, "450 later", None),
        notifications.Delivery(A, None, None, 2, NOW, 1, "450 later", None),
    ),
    "erased person": (notifications.Erased(A), notifications.Erased(A)),
}
ENTRY = ledger.Entry(A, B, 5, 10, 15, 1, NOW)
OWN_ENTRY = ledger.Entry(A, ledger.SALES, -5, None, None, None, NOW)


def test_every_kind_of_row_has_an_example() -> None:
    assert {type(row) for row, _ in ROWS.values()} | {type(ENTRY)} == TABLES.keys()


async def write(store: Store, *rows: Any) -> None:
    async with store.database.begin() as tx:
        for row in rows:
            mapped = TABLES[type(row)]
            found = await tx.fetch(mapped, [mapped.key_of(row)])
            found.put(row)
            await tx.save([found])


async def read(store: Store, mapped: Mapped[Any, Any], key: Any) -> Any:
    async with store.database.begin() as tx:
        return (await tx.fetch(mapped, [key], for_update=False)).find(key)


@pytest.mark.parametrize("name", ROWS)
async def test_a_row_comes_back_as_it_was_written_and_as_it_was_changed(stores: Stores, name: str) -> None:
    before, after = ROWS[name]
    mapped = TABLES[type(before)]
    store, key = stores(OWNERS[type(before).__module__]), mapped.key_of(before)
    for row in (before, after) if after != before else (before,):  # what is but a key never changes
        await write(store, row)
        found = await read(store, mapped, key)
        assert found == row
        kinds = [type(getattr(row, name)) for name in mapped.names]
        assert [type(getattr(found, name)) for name in mapped.names] == kinds
    async with store.database.begin() as tx:
        rows = await tx.fetch(mapped, [key])
        rows.remove(key)
        await tx.save([rows])
    assert await read(store, mapped, key) is None
    assert await store.every(mapped) == []


@pytest.mark.parametrize(("before", "after"), [(SAGA, replace(SAGA, actor=None))])
async def test_a_column_that_was_declared_constant_is_not_changed(stores: Stores, before: Any, after: Any) -> None:
    mapped = TABLES[type(before)]
    store = stores(OWNERS[type(before).__module__])
    await write(store, before)
    with suppress(TypeError):  # the memory form says so, PostgreSQL's update leaves it out
        await write(store, after)
    assert await read(store, mapped, mapped.key_of(before)) == before


async def test_appended_rows_come_back_in_their_order(store: Store) -> None:
    async with store.database.begin() as tx:
        entries = tx.append(ENTRIES)
        entries.add(ENTRY)
        entries.add(OWN_ENTRY)
        await tx.save([entries])
    assert await store.every(ENTRIES) == [ENTRY, OWN_ENTRY]


async def test_fetch_gives_what_is_there_and_what_is_not_and_refuses_what_was_not_asked_for(store: Store) -> None:
    row = ledger.Account(A, 1, 0, 1)
    await write(store, row)
    async with store.database.begin() as tx:
        rows = await tx.fetch(ACCOUNTS, {A, B})
        assert (rows.find(A), rows.find(B), rows.loaded()) == (row, None, [row])
        with pytest.raises(NotLoaded):
            rows.find(C)
        assert (await tx.fetch(ACCOUNTS, ())).loaded() == []


OF_SUBSCRIBER = RowSet(INVITATIONS, "subscriber_id", state=[groups.InvitationState.PENDING])


async def test_a_set_is_whole_follows_the_batch_and_can_be_read_only_if_it_was_asked_for(stores: Stores) -> None:
    store, (pending, ended) = stores(Principal.GROUPS), ROWS["invitation"]
    other, late = replace(pending, id=B, group_id=A), replace(pending, id=C, group_id=C)
    await write(store, pending, other)
    async with store.database.begin() as tx:
        wanted = NeededRows(INVITATIONS, [C])
        wanted.add_all(OF_SUBSCRIBER, A)
        wanted.add_all(OF_SUBSCRIBER, B)
        rows = await wanted.fetch(tx)
        assert rows.all(OF_SUBSCRIBER, A) == [pending, other]
        assert rows.all(OF_SUBSCRIBER, B) == []
        rows.put(late)
        rows.put(ended)
        assert rows.all(OF_SUBSCRIBER, A) == [other, late]
        rows.remove(B)
        assert rows.all(OF_SUBSCRIBER, A) == [late]
        for unasked in ((OF_SUBSCRIBER, C), (RowSet(INVITATIONS, "subscriber_id"), A), (RowSet(INVITATIONS), None)):
            with pytest.raises(NotLoaded):
                rows.all(*unasked)


async def test_a_row_leads_to_others_once_it_is_there(store: Store) -> None:
    await write(store, ledger.Account(A, 1, 0, 1))
    found: list[Any] = []
    async with store.database.begin() as tx:
        wanted = NeededRows(ACCOUNTS)
        wanted.then(A, found.append)
        wanted.then(B, found.append)
        assert (await wanted.fetch(tx)).loaded() == found == [ledger.Account(A, 1, 0, 1)]


async def test_a_batch_is_inserted_updated_and_removed_at_once(store: Store) -> None:
    old = [ledger.Account(A, 1, 0, 1), ledger.Account(B, 2, 0, 1)]
    await write(store, *old)
    async with store.database.begin() as tx:
        rows = await tx.fetch(ACCOUNTS, [A, B, C])
        rows.put(ledger.Account(A, 10, 0, 2))
        rows.put(ledger.Account(A, 11, 0, 3))
        rows.remove(B)
        rows.put(ledger.Account(C, 3, 0, 1))
        await tx.save([rows])
    found = sorted(await store.every(ACCOUNTS), key=lambda account: account.id)
    assert found == [ledger.Account(A, 11, 0, 3), ledger.Account(C, 3, 0, 1)]


async def test_what_leaves_a_unique_index_makes_room_for_what_enters_it_in_the_same_batch(stores: Stores) -> None:
    """An invitation is taken back and another one made: one of them is pending at any time."""
    store = stores(Principal.GROUPS)
    pending = groups.Invitation(B, A, A, C, groups.InvitationState.PENDING, 1, b"", NOW, LATER, None)
    revoked = replace(pending, state=groups.InvitationState.REVOKED, ended_at=NOW)
    again = replace(pending, id=A)
    await write(store, pending)
    async with store.database.begin() as tx:
        rows = await tx.fetch(INVITATIONS, [A, B])
        rows.put(again)
        rows.put(revoked)
        await tx.save([rows])
    assert sorted(await store.every(INVITATIONS), key=lambda row: row.id) == [again, revoked]


HOLDS_OF = {
    # account, open?
    id_of("hold 1"): (A, True),
    id_of("hold 2"): (A, False),
    id_of("hold 3"): (B, True),
    id_of("hold 4"): (C, True),
}
OPEN, CAPTURED = ledger.HoldState.OPEN.value, ledger.HoldState.CAPTURED.value

KEYS: list[tuple[str, dict[str, Collection[Any]], list[str]]] = [
    ("one value of a column", {"account_id": [A]}, ["hold 1", "hold 2"]),
    ("any of several values", {"account_id": [A, B]}, ["hold 1", "hold 2", "hold 3"]),
    ("a set of values, some unknown", {"account_id": {B, id_of("unknown")}}, ["hold 3"]),
    ("both columns", {"account_id": [A, B], "state": [OPEN]}, ["hold 1", "hold 3"]),
    ("a column that is text", {"state": [CAPTURED]}, ["hold 2"]),
    ("both columns, none with both", {"account_id": [C], "state": [CAPTURED]}, []),
    ("no value", {"account_id": []}, []),
    ("no value in one of two columns", {"account_id": [A], "state": []}, []),
    ("no column: all that there are", {}, ["hold 1", "hold 2", "hold 3", "hold 4"]),
]


@pytest.mark.parametrize(("among", "names"), [case[1:] for case in KEYS], ids=[case[0] for case in KEYS])
async def test_gives_the_keys_of_the_rows_with(
    store: Store, among: dict[str, Collection[Any]], names: list[str]
) -> None:
    for id_, (account, is_open) in HOLDS_OF.items():
        state = ledger.HoldState.OPEN if is_open else ledger.HoldState.CAPTURED
        await write(store, ledger.Hold(id_, account, 5, state, NOW, None))
    async with store.database.begin() as tx:
        assert await tx.keys(HOLDS, among) == {id_of(name) for name in names}


async def test_keys_may_be_text_and_are_told_by_a_column_that_is_true_or_false(stores: Stores) -> None:
    store = stores(Principal.PROVISIONING)
    await write(store, *(provisioning.Plan(f"plan_{n}", n, 12, n > 1) for n in (1, 2, 3)))
    async with store.database.begin() as tx:
        assert await tx.keys(PLANS, {"fax_number": [True]}) == {"plan_2", "plan_3"}
        assert await tx.keys(PLANS, {"fax_number": [True, False], "price_units": [1, 3]}) == {"plan_1", "plan_3"}
        assert await tx.keys(PLANS, {}) == {"plan_1", "plan_2", "plan_3"}


async def test_keys_see_what_is_committed_and_not_what_the_batch_is_about_to_save(store: Store) -> None:
    await write(store, ledger.Hold(A, A, 5, ledger.HoldState.OPEN, NOW, None))
    async with store.database.begin() as tx:
        rows = await tx.fetch(HOLDS, [A, B])
        rows.put(ledger.Hold(B, A, 5, ledger.HoldState.OPEN, NOW, None))
        rows.remove(A)
        assert await tx.keys(HOLDS, {"account_id": [A]}) == {A}
        await tx.save([rows])
    async with store.database.begin() as tx:
        assert await tx.keys(HOLDS, {"account_id": [A]}) == {B}


@pytest.mark.parametrize(("limit", "numbers"), [(0, []), (2, ["+331", "+333"]), (9, ["+331", "+333", "+334"])])
async def test_takes_the_first_that_match(stores: Stores, limit: int, numbers: list[str]) -> None:
    store = stores(Principal.PROVISIONING)
    free, assigned = provisioning.NumberState.FREE, provisioning.NumberState.ASSIGNED
    await write(store, *(provisioning.FaxNumber(n, free, None) for n in ("+334", "+331", "+333")))
    await write(store, provisioning.FaxNumber("+332", assigned, A))
    async with store.database.begin() as tx:
        found = await tx.take(FAX_NUMBERS, {"state": free.value}, limit)
    assert [row.number for row in found.loaded()] == numbers


async def test_a_key_that_somebody_else_made_meanwhile_is_a_conflict(stores: Stores) -> None:
    store = stores(Principal.PROVISIONING)

    async def lose_the_race() -> None:
        async with store.database.begin() as tx:
            rows = await tx.fetch(ADDRESSES, ["a@example.org"])
            rows.put(provisioning.Address("a@example.org", A))
            await write(store, provisioning.Address("a@example.org", B))
            if isinstance(tx, MemoryTransaction):  # it never has two transactions at a time: show it the other's end
                tx.contents = store.database.contents.copy()  # type: ignore[attr-defined]
            await tx.save([rows])

    with pytest.raises(Conflict):
        await lose_the_race()
    assert await read(store, ADDRESSES, "a@example.org") == provisioning.Address("a@example.org", B)


# --- inbox, outbox ---


async def test_the_inbox_gives_each_id_once(store: Store) -> None:
    async with store.database.begin() as tx:
        assert set(await tx.claim_inbox([A, B, A], NOW)) == {A, B}
        assert set(await tx.claim_inbox([A], NOW)) == set()
    async with store.database.begin() as tx:
        assert set(await tx.claim_inbox([C, A], LATER)) == {C}
        assert set(await tx.claim_inbox([], LATER)) == set()


async def test_an_id_that_is_only_looked_up_is_known_if_it_was_recorded_or_parked_and_is_not_recorded(
    store: Store,
) -> None:
    await park(store, parked(1, Why.BEHIND))
    for fresh in ({A, B}, {B}):
        async with store.database.begin() as tx:
            assert set(await tx.claim_inbox([A], NOW, [B, UUID(int=1)])) == fresh
    async with store.database.begin() as tx:
        assert set(await tx.claim_parked([UUID(int=1)])) == {UUID(int=1)}
        assert set(await tx.claim_inbox([], NOW, [UUID(int=1), A])) == set(), "it stays known when it is not parked"


async def test_a_transaction_has_its_number_before_it_writes(stores: Stores) -> None:
    """The relay relies on it: numbers of the outbox are taken only by transactions that it can see."""
    database = stores(Principal.LEDGER).database
    if isinstance(database, MemoryDatabase):
        return
    async with database.begin() as tx:
        assert isinstance(tx, PostgresTransaction)
        await tx.claim_inbox([], NOW, [A])
        number = await tx.connection.scalar(sa.text("SELECT pg_current_xact_id_if_assigned()::text"))
        assert number is not None


async def test_a_message_can_be_parked_by_two_replicas(store: Store) -> None:
    await park(store, parked(1, Why.FAILED))
    await park(store, parked(1, Why.FAILED))
    assert [id_ for id_, *_ in await store.parked()] == [UUID(int=1)]


def out(n: int, **changes: Any) -> Outgoing:
    message = Outgoing(UUID(int=n), "x.v1", f"key {n % 3}", b"\x00{}", "corr", "cause", None, None)
    return replace(message, **changes)


async def test_the_outbox_keeps_messages_whole_and_in_order(store: Store) -> None:
    first = [out(n) for n in range(9, 4, -1)]
    second = [out(1, actor=A, traceparent="00-aa"), out(2)]
    for messages in (first, [], second):
        async with store.database.begin() as tx:
            await tx.send(messages, NOW)
    assert await store.outbox() == first + second


# --- timers ---


def timer(id_: UUID, at: datetime = NOW) -> SetTimer:
    return SetTimer(id_, at, SagaDeadline(saga_id=id_))


def cause(actor: UUID | None = None, traceparent: str | None = None) -> Incoming[Any]:
    return replace(incoming(SagaDeadline(saga_id=A), actor), traceparent=traceparent)


async def set_timers(store: Store, *timers: SetTimer, by: Incoming[Any] | None = None) -> None:
    async with store.database.begin() as tx:
        await tx.set_timers([(each, by or cause()) for each in timers])


async def due(store: Store, now: datetime, limit: int = 9) -> list[tuple[UUID, datetime | None]]:
    return [(record.row_id, record.due_at) for record in await store.database.due_timers(now, limit)]


async def test_timers_are_due_at_their_moment_oldest_first(store: Store) -> None:
    await set_timers(store, timer(A, LATER), timer(C), timer(B))
    assert await due(store, NOW - timedelta(microseconds=1)) == []
    assert await due(store, NOW) == [(B, NOW), (C, NOW)]
    assert await due(store, LATER) == [(B, NOW), (C, NOW), (A, LATER)]
    assert await due(store, LATER, limit=1) == [(B, NOW)]


async def test_a_timer_is_moved_by_setting_it_again_and_the_last_word_counts(store: Store) -> None:
    await set_timers(store, timer(A))
    await set_timers(store, timer(A, LATER + timedelta(1)), timer(A, LATER))
    assert await due(store, LATER) == [(A, LATER)]


async def test_a_timer_becomes_a_record_with_its_causes_envelope(stores: Stores) -> None:
    store = stores(Principal.GROUPS)
    await set_timers(store, timer(A), by=cause(actor=C, traceparent="00-aa-bb-01"))
    body = CancelSaga(saga_id=B)
    await set_timers(store, SetTimer(B, LATER, body))
    first, second = await store.database.due_timers(LATER, 9)
    id_ = timer_message_id(A, NOW)
    assert first == StoredRecord(
        A,
        NOW,
        "timers",
        0,
        0,
        str(A).encode(),
        SagaDeadline(saga_id=A).to_json(),
        [
            ("ce_type", b"popfax.saga.deadline"),
            ("ce_id", str(id_).encode()),
            ("ce_correlationid", b"correlation"),
            ("ce_actor", str(C).encode()),
            ("traceparent", b"00-aa-bb-01"),
        ],
    )
    assert (second.value, [name for name, _ in second.headers]) == (
        body.to_json(),
        ["ce_type", "ce_id", "ce_correlationid"],
    )


async def test_a_timer_is_claimed_once_and_only_as_it_was_set(store: Store) -> None:
    await set_timers(store, timer(A), timer(B))
    async with store.database.begin() as tx:
        assert set(await tx.claim_timers([(A, LATER), (B, NOW), (C, NOW)])) == {B}
    async with store.database.begin() as tx:
        assert set(await tx.claim_timers([(B, NOW)])) == set()
    assert await due(store, LATER) == [(A, NOW)]


async def test_cleared_timers_are_gone_and_unknown_ones_no_error(store: Store) -> None:
    await set_timers(store, timer(A), timer(B))
    async with store.database.begin() as tx:
        await tx.clear_timers([A, C])
        await tx.clear_timers([])
    assert await due(store, LATER) == [(B, NOW)]


# --- alarms ---

DEADLINE = next(alarm for alarm in GROUPS.alarms if alarm.mapped is SAGAS)  # of account creations, the first
WAITING = replace(SAGA, status=Status.RUNNING, opened_at=NOW - CREATE_MEMBER_ACCOUNT.deadline)


async def rings(store: Store, alarm: Alarm[Any], now: datetime, limit: int = 9) -> list[UUID]:
    return [record.row_id for record in await store.database.due_alarms([alarm], now, limit)]


async def test_a_saga_is_due_at_its_deadline_until_it_has_passed_its_pivot(stores: Stores) -> None:
    store = stores(Principal.GROUPS)
    later = replace(WAITING, id=B, opened_at=WAITING.opened_at + timedelta(seconds=1), step="provision account")
    others = [
        replace(WAITING, id=UUID(int=10), status=Status.COMPENSATING),
        replace(WAITING, id=UUID(int=11), step="capture hold"),
        replace(WAITING, id=UUID(int=12), status=Status.COMPLETED, ended_at=NOW),
        replace(WAITING, id=UUID(int=13), name="another"),
    ]
    await write(store, WAITING, later, *others)
    assert await rings(store, DEADLINE, NOW - timedelta(microseconds=1)) == []
    assert await rings(store, DEADLINE, LATER) == [A, B]
    assert await rings(store, DEADLINE, LATER, limit=1) == [A]
    assert await store.database.next_alarm([DEADLINE]) == NOW
    (record,) = await store.database.due_alarms([DEADLINE], NOW, 9)
    envelope = WAITING.correlation_id, WAITING.actor, None
    body = SagaDeadline(saga_id=A)
    assert record == timer_record(A, NOW, body.TYPE, body.key(), body.to_json(), *envelope)


async def test_a_row_whose_key_is_blocked_waits_and_does_not_stop_the_others(stores: Stores) -> None:
    store = stores(Principal.GROUPS)
    await write(store, WAITING, replace(WAITING, id=B))
    await park(store, parked(1, Why.FAILED, str(A).encode(), TIMERS))
    assert await rings(store, DEADLINE, NOW, limit=1) == [B]
    async with store.database.begin() as tx:
        await tx.drop_parked([UUID(int=1)])
    assert set(await rings(store, DEADLINE, NOW)) == {A, B}


async def test_no_row_waits_while_there_is_none(stores: Stores) -> None:
    assert await stores(Principal.GROUPS).database.next_alarm([DEADLINE]) is None


async def test_a_group_is_looked_at_when_its_row_says(stores: Stores) -> None:
    store = stores(Principal.GROUPS)
    later = groups.LowBalance(B, C, 5, LATER, None, 0, ())
    await write(store, groups.LowBalance(A, C, 5, NOW, None, 0, ()), later, replace(later, group_id=C, look_at=None))
    assert await store.database.next_alarm([LOOKS]) == NOW
    assert await rings(store, LOOKS, NOW - timedelta(microseconds=1)) == []
    (first, second) = await store.database.due_alarms([LOOKS], LATER, 9)
    assert [(each.due_at, each.key) for each in (first, second)] == [(NOW, str(A).encode()), (LATER, str(B).encode())]


async def test_of_rows_that_read_many_others_few_are_due_at_once(stores: Stores) -> None:
    store = stores(Principal.GROUPS)
    await write(store, *(groups.LowBalance(UUID(int=n), C, 5, NOW, None, 0, ()) for n in range(LOOKS.at_once + 1)))
    due = await rings(store, LOOKS, NOW, 500)
    assert len(due) == LOOKS.at_once == 10


@pytest.mark.parametrize("reminded", [None, 31, 30, 8, 7, 2, 1, 0])
async def test_an_account_is_due_when_its_rules_say(stores: Stores, reminded: int | None) -> None:
    """The index's expression and `Subscriber.next_due` are the same, also across a change of clocks."""
    store = stores(Principal.PROVISIONING)
    account = replace(ROWS["subscriber"][1], expires_at=datetime(2031, 4, 2, 0, 30, tzinfo=UTC), reminded_days=reminded)
    ended = replace(account, id=B, state=provisioning.AccountState.EXPIRED)
    await write(store, account, ended, replace(account, id=C, expires_at=None))
    due_at = account.next_due()
    assert due_at is not None
    assert await store.database.next_alarm([EXPIRY]) == due_at
    assert await rings(store, EXPIRY, due_at - timedelta(microseconds=1)) == []
    (record,) = await store.database.due_alarms([EXPIRY], due_at, 9)
    assert (record.due_at, record.key) == (due_at, str(A).encode())


# --- parked messages ---

TOPIC = LEDGER_COMMANDS.name


def parked(n: int, why: Why, key: bytes | None = b"k", topic: str = TOPIC) -> Parked:
    headers: list[tuple[str, bytes | None]] = [("ce_id", b"\xff\x00"), ("empty", b""), ("none", None), ("ce_id", b"2")]
    record = StoredRecord(UUID(int=n), None, topic, 3, 70 + n, key, b"\x00\xff" if n % 2 else None, headers)
    return Parked(UUID(int=n), record, why, f"code {n}", "detail")


async def park(store: Store, *messages: Parked) -> None:
    async with store.database.begin() as tx:
        await tx.park(messages, NOW)


async def blocked(store: Store, *keys: bytes, topic: str = TOPIC) -> set[bytes]:
    async with store.database.begin() as tx:
        return {key for _, key in await tx.blocked({(topic, key) for key in keys})}


async def test_a_parked_message_comes_back_to_the_byte(store: Store) -> None:
    messages = [parked(1, Why.FAILED), parked(2, Why.BEHIND)]
    await park(store, *messages)
    await store.database.request_retry([UUID(int=1)])
    found = await store.database.requested_retries(9)
    assert [replace(record, headers=list(record.headers)) for record in found] == [p.record for p in messages]


async def test_what_failed_blocks_its_key_and_what_is_unreadable_does_not(store: Store) -> None:
    await park(store, parked(1, Why.FAILED, b"a"), parked(2, Why.UNDECODABLE, b"b"), parked(3, Why.FAILED, None))
    assert await blocked(store, b"a", b"b", b"c") == {b"a"}
    assert await blocked(store, b"a", topic="another") == set()
    await park(store, parked(4, Why.FAILED, b"a"))
    assert await blocked(store, b"a") == {b"a"}


async def test_a_key_is_unblocked_when_nothing_is_left_on_it(store: Store) -> None:
    await park(store, parked(1, Why.FAILED), parked(2, Why.BEHIND), parked(3, Why.UNDECODABLE))
    for id_, left in ((1, {b"k"}), (2, set())):
        async with store.database.begin() as tx:
            assert set(await tx.claim_parked([UUID(int=id_), UUID(int=99)])) == {UUID(int=id_)}
        assert await blocked(store, b"k") == left
    async with store.database.begin() as tx:
        assert set(await tx.claim_parked([UUID(int=1)])) == set()
    assert [why for _, why, _, _ in await store.parked()] == [Why.UNDECODABLE]


async def test_a_retry_takes_all_of_its_key_oldest_first_and_the_unreadable_only_if_asked_for(store: Store) -> None:
    await park(
        store,
        parked(5, Why.FAILED),
        parked(4, Why.BEHIND),
        parked(3, Why.UNDECODABLE),
        parked(2, Why.BEHIND),
        parked(1, Why.FAILED, b"other"),
        parked(6, Why.UNDECODABLE, None),
    )
    assert await to_retry(store) == []
    await store.database.request_retry([UUID(int=2)])
    assert await to_retry(store) == [5, 4, 2]
    assert await to_retry(store, limit=2) == [5, 4]
    await store.database.request_retry([UUID(int=3), UUID(int=6)])
    assert await to_retry(store) == [5, 4, 3, 2, 6]


async def to_retry(store: Store, limit: int = 99) -> list[int]:
    return [record.row_id.int for record in await store.database.requested_retries(limit)]


async def test_what_joins_a_line_that_is_retried_is_retried_too_and_a_drop_lets_the_line_go_on(store: Store) -> None:
    await park(store, parked(1, Why.FAILED), parked(2, Why.BEHIND))
    await store.database.request_retry([UUID(int=1)])
    await park(store, parked(3, Why.BEHIND))
    assert await to_retry(store) == [1, 2, 3]
    await store.database.retry_failed(UUID(int=1), "Bug", "where")
    assert await to_retry(store) == []
    async with store.database.begin() as tx:
        assert set(await tx.drop_parked([UUID(int=2)])) == {UUID(int=2)}
    assert await to_retry(store) == [], "what failed before it still has to be dealt with"
    async with store.database.begin() as tx:
        assert set(await tx.drop_parked([UUID(int=1)])) == {UUID(int=1)}
    assert await to_retry(store) == [3]
    async with store.database.begin() as tx:
        await tx.drop_parked([UUID(int=3)])
    assert await blocked(store, b"k") == set()


async def test_a_retry_that_failed_is_noted_and_its_key_waits_for_the_operator_again(store: Store) -> None:
    await park(store, parked(1, Why.FAILED), parked(2, Why.BEHIND), parked(3, Why.FAILED, b"other"))
    await store.database.request_retry([UUID(int=n) for n in (1, 2, 3)])
    await store.database.retry_failed(UUID(int=2), "Bug", "where")
    assert await store.parked() == [
        (UUID(int=1), Why.FAILED, "code 1", 1),
        (UUID(int=2), Why.FAILED, "Bug", 2),
        (UUID(int=3), Why.FAILED, "code 3", 1),
    ]
    assert await to_retry(store) == [3]


# --- all or nothing ---


class Mishap(Exception):
    pass


async def test_an_exception_leaves_nothing_behind(store: Store) -> None:
    await set_timers(store, timer(B))
    await park(store, parked(1, Why.FAILED, b"old"))

    async def everything() -> None:
        async with store.database.begin() as tx:
            await tx.claim_inbox([A], NOW)
            rows = await tx.fetch(ACCOUNTS, [A])
            rows.put(ledger.Account(A, 1, 0, 1))
            entries = tx.append(ENTRIES)
            entries.add(ENTRY)
            await tx.save([rows, entries])
            await tx.send([out(1)], NOW)
            await tx.set_timers([(timer(A), cause())])
            await tx.clear_timers([B])
            await tx.park([parked(2, Why.FAILED)], NOW)
            await tx.claim_parked([UUID(int=1)])
            raise Mishap

    with pytest.raises(Mishap):
        await everything()
    async with store.database.begin() as tx:
        assert set(await tx.claim_inbox([A], NOW)) == {A}
    assert (await store.every(ACCOUNTS), await store.every(ENTRIES), await store.outbox()) == ([], [], [])
    assert await due(store, LATER) == [(B, NOW)]
    assert [id_.int for id_, *_ in await store.parked()] == [1]
    assert await blocked(store, b"k", b"old") == {b"old"}


# --- all of it together ---


async def test_the_same_batches_leave_the_same_books_in_both(stores: Stores) -> None:
    """The ledger's own handlers and the real shell, on both: nothing that either keeps may differ."""
    batches: list[list[Command]] = [
        [CreditUnits(credit_id=id_of("a credit"), account_id=B, amount_units=100)],
        [
            ReserveUnits(hold_id=A, account_id=B, amount_units=60),
            ReserveUnits(hold_id=B, account_id=B, amount_units=60),
            ReleaseHold(hold_id=C, account_id=B),
        ],
        [CaptureHold(hold_id=A, account_id=B), CaptureHold(hold_id=C, account_id=B)],
    ]

    async def run(store: Store) -> dict[str, Any]:
        shell = Shell(LEDGER, store.database, VirtualClock(Random(1)))
        for number, batch in enumerate(batches):
            records = [
                BusRecord(
                    body.TOPICS[0].name,
                    0,
                    n,
                    body.key().encode(),
                    body.to_json(),
                    [("ce_id", str(id_of(f"{number}/{n}")).encode()), ("ce_type", body.TYPE.encode())],
                )
                for n, body in enumerate(batch)
            ]
            await shell.process(records, FromKafka())
            await shell.process(records, FromKafka())
        mapped = [m for m in TABLES.values() if OWNERS[m.row.__module__] is Principal.LEDGER]
        tables = {m.table.name: sorted(await store.every(m), key=repr) for m in mapped}
        return tables | {"outbox": await store.outbox()}

    found = await run(stores(Principal.LEDGER))
    assert found == await run(InMemory())
    # Of the nine messages, the two answers to reservations came twice: their holds tell repetitions, not the inbox.
    assert [len(found[name]) for name in ("accounts", "holds", "transfers", "entries", "outbox")] == [1, 3, 1, 4, 11]
    assert len({out.id for out in found["outbox"]}) == 9


def contents(snapshot: Snapshot) -> dict[str, list[Any]]:
    """Return every row of the snapshot, in one order: databases have none."""
    return {
        f"{service}.{table}": sorted(getattr(getattr(snapshot, service), table), key=lambda row: str(row)[:60])
        for service in Snapshot.__dataclass_fields__
        for table in type(getattr(snapshot, service)).__dataclass_fields__
    }


async def test_the_invariants_facts_are_the_same_from_both(
    stores: Stores, request: pytest.FixtureRequest, urls: dict[Principal, str]
) -> None:
    memory = {service: InMemory() for service in SERVICES}
    for row, _ in ROWS.values():
        service = OWNERS[type(row).__module__]
        await write(stores(service), row)
        await write(memory[service], row)
    for store in (stores(Principal.LEDGER), memory[Principal.LEDGER]):
        async with store.database.begin() as tx:
            entries = tx.append(ENTRIES)
            entries.add(ENTRY)
            await tx.save([entries])
    expected = memory_snapshot({service: store.database for service, store in memory.items()})
    if isinstance(stores(Principal.LEDGER), InPostgres):
        with snapshots(urls) as snapshot:
            assert contents(snapshot) == contents(expected)
    else:
        databases = {service: stores(service).database for service in SERVICES}
        assert contents(memory_snapshot(databases)) == contents(expected)  # type: ignore[arg-type]
