"""A saga's definition is refused when it could not keep the rules; and the turns that a local pivot takes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import cast
from uuid import UUID

import pytest

from popfax_contracts.ledger import (
    CaptureHold,
    CreditUnits,
    HoldCaptured,
    HoldReleased,
    ReleaseHold,
    ReserveUnits,
    UnitsCredited,
    UnitsRefused,
    UnitsReserved,
)
from popfax_contracts.message import Event, Message
from popfax_contracts.topics import LEDGER_COMMANDS, LEDGER_EVENTS
from services.chassis.database import Transaction
from services.chassis.loading import NeededRows
from services.chassis.messages import Effect, Incoming, Outcome, SetTimer
from services.chassis.rows import Changes, Rows
from services.chassis.sagas import (
    CancelSaga,
    LocalPivot,
    RetrySaga,
    Saga,
    SagaDeadline,
    SagaRow,
    Sagas,
    Status,
    Step,
)
from services.chassis.service import AnyHandler, Handler, Moment, nothing
from services.groups.sagas import CREATE_MEMBER_ACCOUNT
from services.groups.tables import SAGAS
from services.ledger.consumers import LEDGER
from tests.unit.given import NOW, given, id_of, incoming

ADA = id_of("ada")

RESERVE, PROVISION, CAPTURE = cast(tuple[Step, Step, Step], CREATE_MEMBER_ACCOUNT.steps)
APPLY = LocalPivot("apply", lambda state, saga, moment: (), nothing)

BROKEN: list[tuple[str, Sequence[Step | LocalPivot], str]] = [
    ("no pivot", [RESERVE, replace(PROVISION, cancel=None), CAPTURE], "exactly one step is the pivot"),
    ("two pivots", [RESERVE, PROVISION, replace(PROVISION, name="again")], "exactly one step is the pivot"),
    ("two pivots, one of them local", [RESERVE, PROVISION, APPLY], "exactly one step is the pivot"),
    ("it begins with a local pivot", [APPLY, CAPTURE], "nothing to be reached by"),
    ("nothing undoes a step before the pivot", [replace(RESERVE, undo=None), PROVISION], "can't be undone"),
    ("nothing answers an undoing", [replace(RESERVE, undone=None), PROVISION], "can't be undone"),
    ("a step after the pivot can be refused", [PROVISION, replace(CAPTURE, refused=UnitsRefused)], "only forward"),
    ("a step after the pivot can be undone", [PROVISION, replace(CAPTURE, undo=RESERVE.undo)], "only forward"),
]


@pytest.mark.parametrize(("steps", "why"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_refuses_a_definition_in_which(steps: Sequence[Step | LocalPivot], why: str) -> None:
    with pytest.raises(TypeError, match=why):
        replace(CREATE_MEMBER_ACCOUNT, steps=tuple(steps))


@pytest.mark.parametrize("steps", [[PROVISION], [PROVISION, CAPTURE], [RESERVE, PROVISION, CAPTURE]])
def test_accepts_a_definition_with_its_pivot_anywhere(steps: Sequence[Step]) -> None:
    saga: Saga = replace(CREATE_MEMBER_ACCOUNT, steps=tuple(steps))
    assert saga.steps[saga.pivot] is PROVISION


def test_accepts_a_definition_with_a_local_pivot() -> None:
    saga = replace(CREATE_MEMBER_ACCOUNT, steps=(RESERVE, APPLY, CAPTURE))
    assert saga.steps[saga.pivot] is APPLY


# --- a local pivot ---
#
# The smallest service that has one: units are held, something is done here and now, the units are paid. (Or nothing is
# left to be paid: then the pivot is the last step.)

ID = id_of("saga")
PAYS = ReserveUnits(hold_id=ID, account_id=ADA, amount_units=20)
BACK = ReleaseHold(hold_id=ID, account_id=ADA)
TAKES = CaptureHold(hold_id=ID, account_id=ADA)
OPENS = CreditUnits(credit_id=ID, account_id=ADA, amount_units=1)
RESERVED = UnitsReserved(hold_id=ID, account_id=ADA, amount_units=20)
SHORT = UnitsRefused(hold_id=ID, account_id=ADA, code="units_short", command_type=ReserveUnits.TYPE)
RELEASED = HoldReleased(hold_id=ID, account_id=ADA, amount_units=20)
CAPTURED = HoldCaptured(hold_id=ID, account_id=ADA, amount_units=20)
DEADLINE, RETRY, CANCEL = SagaDeadline(saga_id=ID), RetrySaga(saga_id=ID), CancelSaga(saga_id=ID)

TIMER = SetTimer(id_of("what it sets"), NOW, SagaDeadline(saga_id=ID))
BOUGHT = UnitsCredited(credit_id=ID, account_id=ADA, amount_units=1)


class NothingBought(Event, type="popfax.shop.nothing-bought.v1", key="account_id"):
    """How the shop refuses: it is no service of the product's, and has no command of its own."""

    account_id: UUID
    code: str


