"""Invitations through the whole product: by mail, answered once, and ended by whatever comes first."""

from uuid import UUID

import pytest

from popfax_contracts.groups import (
    AcceptInvitation,
    AccountCreationRequired,
    DeclineInvitation,
    DetachMembers,
    InvitationAccepted,
    InvitationAnswerRefused,
    InvitationBounced,
    InvitationDeclined,
    InvitationExpired,
    InvitationRefused,
    InvitationRevoked,
    InvitationSent,
    InviteByEmail,
    LeaveGroup,
    MemberJoined,
    MemberLeft,
    MemberRef,
    MembersDetached,
    RevocationRefused,
    RevokeInvitation,
)
from popfax_contracts.message import Message, group_of
from popfax_contracts.notifications import MailBounced, MailUndeliverable
from popfax_contracts.provisioning import AccountClosed, CloseAccount
from popfax_contracts.topics import Principal
from tests.e2e.driver import PRICES, Owner, World


def invite(owner: Owner, email: str) -> InviteByEmail:
    return InviteByEmail(group_id=group_of(owner.id), email=email)


def test_a_subscriber_is_invited_by_mail_joins_leaves_and_joins_again(world: World) -> None:
    owner, ben = world.owners(2)
    for epoch in (1, 2):
        invitation_id, token = world.invite(owner, ben)
        joined = world.ask(AcceptInvitation(invitation_id=invitation_id, token=token), MemberJoined)
        assert (joined["member_id"], joined["epoch"], joined["via"]) == (str(ben.id), epoch, "invitation_accepted")
        again = world.ask(AcceptInvitation(invitation_id=invitation_id, token=token), InvitationAnswerRefused)
        assert again["code"] == "invitation_accepted"
        if epoch == 1:
            left = world.ask(LeaveGroup(group_id=group_of(owner.id)), MemberLeft, actor=ben.id)
            assert (left["epoch"], left["via"]) == (1, "left")
    late = DetachMembers(group_id=group_of(owner.id), members=(MemberRef(member_id=ben.id, epoch=1),))
    detached = world.ask(late, MembersDetached, actor=owner.id)
    assert [each["outcome"] for each in detached["outcomes"]] == ["not_member"], "that was another membership"
    world.settle()
    world.check_log()
    assert len(world.tokens(ben)) == 2, "one mail an invitation"


def test_an_unknown_address_is_told_what_an_account_would_cost(world: World) -> None:
    owner = world.owner()
    answer = world.ask(invite(owner, f"nobody.{world.mark}@example.com"), AccountCreationRequired, actor=owner.id)
    assert {plan["plan"]: plan["price_units"] for plan in answer["plans"]} == PRICES
    assert "@" not in str(answer.value)


def test_an_invitation_is_refused_with_a_code(world: World) -> None:
    owner, ben = world.owners(2)
    own = world.ask(invite(owner, owner.email), InvitationRefused, actor=owner.id)
    strangers = world.ask(invite(owner, ben.email), InvitationRefused, actor=ben.id)
    world.join(owner, ben)
    member = world.ask(invite(owner, ben.email), InvitationRefused, actor=owner.id)
    assert [own["code"], strangers["code"], member["code"]] == ["own_address", "not_owner", "already_member"]


def test_a_renewed_invitation_has_one_token_that_opens_it(world: World) -> None:
    owner, ben = world.owners(2)
    first, old = world.invite(owner, ben)
    second, new = world.invite(owner, ben)
    assert first == second, "one is pending, and the same"
    refused = world.ask(AcceptInvitation(invitation_id=first, token=old), InvitationAnswerRefused)
    assert refused["code"] == "token_invalid"
    stranger = world.ask(AcceptInvitation(invitation_id=first, token=new), InvitationAnswerRefused, actor=owner.id)
    assert stranger["code"] == "not_invited"
    assert world.ask(AcceptInvitation(invitation_id=first), InvitationAccepted, actor=ben.id)
    world.settle()


ENDS: list[type[Message]] = [
    InvitationAccepted,
    InvitationDeclined,
    InvitationRevoked,
    InvitationExpired,
    InvitationBounced,
]


@pytest.mark.parametrize("order", ["answer first", "owner first"])
def test_of_an_answer_and_a_revocation_one_wins_whatever_the_order(world: World, order: str) -> None:
    owner, *others = world.owners(6)
    pairs = [(world.invite(owner, each), each) for each in others]
    for (invitation_id, token), _ in pairs:
        answer = AcceptInvitation(invitation_id=invitation_id, token=token)
        revocation = RevokeInvitation(group_id=group_of(owner.id), invitation_id=invitation_id)
        sends = [(answer, None), (revocation, owner.id)]
        for body, actor in sends if order == "answer first" else reversed(sends):
            world.wire.send(body, actor)
    world.wire.flush()
    world.settle()
    for (invitation_id, _), _ in pairs:
        seen = [s for s in world.log.read_to_end() if s.value and str(invitation_id).encode() in s.value]
        ends = [s.kind for s in seen if s.kind in {model.TYPE for model in ENDS}]
        refusals = [s.kind for s in seen if s.kind in (InvitationAnswerRefused.TYPE, RevocationRefused.TYPE)]
        assert (len(ends), len(refusals)) == (1, 1), "one end, and the other one hears that it came too late"
        joined = [s for s in seen if s.says(InvitationAccepted)]
        member = world.rows(Principal.GROUPS, "SELECT outcome FROM history WHERE id = %s", invitation_id)
        assert member == [("accepted" if joined else "revoked",)]
    world.check_log()


