"""The ledger's decisions, command by command."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from popfax_contracts.ids import derive_own
from popfax_contracts.ledger import (
    BalanceChanged,
    BalanceCorrected,
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
    SpendRefused,
    SpendUnits,
    TransfersPosted,
    TransfersRefused,
    UnitsCredited,
    UnitsRefused,
    UnitsReserved,
    UnitsSpent,
)
from popfax_contracts.message import Command, Event, Message, Refusal
from popfax_contracts.provisioning import AccountClosed, AccountExpired, AccountExtended, AccountProvisioned
from popfax_contracts.topics import Principal
from services.ledger.consumers import LEDGER
from services.ledger.domain import (
    CONSUMPTION,
    CORRECTIONS,
    OWN_ACCOUNTS,
    SALES,
    SUBSCRIPTIONS,
    Account,
    AccountState,
    Correction,
    Entry,
    Hold,
    HoldState,
    Transfer,
    TransferKind,
)
from services.ledger.messages import CorrectBalance
from tests.unit.given import NOW, Scene, given, id_of, incoming

ADA, BOB, CLEO = id_of("ada"), id_of("bob"), id_of("cleo")
HOLD, CREDIT, TRANSFER, SPEND = id_of("hold"), id_of("credit"), id_of("transfer"), id_of("spend")
CORRECTION = id_of("correction")
ACTIVE, EXPIRED, CLOSED = AccountState


def account(
    id_: UUID, balance: int, held: int = 0, version: int = 1, revision: int = 1, state: AccountState = ACTIVE
) -> Account:
    return Account(id_, balance, held, version, state, revision)


def changed(id_: UUID, balance: int, held: int = 0, revision: int = 2) -> BalanceChanged:
    return BalanceChanged(account_id=id_, version=revision, balance_units=balance, available_units=balance - held)


def hold(state: HoldState, units: int = 10, account_id: UUID = ADA, code: str = "units_short") -> Hold:
    why = code if state is HoldState.REFUSED else None
    closed_at = None if state in (HoldState.OPEN, HoldState.REFUSED) else NOW
    return Hold(HOLD, account_id, units, state, NOW, closed_at, code=why, holder="groups")


def reserve(units: int = 10, account_id: UUID = ADA, extends: bool = False) -> ReserveUnits:
    return ReserveUnits(hold_id=HOLD, account_id=account_id, amount_units=units, extends=extends)


def reserved(units: int = 10) -> UnitsReserved:
    return UnitsReserved(hold_id=HOLD, account_id=ADA, amount_units=units)


def not_reserved(code: str, account_id: UUID = ADA) -> UnitsRefused:
    return UnitsRefused(hold_id=HOLD, account_id=account_id, code=code, command_type=ReserveUnits.TYPE)


def release(account_id: UUID = ADA) -> ReleaseHold:
    return ReleaseHold(hold_id=HOLD, account_id=account_id)


def released(units: int, version: int = 2) -> HoldReleased:
    return HoldReleased(hold_id=HOLD, account_id=ADA, amount_units=units, version=version)


def capture(account_id: UUID = ADA) -> CaptureHold:
    return CaptureHold(hold_id=HOLD, account_id=account_id)


def captured(version: int = 2) -> HoldCaptured:
    return HoldCaptured(hold_id=HOLD, account_id=ADA, amount_units=10, version=version)


def credit(units: int, account_id: UUID = ADA) -> CreditUnits:
    return CreditUnits(credit_id=CREDIT, account_id=account_id, amount_units=units)


def credited(units: int) -> UnitsCredited:
    return UnitsCredited(credit_id=CREDIT, account_id=ADA, amount_units=units)


def not_credited(code: str, account_id: UUID = ADA) -> CreditRefused:
    return CreditRefused(credit_id=CREDIT, account_id=account_id, code=code, command_type=CreditUnits.TYPE)


# --- credits ---


def test_a_transfer_is_sealed_with_a_digest_of_everything_else() -> None:
    """Literally: whatever is sealed is kept forever, so the digest can't be another one tomorrow."""
    made = Transfer(TRANSFER, TransferKind.TRANSFER, ADA, b"content", "units_short", (10, 25), NOW, "group-7").sealed()
    assert made.seal == made.digest()
    assert made.digest().hex() == "c16fa608481b2fc4344c8cbf052ff292"


@pytest.mark.usefixtures("elsewhere")
def test_a_seal_is_the_same_wherever_the_machine_is() -> None:
    made = Transfer(TRANSFER, TransferKind.CREDIT, SALES, b"content", None, (7,), NOW + timedelta(days=1))
    assert made.digest().hex() == "a09fab9f4ccd982d4997cae217af3993"


def test_credits_units_from_popfaxs_sales() -> None:
    scene = given(LEDGER, account(ADA, 5)).when(credit(7)).then(credited(7), changed(ADA, 12))
    scene.leaves(
        account(ADA, 12, version=2, revision=2),
        Entry(CREDIT, ADA, 7, 5, 12, 2, NOW),
        Entry(CREDIT, SALES, -7, None, None, None, NOW),
        Transfer(CREDIT, TransferKind.CREDIT, SALES, scene.only(Transfer).content, None, (7,), NOW).sealed(),
    )


