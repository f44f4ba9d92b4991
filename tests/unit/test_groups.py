"""Groups' decisions, and every turn that the account-creation saga can take."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from popfax_contracts.fields import Language
from popfax_contracts.groups import (
    CreateMemberAccount,
    InvitationRefused,
    InvitationRevoked,
    InvitationSent,
    InviteByEmail,
    MemberAccountCreated,
    MemberAccountRefused,
    MemberJoined,
    MemberLeft,
    MembershipEnded,
    MembershipRecorded,
)
from popfax_contracts.ledger import CaptureHold, HoldCaptured, HoldReleased, ReleaseHold, ReserveUnits, UnitsRefused
from popfax_contracts.ledger import UnitsReserved as Reserved
from popfax_contracts.message import Message, group_of
from popfax_contracts.provisioning import (
    AccountClosed,
    AccountProvisioned,
    AccountRefused,
    CancelProvisioning,
    PersonRecorded,
    PlanPublished,
    ProvisionAccount,
)
from services.chassis.messages import ClearTimer, Effect, Incoming
from services.chassis.sagas import TRAIL_LENGTH, CancelSaga, RetrySaga, SagaDeadline, SagaRow, Status
from services.groups.consumers import GROUPS, with_quotas
from services.groups.domain import (
    AccountState,
    Group,
    HistoryEntry,
    Invitation,
    InvitationState,
    Kind,
    Membership,
    Plan,
    Quotas,
    Subscriber,
    Tally,
    account_of,
    history_of_membership,
    membership_of,
    sent_invitations_tally,
)
from services.groups.store import saga_of
from tests.unit.given import NOW, Scene, given, id_of, incoming

ADA, BOB = id_of("ada"), id_of("bob")
GROUP = group_of(ADA)
PLAN = Plan("send_receive", 20, 12)
COMMAND = CreateMemberAccount(
    group_id=GROUP,
    plan="send_receive",
    price_units=20,
    email="new@example.org",
    first_name="Grace",
    last_name="H.",
    language=Language.FR,
)
ASKED = incoming(COMMAND, ADA)
SAGA = saga_of(ASKED)
MEMBER = account_of(SAGA)

RESERVE = ReserveUnits(hold_id=SAGA, account_id=ADA, amount_units=20)
RELEASE = ReleaseHold(hold_id=SAGA, account_id=ADA)
PROVISION = ProvisionAccount(
    request_id=SAGA,
    account_id=MEMBER,
    plan="send_receive",
    price_units=20,
    email="new@example.org",
    first_name="Grace",
    last_name="H.",
    language=Language.FR,
)
CANCEL_PROVISIONING = CancelProvisioning(request_id=SAGA, account_id=MEMBER)
CAPTURE = CaptureHold(hold_id=SAGA, account_id=ADA)

RESERVED = Reserved(hold_id=SAGA, account_id=ADA, amount_units=20)
SHORT = UnitsRefused(hold_id=SAGA, account_id=ADA, code="units_short", command_type=ReserveUnits.TYPE)
PROVISIONED = AccountProvisioned(
    request_id=SAGA, account_id=MEMBER, plan="send_receive", expires_at=NOW + timedelta(365)
)
TAKEN = AccountRefused(request_id=SAGA, account_id=MEMBER, code="email_taken", command_type=ProvisionAccount.TYPE)
CALLED_OFF = AccountRefused(request_id=SAGA, account_id=MEMBER, code="cancelled", command_type=ProvisionAccount.TYPE)
CAPTURED = HoldCaptured(hold_id=SAGA, account_id=ADA, amount_units=20)
RELEASED = HoldReleased(hold_id=SAGA, account_id=ADA, amount_units=20)

DEADLINE = SagaDeadline(saga_id=SAGA)
RETRY = RetrySaga(saga_id=SAGA)
CANCEL = CancelSaga(saga_id=SAGA)


JOINED = MemberJoined(group_id=GROUP, owner_id=ADA, member_id=MEMBER, epoch=1, via="account_created")
CREATED = MemberAccountCreated(
    group_id=GROUP, owner_id=ADA, member_id=MEMBER, plan="send_receive", price_units=20, request_id=SAGA
)
MEMBERSHIP = Membership(membership_of(GROUP, MEMBER), GROUP, ADA, MEMBER, True, 1, None, NOW, None)
RECORDED = MembershipRecorded(
    membership_id=MEMBERSHIP.id, group_id=GROUP, owner_id=ADA, member_id=MEMBER, epoch=1, state="active", joined_at=NOW
)
LEFT = MemberLeft(group_id=GROUP, owner_id=ADA, member_id=MEMBER, epoch=1, via="group_closed")
FORGOTTEN = MembershipEnded(membership_id=MEMBERSHIP.id)
IN_HISTORY = HistoryEntry(
    id=history_of_membership(MEMBERSHIP.id, 1),
    group_id=GROUP,
    kind=Kind.MEMBERSHIP,
    at=NOW,
    actor_id=ADA,
    member_id=MEMBER,
    reference_id=MEMBERSHIP.id,
    units=None,
    outcome="active",
    code="account_created",
    ended_at=None,
)


ASKED_ONCE = Tally(sent_invitations_tally(ADA), 0, NOW.date(), 1)
"""What a command that tells of an address leaves of its question."""


def creation(outcome: str, code: str | None = None) -> HistoryEntry:
    """The line that tells how far the saga has got."""
    member, ended_at = MEMBER if outcome == "created" else None, None if outcome == "pending" else NOW
    return HistoryEntry(SAGA, GROUP, Kind.ACCOUNT, NOW, ADA, member, SAGA, 20, outcome, code, ended_at)


def subscriber(id_: UUID, state: AccountState = AccountState.ACTIVE, expires_at: datetime | None = None) -> Subscriber:
    """Somebody of whom only the account is known."""
    return Subscriber(id_, None, None, None, None, state, expires_at, 0, 0)


def refused(code: str, group_id: UUID = GROUP) -> MemberAccountRefused:
    return MemberAccountRefused(group_id=group_id, code=code, command_type=CreateMemberAccount.TYPE)


def after(*messages: Message) -> Scene:
    """The saga is open, and these messages came, each in a batch of its own."""
    scene = given(GROUPS, PLAN).when(ASKED)
    for message in messages:
        scene.when(incoming(message, id_=id_of(f"{message!r}")))
    return scene


def saga(scene: Scene) -> SagaRow:
    found = scene.only(SagaRow)
    assert isinstance(found, SagaRow)
    return found


# --- opening ---


def test_opens_a_saga_that_asks_for_the_units_and_sets_a_deadline() -> None:
    scene = given(GROUPS, PLAN).when(ASKED).then(RESERVE)
    data = COMMAND.model_dump(mode="json") | {"owner_id": str(ADA)}
    trail = (f"{NOW.isoformat(timespec='milliseconds')} opened",)
    scene.leaves(
        PLAN,
        SagaRow(
            SAGA,
            "create-member-account",
            Status.RUNNING,
            "reserve units",
            None,
            data,
            "correlation",
            ASKED.id,
            ADA,
            NOW,
            NOW,
            None,
            trail,
        ),
        creation("pending"),
        ASKED_ONCE,
    )


HOLDER = replace(subscriber(BOB), email="new@example.org")
MEMBER_ALREADY = Membership(membership_of(GROUP, BOB), GROUP, ADA, BOB, True, 1, None, NOW, None)
RAISED = Plan("send_receive", 21, 12)
CLOSED = Group(GROUP, ADA, "", False, NOW)

# Each has what the codes after it need as well: the first that is found is told.
REFUSALS: list[tuple[str, list[Any], UUID | None]] = [
    ("not_owner", [HOLDER, MEMBER_ALREADY], BOB),
    ("not_owner", [CLOSED, HOLDER, MEMBER_ALREADY], BOB),
    ("not_owner", [PLAN], None),
    ("group_closed", [CLOSED, HOLDER, MEMBER_ALREADY], ADA),
    ("unknown_plan", [HOLDER, MEMBER_ALREADY], ADA),
    ("not_on_sale", [replace(RAISED, on_sale=False), HOLDER, MEMBER_ALREADY], ADA),
    ("price_changed", [RAISED, HOLDER, MEMBER_ALREADY], ADA),
    ("already_member", [PLAN, HOLDER, MEMBER_ALREADY], ADA),
    ("email_taken", [PLAN, HOLDER], ADA),
]


@pytest.mark.parametrize(("code", "rows", "actor"), REFUSALS)
def test_refuses_in_the_documented_order_and_asks_nobody(code: str, rows: list[Any], actor: UUID | None) -> None:
    counted = [ASKED_ONCE] if code in {"already_member", "email_taken"} else []  # what tells of the address
    given(GROUPS, *rows).when(COMMAND, actor=actor).then(refused(code)).leaves(*rows, *counted)


@pytest.mark.parametrize(("rows", "code"), [([HOLDER], "email_taken"), ([HOLDER, MEMBER_ALREADY], "already_member")])
def test_what_a_refusal_tells_of_an_address_has_the_quota_of_invitations(rows: list[Any], code: str) -> None:
    service = with_quotas(Quotas(owner_day=2))
    asked = [incoming(COMMAND, ADA, id_of(f"question {n}")) for n in range(3)]
    given(service, PLAN, *rows).when(*asked).then(refused(code), refused(code), refused("quota_owner_day"))


def test_one_quota_is_for_invitations_and_accounts_together_and_counts_what_is_asked_further() -> None:
    service = with_quotas(Quotas(owner_day=3))
    invite = incoming(InviteByEmail(group_id=GROUP, email="nobody@example.org"), ADA)
    scene = given(service, PLAN).when(invite, ASKED, incoming(COMMAND, ADA, id_of("second")))
    assert [type(effect) for effect in scene.effects][1:] == [ReserveUnits] * 2
    scene.when(incoming(COMMAND, ADA, id_of("third"))).then(refused("quota_owner_day"))
    scene.when(incoming(InviteByEmail(group_id=GROUP, email="nobody@example.org"), ADA, id_of("fourth"))).then(
        InvitationRefused(group_id=GROUP, code="quota_owner_day", command_type=InviteByEmail.TYPE)
    )
    raised = replace(PLAN, price_units=21)
    given(service, raised, Tally(sent_invitations_tally(ADA), 0, NOW.date(), 3)).when(ASKED).then(
        refused("price_changed")
    )


def test_a_member_of_another_group_is_no_member_of_this_one() -> None:
    elsewhere = Membership(membership_of(group_of(BOB), BOB), group_of(BOB), BOB, BOB, True, 1, None, NOW, None)
    given(GROUPS, PLAN, HOLDER, elsewhere).when(ASKED).then(refused("email_taken"))


def test_an_address_that_is_recorded_in_the_same_batch_is_taken() -> None:
    person = PersonRecorded(
        subscriber_id=BOB, email="new@example.org", first_name="Bob", last_name="M.", language=Language.EN
    )
    given(GROUPS, PLAN, MEMBER_ALREADY).when(person, ASKED).then(refused("already_member"))


def test_a_repetition_that_the_inbox_let_through_does_not_begin_again() -> None:
    for scene in (after(), after(RESERVED), after(RESERVED, PROVISIONED, CAPTURED), after(SHORT)):
        rows = scene.rows()
        scene.when(ASKED).then().leaves(*rows)


def test_a_repetition_meets_the_line_of_a_saga_that_was_removed_years_ago() -> None:
    for line in (creation("created"), creation("refused", "units_short")):
        given(GROUPS, PLAN, line).when(ASKED).then().leaves(PLAN, line)


def test_two_commands_open_two_sagas() -> None:
    other = incoming(COMMAND, ADA, id_of("another command"))
    scene = given(GROUPS, PLAN).when(ASKED, other)
    assert [type(effect) for effect in scene.effects] == [ReserveUnits] * 2
    assert {row.id for row in scene.rows() if isinstance(row, SagaRow)} == {SAGA, saga_of(other)}


# --- the way ---


@dataclass(frozen=True)
class Turn:
    """What came before, what comes, what the saga answers, and where it is then."""

    name: str
    past: Sequence[Message]
    comes: Message
    sends: Sequence[Effect] = ()
    status: Status = Status.RUNNING
    step: str = "reserve units"
    code: str | None = None
    membership: bool = False


COMPENSATING, CANCELLING = Status.COMPENSATING, Status.CANCELLING
COMPLETED, REFUSED = Status.COMPLETED, Status.REFUSED
PIVOT, LAST = "provision account", "capture hold"

TURNS = [
    # There:
    Turn("reserved: ask for the account", [], RESERVED, [PROVISION], step=PIVOT),
    Turn("provisioned: past the pivot", [RESERVED], PROVISIONED, [CAPTURE], step=LAST),
    Turn(
        "captured: the end",
        [RESERVED, PROVISIONED],
        CAPTURED,
        [JOINED, RECORDED, CREATED],
        COMPLETED,
        LAST,
        membership=True,
    ),
    # And back:
    Turn("units short", [], SHORT, [refused("units_short")], REFUSED, code="units_short"),
    Turn("account refused: release", [RESERVED], TAKEN, [RELEASE], COMPENSATING, code="email_taken"),
    Turn(
        "released: the end",
        [RESERVED, TAKEN],
        RELEASED,
        [refused("email_taken")],
        REFUSED,
        code="email_taken",
    ),
    # The deadline, at each step:
    Turn("deadline before the reservation is known", [], DEADLINE, [RELEASE], COMPENSATING, code="timed_out"),
    Turn(
        "deadline at the pivot: who won?", [RESERVED], DEADLINE, [CANCEL_PROVISIONING], CANCELLING, PIVOT, "timed_out"
    ),
    Turn("deadline past the pivot: only forward", [RESERVED, PROVISIONED], DEADLINE, step=LAST),
    Turn("deadline while compensating", [RESERVED, TAKEN], DEADLINE, [], COMPENSATING, code="email_taken"),
    Turn("deadline after the end", [SHORT], DEADLINE, [], REFUSED, code="units_short"),
    Turn("deadline while cancelling", [RESERVED, CANCEL], DEADLINE, [], CANCELLING, PIVOT, "cancelled"),
    # After the deadline before the reservation was known:
    Turn("reserved after all: still released", [DEADLINE], RESERVED, [], COMPENSATING, code="timed_out"),
    Turn("refused after all: still released", [DEADLINE], SHORT, [], COMPENSATING, code="timed_out"),
    Turn(
        "released: timed out",
        [DEADLINE],
        RELEASED,
        [refused("timed_out")],
        REFUSED,
        code="timed_out",
    ),
    # After the deadline at the pivot:
    Turn("the account won", [RESERVED, DEADLINE], PROVISIONED, [CAPTURE], step=LAST),
    Turn("the cancellation won", [RESERVED, DEADLINE], CALLED_OFF, [RELEASE], COMPENSATING, code="timed_out"),
    Turn("it had been refused anyway", [RESERVED, DEADLINE], TAKEN, [RELEASE], COMPENSATING, code="timed_out"),
    Turn(
        "released after the cancellation won",
        [RESERVED, DEADLINE, CALLED_OFF],
        RELEASED,
        [refused("timed_out")],
        REFUSED,
        code="timed_out",
    ),
    # An operator:
    Turn("cancelled before the reservation is known", [], CANCEL, [RELEASE], COMPENSATING, code="cancelled"),
    Turn("cancelled at the pivot", [RESERVED], CANCEL, [CANCEL_PROVISIONING], CANCELLING, PIVOT, "cancelled"),
    Turn("cancelled past the pivot: only forward", [RESERVED, PROVISIONED], CANCEL, step=LAST),
    Turn("cancelled after the end", [RESERVED, PROVISIONED, CAPTURED], CANCEL, [], COMPLETED, LAST, None, True),
    Turn("asked again: the reservation", [], RETRY, [RESERVE]),
    Turn("asked again: the account", [RESERVED], RETRY, [PROVISION], step=PIVOT),
    Turn("asked again: who won", [RESERVED, CANCEL], RETRY, [CANCEL_PROVISIONING], CANCELLING, PIVOT, "cancelled"),
    Turn("asked again: the release", [RESERVED, TAKEN], RETRY, [RELEASE], COMPENSATING, code="email_taken"),
    Turn("asked again: the release of what is unknown", [CANCEL], RETRY, [RELEASE], COMPENSATING, code="cancelled"),
    Turn("asked again: the capture", [RESERVED, PROVISIONED], RETRY, [CAPTURE], step=LAST),
    Turn("asked again after the end", [SHORT], RETRY, [], REFUSED, code="units_short"),
    # Late and repeated replies are recorded, and no more:
    Turn("reserved, again", [RESERVED], RESERVED, step=PIVOT),
    Turn("short, after it was reserved", [RESERVED], SHORT, step=PIVOT),
    Turn("provisioned, again", [RESERVED, PROVISIONED], PROVISIONED, step=LAST),
    Turn("refused, past the pivot", [RESERVED, PROVISIONED], CALLED_OFF, step=LAST),
    Turn("released, out of turn", [RESERVED], RELEASED, step=PIVOT),
    Turn("captured, out of turn", [], CAPTURED),
    Turn("provisioned, out of turn", [], PROVISIONED),
    Turn("refused again while compensating", [RESERVED, TAKEN], CALLED_OFF, [], COMPENSATING, code="email_taken"),
    # After the end, the counter-action that is due:
    Turn("reserved after it was refused: released", [SHORT], RESERVED, [RELEASE], REFUSED, code="units_short"),
    Turn("released again after the end", [DEADLINE, RELEASED], RELEASED, [], REFUSED, code="timed_out"),
    Turn("refused again after the end", [SHORT], SHORT, [], REFUSED, code="units_short"),
    Turn("captured again", [RESERVED, PROVISIONED, CAPTURED], CAPTURED, [], COMPLETED, LAST, None, True),
    Turn(
        "reserved after it was completed", [RESERVED, PROVISIONED, CAPTURED], RESERVED, [], COMPLETED, LAST, None, True
    ),
]


@pytest.mark.parametrize("turn", TURNS, ids=[turn.name for turn in TURNS])
def test_saga(turn: Turn) -> None:
    scene = after(*turn.past).when(incoming(turn.comes, id_=id_of("this one"))).then(*turn.sends)
    row = saga(scene)
    assert (row.status, row.step, row.code) == (turn.status, turn.step, turn.code)
    assert (row.ended_at is not None) is (turn.status in (COMPLETED, REFUSED))
    memberships = [found for found in scene.rows() if isinstance(found, Membership)]
    assert memberships == ([MEMBERSHIP] if turn.membership else [])
    history = [found for found in scene.rows() if isinstance(found, HistoryEntry)]
    assert sorted(history, key=repr) == sorted(told(turn), key=repr)


def told(turn: Turn) -> list[HistoryEntry]:
    """What the history tells of the saga: that it waits, and then how it ended."""
    if turn.status is COMPLETED:
        return [creation("created"), IN_HISTORY]
    return [creation("refused", turn.code) if turn.status is REFUSED else creation("pending")]


@pytest.mark.parametrize("code", ["account_closed", "account_expired", "units_short"])
def test_passes_on_why_the_ledger_refuses(code: str) -> None:
    after().when(SHORT.model_copy(update={"code": code})).then(refused(code))


@pytest.mark.parametrize(
    "code", ["id_conflict", "unknown_plan", "not_on_sale", "price_changed", "email_taken", "no_fax_number"]
)
def test_passes_on_why_provisioning_refuses(code: str) -> None:
    scene = after(RESERVED).when(TAKEN.model_copy(update={"code": code})).then(RELEASE)
    scene.when(RELEASED).then(refused(code))


def test_is_refused_when_an_operator_calls_it_off() -> None:
    after().when(CANCEL).then(RELEASE).when(RELEASED).then(refused("cancelled"))


@pytest.mark.parametrize(("end", "outcome", "code"), [(CAPTURED, "created", None), (SHORT, "refused", "units_short")])
def test_the_line_keeps_its_place_when_the_saga_ends(end: Message, outcome: str, code: str | None) -> None:
    later = NOW + timedelta(minutes=1)
    scene = (after() if end is SHORT else after(RESERVED, PROVISIONED)).when(end, at=later)
    assert replace(creation(outcome, code), ended_at=later) in scene.rows()


def test_the_account_is_closed_before_it_is_a_member() -> None:
    """The member's own: what provisioning tells of them comes in its order, the ledger's answer in its own."""
    scene = after(RESERVED, PROVISIONED, AccountClosed(account_id=MEMBER)).when(CAPTURED)
    left = LEFT.model_copy(update={"via": "account_closed"})
    scene.then(JOINED, RECORDED, left, FORGOTTEN, CREATED)
    assert scene.only(Membership) == replace(MEMBERSHIP, active=False, ended_at=NOW)


@pytest.mark.parametrize("together", [True, False])
def test_a_membership_of_a_group_that_closed_meanwhile_is_made_and_ended_at_once(together: bool) -> None:
    closed = AccountClosed(account_id=ADA)
    scene = after(RESERVED, PROVISIONED)
    if together:
        scene.when(closed, CAPTURED)
    else:
        scene.when(closed).when(CAPTURED)
    scene.then(JOINED, RECORDED, LEFT, FORGOTTEN, CREATED).leaves(
        PLAN,
        saga(scene),
        replace(subscriber(MEMBER, expires_at=PROVISIONED.expires_at), plan="send_receive"),
        subscriber(ADA, AccountState.CLOSED),
        CLOSED,
        replace(MEMBERSHIP, active=False, ended_at=NOW),
        creation("created"),
        ASKED_ONCE,
        replace(IN_HISTORY, outcome="group_closed", ended_at=NOW),
    )


@pytest.mark.parametrize("together", [True, False])
def test_a_group_that_closes_right_after_ends_the_membership(together: bool) -> None:
    closed = AccountClosed(account_id=ADA)
    if together:
        scene = after(RESERVED, PROVISIONED).when(CAPTURED, closed).then(JOINED, RECORDED, CREATED, LEFT, FORGOTTEN)
    else:
        scene = after(RESERVED, PROVISIONED, CAPTURED).when(closed).then(LEFT, FORGOTTEN)
    assert scene.only(Membership) == replace(MEMBERSHIP, active=False, ended_at=NOW)


PERSON = PersonRecorded(
    subscriber_id=MEMBER, email="new@example.org", first_name="Grace", last_name="H.", language=Language.FR
)
INVITE = incoming(InviteByEmail(group_id=GROUP, email="new@example.org"), ADA)
BATCHES: list[list[list[Message | Incoming[Message]]]] = [
    [[PERSON], [INVITE], [CAPTURED]],
    [[PERSON, INVITE], [CAPTURED]],
    [[PERSON], [INVITE, CAPTURED]],
    [[PERSON, INVITE, CAPTURED]],
]


@pytest.mark.parametrize("batches", BATCHES)
def test_an_invitation_of_whose_account_is_being_created_is_void_when_they_are_a_member(
    batches: list[list[Message | Incoming[Message]]],
) -> None:
    scene = after(RESERVED, PROVISIONED)
    effects: list[Effect] = []
    for batch in batches:
        effects += scene.when(*batch).effects
    invitation = scene.only(Invitation)
    void = InvitationRevoked(
        group_id=GROUP, owner_id=ADA, invitation_id=invitation.id, subscriber_id=MEMBER, reason="joined"
    )
    assert [type(effect) for effect in effects[:1]] == [InvitationSent]
    assert effects[3:] == [void, ClearTimer(invitation.id), JOINED, RECORDED, CREATED]
    assert (invitation.state, scene.only(Membership)) == (InvitationState.REVOKED, MEMBERSHIP)


def test_every_reply_in_one_batch_takes_the_saga_to_its_end() -> None:
    scene = after().when(RESERVED, PROVISIONED, CAPTURED)
    scene.then(PROVISION, CAPTURE, JOINED, RECORDED, CREATED)


@pytest.mark.parametrize("past", [[RESERVED, PROVISIONED, CAPTURED], [SHORT]], ids=["completed", "refused"])
def test_forgets_personal_data_at_the_end_and_not_before(past: Sequence[Message]) -> None:
    personal = {"email", "first_name", "last_name", "language"}
    assert personal <= saga(after(*past[:-1])).data.keys()
    assert not personal & saga(after(*past)).data.keys()


def test_remembers_what_happened_to_it_and_lets_the_oldest_fall_off() -> None:
    row = saga(after(RESERVED, DEADLINE, PROVISIONED, CAPTURED))
    told = [line.split(" ", 1)[1] for line in row.trail]
    assert told == ["opened", "UnitsReserved", "timed_out", "AccountProvisioned", "HoldCaptured", "completed"]
    scene = given(GROUPS, replace(row, status=Status.RUNNING, trail=("x oldest",) * TRAIL_LENGTH)).when(RETRY)
    assert len(saga(scene).trail) == TRAIL_LENGTH
    assert saga(scene).trail[-1].endswith("asked again")


@pytest.mark.parametrize("message", [RESERVED, SHORT, PROVISIONED, TAKEN, CAPTURED, RELEASED, DEADLINE, RETRY, CANCEL])
def test_leaves_alone_what_is_another_services_sagas(message: Message) -> None:
    known = replace(subscriber(MEMBER, expires_at=PROVISIONED.expires_at), plan="send_receive")
    learned = [known] if message is PROVISIONED else []
    given(GROUPS, PLAN).when(message).then().leaves(PLAN, *learned)


# --- what groups learns of plans ---


def test_learns_todays_price() -> None:
    published = PlanPublished(plan="send_receive", price_units=25, validity_months=12, fax_number=True)
    given(GROUPS, PLAN).when(published).then().leaves(Plan("send_receive", 25, 12))
    given(GROUPS, PLAN).when(published, ASKED).then(refused("price_changed"))
    gone = published.model_copy(update={"on_sale": False})
    given(GROUPS, PLAN).when(gone).then().leaves(Plan("send_receive", 25, 12, on_sale=False))
