"""Each invariant is shown to fail: snapshot that are right but for one thing, and the violation that names it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid5

import pytest

from deploy.operator.invariants import (
    GroupsSnapshot,
    Invariant,
    LedgerSnapshot,
    Logged,
    NotificationsSnapshot,
    OutboxRow,
    ParkedRow,
    ProvisioningSnapshot,
    RemovalRow,
    Snapshot,
    TimerRow,
    check,
    check_actors,
    check_ledger,
    check_log,
    check_tokens,
    check_topics,
    logged,
    published,
)
from deploy.operator.invariants.snapshot import Lateness
from deploy.operator.invariants.waiting import check_waiting
from deploy.operator.snapshots import Unknown
from popfax_contracts.catalogue import COMMANDS, codes_of
from popfax_contracts.fields import Language
from popfax_contracts.groups import (
    AcceptInvitation,
    CreateMemberAccount,
    DetachMembers,
    GroupRenamed,
    GroupsCommandMalformed,
    InvitationAccepted,
    InvitationRefused,
    InvitationRevoked,
    InvitationSent,
    InviteByEmail,
    LeaveGroup,
    LeaveRefused,
    MemberAccountCreated,
    MemberAccountRefused,
    MemberJoined,
    MemberLeft,
    MembersDetached,
    MembershipEnded,
    MembershipRecorded,
    RenameGroup,
    RevokeInvitation,
    TransferRefused,
    TransferUnits,
)
from popfax_contracts.ledger import (
    BalanceChanged,
    CreditUnits,
    PostTransfers,
    ReserveUnits,
    SpendUnits,
    UnitsCredited,
    UnitsSpent,
)
from popfax_contracts.message import Message, Refusal, group_of
from popfax_contracts.notifications import PasswordLinkIssued, SendInvitation, SendMembersLow
from popfax_contracts.provisioning import (
    AccountExtended,
    AddOptionsPack,
    ExtendAccount,
    GrantPurchase,
    OptionsPackAdded,
    PaidActionRefused,
    PersonRecorded,
    PlanPublished,
)
from services.chassis.messages import TIMERS, StoredRecord
from services.chassis.sagas import SagaDeadline, SagaRow, Status
from services.groups import domain as groups
from services.groups.domain import (
    HistoryEntry,
    Invitation,
    InvitationState,
    Kind,
    Membership,
    OrderKind,
    OrderState,
    StandingOrder,
    Tally,
    TransferState,
    account_of,
    history_of_leg,
    history_of_membership,
    membership_of,
    order_of,
    received_invitations_tally,
    sent_invitations_tally,
)
from services.groups.timers import InvitationDue, TransferDue
from services.ledger.domain import (
    CONSUMPTION,
    CORRECTIONS,
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
from services.notifications.domain import Mail, MailState, Person, Template
from services.notifications.letters import Letter
from services.provisioning import domain as provisioning
from services.provisioning.domain import (
    Action,
    Address,
    FaxNumber,
    NumberState,
    Payment,
    Purchase,
    Request,
    Subscriber,
)
from services.provisioning.store import saga_of
from services.provisioning.timers import ExpiryDue, NumberRested

NOW = datetime(2031, 1, 1, tzinfo=UTC)
NAMES = UUID("00000000-0000-4000-8000-000000000000")


def id_of(name: str) -> UUID:
    return uuid5(NAMES, name)


OWNER, OTHER, GONE = id_of("owner"), id_of("other"), id_of("gone")
DONE, REFUSED, CREDIT, TRANSFER = id_of("done"), id_of("refused"), id_of("credit"), id_of("transfer")
BOUGHT, UNPAID_PURCHASE = id_of("bought"), id_of("unpaid")
MEMBER = account_of(DONE)
GROUP = group_of(OWNER)
MEMBERSHIP, INVITED = membership_of(GROUP, MEMBER), membership_of(GROUP, OTHER)
INVITATION, DECLINED, ACCEPTED = id_of("invitation"), id_of("declined"), id_of("accepted")
END = NOW + timedelta(365)


def saga(id_: UUID, status: Status, code: str | None = None) -> SagaRow:
    data = {"group_id": str(GROUP), "owner_id": str(OWNER), "price_units": 20}
    return SagaRow(
        id_, "create-member-account", status, "capture hold", code, data, str(id_), id_, OWNER, NOW, NOW, NOW, ()
    )


def paid_action(purchase_id: UUID, action: Action, units: int, status: Status, code: str | None = None) -> SagaRow:
    id_ = saga_of(purchase_id)
    data = {"request_id": str(purchase_id), "account_id": str(MEMBER), "price_units": units, "action": action.value}
    return SagaRow(id_, "paid-action", status, "reserve units", code, data, str(id_), id_, MEMBER, NOW, NOW, NOW, ())


def subscriber(id_: UUID, email: str, plan: str | None, number: str | None) -> Subscriber:
    return Subscriber(id_, email, "Ada", "L.", "en", plan, number, NOW, END if plan else None)


def known(id_: UUID, email: str, available: int, version: int, ends: datetime | None = None) -> groups.Subscriber:
    return groups.Subscriber(id_, email, "Ada", "L.", "en", groups.AccountState.ACTIVE, ends, available, version)


def line(id_: UUID, kind: Kind, reference: UUID, outcome: str, member: UUID | None = MEMBER, **more: Any) -> Any:
    ended_at = None if outcome in ("active", "pending") else NOW
    fields = {"actor_id": OWNER, "units": None, "code": None, "ended_at": ended_at} | more
    return HistoryEntry(id_, GROUP, kind, NOW, fields.pop("actor_id"), member, reference, outcome=outcome, **fields)


def mail(fact: object, template: Template, to: UUID, about: UUID | None, **more: Any) -> Mail:
    id_ = Letter(template, str(fact), to).id
    return Mail(id_, template, to, about, {}, MailState.QUEUED, NOW, END, **more)


# The owner bought 100 and 7, gave 30 to another and 9 to a member, and paid 20 for that member; a second creation was
# refused, and so was one transfer. The member came, left and came again, spent 2, bought the options pack for 3, was
# refused another and was given 1 for their trouble. The other declined one invitation and has another. One is gone.
LEDGER = LedgerSnapshot(
    accounts=[
        Account(OWNER, 48, 0, 5, revision=8),
        Account(OTHER, 30, 0, 1, revision=1),
        Account(MEMBER, 5, 0, 4, revision=5),
        Account(GONE, 0, 0, 0, AccountState.CLOSED),
    ],
    holds=[
        Hold(DONE, OWNER, 20, HoldState.CAPTURED, NOW, NOW),
        Hold(REFUSED, OWNER, 20, HoldState.RELEASED, NOW, NOW),
        Hold(saga_of(BOUGHT), MEMBER, 3, HoldState.CAPTURED, NOW, NOW),
        Hold(saga_of(UNPAID_PURCHASE), MEMBER, 99, HoldState.REFUSED, NOW, None, code="units_short"),
    ],
    transfers=[
        Transfer(CREDIT, TransferKind.CREDIT, SALES, b"", None, (100,), NOW),
        Transfer(id_of("more"), TransferKind.CREDIT, SALES, b"", None, (7,), NOW),
        Transfer(TRANSFER, TransferKind.TRANSFER, OWNER, b"", None, (30,), NOW),
        Transfer(id_of("short"), TransferKind.TRANSFER, OWNER, b"", "units_short", (999,), NOW, str(GROUP)),
        Transfer(id_of("given"), TransferKind.TRANSFER, OWNER, b"", None, (9, 0), NOW, str(GROUP)),
        Transfer(id_of("spent"), TransferKind.SPEND, MEMBER, b"", None, (2,), NOW, "fax/1"),
        Transfer(id_of("corrected"), TransferKind.CORRECTION, CORRECTIONS, b"", None, (1,), NOW),
    ],
    entries=[
        Entry(CREDIT, OWNER, 100, 0, 100, 1, NOW),
        Entry(CREDIT, SALES, -100, None, None, None, NOW),
        Entry(id_of("more"), OWNER, 7, 100, 107, 2, NOW),
        Entry(id_of("more"), SALES, -7, None, None, None, NOW),
        Entry(TRANSFER, OWNER, -30, 107, 77, 3, NOW),
        Entry(TRANSFER, OTHER, 30, 0, 30, 1, NOW),
        Entry(id_of("given"), OWNER, -9, 77, 68, 4, NOW),
        Entry(id_of("given"), MEMBER, 9, 0, 9, 1, NOW),
        Entry(id_of("spent"), MEMBER, -2, 9, 7, 2, NOW),
        Entry(id_of("spent"), CONSUMPTION, 2, None, None, None, NOW),
        Entry(id_of("corrected"), MEMBER, 1, 7, 8, 3, NOW),
        Entry(id_of("corrected"), CORRECTIONS, -1, None, None, None, NOW),
        Entry(saga_of(BOUGHT), MEMBER, -3, 8, 5, 4, NOW),
        Entry(saga_of(BOUGHT), SUBSCRIPTIONS, 3, None, None, None, NOW),
        Entry(DONE, OWNER, -20, 68, 48, 5, NOW),
        Entry(DONE, SUBSCRIPTIONS, 20, None, None, None, NOW),
    ],
    corrections=[
        Correction(id_of("corrected"), MEMBER, 1, "for the trouble", "Olga", None, NOW),
        Correction(id_of("too much"), MEMBER, -99, "a mistake", "Olga", "units_short", NOW),
    ],
)
GROUPS = GroupsSnapshot(
    sagas=[saga(DONE, Status.COMPLETED), saga(REFUSED, Status.REFUSED, "email_taken")],
    subscribers=[
        known(OWNER, "owner@example.org", 48, 8),
        known(OTHER, "other@example.org", 30, 1),
        known(MEMBER, "member@example.org", 5, 5, END),
        groups.Subscriber(GONE, None, None, None, None, groups.AccountState.CLOSED, None, 0, 0),
    ],
    groups=[groups.Group(GROUP, OWNER, "Ada L.", False, None), groups.Group(group_of(GONE), GONE, "", False, NOW)],
    low_balances=[groups.LowBalance(GROUP, OWNER, 6, END, NOW.date(), 2, (MEMBER.hex,))],
    memberships=[
        Membership(MEMBERSHIP, GROUP, OWNER, MEMBER, True, 2, None, NOW, None),
        Membership(INVITED, GROUP, OWNER, OTHER, False, 0, INVITATION, None, None),
    ],
    invitations=[
        Invitation(INVITATION, GROUP, OWNER, OTHER, InvitationState.PENDING, 2, b"", NOW, END, None),
        Invitation(DECLINED, GROUP, OWNER, OTHER, InvitationState.DECLINED, 1, b"", NOW, END, NOW),
        Invitation(ACCEPTED, GROUP, OWNER, MEMBER, InvitationState.ACCEPTED, 1, b"", NOW, END, NOW),
    ],
    timers=[TimerRow(INVITATION, END, InvitationDue.TYPE, str(INVITATION))],
    plans=[groups.Plan("send_only", 10, 12), groups.Plan("send_receive", 20, 12)],
    tallies=[
        Tally(sent_invitations_tally(OWNER), 1, NOW.date(), 3),
        Tally(received_invitations_tally(OTHER), 1, NOW.date(), 3),
        Tally(received_invitations_tally(MEMBER), 0, NOW.date(), 0),
    ],
    transfers=[
        groups.Transfer(id_of("given"), GROUP, OWNER, "top_up_to", 9, TransferState.DONE, None, 9, NOW, NOW),
        groups.Transfer(
            id_of("short"), GROUP, OWNER, "amount", 999, TransferState.REFUSED, "units_short", None, NOW, NOW
        ),
    ],
    history=[
        line(DONE, Kind.ACCOUNT, DONE, "created", units=20),
        line(REFUSED, Kind.ACCOUNT, REFUSED, "refused", None, units=20, code="email_taken"),
        line(history_of_membership(MEMBERSHIP, 1), Kind.MEMBERSHIP, MEMBERSHIP, "left", code="account_created"),
        line(
            history_of_membership(MEMBERSHIP, 2),
            Kind.MEMBERSHIP,
            MEMBERSHIP,
            "active",
            code="invitation_accepted",
            actor_id=MEMBER,
        ),
        line(INVITATION, Kind.INVITATION, INVITATION, "pending", OTHER),
        line(DECLINED, Kind.INVITATION, DECLINED, "declined", OTHER),
        line(history_of_leg(id_of("given"), MEMBER), Kind.TRANSFER, id_of("given"), "done", units=9),
        line(history_of_leg(id_of("given"), OTHER), Kind.TRANSFER, id_of("given"), "done", OTHER, units=0),
        line(history_of_leg(id_of("short"), MEMBER), Kind.TRANSFER, id_of("short"), "refused", code="units_short"),
        line(id_of("a name"), Kind.NAME, GROUP, "renamed", None),
        line(ACCEPTED, Kind.INVITATION, ACCEPTED, "accepted"),
    ],
)
PURCHASES = [
    Purchase(BOUGHT, MEMBER, Action.OPTIONS_PACK, 3, b"", decided_at=NOW),
    Purchase(UNPAID_PURCHASE, MEMBER, Action.CALL_FORWARDING, 99, b"", "units_short", decided_at=NOW),
    Purchase(id_of("extended"), MEMBER, Action.EXTENSION, None, b"", expires_at=END, decided_at=NOW),
]
PROVISIONING = ProvisioningSnapshot(
    purchases_before=PURCHASES,
    purchases=PURCHASES,
    payments=[Payment("card/1", id_of("extended"))],
    sagas=[
        paid_action(BOUGHT, Action.OPTIONS_PACK, 3, Status.COMPLETED),
        paid_action(UNPAID_PURCHASE, Action.CALL_FORWARDING, 99, Status.REFUSED, "units_short"),
    ],
    plans=[provisioning.Plan("send_only", 10, 12, False), provisioning.Plan("send_receive", 20, 12, True)],
    timers=[TimerRow(MEMBER, END, ExpiryDue.TYPE, str(MEMBER)), TimerRow(OWNER, END, SagaDeadline.TYPE, "x")],
    subscribers=[
        subscriber(OWNER, "owner@example.org", None, None),
        subscriber(OTHER, "other@example.org", None, None),
        replace(subscriber(MEMBER, "member@example.org", "send_receive", "+331"), options_pack=True),
        subscriber(GONE, "gone@example.org", None, None).closed(NOW),
    ],
    addresses=[
        Address("owner@example.org", OWNER),
        Address("other@example.org", OTHER),
        Address("member@example.org", MEMBER),
    ],
    requests=[Request(DONE, MEMBER, None, b"", NOW), Request(REFUSED, account_of(REFUSED), "email_taken", b"", NOW)],
    fax_numbers=[FaxNumber("+331", NumberState.ASSIGNED, MEMBER), FaxNumber("+332", NumberState.FREE, None)],
)
NOTIFICATIONS = NotificationsSnapshot(
    people=[
        Person(OWNER, "owner@example.org", "Ada", "L.", "en", None),
        Person(OTHER, "other@example.org", "Ada", "L.", "en", None),
        Person(MEMBER, "member@example.org", "Ada", "L.", "en", "+331"),
    ],
    mails=[
        mail(MEMBER, Template.WELCOME, MEMBER, OWNER),
        mail(MEMBER, Template.RECEIPT, OWNER, MEMBER),
        mail(f"{INVITATION}/1", Template.INVITATION, OTHER, OWNER, invitation_id=INVITATION, round=1),
        mail(f"{INVITATION}/2", Template.INVITATION, OTHER, OWNER, invitation_id=INVITATION, round=2),
        mail(f"{DECLINED}/1", Template.INVITATION, OTHER, OWNER, invitation_id=DECLINED, round=1),
        mail(DECLINED, Template.INVITATION_DECLINED, OWNER, OTHER),
        mail(f"{GROUP}/1/{MEMBER}", Template.DETACHED, MEMBER, OWNER),
        mail(f"{GROUP}/1/{MEMBER}", Template.MEMBER_LEFT, OWNER, MEMBER),
        mail(id_of("given"), Template.UNITS_RECEIVED, MEMBER, OWNER),
        mail(id_of("given"), Template.TRANSFER_RECEIPT, OWNER, None),
        mail(id_of("extended"), Template.EXTENDED, MEMBER, None),
        mail("an end", Template.EXPIRING, MEMBER, None),
        mail(f"{GROUP}/{NOW.date()}", Template.MEMBERS_LOW, OWNER, None),
        mail("a day before", Template.MEMBERS_LOW, OWNER, None),
        mail(f"{ACCEPTED}/1", Template.INVITATION, MEMBER, OWNER, invitation_id=ACCEPTED, round=1),
        mail(ACCEPTED, Template.INVITATION_ACCEPTED, OWNER, MEMBER),
    ],
)
WELCOME = next(iter(NOTIFICATIONS.mails))
SNAPSHOT = Snapshot(ledger=LEDGER, groups=GROUPS, provisioning=PROVISIONING, notifications=NOTIFICATIONS)


def changed(rows: Sequence[Any], index: int, **changes: Any) -> list[Any]:
    return [replace(row, **changes) if place == index else row for place, row in enumerate(rows)]


def without(rows: Sequence[Any], index: int) -> list[Any]:
    return [row for place, row in enumerate(rows) if place != index]


def ledger(**changes: Any) -> Snapshot:
    return replace(SNAPSHOT, ledger=replace(LEDGER, **changes))


def posted(**more: Any) -> groups.PostedCommand:
    pending = groups.CommandState.PENDING
    made = groups.PostedCommand(id_of("posted"), RenameGroup.TYPE, OWNER, b"", pending, None, None, NOW, None)
    return replace(made, **more)


SHOWING = changed(list(GROUPS.subscribers), 0, awaited=(groups.Change(OWNER, 9).line(id_of("posted")),))


def in_groups(snapshot: Snapshot = SNAPSHOT, **changes: Any) -> Snapshot:
    return replace(snapshot, groups=replace(snapshot.groups, **changes))


def in_provisioning(snapshot: Snapshot = SNAPSHOT, **changes: Any) -> Snapshot:
    if "purchases" in changes:
        changes = {"purchases_before": changes["purchases"]} | changes
    return replace(snapshot, provisioning=replace(snapshot.provisioning, **changes))


def in_notifications(snapshot: Snapshot = SNAPSHOT, **changes: Any) -> Snapshot:
    return replace(snapshot, notifications=replace(snapshot.notifications, **changes))


# The same, but that the owner has said once that the member is to be kept at 9 units: that gave them the 9.
ORDER = order_of(MEMBERSHIP)
JANUARY, FEBRUARY = date(2031, 1, 1), date(2031, 2, 1)
KEPT = StandingOrder(
    *(ORDER, GROUP, OWNER, MEMBER, OrderState.ACTIVE, 1, OrderKind.KEEP_AT, 5, 9, 9, None, NOW, None, None),
    *(JANUARY, 9, JANUARY, None, None, 1, 1),
)
OF_THE_ORDER = {"order_id": ORDER, "order_version": 1, "month": JANUARY, "bound_units": 9}
TOLD = changed(changed(list(GROUPS.history), 6, actor_id=None), 7, actor_id=None)


def ordered(order: StandingOrder | None = KEPT, lines: Sequence[Any] = (), **of_transfer: Any) -> Snapshot:
    """Return the snapshot with an order, and the transfer that it asked for."""
    snapshot = in_groups(
        orders=[] if order is None else [order],
        transfers=changed(list(GROUPS.transfers), 0, **{**OF_THE_ORDER, **of_transfer}),
        history=[*TOLD, *([line(id_of("order"), Kind.ORDER, ORDER, "set")] if order is not None else []), *lines],
    )
    mails = [mail for mail in NOTIFICATIONS.mails if mail.template is not Template.TRANSFER_RECEIPT]
    return in_notifications(snapshot, mails=mails)


def asked_again(order: StandingOrder, **of_transfer: Any) -> Snapshot:
    """Return the snapshot in which an order waits for another transfer."""
    id_ = id_of("again")
    waits = ordered(replace(order, transfer_id=id_, due_at=order.due_at or END), **of_transfer)
    pending = groups.Transfer(
        *(id_, GROUP, OWNER, "amount", 1, TransferState.PENDING, None, None, NOW, None, 1),
        **{**OF_THE_ORDER, **of_transfer},
    )
    its = line(history_of_leg(id_, MEMBER), Kind.TRANSFER, id_, "pending", actor_id=None)
    return in_groups(
        waits,
        transfers=[*waits.groups.transfers, pending],
        history=[*waits.groups.history, its],
        timers=[*GROUPS.timers, TimerRow(id_, END, TransferDue.TYPE, str(id_))],
    )


def test_sees_nothing_wrong_where_nothing_is() -> None:
    assert check(SNAPSHOT, settled=True) == []
    assert check(SNAPSHOT, settled=False) == []


def test_sees_nothing_wrong_with_a_standing_order() -> None:
    assert check(ordered(), settled=True) == []
    assert check(ordered(), settled=False) == []
    bounded = replace(KEPT, monthly_bound_units=10)
    assert check(asked_again(bounded, bound_units=10), settled=False) == []


SECOND_CAPTURE = [
    *LEDGER.entries,
    Entry(DONE, OWNER, -20, 48, 28, 6, NOW),
    Entry(DONE, SUBSCRIPTIONS, 20, None, None, None, NOW),
]

BROKEN_BOOKS: list[tuple[str, Snapshot, list[Invariant]]] = [
    (
        "units are made of nothing",
        ledger(entries=without(list(LEDGER.entries), 1)),
        [Invariant.BOOKS_NOT_ZERO, Invariant.MOVEMENT_NOT_ZERO, Invariant.COUNTERPART_MISMATCH],
    ),
    (
        "two credits have each other's counter-entry",
        ledger(entries=changed(changed(list(LEDGER.entries), 1, amount_units=-7), 3, amount_units=-100)),
        [Invariant.MOVEMENT_NOT_ZERO, Invariant.MOVEMENT_NOT_ZERO],
    ),
    (
        "a transfer that was done is not on record",
        ledger(transfers=without(list(LEDGER.transfers), 2)),
        [Invariant.ORPHAN_ENTRY],
    ),
    (
        "a refused transfer has entries",
        ledger(transfers=changed(list(LEDGER.transfers), 2, code="units_short")),
        [Invariant.ORPHAN_ENTRY],
    ),
    (
        "a transfer says other units than its entries",
        ledger(transfers=changed(list(LEDGER.transfers), 2, amounts_units=(31,))),
        [Invariant.TRANSFER_MISMATCH],
    ),
    (
        "something that was spent says other units than its entries",
        ledger(transfers=changed(list(LEDGER.transfers), 5, amounts_units=(3,))),
        [Invariant.TRANSFER_MISMATCH],
    ),
    (
        "a hold is captured twice",
        ledger(
            entries=SECOND_CAPTURE, accounts=changed(list(LEDGER.accounts), 0, balance_units=28, version=6, revision=9)
        ),
        [Invariant.CAPTURE_MISMATCH],
    ),
    (
        "a hold is captured for other units than were held",
        ledger(holds=changed(list(LEDGER.holds), 0, amount_units=21)),
        [Invariant.CAPTURE_MISMATCH],
    ),
    (
        "spent units go where bought ones come from",
        ledger(entries=changed(list(LEDGER.entries), 9, account_id=SALES)),
        [Invariant.COUNTERPART_MISMATCH],
    ),
    (
        "a transfer between subscribers is with Popfax",
        ledger(transfers=changed(list(LEDGER.transfers), 0, kind=TransferKind.TRANSFER)),
        [Invariant.TRANSFER_MISMATCH, Invariant.COUNTERPART_MISMATCH],
    ),
    (
        "a payment is for something else than when it was made",
        ledger(transfers=changed([each.sealed() for each in LEDGER.transfers], 5, reference="fax/2")),
        [Invariant.SEAL_BROKEN],
    ),
    (
        "an operator corrected what the audit does not have",
        ledger(corrections=[]),
        [Invariant.CORRECTION_MISMATCH],
    ),
    (
        "the audit has a correction that was not posted",
        ledger(corrections=changed(list(LEDGER.corrections), 1, code=None)),
        [Invariant.CORRECTION_MISMATCH],
    ),
    (
        "a balance is not the sum of its entries",
        ledger(accounts=changed(list(LEDGER.accounts), 0, balance_units=58)),
        [Invariant.BALANCE_MISMATCH],
    ),
    ("entries have no account", ledger(accounts=without(list(LEDGER.accounts), 1)), [Invariant.BALANCE_MISMATCH]),
    (
        "an account has a version without an entry",
        ledger(accounts=changed(list(LEDGER.accounts), 0, version=6)),
        [Invariant.CHAIN_BROKEN, Invariant.REVISION_MISMATCH],
    ),
    (
        "an entry begins elsewhere than the one before ended",
        ledger(entries=changed(list(LEDGER.entries), 2, before_units=99, after_units=106)),
        [Invariant.CHAIN_BROKEN],
    ),
    (
        "an update was lost: two entries of one version",
        ledger(entries=changed(list(LEDGER.entries), 2, version=1)),
        [Invariant.CHAIN_BROKEN],
    ),
    (
        "more is held than there is",
        ledger(
            accounts=changed(list(LEDGER.accounts), 1, held_units=31),
            holds=[*LEDGER.holds, Hold(id_of("much"), OTHER, 31, HoldState.OPEN, NOW, None)],
        ),
        [Invariant.OVERDRAWN, Invariant.REVISION_MISMATCH],
    ),
    (
        "an account holds back what no hold says",
        ledger(accounts=changed(list(LEDGER.accounts), 0, held_units=20)),
        [Invariant.HELD_MISMATCH],
    ),
    (
        "a hold is on no account",
        ledger(holds=[*LEDGER.holds, Hold(id_of("lost"), id_of("nobody"), 1, HoldState.OPEN, NOW, None)]),
        [Invariant.HELD_MISMATCH],
    ),
]


@pytest.mark.parametrize(
    ("snapshot", "codes"), [case[1:] for case in BROKEN_BOOKS], ids=[case[0] for case in BROKEN_BOOKS]
)
def test_sees_in_the_books_that(snapshot: Snapshot, codes: list[Invariant]) -> None:
    assert {violation.code for violation in check_ledger(snapshot.ledger)} == {*codes}


def hold_of_creation(state: HoldState) -> LedgerSnapshot:
    """The creation's hold, in another state than captured: then its entry is not there."""
    held = 20 if state is HoldState.OPEN else 0
    return replace(
        LEDGER,
        holds=changed(list(LEDGER.holds), 0, state=state, closed_at=None if held else NOW),
        entries=list(LEDGER.entries)[:14],
        accounts=changed(
            list(LEDGER.accounts), 0, balance_units=68, held_units=held, version=4, revision=7 if held else 8
        ),
    )


