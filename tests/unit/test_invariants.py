"""Each invariant is shown to fail: facts that are right but for one thing, and the violation that names it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import pytest

from contracts.groups import CreateMemberAccount, GroupsCommandMalformed, MemberAccountCreated, MemberAccountRefused
from contracts.ledger import CreditUnits, UnitsCredited
from contracts.message import Message
from contracts.provisioning import PersonRecorded
from deploy.invariants import Code, Facts, LedgerFacts, Logged, check, check_ledger, check_log, logged
from services._platform.messages import StoredRecord
from services._platform.sagas import SagaRow, Status
from services.groups.domain import Membership, account_of
from services.ledger.domain import SALES, SUBSCRIPTIONS, Account, Entry, Hold, HoldState, Transfer
from services.notifications.domain import Mail, MailState, Template
from services.provisioning.domain import Address, FaxNumber, NumberState, Request, Subscriber

NOW = datetime(2031, 1, 1, tzinfo=UTC)
NAMES = UUID("00000000-0000-4000-8000-000000000000")


def id_of(name: str) -> UUID:
    return uuid5(NAMES, name)


OWNER, OTHER = id_of("owner"), id_of("other")
DONE, REFUSED, CREDIT, TRANSFER = id_of("done"), id_of("refused"), id_of("credit"), id_of("transfer")
MEMBER = account_of(DONE)
GROUP = id_of("group")


def saga(id_: UUID, status: Status) -> SagaRow:
    return SagaRow(
        id_, "create-member-account", status, "capture hold", None, {}, str(id_), id_, OWNER, NOW, NOW, NOW, ()
    )


def subscriber(id_: UUID, email: str, plan: str | None, number: str | None) -> Subscriber:
    return Subscriber(id_, email, "Ada", "L.", "en", plan, number, NOW, NOW + timedelta(365) if plan else None)


# The owner bought 100 and 7, gave 30 to another, and paid 20 for a member; a second creation was refused.
LEDGER = LedgerFacts(
    accounts=[Account(OWNER, 57, 0, 4), Account(OTHER, 30, 0, 1)],
    holds=[
        Hold(DONE, OWNER, 20, HoldState.CAPTURED, NOW, NOW),
        Hold(REFUSED, OWNER, 20, HoldState.RELEASED, NOW, NOW),
    ],
    transfers=[
        Transfer(CREDIT, "credit", SALES, b"", None, (100,), NOW),
        Transfer(id_of("more"), "credit", SALES, b"", None, (7,), NOW),
        Transfer(TRANSFER, "transfer", OWNER, b"", None, (30,), NOW),
        Transfer(id_of("short"), "transfer", OWNER, b"", "units_short", (999,), NOW),
    ],
    entries=[
        Entry(CREDIT, OWNER, 100, 0, 100, 1, NOW),
        Entry(CREDIT, SALES, -100, None, None, None, NOW),
        Entry(id_of("more"), OWNER, 7, 100, 107, 2, NOW),
        Entry(id_of("more"), SALES, -7, None, None, None, NOW),
        Entry(TRANSFER, OWNER, -30, 107, 77, 3, NOW),
        Entry(TRANSFER, OTHER, 30, 0, 30, 1, NOW),
        Entry(DONE, OWNER, -20, 77, 57, 4, NOW),
        Entry(DONE, SUBSCRIPTIONS, 20, None, None, None, NOW),
    ],
)
FACTS = Facts(
    ledger=LEDGER,
    subscribers=[
        subscriber(OWNER, "owner@example.org", None, None),
        subscriber(MEMBER, "member@example.org", "send_receive", "+331"),
    ],
    addresses=[Address("owner@example.org", OWNER), Address("member@example.org", MEMBER)],
    requests=[Request(DONE, MEMBER, None, b"", NOW), Request(REFUSED, account_of(REFUSED), "email_taken", b"", NOW)],
    fax_numbers=[FaxNumber("+331", NumberState.ASSIGNED, MEMBER), FaxNumber("+332", NumberState.FREE, None)],
    memberships=[Membership(id_of("membership"), GROUP, MEMBER, 1, NOW)],
    sagas=[saga(DONE, Status.COMPLETED), saga(REFUSED, Status.REFUSED)],
    mails=[
        Mail(id_of("welcome"), Template.WELCOME, MEMBER, OWNER, {}, MailState.QUEUED, NOW, NOW),
        Mail(id_of("receipt"), Template.RECEIPT, OWNER, MEMBER, {}, MailState.QUEUED, NOW, NOW),
    ],
)


def changed(rows: Sequence[Any], index: int, **changes: Any) -> list[Any]:
    return [replace(row, **changes) if place == index else row for place, row in enumerate(rows)]


def without(rows: Sequence[Any], index: int) -> list[Any]:
    return [row for place, row in enumerate(rows) if place != index]


def ledger(**changes: Any) -> Facts:
    return replace(FACTS, ledger=replace(LEDGER, **changes))


def test_sees_nothing_wrong_where_nothing_is() -> None:
    assert check(FACTS, settled=True) == []
    assert check(FACTS, settled=False) == []


SECOND_CAPTURE = [
    *LEDGER.entries,
    Entry(DONE, OWNER, -20, 57, 37, 5, NOW),
    Entry(DONE, SUBSCRIPTIONS, 20, None, None, None, NOW),
]

BROKEN_BOOKS: list[tuple[str, Facts, list[Code]]] = [
    (
        "units are made of nothing",
        ledger(entries=without(LEDGER.entries, 1)),
        [Code.BOOKS_NOT_ZERO, Code.MOVEMENT_NOT_ZERO],
    ),
    (
        "two credits have each other's counter-entry",
        ledger(entries=changed(changed(LEDGER.entries, 1, amount_units=-7), 3, amount_units=-100)),
        [Code.MOVEMENT_NOT_ZERO, Code.MOVEMENT_NOT_ZERO],
    ),
    ("a transfer that was done is not on record", ledger(transfers=without(LEDGER.transfers, 2)), [Code.ORPHAN_ENTRY]),
    (
        "a refused transfer has entries",
        ledger(transfers=changed(LEDGER.transfers, 2, code="units_short")),
        [Code.ORPHAN_ENTRY],
    ),
    (
        "a transfer says other units than its entries",
        ledger(transfers=changed(LEDGER.transfers, 2, amounts_units=(31,))),
        [Code.TRANSFER_MISMATCH],
    ),
    (
        "a hold is captured twice",
        ledger(entries=SECOND_CAPTURE, accounts=changed(LEDGER.accounts, 0, balance_units=37, version=5)),
        [Code.CAPTURE_MISMATCH],
    ),
    (
        "a hold is captured for other units than were held",
        ledger(holds=changed(LEDGER.holds, 0, amount_units=21)),
        [Code.CAPTURE_MISMATCH],
    ),
    (
        "a balance is not the sum of its entries",
        ledger(accounts=changed(LEDGER.accounts, 0, balance_units=58)),
        [Code.BALANCE_MISMATCH],
    ),
    ("entries have no account", ledger(accounts=without(LEDGER.accounts, 1)), [Code.BALANCE_MISMATCH]),
    (
        "an account has a version without an entry",
        ledger(accounts=changed(LEDGER.accounts, 0, version=5)),
        [Code.CHAIN_BROKEN],
    ),
    (
        "an entry begins elsewhere than the one before ended",
        ledger(entries=changed(LEDGER.entries, 2, before_units=99, after_units=106)),
        [Code.CHAIN_BROKEN],
    ),
    (
        "an update was lost: two entries of one version",
        ledger(entries=changed(LEDGER.entries, 2, version=1)),
        [Code.CHAIN_BROKEN],
    ),
    (
        "more is held than there is",
        ledger(
            accounts=changed(LEDGER.accounts, 1, held_units=31),
            holds=[*LEDGER.holds, Hold(id_of("much"), OTHER, 31, HoldState.OPEN, NOW, None)],
        ),
        [Code.OVERDRAWN],
    ),
    (
        "an account holds back what no hold says",
        ledger(accounts=changed(LEDGER.accounts, 0, held_units=20)),
        [Code.HELD_MISMATCH],
    ),
    (
        "a hold is on no account",
        ledger(holds=[*LEDGER.holds, Hold(id_of("lost"), id_of("nobody"), 1, HoldState.OPEN, NOW, None)]),
        [Code.HELD_MISMATCH],
    ),
]


@pytest.mark.parametrize(
    ("facts", "codes"), [case[1:] for case in BROKEN_BOOKS], ids=[case[0] for case in BROKEN_BOOKS]
)
def test_sees_in_the_books_that(facts: Facts, codes: list[Code]) -> None:
    assert [violation.code for violation in check_ledger(facts.ledger)] == codes


HOLD_OPEN = changed(LEDGER.holds, 0, state=HoldState.OPEN, closed_at=None)
HOLD_RELEASED = changed(LEDGER.holds, 0, state=HoldState.RELEASED)
ONE_HELD = changed(changed(LEDGER.accounts, 0, held_units=20), 0, balance_units=77, version=3)
UNPAID = LEDGER.entries[:6]
GONE: dict[str, Any] = {
    "subscribers": FACTS.subscribers[:1],
    "addresses": FACTS.addresses[:1],
    "fax_numbers": FACTS.fax_numbers[1:],
}
NEVER_PAID = replace(
    LEDGER, holds=HOLD_RELEASED, entries=UNPAID, accounts=changed(LEDGER.accounts, 0, balance_units=77, version=3)
)

ALWAYS_WRONG: list[tuple[str, Facts, list[Code]]] = [
    (
        "a payment has no account",
        replace(FACTS, requests=FACTS.requests[1:], memberships=[], mails=[], sagas=FACTS.sagas[1:], **GONE),
        [Code.PAYMENT_WITHOUT_ACCOUNT],
    ),
    ("a membership is not paid", replace(FACTS, ledger=NEVER_PAID), [Code.MEMBERSHIP_WITHOUT_PAYMENT]),
    (
        "a membership has no account",
        replace(FACTS, requests=FACTS.requests[1:], **GONE),
        [Code.PAYMENT_WITHOUT_ACCOUNT, Code.MEMBERSHIP_WITHOUT_ACCOUNT],
    ),
    (
        "a member is nobody's creation",
        replace(FACTS, memberships=[*FACTS.memberships, Membership(id_of("x"), GROUP, id_of("nobody"), 1, NOW)]),
        [Code.MEMBERSHIP_WITHOUT_ACCOUNT],
    ),
    (
        "one creation made two memberships",
        replace(FACTS, memberships=[*FACTS.memberships, Membership(id_of("x"), id_of("group2"), MEMBER, 1, NOW)]),
        [Code.MEMBERSHIP_TWICE],
    ),
    (
        "a completed saga has no membership",
        replace(FACTS, memberships=[], mails=[]),
        [Code.COMPLETED_WITHOUT_MEMBERSHIP],
    ),
    (
        "a refused saga reserved nothing and burned nothing",
        ledger(holds=LEDGER.holds[:1]),
        [Code.REFUSED_NOT_RELEASED],
    ),
    (
        "a refused saga left its hold open",
        ledger(
            holds=changed(LEDGER.holds, 1, state=HoldState.OPEN), accounts=changed(LEDGER.accounts, 0, held_units=20)
        ),
        [Code.REFUSED_NOT_RELEASED, Code.ORPHAN_HOLD],
    ),
    (
        "a refused saga left an account",
        replace(
            FACTS,
            requests=changed(FACTS.requests, 1, code=None),
            subscribers=[*FACTS.subscribers, subscriber(account_of(REFUSED), "x@example.org", "send_only", None)],
            addresses=[*FACTS.addresses, Address("x@example.org", account_of(REFUSED))],
        ),
        [Code.REFUSED_WITH_ACCOUNT],
    ),
    (
        "an ended saga remembers an e-mail address",
        replace(FACTS, sagas=changed(FACTS.sagas, 0, data={"email": "member@example.org"})),
        [Code.PERSONAL_DATA_KEPT],
    ),
    (
        "a request was granted and there is no account",
        replace(FACTS, **GONE),
        [Code.REQUEST_MISMATCH],
    ),
    (
        "an account on a plan was never asked for",
        replace(FACTS, subscribers=changed(FACTS.subscribers, 0, plan="send_only")),
        [Code.REQUEST_MISMATCH],
    ),
    (
        "a fax number is given twice",
        replace(FACTS, subscribers=changed(FACTS.subscribers, 0, fax_number="+331")),
        [Code.FAX_NUMBER_TWICE, Code.FAX_NUMBER_MISMATCH],
    ),
    (
        "a fax number is assigned to who does not have it",
        replace(FACTS, fax_numbers=changed(FACTS.fax_numbers, 1, state=NumberState.ASSIGNED, subscriber_id=OWNER)),
        [Code.FAX_NUMBER_MISMATCH],
    ),
    (
        "a subscriber has a fax number that is free",
        replace(FACTS, subscribers=changed(FACTS.subscribers, 0, fax_number="+332")),
        [Code.FAX_NUMBER_MISMATCH],
    ),
    (
        "an e-mail address is two subscribers'",
        replace(FACTS, subscribers=changed(FACTS.subscribers, 0, email="member@example.org")),
        [Code.EMAIL_TWICE, Code.ADDRESS_MISMATCH],
    ),
    ("an address is not taken", replace(FACTS, addresses=FACTS.addresses[1:]), [Code.ADDRESS_MISMATCH]),
    (
        "an address is taken that nobody has",
        replace(FACTS, addresses=[*FACTS.addresses, Address("x@example.org", OWNER)]),
        [Code.ADDRESS_MISMATCH],
    ),
    (
        "a member is welcomed twice",
        replace(FACTS, mails=[*FACTS.mails, replace(FACTS.mails[0], id=id_of("again"))]),
        [Code.MAIL_TWICE],
    ),
    (
        "the owner gets two receipts for one member",
        replace(FACTS, mails=[*FACTS.mails, replace(FACTS.mails[1], id=id_of("again"))]),
        [Code.MAIL_TWICE],
    ),
    (
        "somebody is welcomed who is no member",
        replace(FACTS, mails=[*FACTS.mails, replace(FACTS.mails[0], id=id_of("x"), recipient_id=OTHER)]),
        [Code.MAIL_WITHOUT_MEMBERSHIP],
    ),
]


@pytest.mark.parametrize(
    ("facts", "codes"), [case[1:] for case in ALWAYS_WRONG], ids=[case[0] for case in ALWAYS_WRONG]
)
def test_sees_at_any_moment_that(facts: Facts, codes: list[Code]) -> None:
    assert [violation.code for violation in check(facts, settled=False)] == codes


RUNNING = changed(FACTS.sagas, 0, status=Status.RUNNING, ended_at=None)
NOT_YET_PAID = replace(LEDGER, holds=HOLD_OPEN, entries=UNPAID, accounts=ONE_HELD)

WRONG_WHEN_SETTLED: list[tuple[str, Facts, list[Code]]] = [
    (
        "a hold is open, its saga running, its account not paid",
        replace(FACTS, ledger=NOT_YET_PAID, sagas=RUNNING, memberships=[], mails=[]),
        [Code.ACCOUNT_WITHOUT_PAYMENT, Code.ACCOUNT_WITHOUT_MEMBERSHIP, Code.SAGA_NOT_ENDED, Code.ORPHAN_HOLD],
    ),
    (
        "an account is paid and no member",
        replace(FACTS, sagas=RUNNING, memberships=[], mails=[]),
        [Code.ACCOUNT_WITHOUT_MEMBERSHIP, Code.SAGA_NOT_ENDED],
    ),
    ("a membership came of no saga", replace(FACTS, sagas=FACTS.sagas[1:]), [Code.MEMBERSHIP_WITHOUT_SAGA]),
    ("a member is not welcomed", replace(FACTS, mails=FACTS.mails[1:]), [Code.MAIL_MISSING]),
    ("the owner gets no receipt", replace(FACTS, mails=FACTS.mails[:1]), [Code.MAIL_MISSING]),
]


@pytest.mark.parametrize(
    ("facts", "codes"), [case[1:] for case in WRONG_WHEN_SETTLED], ids=[case[0] for case in WRONG_WHEN_SETTLED]
)
def test_sees_once_all_is_settled_that(facts: Facts, codes: list[Code]) -> None:
    assert [violation.code for violation in check(facts, settled=True)] == codes
    assert check(facts, settled=False) == []


# --- the log ---


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
        **fields: Any,
    ) -> "Log":
        topic = message.TOPIC.name
        place = topic, partition, len(self.records)
        value = json.dumps(fields).encode()
        self.records.append(Logged(*place, key, id_, message.TYPE, correlation, cause, value))
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
        .add(MemberAccountRefused, "e2", "c2", "c2", code="not_available")
        .add(GroupsCommandMalformed, "e3", "c3", "c3", key="c3")
        .add(CreditUnits, "l1", "l1")
        .add(CreditUnits, "l2", "l2")
        .add(UnitsCredited, "a1", "l1", "l1")
        .add(UnitsCredited, "a2", "l2", "l2")
        .add(UnitsCredited, "a1", "l1", "l1")
        .add(PersonRecorded, "p1", "x", "x", email="member@example.org")
    )


def test_sees_nothing_wrong_in_a_sound_log() -> None:
    assert check_log(sound_log().records) == []


BROKEN_LOGS: list[tuple[str, Callable[[Log], Any], Code]] = [
    ("a command has no outcome", lambda log: log.add(CreateMemberAccount, "c4", "c4"), Code.OUTCOME_MISSING),
    ("a command has two outcomes", lambda log: log.add(MemberAccountRefused, "e4", "c1"), Code.OUTCOME_TWICE),
    ("an outcome has no command", lambda log: log.add(MemberAccountCreated, "e4", "nobody"), Code.OUTCOME_TWICE),
    ("a command of the ledger's is not answered", lambda log: log.add(CreditUnits, "l3", "l3"), Code.ANSWER_MISSING),
    (
        "two commands are answered in the other order",
        lambda log: (
            log.add(CreditUnits, "l3", "l3", key="o")
            .add(CreditUnits, "l4", "l4", key="o")
            .add(UnitsCredited, "a4", "l4", "l4", key="o")
            .add(UnitsCredited, "a3", "l3", "l3", key="o")
        ),
        Code.OUT_OF_ORDER,
    ),
    (
        "an event is published again with other content",
        lambda log: log.add(UnitsCredited, "a1", "l1", "l1", amount_units=2),
        Code.CONTENT_CHANGED,
    ),
    (
        "a key is on two partitions",
        lambda log: log.add(UnitsCredited, "a1", "l1", "l1", partition=1),
        Code.KEY_ON_TWO_PARTITIONS,
    ),
    (
        "an event tells of a balance, however deep",
        lambda log: log.add(PersonRecorded, "p2", "x", "x", account={"sides": [{"available_units": 3}]}),
        Code.OWNER_EXPOSED,
    ),
    (
        "an event outside the directory carries an address",
        lambda log: log.add(GroupsCommandMalformed, "e4", "x", "x", key="e4", errors="who@example.org"),
        Code.PERSON_EXPOSED,
    ),
]


@pytest.mark.parametrize(("spoil", "code"), [case[1:] for case in BROKEN_LOGS], ids=[case[0] for case in BROKEN_LOGS])
def test_sees_in_the_log_that(spoil: Callable[[Log], Any], code: Code) -> None:
    log = sound_log()
    spoil(log)
    assert [violation.code for violation in check_log(log.records)] == [code]


def test_every_invariant_is_shown_to_fail() -> None:
    shown = {code for case in [*BROKEN_BOOKS, *ALWAYS_WRONG, *WRONG_WHEN_SETTLED] for code in case[2]}
    assert shown | {code for _, _, code in BROKEN_LOGS} == set(Code)


def test_reads_a_record_by_its_envelope_and_leaves_out_one_without() -> None:
    def record(headers: list[tuple[str, bytes | None]]) -> StoredRecord:
        return StoredRecord(DONE, None, "t", 3, 4, b"k", b"{}", headers)

    envelope: list[tuple[str, bytes | None]] = [("ce_id", str(DONE).encode()), ("ce_type", b"x")]
    assert logged(record(envelope)) == Logged("t", 3, 4, "k", str(DONE), "x", str(DONE), None, b"{}")
    assert logged(record([*envelope, ("traceparent", b"\xff")])) is not None
    assert logged(record([("ce_id", b"\xff"), ("ce_type", b"x")])) is None
    assert logged(record([])) is None