def test_an_invitation_expires_by_its_timer_and_can_not_be_accepted_after(world: World) -> None:
    owner, ben, eve = world.owners(3)
    invitation_id, token = world.invite(owner, ben)
    _pass_a_week(world, invitation_id)
    world.log.wait(1, lambda s: s.says(InvitationExpired) and s["invitation_id"] == str(invitation_id))
    late = world.ask(AcceptInvitation(invitation_id=invitation_id, token=token), InvitationAnswerRefused)
    assert late["code"] == "invitation_expired"
    other_id, token = world.invite(owner, eve)
    world.rows(Principal.GROUPS, "UPDATE invitations SET expires_at = now() WHERE id = %s RETURNING 1", other_id)
    early = world.ask(AcceptInvitation(invitation_id=other_id, token=token), InvitationAnswerRefused)
    assert early["code"] == "invitation_expired", "its time is up, though its timer has not fired"
    world.settle()
    world.check_log()


def _pass_a_week(world: World, invitation_id: UUID) -> None:
    """Move an invitation and its timer a week into the past."""
    week = "- interval '7 days 1 second'"
    for statement in (
        f"UPDATE invitations SET expires_at = expires_at {week} WHERE id = %s RETURNING 1",
        f"UPDATE timers SET due_at = due_at {week} WHERE id = %s RETURNING 1",
    ):
        assert world.rows(Principal.GROUPS, statement, invitation_id) == [(1,)]


def test_a_mail_that_comes_back_ends_its_invitation(world: World) -> None:
    owner, ben = world.owners(2)
    invitation_id, token = world.invite(owner, ben)
    mail_id = str(world.mails_to(ben.email)[-1]["message-id"]).strip("<>").partition("@")[0]
    bounced = MailBounced(mail_id=UUID(mail_id), reason="mailbox_unknown")
    told = world.ask(bounced, MailUndeliverable)
    assert (told["invitation_id"], told["round"]) == (str(invitation_id), 1)
    world.log.wait(1, lambda s: s.says(InvitationBounced) and s["invitation_id"] == str(invitation_id))
    refused = world.ask(DeclineInvitation(invitation_id=invitation_id, token=token), InvitationAnswerRefused)
    assert refused["code"] == "invitation_bounced"
    line = world.rows(Principal.GROUPS, "SELECT outcome, code FROM history WHERE id = %s", invitation_id)
    assert line == [("bounced", "mailbox_unknown")]


def test_closing_an_account_ends_all_that_it_had_with_groups_and_forgets_the_person(world: World) -> None:
    owner, ben, eve, dan = world.owners(4)
    world.join(owner, ben)
    world.join(ben, eve)
    pending, _ = world.invite(ben, dan)
    world.invite(owner, eve)
    closed = world.ask(CloseAccount(account_id=ben.id), AccountClosed, actor=ben.id)
    assert closed["account_id"] == str(ben.id)
    left = world.log.wait(2, lambda s: s.says(MemberLeft))
    assert {(s["member_id"], s["via"]) for s in left} == {
        (str(ben.id), "account_closed"),
        (str(eve.id), "group_closed"),
    }
    revoked = world.log.wait(1, lambda s: s.says(InvitationRevoked))
    assert [(s["invitation_id"], s["reason"]) for s in revoked] == [(str(pending), "group_closed")]
    world.settle()
    for service in (Principal.GROUPS, Principal.PROVISIONING, Principal.NOTIFICATIONS):
        assert _tables_with(world, service, ben.email) == [], "nobody knows who it was"
    again = world.ask(invite(owner, ben.email), AccountCreationRequired, actor=owner.id)
    assert again.says(AccountCreationRequired), "the address is free"
    assert world.ask(invite(owner, eve.email), InvitationSent, actor=owner.id)["renewed"]


def _tables_with(world: World, service: Principal, text: str) -> list[str]:
    """Return the tables of a service that hold a text anywhere, as bytes too, the chassis's included."""
    tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    holds = "SELECT 1 FROM {} t WHERE t::text LIKE %s OR t::text LIKE %s"
    patterns = f"%{text}%", f"%{text.encode().hex()}%"
    return [name for (name,) in world.rows(service, tables) if world.rows(service, holds.format(name), *patterns)]