def transfer_pending() -> Snapshot:
    """A transfer that waits for the ledger, with its line and its timer."""
    return in_groups(
        transfers=[
            *GROUPS.transfers,
            groups.Transfer(id_of("x"), GROUP, OWNER, "amount", 1, TransferState.PENDING, None, None, NOW, None),
        ],
        history=[
            *GROUPS.history,
            line(history_of_leg(id_of("x"), MEMBER), Kind.TRANSFER, id_of("x"), "pending"),
        ],
        timers=[*GROUPS.timers, TimerRow(id_of("x"), END, TransferDue.TYPE, str(id_of("x")))],
    )


def purchase_unpaid() -> LedgerSnapshot:
    """The options pack's hold, released: then its entry is not there."""
    return replace(
        LEDGER,
        holds=changed(list(LEDGER.holds), 2, state=HoldState.RELEASED),
        entries=[*list(LEDGER.entries)[:12], *list(LEDGER.entries)[14:]],
        accounts=changed(list(LEDGER.accounts), 2, balance_units=8, version=3, revision=5),
    )


UNDER_WAY = replace(paid_action(id_of("x"), Action.CALL_FORWARDING, 3, Status.RUNNING), ended_at=None)
NEVER_A_MEMBER: dict[str, Any] = {
    "memberships": list(GROUPS.memberships)[1:],
    "history": [line for place, line in enumerate(list(GROUPS.history)) if place not in (2, 3)],
}
BUT_ITS_MAILS = [
    each for each in list(NOTIFICATIONS.mails) if each.template not in (Template.DETACHED, Template.MEMBER_LEFT)
]
INVITED_TOO = Invitation(id_of("x"), GROUP, OWNER, MEMBER, InvitationState.PENDING, 1, b"", NOW, END, None)

