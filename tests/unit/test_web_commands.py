"""Posted commands: whatever answers one, in whichever batch, is noted on its row; and nothing else is."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from typing import Any
from uuid import UUID

import pytest

from popfax_contracts.fields import Language
from popfax_contracts.groups import (
    AcceptInvitation,
    CreateMemberAccount,
    DeclineInvitation,
    DetachMembers,
    GroupsCommandMalformed,
    InviteByEmail,
    LeaveGroup,
    MemberRef,
    PayForMember,
    RenameGroup,
    RevokeInvitation,
    SetLowBalance,
    SetStandingOrder,
    StopStandingOrder,
    TransferUnits,
)
from popfax_contracts.ledger import (
    BalanceChanged,
    HoldCaptured,
    HoldReleased,
    PostedLeg,
    TransfersPosted,
    TransfersRefused,
    UnitsRefused,
    UnitsReserved,
)
from popfax_contracts.message import Command, Message, group_of
from popfax_contracts.provisioning import (
    AccountClosed,
    AccountExtended,
    AccountProvisioned,
    AccountRefused,
    PersonRecorded,
)
from services.chassis.messages import Incoming
from services.groups.commands import POSTABLE
from services.groups.consumers import GROUPS
from services.groups.domain import (
    AccountState,
    Change,
    CommandState,
    HistoryEntry,
    Invitation,
    InvitationState,
    Kind,
    Membership,
    OrderKind,
    OrderState,
    Plan,
    PostedCommand,
    StandingOrder,
    Subscriber,
    Tally,
    account_of,
    hash_token,
    history_of_membership,
    membership_of,
    order_of,
    received_invitations_tally,
    saga_asked_by,
    sent_invitations_tally,
)
from services.groups.web.posting import command_of, id_for, is_about_own_group
from tests.unit.given import NOW, Scene, given, id_of, incoming

ADA, BOB, CLEO = id_of("Ada"), id_of("Bob"), id_of("Cleo")
GROUP = group_of(ADA)
BETWEEN = membership_of(GROUP, BOB)
COMMAND = id_of("the posted command")
INVITATION = id_of("invitation")

RENAME = RenameGroup(group_id=GROUP, name="Ours")
CREATE = CreateMemberAccount(
    group_id=GROUP,
    plan="send_only",
    price_units=15,
    email="new@example.com",
    first_name="New",
    last_name="Member",
    language=Language.EN,
)
TRANSFER = TransferUnits(group_id=GROUP, mode="amount", amount_units=5, members=(BOB,))
PAY = PayForMember(group_id=GROUP, member_id=BOB, action="extension", price_units=5)
SET_ORDER = SetStandingOrder(group_id=GROUP, member_id=BOB, kind="monthly", amount_units=5)
ORDER = StandingOrder(
    *(
        order_of(BETWEEN),
        GROUP,
        ADA,
        BOB,
        OrderState.ACTIVE,
        1,
        OrderKind.MONTHLY,
        None,
        None,
        None,
        5,
        NOW,
        None,
        None,
    ),
    *(NOW.date(), 0, NOW.date(), None, NOW, 1, 0),
)


def _posted(model: type[Command], actor: UUID = ADA, **changed: Any) -> PostedCommand:
    row = PostedCommand(COMMAND, model.TYPE, actor, b"", CommandState.PENDING, None, None, NOW, None)
    return replace(row, **changed)


def _of_it(body: Message, actor: UUID | None = ADA, id_: UUID | None = None) -> Incoming[Message]:
    return replace(incoming(body, actor, id_), correlation_id=str(COMMAND))


def _itself(body: Command, actor: UUID = ADA) -> Incoming[Message]:
    return _of_it(body, actor, COMMAND)


def _is_member(id_: UUID = BOB) -> list[Any]:
    between = membership_of(GROUP, id_)
    entry = HistoryEntry(
        history_of_membership(between, 1), GROUP, Kind.MEMBERSHIP, NOW, ADA, id_, between, None, "active", None, None
    )
    return [Membership(between, GROUP, ADA, id_, True, 1, None, NOW, None), entry]


def _is_invited() -> list[Any]:
    entry = HistoryEntry(INVITATION, GROUP, Kind.INVITATION, NOW, ADA, BOB, INVITATION, None, "pending", None, None)
    until = NOW.replace(year=NOW.year + 1)
    invitation = Invitation(INVITATION, GROUP, ADA, BOB, InvitationState.PENDING, 1, hash_token(b""), NOW, until, None)
    return [invitation, entry, Membership(BETWEEN, GROUP, ADA, BOB, False, 0, INVITATION, None, None), *_tallies()]


def _tallies() -> list[Any]:
    return [Tally(id_, 1, NOW.date(), 1) for id_ in (sent_invitations_tally(ADA), received_invitations_tally(BOB))]


def _outcome(scene: Scene) -> tuple[str, str | None, str | None]:
    row: PostedCommand = scene.only(PostedCommand)
    return row.state.value, row.code, row.result["event"] if row.result else None


_BOB = Subscriber(BOB, "bob@example.com", "Bob", "Of-Bob", "en", AccountState.ACTIVE, None, 0, 0)

DONE: list[tuple[Command, UUID, list[Any], str]] = [
    (RENAME, ADA, [], "group-renamed"),
    (SetLowBalance(group_id=GROUP, below_units=5, mail=True), ADA, [], "low-balance-set"),
    (InviteByEmail(group_id=GROUP, email="bob@example.com"), ADA, [_BOB], "invitation-sent"),
    (InviteByEmail(group_id=GROUP, email="nobody@example.com"), ADA, [], "account-creation-required"),
    (AcceptInvitation(invitation_id=INVITATION), BOB, _is_invited(), "invitation-accepted"),
    (DeclineInvitation(invitation_id=INVITATION), BOB, _is_invited(), "invitation-declined"),
    (RevokeInvitation(group_id=GROUP, invitation_id=INVITATION), ADA, _is_invited(), "invitation-revoked"),
    (DetachMembers(group_id=GROUP, members=(MemberRef(member_id=BOB),)), ADA, _is_member(), "members-detached"),
    (LeaveGroup(group_id=GROUP), BOB, _is_member(), "member-left"),
    (SET_ORDER, ADA, _is_member(), "standing-order-set"),
    (StopStandingOrder(group_id=GROUP, member_id=BOB), ADA, [ORDER], "standing-order-stopped"),
]


@pytest.mark.parametrize(("command", "actor", "rows", "answer"), DONE, ids=lambda v: getattr(v, "TYPE", None))
def test_notes_what_is_done_at_once(command: Command, actor: UUID, rows: list[Any], answer: str) -> None:
    scene = given(GROUPS, _posted(type(command), actor), *rows).when(_itself(command, actor))
    assert _outcome(scene) == ("done", None, answer)
    assert scene.only(PostedCommand).ended_at == NOW


REFUSED: list[tuple[Command, UUID, str]] = [
    (RENAME, BOB, "not_owner"),
    (SetLowBalance(group_id=GROUP, below_units=5), BOB, "not_owner"),
    (CREATE, ADA, "unknown_plan"),
    (InviteByEmail(group_id=GROUP, email="x@example.com"), BOB, "not_owner"),
    (AcceptInvitation(invitation_id=INVITATION), BOB, "unknown_invitation"),
    (DeclineInvitation(invitation_id=INVITATION), BOB, "unknown_invitation"),
    (RevokeInvitation(group_id=GROUP, invitation_id=INVITATION), ADA, "unknown_invitation"),
    (DetachMembers(group_id=GROUP, members=(MemberRef(member_id=BOB),)), BOB, "not_owner"),
    (LeaveGroup(group_id=GROUP), BOB, "not_member"),
    (TRANSFER, ADA, "not_member"),
    (PAY, ADA, "not_member"),
    (SET_ORDER, ADA, "not_member"),
    (StopStandingOrder(group_id=GROUP, member_id=BOB), ADA, "no_order"),
]


@pytest.mark.parametrize(("command", "actor", "code"), REFUSED, ids=lambda v: getattr(v, "TYPE", None))
def test_notes_what_is_refused_at_once(command: Command, actor: UUID, code: str) -> None:
    scene = given(GROUPS, _posted(type(command), actor)).when(_itself(command, actor))
    assert _outcome(scene) == ("refused", code, None)


def test_every_command_that_can_be_posted_is_shown_here() -> None:
    at_once = {type(command) for command, *_ in DONE}
    assert at_once | {CreateMemberAccount, TransferUnits, PayForMember} == set(POSTABLE.values())
    assert {type(command) for command, *_ in REFUSED} == set(POSTABLE.values())


def _transfer_id() -> UUID:
    return _itself(TRANSFER).derive("transfer")


def test_a_transfer_is_pending_until_the_ledger_has_answered() -> None:
    scene = given(GROUPS, _posted(TransferUnits), *_is_member()).when(_itself(TRANSFER))
    assert _outcome(scene) == ("pending", None, None)
    legs = [{"account_id": BOB, "amount_units": 5}]
    posted = TransfersPosted.model_validate(
        {"transfer_id": _transfer_id(), "source_id": ADA, "reference": str(GROUP), "legs": legs, "total_units": 5}
    )
    scene.when(_of_it(posted))
    assert _outcome(scene) == ("done", None, "units-transferred")
    row = scene.only(PostedCommand)
    assert row.result == {"event": "units-transferred", "transfer_id": str(_transfer_id()), "total_units": 5}


def test_a_transfer_is_refused_when_the_ledger_says_so() -> None:
    scene = given(GROUPS, _posted(TransferUnits), *_is_member()).when(_itself(TRANSFER))
    refused = TransfersRefused(
        transfer_id=_transfer_id(), source_id=ADA, reference=str(GROUP), code="units_short", command_type="x"
    )
    assert _outcome(scene.when(_of_it(refused))) == ("refused", "units_short", None)


def test_a_payment_for_a_member_is_done_once_it_is_paid_and_the_owner_can_see_what_is_left() -> None:
    scene = given(GROUPS, _posted(PayForMember), *_is_member()).when(_itself(PAY))
    assert _outcome(scene) == ("pending", None, None)
    id_ = _itself(PAY).derive("payment")
    scene.when(_of_it(UnitsReserved(hold_id=id_, account_id=ADA, amount_units=5)))
    scene.when(_of_it(AccountExtended(request_id=id_, account_id=BOB, expires_at=NOW, price_units=5, paid_by=ADA)))
    scene.when(_of_it(HoldCaptured(hold_id=id_, account_id=ADA, amount_units=5, version=2)))
    assert _outcome(scene)[0] == "pending", "the balance has not arrived"
    told = {"account_id": ADA, "balance_units": 5, "available_units": 5, "version": 2}
    scene.when(_of_it(BalanceChanged.model_validate(told)))
    assert _outcome(scene) == ("done", None, "member-paid-for")
    assert scene.only(PostedCommand).result == {"event": "member-paid-for", "member_id": str(BOB)}


SAGA = saga_asked_by(COMMAND)


def _creating() -> Scene:
    scene = given(GROUPS, _posted(CreateMemberAccount), Plan("send_only", 15, 12)).when(_itself(CREATE))
    assert _outcome(scene) == ("pending", None, None)
    return scene


def test_an_account_is_created_when_its_saga_has_completed() -> None:
    scene = _creating()
    account = account_of(SAGA)
    scene.when(_of_it(UnitsReserved(hold_id=SAGA, account_id=ADA, amount_units=15)))
    scene.when(
        _of_it(
            AccountProvisioned(
                request_id=SAGA, account_id=account, plan="send_only", price_units=15, expires_at=NOW, fax_number=None
            )
        )
    )
    assert _outcome(scene) == ("pending", None, None)
    scene.when(_of_it(HoldCaptured(hold_id=SAGA, account_id=ADA, amount_units=15)), _record(account))
    assert _outcome(scene) == ("done", None, "member-account-created")
    assert scene.only(PostedCommand).result["member_id"] == str(account)


def test_an_account_is_refused_with_what_its_saga_was_refused_with() -> None:
    short = UnitsRefused(hold_id=SAGA, account_id=ADA, code="units_short", command_type="x")
    assert _outcome(_creating().when(_of_it(short))) == ("refused", "units_short", None)


def test_an_account_that_can_not_exist_is_refused_once_its_units_are_back() -> None:
    scene = _creating().when(_of_it(UnitsReserved(hold_id=SAGA, account_id=ADA, amount_units=15)))
    refused = AccountRefused(request_id=SAGA, account_id=account_of(SAGA), code="email_taken", command_type="x")
    assert _outcome(scene.when(_of_it(refused))) == ("pending", None, None)
    released = HoldReleased(hold_id=SAGA, account_id=ADA, amount_units=15)
    assert _outcome(scene.when(_of_it(released))) == ("refused", "email_taken", None)


# --- done means that whoever asked sees it ----------------------------------------------------------------------------


def _record(id_: UUID) -> PersonRecorded:
    return PersonRecorded(
        subscriber_id=id_, email=f"{id_}@example.com", first_name="A", last_name="Z", language=Language.EN
    )


def _balance(id_: UUID, version: int) -> BalanceChanged:
    return BalanceChanged(account_id=id_, version=version, balance_units=version, available_units=version)


def _reply(versions: Mapping[UUID, int]) -> Incoming[Message]:
    legs = tuple(PostedLeg(account_id=id_, amount_units=5, version=versions[id_]) for id_ in (BOB, CLEO))
    posted = TransfersPosted(
        transfer_id=_transfer_id(), source_id=ADA, legs=legs, total_units=10, version=versions[ADA]
    )
    return _of_it(posted)


_VERSIONS = {ADA: 7, BOB: 3, CLEO: 1}


def _transferring() -> Scene:
    both = TransferUnits(group_id=GROUP, mode="amount", amount_units=5, members=(BOB, CLEO))
    members = [*_is_member(), *_is_member(CLEO)]
    return given(GROUPS, _posted(TransferUnits), *members).when(_itself(both))


def _is_all_told(scene: Scene) -> bool:
    lines = [line for row in scene.rows() if isinstance(row, Subscriber) for line in row.awaited]
    return not lines and scene.only(PostedCommand).awaits == 0


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one batch"])
@pytest.mark.parametrize("order", list(permutations(["reply", ADA, BOB, CLEO])))
def test_a_transfer_is_done_once_every_balance_shows_it(order: Sequence[UUID | str], together: bool) -> None:
    told = [incoming(_balance(each, _VERSIONS[each])) if isinstance(each, UUID) else None for each in order]
    messages = [message or _reply(_VERSIONS) for message in told]
    scene = _transferring()
    if together:
        scene.when(*messages)
    else:
        for message in messages[:-1]:
            scene.when(message)
            assert _outcome(scene)[0] == "pending"
        scene.when(messages[-1], at=NOW + timedelta(seconds=2))
        assert scene.only(PostedCommand).ended_at == NOW + timedelta(seconds=2)
    assert _outcome(scene) == ("done", None, "units-transferred")
    assert _is_all_told(scene)


def test_an_older_balance_does_not_show_a_transfer_and_a_newer_one_does() -> None:
    scene = _transferring().when(_reply(_VERSIONS), _balance(ADA, 7), _balance(CLEO, 1), _balance(BOB, 2))
    assert _outcome(scene)[0] == "pending"
    scene.when(_balance(BOB, 2))
    assert _outcome(scene)[0] == "pending"
    scene.when(_balance(BOB, 9))  # Bob spent what he got, and compaction, or the ledger's batch, kept the newest alone
    assert _outcome(scene)[0] == "done"


def test_balances_that_are_told_again_count_once() -> None:
    scene = _transferring().when(_reply(_VERSIONS))
    for _ in range(3):
        scene.when(_balance(BOB, 3), _balance(BOB, 4))
    assert scene.only(PostedCommand).awaits == 2
    scene.when(_reply(_VERSIONS))
    assert scene.only(PostedCommand).awaits == 2
    assert _outcome(scene.when(_balance(ADA, 7), _balance(CLEO, 1))) == ("done", None, "units-transferred")


@pytest.mark.parametrize("closed_first", [True, False])
def test_nothing_is_awaited_of_an_account_that_is_closed(closed_first: bool) -> None:
    messages: list[Message | Incoming[Message]] = [AccountClosed(account_id=BOB), _reply(_VERSIONS)]
    scene = _transferring().when(_balance(ADA, 7), _balance(CLEO, 1))
    for message in messages if closed_first else messages[::-1]:
        scene.when(message)
    assert _outcome(scene) == ("done", None, "units-transferred")
    assert _is_all_told(scene)


def test_two_commands_wait_for_one_balance_each_for_its_own_version() -> None:
    other = replace(_posted(TransferUnits), id=id_of("another"), awaits=1, result={"event": "units-transferred"})
    waiting = replace(_BOB, awaited=(Change(BOB, 5).line(other.id),))
    scene = given(GROUPS, _posted(TransferUnits), other, waiting, *_is_member(), *_is_member(CLEO))
    scene.when(_itself(TransferUnits(group_id=GROUP, mode="amount", amount_units=5, members=(BOB, CLEO))))
    scene.when(_reply(_VERSIONS), _balance(ADA, 7), _balance(CLEO, 1))

    def states() -> dict[UUID, str]:
        return {row.id: row.state.value for row in scene.rows() if isinstance(row, PostedCommand)}

    assert states() == {COMMAND: "pending", other.id: "pending"}
    scene.when(_balance(BOB, 3))
    assert states() == {COMMAND: "done", other.id: "pending"}
    scene.when(_balance(BOB, 5))
    assert states() == {COMMAND: "done", other.id: "done"}


def test_an_account_is_created_once_its_holder_and_the_payment_are_to_be_seen() -> None:
    account = account_of(SAGA)
    captured = HoldCaptured(hold_id=SAGA, account_id=ADA, amount_units=15, version=4)
    provisioned = AccountProvisioned(request_id=SAGA, account_id=account, plan="send_only", expires_at=NOW)
    told: list[Message | Incoming[Message]] = [_of_it(captured), _record(account), _balance(ADA, 4)]
    for order in permutations(told):
        scene = _creating().when(_of_it(UnitsReserved(hold_id=SAGA, account_id=ADA, amount_units=15)))
        scene.when(_of_it(provisioned))
        for message in order:
            assert _outcome(scene)[0] == "pending"
            scene.when(message)
        assert _outcome(scene) == ("done", None, "member-account-created")
        assert _is_all_told(scene)


def test_an_account_is_refused_once_the_units_are_seen_to_be_back() -> None:
    scene = _creating().when(_of_it(UnitsReserved(hold_id=SAGA, account_id=ADA, amount_units=15)))
    refused = AccountRefused(request_id=SAGA, account_id=account_of(SAGA), code="email_taken", command_type="x")
    scene.when(_of_it(refused), _balance(ADA, 3))
    scene.when(_of_it(HoldReleased(hold_id=SAGA, account_id=ADA, amount_units=15, version=4)))
    assert scene.only(PostedCommand).state is CommandState.PENDING
    assert _outcome(scene.when(_balance(ADA, 4))) == ("refused", "email_taken", None)


def test_a_command_of_the_platforms_awaits_nothing() -> None:
    command = TransferUnits(group_id=GROUP, mode="amount", amount_units=5, members=(BOB, CLEO))
    scene = given(GROUPS, *_is_member(), *_is_member(CLEO)).when(_itself(command))
    scene.when(_reply(_VERSIONS))
    assert not [row for row in scene.rows() if isinstance(row, Subscriber)], "nobody was even looked at"


@pytest.mark.parametrize("version", [None, 0, 5])
def test_what_a_command_waits_for_is_read_as_it_was_written(version: int | None) -> None:
    change = Change(BOB, version)
    assert Change.parse(BOB, change.line(COMMAND)) == (COMMAND, change)


def test_a_command_that_was_forgotten_is_awaited_by_nobody() -> None:
    waiting = replace(_BOB, awaited=(Change(BOB, 5).line(COMMAND),))
    assert given(GROUPS, waiting).when(_balance(BOB, 5)).only(Subscriber).awaited == ()


def test_what_has_ended_stays_as_it_is() -> None:
    ended = _posted(RenameGroup, state=CommandState.REFUSED, code="group_closed", ended_at=NOW)
    scene = given(GROUPS, ended).when(_itself(RENAME))
    assert scene.only(PostedCommand) == ended


def test_a_command_that_was_not_posted_leaves_no_row() -> None:
    scene = given(GROUPS).when(_itself(RENAME))
    assert not [row for row in scene.rows() if isinstance(row, PostedCommand)]


def test_the_answer_to_another_command_is_none_to_this_one() -> None:
    scene = given(GROUPS, _posted(LeaveGroup)).when(_itself(RENAME))
    assert _outcome(scene) == ("pending", None, None)


def test_what_is_posted_is_about_the_own_group_and_no_other() -> None:
    mine = command_of(RenameGroup, {"name": "Ours", "group_id": str(group_of(BOB))}, ADA)
    assert mine == RENAME
    theirs = command_of(LeaveGroup, {"group_id": str(group_of(BOB))}, ADA)
    assert theirs == LeaveGroup(group_id=group_of(BOB))
    others: set[type[Command]] = {LeaveGroup, AcceptInvitation, DeclineInvitation}
    assert {model for model in POSTABLE.values() if not is_about_own_group(model)} == others


@pytest.mark.parametrize("key", ["order 7", str(COMMAND)])
def test_the_same_key_gives_the_same_id_to_the_same_actor_alone(key: str) -> None:
    assert id_for(key, ADA) == id_for(key, ADA) != id_for(key, BOB)
    assert str(id_for(key, ADA)) != key, "no id that somebody chooses is an id of ours"


def test_without_a_key_every_command_is_another() -> None:
    assert id_for(None, ADA) != id_for(None, ADA)


def test_somebody_elses_correlation_id_ends_nobodys_command() -> None:
    """Whoever writes commands can write any correlation id into them: the actor says whose it really is."""
    theirs = replace(_itself(RenameGroup(group_id=GROUP, name="Mine now"), BOB), correlation_id=str(COMMAND))
    scene = given(GROUPS, _posted(RenameGroup)).when(theirs)
    assert _outcome(scene) == ("pending", None, None)


@pytest.mark.parametrize("code", ["malformed_command", "unknown_type"])
def test_a_posted_command_that_can_not_be_read_is_refused(code: str) -> None:
    """An older version of the service may read what a newer one has posted."""
    told = GroupsCommandMalformed(parked_id=COMMAND, command_id=str(COMMAND), command_type=RenameGroup.TYPE, code=code)
    scene = given(GROUPS, _posted(RenameGroup)).when(_of_it(told))
    assert _outcome(scene) == ("refused", code, None)
    scene.then(told)
