"""The ledger's decisions, command by command."""

from typing import Any
from uuid import UUID

import pytest

from contracts.ledger import (
    CaptureHold,
    CaptureRefused,
    CreditRefused,
    CreditUnits,
    HoldCaptured,
    HoldReleased,
    Leg,
    PostedLeg,
    PostTransfers,
    ReleaseHold,
    ReleaseRefused,
    ReserveUnits,
    TransfersPosted,
    TransfersRefused,
    UnitsCredited,
    UnitsRefused,
    UnitsReserved,
)
from contracts.message import Event
from services.ledger.consumers import LEDGER
from services.ledger.domain import SALES, SUBSCRIPTIONS, Account, Entry, Hold, HoldState, Transfer
from tests.unit.given import NOW, given, id_of

ADA, BOB, CLEO = id_of("ada"), id_of("bob"), id_of("cleo")
HOLD, CREDIT, TRANSFER = id_of("hold"), id_of("credit"), id_of("transfer")


def account(id_: UUID, balance: int, held: int = 0, version: int = 1) -> Account:
    return Account(id_, balance, held, version)


def hold(state: HoldState, units: int = 10, account_id: UUID = ADA) -> Hold:
    return Hold(HOLD, account_id, units, state, NOW, None if state is HoldState.OPEN else NOW)


def reserve(units: int = 10, account_id: UUID = ADA) -> ReserveUnits:
    return ReserveUnits(hold_id=HOLD, account_id=account_id, amount_units=units)


def reserved(units: int = 10) -> UnitsReserved:
    return UnitsReserved(hold_id=HOLD, account_id=ADA, amount_units=units)


def not_reserved(code: str, account_id: UUID = ADA) -> UnitsRefused:
    return UnitsRefused(hold_id=HOLD, account_id=account_id, code=code, command_type=ReserveUnits.TYPE)


def release(account_id: UUID = ADA) -> ReleaseHold:
    return ReleaseHold(hold_id=HOLD, account_id=account_id)


def released(units: int) -> HoldReleased:
    return HoldReleased(hold_id=HOLD, account_id=ADA, amount_units=units)


def capture(account_id: UUID = ADA) -> CaptureHold:
    return CaptureHold(hold_id=HOLD, account_id=account_id)


CAPTURED = HoldCaptured(hold_id=HOLD, account_id=ADA, amount_units=10)


# --- credits ---


def test_credits_units_from_popfaxs_sales() -> None:
    scene = given(LEDGER, account(ADA, 5)).when(CreditUnits(credit_id=CREDIT, account_id=ADA, amount_units=7))
    scene.then(UnitsCredited(credit_id=CREDIT, account_id=ADA, amount_units=7))
    scene.leaves(
        account(ADA, 12, version=2),
        Entry(CREDIT, ADA, 7, 5, 12, 2, NOW),
        Entry(CREDIT, SALES, -7, None, None, None, NOW),
        Transfer(CREDIT, "credit", SALES, scene.only(Transfer).content, None, (7,), NOW),
    )


def test_opens_an_account_with_its_first_credit() -> None:
    scene = given(LEDGER).when(CreditUnits(credit_id=CREDIT, account_id=ADA, amount_units=7))
    assert scene.only(Account) == account(ADA, 7)


def test_gives_the_same_credit_the_same_answer_and_no_units_again() -> None:
    command = CreditUnits(credit_id=CREDIT, account_id=ADA, amount_units=7)
    answer = UnitsCredited(credit_id=CREDIT, account_id=ADA, amount_units=7)
    scene = given(LEDGER).when(command, command).then(answer, answer)
    rows = scene.rows()
    scene.when(command).then(answer).leaves(*rows)
    assert scene.only(Account) == account(ADA, 7)


@pytest.mark.parametrize("other", [{"amount_units": 8}, {"account_id": BOB}])
def test_refuses_a_credit_whose_id_has_other_content(other: dict[str, Any]) -> None:
    command = CreditUnits(credit_id=CREDIT, account_id=ADA, amount_units=7)
    scene = given(LEDGER).when(command)
    rows, changed = scene.rows(), command.model_copy(update=other)
    refused = CreditRefused(
        credit_id=CREDIT, account_id=changed.account_id, code="id_conflict", command_type=CreditUnits.TYPE
    )
    scene.when(changed).then(refused).leaves(*rows)


# --- holds ---


@pytest.mark.parametrize(("balance", "held"), [(10, 0), (30, 20), (1000, 5)])
def test_holds_units_that_are_available(balance: int, held: int) -> None:
    scene = given(LEDGER, account(ADA, balance, held)).when(reserve()).then(reserved())
    scene.leaves(account(ADA, balance, held + 10), hold(HoldState.OPEN))


@pytest.mark.parametrize("rows", [[], [account(ADA, 9)], [account(ADA, 30, 21)]], ids=["none", "few", "held"])
def test_refuses_reservation_when_units_are_short(rows: list[Account]) -> None:
    refused = Hold(HOLD, ADA, 10, HoldState.REFUSED, NOW, None)
    given(LEDGER, *rows).when(reserve()).then(not_reserved("units_short")).leaves(*rows, refused)


