"""Invitations: every refusal in its order, every quota at its edge, and one end whatever comes first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from popfax_contracts.fields import Language
from popfax_contracts.groups import (
    AcceptInvitation,
    AccountCreationRequired,
    DeclineInvitation,
    InvitationAccepted,
    InvitationAnswerRefused,
    InvitationBounced,
    InvitationDeclined,
    InvitationExpired,
    InvitationRefused,
    InvitationRevoked,
    InvitationSent,
    InviteByEmail,
    MemberJoined,
    MemberLeft,
    MembershipEnded,
    MembershipRecorded,
    PlanOffer,
    RevocationRefused,
    RevokeInvitation,
)
from popfax_contracts.message import Message, group_of
from popfax_contracts.notifications import MailUndeliverable, SendInvitation
from popfax_contracts.provisioning import AccountClosed, PersonRecorded
from services.chassis.messages import ClearTimer, Effect, Incoming, SetTimer
from services.groups.consumers import GROUPS, with_quotas
from services.groups.domain import (
    INVITATION_LIFETIME,
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
    hash_token,
    history_of_membership,
    membership_of,
    received_invitations_tally,
    sent_invitations_tally,
)
from services.groups.store import invitation_of
from services.groups.timers import InvitationDue
from tests.unit.given import NOW, Scene, given, id_of, incoming

ADA, BOB, EVE = id_of("ada"), id_of("bob"), id_of("eve")
GROUP = group_of(ADA)
EMAIL = "bob@example.org"
HOLDER = Subscriber(BOB, EMAIL, "Bob", "M.", "en", AccountState.ACTIVE, None, 0, 0)
INVITE = incoming(InviteByEmail(group_id=GROUP, email=EMAIL), ADA)
INVITATION = invitation_of(INVITE)
NEW_TOKEN, TOKEN, OLD_TOKEN = b"\x07" * 32, b"\x01" * 32, b"\x02" * 32
TODAY, YESTERDAY = date(2031, 1, 1), date(2030, 12, 31)
MADE = NOW - timedelta(days=2)
SOON = NOW + timedelta(days=5)
WEEK = NOW + INVITATION_LIFETIME

SEND_ONLY, SEND_RECEIVE = Plan("send_only", 10, 12), Plan("send_receive", 20, 12)
OPEN, CLOSED = Group(GROUP, ADA, "", False, None), Group(GROUP, ADA, "", False, NOW)


@dataclass
class Pending:
    """An invitation that waits for its answer, made two days ago, and all the rows that belong to it."""

    owner: UUID = ADA
    guest: UUID = BOB
    round: int = 1
    expires_at: datetime = SOON
    id: UUID = field(default_factory=lambda: id_of("invitation"))

    @property
    def group(self) -> UUID:
        return group_of(self.owner)

    @property
    def invitation(self) -> Invitation:
        return Invitation(
            self.id,
            self.group,
            self.owner,
            self.guest,
            InvitationState.PENDING,
            self.round,
            hash_token(TOKEN),
            MADE,
            self.expires_at,
            None,
            EMAIL,
        )

    @property
    def membership(self) -> Membership:
        id_ = membership_of(self.group, self.guest)
        return Membership(id_, self.group, self.owner, self.guest, False, 0, self.id, None, None)

    @property
    def line(self) -> HistoryEntry:
        return HistoryEntry(
            self.id, self.group, Kind.INVITATION, MADE, self.owner, self.guest, self.id, None, "pending", None, None
        )

    @property
    def tallies(self) -> list[Tally]:
        return [
            Tally(sent_invitations_tally(self.owner), 1, YESTERDAY, 1),
            Tally(received_invitations_tally(self.guest), 1, YESTERDAY, 1),
        ]

    def rows(self) -> list[Any]:
        return [self.invitation, self.membership, self.line, *self.tallies]

    def ended(self, state: InvitationState, code: str | None = None, at: datetime = NOW) -> list[Any]:
        """The rows after it has ended."""
        return [
            replace(self.invitation, state=state, ended_at=at),
            replace(self.membership, invitation_id=None),
            replace(self.line, outcome=state.value, code=code, ended_at=at),
            Tally(sent_invitations_tally(self.owner), 0, at.date(), 0),
            Tally(received_invitations_tally(self.guest), 0, at.date(), 0),
        ]

    def joined(self) -> list[Any]:
        """The rows after it was accepted."""
        invitation, membership, *others = self.ended(InvitationState.ACCEPTED)
        member = replace(membership, active=True, epoch=1, joined_at=NOW)
        line = HistoryEntry(
            history_of_membership(member.id, 1),
            self.group,
            Kind.MEMBERSHIP,
            NOW,
            self.guest,
            self.guest,
            member.id,
            None,
            "active",
            "invitation_accepted",
            None,
        )
        return [invitation, member, Group(self.group, self.owner, "", False, None), line, *others]

    @property
    def told(self) -> dict[str, UUID]:
        return {
            "group_id": self.group,
            "owner_id": self.owner,
            "invitation_id": self.id,
            "subscriber_id": self.guest,
        }


PENDING = Pending()
ID = PENDING.id
DUE = InvitationDue(invitation_id=ID)
CLEAR = ClearTimer(ID)
MEMBER = membership_of(GROUP, BOB)

ACCEPTED, DECLINED = InvitationAccepted(**PENDING.told), InvitationDeclined(**PENDING.told)
REVOKED, EXPIRED = InvitationRevoked(**PENDING.told), InvitationExpired(**PENDING.told)
BOUNCED = InvitationBounced(**PENDING.told, reason="mailbox_full")
JOINED = [
    MemberJoined(group_id=GROUP, owner_id=ADA, member_id=BOB, epoch=1, via="invitation_accepted"),
    MembershipRecorded(
        membership_id=MEMBER, group_id=GROUP, owner_id=ADA, member_id=BOB, epoch=1, state="active", joined_at=NOW
    ),
]

ACCEPT = incoming(AcceptInvitation(invitation_id=ID), BOB)
DECLINE = incoming(DeclineInvitation(invitation_id=ID), BOB)
REVOKE = incoming(RevokeInvitation(group_id=GROUP, invitation_id=ID), ADA)
BOUNCE = incoming(
    MailUndeliverable(mail_id=id_of("mail"), recipient_id=BOB, reason="mailbox_full", invitation_id=ID, round=1)
)


def answer_refused(code: str, command: type[Message] = AcceptInvitation) -> InvitationAnswerRefused:
    return InvitationAnswerRefused(invitation_id=ID, code=code, command_type=command.TYPE)


def sent(
    invitation_id: UUID, *, round_: int = 1, at: datetime = NOW, name: str | None = None, renewed: bool = False
) -> list[Effect]:
    """What an invitation of Bob's into Ada's group brings about."""
    expires_at = at + INVITATION_LIFETIME
    return [
        InvitationSent(
            group_id=GROUP,
            owner_id=ADA,
            invitation_id=invitation_id,
            subscriber_id=BOB,
            expires_at=expires_at,
            renewed=renewed,
        ),
        SendInvitation(
            invitation_id=invitation_id,
            round=round_,
            recipient_id=BOB,
            owner_id=ADA,
            group_name=name,
            token=NEW_TOKEN.hex(),
            expires_at=expires_at,
        ),
        SetTimer(invitation_id, expires_at, InvitationDue(invitation_id=invitation_id)),
    ]


def member(epoch: int = 1) -> list[Any]:
    """Bob is a member, in his n-th time."""
    line = history_of_membership(MEMBER, epoch)
    return [
        Membership(MEMBER, GROUP, ADA, BOB, True, epoch, None, MADE, None),
        HistoryEntry(line, GROUP, Kind.MEMBERSHIP, MADE, BOB, BOB, MEMBER, None, "active", "invitation_accepted", None),
    ]


# --- inviting ---


def test_invites_whoever_has_the_address() -> None:
    scene = given(GROUPS, HOLDER).when(INVITE).then(*sent(INVITATION))
    scene.leaves(
        HOLDER,
        OPEN,
        Invitation(
            INVITATION, GROUP, ADA, BOB, InvitationState.PENDING, 1, hash_token(NEW_TOKEN), NOW, WEEK, None, EMAIL
        ),
        Membership(MEMBER, GROUP, ADA, BOB, False, 0, INVITATION, None, None),
        HistoryEntry(INVITATION, GROUP, Kind.INVITATION, NOW, ADA, BOB, INVITATION, None, "pending", None, None),
        Tally(sent_invitations_tally(ADA), 1, TODAY, 1),
        Tally(received_invitations_tally(BOB), 1, TODAY, 1),
    )


@pytest.mark.parametrize(("renamed", "name"), [(True, "The branch"), (False, None)])
def test_the_mail_has_the_groups_name_only_if_it_is_not_the_owners_own(renamed: bool, name: str | None) -> None:
    group = Group(GROUP, ADA, "The branch", renamed, None)
    given(GROUPS, HOLDER, group).when(INVITE).then(*sent(INVITATION, name=name))


def test_whoever_was_a_member_is_invited_again_and_keeps_their_epoch() -> None:
    past = Membership(MEMBER, GROUP, ADA, BOB, False, 3, None, MADE, MADE)
    scene = given(GROUPS, HOLDER, past).when(INVITE).then(*sent(INVITATION))
    assert scene.only(Membership) == replace(past, invitation_id=INVITATION)


def test_an_address_that_nobody_has_needs_an_account() -> None:
    offers = [
        PlanOffer(plan=plan.plan, price_units=plan.price_units, validity_months=plan.validity_months)
        for plan in (SEND_ONLY, SEND_RECEIVE)
    ]
    scene = given(GROUPS, SEND_RECEIVE, SEND_ONLY).when(INVITE)
    scene.then(AccountCreationRequired(group_id=GROUP, owner_id=ADA, plans=tuple(offers)))
    scene.leaves(SEND_RECEIVE, SEND_ONLY, Tally(sent_invitations_tally(ADA), 0, TODAY, 1))


def test_renews_an_invitation_that_is_pending_and_the_old_token_is_void() -> None:
    scene = given(GROUPS, HOLDER, *PENDING.rows()).when(INVITE).then(*sent(ID, round_=2, renewed=True))
    scene.leaves(
        HOLDER,
        OPEN,
        replace(PENDING.invitation, round=2, token_hash=hash_token(NEW_TOKEN), expires_at=WEEK),
        PENDING.membership,
        PENDING.line,
        Tally(sent_invitations_tally(ADA), 1, TODAY, 1),
        Tally(received_invitations_tally(BOB), 1, TODAY, 1),
    )
    with_token = AcceptInvitation(invitation_id=ID, token=TOKEN.hex())
    scene.when(incoming(with_token)).then(answer_refused("token_invalid"))
    scene.when(incoming(AcceptInvitation(invitation_id=ID, token=NEW_TOKEN.hex()))).then(ACCEPTED, CLEAR, *JOINED)


QUOTAS = Quotas(owner_day=3, owner_pending=2, address_day=3, address_pending=2)
MADE_ENOUGH, GOT_ENOUGH = (
    Tally(sent_invitations_tally(ADA), 2, TODAY, 3),
    Tally(received_invitations_tally(BOB), 2, TODAY, 3),
)
PENDING_ENOUGH, GOT_PENDING_ENOUGH = replace(MADE_ENOUGH, today=2), replace(GOT_ENOUGH, today=2)
OWN = replace(HOLDER, id=ADA)

# Each has what the codes after it need as well, as far as it can: the first that is found is told.
REFUSALS: list[tuple[str, list[Any], UUID | None]] = [
    ("not_owner", [CLOSED, HOLDER, *member(), MADE_ENOUGH, GOT_ENOUGH], BOB),
    ("not_owner", [CLOSED, HOLDER, *member(), MADE_ENOUGH, GOT_ENOUGH], None),
    ("group_closed", [CLOSED, OWN, MADE_ENOUGH], ADA),
    ("group_closed", [CLOSED, HOLDER, *member(), MADE_ENOUGH, GOT_ENOUGH], ADA),
    ("quota_owner_day", [OWN, MADE_ENOUGH], ADA),
    ("quota_owner_day", [HOLDER, *member(), MADE_ENOUGH, GOT_ENOUGH], ADA),
    ("own_address", [OWN, PENDING_ENOUGH], ADA),
    ("already_member", [HOLDER, *member(), PENDING_ENOUGH, GOT_ENOUGH], ADA),
    ("quota_owner_day", [HOLDER, MADE_ENOUGH, GOT_ENOUGH], ADA),
    ("quota_owner_day", [MADE_ENOUGH], ADA),  # an address that nobody has
    ("quota_owner_pending", [HOLDER, PENDING_ENOUGH, GOT_ENOUGH], ADA),
    ("quota_address_day", [HOLDER, GOT_ENOUGH], ADA),
    ("quota_address_pending", [HOLDER, GOT_PENDING_ENOUGH], ADA),
]


def invite_refused(code: str) -> InvitationRefused:
    return InvitationRefused(group_id=GROUP, code=code, command_type=InviteByEmail.TYPE)


@pytest.mark.parametrize(("code", "rows", "actor"), REFUSALS)
def test_refuses_to_invite_in_the_documented_order(code: str, rows: list[Any], actor: UUID | None) -> None:
    service = with_quotas(QUOTAS)
    scene = given(service, *rows).when(INVITE.body, actor=actor).then(invite_refused(code))
    scene.leaves(*(rows if code in {"not_owner", "group_closed", "quota_owner_day"} else counted(rows)))


def counted(rows: list[Any]) -> list[Any]:
    """The same rows after one more question of the owner's that was answered."""
    made = next(
        (row for row in rows if row.id == sent_invitations_tally(ADA)), Tally(sent_invitations_tally(ADA), 0, TODAY, 0)
    )
    return [*(row for row in rows if row is not made), replace(made, today=made.today + 1)]