BROKEN_ORDERS: list[tuple[str, Snapshot, list[Invariant]]] = [
    ("an order moved more than its bound", ordered(bound_units=8), [Invariant.ORDER_OVER_BOUND]),
    ("an order may still move more than its bound", asked_again(KEPT), [Invariant.ORDER_OVER_BOUND]),
    (
        "a monthly order gave twice in a month",
        asked_again(replace(KEPT, kind=OrderKind.MONTHLY, amount_units=9, next_month=FEBRUARY), bound_units=None),
        [Invariant.ORDER_TWICE],
    ),
    (
        "a month that was paid is still to be paid",
        ordered(replace(KEPT, kind=OrderKind.MONTHLY, amount_units=9, due_at=END), bound_units=None),
        [Invariant.ORDER_TALLY_MISMATCH],
    ),
    ("an order counts less than it moved", ordered(replace(KEPT, month_units=8)), [Invariant.ORDER_TALLY_MISMATCH]),
    (
        "a stopped order has asked for something",
        ordered(replace(KEPT, state=OrderState.STOPPED, ended_at=NOW)),
        [Invariant.ORDER_AFTER_STOP],
    ),
    (
        "a paused order has asked for something",
        ordered(replace(KEPT, state=OrderState.PAUSED, code="units_short")),
        [Invariant.ORDER_AFTER_STOP],
    ),
    (
        "somebody has an order who is invited",
        in_groups(orders=[replace(KEPT, id=order_of(INVITED), member_id=OTHER, month_units=0)]),
        [Invariant.ORDER_WITHOUT_MEMBER],
    ),
    ("a transfer was asked for by an order that is not there", ordered(None), [Invariant.ORDER_MISMATCH]),
    ("a transfer is of a later setting", ordered(order_version=2), [Invariant.ORDER_MISMATCH]),
    ("a transfer is of another owner's order", ordered(replace(KEPT, owner_id=OTHER)), [Invariant.ORDER_MISMATCH]),
    (
        "an order waits for what ended",
        ordered(replace(KEPT, transfer_id=id_of("given"), due_at=END)),
        [Invariant.ORDER_MISMATCH],
    ),
    (
        "an order waits for nothing",
        ordered(replace(KEPT, transfer_id=id_of("x"), due_at=END)),
        [Invariant.ORDER_MISMATCH],
    ),
    ("an order has no terms", ordered(replace(KEPT, target_units=None)), [Invariant.ORDER_MISMATCH]),
    ("an active order has ended", ordered(replace(KEPT, ended_at=NOW)), [Invariant.ORDER_MISMATCH]),
    ("an active order says why it waits", ordered(replace(KEPT, code="units_short")), [Invariant.ORDER_MISMATCH]),
    (
        "a paused order is due",
        ordered(replace(KEPT, state=OrderState.PAUSED, version=2, code="units_short", due_at=END)),
        [Invariant.ORDER_MISMATCH],
    ),
    (
        "nobody looks for the answer to an order's transfer",
        in_groups(
            asked_again(replace(KEPT, monthly_bound_units=99), bound_units=99),
            orders=[replace(KEPT, monthly_bound_units=99, transfer_id=id_of("again"))],
        ),
        [Invariant.ORDER_STALLED],
    ),
    ("nobody looks at a member who is short", ordered(replace(KEPT, threshold_units=6)), [Invariant.ORDER_STALLED]),
    (
        "nobody looks at a monthly order",
        ordered(replace(KEPT, kind=OrderKind.MONTHLY, amount_units=9)),
        [Invariant.ORDER_STALLED],
    ),
    (
        "the history tells of an order that is not there",
        in_groups(history=[*GROUPS.history, line(id_of("order"), Kind.ORDER, ORDER, "set")]),
        [Invariant.HISTORY_MISMATCH],
    ),
    (
        "the history tells of an order what no order does",
        ordered(lines=[line(id_of("another"), Kind.ORDER, ORDER, "done")]),
        [Invariant.HISTORY_MISMATCH],
    ),
]