def test_stays_with_its_refusal_when_units_have_come_meanwhile() -> None:
    rows = [account(ADA, 1000), hold(HoldState.REFUSED)]
    given(LEDGER, *rows).when(reserve()).then(not_reserved("units_short")).leaves(*rows)


def test_a_batch_can_not_hold_the_same_units_twice() -> None:
    other = ReserveUnits(hold_id=id_of("other"), account_id=ADA, amount_units=10)
    refused = UnitsRefused(hold_id=other.hold_id, account_id=ADA, code="units_short", command_type=ReserveUnits.TYPE)
    given(LEDGER, account(ADA, 15)).when(reserve(), other).then(reserved(), refused)


RESERVATIONS_OF_A_KNOWN_ID: list[tuple[str, Hold, ReserveUnits, Event]] = [
    ("open, the same again", hold(HoldState.OPEN), reserve(), reserved()),
    ("captured, the same again", hold(HoldState.CAPTURED), reserve(), reserved()),
    ("open, other units", hold(HoldState.OPEN), reserve(11), not_reserved("id_conflict")),
    ("open, another account", hold(HoldState.OPEN), reserve(10, BOB), not_reserved("id_conflict", BOB)),
    ("refused, other units", hold(HoldState.REFUSED), reserve(1), not_reserved("id_conflict")),
    ("burned", hold(HoldState.BURNED, 0), reserve(), not_reserved("hold_cancelled")),
    ("burned, another account", hold(HoldState.BURNED, 0), reserve(10, BOB), not_reserved("hold_cancelled", BOB)),
]


@pytest.mark.parametrize(
    ("known", "command", "answer"),
    [case[1:] for case in RESERVATIONS_OF_A_KNOWN_ID],
    ids=[case[0] for case in RESERVATIONS_OF_A_KNOWN_ID],
)
def test_answers_a_reservation_of_a_known_id_and_changes_nothing(
    known: Hold, command: ReserveUnits, answer: Event
) -> None:
    held = known.amount_units if known.state is HoldState.OPEN else 0
    rows = [account(ADA, 100, held), account(BOB, 100), known]
    given(LEDGER, *rows).when(command).then(answer).leaves(*rows)


def test_release_before_reservation_burns_the_hold() -> None:
    scene = given(LEDGER, account(ADA, 100)).when(release()).then(released(0))
    burned = hold(HoldState.BURNED, 0)
    scene.leaves(account(ADA, 100), burned)
    scene.when(reserve()).then(not_reserved("hold_cancelled")).leaves(account(ADA, 100), burned)


def test_release_and_late_reservation_in_one_batch_hold_nothing() -> None:
    scene = given(LEDGER, account(ADA, 100)).when(release(), reserve())
    scene.then(released(0), not_reserved("hold_cancelled")).leaves(account(ADA, 100), hold(HoldState.BURNED, 0))


def test_release_gives_held_units_back_once() -> None:
    scene = given(LEDGER, account(ADA, 100, 30), hold(HoldState.OPEN)).when(release(), release())
    scene.then(released(10), released(10)).leaves(account(ADA, 100, 20), hold(HoldState.RELEASED))


def test_release_of_a_refused_hold_gives_nothing_back() -> None:
    rows = [account(ADA, 100), hold(HoldState.REFUSED)]
    given(LEDGER, *rows).when(release()).then(released(0)).leaves(*rows)


@pytest.mark.parametrize(
    ("known", "by", "code"),
    [
        (hold(HoldState.CAPTURED), ADA, "hold_captured"),
        (hold(HoldState.CAPTURED), BOB, "id_conflict"),
        (hold(HoldState.OPEN), BOB, "id_conflict"),
        (hold(HoldState.BURNED, 0), BOB, "id_conflict"),
    ],
)
def test_refuses_release(known: Hold, by: UUID, code: str) -> None:
    refused = ReleaseRefused(hold_id=HOLD, account_id=by, code=code, command_type=ReleaseHold.TYPE)
    rows = [account(ADA, 100, 10), known]
    given(LEDGER, *rows).when(release(by)).then(refused).leaves(*rows)


def test_capture_pays_popfax_what_was_held() -> None:
    scene = given(LEDGER, account(ADA, 100, 30), hold(HoldState.OPEN)).when(capture()).then(CAPTURED)
    scene.leaves(
        account(ADA, 90, 20, version=2),
        hold(HoldState.CAPTURED),
        Entry(HOLD, ADA, -10, 100, 90, 2, NOW),
        Entry(HOLD, SUBSCRIPTIONS, 10, None, None, None, NOW),
    )


def test_capture_pays_once_however_often_it_is_asked_for() -> None:
    scene = given(LEDGER, account(ADA, 100, 10), hold(HoldState.OPEN)).when(capture(), capture())
    scene.then(CAPTURED, CAPTURED)
    rows = scene.rows()
    scene.when(capture()).then(CAPTURED).leaves(*rows)
    assert scene.only(Account).balance_units == 90


