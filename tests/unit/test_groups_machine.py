"""Groups under whatever may come, in any order and any batches: what is always true of it, after every step.

Commands come from owners, members and strangers, answers from the others come late or twice, mails come back, time
passes, timers fire late, accounts close. The service runs as it does in production but for its database. That the
machine finds what is wrong is shown by services that are.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.fields import Language
from popfax_contracts.groups import (
    AcceptInvitation,
    CreateMemberAccount,
    DeclineInvitation,
    DetachMembers,
    InvitationAccepted,
    InvitationBounced,
    InvitationDeclined,
    InvitationExpired,
    InvitationRevoked,
    InvitationSent,
    InviteByEmail,
    LeaveGroup,
    MemberJoined,
    MemberLeft,
    MemberRef,
    MembershipEnded,
    MembershipRecorded,
    RenameGroup,
    RevokeInvitation,
    TransferUnits,
)
from popfax_contracts.ledger import (
    BalanceChanged,
    CaptureHold,
    HoldCaptured,
    HoldReleased,
    PostedLeg,
    PostTransfers,
    ReleaseHold,
    ReserveUnits,
    TransfersPosted,
    TransfersRefused,
    UnitsRefused,
    UnitsReserved,
)
from popfax_contracts.message import Message, group_of
from popfax_contracts.notifications import MailUndeliverable, SendInvitation
from popfax_contracts.provisioning import (
    AccountClosed,
    AccountProvisioned,
    AccountRefused,
    CancelProvisioning,
    PersonErased,
    PersonRecorded,
    PlanPublished,
    ProvisionAccount,
)
from services.chassis.memory import MemoryDatabase
from services.chassis.messages import Incoming, Outcome, SetTimer
from services.chassis.sagas import SagaRow, Status
from services.chassis.service import AnyHandler, Moment, Service
from services.chassis.shell import FromKafka, Shell
from services.chassis.timers import fire_due
from services.groups import transitions
from services.groups.consumers import with_quotas
from services.groups.domain import (
    AccountState,
    Group,
    HistoryEntry,
    Invitation,
    InvitationState,
    Kind,
    Membership,
    Quotas,
    Subscriber,
    Tally,
    Transfer,
    history_of_membership,
    received_invitations_tally,
    sent_invitations_tally,
)
from services.groups.handlers import invitations, memberships
from services.groups.store import Roster
from services.groups.timers import InvitationDue
from tests.simulation.bus import BusRecord
from tests.simulation.world import Decide, drive, exchanged
from tests.unit.given import NOW, id_of

pytestmark = pytest.mark.usefixtures("quiet")

R = TypeVar("R")

OWNERS = [id_of("ada"), id_of("eve")]
PEOPLE = [*OWNERS, id_of("bob"), id_of("joe")]
EMAILS = [f"{name}@example.org" for name in ("ada", "eve", "bob", "joe", "grace")]
SERVICE = with_quotas(Quotas(owner_day=9, owner_pending=3, address_day=4, address_pending=1))
ENDS: dict[type[Message], InvitationState] = {
    InvitationAccepted: InvitationState.ACCEPTED,
    InvitationDeclined: InvitationState.DECLINED,
    InvitationRevoked: InvitationState.REVOKED,
    InvitationExpired: InvitationState.EXPIRED,
    InvitationBounced: InvitationState.BOUNCED,
}
SAGA_ENDS = {Status.COMPLETED: "created", Status.REFUSED: "refused"}

some = st.integers(0, 1000)
"""Which of those that there are: this many on from the first."""
owners, people, emails, likely = (
    st.sampled_from(OWNERS),
    st.sampled_from(PEOPLE),
    st.sampled_from(EMAILS),
    st.booleans(),
)


class Ticking:
    """A clock that stands still until it is told, and tokens that are never the same."""

    def __init__(self) -> None:
        self.now = NOW
        self.tokens = 0

    def moment(self) -> Moment:
        return Moment(self.now, self._token)

    def _token(self, length: int) -> bytes:
        self.tokens += 1
        return self.tokens.to_bytes(length, "big")

    async def sleep(self, seconds: float) -> None:
        """Nobody is waited for."""


class Groups(RuleBasedStateMachine):
    """The service, what was sent to it, and what it has said."""

    service: Service = SERVICE

    def __init__(self) -> None:
        super().__init__()
        self.clock = Ticking()
        self.database = MemoryDatabase()
        self.shell = Shell(self.service, self.database, self.clock)
        self.sent: list[BusRecord] = []
        self.bodies: list[Message] = []
        """What was sent, in its order."""
        self.came: list[Message] = []
        """What the service has got of it, in this order."""
        self.waiting: list[BusRecord] = []
        self.read = 0
        self.said: list[Message] = []
        self.asked: list[Message] = []
        """Commands to the others that wait for their answer."""
        self.people = list(PEOPLE)

    # --- how messages come ---

    def comes(self, body: Message, actor: UUID | None = None, *, last: bool = True) -> None:
        """A message comes; unless it is the last of its batch it waits for more."""
        headers = [("ce_id", str(id_of(f"message {len(self.sent)}")).encode()), ("ce_type", body.TYPE.encode())]
        if actor is not None:
            headers.append(("ce_actor", str(actor).encode()))
        value = body.to_json() or None
        record = BusRecord(body.TOPICS[0].name, 0, len(self.sent), body.key().encode(), value, headers)
        self.sent.append(record)
        self.bodies.append(body)
        self.waiting.append(record)
        if last:
            self.deliver()

    @rule()
    def deliver(self) -> None:
        """The batch is full."""
        batch, self.waiting = self.waiting, []
        drive(self.shell.process(batch, FromKafka()))
        self.came += [self.bodies[offset] for offset in dict.fromkeys(record.offset for record in batch)]
        self.listen()

    def listen(self) -> None:
        """Read what the service has published since."""
        outbox = self.database.contents.outbox
        for out in outbox[self.read :]:
            body = MESSAGES[out.type].from_record(out.key.encode(), out.value)
            self.said.append(body)
            if isinstance(
                body,
                PostTransfers | ReserveUnits | ProvisionAccount | CaptureHold | ReleaseHold | CancelProvisioning,
            ):
                self.asked.append(body)
        self.read = len(outbox)

    @rule(which=some)
    def a_message_comes_again_that_the_inbox_has_forgotten(self, which: int) -> None:
        record = self.sent[which % len(self.sent)]
        self.database.contents.inbox.clear()
        self.waiting.append(record)
        self.deliver()

    @rule(days=st.sampled_from([0, 0.1, 0.5, 1, 7]))
    def time_passes(self, days: float) -> None:
        self.clock.now += timedelta(days=days)

    @rule()
    def timers_fire(self) -> None:
        while drive(fire_due(self.shell)):
            pass
        self.listen()

    # --- who there is ---

    @initialize()
    def everybody_is_known(self) -> None:
        self.comes(PlanPublished(plan="send_only", price_units=10, validity_months=12, fax_number=False), last=False)
        for who, email in zip(PEOPLE, EMAILS, strict=False):
            self.comes(_person(who, email), last=who == PEOPLE[-1])

    @rule(who=people, email=emails, last=likely, chance=st.integers(0, 3))
    def somebody_is_recorded(self, who: UUID, email: str, last: bool, chance: int) -> None:
        if chance == 0:
            self.comes(_person(who, email), last=last)

    @rule(who=people, last=likely, chance=st.integers(0, 3))
    def an_account_closes(self, who: UUID, last: bool, chance: int) -> None:
        if chance == 0:
            self.comes(AccountClosed(account_id=who), last=last)

    @rule(who=people, chance=st.integers(0, 3))
    def somebody_is_erased(self, who: UUID, chance: int) -> None:
        if chance == 0:
            self.comes(PersonErased(subscriber_id=who))

    @rule(who=people, version=st.integers(1, 9), last=likely)
    def a_balance_changes(self, who: UUID, version: int, last: bool) -> None:
        told = BalanceChanged(account_id=who, version=version, balance_units=version, available_units=version)
        self.comes(told, last=last)

    # --- what they ask for ---

    @rule(owner=owners, which=some, last=likely)
    def an_owner_invites(self, owner: UUID, which: int, last: bool) -> None:
        known = sorted(row.email for row in self.rows(Subscriber) if row.email is not None and row.id != owner)
        email = [*known, *EMAILS][which % (len(known) + len(EMAILS))]
        self.comes(InviteByEmail(group_id=group_of(owner), email=email), owner, last=last)

    @rule(owner=owners, which=some, last=likely)
    def an_owner_invites_and_they_accept(self, owner: UUID, which: int, last: bool) -> None:
        self.an_owner_invites(owner, which, last=True)
        self.the_last_who_was_invited_accepts(last=last)

    @rule(which=some, command=st.sampled_from([AcceptInvitation, DeclineInvitation]), by_token=likely, last=likely)
    def an_invitation_is_answered(self, which: int, command: Any, by_token: bool, last: bool) -> None:
        """With the token of any mail there ever was, or as the one who was invited."""
        mails = self.those(SendInvitation)
        if mails:
            mail = mails[-1 - which % len(mails)]
            token = mail.token if by_token else None
            self.comes(
                command(invitation_id=mail.invitation_id, token=token),
                None if by_token else mail.recipient_id,
                last=last,
            )

    @rule(last=likely)
    def the_last_who_was_invited_accepts(self, last: bool) -> None:
        for mail in self.those(SendInvitation)[-1:]:
            self.comes(AcceptInvitation(invitation_id=mail.invitation_id, token=mail.token), last=last)

    @rule(which=some, last=likely)
    def an_owner_revokes(self, which: int, last: bool) -> None:
        known = self.those(InvitationSent)
        if known:
            told = known[-1 - which % len(known)]
            command = RevokeInvitation(group_id=told.group_id, invitation_id=told.invitation_id)
            self.comes(command, told.owner_id, last=last)

    @rule(which=some, last=likely)
    def a_mail_comes_back(self, which: int, last: bool) -> None:
        mails = self.those(SendInvitation)
        if mails:
            mail = mails[-1 - which % len(mails)]
            self.comes(
                MailUndeliverable(
                    mail_id=id_of(f"{mail.token}"),
                    recipient_id=mail.recipient_id,
                    reason="mailbox_full",
                    invitation_id=mail.invitation_id,
                    round=mail.round,
                ),
                last=last,
            )

    @rule(which=some, epoch=st.none() | st.integers(1, 3), last=likely)
    def an_owner_detaches(self, which: int, epoch: int | None, last: bool) -> None:
        if (member := self.member(which)) is not None:
            refs = (MemberRef(member_id=member.member_id, epoch=epoch),)
            self.comes(DetachMembers(group_id=member.group_id, members=refs), member.owner_id, last=last)

    @rule(which=some, epoch=st.none() | st.integers(1, 3), last=likely)
    def a_member_leaves(self, which: int, epoch: int | None, last: bool) -> None:
        if (member := self.member(which)) is not None:
            self.comes(LeaveGroup(group_id=member.group_id, epoch=epoch), member.member_id, last=last)

    def member(self, which: int) -> Membership | None:
        """Somebody who is a member, or was once, or is invited."""
        known = sorted(self.rows(Membership), key=lambda row: (row.active, row.id), reverse=True)
        return known[which % len(known)] if known else None

    @rule(owner=owners, last=likely)
    def an_owner_renames(self, owner: UUID, last: bool) -> None:
        self.comes(RenameGroup(group_id=group_of(owner), name="The branch"), owner, last=last)

    @rule(which=some, everybody=likely, mode=st.sampled_from(["amount", "top_up_to"]), last=likely)
    def an_owner_transfers(self, which: int, everybody: bool, mode: Any, last: bool) -> None:
        if (member := self.member(which)) is not None:
            members: Any = "all" if everybody else (member.member_id,)
            command = TransferUnits(group_id=member.group_id, mode=mode, amount_units=5, members=members)
            self.comes(command, member.owner_id, last=last)

    @rule(owner=owners, email=st.none() | emails, last=likely)
    def an_owner_creates_an_account(self, owner: UUID, email: str | None, last: bool) -> None:
        self.comes(
            CreateMemberAccount(
                group_id=group_of(owner),
                plan="send_only",
                price_units=10,
                email=email or f"new{len(self.sent)}@example.org",
                first_name="Grace",
                last_name="H.",
                language=Language.FR,
            ),
            owner,
            last=last,
        )

    # --- what the others answer ---

    @rule(which=some, well=likely, last=likely)
    def another_service_answers(self, which: int, well: bool, last: bool) -> None:
        if self.asked:
            command = self.asked.pop(which % len(self.asked))
            for answer in self.answers(command, well):
                self.comes(answer, last=False)
            if last:
                self.deliver()

    @rule()
    def the_others_answer_all_there_is(self) -> None:
        while self.asked:
            for command in self.asked:
                for answer in self.answers(command, True):
                    self.comes(answer, last=False)
            self.asked.clear()
            self.deliver()

    def answers(self, command: Message, well: bool) -> list[Message]:
        """What the ledger or provisioning may say to a command."""
        if isinstance(command, PostTransfers):
            return [_transfer(command, well)]
        if isinstance(command, ReserveUnits):
            ids = {"hold_id": command.hold_id, "account_id": command.account_id}
            if well:
                return [UnitsReserved(**ids, amount_units=command.amount_units)]
            return [UnitsRefused(**ids, code="units_short", command_type=command.TYPE)]
        if isinstance(command, CaptureHold):
            return [HoldCaptured(hold_id=command.hold_id, account_id=command.account_id, amount_units=10)]
        if isinstance(command, ReleaseHold):
            return [HoldReleased(hold_id=command.hold_id, account_id=command.account_id, amount_units=10)]
        assert isinstance(command, ProvisionAccount | CancelProvisioning)
        ids = {"request_id": command.request_id, "account_id": command.account_id}
        if well and isinstance(command, ProvisionAccount):
            self.people.append(command.account_id)
            return [
                _person(command.account_id, command.email),
                AccountProvisioned(**ids, plan="send_only", expires_at=self.clock.now),
            ]
        return [AccountRefused(**ids, code="email_taken", command_type=command.TYPE)]

    # --- what is always true ---

    def those(self, kind: type[R]) -> list[R]:
        return [body for body in self.said if isinstance(body, kind)]

    def rows(self, kind: type[R]) -> list[R]:
        return [row for table in self.database.contents.tables.values() for row in table.values() if type(row) is kind]

    @invariant()
    def nothing_fails(self) -> None:
        failed = [(row.parked.code, row.parked.detail) for row in self.database.contents.parked.values()]
        assert not failed

    @invariant()
    def one_invitation_is_pending_and_its_membership_knows(self) -> None:
        pending = {
            (row.group_id, row.subscriber_id): row.id
            for row in self.rows(Invitation)
            if row.state is InvitationState.PENDING
        }
        assert len(pending) == len([r for r in self.rows(Invitation) if r.state is InvitationState.PENDING])
        known = {(r.group_id, r.member_id): r.invitation_id for r in self.rows(Membership) if r.invitation_id}
        assert pending == known
        assert not any(row.active for row in self.rows(Membership) if row.invitation_id)

    @invariant()
    def a_pending_invitation_and_no_other_has_its_timer(self) -> None:
        pending = {row.id: row.expires_at for row in self.rows(Invitation) if row.state is InvitationState.PENDING}
        timers = self.database.contents.timers.values()
        assert pending == {t.id: t.due_at for t, _ in timers if isinstance(t.message, InvitationDue)}

    @invariant()
    def tallies_count_what_is_pending(self) -> None:
        pending: Counter[UUID] = Counter()
        for row in self.rows(Invitation):
            if row.state is InvitationState.PENDING:
                pending.update((sent_invitations_tally(row.owner_id), received_invitations_tally(row.subscriber_id)))
        assert pending == {row.id: row.pending for row in self.rows(Tally) if row.pending}

    @invariant()
    def an_invitation_ends_once(self) -> None:
        told: dict[UUID, list[InvitationState]] = defaultdict(list)
        for body in self.said:
            if (state := ENDS.get(type(body))) is not None:
                told[body.invitation_id].append(state)  # type: ignore[attr-defined]
        for row in self.rows(Invitation):
            assert told[row.id] == ([] if row.state is InvitationState.PENDING else [row.state])
            assert (row.ended_at is None) is (row.state is InvitationState.PENDING)

    @invariant()
    def epochs_rise_by_one_a_join_and_events_take_turns(self) -> None:
        epochs: Counter[tuple[UUID, UUID]] = Counter()
        inside: set[tuple[UUID, UUID]] = set()
        for body in self.said:
            if isinstance(body, MemberJoined):
                pair = body.group_id, body.member_id
                epochs[pair] += 1
                assert pair not in inside
                assert body.epoch == epochs[pair]
                inside.add(pair)
            elif isinstance(body, MemberLeft):
                pair = body.group_id, body.member_id
                assert body.epoch == epochs[pair]
                inside.remove(pair)
        assert inside == {(row.group_id, row.member_id) for row in self.rows(Membership) if row.active}
        assert epochs == {(r.group_id, r.member_id): r.epoch for r in self.rows(Membership) if r.epoch}

    @invariant()
    def a_reader_of_the_members_topic_sees_todays_memberships(self) -> None:
        seen: dict[UUID, MembershipRecorded] = {}
        for body in self.said:
            if isinstance(body, MembershipRecorded):
                seen[body.membership_id] = body
            elif isinstance(body, MembershipEnded):
                seen.pop(body.membership_id, None)
        now = {row.id: (row.member_id, row.epoch, row.joined_at) for row in self.rows(Membership) if row.active}
        assert {id_: (told.member_id, told.epoch, told.joined_at) for id_, told in seen.items()} == now

    @invariant()
    def the_history_agrees_with_the_facts(self) -> None:
        lines = {row.id: row for row in self.rows(HistoryEntry)}
        kinds = Counter(row.kind for row in lines.values())
        for invitation in self.rows(Invitation):
            line = lines[invitation.id]
            assert (line.outcome, line.at, line.ended_at) == (
                invitation.state.value,
                invitation.made_at,
                invitation.ended_at,
            )
        assert kinds[Kind.INVITATION] == len(self.rows(Invitation))
        for member in self.rows(Membership):
            ended = [lines[history_of_membership(member.id, n)].ended_at for n in range(1, member.epoch + 1)]
            assert None not in ended[:-1]
            assert not ended or (ended[-1] is None) is member.active
        assert kinds[Kind.MEMBERSHIP] == sum(member.epoch for member in self.rows(Membership))
        for transfer in self.rows(Transfer):
            legs = [line for line in lines.values() if line.reference_id == transfer.id]
            assert {(line.outcome, line.code, line.ended_at) for line in legs} == {
                (transfer.state.value, transfer.code, transfer.ended_at)
            }
            assert sum(line.units or 0 for line in legs) == (transfer.total_units or 0)
        for saga in self.rows(SagaRow):
            line = lines[saga.id]
            assert (line.at, line.ended_at) == (saga.opened_at, saga.ended_at)
            if saga.ended_at is None:
                assert (line.outcome, line.code, line.member_id) == ("pending", None, None)
            else:
                assert (line.outcome, line.code) == (SAGA_ENDS[saga.status], saga.code)
        assert kinds[Kind.ACCOUNT] == len(self.rows(SagaRow))

    @invariant()
    def a_closed_account_has_nothing_left(self) -> None:
        closed = {row.id for row in self.rows(Subscriber) if row.state is AccountState.CLOSED}
        assert closed <= {row.owner_id for row in self.rows(Group) if row.closed_at}
        for member in self.rows(Membership):
            if closed & {member.owner_id, member.member_id}:
                assert not member.active
                assert member.invitation_id is None
        assert not any(row.email for row in self.rows(Subscriber) if row.id in closed)
        assert not any(row.name for row in self.rows(Group) if row.owner_id in closed)

    @invariant()
    def everybody_has_the_address_that_was_told_last(self) -> None:
        told: dict[UUID, str] = {}
        closed: set[UUID] = set()
        for body in self.came:
            if isinstance(body, PersonRecorded) and body.subscriber_id not in closed:
                told[body.subscriber_id] = body.email
            elif isinstance(body, PersonErased):
                told.pop(body.subscriber_id, None)
            elif isinstance(body, AccountClosed):
                closed.add(body.account_id)
                told.pop(body.account_id, None)
        assert {row.id: row.email for row in self.rows(Subscriber) if row.email is not None} == told


def _person(who: UUID, email: str) -> PersonRecorded:
    return PersonRecorded(subscriber_id=who, email=email, first_name="Some", last_name="Body", language=Language.EN)


def _transfer(command: PostTransfers, well: bool) -> Message:
    ids = {"transfer_id": command.transfer_id, "source_id": command.source_id}
    if not well:
        return TransfersRefused(**ids, code="units_short", command_type=command.TYPE)
    legs = tuple(PostedLeg(account_id=leg.account_id, amount_units=leg.amount_units or 0) for leg in command.legs)
    return TransfersPosted(**ids, legs=legs, total_units=sum(leg.amount_units for leg in legs))


SETTINGS = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_whatever_comes_these_things_are_always_true() -> None:
    run_state_machine_as_test(Groups, settings=SETTINGS)


# --- and the machine finds what is wrong ---


def _without(handler: AnyHandler, unwanted: Callable[[Any], bool]) -> Decide:
    def handle(state: Any, message: Incoming[Any], moment: Moment) -> Outcome:
        return [effect for effect in handler(state, message, moment) if not unwanted(effect)]

    return handle


def _ends_what_has_ended(roster: Roster, message: Incoming[Any], moment: Moment) -> Outcome:
    invitation = roster.invitations.find(message.body.invitation_id)
    return () if invitation is None else transitions.bounce(roster, invitation, "mailbox_full", moment)


def _leaves_the_line_open(roster: Roster, message: Incoming[Any], moment: Moment) -> Outcome:
    outcome = memberships.leave_group(roster, message, moment)
    for entry in roster.history.loaded():
        if entry.outcome == "left":
            roster.history.put(replace(entry, outcome="active", ended_at=None))
    return outcome


WRONG: dict[str, tuple[type[Message], Decide]] = {
    "no tombstone": (LeaveGroup, _without(memberships.leave_group, lambda e: isinstance(e, MembershipEnded))),
    "no timer": (InviteByEmail, _without(invitations.invite_by_email, lambda e: isinstance(e, SetTimer))),
    "two ends": (MailUndeliverable, _ends_what_has_ended),
    "a history that is behind": (LeaveGroup, _leaves_the_line_open),
    "an address that is not forgotten": (PersonErased, lambda roster, message, moment: ()),
    "a question to what was not loaded": (
        LeaveGroup,
        lambda roster, message, moment: roster.subscriber(id_of("somebody else")) and (),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_finds_a_service_with(name: str) -> None:
    model, decide = WRONG[name]

    class Broken(Groups):
        service = exchanged(SERVICE, {model: decide})

    # Hypothesis also draws constants of whatever modules a process has imported, so that how soon it finds is not the
    # same in every run: it may try often, and stops at the first.
    found_soon = settings(SETTINGS, phases=[Phase.generate], max_examples=2000, report_multiple_bugs=False)
    with pytest.raises((AssertionError, KeyError)):
        run_state_machine_as_test(Broken, settings=found_soon)