ALWAYS_WRONG: list[tuple[str, Snapshot, list[Invariant]]] = [
    (
        "a payment has no account",
        in_provisioning(
            in_groups(sagas=list(GROUPS.sagas)[1:], history=changed(list(GROUPS.history), 2, code="x")[1:]),
            requests=list(PROVISIONING.requests)[1:],
            subscribers=changed(list(PROVISIONING.subscribers), 2, registration=b""),
        ),
        [Invariant.PAYMENT_WITHOUT_ACCOUNT, Invariant.HISTORY_MISMATCH, Invariant.MAIL_WITHOUT_CAUSE],
    ),
    (
        "a membership is not paid",
        replace(SNAPSHOT, ledger=hold_of_creation(HoldState.RELEASED)),
        [Invariant.MEMBERSHIP_WITHOUT_PAYMENT, Invariant.BALANCE_STALE],
    ),
    (
        "a membership has no account",
        in_provisioning(
            requests=list(PROVISIONING.requests)[1:],
            subscribers=changed(list(PROVISIONING.subscribers), 2, registration=b""),
        ),
        [Invariant.PAYMENT_WITHOUT_ACCOUNT, Invariant.MEMBERSHIP_WITHOUT_ACCOUNT],
    ),
    (
        "a membership began with an account that nobody created",
        in_groups(
            memberships=[
                *GROUPS.memberships,
                Membership(id_of("x"), GROUP, OWNER, GONE, False, 1, None, NOW, NOW),
            ],
            history=[
                *GROUPS.history,
                line(
                    history_of_membership(id_of("x"), 1),
                    Kind.MEMBERSHIP,
                    id_of("x"),
                    "account_closed",
                    GONE,
                    code="account_created",
                ),
            ],
        ),
        [Invariant.MEMBERSHIP_WITHOUT_ACCOUNT, Invariant.MEMBERSHIP_MISMATCH],
    ),
    (
        "one creation made two memberships",
        in_groups(history=changed(list(GROUPS.history), 3, code="account_created")),
        [Invariant.MEMBERSHIP_TWICE, Invariant.EPOCHS_BROKEN, Invariant.HISTORY_MISMATCH],
    ),
    (
        "a completed saga made no member",
        in_notifications(in_groups(**NEVER_A_MEMBER), mails=BUT_ITS_MAILS),
        [Invariant.COMPLETED_WITHOUT_MEMBERSHIP, Invariant.INVITATION_MISMATCH],
    ),
    (
        "a membership began before its saga was completed",
        in_notifications(
            in_groups(
                sagas=changed(list(GROUPS.sagas), 0, status=Status.RUNNING, ended_at=None),
                history=changed(list(GROUPS.history), 0, outcome="pending", member_id=None),
            ),
            mails=list(NOTIFICATIONS.mails)[2:],
        ),
        [Invariant.MEMBERSHIP_WITHOUT_SAGA, Invariant.HISTORY_MISMATCH],
    ),
    (
        "a refused saga reserved nothing and burned nothing",
        ledger(holds=without(list(LEDGER.holds), 1)),
        [Invariant.REVISION_MISMATCH, Invariant.REFUSED_NOT_RELEASED],
    ),
    (
        "a refused saga left its hold open",
        ledger(
            holds=changed(list(LEDGER.holds), 1, state=HoldState.OPEN),
            accounts=changed(list(LEDGER.accounts), 0, held_units=20, revision=7),
        ),
        [Invariant.HOLD_MISMATCH, Invariant.ORPHAN_HOLD, Invariant.REFUSED_NOT_RELEASED, Invariant.BALANCE_STALE],
    ),
    (
        "a refused saga left an account",
        in_provisioning(
            requests=changed(list(PROVISIONING.requests), 1, code=None),
            subscribers=[
                *PROVISIONING.subscribers,
                subscriber(account_of(REFUSED), "x@example.org", "send_only", None),
            ],
            addresses=[*PROVISIONING.addresses, Address("x@example.org", account_of(REFUSED))],
        ),
        [Invariant.REFUSED_WITH_ACCOUNT],
    ),
    (
        "a creation's line says other units than were paid",
        in_groups(history=changed(list(GROUPS.history), 0, units=21)),
        [Invariant.HISTORY_MISMATCH],
    ),
    (
        "a creation's line says another outcome",
        in_groups(history=changed(list(GROUPS.history), 1, outcome="created")),
        [Invariant.HISTORY_MISMATCH],
    ),
    (
        "a creation has no line",
        in_groups(history=without(list(GROUPS.history), 1)),
        [Invariant.HISTORY_MISMATCH],
    ),
    (
        "an ended saga remembers an e-mail address",
        in_groups(sagas=changed(list(GROUPS.sagas), 0, data={"group_id": str(GROUP), "email": "member@example.org"})),
        [Invariant.HOLD_MISMATCH, Invariant.SAGA_MISMATCH, Invariant.PERSONAL_DATA_KEPT, Invariant.HISTORY_MISMATCH],
    ),
    (
        "an ended purchase remembers a telephone number",
        in_provisioning(sagas=changed(list(PROVISIONING.sagas), 0, data={"forward_to": "+331"})),
        [Invariant.HOLD_MISMATCH, Invariant.PERSONAL_DATA_KEPT, Invariant.PURCHASE_MISMATCH],
    ),
    (
        "a request was granted and there is no account",
        in_provisioning(
            subscribers=without(list(PROVISIONING.subscribers), 2),
            addresses=without(list(PROVISIONING.addresses), 2),
            fax_numbers=list(PROVISIONING.fax_numbers)[1:],
        ),
        [Invariant.REQUEST_MISMATCH],
    ),
    (
        "an account on a plan was neither asked for nor registered",
        in_provisioning(subscribers=changed(list(PROVISIONING.subscribers), 0, plan="send_only")),
        [Invariant.REQUEST_MISMATCH, Invariant.STATE_MISMATCH],
    ),
    (
        "something is bought and not paid",
        replace(SNAPSHOT, ledger=purchase_unpaid()),
        [Invariant.PURCHASE_WITHOUT_PAYMENT, Invariant.BALANCE_STALE],
    ),
    (
        "something is bought and paid with other units than it costs",
        in_provisioning(purchases=changed(list(PROVISIONING.purchases), 0, price_units=4)),
        [Invariant.PURCHASE_WITHOUT_PAYMENT, Invariant.PURCHASE_MISMATCH],
    ),
    (
        "something is paid that was refused",
        in_provisioning(sagas=changed(list(PROVISIONING.sagas), 0, status=Status.REFUSED)),
        [Invariant.SAGA_MISMATCH, Invariant.PAYMENT_WITHOUT_PURCHASE, Invariant.PURCHASE_MISMATCH],
    ),
    (
        "something is paid before it is given",
        in_provisioning(sagas=changed(list(PROVISIONING.sagas), 0, status=Status.RUNNING)),
        [Invariant.SAGA_MISMATCH, Invariant.PAYMENT_WITHOUT_PURCHASE, Invariant.PURCHASE_MISMATCH],
    ),
    (
        "the options pack is bought and not there",
        in_provisioning(subscribers=changed(list(PROVISIONING.subscribers), 2, options_pack=False)),
        [Invariant.OPTIONS_MISMATCH],
    ),
    (
        "the options pack is bought twice",
        in_provisioning(
            purchases=[
                *PROVISIONING.purchases,
                Purchase(id_of("x"), MEMBER, Action.OPTIONS_PACK, None, b"", decided_at=NOW),
            ]
        ),
        [Invariant.PAYMENT_MISMATCH, Invariant.OPTIONS_MISMATCH],
    ),
    (
        "an account has an options pack that nobody bought",
        in_provisioning(subscribers=changed(list(PROVISIONING.subscribers), 0, options_pack=True)),
        [Invariant.OPTIONS_MISMATCH],
    ),
    (
        "an account ends sooner than its extension says",
        in_groups(
            in_provisioning(subscribers=changed(list(PROVISIONING.subscribers), 2, expires_at=NOW)),
            subscribers=changed(list(GROUPS.subscribers), 2, expires_at=NOW),
        ),
        [Invariant.EXTENSION_MISMATCH],
    ),
    (
        "a purchase has ended and its units are held",
        ledger(
            holds=changed(list(LEDGER.holds), 3, state=HoldState.OPEN, amount_units=5),
            accounts=changed(list(LEDGER.accounts), 2, held_units=5, revision=6),
        ),
        [Invariant.HOLD_MISMATCH, Invariant.ORPHAN_HOLD],
    ),
    (
        "a fax number is given twice",
        in_provisioning(subscribers=changed(list(PROVISIONING.subscribers), 0, fax_number="+331")),
        [Invariant.FAX_NUMBER_TWICE, Invariant.FAX_NUMBER_MISMATCH],
    ),
    (
        "a fax number is assigned to who does not have it",
        in_provisioning(
            fax_numbers=changed(list(PROVISIONING.fax_numbers), 1, state=NumberState.ASSIGNED, subscriber_id=OWNER)
        ),
        [Invariant.FAX_NUMBER_MISMATCH],
    ),
    (
        "a closed account's fax number is not let go of",
        in_provisioning(
            fax_numbers=changed(list(PROVISIONING.fax_numbers), 1, state=NumberState.RESTING, subscriber_id=GONE)
        ),
        [Invariant.FAX_NUMBER_MISMATCH, Invariant.TIMER_MISSING],
    ),
    (
        "a subscriber has a fax number that is free",
        in_provisioning(subscribers=changed(list(PROVISIONING.subscribers), 0, fax_number="+332")),
        [Invariant.FAX_NUMBER_MISMATCH],
    ),
    (
        "an e-mail address is two subscribers'",
        in_provisioning(subscribers=changed(list(PROVISIONING.subscribers), 0, email="member@example.org")),
        [Invariant.EMAIL_TWICE, Invariant.ADDRESS_MISMATCH],
    ),
    (
        "an address is not taken",
        in_provisioning(addresses=list(PROVISIONING.addresses)[1:]),
        [Invariant.ADDRESS_MISMATCH],
    ),
    (
        "a closed account's address is not free",
        in_provisioning(addresses=[*PROVISIONING.addresses, Address("gone@example.org", GONE)]),
        [Invariant.ADDRESS_MISMATCH],
    ),
    (
        "provisioning knows whose a closed account was",
        in_provisioning(subscribers=changed(list(PROVISIONING.subscribers), 3, first_name="Ada")),
        [Invariant.NOT_ERASED],
    ),
    (
        "a time in a group is not in the history",
        in_groups(history=without(list(GROUPS.history), 3)),
        [Invariant.EPOCHS_BROKEN],
    ),
    (
        "a membership is active twice in its history",
        in_notifications(
            in_groups(history=changed(list(GROUPS.history), 2, outcome="active")),
            mails=BUT_ITS_MAILS,
        ),
        [Invariant.EPOCHS_BROKEN, Invariant.HISTORY_MISMATCH],
    ),
    (
        "a membership has ended and not in its history",
        in_groups(memberships=changed(list(GROUPS.memberships), 0, active=False)),
        [Invariant.MEMBERSHIP_MISMATCH, Invariant.EPOCHS_BROKEN],
    ),
    (
        "the history tells of a membership that never was",
        in_groups(history=[*GROUPS.history, line(id_of("x"), Kind.MEMBERSHIP, id_of("x"), "active", OTHER)]),
        [Invariant.EPOCHS_BROKEN],
    ),
    (
        "a member is invited",
        in_groups(
            memberships=changed(list(GROUPS.memberships), 0, invitation_id=id_of("x")),
            invitations=[*GROUPS.invitations, INVITED_TOO],
            history=[*GROUPS.history, line(id_of("x"), Kind.INVITATION, id_of("x"), "pending")],
            tallies=[
                Tally(sent_invitations_tally(OWNER), 2, NOW.date(), 3),
                list(GROUPS.tallies)[1],
                Tally(received_invitations_tally(MEMBER), 1, NOW.date(), 3),
            ],
        ),
        [Invariant.MEMBER_AND_INVITED, Invariant.TIMER_MISSING],
    ),
    (
        "an invitation is pending and not the one",
        in_groups(memberships=changed(list(GROUPS.memberships), 1, invitation_id=None)),
        [Invariant.INVITATION_MISMATCH],
    ),
    (
        "an invitation has ended and is still the one",
        in_groups(memberships=changed(list(GROUPS.memberships), 0, active=True, invitation_id=DECLINED)),
        [Invariant.INVITATION_MISMATCH, Invariant.MEMBER_AND_INVITED],
    ),
    (
        "an invitation's line says another outcome",
        in_groups(history=changed(list(GROUPS.history), 5, outcome="pending")),
        [Invariant.HISTORY_MISMATCH],
    ),
    (
        "an invitation is not in the history",
        in_groups(history=without(list(GROUPS.history), 5)),
        [Invariant.HISTORY_MISMATCH],
    ),
    (
        "more invitations are counted than are pending",
        in_groups(tallies=changed(list(GROUPS.tallies), 2, pending=1)),
        [Invariant.TALLY_MISMATCH],
    ),
    (
        "an owner's pending invitation is not counted",
        in_groups(tallies=list(GROUPS.tallies)[1:]),
        [Invariant.TALLY_MISMATCH],
    ),
    (
        "a closed account is invited",
        in_groups(subscribers=changed(list(GROUPS.subscribers), 1, state=groups.AccountState.CLOSED)),
        [Invariant.OPEN_AFTER_CLOSING],
    ),
    (
        "a closed group has a member, and invites",
        in_groups(groups=changed(list(GROUPS.groups), 0, closed_at=NOW)),
        [Invariant.OPEN_AFTER_CLOSING, Invariant.OPEN_AFTER_CLOSING],
    ),
    (
        "a member's line of a transfer is not brought up to date",
        in_notifications(
            in_groups(history=changed(list(GROUPS.history), 6, outcome="pending", units=None)),
            mails=without(list(NOTIFICATIONS.mails), 8),
        ),
        [Invariant.HISTORY_MISMATCH, Invariant.TRANSFER_UNMATCHED],
    ),
    (
        "a line tells of a transfer that never was",
        in_groups(history=[*GROUPS.history, line(id_of("x"), Kind.TRANSFER, id_of("x"), "pending")]),
        [Invariant.HISTORY_MISMATCH],
    ),
    (
        "a line says other units than the entries",
        in_groups(history=changed(list(GROUPS.history), 6, units=8)),
        [Invariant.TRANSFER_UNMATCHED],
    ),
    (
        "a transfer is done in groups and refused by the ledger",
        in_groups(transfers=changed(list(GROUPS.transfers), 0, id=id_of("short")), history=list(GROUPS.history)[:6]),
        [
            Invariant.HISTORY_MISMATCH,
            Invariant.TRANSFER_UNMATCHED,
            Invariant.HISTORY_MISMATCH,
            Invariant.MAIL_WITHOUT_CAUSE,
        ],
    ),
    (
        "a transfer is refused in groups and done by the ledger",
        ledger(transfers=changed(list(LEDGER.transfers), 3, code=None, amounts_units=())),
        [Invariant.TRANSFER_UNMATCHED],
    ),
    (
        "a transfer is done for another group",
        ledger(transfers=changed(list(LEDGER.transfers), 4, reference=str(group_of(OTHER)))),
        [Invariant.TRANSFER_UNMATCHED],
    ),
    (
        "groups shows other units than the ledger has",
        in_groups(subscribers=changed(list(GROUPS.subscribers), 0, available_units=49)),
        [Invariant.BALANCE_STALE],
    ),
    (
        "groups has a version that the ledger never told",
        in_groups(subscribers=changed(list(GROUPS.subscribers), 0, balance_version=9)),
        [Invariant.BALANCE_STALE],
    ),
    (
        "a posted command waits for what nobody is to show",
        in_groups(commands=[posted(awaits=1)]),
        [Invariant.COMMAND_UNSEEN],
    ),
    (
        "a posted command has ended, and somebody is still to show what it did",
        in_groups(commands=[posted(state=groups.CommandState.DONE)], subscribers=SHOWING),
        [Invariant.COMMAND_UNSEEN],
    ),
    (
        "a member is welcomed twice",
        in_notifications(mails=[*NOTIFICATIONS.mails, replace(WELCOME, id=id_of("again"))]),
        [Invariant.MAIL_WITHOUT_CAUSE],
    ),
    (
        "the owner gets two receipts for one member",
        in_notifications(mails=[*NOTIFICATIONS.mails, replace(list(NOTIFICATIONS.mails)[1], id=id_of("again"))]),
        [Invariant.MAIL_WITHOUT_CAUSE],
    ),
    (
        "an invitation is mailed twice in one round",
        in_notifications(mails=[*NOTIFICATIONS.mails, replace(list(NOTIFICATIONS.mails)[2], id=id_of("again"))]),
        [Invariant.MAIL_WITHOUT_CAUSE],
    ),
    (
        "nobody asked for a mail about members who are low",
        in_notifications(mails=[*NOTIFICATIONS.mails, mail("another day", Template.MEMBERS_LOW, OTHER, None)]),
        [Invariant.MAIL_WITHOUT_CAUSE],
    ),
    (
        "an owner has more mails about members who are low than were asked for",
        in_notifications(mails=[*NOTIFICATIONS.mails, mail("another day", Template.MEMBERS_LOW, OWNER, None)]),
        [Invariant.MAIL_TWICE],
    ),
    (
        "an account's end is told more often than it comes",
        in_notifications(mails=[*NOTIFICATIONS.mails, *[list(NOTIFICATIONS.mails)[11]] * 6]),
        [Invariant.MAIL_TWICE],
    ),
    (
        "a member is somebody else",
        in_groups(memberships=changed(list(GROUPS.memberships), 0, member_id=OTHER)),
        [
            Invariant.COMPLETED_WITHOUT_MEMBERSHIP,
            Invariant.MEMBERSHIP_MISMATCH,
            Invariant.HISTORY_MISMATCH,
            Invariant.MAIL_WITHOUT_CAUSE,
        ],
    ),
    (
        "a line of the history is another group's",
        in_groups(history=changed(list(GROUPS.history), 6, group_id=group_of(OTHER))),
        [Invariant.HISTORY_MISMATCH],
    ),
    (
        "a renaming is another group's",
        in_groups(history=changed(list(GROUPS.history), 9, group_id=group_of(GONE))),
        [Invariant.HISTORY_MISMATCH],
    ),
    (
        "an invitation's timer is set for too late",
        in_groups(timers=[replace(timer, due_at=END + timedelta(1)) for timer in GROUPS.timers]),
        [Invariant.TIMER_MISSING],
    ),
    (
        "a pending invitation has no timer",
        in_groups(timers=[]),
        [Invariant.TIMER_MISSING],
    ),
    (
        "a timer is for a number that nobody knows",
        in_provisioning(timers=[TimerRow(OWNER, END, NumberRested.TYPE, "x")]),
        [Invariant.TIMER_WITHOUT_ROW],
    ),
    (
        "a transfer is a payment",
        ledger(transfers=changed(list(LEDGER.transfers), 3, kind=TransferKind.SPEND)),
        [Invariant.TRANSFER_UNMATCHED],
    ),
    (
        "a refused transfer was for another group",
        ledger(transfers=changed(list(LEDGER.transfers), 3, reference=str(group_of(OTHER)))),
        [Invariant.TRANSFER_UNMATCHED],
    ),
    (
        "a refused transfer is gone",
        ledger(transfers=without(list(LEDGER.transfers), 3)),
        [Invariant.TRANSFER_UNMATCHED],
    ),
    (
        "a refused hold is gone",
        ledger(holds=without(list(LEDGER.holds), 3)),
        [Invariant.REFUSED_NOT_RELEASED],
    ),
    (
        "a hold is another account's",
        ledger(holds=changed(list(LEDGER.holds), 3, account_id=OTHER)),
        [Invariant.HOLD_MISMATCH],
    ),
    (
        "two extensions gave the same end",
        in_provisioning(
            purchases=[
                *PROVISIONING.purchases,
                Purchase(id_of("x"), MEMBER, Action.EXTENSION, None, b"", expires_at=END, decided_at=NOW),
            ],
            payments=[*PROVISIONING.payments, Payment("card/2", id_of("x"))],
        ),
        [Invariant.EXTENSION_MISMATCH],
    ),
    (
        "money paid for nothing",
        in_provisioning(payments=[*PROVISIONING.payments, Payment("card/2", id_of("x"))]),
        [Invariant.PAYMENT_MISMATCH],
    ),
    (
        "groups offers a plan that there is not",
        in_groups(plans=[*GROUPS.plans, groups.Plan("gold", 1, 1)]),
        [Invariant.PLAN_MISMATCH],
    ),
    (
        "a group is another's",
        in_groups(groups=changed(list(GROUPS.groups), 0, owner_id=OTHER)),
        [Invariant.GROUP_MISMATCH],
    ),
    (
        "a state that no code knows",
        in_notifications(mails=changed(list(NOTIFICATIONS.mails), 0, state=Unknown("lost"))),
        [Invariant.UNKNOWN_VALUE],
    ),
    (
        "a plan that no code knows",
        in_provisioning(subscribers=changed(list(PROVISIONING.subscribers), 2, plan="gold")),
        [Invariant.UNKNOWN_VALUE],
    ),
    (
        "what can't be compared",
        ledger(accounts=changed(list(LEDGER.accounts), 1, balance_units=None)),
        [Invariant.BALANCE_MISMATCH, Invariant.UNREADABLE],
    ),
    (
        "somebody is welcomed who was not created",
        in_notifications(mails=[*NOTIFICATIONS.mails, mail("x", Template.WELCOME, OTHER, OWNER)]),
        [Invariant.MAIL_WITHOUT_CAUSE],
    ),
]