@pytest.mark.parametrize(
    ("known", "by"),
    [
        (None, ADA),
        (hold(HoldState.RELEASED), ADA),
        (hold(HoldState.REFUSED), ADA),
        (hold(HoldState.BURNED, 0), ADA),
        (hold(HoldState.OPEN), BOB),
        (hold(HoldState.CAPTURED), BOB),
    ],
)
def test_refuses_capture_of_what_is_not_held(known: Hold | None, by: UUID) -> None:
    refused = CaptureRefused(hold_id=HOLD, account_id=by, code="hold_not_open", command_type=CaptureHold.TYPE)
    rows = [account(ADA, 100, 10), account(BOB, 100), *([known] if known else [])]
    given(LEDGER, *rows).when(capture(by)).then(refused).leaves(*rows)


# --- transfers ---


def post(*legs: Leg, source: UUID = ADA) -> PostTransfers:
    return PostTransfers(transfer_id=TRANSFER, source_id=source, legs=legs)


def posted(*amounts: tuple[UUID, int]) -> TransfersPosted:
    legs = tuple(PostedLeg(account_id=id_, amount_units=units) for id_, units in amounts)
    return TransfersPosted(transfer_id=TRANSFER, source_id=ADA, legs=legs, total_units=sum(u for _, u in amounts))


def not_posted(code: str, source: UUID = ADA) -> TransfersRefused:
    return TransfersRefused(transfer_id=TRANSFER, source_id=source, code=code, command_type=PostTransfers.TYPE)


TO_BOB, TO_CLEO = Leg(account_id=BOB, amount_units=10), Leg(account_id=CLEO, top_up_to_units=25)


def test_moves_fixed_amounts_and_tops_others_up() -> None:
    scene = given(LEDGER, account(ADA, 100), account(CLEO, 8, 3)).when(post(TO_BOB, TO_CLEO))
    scene.then(posted((BOB, 10), (CLEO, 20)))  # 5 are available to Cleo, so 20 bring her up to 25
    scene.leaves(
        account(ADA, 70, version=2),
        account(BOB, 10),
        account(CLEO, 28, 3, version=2),
        Entry(TRANSFER, ADA, -30, 100, 70, 2, NOW),
        Entry(TRANSFER, BOB, 10, 0, 10, 1, NOW),
        Entry(TRANSFER, CLEO, 20, 8, 28, 2, NOW),
        Transfer(TRANSFER, "transfer", ADA, scene.only(Transfer).content, None, (10, 20), NOW),
    )


def test_tops_up_nobody_who_has_enough() -> None:
    rows = [account(ADA, 100), account(CLEO, 25)]
    scene = given(LEDGER, *rows).when(post(TO_CLEO)).then(posted((CLEO, 0)))
    scene.leaves(*rows, Transfer(TRANSFER, "transfer", ADA, scene.only(Transfer).content, None, (0,), NOW))


@pytest.mark.parametrize("source", [account(ADA, 34), account(ADA, 40, 6)], ids=["few", "held"])
def test_moves_nothing_at_all_when_units_are_short(source: Account) -> None:
    scene = given(LEDGER, source).when(post(TO_BOB, TO_CLEO)).then(not_posted("units_short"))
    content = scene.only(Transfer).content
    scene.leaves(source, Transfer(TRANSFER, "transfer", ADA, content, "units_short", (10, 25), NOW))


def test_gives_the_same_transfer_the_same_answer_and_moves_nothing_again() -> None:
    scene = given(LEDGER, account(ADA, 100)).when(post(TO_BOB, TO_CLEO))
    rows = scene.rows()
    scene.when(post(TO_BOB, TO_CLEO)).then(posted((BOB, 10), (CLEO, 25))).leaves(*rows)


def test_stays_with_a_refused_transfer_when_units_have_come_meanwhile() -> None:
    scene = given(LEDGER).when(post(TO_BOB))
    credit = CreditUnits(credit_id=CREDIT, account_id=ADA, amount_units=1000)
    scene.when(credit, post(TO_BOB))
    assert scene.effects[1] == not_posted("units_short")


@pytest.mark.parametrize("other", [post(TO_CLEO), post(TO_BOB, source=CLEO)])
def test_refuses_a_transfer_whose_id_has_other_content(other: PostTransfers) -> None:
    scene = given(LEDGER, account(ADA, 100), account(CLEO, 100)).when(post(TO_BOB))
    rows = scene.rows()
    scene.when(other).then(not_posted("id_conflict", other.source_id)).leaves(*rows)


def test_refuses_a_credits_id_for_a_transfer() -> None:
    known = Transfer(TRANSFER, "credit", SALES, b"of a credit", None, (1,), NOW)
    rows = [account(ADA, 100), known]
    given(LEDGER, *rows).when(post(TO_BOB)).then(not_posted("id_conflict")).leaves(*rows)


def test_units_that_a_batch_brings_can_be_spent_in_it() -> None:
    credit = CreditUnits(credit_id=CREDIT, account_id=ADA, amount_units=10)
    scene = given(LEDGER).when(credit, post(TO_BOB), reserve())
    assert scene.effects[1:] == [posted((BOB, 10)), not_reserved("units_short")]
    assert scene.database.contents.tables["accounts"][ADA] == account(ADA, 0, version=2)