def nothing_bought(code: str | None) -> NothingBought:
    return NothingBought(account_id=ADA, code=code or "")


@dataclass(frozen=True)
class Shop:
    """A service's state: its sagas, and what was bought."""

    sagas: Rows[UUID, SagaRow]
    bought: list[UUID]

    def changes(self) -> Sequence[Changes]:
        return (self.sagas,)


class Buying:
    """One saga in a service that runs it, with every message in a batch of its own."""

    def __init__(self, *, code: str | None = None, is_last: bool = False) -> None:
        self.code = code
        self.bought: list[UUID] = []
        definition = Saga(
            name="buy",
            steps=(
                replace(RESERVE, ask=lambda saga: PAYS, undo=lambda saga: BACK),
                LocalPivot("buy", self.buy, nothing),
                *(() if is_last else (replace(CAPTURE, ask=lambda saga: TAKES),)),
            ),
            completed=Handler(lambda state, saga, moment: [BOUGHT], nothing),
            refused=Handler(lambda state, saga, moment: [nothing_bought(saga.code)], nothing),
            deadline=timedelta(minutes=5),
        )
        sagas = Sagas(definition)
        replies = (UnitsReserved, UnitsRefused, HoldReleased, HoldCaptured)

        def begin(state: Shop, message: Incoming[CreditUnits], moment: Moment) -> Outcome:
            return definition.begin(state.sagas, ID, {}, message, moment)

        handlers: dict[type[Message], AnyHandler] = {
            CreditUnits: Handler(begin, lambda load, message: load.sagas.add(ID)),
            **dict.fromkeys(replies, sagas.reply),
            SagaDeadline: sagas.deadline,
            RetrySaga: sagas.retry,
            CancelSaga: sagas.cancel,
        }

        bought = self.bought

        class LoadPlan:
            def __init__(self) -> None:
                self.sagas: NeededRows[UUID, SagaRow] = NeededRows(SAGAS)

            async def fetch(self, tx: Transaction) -> Shop:
                return Shop(await self.sagas.fetch(tx), bought)

        topics = (LEDGER_COMMANDS, LEDGER_EVENTS)
        self.scene = given(replace(LEDGER, topics=topics, handlers=handlers, load=LoadPlan))
        self.comes(OPENS)

    def buy(self, state: Shop, saga: SagaRow, moment: Moment) -> Outcome | str:
        if self.code is not None:
            return self.code
        state.bought.append(saga.id)
        return [TIMER]

    def comes(self, *batch: Message) -> Sequence[Effect]:
        return self.scene.when(*batch).effects

    @property
    def row(self) -> SagaRow:
        found = self.scene.only(SagaRow)
        assert isinstance(found, SagaRow)
        return found

    def is_at(self, status: Status, step: str, code: str | None = None) -> None:
        assert (self.row.status, self.row.step, self.row.code) == (status, step, code)
        assert (self.row.ended_at is not None) is (status in (Status.COMPLETED, Status.REFUSED))