def test_opens_an_account_with_its_first_credit() -> None:
    scene = given(LEDGER).when(credit(7)).then(credited(7), changed(ADA, 7, revision=1))
    assert scene.only(Account) == account(ADA, 7)


def test_gives_the_same_credit_the_same_answer_and_no_units_again() -> None:
    scene = given(LEDGER).when(credit(7), credit(7)).then(credited(7), changed(ADA, 7, revision=1), credited(7))
    rows = scene.rows()
    scene.when(credit(7)).then(credited(7)).leaves(*rows)
    assert scene.only(Account) == account(ADA, 7)


@pytest.mark.parametrize("other", [credit(8), credit(7, BOB)])
def test_refuses_a_credit_whose_id_has_other_content(other: CreditUnits) -> None:
    scene = given(LEDGER, account(BOB, 0, state=CLOSED)).when(credit(7))
    rows = scene.rows()
    scene.when(other).then(not_credited("id_conflict", other.account_id)).leaves(*rows)


def test_credits_an_expired_account() -> None:
    scene = given(LEDGER, account(ADA, 5, state=EXPIRED)).when(credit(7)).then(credited(7), changed(ADA, 12))
    assert scene.only(Account) == account(ADA, 12, version=2, revision=2, state=EXPIRED)


def test_refuses_a_credit_of_a_closed_account_again_and_again() -> None:
    scene = given(LEDGER, account(ADA, 5, state=CLOSED)).when(credit(7)).then(not_credited("account_closed"))
    refused = Transfer(
        CREDIT, TransferKind.CREDIT, SALES, scene.only(Transfer).content, "account_closed", (7,), NOW
    ).sealed()
    scene.leaves(account(ADA, 5, state=CLOSED), refused)
    scene.when(credit(7)).then(not_credited("account_closed")).leaves(account(ADA, 5, state=CLOSED), refused)


# --- holds ---


@pytest.mark.parametrize(("balance", "held"), [(10, 0), (30, 20), (1000, 5)])
def test_holds_units_that_are_available(balance: int, held: int) -> None:
    scene = given(LEDGER, account(ADA, balance, held)).when(reserve())
    scene.then(reserved(), changed(ADA, balance, held + 10))
    scene.leaves(account(ADA, balance, held + 10, revision=2), hold(HoldState.OPEN))


@pytest.mark.parametrize("rows", [[], [account(ADA, 9)], [account(ADA, 30, 21)]], ids=["none", "few", "held"])
def test_refuses_reservation_when_units_are_short(rows: list[Account]) -> None:
    given(LEDGER, *rows).when(reserve()).then(not_reserved("units_short")).leaves(*rows, hold(HoldState.REFUSED))


@pytest.mark.parametrize("code", ["units_short", "account_expired", "account_closed"])
def test_stays_with_its_refusal_when_the_reason_is_gone(code: str) -> None:
    rows = [account(ADA, 1000), hold(HoldState.REFUSED, code=code)]
    given(LEDGER, *rows).when(reserve()).then(not_reserved(code)).leaves(*rows)


@pytest.mark.parametrize("units", [10, 999], ids=["there", "short as well"])
@pytest.mark.parametrize(
    ("state", "extends", "code"),
    [
        (EXPIRED, False, "account_expired"),
        (CLOSED, False, "account_closed"),
        (CLOSED, True, "account_closed"),
    ],
)
def test_refuses_reservation_of_an_account_that_may_not_pay(
    state: AccountState, extends: bool, code: str, units: int
) -> None:
    ada = account(ADA, 100, state=state)
    refused = Hold(HOLD, ADA, units, HoldState.REFUSED, NOW, None, extends, code, "groups")
    scene = given(LEDGER, ada).when(reserve(units, extends=extends)).then(not_reserved(code)).leaves(ada, refused)
    scene.when(reserve(units, extends=extends)).then(not_reserved(code)).leaves(ada, refused)


def test_an_expired_account_pays_for_its_own_extension() -> None:
    scene = given(LEDGER, account(ADA, 30, state=EXPIRED)).when(reserve(extends=True), capture())
    scene.then(reserved(), changed(ADA, 30, 10), captured(3), changed(ADA, 20, revision=3))
    assert scene.only(Account) == account(ADA, 20, version=2, revision=3, state=EXPIRED)


def test_refuses_an_extension_when_units_are_short() -> None:
    given(LEDGER, account(ADA, 9, state=EXPIRED)).when(reserve(extends=True)).then(not_reserved("units_short"))


def test_a_batch_can_not_hold_the_same_units_twice() -> None:
    other = ReserveUnits(hold_id=id_of("other"), account_id=ADA, amount_units=10)
    refused = UnitsRefused(hold_id=other.hold_id, account_id=ADA, code="units_short", command_type=ReserveUnits.TYPE)
    given(LEDGER, account(ADA, 15)).when(reserve(), other).then(reserved(), changed(ADA, 15, 10), refused)


