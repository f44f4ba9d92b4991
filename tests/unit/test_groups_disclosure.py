"""What an owner keeps of whom they invited, and of former members: what was disclosed then, and nothing newer."""

from dataclasses import replace
from datetime import timedelta

import pytest

from popfax_contracts.fields import Language
from popfax_contracts.groups import (
    AcceptInvitation,
    DeclineInvitation,
    DetachMembers,
    InviteByEmail,
    LeaveGroup,
    MemberRef,
)
from popfax_contracts.message import Message, group_of
from popfax_contracts.provisioning import AccountClosed, PersonErased, PersonRecorded
from services.chassis.messages import Incoming
from services.groups.consumers import GROUPS
from services.groups.domain import AccountState, Invitation, Membership, Subscriber, membership_of
from services.groups.store import invitation_of
from tests.unit.given import NOW, Scene, given, id_of, incoming

ADA, BOB = id_of("ada"), id_of("bob")
GROUP = group_of(ADA)
THEN, LATER = "bob@then.example", "bob@later.example"
HOLDER = Subscriber(BOB, THEN, "Bob", "Then", "en", AccountState.ACTIVE, None, 0, 0)
INVITE = incoming(InviteByEmail(group_id=GROUP, email=THEN), ADA)
ID = invitation_of(INVITE)
MOVED = PersonRecorded(subscriber_id=BOB, email=LATER, first_name="Robert", last_name="Later", language=Language.EN)
ACCEPT = incoming(AcceptInvitation(invitation_id=ID), BOB)
DECLINE = incoming(DeclineInvitation(invitation_id=ID), BOB)
DETACH = incoming(DetachMembers(group_id=GROUP, members=(MemberRef(member_id=BOB),)), ADA)
LEAVE = incoming(LeaveGroup(group_id=GROUP), BOB)
GONE, CLOSED = PersonErased(subscriber_id=BOB), AccountClosed(account_id=BOB)


def after(*messages: Message | Incoming[Message]) -> Scene:
    """One after the other."""
    scene = given(GROUPS, HOLDER)
    for number, message in enumerate(messages):
        each = message if isinstance(message, Incoming) else incoming(message, id_=id_of(f"message {number}"))
        scene.when(each)
    return scene


def disclosed(scene: Scene) -> tuple[str | None, str | None, str | None]:
    """What is kept: the invitation's address, and a former member's name and address."""
    membership = scene.only(Membership)
    return scene.only(Invitation).email, membership.shown_name, membership.shown_email


@pytest.mark.parametrize("end", [(), (DECLINE,)], ids=["pending", "declined"])
def test_an_invitation_keeps_the_address_that_the_owner_gave(end: tuple[Incoming[Message], ...]) -> None:
    assert disclosed(after(INVITE, MOVED, *end)) == (THEN, None, None)
    assert disclosed(after(INVITE, *end, MOVED)) == (THEN, None, None)


def test_an_invitation_that_is_renewed_has_the_address_that_the_owner_gave_last() -> None:
    again = incoming(InviteByEmail(group_id=GROUP, email=LATER), ADA, id_of("again"))
    assert disclosed(after(INVITE, MOVED, again)) == (LATER, None, None)


@pytest.mark.parametrize("end", [DETACH, LEAVE], ids=["detached", "left"])
def test_of_a_former_member_stays_what_they_were_at_the_end(end: Incoming[Message]) -> None:
    assert disclosed(after(INVITE, ACCEPT, end, MOVED)) == (THEN, "Bob Then", THEN)
    assert disclosed(after(INVITE, ACCEPT, MOVED, end)) == (THEN, "Robert Later", LATER)


def test_in_one_batch_the_order_of_the_log_counts() -> None:
    scene = given(GROUPS, HOLDER).when(INVITE).when(ACCEPT, incoming(MOVED), DETACH)
    assert disclosed(scene) == (THEN, "Robert Later", LATER)
    scene = given(GROUPS, HOLDER).when(INVITE).when(ACCEPT, DETACH, incoming(MOVED))
    assert disclosed(scene) == (THEN, "Bob Then", THEN)


def test_a_member_again_is_shown_as_they_are() -> None:
    again = incoming(InviteByEmail(group_id=GROUP, email=LATER), ADA, id_of("again"))
    accept = incoming(AcceptInvitation(invitation_id=invitation_of(again)), BOB, id_of("accept again"))
    scene = after(INVITE, ACCEPT, LEAVE, MOVED, again, accept)
    membership = scene.only(Membership)
    assert (membership.active, membership.shown_name, membership.shown_email) == (True, None, None)


@pytest.mark.parametrize("erasing", [(GONE,), (CLOSED,), (GONE, CLOSED), (CLOSED, GONE)])
@pytest.mark.parametrize("before", [(), (DECLINE,), (ACCEPT,), (ACCEPT, LEAVE), (ACCEPT, DETACH)])
def test_erasing_somebody_erases_what_owners_were_shown(
    before: tuple[Incoming[Message], ...], erasing: tuple[Message, ...]
) -> None:
    assert disclosed(after(INVITE, *before, *erasing)) == (None, None, None)
    batch = [*before, *map(incoming, erasing)]
    assert disclosed(given(GROUPS, HOLDER).when(INVITE).when(*batch)) == (None, None, None)


def test_erasing_somebody_erases_nobody_else() -> None:
    other = Membership(membership_of(GROUP, ADA), GROUP, ADA, ADA, False, 1, None, NOW, NOW, "Other", "other@x.example")
    scene = given(GROUPS, HOLDER, other).when(INVITE).when(GONE)
    assert other in scene.rows()


def test_a_group_that_closes_keeps_nothing_of_its_members() -> None:
    scene = after(INVITE, ACCEPT, AccountClosed(account_id=ADA))
    membership = scene.only(Membership)
    assert (membership.active, membership.shown_name, membership.shown_email) == (False, None, None)


def test_a_name_of_which_half_is_known_is_kept_as_it_is_shown() -> None:
    scene = given(GROUPS, replace(HOLDER, first_name=None)).when(INVITE).when(ACCEPT).when(LEAVE)
    assert scene.only(Membership).shown_name == "Then"
    assert scene.only(Invitation).expires_at == NOW + timedelta(days=7)
