"""Transfers: who may get units, what is asked of the ledger, and what each side is told of the outcome."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import pytest

from popfax_contracts.groups import (
    DetachMembers,
    LeaveGroup,
    MemberLeft,
    MemberRef,
    MembersDetached,
    MembershipEnded,
    TransferredLeg,
    TransferRefused,
    TransferUnits,
    UnitsReceived,
    UnitsTransferred,
)
from popfax_contracts.ledger import Leg, PostedLeg, PostTransfers, TransfersPosted, TransfersRefused
from popfax_contracts.message import Message, group_of
from services.chassis.messages import ClearTimer, Effect, Incoming, SetTimer
from services.groups.consumers import GROUPS
from services.groups.domain import (
    ASKED_AGAIN,
    Group,
    HistoryEntry,
    Kind,
    Membership,
    Transfer,
    TransferState,
    history_of_leg,
    history_of_membership,
    membership_of,
)
from services.groups.store import transfer_of
from services.groups.timers import RetryTransfer, TransferDue
from tests.unit.given import NOW, Scene, given, id_of, incoming

ADA, BOB, EVE, JOE = id_of("ada"), id_of("bob"), id_of("eve"), id_of("joe")
GROUP = group_of(ADA)
THEN = NOW - timedelta(days=9)
CLOSED = Group(GROUP, ADA, "", False, NOW)
Mode = Literal["amount", "top_up_to"]


def member(who: UUID, owner: UUID = ADA, *, active: bool = True) -> list[Any]:
    group_id = group_of(owner)
    row = Membership(membership_of(group_id, who), group_id, owner, who, active, 1, None, THEN, None)
    id_ = history_of_membership(row.id, 1)
    outcome = "active" if active else "left"
    line = HistoryEntry(id_, group_id, Kind.MEMBERSHIP, THEN, who, who, row.id, None, outcome, None, None)
    return [row, line]


MEMBERS = [*member(BOB), *member(EVE)]


def give(members: Any, mode: Mode = "amount", amount: int = 5, id_: str = "give") -> Incoming[Message]:
    command = TransferUnits(group_id=GROUP, mode=mode, amount_units=amount, members=members)
    return incoming(command, ADA, id_of(id_))


GIVE = give((BOB, EVE))
ID = transfer_of(GIVE)


def asked(*legs: Leg, transfer_id: UUID = ID, again_at: datetime = NOW + ASKED_AGAIN) -> list[Effect]:
    """What is asked of the ledger, always with the same content, and when it is asked again."""
    ordered = tuple(sorted(legs, key=lambda leg: leg.account_id))
    post = PostTransfers(transfer_id=transfer_id, source_id=ADA, reference=str(GROUP), legs=ordered)
    return [post, SetTimer(transfer_id, again_at, TransferDue(transfer_id=transfer_id))]


def legs(*members: UUID, mode: Mode = "amount", amount: int = 5) -> tuple[Leg, ...]:
    if mode == "amount":
        return tuple(Leg(account_id=id_, amount_units=amount) for id_ in members)
    return tuple(Leg(account_id=id_, top_up_to_units=amount) for id_ in members)


def line(who: UUID, outcome: str = "pending", units: int | None = None, code: str | None = None) -> HistoryEntry:
    ended_at = None if outcome == "pending" else NOW
    id_ = history_of_leg(ID, who)
    return HistoryEntry(id_, GROUP, Kind.TRANSFER, NOW, ADA, who, ID, units, outcome, code, ended_at)


def row(mode: Mode = "amount", amount: int = 5) -> Transfer:
    return Transfer(ID, GROUP, ADA, mode, amount, TransferState.PENDING, None, None, NOW, None)


def refused(code: str, *members: UUID, transfer_id: UUID = ID) -> TransferRefused:
    return TransferRefused(
        group_id=GROUP, transfer_id=transfer_id, code=code, command_type=TransferUnits.TYPE, members=members
    )


# --- asking ---


@pytest.mark.parametrize("mode", ["amount", "top_up_to"])
def test_asks_the_ledger_and_each_member_has_a_line_that_waits(mode: Mode) -> None:
    scene = given(GROUPS, *MEMBERS).when(give((BOB, EVE), mode)).then(*asked(*legs(BOB, EVE, mode=mode)))
    scene.leaves(*MEMBERS, row(mode), line(BOB), line(EVE))


def test_all_are_the_members_there_are_now_and_nobody_else() -> None:
    others = [*member(JOE, active=False), *member(JOE, owner=EVE)]
    scene = given(GROUPS, *MEMBERS, *others).when(give("all"))
    everybody = sorted((BOB, EVE), key=lambda id_: membership_of(GROUP, id_))
    scene.then(*asked(*legs(*everybody))).leaves(*MEMBERS, *others, row(), line(BOB), line(EVE))


def test_a_list_in_any_order_asks_for_the_same() -> None:
    given(GROUPS, *MEMBERS).when(give((EVE, BOB))).then(*asked(*legs(BOB, EVE)))


def crowd(size: int) -> list[UUID]:
    return [id_of(f"member {n}") for n in range(size)]


@pytest.mark.parametrize("meant", ["all", tuple(crowd(1000))])
def test_a_thousand_members_get_theirs_in_one_command(meant: Any) -> None:
    rows = [found for who in crowd(1000) for found in member(who)]
    scene = given(GROUPS, *rows).when(give(meant))
    post, _ = scene.effects
    assert isinstance(post, PostTransfers)
    assert {leg.account_id for leg in post.legs} == set(crowd(1000))
    scene.when(posted(*((who, 5) for who in crowd(1000))))
    assert len([e for e in scene.effects if isinstance(e, UnitsReceived)]) == 1000
    lines = [found for found in scene.rows() if isinstance(found, HistoryEntry) and found.kind is Kind.TRANSFER]
    assert {(found.outcome, found.units) for found in lines} == {("done", 5)}
    assert len(lines) == 1000


def test_a_thousand_and_one_are_too_many() -> None:
    rows = [found for who in crowd(1001) for found in member(who)]
    given(GROUPS, *rows).when(give("all")).then(refused("too_many_members")).leaves(*rows)


REFUSALS: list[tuple[str, list[Any], Any, UUID | None, list[UUID]]] = [
    ("not_owner", [CLOSED], (BOB,), BOB, []),
    ("not_owner", MEMBERS, (BOB,), None, []),
    ("not_owner", MEMBERS, "all", BOB, []),  # a member gives nothing through the group
    ("group_closed", [CLOSED], (JOE,), ADA, []),
    ("group_closed", [CLOSED], "all", ADA, []),
    ("not_member", MEMBERS, (JOE, BOB, ADA), ADA, [JOE, ADA]),
    ("not_member", [*MEMBERS, *member(JOE, active=False)], (BOB, JOE), ADA, [JOE]),
    ("not_member", [*MEMBERS, *member(JOE, owner=EVE)], (BOB, JOE), ADA, [JOE]),
    ("no_members", [], "all", ADA, []),
    ("no_members", member(JOE, active=False), "all", ADA, []),
]


@pytest.mark.parametrize(("code", "rows", "members", "actor", "named"), REFUSALS)
def test_refuses_in_the_documented_order_and_names_who_is_no_member(
    code: str, rows: list[Any], members: Any, actor: UUID | None, named: list[UUID]
) -> None:
    command = incoming(give(members).body, actor, GIVE.id)
    given(GROUPS, *rows).when(command).then(refused(code, *named)).leaves(*rows)


def test_two_transfers_to_one_pair_in_one_batch_are_two() -> None:
    again = give((BOB, EVE), id_="again")
    scene = given(GROUPS, *MEMBERS).when(GIVE, again)
    scene.then(*asked(*legs(BOB, EVE)), *asked(*legs(BOB, EVE), transfer_id=transfer_of(again)))
    assert len([found for found in scene.rows() if isinstance(found, Transfer)]) == 2


def test_a_repetition_that_the_inbox_let_through_asks_for_nothing() -> None:
    for scene in (pending(), pending().when(posted((BOB, 5), (EVE, 5))), pending().when(LEDGER_REFUSED)):
        rows = scene.rows()
        scene.when(GIVE).then().leaves(*rows)


# --- the race with detaching ---

DETACH = incoming(DetachMembers(group_id=GROUP, members=(MemberRef(member_id=EVE),)), ADA)


@pytest.mark.parametrize("end", [DETACH, incoming(LeaveGroup(group_id=GROUP), EVE)])
@pytest.mark.parametrize("together", [True, False])
def test_who_left_first_gets_nothing_and_nobody_does(end: Incoming[Message], together: bool) -> None:
    scene = given(GROUPS, *MEMBERS)
    scene.when(end, GIVE) if together else scene.when(end).when(GIVE)
    assert scene.effects[-1] == refused("not_member", EVE)


@pytest.mark.parametrize("together", [True, False])
def test_all_are_those_who_stayed(together: bool) -> None:
    scene = given(GROUPS, *MEMBERS)
    scene.when(DETACH, give("all")) if together else scene.when(DETACH).when(give("all"))
    assert scene.effects[-2:] == asked(*legs(BOB))


def test_who_leaves_after_the_ledger_was_asked_still_gets_theirs() -> None:
    scene = given(GROUPS, *MEMBERS).when(GIVE, DETACH)
    assert [type(e) for e in scene.effects] == [PostTransfers, SetTimer, MembersDetached, MemberLeft, MembershipEnded]
    scene.when(posted((BOB, 5), (EVE, 5))).then(*told((BOB, 5), (EVE, 5)))


# --- asking again ---


@pytest.mark.parametrize("mode", ["amount", "top_up_to"])
@pytest.mark.parametrize("message", [TransferDue(transfer_id=ID), RetryTransfer(transfer_id=ID)])
def test_asks_again_for_the_same_while_there_is_no_answer(mode: Mode, message: Message) -> None:
    scene = pending(mode)
    before = scene.only(Transfer)
    rows = [row for row in scene.rows() if row != before]
    scene.when(message, at=NOW + ASKED_AGAIN)
    scene.then(*asked(*legs(BOB, EVE, mode=mode), again_at=NOW + 2 * ASKED_AGAIN))
    scene.leaves(*rows, replace(before, requests=2))


@pytest.mark.parametrize(("age", "pause"), [(5, 5), (50, 50), (90, 60), (100_000, 60)])
def test_each_pause_is_as_long_as_all_before_it_and_an_hour_at_most(age: int, pause: int) -> None:
    at = NOW + timedelta(minutes=age)
    scene = pending().when(TransferDue(transfer_id=ID), at=at)
    scene.then(*asked(*legs(BOB, EVE), again_at=at + timedelta(minutes=pause)))


@pytest.mark.parametrize("message", [TransferDue(transfer_id=ID), RetryTransfer(transfer_id=ID)])
def test_what_has_ended_is_not_asked_again(message: Message) -> None:
    for scene in (given(GROUPS), pending().when(posted((BOB, 5), (EVE, 5))), pending().when(LEDGER_REFUSED)):
        rows = scene.rows()
        scene.when(message).then().leaves(*rows)


def test_members_who_left_meanwhile_are_asked_for_again_all_the_same() -> None:
    scene = pending().when(DETACH).when(TransferDue(transfer_id=ID))
    scene.then(*asked(*legs(BOB, EVE)))


# --- what came of it ---


def posted(*got: tuple[UUID, int], transfer_id: UUID = ID) -> TransfersPosted:
    return TransfersPosted(
        transfer_id=transfer_id,
        source_id=ADA,
        legs=tuple(PostedLeg(account_id=id_, amount_units=amount) for id_, amount in got),
        total_units=sum(amount for _, amount in got),
    )


def told(*got: tuple[UUID, int], mode: Mode = "amount", amount: int = 5) -> list[Any]:
    receipt = UnitsTransferred(
        group_id=GROUP,
        owner_id=ADA,
        transfer_id=ID,
        mode=mode,
        amount_units=amount,
        legs=tuple(TransferredLeg(member_id=id_, amount_units=units) for id_, units in got),
        total_units=sum(units for _, units in got),
    )
    received = [
        UnitsReceived(group_id=GROUP, owner_id=ADA, member_id=id_, transfer_id=ID, amount_units=units)
        for id_, units in got
        if units
    ]
    return [receipt, *received, ClearTimer(ID)]


LEDGER_REFUSED = TransfersRefused(transfer_id=ID, source_id=ADA, code="units_short", command_type=PostTransfers.TYPE)


def pending(mode: Mode = "amount") -> Scene:
    return given(GROUPS, *MEMBERS).when(give((BOB, EVE), mode))


def test_tells_the_owner_of_all_and_each_member_of_theirs() -> None:
    scene = pending().when(posted((BOB, 5), (EVE, 5))).then(*told((BOB, 5), (EVE, 5)))
    done = replace(row(), state=TransferState.DONE, total_units=10, ended_at=NOW)
    scene.leaves(*MEMBERS, done, line(BOB, "done", 5), line(EVE, "done", 5))


def test_who_had_their_preset_balance_gets_nothing_and_the_receipt_says_so() -> None:
    scene = pending("top_up_to").when(posted((BOB, 0), (EVE, 3))).then(*told((BOB, 0), (EVE, 3), mode="top_up_to"))
    done = replace(row("top_up_to"), state=TransferState.DONE, total_units=3, ended_at=NOW)
    scene.leaves(*MEMBERS, done, line(BOB, "done", 0), line(EVE, "done", 3))


def test_nobody_needed_anything() -> None:
    pending("top_up_to").when(posted((BOB, 0), (EVE, 0))).then(*told((BOB, 0), (EVE, 0), mode="top_up_to"))


@pytest.mark.parametrize("code", ["account_closed", "account_expired", "target_closed", "units_short"])
def test_the_ledgers_refusal_comes_back_to_the_owner_and_the_history(code: str) -> None:
    scene = pending().when(LEDGER_REFUSED.model_copy(update={"code": code})).then(refused(code), ClearTimer(ID))
    done = replace(row(), state=TransferState.REFUSED, code=code, ended_at=NOW)
    scene.leaves(*MEMBERS, done, line(BOB, "refused", code=code), line(EVE, "refused", code=code))


def test_the_outcome_of_one_transfer_leaves_the_lines_of_another_alone() -> None:
    again = give((BOB,), id_="again")
    other = TransfersRefused(
        transfer_id=transfer_of(again), source_id=ADA, code="units_short", command_type=PostTransfers.TYPE
    )
    scene = pending().when(again).when(posted((BOB, 5), (EVE, 5)), other)
    scene.then(
        *told((BOB, 5), (EVE, 5)),
        refused("units_short", transfer_id=transfer_of(again)),
        ClearTimer(transfer_of(again)),
    )
    assert line(BOB, "done", 5) in scene.rows()
    lines = [r for r in scene.rows() if isinstance(r, HistoryEntry) and r.reference_id == transfer_of(again)]
    assert [(found.outcome, found.units) for found in lines] == [("refused", None)]


def test_only_the_first_outcome_is_told_however_often_it_comes() -> None:
    done = posted((BOB, 5), (EVE, 5))
    again = incoming(done, id_=id_of("again"))
    scene = pending().when(done)
    rows = scene.rows()
    scene.when(again).then().leaves(*rows)
    scene.when(LEDGER_REFUSED).then().leaves(*rows)
    pending().when(done, again).then(*told((BOB, 5), (EVE, 5))).leaves(*rows)


def test_only_the_first_refusal_is_told_however_often_it_comes() -> None:
    scene = pending().when(LEDGER_REFUSED)
    rows = scene.rows()
    scene.when(incoming(LEDGER_REFUSED, id_=id_of("again"))).then().leaves(*rows)
    scene.when(posted((BOB, 5), (EVE, 5))).then().leaves(*rows)


@pytest.mark.parametrize(
    "message", [posted((BOB, 5), transfer_id=id_of("other")), LEDGER_REFUSED.model_copy(update={"transfer_id": BOB})]
)
def test_a_transfer_that_is_not_ours_changes_nothing(message: Message) -> None:
    scene = pending()
    rows = scene.rows()
    scene.when(message).then().leaves(*rows)


def test_a_member_learns_how_many_from_whom_and_nothing_else() -> None:
    (receipt, *received, _) = pending().when(posted((BOB, 5), (EVE, 5))).effects
    assert [event.key() for event in received if isinstance(event, UnitsReceived)] == [str(BOB), str(EVE)]
    assert isinstance(receipt, UnitsTransferred)
    for event in received:
        assert isinstance(event, UnitsReceived)
        others = {str(EVE), str(BOB)} - {str(event.member_id)}
        assert not any(other in event.to_json().decode() for other in others)
        assert "total_units" not in event.to_json().decode()