@pytest.mark.parametrize(
    ("snapshot", "codes"),
    [case[1:] for case in [*ALWAYS_WRONG, *BROKEN_ORDERS]],
    ids=[case[0] for case in [*ALWAYS_WRONG, *BROKEN_ORDERS]],
)
def test_sees_at_any_moment_that(snapshot: Snapshot, codes: list[Invariant]) -> None:
    assert {violation.code for violation in check(snapshot, settled=False)} == {*codes}


RUNNING: dict[str, Any] = {
    "sagas": changed(list(GROUPS.sagas), 0, status=Status.RUNNING, ended_at=None),
    "history": [
        line
        for place, line in enumerate(changed(list(GROUPS.history), 0, outcome="pending", member_id=None, ended_at=None))
        if place not in (2, 3, 10)
    ],
    "subscribers": changed(list(GROUPS.subscribers), 0, balance_version=6),
    "invitations": list(GROUPS.invitations)[:2],
    "timers": [*GROUPS.timers],
    "memberships": list(GROUPS.memberships)[1:],
}
THEIRS = group_of(GONE)
MET = membership_of(THEIRS, OTHER)
REVOKED = replace(
    line(id_of("x"), Kind.INVITATION, id_of("x"), "revoked", OTHER, actor_id=GONE, code="group_closed"), group_id=THEIRS
)
NOT_WELCOMED = [
    each
    for each in BUT_ITS_MAILS
    if each.template not in (Template.WELCOME, Template.RECEIPT, Template.INVITATION_ACCEPTED)
    and each.invitation_id != ACCEPTED
]

WRONG_WHEN_SETTLED: list[tuple[str, Snapshot, list[Invariant]]] = [
    (
        "a hold is open, its saga running, its account not paid",
        replace(in_notifications(in_groups(**RUNNING), mails=NOT_WELCOMED), ledger=hold_of_creation(HoldState.OPEN)),
        [
            Invariant.ACCOUNT_WITHOUT_PAYMENT,
            Invariant.ACCOUNT_WITHOUT_MEMBERSHIP,
            Invariant.SAGA_NOT_ENDED,
            Invariant.ORPHAN_HOLD,
            Invariant.BALANCE_STALE,
        ],
    ),
    (
        "an account is paid and no member",
        in_notifications(in_groups(**RUNNING), mails=NOT_WELCOMED),
        [Invariant.ACCOUNT_WITHOUT_MEMBERSHIP, Invariant.SAGA_NOT_ENDED, Invariant.BALANCE_STALE],
    ),
    (
        "a purchase is not decided",
        in_provisioning(
            purchases=[
                *PROVISIONING.purchases,
                Purchase(id_of("x"), MEMBER, Action.CALL_FORWARDING, 3, b""),
            ],
            sagas=[*PROVISIONING.sagas, UNDER_WAY],
        ),
        [Invariant.SAGA_NOT_ENDED, Invariant.PURCHASE_UNDECIDED],
    ),
    (
        "the ledger does not know that an account is closed",
        ledger(accounts=changed(list(LEDGER.accounts), 3, state=AccountState.ACTIVE)),
        [Invariant.STATE_MISMATCH],
    ),
    (
        "groups does not know that an account has expired",
        replace(
            in_provisioning(
                subscribers=changed(list(PROVISIONING.subscribers), 2, state=provisioning.AccountState.EXPIRED),
                timers=[],
            ),
            ledger=replace(LEDGER, accounts=changed(list(LEDGER.accounts), 2, state=AccountState.EXPIRED)),
        ),
        [Invariant.STATE_MISMATCH],
    ),
    (
        "groups does not know when an account ends",
        in_groups(subscribers=changed(list(GROUPS.subscribers), 2, expires_at=NOW)),
        [Invariant.STATE_MISMATCH],
    ),
    (
        "groups knows somebody by another name",
        in_groups(subscribers=changed(list(GROUPS.subscribers), 0, last_name="K.")),
        [Invariant.DIRECTORY_MISMATCH],
    ),
    (
        "groups knows an address that was given up",
        in_groups(subscribers=changed(list(GROUPS.subscribers), 1, email="old@example.org")),
        [Invariant.DIRECTORY_MISMATCH],
    ),
    (
        "notifications does not know somebody",
        in_notifications(people=list(NOTIFICATIONS.people)[1:]),
        [Invariant.DIRECTORY_MISMATCH],
    ),
    (
        "groups knows whose a closed account was",
        in_groups(subscribers=changed(list(GROUPS.subscribers), 3, first_name="Ada")),
        [Invariant.NOT_ERASED],
    ),
    (
        "the group of a closed account has a name",
        in_groups(groups=changed(list(GROUPS.groups), 1, name="Ada L.")),
        [Invariant.NOT_ERASED],
    ),
    (
        "notifications knows whose a closed account was",
        in_notifications(people=[*NOTIFICATIONS.people, Person(GONE, "gone@example.org", "Ada", "L.", "en", None)]),
        [Invariant.NOT_ERASED],
    ),
    (
        "a mail waits for whom nobody knows any more",
        in_notifications(mails=[*NOTIFICATIONS.mails, mail("x", Template.EXPIRED, GONE, None)]),
        [Invariant.NOT_ERASED],
    ),
    (
        "a parked mail to a closed account is kept",
        in_notifications(
            mails=[*NOTIFICATIONS.mails, replace(mail("x", Template.EXPIRED, GONE, None), state=MailState.PARKED)]
        ),
        [Invariant.NOT_ERASED],
    ),
    (
        "a mail names the group of whom nobody knows any more",
        in_notifications(
            in_groups(
                memberships=[
                    *GROUPS.memberships,
                    Membership(MET, THEIRS, GONE, OTHER, False, 0, None, None, None),
                ],
                invitations=[
                    *GROUPS.invitations,
                    Invitation(id_of("x"), THEIRS, GONE, OTHER, InvitationState.REVOKED, 1, b"", NOW, END, NOW),
                ],
                history=[*GROUPS.history, REVOKED],
            ),
            mails=[
                *NOTIFICATIONS.mails,
                replace(
                    mail(f"{id_of('x')}/1", Template.INVITATION, OTHER, GONE, invitation_id=id_of("x"), round=1),
                    params={"group_name": "Branches"},
                ),
            ],
        ),
        [Invariant.NOT_ERASED],
    ),
    (
        "a transfer is not decided",
        transfer_pending(),
        [Invariant.TRANSFER_UNDECIDED],
    ),
    (
        "the ledger posted a transfer that groups does not know of",
        ledger(
            transfers=[
                *LEDGER.transfers,
                Transfer(id_of("x"), TransferKind.TRANSFER, OWNER, b"", "units_short", (1,), NOW, str(GROUP)),
            ]
        ),
        [Invariant.TRANSFER_UNMATCHED],
    ),
    (
        "groups shows a balance that has changed since",
        in_groups(subscribers=changed(list(GROUPS.subscribers), 0, balance_version=5, available_units=68)),
        [Invariant.BALANCE_STALE],
    ),
    ("a member is not welcomed", in_notifications(mails=list(NOTIFICATIONS.mails)[1:]), [Invariant.MAIL_MISSING]),
    (
        "the owner gets no receipt",
        in_notifications(mails=without(list(NOTIFICATIONS.mails), 1)),
        [Invariant.MAIL_MISSING],
    ),
    (
        "a declined invitation is not told",
        in_notifications(mails=without(list(NOTIFICATIONS.mails), 5)),
        [Invariant.MAIL_MISSING],
    ),
    (
        "a member is not told of their units",
        in_notifications(mails=without(list(NOTIFICATIONS.mails), 8)),
        [Invariant.MAIL_MISSING],
    ),
]


