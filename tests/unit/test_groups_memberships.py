"""The group and its members: renamed, detached, left, closed; each epoch for itself."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from popfax_contracts.groups import (
    AcceptInvitation,
    DetachMembers,
    Detachment,
    DetachmentRefused,
    GroupRenamed,
    InvitationAccepted,
    InvitationBounced,
    InvitationDeclined,
    InvitationExpired,
    InvitationRevoked,
    InvitationSent,
    LeaveGroup,
    LeaveRefused,
    MemberJoined,
    MemberLeft,
    MemberRef,
    MembersDetached,
    MembershipEnded,
    MembershipRecorded,
    RenameGroup,
    RenameRefused,
    TransferUnits,
    UnitsReceived,
)
from popfax_contracts.ledger import PostTransfers
from popfax_contracts.message import Event, group_of
from popfax_contracts.provisioning import AccountClosed
from services.chassis.messages import Effect, Incoming
from services.groups.consumers import GROUPS
from services.groups.domain import (
    AccountState,
    Group,
    HistoryEntry,
    Invitation,
    InvitationState,
    Kind,
    Membership,
    Subscriber,
    hash_token,
    history_of_membership,
    membership_of,
)
from services.groups.store import renaming_of
from tests.unit.given import NOW, given, id_of, incoming

ADA, BOB, EVE, JOE = id_of("ada"), id_of("bob"), id_of("eve"), id_of("joe")
GROUP = group_of(ADA)
THEN = NOW - timedelta(days=9)
OPEN = Group(GROUP, ADA, "Ada L.", False, None)
CLOSED = Group(GROUP, ADA, "", False, NOW)


def member(who: UUID, epoch: int = 1, owner: UUID = ADA) -> list[Any]:
    """Somebody who is a member, in their n-th time."""
    group_id = group_of(owner)
    row = Membership(membership_of(group_id, who), group_id, owner, who, True, epoch, None, THEN, None)
    line = HistoryEntry(
        history_of_membership(row.id, epoch),
        group_id,
        Kind.MEMBERSHIP,
        THEN,
        who,
        who,
        row.id,
        None,
        "active",
        "invitation_accepted",
        None,
    )
    return [row, line]


def gone(who: UUID, via: str, epoch: int = 1, owner: UUID = ADA) -> list[Any]:
    """Somebody whose membership has ended now."""
    row, line = member(who, epoch, owner)
    return [replace(row, active=False, ended_at=NOW), replace(line, outcome=via, ended_at=NOW)]


def left(who: UUID, via: str, epoch: int = 1, owner: UUID = ADA) -> list[Effect]:
    """What tells that a membership has ended."""
    group_id = group_of(owner)
    names = {"group_id": group_id, "owner_id": owner, "member_id": who, "epoch": epoch, "via": via}
    return [MemberLeft.model_validate(names), MembershipEnded(membership_id=membership_of(group_id, who))]


# --- the group's name ---

RENAME = incoming(RenameGroup(group_id=GROUP, name="The branch"), ADA)
RENAMED = GroupRenamed(group_id=GROUP, owner_id=ADA)


def renaming(command: Incoming[Any] = RENAME) -> HistoryEntry:
    return HistoryEntry(renaming_of(command), GROUP, Kind.NAME, NOW, ADA, None, GROUP, None, "renamed", None, NOW)


@pytest.mark.parametrize("before", [[], [OPEN], [replace(OPEN, name="The old branch", renamed=True)]])
def test_renames_the_group(before: list[Any]) -> None:
    scene = given(GROUPS, *before).when(RENAME).then(RENAMED)
    scene.leaves(Group(GROUP, ADA, "The branch", True, None), renaming())


@pytest.mark.parametrize(
    ("code", "rows", "actor"),
    [
        ("not_owner", [CLOSED], BOB),
        ("not_owner", [OPEN], None),
        ("not_owner", member(BOB), BOB),
        ("group_closed", [CLOSED], ADA),
    ],
)
def test_refuses_to_rename_in_the_documented_order(code: str, rows: list[Any], actor: UUID | None) -> None:
    refused = RenameRefused(group_id=GROUP, code=code, command_type=RenameGroup.TYPE)
    given(GROUPS, *rows).when(RENAME.body, actor=actor).then(refused).leaves(*rows)


def test_a_renaming_that_the_inbox_let_through_again_does_not_undo_a_newer_one() -> None:
    newer = incoming(RenameGroup(group_id=GROUP, name="The office"), ADA)
    scene = given(GROUPS).when(RENAME).when(newer).then(RENAMED)
    scene.when(RENAME).then()
    scene.leaves(Group(GROUP, ADA, "The office", True, None), renaming(), renaming(newer))


def test_no_event_tells_the_name() -> None:
    assert "The branch" not in repr(given(GROUPS).when(RENAME).effects)


# --- detaching ---


def detach(*members: MemberRef | UUID, id_: str = "detach") -> Any:
    refs = tuple(m if isinstance(m, MemberRef) else MemberRef(member_id=m) for m in members)
    return incoming(DetachMembers(group_id=GROUP, members=refs), ADA, id_of(id_))


def detached(**outcomes: Any) -> MembersDetached:
    told = tuple(Detachment(member_id=id_of(name), outcome=outcome) for name, outcome in outcomes.items())
    return MembersDetached(group_id=GROUP, owner_id=ADA, outcomes=told)


def test_detaches_each_for_itself() -> None:
    past = gone(EVE, "left")
    rows = [*member(BOB), *past, *member(JOE, 3)]
    scene = given(GROUPS, *rows).when(detach(BOB, EVE, id_of("nobody"), JOE))
    told = detached(bob="detached", eve="not_member", nobody="not_member", joe="detached")
    scene.then(told, *left(BOB, "detached"), *left(JOE, "detached", 3))
    scene.leaves(*gone(BOB, "detached"), *past, *gone(JOE, "detached", 3))


def test_detaches_a_thousand_at_once() -> None:
    everybody = [id_of(f"member {n}") for n in range(1000)]
    scene = given(GROUPS, *(row for who in everybody for row in member(who))).when(detach(*everybody))
    assert len([effect for effect in scene.effects if isinstance(effect, MemberLeft)]) == 1000
    assert not any(row.active for row in scene.rows() if isinstance(row, Membership))


@pytest.mark.parametrize(
    ("code", "rows", "actor"),
    [
        ("not_owner", [CLOSED, *member(BOB)], BOB),
        ("not_owner", member(BOB), None),
        ("group_closed", [CLOSED, *member(BOB)], ADA),
    ],
)
def test_refuses_to_detach_in_the_documented_order(code: str, rows: list[Any], actor: UUID | None) -> None:
    refused = DetachmentRefused(group_id=GROUP, code=code, command_type=DetachMembers.TYPE)
    given(GROUPS, *rows).when(detach(BOB).body, actor=actor).then(refused).leaves(*rows)


@pytest.mark.parametrize("together", [True, False])
def test_detaching_twice_ends_it_once(together: bool) -> None:
    first, second = detach(BOB), detach(BOB, id_="again")
    answers = [detached(bob="detached"), *left(BOB, "detached")]
    scene = given(GROUPS, *member(BOB))
    if together:
        scene.when(first, second).then(*answers, detached(bob="not_member"))
    else:
        scene.when(first).then(*answers).when(second).then(detached(bob="not_member"))
    scene.leaves(*gone(BOB, "detached"))


def test_a_late_detachment_of_an_earlier_epoch_leaves_the_present_one_alone() -> None:
    first = MemberRef(member_id=BOB, epoch=1)
    rows = member(BOB, 2)
    given(GROUPS, *rows).when(detach(first)).then(detached(bob="not_member")).leaves(*rows)
    given(GROUPS, *rows).when(detach(first.model_copy(update={"epoch": 2}))).leaves(*gone(BOB, "detached", 2))


def test_a_member_of_another_group_is_not_detached() -> None:
    rows = member(BOB, owner=EVE)
    given(GROUPS, *rows).when(detach(BOB)).then(detached(bob="not_member")).leaves(*rows)


# --- leaving ---

LEAVE = incoming(LeaveGroup(group_id=GROUP), BOB)
NOT_MEMBER = LeaveRefused(group_id=GROUP, code="not_member", command_type=LeaveGroup.TYPE)


@pytest.mark.parametrize("epoch", [None, 2])
def test_a_member_leaves(epoch: int | None) -> None:
    scene = given(GROUPS, *member(BOB, 2)).when(LeaveGroup(group_id=GROUP, epoch=epoch), actor=BOB)
    scene.then(*left(BOB, "left", 2)).leaves(*gone(BOB, "left", 2))


@pytest.mark.parametrize(
    ("rows", "actor", "epoch"),
    [
        ([], BOB, None),
        (member(BOB), ADA, None),  # the owner is no member
        (member(BOB), None, None),
        (member(BOB, owner=EVE), BOB, None),
        (gone(BOB, "detached"), BOB, None),
        (member(BOB, 2), BOB, 1),
        (member(BOB, 1), BOB, 2),
    ],
)
def test_refuses_to_let_leave_who_is_no_member(rows: list[Any], actor: UUID | None, epoch: int | None) -> None:
    given(GROUPS, *rows).when(LeaveGroup(group_id=GROUP, epoch=epoch), actor=actor).then(NOT_MEMBER).leaves(*rows)


@pytest.mark.parametrize("together", [True, False])
def test_leaving_and_detaching_end_it_once(together: bool) -> None:
    scene = given(GROUPS, *member(BOB))
    if together:
        scene.when(LEAVE, detach(BOB)).then(*left(BOB, "left"), detached(bob="not_member"))
    else:
        scene.when(LEAVE).then(*left(BOB, "left")).when(detach(BOB)).then(detached(bob="not_member"))
    scene.leaves(*gone(BOB, "left"))

    scene = given(GROUPS, *member(BOB))
    if together:
        scene.when(detach(BOB), LEAVE).then(detached(bob="detached"), *left(BOB, "detached"), NOT_MEMBER)
    else:
        scene.when(detach(BOB)).when(LEAVE).then(NOT_MEMBER)
    scene.leaves(*gone(BOB, "detached"))


# --- again ---

TOKEN = b"\x01" * 32
AGAIN = Invitation(
    id_of("again"), GROUP, ADA, BOB, InvitationState.PENDING, 1, hash_token(TOKEN), THEN, NOW + timedelta(1), None
)
INVITED_AGAIN = HistoryEntry(AGAIN.id, GROUP, Kind.INVITATION, THEN, ADA, BOB, AGAIN.id, None, "pending", None, None)
ACCEPT = incoming(AcceptInvitation(invitation_id=AGAIN.id), BOB)


def test_who_comes_back_is_a_member_in_the_next_epoch_with_a_line_of_its_own() -> None:
    past, line = gone(BOB, "left", 4)
    scene = given(GROUPS, replace(past, invitation_id=AGAIN.id), line, AGAIN, INVITED_AGAIN).when(ACCEPT)
    assert [e.epoch for e in scene.effects if isinstance(e, MemberJoined | MembershipRecorded)] == [5, 5]
    assert scene.only(Membership) == replace(past, active=True, epoch=5, joined_at=NOW, ended_at=None)
    lines = {row.id: row for row in scene.rows() if isinstance(row, HistoryEntry)}
    assert lines[line.id] == line
    assert lines[history_of_membership(past.id, 5)].outcome == "active"


def test_accepting_and_detaching_in_one_batch_ends_the_epoch_that_has_just_begun() -> None:
    past, line = gone(BOB, "left", 1)
    rows = [replace(past, invitation_id=AGAIN.id), line, AGAIN, INVITED_AGAIN]
    scene = given(GROUPS, *rows).when(ACCEPT, detach(BOB))
    assert scene.effects[-3:] == [detached(bob="detached"), *left(BOB, "detached", 2)]
    scene = given(GROUPS, *rows).when(ACCEPT, detach(MemberRef(member_id=BOB, epoch=1)))
    assert scene.effects[-1] == detached(bob="not_member")
    assert scene.only(Membership).active


# --- whose account closes ---

CLOSE = AccountClosed(account_id=ADA)


def of_closed(id_: UUID) -> list[Any]:
    subscriber = Subscriber(id_, None, None, None, None, AccountState.CLOSED, None, 0, 0)
    return [subscriber, Group(group_of(id_), id_, "", False, NOW)]


def test_closing_the_owners_account_ends_every_membership_and_tells_them() -> None:
    elsewhere = member(BOB, owner=EVE)
    scene = given(GROUPS, OPEN, *member(BOB), *member(JOE, 2), *gone(EVE, "left"), *elsewhere).when(CLOSE)
    told = {e.member_id: (e.via, e.epoch) for e in scene.effects if isinstance(e, MemberLeft)}
    assert told == {BOB: ("group_closed", 1), JOE: ("group_closed", 2)}
    assert len(scene.effects) == 4
    scene.leaves(
        *of_closed(ADA), *gone(BOB, "group_closed"), *gone(JOE, "group_closed", 2), *gone(EVE, "left"), *elsewhere
    )


def test_closing_a_members_account_ends_their_memberships_and_their_own_group() -> None:
    rows = [*member(BOB), *member(BOB, owner=EVE), *member(JOE, owner=BOB), *member(JOE)]
    scene = given(GROUPS, *rows).when(AccountClosed(account_id=BOB))
    told = {(e.owner_id, e.member_id): e.via for e in scene.effects if isinstance(e, MemberLeft)}
    assert told == {(ADA, BOB): "account_closed", (EVE, BOB): "account_closed", (BOB, JOE): "group_closed"}
    scene.leaves(
        *of_closed(BOB),
        *gone(BOB, "account_closed"),
        *gone(BOB, "account_closed", owner=EVE),
        *gone(JOE, "group_closed", owner=BOB),
        *member(JOE),
    )


def test_closed_twice_it_tells_once() -> None:
    scene = given(GROUPS, *member(BOB)).when(CLOSE)
    rows = scene.rows()
    scene.when(incoming(CLOSE, id_=id_of("again"))).then().leaves(*rows)
    given(GROUPS, *member(BOB)).when(CLOSE, incoming(CLOSE, id_=id_of("again"))).then(*left(BOB, "group_closed"))


def test_two_accounts_that_close_in_one_batch_end_what_is_between_them_once() -> None:
    scene = given(GROUPS, *member(BOB)).when(CLOSE, AccountClosed(account_id=BOB)).then(*left(BOB, "group_closed"))
    scene.leaves(*of_closed(ADA), *of_closed(BOB), *gone(BOB, "group_closed"))
    given(GROUPS, *member(BOB)).when(AccountClosed(account_id=BOB), CLOSE).then(*left(BOB, "account_closed"))


def test_leaving_and_closing_end_it_once() -> None:
    given(GROUPS, *member(BOB)).when(LEAVE, CLOSE).then(*left(BOB, "left"))
    given(GROUPS, *member(BOB)).when(CLOSE, LEAVE).then(*left(BOB, "group_closed"), NOT_MEMBER)


def test_a_closed_group_gives_nothing_any_more() -> None:
    transfer = TransferUnits(group_id=GROUP, mode="amount", amount_units=5, members="all")
    scene = given(GROUPS, *member(BOB)).when(CLOSE, incoming(transfer, ADA))
    assert [e.code for e in scene.effects if hasattr(e, "code")] == ["group_closed"]
    assert not any(isinstance(e, PostTransfers) for e in scene.effects)


# --- what a member can see ---

TO_MEMBERS: list[type[Event]] = [
    InvitationSent,
    InvitationAccepted,
    InvitationDeclined,
    InvitationRevoked,
    InvitationExpired,
    InvitationBounced,
    MemberJoined,
    MemberLeft,
    MembershipRecorded,
    MembershipEnded,
    UnitsReceived,
]
OF_THE_MEMBER = {
    "group_id",
    "owner_id",
    "member_id",
    "subscriber_id",
    "membership_id",
    "invitation_id",
    "transfer_id",
    "epoch",
    "via",
    "reason",
    "state",
    "joined_at",
    "expires_at",
    "renewed",
    "amount_units",  # what they got themselves
}


def test_no_event_that_a_member_gets_has_room_for_anything_of_the_owners_account() -> None:
    for model in TO_MEMBERS:
        assert set(model.model_fields) <= OF_THE_MEMBER, f"{model.__name__}: is it the member's to know?"