def test_whatever_is_answered_about_an_address_counts() -> None:
    """Else a refusal that costs nothing tells who has which address, as often as anybody likes."""
    asked = [incoming(InviteByEmail(group_id=GROUP, email=EMAIL), ADA, id_of(f"question {n}")) for n in range(4)]
    refused = [invite_refused("already_member")] * 3
    given(with_quotas(QUOTAS), HOLDER, *member()).when(*asked).then(*refused, invite_refused("quota_owner_day"))


LAST_ONES: list[tuple[str, Tally]] = [
    ("the owner's last of the day", Tally(sent_invitations_tally(ADA), 0, TODAY, 2)),
    ("the owner's last that is pending", Tally(sent_invitations_tally(ADA), 1, TODAY, 0)),
    ("the subscriber's last of the day", Tally(received_invitations_tally(BOB), 0, TODAY, 2)),
    ("the subscriber's last that is pending", Tally(received_invitations_tally(BOB), 1, TODAY, 0)),
    ("the owner's first of a new day", Tally(sent_invitations_tally(ADA), 0, YESTERDAY, 3)),
    ("the subscriber's first of a new day", Tally(received_invitations_tally(BOB), 0, YESTERDAY, 3)),
]


@pytest.mark.parametrize("tally", [case[1] for case in LAST_ONES], ids=[case[0] for case in LAST_ONES])
def test_a_quota_lets_its_last_one_pass(tally: Tally) -> None:
    scene = given(with_quotas(QUOTAS), HOLDER, tally).when(INVITE).then(*sent(INVITATION))
    counted = next(row for row in scene.rows() if isinstance(row, Tally) and row.id == tally.id)
    before = tally.on(TODAY)
    assert counted == replace(before, pending=before.pending + 1, today=before.today + 1)