@pytest.mark.parametrize(
    ("snapshot", "codes"), [case[1:] for case in WRONG_WHEN_SETTLED], ids=[case[0] for case in WRONG_WHEN_SETTLED]
)
def test_sees_once_all_is_settled_that(snapshot: Snapshot, codes: list[Invariant]) -> None:
    assert {violation.code for violation in check(snapshot, settled=True)} == {*codes}
    assert check(snapshot, settled=False) == []


def years_later(removed_before: datetime | None) -> Snapshot:
    """Return the snapshot after all sagas and mails have been removed, with what is noted about it."""
    noted = {table: [RemovalRow(table, removed_before)] if removed_before else [] for table in ("sagas", "mails")}
    return Snapshot(
        ledger=LEDGER,
        groups=replace(GROUPS, sagas=[], removals=noted["sagas"]),
        provisioning=replace(PROVISIONING, sagas=[], removals=noted["sagas"]),
        notifications=replace(NOTIFICATIONS, mails=[], removals=noted["mails"]),
    )


@pytest.mark.parametrize("settled", [True, False])
def test_misses_nothing_that_was_removed_because_of_its_age(settled: bool) -> None:
    assert check(years_later(END), settled, NOW + timedelta(days=1)) == []


@pytest.mark.parametrize("removed_before", [None, NOW - timedelta(hours=2)])
def test_misses_what_is_gone_and_not_that_old(removed_before: datetime | None) -> None:
    found = {violation.code for violation in check(years_later(removed_before), settled=True)}
    assert found >= {Invariant.ORPHAN_HOLD, Invariant.HISTORY_MISMATCH, Invariant.MAIL_MISSING}
    assert found >= {Invariant.PURCHASE_MISMATCH, Invariant.MEMBERSHIP_WITHOUT_SAGA}


REMOVED = years_later(END)
HOLDS, LINES = list(LEDGER.holds), list(GROUPS.history)
WITHOUT_SAGAS: dict[str, tuple[Snapshot, Invariant]] = {
    "a hold is open": (
        replace(REMOVED, ledger=replace(LEDGER, holds=changed(HOLDS, 1, state=HoldState.OPEN, closed_at=None))),
        Invariant.ORPHAN_HOLD,
    ),
    "the line of a creation does not say what its hold paid": (
        in_groups(REMOVED, history=changed(LINES, 0, units=21)),
        Invariant.HOLD_MISMATCH,
    ),
    "the line of a creation is gone": (
        in_groups(REMOVED, history=without(LINES, 0)),
        Invariant.MEMBERSHIP_WITHOUT_SAGA,
    ),
    "the line of a creation says that it was refused": (
        in_groups(REMOVED, history=changed(LINES, 0, outcome="refused")),
        Invariant.REFUSED_WITH_ACCOUNT,
    ),
    "an account was paid for, and nobody was asked for it": (
        in_provisioning(REMOVED, requests=without(list(PROVISIONING.requests), 0)),
        Invariant.PAYMENT_WITHOUT_ACCOUNT,
    ),
    "a membership never was": (
        in_groups(REMOVED, memberships=without(list(GROUPS.memberships), 0)),
        Invariant.COMPLETED_WITHOUT_MEMBERSHIP,
    ),
    "something was paid for that nobody bought": (
        replace(
            in_provisioning(REMOVED, purchases=without(PURCHASES, 0)),
            ledger=replace(LEDGER, holds=changed(HOLDS, 2, holder="provisioning")),
        ),
        Invariant.PAYMENT_WITHOUT_PURCHASE,
    ),
    "a purchase cost more than was paid": (
        in_provisioning(REMOVED, purchases=changed(PURCHASES, 0, price_units=4)),
        Invariant.PURCHASE_WITHOUT_PAYMENT,
    ),
}


@pytest.mark.parametrize(("snapshot", "code"), WITHOUT_SAGAS.values(), ids=WITHOUT_SAGAS)
def test_sees_without_the_saga_that(snapshot: Snapshot, code: Invariant) -> None:
    assert code in {violation.code for violation in check(snapshot, settled=True)}


def test_does_not_miss_a_mail_to_somebody_who_was_erased() -> None:
    met, id_ = membership_of(GROUP, GONE), id_of("x")
    told = in_groups(
        memberships=[*GROUPS.memberships, Membership(met, GROUP, OWNER, GONE, False, 0, None, None, None)],
        invitations=[
            *GROUPS.invitations,
            Invitation(id_, GROUP, OWNER, GONE, InvitationState.EXPIRED, 1, b"", NOW, END, NOW),
        ],
        history=[*GROUPS.history, line(id_, Kind.INVITATION, id_, "expired", GONE)],
    )
    to_the_owner = mail(id_, Template.INVITATION_EXPIRED, OWNER, GONE)
    assert check(in_notifications(told, mails=[*NOTIFICATIONS.mails, to_the_owner]), settled=True) == []


LATER = NOW + timedelta(hours=1)

STUCK: list[tuple[str, Snapshot, list[Invariant]]] = [
    (
        "a hold is of no saga",
        ledger(holds=[*LEDGER.holds, Hold(id_of("x"), GONE, 0, HoldState.BURNED, NOW, NOW)]),
        [Invariant.ORPHAN_HOLD],
    ),
    (
        "a saga runs, and its purchase is not decided",
        in_provisioning(
            purchases=[*PROVISIONING.purchases, Purchase(id_of("x"), MEMBER, Action.CALL_FORWARDING, 3, b"")],
            sagas=[*PROVISIONING.sagas, replace(UNDER_WAY, status=Status.COMPENSATING)],
        ),
        [Invariant.SAGA_NOT_ENDED, Invariant.PURCHASE_UNDECIDED],
    ),
    (
        "a transfer is pending",
        transfer_pending(),
        [Invariant.TRANSFER_UNDECIDED],
    ),
    (
        "a posted command is pending",
        in_groups(
            commands=[
                groups.PostedCommand(
                    id_of("x"), LeaveGroup.TYPE, OWNER, b"", groups.CommandState.PENDING, None, None, NOW, None
                )
            ]
        ),
        [Invariant.COMMAND_UNDECIDED],
    ),
    (
        "a mail waits for somebody whom nobody knows",
        in_notifications(mails=changed(list(NOTIFICATIONS.mails), 0, next_attempt_at=NOW)),
        [Invariant.MAIL_UNSENT],
    ),
    (
        "a mail is parked",
        in_notifications(mails=changed(list(NOTIFICATIONS.mails), 0, state=MailState.PARKED, next_attempt_at=NOW)),
        [Invariant.MAIL_UNSENT],
    ),
    ("a mail is not written", in_notifications(mails=list(NOTIFICATIONS.mails)[1:]), [Invariant.MAIL_MISSING]),
    (
        "a timer does not fire",
        in_groups(
            invitations=changed(list(GROUPS.invitations), 0, expires_at=NOW),
            timers=[TimerRow(INVITATION, NOW, InvitationDue.TYPE, str(INVITATION))],
        ),
        [Invariant.TIMER_OVERDUE],
    ),
    (
        "a message is not published",
        in_groups(outbox=[OutboxRow(id_of("x"), MemberLeft.TYPE, "x", NOW)]),
        [Invariant.MESSAGE_UNSENT],
    ),
    (
        "a message is parked",
        in_groups(parked=[ParkedRow(id_of("x"), "popfax.groups.commands", "failed", NOW)]),
        [Invariant.MESSAGE_PARKED],
    ),
    (
        "a timer is parked",
        in_groups(timers=[], parked=[ParkedRow(INVITATION, TIMERS, "failed", NOW)]),
        [Invariant.MESSAGE_PARKED],
    ),
]


@pytest.mark.parametrize(("snapshot", "codes"), [case[1:] for case in STUCK], ids=[case[0] for case in STUCK])
def test_sees_by_its_age_that(snapshot: Snapshot, codes: list[Invariant]) -> None:
    assert {violation.code for violation in check(snapshot, settled=False, before=LATER)} == {*codes}
    assert check(snapshot, settled=False) == []
    assert check(snapshot, settled=False, before=NOW) == [], "what is young may be on its way"


# --- the log ---


def _as_declared(refusal: type[Refusal]) -> dict[str, str]:
    """The first command that is refused by this event, and the first of its codes."""
    types = (type_ for type_, model in COMMANDS.items() if model.REFUSAL is refusal)
    return {"command_type": next(types, ""), "code": codes_of(refusal)[0]}


class Log:
    """Writes a log record by record."""

    def __init__(self) -> None:
        self.records: list[Logged] = []

    def add(
        self,
        message: type[Message],
        id_: str,
        correlation: str,
        cause: str | None = None,
        key: str = "k",
        partition: int = 0,
        actor: str = "",
        **fields: Any,
    ) -> "Log":
        topic = message.TOPICS[0].name
        place = topic, partition, len(self.records)
        if issubclass(message, Refusal):
            fields = _as_declared(message) | fields
        value = b"" if message.TOMBSTONE else json.dumps(fields).encode()
        self.records.append(Logged(*place, key, id_, message.TYPE, correlation, cause, value, actor=actor))
        return self


def sound_log() -> Log:
    return (
        Log()
        .add(CreateMemberAccount, "c1", "c1", email="member@example.org")
        .add(CreateMemberAccount, "c2", "c2")
        .add(CreateMemberAccount, "c2", "c2", email="sent again, otherwise")
        .add(CreateMemberAccount, "c3", "c3")
        .add(MemberAccountCreated, "e1", "c1", "x")
        .add(MemberAccountCreated, "e1", "c1", "x")
        .add(MemberAccountRefused, "e2", "c2", "c2", code="units_short")
        .add(GroupsCommandMalformed, "e3", "c3", "c3", key="c3")
        .add(CreditUnits, "l1", "l1")
        .add(CreditUnits, "l2", "l2")
        .add(UnitsCredited, "a1", "l1", "l1")
        .add(UnitsCredited, "a2", "l2", "l2")
        .add(UnitsCredited, "a1", "l1", "l1")
        .add(PersonRecorded, "p1", "x", "x", email="member@example.org", fax_number="+33199000001")
        # A purchase with units is answered when it is paid, whatever is answered meanwhile; asked for again while its
        # saga runs it is answered once. One with money is answered in its turn.
        .add(AddOptionsPack, "b1", "b1", request_id="r1", price_units=3, key="a")
        .add(AddOptionsPack, "b2", "b2", request_id="r1", price_units=3, key="a")
        .add(ExtendAccount, "b3", "b3", request_id="r2", payment_reference="card/1", key="a")
        .add(AccountExtended, "a3", "b3", "b3", key="a")
        .add(OptionsPackAdded, "a4", "b1", "captured", key="a")
        # What an owner pays for is granted under the sender's correlation id, which may be the one of a purchase.
        .add(GrantPurchase, "g1", "b1", "i9", key="a")
        .add(AccountExtended, "a9", "b1", "g1", key="a", paid_by=str(OWNER))
        .add(InviteByEmail, "i1", "i1", email="other@example.org")
        .add(SendInvitation, "s1", "i1", "i1", token="f" * 64)
        .add(AcceptInvitation, "i2", "i2", token="f" * 64)
        .add(MemberJoined, "j1", "i2", "i2")
        .add(InvitationSent, "j2", "i1", "i1")
        .add(InvitationAccepted, "j3", "i2", "i2")
        # One leaves of their own, and one because their account is closed, which is no command to groups.
        .add(LeaveGroup, "i3", "i3")
        .add(MemberLeft, "j4", "i3", "i3", member_id="m", epoch=1)
        .add(MemberLeft, "j5", "elsewhere", "elsewhere", member_id="m", epoch=2)
        .add(PasswordLinkIssued, "k1", "x", "x", token_sha256="a" * 64, expires_at="2031-01-01T00:00:00+01:00")
        .add(BalanceChanged, "v1", "l1", "l1", version=1, available_units=3)
        .add(BalanceChanged, "v3", "l2", "l2", version=3, available_units=5)
        .add(BalanceChanged, "v1", "l1", "l1", version=1, available_units=3)
    )


def test_sees_nothing_wrong_in_a_sound_log() -> None:
    assert check_log(sound_log().records) == []