def test_what_a_local_pivot_does_is_done_in_the_turn_that_reaches_it_and_the_next_step_asked_for() -> None:
    buying = Buying()
    assert buying.comes(RESERVED) == [TIMER, TAKES]
    assert buying.bought == [ID]
    buying.is_at(Status.RUNNING, "capture hold")
    assert buying.comes(CAPTURED) == [BOUGHT]
    buying.is_at(Status.COMPLETED, "capture hold")
    assert [line.split(" ", 1)[1] for line in buying.row.trail] == [
        "opened",
        "UnitsReserved",
        "buy",
        "HoldCaptured",
        "completed",
    ]


def test_a_local_pivot_that_refuses_gives_back_what_was_held() -> None:
    buying = Buying(code="already_added")
    assert buying.comes(RESERVED) == [BACK]
    assert buying.bought == []
    buying.is_at(Status.COMPENSATING, "reserve units", "already_added")
    assert buying.comes(RELEASED) == [nothing_bought("already_added")]
    buying.is_at(Status.REFUSED, "reserve units", "already_added")
    assert "buy: already_added" in " ".join(buying.row.trail)


def test_a_local_pivot_that_is_the_last_step_ends_the_saga() -> None:
    buying = Buying(is_last=True)
    assert buying.comes(RESERVED) == [TIMER, BOUGHT]
    assert buying.bought == [ID]
    buying.is_at(Status.COMPLETED, "buy")
    assert buying.comes(DEADLINE) == []
    assert buying.comes(RETRY) == []
    assert buying.comes(incoming(RESERVED, id_=id_of("again")).body) == []
    assert buying.bought == [ID]
    buying.is_at(Status.COMPLETED, "buy")


def test_a_local_pivot_that_is_the_last_step_can_refuse() -> None:
    buying = Buying(code="account_closed", is_last=True)
    assert buying.comes(RESERVED) == [BACK]
    assert buying.comes(RELEASED) == [nothing_bought("account_closed")]


def test_a_reply_that_is_repeated_changes_nothing_whenever_it_comes() -> None:
    buying = Buying()
    buying.comes(RESERVED)
    running = buying.row
    assert buying.comes(RESERVED) == []
    assert buying.row == running
    buying.comes(CAPTURED)
    ended = buying.row
    assert buying.comes(RESERVED, CAPTURED) == []
    assert buying.row == ended


@pytest.mark.parametrize(("call", "code"), [(DEADLINE, "timed_out"), (CANCEL, "cancelled")])
def test_called_off_before_a_local_pivot_it_never_reaches_it(call: Message, code: str) -> None:
    buying = Buying()
    assert buying.comes(call) == [BACK]
    buying.is_at(Status.COMPENSATING, "reserve units", code)
    assert buying.comes(RESERVED) == []  # late: the release is on its way
    assert buying.comes(RELEASED) == [nothing_bought(code)]
    assert buying.bought == []


@pytest.mark.parametrize("call", [DEADLINE, CANCEL])
def test_called_off_after_a_local_pivot_it_only_goes_forward(call: Message) -> None:
    buying = Buying()
    buying.comes(RESERVED)
    assert buying.comes(call) == []
    buying.is_at(Status.RUNNING, "capture hold")
    assert buying.comes(RETRY) == [TAKES]
    assert buying.comes(CAPTURED) == [BOUGHT]


def test_a_reservation_that_comes_twice_reaches_a_local_pivot_once() -> None:
    buying = Buying()
    buying.comes(RESERVED)
    assert buying.comes(RESERVED) == []
    assert buying.bought == [ID]
    refused = Buying(code="already_added")
    refused.comes(RESERVED)
    refused.code = None  # it would be done now
    assert refused.comes(RESERVED) == []
    assert refused.bought == []


def test_a_refusal_before_a_local_pivot_ends_the_saga_and_what_comes_late_is_given_back() -> None:
    buying = Buying()
    assert buying.comes(SHORT) == [nothing_bought("units_short")]
    assert buying.comes(RESERVED) == [BACK]
    assert buying.bought == []
    buying.is_at(Status.REFUSED, "reserve units", "units_short")


def test_all_of_it_in_one_batch() -> None:
    buying = Buying()
    assert buying.comes(RESERVED, CAPTURED) == [TIMER, TAKES, BOUGHT]
    refused = Buying(code="already_added")
    assert refused.comes(RESERVED, RELEASED) == [BACK, nothing_bought("already_added")]