@pytest.mark.parametrize("tally", [MADE_ENOUGH, GOT_ENOUGH])
def test_the_next_day_resets_the_days_quota_and_not_the_pending_ones(tally: Tally) -> None:
    tomorrow, few = NOW + timedelta(days=1), replace(tally, pending=1)
    service = with_quotas(QUOTAS)
    given(service, HOLDER, few).when(INVITE, at=tomorrow - timedelta(seconds=1)).then(
        invite_refused("quota_owner_day" if tally is MADE_ENOUGH else "quota_address_day")
    )
    given(service, HOLDER, few).when(INVITE, at=tomorrow).then(*sent(INVITATION, at=tomorrow))
    code = "quota_owner_pending" if tally is MADE_ENOUGH else "quota_address_pending"
    given(service, HOLDER, tally).when(INVITE, at=tomorrow).then(invite_refused(code))


def test_a_renewal_adds_to_the_days_and_not_to_the_pending_ones() -> None:
    service = with_quotas(replace(QUOTAS, owner_pending=1, address_pending=1))
    scene = given(service, HOLDER, *PENDING.rows()).when(INVITE).then(*sent(ID, round_=2, renewed=True))
    full = incoming(INVITE.body, ADA, id_of("second"))
    scene.when(full).then(*sent(ID, round_=3, renewed=True))
    scene.when(incoming(INVITE.body, ADA, id_of("third"))).then(*sent(ID, round_=4, renewed=True))
    scene.when(incoming(INVITE.body, ADA, id_of("fourth"))).then(invite_refused("quota_owner_day"))