def test_judges_no_refusal_that_somebody_wrote_to_a_topic_of_commands() -> None:
    log = sound_log().records
    forged = Logged(RenameGroup.TOPICS[0].name, 0, len(log), "k", "f1", LeaveRefused.TYPE, "f1", None, b"anything")
    assert Invariant.REFUSAL_UNDECLARED not in {violation.code for violation in check_log([*log, forged])}


BROKEN_LOGS: list[tuple[str, Callable[[Log], Any], Invariant]] = [
    (
        "an owner is told twice on one day who is low",
        lambda log: (
            log.add(SendMembersLow, "n1", "look", "look", day="2031-01-01")
            .add(SendMembersLow, "n2", "next", "next", day="2031-01-02")
            .add(SendMembersLow, "n3", "again", "again", day="2031-01-02")
        ),
        Invariant.LOW_BALANCE_TWICE,
    ),
    ("a command has no outcome", lambda log: log.add(CreateMemberAccount, "c4", "c4"), Invariant.OUTCOME_MISSING),
    ("a command has two outcomes", lambda log: log.add(MemberAccountRefused, "e4", "c1"), Invariant.OUTCOME_TWICE),
    (
        "an invitation has two outcomes",
        lambda log: log.add(InvitationRefused, "e4", "i1", "i1"),
        Invariant.OUTCOME_TWICE,
    ),
    (
        "a purchase has no outcome",
        lambda log: log.add(ExtendAccount, "b4", "b4", request_id="r3", price_units=1),
        Invariant.OUTCOME_MISSING,
    ),
    (
        "a purchase has two outcomes",
        lambda log: log.add(PaidActionRefused, "a5", "b1", "captured", key="a"),
        Invariant.OUTCOME_TWICE,
    ),
    (
        "a late detachment ends the membership that followed",
        lambda log: (
            log.add(DetachMembers, "i4", "i4", group_id=str(GROUP), members=[{"member_id": str(MEMBER), "epoch": 1}])
            .add(MembersDetached, "j6", "i4", "i4")
            .add(MemberLeft, "j7", "i4", "i4", member_id=str(MEMBER), epoch=2)
        ),
        Invariant.EPOCH_IGNORED,
    ),
    (
        "an older balance is told after a newer one",
        lambda log: log.add(BalanceChanged, "v2", "l3", "l3", version=2),
        Invariant.VERSION_NOT_RISING,
    ),
    (
        "an event carries a token",
        lambda log: log.add(MemberJoined, "j6", "x", "x", secret={"deep": "f" * 64}),
        Invariant.TOKEN_EXPOSED,
    ),
    (
        "what is called a digest hides a token beside it",
        lambda log: log.add(PasswordLinkIssued, "k2", "x", "x", token="f" * 64, token_sha256="a" * 64),
        Invariant.TOKEN_EXPOSED,
    ),
    (
        "an event carries a telephone number",
        lambda log: log.add(MemberJoined, "j6", "x", "x", forward_to="+33199000001"),
        Invariant.PERSON_EXPOSED,
    ),
    (
        "a key is an address",
        lambda log: log.add(MemberJoined, "j6", "x", "x", key="who@example.org"),
        Invariant.PERSON_EXPOSED,
    ),
    ("an outcome has no command", lambda log: log.add(MemberAccountCreated, "e4", "nobody"), Invariant.OUTCOME_TWICE),
    (
        "a command of the ledger's is not answered",
        lambda log: log.add(CreditUnits, "l3", "l3"),
        Invariant.ANSWER_MISSING,
    ),
    (
        "a command is refused with a code that it does not declare",
        lambda log: log.add(LeaveGroup, "c4", "c4").add(LeaveRefused, "e4", "c4", "c4", code="not_owner"),
        Invariant.REFUSAL_UNDECLARED,
    ),
    (
        "a command is refused by an event that it does not declare",
        lambda log: log.add(TransferUnits, "c4", "c4").add(
            TransferRefused, "e4", "c4", "c4", command_type=LeaveGroup.TYPE, code="not_member"
        ),
        Invariant.REFUSAL_UNDECLARED,
    ),
    (
        "a command that could not be read is refused with a code of another kind",
        lambda log: log.add(GroupsCommandMalformed, "e4", "x", "x", key="e4", code="not_owner"),
        Invariant.REFUSAL_UNDECLARED,
    ),
    (
        "two commands are answered in the other order",
        lambda log: (
            log.add(CreditUnits, "l3", "l3", key="o")
            .add(CreditUnits, "l4", "l4", key="o")
            .add(UnitsCredited, "a4", "l4", "l4", key="o")
            .add(UnitsCredited, "a3", "l3", "l3", key="o")
        ),
        Invariant.OUT_OF_ORDER,
    ),
    (
        "an event is published again with other content",
        lambda log: log.add(UnitsCredited, "a1", "l1", "l1", amount_units=2),
        Invariant.CONTENT_CHANGED,
    ),
    (
        "a key is on two partitions",
        lambda log: log.add(UnitsCredited, "a1", "l1", "l1", partition=1),
        Invariant.KEY_ON_TWO_PARTITIONS,
    ),
    (
        "an event tells of a balance, however deep",
        lambda log: log.add(PersonRecorded, "p2", "x", "x", account={"sides": [{"available_units": 3}]}),
        Invariant.OWNER_EXPOSED,
    ),
    (
        "an event outside the directory carries an address",
        lambda log: log.add(GroupsCommandMalformed, "e4", "x", "x", key="e4", errors="who@example.org"),
        Invariant.PERSON_EXPOSED,
    ),
]


@pytest.mark.parametrize(("spoil", "code"), [case[1:] for case in BROKEN_LOGS], ids=[case[0] for case in BROKEN_LOGS])
def test_sees_in_the_log_that(spoil: Callable[[Log], Any], code: Invariant) -> None:
    log = sound_log()
    spoil(log)
    assert [violation.code for violation in check_log(log.records)] == [code]


MEMBERS = {"membership_id": MEMBERSHIP, "group_id": GROUP, "owner_id": OWNER, "member_id": MEMBER}
JOINED = MembershipRecorded(**MEMBERS, epoch=2, state="active", joined_at=NOW)
BEFORE = MembershipRecorded(**MEMBERS, epoch=1, state="active", joined_at=NOW)
PLACE = ("popfax.groups.members", str(MEMBERSHIP))


def recorded(log: list[Logged], message: Message, partition: int = 0) -> None:
    """Append a record as it stands on its topic."""
    value = b"" if message.TOMBSTONE else message.to_json()
    id_ = str(id_of(f"{len(log)}"))
    log.append(Logged(message.TOPICS[0].name, partition, len(log), message.key(), id_, message.TYPE, id_, None, value))


def compacted_topics() -> list[Logged]:
    """Return what they tell of SNAPSHOT; the member came, left and came again."""
    log: list[Logged] = []
    messages: list[Message] = [BEFORE, MembershipEnded(membership_id=MEMBERSHIP), JOINED]
    messages += [
        BalanceChanged(
            account_id=row.id,
            version=row.revision,
            balance_units=row.balance_units,
            available_units=row.available_units,
        )
        for row in LEDGER.accounts
        if row.revision
    ]
    messages += [
        PersonRecorded(
            subscriber_id=row.id,
            email=row.email,
            first_name="Ada",
            last_name="L.",
            language=Language.EN,
            fax_number=row.fax_number,
        )
        for row in PROVISIONING.subscribers
        if row.email
    ]
    messages += [
        PlanPublished(plan=row.plan, price_units=row.price_units, validity_months=12, fax_number=row.fax_number)
        for row in PROVISIONING.plans
    ]
    for message in messages:
        recorded(log, message)
    return log


def test_sees_nothing_wrong_where_the_topics_tell_what_the_databases_say() -> None:
    assert list(check_topics(published(compacted_topics()), SNAPSHOT)) == []


PERSON = PersonRecorded(
    subscriber_id=OWNER, email="owner@example.org", first_name="Eve", last_name="L.", language=Language.EN
)
CHEAP = PlanPublished(plan="send_only", price_units=1, validity_months=12, fax_number=False)

SPOILT: list[tuple[str, Callable[[list[Logged]], Any], str]] = [
    (
        "a tombstone is forgotten",
        lambda log: recorded(log, BEFORE.model_copy(update={"membership_id": INVITED})),
        str(INVITED),
    ),
    (
        "a member is not told",
        lambda log: recorded(log, MembershipEnded(membership_id=MEMBERSHIP)),
        str(MEMBERSHIP),
    ),
    ("a stale record is the newest", lambda log: recorded(log, BEFORE), str(MEMBERSHIP)),
    ("a record can't be read", lambda log: log.append(replace(log[2], offset=99, value=b"{")), str(MEMBERSHIP)),
    ("a record is of no type that is told there", lambda log: log.append(replace(log[2], offset=99, type="x")), ""),
    ("a balance is another", lambda log: log.append(replace(log[3], offset=99, value=log[4].value)), ""),
    (
        "somebody who is gone is told",
        lambda log: recorded(log, PERSON.model_copy(update={"subscriber_id": GONE})),
        str(GONE),
    ),
    ("somebody has another name", lambda log: recorded(log, PERSON), str(OWNER)),
    ("a plan has another price", lambda log: recorded(log, CHEAP), "send_only"),
]


@pytest.mark.parametrize(("spoil", "key"), [case[1:] for case in SPOILT], ids=[case[0] for case in SPOILT])
def test_sees_in_the_compacted_topics_that(spoil: Callable[[list[Logged]], Any], key: str) -> None:
    log = compacted_topics()
    spoil(log)
    (found,) = check_topics(published(log), SNAPSHOT)
    assert found.code is Invariant.TOPIC_MISMATCH
    assert key in found.subject
    assert "owner@" not in str(found)
    assert "Eve" not in str(found)


def test_sees_a_key_on_two_partitions_of_a_compacted_topic() -> None:
    log = compacted_topics()
    recorded(log, JOINED, partition=1)
    assert [found.code for found in check_topics(published(log), SNAPSHOT)] == [Invariant.KEY_ON_TWO_PARTITIONS]


def test_says_nothing_of_what_is_being_told() -> None:
    log = compacted_topics()
    recorded(log, BEFORE)
    unsent = in_groups(outbox=[OutboxRow(id_of("x"), JOINED.TYPE, JOINED.key(), NOW)])
    assert list(check_topics(published(log), unsent)) == [], "its outbox has more to tell of it"
    assert list(check_topics(published(log), SNAPSHOT, {PLACE})) == [], "more was told while the databases were read"
    assert list(check_topics(published(log), SNAPSHOT, {(PLACE[0], str(INVITED))})) != []


TOKENS = ("1" * 64, "2" * 64)
RENEWED = in_groups(
    invitations=changed(list(GROUPS.invitations), 0, token_hash=groups.hash_token(bytes.fromhex(TOKENS[1])))
)


def mails_log() -> Log:
    key = str(INVITATION)
    return (
        Log()
        .add(SendInvitation, "s2", "x", key=key, round=2, token=TOKENS[1])
        .add(SendInvitation, "s1", "x", key=key, round=1, token=TOKENS[0])
    )


def test_sees_nothing_wrong_where_the_last_mails_token_opens() -> None:
    assert check_tokens(mails_log().records, RENEWED) == []


@pytest.mark.parametrize(
    ("log", "snapshot"),
    [
        (mails_log(), in_groups(invitations=changed(list(RENEWED.groups.invitations), 0, round=1))),
        (
            mails_log(),
            in_groups(
                invitations=changed(list(GROUPS.invitations), 0, token_hash=groups.hash_token(bytes.fromhex(TOKENS[0])))
            ),
        ),
    ],
    ids=["there was one mail more", "the token of an earlier mail opens"],
)
def test_sees_in_the_mails_that(log: Log, snapshot: Snapshot) -> None:
    assert [violation.code for violation in check_tokens(log.records, snapshot)] == [Invariant.TOKEN_STALE]


# --- who may ---

RENAMING: dict[str, Any] = {"group_id": str(GROUP)}
SPENDING: dict[str, Any] = {"account_id": str(OWNER)}
ANSWER: dict[str, Any] = {"invitation_id": str(INVITATION)}
ANSWERED: dict[str, Any] = {"invitation_id": str(INVITATION), "subscriber_id": str(OTHER)}
LEFT: dict[str, Any] = {"member_id": str(MEMBER)}
IN_ANOTHER: dict[str, Any] = {"group_id": str(group_of(OTHER))}

Given = tuple[type[Message], dict[str, Any], UUID | None, type[Message], dict[str, Any]]
"""A command with its fields and its actor, and what followed."""