RESERVATIONS_OF_A_KNOWN_ID: list[tuple[str, Hold, ReserveUnits, Event]] = [
    ("open, the same again", hold(HoldState.OPEN), reserve(), reserved()),
    ("captured, the same again", hold(HoldState.CAPTURED), reserve(), reserved()),
    ("open, other units", hold(HoldState.OPEN), reserve(11), not_reserved("id_conflict")),
    ("open, another account", hold(HoldState.OPEN), reserve(10, BOB), not_reserved("id_conflict", BOB)),
    ("open, for an extension", hold(HoldState.OPEN), reserve(extends=True), not_reserved("id_conflict")),
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


# --- whose a hold is ---

ANOTHERS: list[tuple[ReserveUnits | CaptureHold | ReleaseHold, type[Refusal], str]] = [
    (reserve(), UnitsRefused, "id_conflict"),
    (capture(), CaptureRefused, "hold_not_open"),
    (release(), ReleaseRefused, "id_conflict"),
]


@pytest.mark.parametrize("state", HoldState)
@pytest.mark.parametrize(("command", "refusal", "code"), ANOTHERS)
@pytest.mark.parametrize("requester", [Principal.GROUPS, Principal.PROVISIONING])
def test_a_hold_is_closed_by_its_holder_alone(
    requester: Principal, command: Command, refusal: type[Refusal], code: str, state: HoldState
) -> None:
    """Whatever became of it: a stranger learns nothing of it, and changes nothing."""
    holder = Principal.PROVISIONING if requester is Principal.GROUPS else Principal.GROUPS
    rows = [account(ADA, 100, 10 if state is HoldState.OPEN else 0), replace(hold(state), holder=holder.value)]
    refused = refusal(hold_id=HOLD, account_id=ADA, code=code, command_type=command.TYPE)
    given(LEDGER, *rows).when(incoming(command, writer=requester)).then(refused).leaves(*rows)


@pytest.mark.parametrize("holder", [Principal.GROUPS, Principal.PROVISIONING])
@pytest.mark.parametrize("close", [capture(), release()])
def test_a_holder_closes_its_own_hold(holder: Principal, close: Command) -> None:
    scene = given(LEDGER, account(ADA, 100)).when(incoming(reserve(), writer=holder))
    assert scene.only(Hold).holder == holder
    scene.when(incoming(close, writer=holder))
    assert scene.only(Hold).state is (HoldState.CAPTURED if isinstance(close, CaptureHold) else HoldState.RELEASED)


@pytest.mark.parametrize("close", [capture(), release()])
def test_a_hold_of_before_holders_were_kept_is_closed_by_whoever_asks(close: Command) -> None:
    scene = given(LEDGER, account(ADA, 100, 10), replace(hold(HoldState.OPEN), holder=None))
    scene.when(incoming(close, writer=Principal.PROVISIONING))
    assert scene.only(Account).held_units == 0


def test_release_before_reservation_burns_the_hold() -> None:
    scene = given(LEDGER, account(ADA, 100)).when(release()).then(released(0, 1))
    burned = hold(HoldState.BURNED, 0)
    scene.leaves(account(ADA, 100), burned)
    scene.when(reserve()).then(not_reserved("hold_cancelled")).leaves(account(ADA, 100), burned)


def test_release_and_late_reservation_in_one_batch_hold_nothing() -> None:
    scene = given(LEDGER, account(ADA, 100)).when(release(), reserve())
    scene.then(released(0, 1), not_reserved("hold_cancelled")).leaves(account(ADA, 100), hold(HoldState.BURNED, 0))


def test_release_gives_held_units_back_once() -> None:
    scene = given(LEDGER, account(ADA, 100, 30), hold(HoldState.OPEN)).when(release(), release())
    scene.then(released(10), changed(ADA, 100, 20), released(10))
    scene.leaves(account(ADA, 100, 20, revision=2), hold(HoldState.RELEASED))


@pytest.mark.parametrize("state", [EXPIRED, CLOSED])
def test_what_was_held_before_an_account_ended_is_still_captured_or_released(state: AccountState) -> None:
    ada = account(ADA, 100, 30, state=state)
    given(LEDGER, ada, hold(HoldState.OPEN)).when(capture()).then(captured(), changed(ADA, 90, 20))
    given(LEDGER, ada, hold(HoldState.OPEN)).when(release()).then(released(10), changed(ADA, 100, 20))


def test_release_of_a_refused_hold_gives_nothing_back() -> None:
    rows = [account(ADA, 100), hold(HoldState.REFUSED)]
    given(LEDGER, *rows).when(release()).then(released(0, 1)).leaves(*rows)


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
    scene = given(LEDGER, account(ADA, 100, 30), hold(HoldState.OPEN)).when(capture())
    scene.then(captured(), changed(ADA, 90, 20))
    scene.leaves(
        account(ADA, 90, 20, version=2, revision=2),
        hold(HoldState.CAPTURED),
        Entry(HOLD, ADA, -10, 100, 90, 2, NOW),
        Entry(HOLD, SUBSCRIPTIONS, 10, None, None, None, NOW),
    )


def test_capture_pays_once_however_often_it_is_asked_for() -> None:
    scene = given(LEDGER, account(ADA, 100, 10), hold(HoldState.OPEN)).when(capture(), capture())
    scene.then(captured(), changed(ADA, 90), captured())
    rows = scene.rows()
    scene.when(capture()).then(captured()).leaves(*rows)
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


def post(*legs: Leg, source: UUID = ADA, reference: str | None = None) -> PostTransfers:
    return PostTransfers(transfer_id=TRANSFER, source_id=source, legs=legs, reference=reference)


def posted(*legs: tuple[UUID, int, int], version: int = 2) -> TransfersPosted:
    """Each leg's account, what it got, and the version of its balance from then on; and the source's version."""
    return TransfersPosted(
        transfer_id=TRANSFER,
        source_id=ADA,
        legs=tuple(PostedLeg(account_id=id_, amount_units=units, version=at) for id_, units, at in legs),
        total_units=sum(units for _, units, _ in legs),
        version=version,
    )


def not_posted(code: str, source: UUID = ADA) -> TransfersRefused:
    return TransfersRefused(transfer_id=TRANSFER, source_id=source, code=code, command_type=PostTransfers.TYPE)


TO_BOB, TO_CLEO = Leg(account_id=BOB, amount_units=10), Leg(account_id=CLEO, top_up_to_units=25)


def test_moves_fixed_amounts_and_tops_others_up() -> None:
    scene = given(LEDGER, account(ADA, 100), account(CLEO, 8, 3)).when(post(TO_BOB, TO_CLEO), actor=ADA)
    answer = posted((BOB, 10, 1), (CLEO, 20, 2))  # 5 are available to Cleo, so 20 bring her up to 25
    scene.then(answer, changed(ADA, 70), changed(BOB, 10, revision=1), changed(CLEO, 28, 3))
    scene.leaves(
        account(ADA, 70, version=2, revision=2),
        account(BOB, 10),
        account(CLEO, 28, 3, version=2, revision=2),
        Entry(TRANSFER, ADA, -30, 100, 70, 2, NOW),
        Entry(TRANSFER, BOB, 10, 0, 10, 1, NOW),
        Entry(TRANSFER, CLEO, 20, 8, 28, 2, NOW),
        Transfer(TRANSFER, TransferKind.TRANSFER, ADA, scene.only(Transfer).content, None, (10, 20), NOW).sealed(),
    )


def test_tops_up_nobody_who_has_enough() -> None:
    rows = [account(ADA, 100), account(CLEO, 25)]
    scene = given(LEDGER, *rows).when(post(TO_CLEO), actor=ADA).then(posted((CLEO, 0, 1), version=1))
    scene.leaves(
        *rows, Transfer(TRANSFER, TransferKind.TRANSFER, ADA, scene.only(Transfer).content, None, (0,), NOW).sealed()
    )


def test_tops_up_from_what_the_same_batch_has_left() -> None:
    """Cleo gets 5, reserves 6 and spends 4 in the batch: three top-ups, each from what is available by then."""
    spends = SpendUnits(spend_id=SPEND, account_id=CLEO, amount_units=4, purpose="fax", reference="job/1")
    top_ups = [post(TO_CLEO).model_copy(update={"transfer_id": id_of(f"top-up {number}")}) for number in range(3)]
    scene = given(LEDGER, account(ADA, 100), account(CLEO, 20)).when(
        incoming(top_ups[0], ADA),
        incoming(reserve(6, CLEO)),
        incoming(top_ups[1], ADA),
        incoming(spends, CLEO),
        incoming(top_ups[2], ADA),
    )
    amounts = {each.id: each.amounts_units for each in scene.rows() if isinstance(each, Transfer)}
    assert [amounts[each.transfer_id] for each in top_ups] == [(5,), (6,), (4,)]
    assert {each.id: each.available_units for each in scene.rows() if isinstance(each, Account)} == {ADA: 85, CLEO: 25}


def test_tells_the_balance_only_of_those_who_got_something() -> None:
    scene = given(LEDGER, account(ADA, 100), account(CLEO, 25)).when(post(TO_CLEO, TO_BOB), actor=ADA)
    scene.then(posted((CLEO, 0, 1), (BOB, 10, 1)), changed(ADA, 90), changed(BOB, 10, revision=1))


def test_keeps_what_a_transfer_is_for() -> None:
    scene = given(LEDGER, account(ADA, 100)).when(post(TO_BOB, reference="group-7"), actor=ADA)
    assert scene.only(Transfer).reference == "group-7"


@pytest.mark.parametrize("source", [account(ADA, 34), account(ADA, 40, 6)], ids=["few", "held"])
def test_moves_nothing_at_all_when_units_are_short(source: Account) -> None:
    scene = given(LEDGER, source).when(post(TO_BOB, TO_CLEO), actor=ADA).then(not_posted("units_short"))
    content = scene.only(Transfer).content
    scene.leaves(source, Transfer(TRANSFER, TransferKind.TRANSFER, ADA, content, "units_short", (10, 25), NOW).sealed())


def test_gives_the_same_transfer_the_same_answer_and_moves_nothing_again() -> None:
    scene = given(LEDGER, account(ADA, 100)).when(post(TO_BOB, TO_CLEO), actor=ADA)
    rows = scene.rows()
    scene.when(post(TO_BOB, TO_CLEO), actor=ADA).then(posted((BOB, 10, 1), (CLEO, 25, 1))).leaves(*rows)


def test_stays_with_a_refused_transfer_when_units_have_come_meanwhile() -> None:
    scene = given(LEDGER).when(post(TO_BOB), actor=ADA).then(not_posted("units_short"))
    scene.when(credit(1000)).when(post(TO_BOB), actor=ADA).then(not_posted("units_short"))


@pytest.mark.parametrize("other", [post(TO_CLEO), post(TO_BOB, source=CLEO), post(TO_BOB, reference="other")])
@pytest.mark.parametrize("actor", [ADA, BOB], ids=["holder", "stranger"])
def test_refuses_a_transfer_whose_id_has_other_content(other: PostTransfers, actor: UUID) -> None:
    scene = given(LEDGER, account(ADA, 100), account(CLEO, 100)).when(post(TO_BOB), actor=ADA)
    rows = scene.rows()
    scene.when(other, actor=actor).then(not_posted("id_conflict", other.source_id)).leaves(*rows)


def test_refuses_a_credits_id_for_a_transfer() -> None:
    known = Transfer(TRANSFER, TransferKind.CREDIT, SALES, b"of a credit", None, (1,), NOW).sealed()
    rows = [account(ADA, 100), known]
    given(LEDGER, *rows).when(post(TO_BOB), actor=ADA).then(not_posted("id_conflict")).leaves(*rows)


def test_one_id_is_one_movement_of_whatever_kind() -> None:
    """Entries carry it, and the books could not tell whose they are."""
    moved = Transfer(HOLD, TransferKind.CREDIT, SALES, b"of a credit", None, (1,), NOW).sealed()
    rows = [account(ADA, 100), moved]
    scene = given(LEDGER, *rows).when(reserve()).then(not_reserved("id_conflict")).leaves(*rows)
    refused = ReleaseRefused(hold_id=HOLD, account_id=ADA, code="id_conflict", command_type=ReleaseHold.TYPE)
    scene.when(release()).then(refused).leaves(*rows)


def test_a_holds_id_can_be_no_transfers() -> None:
    rows = [account(ADA, 100, held=10), hold(HoldState.OPEN)]
    refused = CreditRefused(credit_id=HOLD, account_id=ADA, code="id_conflict", command_type=CreditUnits.TYPE)
    given(LEDGER, *rows).when(credit(5).model_copy(update={"credit_id": HOLD})).then(refused).leaves(*rows)
    not_moved = not_posted("id_conflict").model_copy(update={"transfer_id": HOLD})
    command = post(TO_BOB).model_copy(update={"transfer_id": HOLD})
    given(LEDGER, *rows).when(command, actor=ADA).then(not_moved).leaves(*rows)


@pytest.mark.parametrize("model", [CreditUnits, SpendUnits])
def test_a_client_can_choose_no_id_that_is_ours(model: type[Message]) -> None:
    field = {CreditUnits: "credit_id", SpendUnits: "spend_id"}[model]
    with pytest.raises(ValidationError, match="version 8"):
        model.model_validate({field: derive_own(ADA, "a transfer")})


@pytest.mark.parametrize("actor", [BOB, None], ids=["a target", "nobody"])
def test_refuses_a_transfer_of_a_stranger_and_leaves_its_id_to_the_holder(actor: UUID | None) -> None:
    scene = given(LEDGER, account(ADA, 100)).when(post(TO_BOB), actor=actor).then(not_posted("not_holder"))
    scene.leaves(account(ADA, 100))
    scene.when(post(TO_BOB), actor=ADA).then(posted((BOB, 10, 1)), changed(ADA, 90), changed(BOB, 10, revision=1))


@pytest.mark.parametrize("state", [EXPIRED, CLOSED])
def test_does_not_tell_a_stranger_how_an_account_is(state: AccountState) -> None:
    given(LEDGER, account(ADA, 1, state=state)).when(post(TO_BOB), actor=BOB).then(not_posted("not_holder"))


def test_does_not_tell_a_stranger_what_became_of_a_transfer() -> None:
    scene = given(LEDGER, account(ADA, 100)).when(post(TO_BOB), actor=ADA)
    rows = scene.rows()
    scene.when(post(TO_BOB), actor=BOB).then(not_posted("not_holder")).leaves(*rows)


WHY_NOT_POSTED: list[tuple[Account, Account, str]] = [
    (account(ADA, 1, state=CLOSED), account(BOB, 0, state=CLOSED), "account_closed"),
    (account(ADA, 1, state=EXPIRED), account(BOB, 0, state=CLOSED), "account_expired"),
    (account(ADA, 1), account(BOB, 0, state=CLOSED), "target_closed"),
    (account(ADA, 1), account(BOB, 0), "units_short"),
]


@pytest.mark.parametrize(("source", "target", "code"), WHY_NOT_POSTED, ids=[case[2] for case in WHY_NOT_POSTED])
def test_refuses_a_transfer_in_the_contracts_order_and_remembers_why(
    source: Account, target: Account, code: str
) -> None:
    scene = given(LEDGER, source, target).when(post(TO_BOB), actor=ADA).then(not_posted(code))
    refused = Transfer(TRANSFER, TransferKind.TRANSFER, ADA, scene.only(Transfer).content, code, (10,), NOW).sealed()
    scene.leaves(source, target, refused)
    scene.when(post(TO_BOB), actor=ADA).then(not_posted(code)).leaves(source, target, refused)


def test_an_expired_account_receives() -> None:
    scene = given(LEDGER, account(ADA, 100), account(BOB, 1, state=EXPIRED)).when(post(TO_BOB), actor=ADA)
    scene.then(posted((BOB, 10, 2)), changed(ADA, 90), changed(BOB, 11))


def test_one_closed_target_stops_the_whole_transfer_even_if_it_would_get_nothing() -> None:
    rows = [account(ADA, 100), account(CLEO, 25, state=CLOSED)]
    scene = given(LEDGER, *rows).when(post(TO_BOB, TO_CLEO), actor=ADA).then(not_posted("target_closed"))
    assert [row for row in scene.rows() if isinstance(row, Account)] == rows


def test_units_that_a_batch_brings_can_be_spent_in_it() -> None:
    scene = given(LEDGER).when(credit(10), post(TO_BOB), reserve(), actor=ADA)
    assert answers(scene) == [credited(10), posted((BOB, 10, 1)), not_reserved("units_short")]
    assert scene.database.contents.tables["accounts"][ADA] == account(ADA, 0, version=2, revision=2)


def answers(scene: Scene) -> list[Message]:
    """Return what was answered, without what is told of the balances."""
    return [effect for effect in scene.effects if isinstance(effect, Event) and not isinstance(effect, BalanceChanged)]


# --- spending ---


def spend(units: int = 10, account_id: UUID = ADA, **more: Any) -> SpendUnits:
    fields = {"purpose": "fax", "reference": "fax-1", **more}
    return SpendUnits(spend_id=SPEND, account_id=account_id, amount_units=units, **fields)


def spent(units: int = 10) -> UnitsSpent:
    return UnitsSpent(spend_id=SPEND, account_id=ADA, amount_units=units, purpose="fax", reference="fax-1")


def not_spent(code: str, account_id: UUID = ADA) -> SpendRefused:
    return SpendRefused(spend_id=SPEND, account_id=account_id, code=code, command_type=SpendUnits.TYPE)


def test_spends_units_on_what_was_used() -> None:
    scene = given(LEDGER, account(ADA, 15, 5)).when(spend(), actor=ADA).then(spent(), changed(ADA, 5, 5))
    scene.leaves(
        account(ADA, 5, 5, version=2, revision=2),
        Entry(SPEND, ADA, -10, 15, 5, 2, NOW),
        Entry(SPEND, CONSUMPTION, 10, None, None, None, NOW),
        Transfer(SPEND, TransferKind.SPEND, ADA, scene.only(Transfer).content, None, (10,), NOW, "fax-1").sealed(),
    )


def test_gives_the_same_spending_the_same_answer_and_takes_nothing_again() -> None:
    scene = given(LEDGER, account(ADA, 15)).when(spend(), spend(), actor=ADA).then(spent(), changed(ADA, 5), spent())
    rows = scene.rows()
    scene.when(spend(), actor=ADA).then(spent()).leaves(*rows)


@pytest.mark.parametrize(
    "other", [spend(11), spend(10, BOB), spend(purpose="sms"), spend(reference="fax-2")], ids=lambda c: repr(c)[-60:]
)
@pytest.mark.parametrize("actor", [ADA, CLEO], ids=["holder", "stranger"])
def test_refuses_spending_whose_id_has_other_content(other: SpendUnits, actor: UUID) -> None:
    scene = given(LEDGER, account(ADA, 100), account(BOB, 100)).when(spend(), actor=ADA)
    rows = scene.rows()
    scene.when(other, actor=actor).then(not_spent("id_conflict", other.account_id)).leaves(*rows)


@pytest.mark.parametrize("actor", [BOB, None], ids=["stranger", "nobody"])
def test_refuses_spending_of_a_stranger_and_leaves_its_id_to_the_holder(actor: UUID | None) -> None:
    scene = given(LEDGER, account(ADA, 15)).when(spend(), actor=actor).then(not_spent("not_holder"))
    scene.leaves(account(ADA, 15))
    scene.when(spend(), actor=ADA).then(spent(), changed(ADA, 5))
    scene.when(spend(), actor=actor).then(not_spent("not_holder"))


WHY_NOT_SPENT: list[tuple[Account, UUID, str]] = [
    (account(ADA, 9, state=CLOSED), BOB, "not_holder"),
    (account(ADA, 9, state=CLOSED), ADA, "account_closed"),
    (account(ADA, 9, state=EXPIRED), ADA, "account_expired"),
    (account(ADA, 9), ADA, "units_short"),
    (account(ADA, 15, 6), ADA, "units_short"),
]


@pytest.mark.parametrize(("ada", "actor", "code"), WHY_NOT_SPENT)
def test_refuses_spending_in_the_contracts_order(ada: Account, actor: UUID, code: str) -> None:
    given(LEDGER, ada).when(spend(), actor=actor).then(not_spent(code))


@pytest.mark.parametrize("ada", [case[0] for case in WHY_NOT_SPENT[1:]])
def test_stays_with_refused_spending_when_the_reason_is_gone(ada: Account) -> None:
    scene = given(LEDGER, ada).when(spend(), actor=ADA)
    refused = list(scene.effects)
    code = refused[0].code  # type: ignore[union-attr]
    content = scene.only(Transfer).content
    scene.leaves(ada, Transfer(SPEND, TransferKind.SPEND, ADA, content, code, (10,), NOW, "fax-1").sealed())
    scene.database.contents.tables["accounts"][ADA] = account(ADA, 1000)
    rows = scene.rows()
    scene.when(spend(), actor=ADA).then(*refused).leaves(*rows)


def test_spending_first_leaves_too_little_to_transfer() -> None:
    scene = given(LEDGER, account(ADA, 15)).when(spend(), post(TO_BOB), actor=ADA)
    scene.then(spent(), changed(ADA, 5), not_posted("units_short"))


def test_a_transfer_first_leaves_too_little_to_spend() -> None:
    scene = given(LEDGER, account(ADA, 15)).when(post(TO_BOB), spend(), actor=ADA)
    scene.then(posted((BOB, 10, 1)), changed(ADA, 5), changed(BOB, 10, revision=1), not_spent("units_short"))


# --- the life of an account ---

EXTENDED = AccountExtended(request_id=id_of("extension"), account_id=ADA, expires_at=NOW + timedelta(days=365))
EXPIRY = AccountExpired(account_id=ADA, expires_at=NOW)
CLOSING = AccountClosed(account_id=ADA)


LIVES: list[tuple[str, AccountState, Sequence[Message], AccountState]] = [
    ("expires", ACTIVE, [EXPIRY], EXPIRED),
    ("is extended", EXPIRED, [EXTENDED], ACTIVE),
    ("is extended, then expires", ACTIVE, [EXTENDED, EXPIRY], EXPIRED),
    ("expires, then is extended", ACTIVE, [EXPIRY, EXTENDED], ACTIVE),
    ("is closed", ACTIVE, [CLOSING], CLOSED),
    ("is closed when expired", EXPIRED, [CLOSING], CLOSED),
    ("is closed forever", CLOSED, [EXTENDED, EXPIRY, EXTENDED], CLOSED),
]


@pytest.mark.parametrize(("before", "events", "after"), [case[1:] for case in LIVES], ids=[case[0] for case in LIVES])
def test_an_account(before: AccountState, events: Sequence[Message], after: AccountState) -> None:
    scene = given(LEDGER, account(ADA, 7, 3, state=before)).when(*events).then()
    scene.leaves(account(ADA, 7, 3, state=after))


def test_an_extension_that_is_told_again_after_its_end_makes_nothing_active() -> None:
    over = EXTENDED.model_copy(update={"expires_at": NOW})
    given(LEDGER, account(ADA, 7, state=EXPIRED)).when(over).then().leaves(account(ADA, 7, state=EXPIRED))


@pytest.mark.parametrize(("event", "state"), [(EXPIRY, EXPIRED), (CLOSING, CLOSED)])
def test_an_account_of_which_nothing_was_known_ends_all_the_same(event: Message, state: AccountState) -> None:
    given(LEDGER).when(event).then().leaves(Account(ADA, 0, 0, 0, state, 0))


def test_an_account_that_begins_costs_nothing() -> None:
    assert AccountProvisioned not in LEDGER.handlers
    given(LEDGER).when(EXTENDED).then().leaves()


def test_an_extension_comes_before_or_after_a_spending() -> None:
    late = given(LEDGER, account(ADA, 15)).when(EXPIRY, incoming(spend(), ADA), EXTENDED)
    late.then(not_spent("account_expired"))
    early = given(LEDGER, account(ADA, 15)).when(EXPIRY, EXTENDED, incoming(spend(), ADA))
    early.then(spent(), changed(ADA, 5))


# --- corrections ---


def correct(units: int, id_: UUID = CORRECTION) -> CorrectBalance:
    return CorrectBalance(
        correction_id=id_, account_id=ADA, amount_units=units, reason="charged twice", operator="Olga"
    )


def corrected(units: int) -> BalanceCorrected:
    return BalanceCorrected(correction_id=CORRECTION, account_id=ADA, amount_units=units)


def audit(units: int, code: str | None = None) -> Correction:
    return Correction(CORRECTION, ADA, units, "charged twice", "Olga", code, NOW)


@pytest.mark.parametrize("units", [7, -7, -10])
@pytest.mark.parametrize("state", AccountState)
def test_posts_a_correction_whatever_the_accounts_state(units: int, state: AccountState) -> None:
    scene = given(LEDGER, account(ADA, 15, 5, state=state)).when(correct(units))
    scene.then(corrected(units), changed(ADA, 15 + units, 5))
    scene.leaves(
        account(ADA, 15 + units, 5, version=2, revision=2, state=state),
        Entry(CORRECTION, ADA, units, 15, 15 + units, 2, NOW),
        Entry(CORRECTION, CORRECTIONS, -units, None, None, None, NOW),
        Transfer(
            CORRECTION, TransferKind.CORRECTION, CORRECTIONS, scene.only(Transfer).content, None, (units,), NOW
        ).sealed(),
        audit(units),
    )


def test_refuses_a_correction_that_would_take_more_than_is_available_and_keeps_the_audit() -> None:
    ada = account(ADA, 15, 5)
    scene = given(LEDGER, ada).when(correct(-11)).then().leaves(ada, audit(-11, "units_short"))
    scene.when(credit(1000)).when(correct(-11)).then()


def test_a_correction_is_posted_once() -> None:
    scene = given(LEDGER, account(ADA, 15)).when(correct(5), correct(5))
    scene.then(corrected(5), changed(ADA, 20), corrected(5))
    rows = scene.rows()
    scene.when(correct(99)).then(corrected(5)).leaves(*rows)


def test_refuses_a_correction_under_the_id_of_another_movement() -> None:
    scene = given(LEDGER).when(credit(7))
    rows = scene.rows()
    refused = Correction(CREDIT, ADA, 5, "charged twice", "Olga", "id_conflict", NOW)
    scene.when(correct(5, id_=CREDIT)).then().leaves(*rows, refused)


def test_tells_nobody_why_or_who_it_was() -> None:
    scene = given(LEDGER).when(correct(5))
    told = b"".join(effect.to_json() for effect in scene.effects if isinstance(effect, Message))
    assert b"charged" not in told
    assert b"Olga" not in told


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount_units": 0},
        {"amount_units": 10**9 + 1},
        {"amount_units": -(10**9) - 1},
        {"reason": "no"},
        {"reason": "x" * 201},
        {"reason": "two\nlines"},
        {"operator": " "},
    ],
    ids=lambda fields: repr(fields)[:40],
)
def test_a_correction_says_how_much_why_and_who(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CorrectBalance.model_validate(correct(5).model_dump() | wrong)


# --- what the version before has written ---

# Digests of contents that stand in the tables of the version before: the commands had no optional field yet.
CONTENT_OF_A_TRANSFER = bytes.fromhex("ee6a110e92f3f9bec24e1e687b0ce711")
CONTENT_OF_A_CREDIT = bytes.fromhex("d63db8f80b0d41de8391f2c71c95790c")


def test_knows_a_transfer_again_that_the_version_before_posted() -> None:
    one, two, three, four = (UUID(int=n) for n in (1, 2, 3, 4))
    legs = (Leg(account_id=three, amount_units=10), Leg(account_id=four, top_up_to_units=25))
    command = PostTransfers(transfer_id=one, source_id=two, legs=legs)
    known = Transfer(one, TransferKind.TRANSFER, two, CONTENT_OF_A_TRANSFER, None, (10, 0), NOW).sealed()
    scene = given(LEDGER, known).when(command, actor=two).leaves(known)
    assert [type(effect) for effect in scene.effects] == [TransfersPosted]


def test_knows_a_credit_again_that_the_version_before_posted() -> None:
    command = CreditUnits(credit_id=UUID(int=1), account_id=UUID(int=2), amount_units=7)
    known = Transfer(UUID(int=1), TransferKind.CREDIT, SALES, CONTENT_OF_A_CREDIT, None, (7,), NOW).sealed()
    scene = given(LEDGER, known).when(command).leaves(known)
    assert [type(effect) for effect in scene.effects] == [UnitsCredited]


def test_popfaxs_own_accounts_are_all_different() -> None:
    assert frozenset({SALES, SUBSCRIPTIONS, CONSUMPTION, CORRECTIONS}) == OWN_ACCOUNTS
    assert len(OWN_ACCOUNTS) == 4


@pytest.mark.parametrize("own", sorted(OWN_ACCOUNTS))
def test_popfaxs_own_accounts_are_closed_to_whoever_names_them(own: UUID) -> None:
    body = CreditUnits(credit_id=CREDIT, account_id=own, amount_units=1)
    refused = CreditRefused(credit_id=CREDIT, account_id=own, code="account_closed", command_type=body.TYPE)
    scene = given(LEDGER).when(body).then(refused)
    correction = CorrectBalance(
        correction_id=CORRECTION, account_id=own, amount_units=1, reason="by hand", operator="Eve"
    )
    scene.when(correction).then()
    assert scene.only(Correction).code == "account_closed"
    assert [row for row in scene.rows() if isinstance(row, Account | Entry)] == []