def test_a_renewal_counts_as_the_mail_that_its_reader_gets() -> None:
    rows = [HOLDER, PENDING.invitation, PENDING.membership, PENDING.line, GOT_ENOUGH]
    scene = given(with_quotas(QUOTAS), *rows).when(INVITE).then(invite_refused("quota_address_day"))
    scene.leaves(*counted(rows))


def test_an_address_that_nobody_has_counts_against_the_owners_day() -> None:
    nobody = [
        incoming(InviteByEmail(group_id=GROUP, email=f"nobody{n}@example.org"), ADA)
        for n in range(QUOTAS.owner_day + 1)
    ]
    required = AccountCreationRequired(group_id=GROUP, owner_id=ADA, plans=())
    scene = given(with_quotas(QUOTAS)).when(*nobody).then(*[required] * 3, invite_refused("quota_owner_day"))
    scene.leaves(Tally(sent_invitations_tally(ADA), 0, TODAY, 3))


ENDS: list[tuple[Incoming[Message], InvitationState]] = [
    (ACCEPT, InvitationState.ACCEPTED),
    (DECLINE, InvitationState.DECLINED),
    (REVOKE, InvitationState.REVOKED),
    (BOUNCE, InvitationState.BOUNCED),
]


@pytest.mark.parametrize(("end", "state"), ENDS)
def test_each_end_makes_room_for_another_pending_one(end: Incoming[Message], state: InvitationState) -> None:
    full = [Tally(sent_invitations_tally(ADA), 2, TODAY, 0), Tally(received_invitations_tally(BOB), 2, TODAY, 0)]
    rows = [PENDING.invitation, PENDING.membership, PENDING.line, *full]
    scene = given(with_quotas(QUOTAS), *rows).when(end)
    assert {row.pending for row in scene.rows() if isinstance(row, Tally)} == {1}


def test_expiry_makes_room_for_another_pending_one() -> None:
    scene = given(GROUPS, *PENDING.rows()).when(DUE, at=SOON).then(EXPIRED, CLEAR)
    assert {row.pending for row in scene.rows() if isinstance(row, Tally)} == {0}


def test_a_repetition_that_the_inbox_let_through_sends_no_second_mail() -> None:
    invited = given(GROUPS, HOLDER).when(INVITE)
    ended = (
        given(GROUPS, HOLDER).when(INVITE).when(RevokeInvitation(group_id=GROUP, invitation_id=INVITATION), actor=ADA)
    )
    for scene in (invited, ended):
        rows = scene.rows()
        scene.when(INVITE).then().leaves(*rows)


