"""What only the simulation judges, shown to fail: histories that are right but for one thing."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import pytest

from deploy.operator.invariants import Logged
from popfax_contracts.ledger import Leg, PostTransfers, ReleaseHold, UnitsReserved
from popfax_contracts.message import Message
from services.chassis.sagas import SagaRow, Status
from services.groups.domain import HistoryEntry, Kind
from services.ledger.domain import Entry, Hold, HoldState
from tests.simulation.checks import LockOrder, given_to_outsiders, kept_after_the_end, topped_up_wrongly

NOW = datetime(2031, 1, 1, tzinfo=UTC)
LATER, LAST = NOW + timedelta(hours=1), NOW + timedelta(hours=2)
NAMES = UUID("00000000-0000-4000-8000-000000000000")
GROUP, MEMBER, OWNER = (uuid5(NAMES, name) for name in ("group", "member", "owner"))
TRANSFER, SAGA = uuid5(NAMES, "transfer"), uuid5(NAMES, "saga")


def _line(kind: Kind, at: datetime, ended_at: datetime | None = None) -> HistoryEntry:
    id_ = uuid5(NAMES, f"{kind} {at}")
    return HistoryEntry(id_, GROUP, kind, at, OWNER, MEMBER, TRANSFER, None, "", None, ended_at)


@pytest.mark.parametrize(
    ("times", "at", "found"),
    [
        ([(NOW, None)], LATER, 0),
        ([(NOW, LATER)], LATER, 0),
        ([(NOW, LATER)], LAST, 1),
        ([(LATER, None)], NOW, 1),
        ([(NOW, NOW), (LAST, None)], LATER, 1),
        ([], NOW, 1),
    ],
)
def test_units_go_to_members_only(times: list[tuple[datetime, datetime | None]], at: datetime, found: int) -> None:
    history = [_line(Kind.MEMBERSHIP, *each) for each in times]
    assert len(list(given_to_outsiders([*history, _line(Kind.TRANSFER, at)]))) == found


def _logged(body: Message, id_: str, cause: str | None = None) -> Logged:
    return Logged("t", 0, 0, body.key(), id_, body.TYPE, "c", cause, body.to_json())


TOP_UP = PostTransfers(transfer_id=TRANSFER, source_id=OWNER, legs=(Leg(account_id=MEMBER, top_up_to_units=10),))
HOLD = Hold(SAGA, MEMBER, 3, HoldState.OPEN, NOW, None)


@pytest.mark.parametrize(
    ("after", "holds", "found"),
    [
        (10, [], 0),
        (17, [], 1),
        (9, [], 1),
        (13, [HOLD], 0),
        (10, [HOLD], 1),
        (10, [replace(HOLD, closed_at=NOW + timedelta(minutes=1))], 0),
        (10, [replace(HOLD, opened_at=LAST)], 0),
        (10, [replace(HOLD, code="units_short")], 0),
        (13, [replace(HOLD, opened_at=LATER)], 0),
        (10, [replace(HOLD, opened_at=LATER)], 0),
        (14, [replace(HOLD, opened_at=LATER)], 1),
    ],
)
def test_a_top_up_leaves_what_it_should(after: int, holds: list[Hold], found: int) -> None:
    entry = Entry(TRANSFER, MEMBER, 7, after - 7, after, 2, LATER)
    assert len(list(topped_up_wrongly([_logged(TOP_UP, "1")], [entry], holds))) == found


SAGA_ROW = SagaRow(SAGA, "s", Status.REFUSED, "reserve units", "timed_out", {}, "c", SAGA, OWNER, NOW, NOW, NOW, ())
RESERVED = _logged(UnitsReserved(hold_id=SAGA, account_id=OWNER, amount_units=3), "reserved", "asked")


@pytest.mark.parametrize(
    ("trail", "cause", "found"),
    [
        (("refused", "UnitsReserved"), "reserved", 0),
        (("refused", "UnitsReserved"), "timed out", 1),
        (("UnitsReserved", "refused", "UnitsReserved"), "timed out", 0),
        (("refused",), "timed out", 0),
    ],
)
def test_what_is_reserved_after_the_end_is_given_back(trail: tuple[str, ...], cause: str, found: int) -> None:
    saga = replace(SAGA_ROW, trail=tuple(f"{NOW.isoformat()} {what}" for what in trail))
    released = _logged(ReleaseHold(hold_id=SAGA, account_id=OWNER), "release", cause)
    assert len(list(kept_after_the_end([RESERVED, released], [saga]))) == found


@pytest.mark.parametrize(
    ("transactions", "broken"),
    [
        ([("a", "b", "c"), ("a", "c"), ("b", "c")], None),
        ([("a", "a", "b")], None),
        ([("a", "b"), ("b", "a")], {"a", "b"}),
        ([("a", "b", "a")], {"a", "b"}),
        ([("a", "b"), ("b", "c"), ("c", "a")], {"a", "b", "c"}),
    ],
)
def test_tables_are_locked_in_one_order(transactions: list[Any], broken: set[str] | None) -> None:
    order = LockOrder()
    for tables in transactions:
        order.locked(tables)
    found = order.broken()
    assert (set(found.split(" after ")) if found else None) == broken