MAY: list[Given] = [
    (RenameGroup, RENAMING, OWNER, GroupRenamed, RENAMING),
    (SpendUnits, SPENDING, OWNER, UnitsSpent, {}),
    (TransferUnits, RENAMING, OWNER, PostTransfers, {}),
    (ExtendAccount, SPENDING, OWNER, ReserveUnits, {}),
    (AcceptInvitation, ANSWER, OTHER, InvitationAccepted, ANSWERED),
    (AcceptInvitation, ANSWER | {"token": TOKENS[0]}, None, InvitationAccepted, ANSWERED),
    (LeaveGroup, RENAMING, MEMBER, MemberLeft, LEFT),
]
MAY_NOT: list[Given] = [
    (RenameGroup, RENAMING, OTHER, GroupRenamed, RENAMING),
    (RenameGroup, RENAMING, None, GroupRenamed, RENAMING),
    (RevokeInvitation, RENAMING, OWNER, InvitationRevoked, IN_ANOTHER),
    (SpendUnits, SPENDING, OTHER, UnitsSpent, {}),
    (TransferUnits, RENAMING, OTHER, PostTransfers, {}),
    (ExtendAccount, SPENDING, OTHER, ReserveUnits, {}),
    (AcceptInvitation, ANSWER, OWNER, InvitationAccepted, ANSWERED),
    (AcceptInvitation, ANSWER, None, InvitationAccepted, ANSWERED),
    (AcceptInvitation, ANSWER | {"token": "0" * 64}, None, InvitationAccepted, ANSWERED),
    (AcceptInvitation, ANSWER | {"token": TOKENS[0]}, OWNER, InvitationAccepted, ANSWERED),
    (LeaveGroup, RENAMING, OTHER, MemberLeft, LEFT),
]


def actors_log(given: Given) -> Log:
    command, fields, actor, event, told = given
    log = mails_log().add(command, "c1", "c1", actor="" if actor is None else str(actor), **fields)
    return log.add(event, "e1", "c1", "c1", **told)


@pytest.mark.parametrize("given", MAY, ids=lambda given: given[0].__name__)
def test_sees_nothing_wrong_where_the_actor_may(given: Given) -> None:
    assert check_actors(actors_log(given).records) == []


@pytest.mark.parametrize("given", MAY_NOT, ids=lambda given: f"{given[0].__name__} by {given[2]}")
def test_sees_that_the_actor_may_not(given: Given) -> None:
    assert [violation.code for violation in check_actors(actors_log(given).records)] == [Invariant.ACTOR_UNBOUND]


def test_of_several_commands_with_one_id_any_may_be_the_cause() -> None:
    log = actors_log(MAY_NOT[0]).add(RenameGroup, "c1", "c1", actor=str(OWNER), **RENAMING).records
    log[-1] = replace(log[-1], topic="another")
    assert check_actors(log) == []


# --- what an owner pays for a member ---

PAYMENT, LAST_END = id_of("payment"), END + timedelta(365)
_PAYMENT_DATA = {
    "group_id": str(GROUP),
    "owner_id": str(OWNER),
    "member_id": str(MEMBER),
    "action": "extension",
    "price_units": 5,
    "shown_end": None,
}
PAID_SAGA = replace(saga(PAYMENT, Status.COMPLETED), name="extend-member", data=_PAYMENT_DATA)
PAID_HOLD = Hold(PAYMENT, OWNER, 5, HoldState.CAPTURED, NOW, NOW)
PAID_LINE = line(PAYMENT, Kind.EXTENSION, PAYMENT, "done", units=5)
GRANT = provisioning.Grant(PAYMENT, MEMBER, Action.EXTENSION, OWNER, 5, b"", None, NOW, LAST_END)
_PAID_ENTRIES = [
    *LEDGER.entries,
    Entry(PAYMENT, OWNER, -5, 48, 43, 6, NOW),
    Entry(PAYMENT, SUBSCRIPTIONS, 5, None, None, None, NOW),
]
_PAID_ACCOUNTS = changed(list(LEDGER.accounts), 0, balance_units=43, version=6, revision=10)
_PAID_SUBSCRIBERS = changed(list(GROUPS.subscribers), 0, available_units=43, balance_version=10)
_PAID_MAILS = [
    mail(PAYMENT, Template.PAID_FOR_YOU, MEMBER, OWNER),
    mail(PAYMENT, Template.PAYING_RECEIPT, OWNER, MEMBER),
]
PAID_FOR = Snapshot(
    ledger=replace(LEDGER, accounts=_PAID_ACCOUNTS, holds=[*LEDGER.holds, PAID_HOLD], entries=_PAID_ENTRIES),
    groups=replace(
        GROUPS,
        sagas=[*GROUPS.sagas, PAID_SAGA],
        history=[*GROUPS.history, PAID_LINE],
        subscribers=changed(_PAID_SUBSCRIBERS, 2, expires_at=LAST_END),
    ),
    provisioning=replace(
        PROVISIONING, grants=[GRANT], subscribers=changed(list(PROVISIONING.subscribers), 2, expires_at=LAST_END)
    ),
    notifications=replace(NOTIFICATIONS, mails=[*NOTIFICATIONS.mails, *_PAID_MAILS]),
)


def payment(**rows: Any) -> Snapshot:
    """Return the snapshot with the rows of its one payment for a member exchanged; None leaves one out."""

    def last(found: Sequence[Any], name: str, row: Any) -> list[Any]:
        return [*list(found)[:-1], *([rows.get(name, row)] if rows.get(name, row) is not None else [])]

    made = in_groups(
        PAID_FOR,
        sagas=last(list(PAID_FOR.groups.sagas), "saga", PAID_SAGA),
        history=last(list(PAID_FOR.groups.history), "line", PAID_LINE),
    )
    held = replace(made, ledger=replace(made.ledger, holds=last(list(made.ledger.holds), "hold", PAID_HOLD)))
    return in_provisioning(held, grants=last([GRANT], "grant", GRANT))


REFUSED_LINE = replace(PAID_LINE, outcome="refused", code="end_changed")
REFUSED_SAGA = replace(PAID_SAGA, status=Status.REFUSED, code="end_changed")

WRONG_PAYMENTS: list[tuple[str, Snapshot, list[Invariant]]] = [
    (
        "a member was extended whom the payment is not for",
        payment(grant=replace(GRANT, account_id=OTHER)),
        [
            Invariant.PURCHASE_MISMATCH,
            Invariant.EXTENSION_MISMATCH,
        ],
    ),
    ("somebody else pays than who asked", payment(grant=replace(GRANT, payer_id=OTHER)), [Invariant.PURCHASE_MISMATCH]),
    ("another price was granted", payment(grant=replace(GRANT, price_units=6)), [Invariant.PURCHASE_MISMATCH]),
    (
        "what is paid was not granted",
        payment(grant=None),
        [
            Invariant.PAYMENT_WITHOUT_PURCHASE,
            Invariant.EXTENSION_MISMATCH,
        ],
    ),
    (
        "what is paid was refused",
        payment(grant=replace(GRANT, code="end_changed", expires_at=None)),
        [
            Invariant.PAYMENT_WITHOUT_PURCHASE,
            Invariant.EXTENSION_MISMATCH,
        ],
    ),
    (
        "the member pays for what the owner asked for",
        payment(hold=replace(PAID_HOLD, account_id=MEMBER)),
        [
            Invariant.HOLD_MISMATCH,
            Invariant.PURCHASE_MISMATCH,
        ],
    ),
    (
        "it was refused, granted and paid",
        payment(saga=REFUSED_SAGA, line=REFUSED_LINE),
        [
            Invariant.REFUSED_WITH_PURCHASE,
            Invariant.REFUSED_NOT_RELEASED,
            Invariant.MAIL_WITHOUT_CAUSE,
        ],
    ),
    (
        "its line is about another",
        payment(line=replace(PAID_LINE, kind=Kind.OPTIONS_PACK)),
        [
            Invariant.HISTORY_MISMATCH,
            Invariant.PURCHASE_MISMATCH,
        ],
    ),
    ("its line is gone", payment(line=None), [Invariant.HISTORY_MISMATCH, Invariant.MAIL_WITHOUT_CAUSE]),
    (
        "no code knows what was granted",
        payment(grant=replace(GRANT, action=cast(Any, Unknown("gold")))),
        [
            Invariant.UNKNOWN_VALUE,
            Invariant.PURCHASE_MISMATCH,
            Invariant.EXTENSION_MISMATCH,
        ],
    ),
]


def test_sees_nothing_wrong_where_an_owner_has_paid_for_a_member() -> None:
    assert check(PAID_FOR, settled=True) == []
    assert check(PAID_FOR, settled=False) == []


@pytest.mark.parametrize(
    ("snapshot", "codes"), [case[1:] for case in WRONG_PAYMENTS], ids=[case[0] for case in WRONG_PAYMENTS]
)
def test_sees_in_what_an_owner_pays_that(snapshot: Snapshot, codes: list[Invariant]) -> None:
    found = {violation.code for violation in check(snapshot, settled=False)}
    assert found >= {*codes}
    assert found <= {*codes, *_FOLLOWING}


_FOLLOWING = {Invariant.CAPTURE_MISMATCH, Invariant.COUNTERPART_MISMATCH, Invariant.REVISION_MISMATCH}
"""What the ledger alone says of a hold that is on another account."""


def test_sees_that_what_was_granted_is_not_paid_once_it_is_late() -> None:
    running = replace(PAID_SAGA, status=Status.RUNNING, ended_at=None)
    waiting = payment(
        saga=running,
        line=replace(PAID_LINE, outcome="pending", ended_at=None),
        hold=replace(PAID_HOLD, state=HoldState.OPEN),
    )
    assert Invariant.PURCHASE_WITHOUT_PAYMENT not in {each.code for each in check(waiting, settled=False)}
    assert Invariant.PURCHASE_WITHOUT_PAYMENT in {each.code for each in check(waiting, settled=False, before=END)}


def test_sees_that_groups_shows_another_price_of_an_option() -> None:
    shown, told = in_groups(options=[groups.Option("options_pack", 9)]), [provisioning.Option("options_pack", 10)]
    found = check(in_provisioning(shown, options=told), settled=True)
    assert [each.code for each in found] == [Invariant.PLAN_MISMATCH]
    assert check(in_provisioning(shown, options=told), settled=False) == []


def test_misses_no_saga_of_a_payment_that_was_removed_because_of_its_age() -> None:
    noted = [RemovalRow("sagas", END)]
    old = in_groups(PAID_FOR, sagas=[], removals=noted)
    assert check(in_provisioning(old, sagas=[], removals=noted), settled=True, before=END) == []


def test_every_invariant_is_shown_to_fail() -> None:
    shown = {
        code
        for case in [
            *BROKEN_BOOKS,
            *ALWAYS_WRONG,
            *BROKEN_ORDERS,
            *WRONG_WHEN_SETTLED,
            *STUCK,
            *WRONG_PAYMENTS,
        ]
        for code in case[2]
    }
    by_name = {Invariant.TOPIC_MISMATCH, Invariant.TOKEN_STALE, Invariant.ACTOR_UNBOUND}
    assert shown | {code for _, _, code in BROKEN_LOGS} | by_name == set(Invariant)


def test_reads_a_record_by_its_envelope_and_leaves_out_one_without() -> None:
    def record(headers: list[tuple[str, bytes | None]]) -> StoredRecord:
        return StoredRecord(DONE, None, "t", 3, 4, b"k", b"{}", headers)

    envelope: list[tuple[str, bytes | None]] = [("ce_id", str(DONE).encode()), ("ce_type", b"x")]
    assert logged(record(envelope)) == Logged("t", 3, 4, "k", str(DONE), "x", str(DONE), None, b"{}")
    assert logged(record([*envelope, ("traceparent", b"\xff")])) is not None
    assert logged(record([("ce_id", b"\xff"), ("ce_type", b"x")])) is None
    assert logged(record([])) is None


def test_an_account_whose_end_is_not_announced_is_overdue() -> None:
    wrong = in_provisioning(subscribers=changed(list(PROVISIONING.subscribers), 2, expires_at=NOW))
    late = Lateness(settled=False, before=NOW + timedelta(1))
    assert [violation.code for violation in check_waiting(wrong, late)] == [Invariant.TIMER_OVERDUE]
    assert [*check_waiting(SNAPSHOT, late)] == []