@pytest.mark.parametrize("together", [True, False])
def test_two_invitations_of_one_subscriber_are_one_that_is_renewed(together: bool) -> None:
    again = incoming(INVITE.body, ADA, id_of("again"))
    first, second = sent(INVITATION), sent(INVITATION, round_=2, renewed=True)
    if together:
        scene = given(GROUPS, HOLDER).when(INVITE, again).then(*first, *second)
    else:
        scene = given(GROUPS, HOLDER).when(INVITE).then(*first).when(again).then(*second)
    assert scene.only(Invitation).round == 2
    assert Tally(sent_invitations_tally(ADA), 1, TODAY, 2) in scene.rows()
    assert Tally(received_invitations_tally(BOB), 1, TODAY, 2) in scene.rows()


def test_two_owners_invite_one_subscriber_and_each_has_an_invitation() -> None:
    hers = incoming(InviteByEmail(group_id=group_of(EVE), email=EMAIL), EVE)
    scene = given(GROUPS, HOLDER).when(INVITE, hers)
    assert len([row for row in scene.rows() if isinstance(row, Invitation)]) == 2
    assert Tally(received_invitations_tally(BOB), 2, TODAY, 2) in scene.rows()


def test_an_address_that_is_recorded_in_the_same_batch_is_invited() -> None:
    person = PersonRecorded(subscriber_id=BOB, email=EMAIL, first_name="Bob", last_name="M.", language=Language.EN)
    given(GROUPS).when(person, INVITE).then(*sent(INVITATION))


@pytest.mark.parametrize("reverse", [True, False])
def test_of_two_whose_records_name_one_address_always_the_same_is_invited(reverse: bool) -> None:
    """The record with which one of them went on is on its way."""
    first, second = sorted((BOB, EVE))
    people = [replace(HOLDER, id=id_) for id_ in sorted((BOB, EVE), reverse=reverse)]
    scene = given(GROUPS, *people).when(INVITE)
    assert scene.only(Invitation).subscriber_id == first
    went_on = PersonRecorded(
        subscriber_id=first, email="new@example.org", first_name="Bob", last_name="M.", language=Language.EN
    )
    scene = given(GROUPS, *people).when(went_on, INVITE)
    assert scene.only(Invitation).subscriber_id == second


def test_an_invitation_leaves_the_group_as_it_is() -> None:
    """It makes the group's row, which a closing locks, if it is missing."""
    for group in (Group(GROUP, ADA, "The branch", True, None), Group(GROUP, ADA, "Ada L.", False, None)):
        assert given(GROUPS, HOLDER, group).when(INVITE).only(Group) == group
        assert given(GROUPS, group, *PENDING.rows()).when(ACCEPT).only(Group) == group


def test_a_spelling_of_the_address_does_not_matter() -> None:
    spelled = InviteByEmail(group_id=GROUP, email=" Bob@EXAMPLE.org ")
    given(GROUPS, HOLDER).when(incoming(spelled, ADA, INVITE.id)).then(*sent(INVITATION))


# --- answering ---

Way = Callable[[type[AcceptInvitation] | type[DeclineInvitation]], Incoming[Message]]
WAYS: dict[str, Way] = {
    "as the subscriber": lambda command: incoming(command(invitation_id=ID), BOB),
    "with the token": lambda command: incoming(command(invitation_id=ID, token=TOKEN.hex())),
    "with both": lambda command: incoming(command(invitation_id=ID, token=TOKEN.hex()), BOB),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_accepting_makes_a_member(way: Way) -> None:
    scene = given(GROUPS, *PENDING.rows()).when(way(AcceptInvitation))
    scene.then(ACCEPTED, CLEAR, *JOINED).leaves(*PENDING.joined())


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_declining_ends_the_invitation(way: Way) -> None:
    scene = given(GROUPS, *PENDING.rows()).when(way(DeclineInvitation))
    scene.then(DECLINED, CLEAR).leaves(*PENDING.ended(InvitationState.DECLINED))


@pytest.mark.parametrize("with_token", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_what_is_invited_in_the_same_batch_can_be_accepted(together: bool, with_token: bool) -> None:
    token = NEW_TOKEN.hex() if with_token else None
    accept = incoming(AcceptInvitation(invitation_id=INVITATION, token=token), None if with_token else BOB)
    told = InvitationAccepted(group_id=GROUP, owner_id=ADA, invitation_id=INVITATION, subscriber_id=BOB)
    accepted: list[Effect] = [told, ClearTimer(INVITATION), *JOINED]
    if together:
        scene = given(GROUPS, HOLDER).when(INVITE, accept).then(*sent(INVITATION), *accepted)
    else:
        scene = given(GROUPS, HOLDER).when(INVITE).then(*sent(INVITATION)).when(accept).then(*accepted)
    member = scene.only(Membership)
    assert (member.active, member.epoch, member.invitation_id) == (True, 1, None)


def over(state: InvitationState) -> list[Any]:
    return PENDING.ended(state, at=MADE)


BAD = OLD_TOKEN.hex()
ANSWERS: list[tuple[str, list[Any], UUID | None, str | None]] = [
    # code, rows, actor, token
    ("unknown_invitation", [], EVE, BAD),
    ("not_invited", over(InvitationState.DECLINED), EVE, BAD),
    ("not_invited", over(InvitationState.DECLINED), ADA, TOKEN.hex()),  # nor does the owner answer for them
    ("not_invited", over(InvitationState.DECLINED), None, None),
    ("token_invalid", over(InvitationState.DECLINED), BOB, BAD),
    ("token_invalid", over(InvitationState.DECLINED), None, BAD),
    *((state.refusal, over(state), BOB, None) for state in InvitationState if state is not InvitationState.PENDING),
    *(
        (state.refusal, over(state), None, TOKEN.hex())
        for state in InvitationState
        if state is not InvitationState.PENDING
    ),
]


@pytest.mark.parametrize("command", [AcceptInvitation, DeclineInvitation])
@pytest.mark.parametrize(("code", "rows", "actor", "token"), ANSWERS)
def test_refuses_an_answer_in_the_documented_order(
    command: type[AcceptInvitation] | type[DeclineInvitation],
    code: str,
    rows: list[Any],
    actor: UUID | None,
    token: str | None,
) -> None:
    answer = incoming(command(invitation_id=ID, token=token), actor)
    given(GROUPS, *rows).when(answer).then(answer_refused(code, command)).leaves(*rows)


def test_who_does_not_hold_the_token_does_not_learn_that_time_is_up() -> None:
    rows = PENDING.rows()
    stranger = incoming(AcceptInvitation(invitation_id=ID), EVE)
    given(GROUPS, *rows).when(stranger, at=SOON).then(answer_refused("not_invited")).leaves(*rows)


# --- taking back ---

OTHERS = Pending(owner=EVE)


def revocation_refused(code: str) -> RevocationRefused:
    return RevocationRefused(group_id=GROUP, invitation_id=ID, code=code, command_type=RevokeInvitation.TYPE)


def test_the_owner_takes_an_invitation_back() -> None:
    scene = given(GROUPS, *PENDING.rows()).when(REVOKE).then(REVOKED, CLEAR)
    scene.leaves(*PENDING.ended(InvitationState.REVOKED))


REVOCATIONS: list[tuple[str, list[Any], UUID | None]] = [
    ("not_owner", [CLOSED], BOB),
    ("not_owner", [CLOSED, *PENDING.rows()], None),
    ("not_owner", OTHERS.rows(), EVE),  # hers is another group
    ("group_closed", [CLOSED], ADA),
    ("unknown_invitation", [], ADA),
    ("unknown_invitation", OTHERS.ended(InvitationState.DECLINED), ADA),  # another group's is not hers to ask about
    *((state.refusal, over(state), ADA) for state in InvitationState if state is not InvitationState.PENDING),
]


@pytest.mark.parametrize(("code", "rows", "actor"), REVOCATIONS)
def test_refuses_a_revocation_in_the_documented_order(code: str, rows: list[Any], actor: UUID | None) -> None:
    given(GROUPS, *rows).when(REVOKE.body, actor=actor).then(revocation_refused(code)).leaves(*rows)


# --- one end, whatever comes first ---

DUE_AT_ONCE = Pending(expires_at=NOW)


def ends_together(first: Incoming[Message], second: Incoming[Message], *expected: Effect) -> None:
    """Whether they come in one batch or in two, the first of them wins and the second learns it, or changes nothing."""
    one_by_one = given(GROUPS, *PENDING.rows()).when(first)
    effects = [*one_by_one.effects, *one_by_one.when(second).effects]
    in_one_batch = given(GROUPS, *PENDING.rows()).when(first, second).then(*expected)
    assert effects == list(expected)
    in_one_batch.leaves(*one_by_one.rows())
    assert len([e for e in effects if isinstance(e, ClearTimer)]) == 1, "it ends once"


RACES: list[tuple[str, Incoming[Message], Incoming[Message], Sequence[Effect]]] = [
    ("accept, revoke", ACCEPT, REVOKE, [ACCEPTED, CLEAR, *JOINED, revocation_refused("invitation_accepted")]),
    ("revoke, accept", REVOKE, ACCEPT, [REVOKED, CLEAR, answer_refused("invitation_revoked")]),
    (
        "accept, decline",
        ACCEPT,
        DECLINE,
        [ACCEPTED, CLEAR, *JOINED, answer_refused("invitation_accepted", DeclineInvitation)],
    ),
    ("decline, accept", DECLINE, ACCEPT, [DECLINED, CLEAR, answer_refused("invitation_declined")]),
    ("accept, bounce", ACCEPT, BOUNCE, [ACCEPTED, CLEAR, *JOINED]),
    ("bounce, accept", BOUNCE, ACCEPT, [BOUNCED, CLEAR, answer_refused("invitation_bounced")]),
    ("decline, revoke", DECLINE, REVOKE, [DECLINED, CLEAR, revocation_refused("invitation_declined")]),
    (
        "revoke, decline",
        REVOKE,
        DECLINE,
        [REVOKED, CLEAR, answer_refused("invitation_revoked", DeclineInvitation)],
    ),
    ("revoke, bounce", REVOKE, BOUNCE, [REVOKED, CLEAR]),
    ("bounce, revoke", BOUNCE, REVOKE, [BOUNCED, CLEAR, revocation_refused("invitation_bounced")]),
    ("accept, the timer", ACCEPT, incoming(DUE), [ACCEPTED, CLEAR, *JOINED]),
    (
        "accept twice",
        ACCEPT,
        incoming(ACCEPT.body, BOB, id_of("2")),
        [ACCEPTED, CLEAR, *JOINED, answer_refused("invitation_accepted")],
    ),
    (
        "revoke twice",
        REVOKE,
        incoming(REVOKE.body, ADA, id_of("2")),
        [REVOKED, CLEAR, revocation_refused("invitation_revoked")],
    ),
]


@pytest.mark.parametrize(("first", "second", "effects"), [race[1:] for race in RACES], ids=[race[0] for race in RACES])
def test_one_end_wins(first: Incoming[Message], second: Incoming[Message], effects: Sequence[Effect]) -> None:
    ends_together(first, second, *effects)


def test_the_timer_ends_an_invitation_that_nobody_answered() -> None:
    scene = given(GROUPS, *DUE_AT_ONCE.rows()).when(DUE).then(EXPIRED, CLEAR)
    scene.leaves(
        *[
            replace(r, expires_at=NOW) if isinstance(r, Invitation) else r
            for r in PENDING.ended(InvitationState.EXPIRED)
        ]
    )
    scene.when(ACCEPT).then(answer_refused("invitation_expired"))
    scene.when(REVOKE).then(revocation_refused("invitation_expired"))
    scene.when(BOUNCE).then()
    scene.when(DUE).then()


@pytest.mark.parametrize("answer", [ACCEPT, DECLINE])
def test_an_answer_after_its_time_ends_the_invitation_though_the_timer_is_late(answer: Incoming[Message]) -> None:
    refusal = answer_refused("invitation_expired", type(answer.body))
    scene = given(GROUPS, *DUE_AT_ONCE.rows()).when(answer).then(EXPIRED, CLEAR, refusal)
    assert scene.only(Invitation).state is InvitationState.EXPIRED
    rows = scene.rows()
    scene.when(DUE).then().leaves(*rows)
    given(GROUPS, *DUE_AT_ONCE.rows()).when(answer, DUE).then(EXPIRED, CLEAR, refusal).leaves(*rows)
    given(GROUPS, *DUE_AT_ONCE.rows()).when(DUE, answer).then(EXPIRED, CLEAR, refusal).leaves(*rows)


def test_an_answer_in_the_last_moment_is_in_time_and_the_timer_finds_nothing() -> None:
    last = SOON - timedelta(microseconds=1)
    scene = given(GROUPS, *PENDING.rows()).when(ACCEPT, at=last)
    assert scene.effects[0] == ACCEPTED
    scene.when(DUE, at=SOON).then()


def test_the_timer_of_an_earlier_round_changes_nothing() -> None:
    scene = given(GROUPS, HOLDER, *DUE_AT_ONCE.rows()).when(INVITE).then(*sent(ID, round_=2, renewed=True))
    rows = scene.rows()
    scene.when(DUE).then().leaves(*rows)
    given(GROUPS, HOLDER, *DUE_AT_ONCE.rows()).when(INVITE, DUE).then(*sent(ID, round_=2, renewed=True)).leaves(*rows)


def test_an_invitation_whose_timer_came_first_is_not_renewed_but_made_anew() -> None:
    scene = given(GROUPS, HOLDER, *DUE_AT_ONCE.rows()).when(DUE, INVITE).then(EXPIRED, CLEAR, *sent(INVITATION))
    assert scene.only(Membership).invitation_id == INVITATION != ID


def test_a_mail_that_came_back_ends_the_invitation_and_the_history_says_why() -> None:
    scene = given(GROUPS, *PENDING.rows()).when(BOUNCE).then(BOUNCED, CLEAR)
    scene.leaves(*PENDING.ended(InvitationState.BOUNCED, "mailbox_full"))


@pytest.mark.parametrize("round_", [1, 3, None])
def test_the_mail_of_another_round_says_nothing_of_the_last(round_: int | None) -> None:
    rows = Pending(round=2).rows()
    bounce = BOUNCE.body.model_copy(update={"round": round_})
    given(GROUPS, *rows).when(bounce).then().leaves(*rows)


@pytest.mark.parametrize("invitation_id", [None, id_of("unknown")])
def test_a_mail_that_is_no_invitation_of_ours_changes_nothing(invitation_id: UUID | None) -> None:
    bounce = BOUNCE.body.model_copy(update={"invitation_id": invitation_id})
    given(GROUPS, *PENDING.rows()).when(bounce).then().leaves(*PENDING.rows())


def test_a_timer_of_an_unknown_invitation_changes_nothing() -> None:
    given(GROUPS).when(DUE).then().leaves()


# --- whose account closes ---

CLOSE_GUEST, CLOSE_OWNER = AccountClosed(account_id=BOB), AccountClosed(account_id=ADA)


@pytest.mark.parametrize(("close", "reason"), [(CLOSE_GUEST, "account_closed"), (CLOSE_OWNER, "group_closed")])
def test_a_closed_account_ends_its_invitations(close: AccountClosed, reason: str) -> None:
    id_ = close.account_id
    gone = Subscriber(id_, None, None, None, None, AccountState.CLOSED, None, 0, 0)
    void = InvitationRevoked.model_validate({**PENDING.told, "reason": reason})
    scene = given(GROUPS, *PENDING.rows()).when(close).then(void, CLEAR)
    invitation, *others = PENDING.ended(InvitationState.REVOKED, reason)
    if close is CLOSE_GUEST:
        invitation = replace(invitation, email=None)
    scene.leaves(gone, Group(group_of(id_), id_, "", False, NOW), invitation, *others)
    scene.when(ACCEPT).then(answer_refused("invitation_revoked"))
    given(GROUPS, *PENDING.rows()).when(close, ACCEPT).then(void, CLEAR, answer_refused("invitation_revoked"))


@pytest.mark.parametrize(("close", "via"), [(CLOSE_GUEST, "account_closed"), (CLOSE_OWNER, "group_closed")])
@pytest.mark.parametrize("together", [True, False])
def test_who_accepted_first_is_a_member_whose_membership_ends(close: AccountClosed, via: str, together: bool) -> None:
    left: list[Effect] = [
        MemberLeft.model_validate({"group_id": GROUP, "owner_id": ADA, "member_id": BOB, "epoch": 1, "via": via}),
        MembershipEnded(membership_id=MEMBER),
    ]
    scene = given(GROUPS, *PENDING.rows())
    if together:
        scene.when(ACCEPT, close).then(ACCEPTED, CLEAR, *JOINED, *left)
    else:
        scene.when(ACCEPT).then(ACCEPTED, CLEAR, *JOINED).when(close).then(*left)
    assert not scene.only(Membership).active


@pytest.mark.parametrize("together", [True, False])
def test_an_address_whose_account_is_closed_is_nobodys_though_the_directory_does_not_say_so_yet(together: bool) -> None:
    person = PersonRecorded(subscriber_id=BOB, email=EMAIL, first_name="Bob", last_name="M.", language=Language.EN)
    scene: Scene = given(GROUPS).when(person)
    required = AccountCreationRequired(group_id=GROUP, owner_id=ADA, plans=())
    if together:
        scene.when(CLOSE_GUEST, INVITE).then(required)
    else:
        scene.when(CLOSE_GUEST).then().when(INVITE).then(required)


def test_an_invitation_of_the_same_batch_ends_with_the_account() -> None:
    scene = given(GROUPS, HOLDER).when(INVITE, CLOSE_GUEST)
    invitation = scene.only(Invitation)
    void = InvitationRevoked(
        group_id=GROUP, owner_id=ADA, invitation_id=INVITATION, subscriber_id=BOB, reason="account_closed"
    )
    scene.then(*sent(INVITATION), void, ClearTimer(INVITATION))
    assert (invitation.state, scene.only(Membership).invitation_id) == (InvitationState.REVOKED, None)


def test_a_closed_account_ends_all_its_invitations_made_and_got() -> None:
    got, made = Pending(owner=EVE, guest=ADA, id=id_of("got")), Pending(id=id_of("made"))
    too = Pending(owner=BOB, guest=ADA, id=id_of("too"))
    elsewhere = Pending(owner=EVE, guest=BOB, id=id_of("elsewhere"))
    rows = [row for one in (got, too, made, elsewhere) for row in one.rows() if not isinstance(row, Tally)]
    tallies = [Tally(id_, 2, TODAY, 0) for id_ in (sent_invitations_tally(EVE), received_invitations_tally(BOB))] + [
        Tally(sent_invitations_tally(BOB), 1, TODAY, 0),
        Tally(sent_invitations_tally(ADA), 1, TODAY, 0),
        Tally(received_invitations_tally(ADA), 2, TODAY, 0),
    ]
    scene = given(GROUPS, *rows, *tallies).when(CLOSE_OWNER)
    ended = {(e.invitation_id, e.reason) for e in scene.effects if isinstance(e, InvitationRevoked)}
    assert ended == {(got.id, "account_closed"), (too.id, "account_closed"), (made.id, "group_closed")}
    assert {row.id: row.pending for row in scene.rows() if isinstance(row, Tally)} == {
        sent_invitations_tally(ADA): 0,
        sent_invitations_tally(BOB): 0,
        received_invitations_tally(ADA): 0,
        sent_invitations_tally(EVE): 1,
        received_invitations_tally(BOB): 1,
    }
    assert elsewhere.invitation in scene.rows()
