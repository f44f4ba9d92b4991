"""What must be true of the whole product, written once.

The simulation, the end-to-end tests and the operator's `popfax ledger verify` all ask here. Pure functions over facts:
the services' own rows (`check_ledger`, `check`) and the records of the topics (`check_log`). Each gives what it finds
broken; nothing broken is an empty list. `Code` is the list of the invariants.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from contracts.groups import CreateMemberAccount, GroupsCommandMalformed, MemberAccountCreated, MemberAccountRefused
from contracts.topics import (
    LEDGER_COMMANDS,
    LEDGER_EVENTS,
    PROVISIONING_COMMANDS,
    PROVISIONING_DIRECTORY,
    PROVISIONING_EVENTS,
)
from services._platform.messages import Record
from services._platform.sagas import ENDED, SagaRow, Status
from services.groups.domain import Membership, account_of
from services.groups.sagas import CREATE_MEMBER_ACCOUNT
from services.ledger.domain import SALES, SUBSCRIPTIONS, Account, Entry, Hold, HoldState, Transfer
from services.notifications.domain import Mail, Template
from services.provisioning.domain import Address, FaxNumber, NumberState, Request, Subscriber


class Code(StrEnum):
    """Every invariant, by the way in which it can be broken."""

    BOOKS_NOT_ZERO = "books_not_zero"
    """All entries together sum to zero: units are moved, never made."""
    MOVEMENT_NOT_ZERO = "movement_not_zero"
    """The entries of each transfer, and of each captured hold, sum to zero."""
    ORPHAN_ENTRY = "orphan_entry"
    """Every entry belongs to a transfer that was done or to a hold that was captured."""
    TRANSFER_MISMATCH = "transfer_mismatch"
    """The entries of a transfer bring its targets what the transfer says."""
    CAPTURE_MISMATCH = "capture_mismatch"
    """A captured hold has exactly one entry on its account, of its amount: it is captured once."""
    BALANCE_MISMATCH = "balance_mismatch"
    """An account's balance is the sum of its entries."""
    CHAIN_BROKEN = "chain_broken"
    """An account's entries are numbered 1..n, and each begins with the balance with which the one before ended."""
    OVERDRAWN = "overdrawn"
    """Available units, and held ones, are never negative."""
    HELD_MISMATCH = "held_mismatch"
    """What an account holds back is the sum of its open holds."""
    ORPHAN_HOLD = "orphan_hold"
    """An open hold has a saga that will close it; when all is settled none is open."""
    PAYMENT_WITHOUT_ACCOUNT = "payment_without_account"
    ACCOUNT_WITHOUT_PAYMENT = "account_without_payment"
    ACCOUNT_WITHOUT_MEMBERSHIP = "account_without_membership"
    MEMBERSHIP_WITHOUT_PAYMENT = "membership_without_payment"
    MEMBERSHIP_WITHOUT_ACCOUNT = "membership_without_account"
    MEMBERSHIP_TWICE = "membership_twice"
    MEMBERSHIP_WITHOUT_SAGA = "membership_without_saga"
    """An account was created <=> exactly one capture <=> exactly one membership <=> a completed saga."""
    COMPLETED_WITHOUT_MEMBERSHIP = "completed_without_membership"
    REFUSED_NOT_RELEASED = "refused_not_released"
    """A refused saga left its hold released, refused or burned ..."""
    REFUSED_WITH_ACCOUNT = "refused_with_account"
    """... and no account."""
    SAGA_NOT_ENDED = "saga_not_ended"
    """Every saga ends."""
    PERSONAL_DATA_KEPT = "personal_data_kept"
    """A saga that has ended has forgotten the personal data that it carried."""
    REQUEST_MISMATCH = "request_mismatch"
    """A granted request has its account, and an account on a plan has its granted request."""
    FAX_NUMBER_TWICE = "fax_number_twice"
    """A fax number is one subscriber's."""
    FAX_NUMBER_MISMATCH = "fax_number_mismatch"
    """A number is assigned <=> its subscriber has it."""
    EMAIL_TWICE = "email_twice"
    """No two live accounts have the same e-mail address."""
    ADDRESS_MISMATCH = "address_mismatch"
    """An address is taken <=> its subscriber has it."""
    MAIL_TWICE = "mail_twice"
    """A membership brings one welcome mail and one receipt, not two ..."""
    MAIL_MISSING = "mail_missing"
    """... nor none ..."""
    MAIL_WITHOUT_MEMBERSHIP = "mail_without_membership"
    """... and nobody is welcomed who is no member."""
    OUTCOME_MISSING = "outcome_missing"
    """A `CreateMemberAccount` gets an outcome, created or refused ..."""
    OUTCOME_TWICE = "outcome_twice"
    """... and only one."""
    ANSWER_MISSING = "answer_missing"
    """The ledger and provisioning answer every command that they are given."""
    CONTENT_CHANGED = "content_changed"
    """A message that is published again is the same to the byte."""
    OUT_OF_ORDER = "out_of_order"
    """On one key, answers are in the order of what they answer."""
    KEY_ON_TWO_PARTITIONS = "key_on_two_partitions"
    """All records of a key are on one partition of a topic: elsewhere there is no order."""
    OWNER_EXPOSED = "owner_exposed"
    """No event tells what is on anybody's account."""
    PERSON_EXPOSED = "person_exposed"
    """No event but the directory's carries an e-mail address."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that is not as it must be: what, of which thing, and the figures. Ids only, no personal data."""

    code: Code
    subject: str
    detail: str

    def __str__(self) -> str:
        return f"{self.code} {self.subject}: {self.detail}"


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """All that the ledger has written."""

    accounts: Sequence[Account]
    holds: Sequence[Hold]
    transfers: Sequence[Transfer]
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class Facts:
    """What all four services have written, as far as an invariant speaks of it."""

    ledger: LedgerFacts
    subscribers: Sequence[Subscriber]
    addresses: Sequence[Address]
    requests: Sequence[Request]
    fax_numbers: Sequence[FaxNumber]
    memberships: Sequence[Membership]
    sagas: Sequence[SagaRow]
    mails: Sequence[Mail]


# --- the ledger alone -------------------------------------------------------------------------------------------------


def check_ledger(facts: LedgerFacts) -> list[Violation]:
    """Check the books. True at every moment, whatever is in flight."""
    return [
        *_movements(facts),
        *_transfers(facts),
        *_captures(facts),
        *_balances(facts),
        *_held(facts),
    ]


def _movements(facts: LedgerFacts) -> Iterator[Violation]:
    total = sum(e.amount_units for e in facts.entries)
    if total:
        yield Violation(Code.BOOKS_NOT_ZERO, "books", f"all entries sum to {total}")
    sums: Counter[UUID] = Counter()
    for entry in facts.entries:
        sums[entry.transfer_id] += entry.amount_units
    done = {t.id for t in facts.transfers if t.code is None}
    done |= {h.id for h in facts.holds if h.state is HoldState.CAPTURED}
    for id_, units in sums.items():
        if units:
            yield Violation(Code.MOVEMENT_NOT_ZERO, str(id_), f"its entries sum to {units}")
        if id_ not in done:
            yield Violation(Code.ORPHAN_ENTRY, str(id_), "neither a transfer that was done nor a captured hold")


def _transfers(facts: LedgerFacts) -> Iterator[Violation]:
    entries = _by_movement(facts.entries)
    for transfer in facts.transfers:
        if transfer.code is not None:
            continue  # its entries, if it had any, would be orphans
        got = sum(e.amount_units for e in entries[transfer.id] if e.account_id != transfer.source_id)
        if got != sum(transfer.amounts_units):
            yield Violation(
                Code.TRANSFER_MISMATCH, str(transfer.id), f"says {sum(transfer.amounts_units)}, entries say {got}"
            )


def _captures(facts: LedgerFacts) -> Iterator[Violation]:
    entries = _by_movement(facts.entries)
    for hold in facts.holds:
        if hold.state is not HoldState.CAPTURED:
            continue  # see above
        paid = [-e.amount_units for e in entries[hold.id] if e.account_id == hold.account_id]
        if paid != [hold.amount_units]:
            yield Violation(Code.CAPTURE_MISMATCH, str(hold.id), f"held {hold.amount_units}, paid {paid}")


def _balances(facts: LedgerFacts) -> Iterator[Violation]:
    entries: defaultdict[UUID, list[Entry]] = defaultdict(list)
    for entry in facts.entries:
        if entry.account_id not in (SALES, SUBSCRIPTIONS):
            entries[entry.account_id].append(entry)
    for account in facts.accounts:
        own = entries.pop(account.id, [])
        total = sum(e.amount_units for e in own)
        if account.balance_units != total:
            yield Violation(Code.BALANCE_MISMATCH, str(account.id), f"balance {account.balance_units}, entries {total}")
        if (broken := _chain(account, own)) is not None:
            yield Violation(Code.CHAIN_BROKEN, str(account.id), broken)
    for id_, own in entries.items():
        yield Violation(Code.BALANCE_MISMATCH, str(id_), f"{len(own)} entries, no account")


def _chain(account: Account, entries: Sequence[Entry]) -> str | None:
    """Say where an account's chain of entries breaks, None if it does not."""
    chain = sorted(entries, key=lambda e: e.version or 0)
    versions = [e.version for e in chain]
    if versions != list(range(1, account.version + 1)):
        return f"version {account.version}, entries {versions}"
    before = 0
    for entry in chain:
        if (entry.before_units, entry.after_units) != (before, before + entry.amount_units):
            return f"entry {entry.version}: {entry.before_units} to {entry.after_units}, expected from {before}"
        before += entry.amount_units
    return None


def _held(facts: LedgerFacts) -> Iterator[Violation]:
    held: Counter[UUID] = Counter()
    for hold in facts.holds:
        if hold.state is HoldState.OPEN:
            held[hold.account_id] += hold.amount_units
    for account in facts.accounts:
        if account.available_units < 0 or account.held_units < 0:
            detail = f"balance {account.balance_units}, held {account.held_units}"
            yield Violation(Code.OVERDRAWN, str(account.id), detail)
        if account.held_units != held.pop(account.id, 0):
            yield Violation(Code.HELD_MISMATCH, str(account.id), f"held {account.held_units}, not what its holds say")
    for id_, units in held.items():
        yield Violation(Code.HELD_MISMATCH, str(id_), f"holds of {units}, no account")


def _by_movement(entries: Iterable[Entry]) -> defaultdict[UUID, list[Entry]]:
    found: defaultdict[UUID, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[entry.transfer_id].append(entry)
    return found


# --- the four services together ---------------------------------------------------------------------------------------


def check(facts: Facts, settled: bool) -> list[Violation]:
    """Check everything.

    While messages are in flight (`settled` is False) only that is asked which is true at every moment: what comes
    later in the saga implies what comes before. The facts may then come from databases read one after the other, if
    they are read in the order in which `deploy.facts` does.
    """
    return [
        *check_ledger(facts.ledger),
        *_creations(facts, settled),
        *_sagas(facts, settled),
        *_requests(facts),
        *_fax_numbers(facts),
        *_addresses(facts),
        *_mails(facts, settled),
    ]


@dataclass(frozen=True, slots=True)
class _Creation:
    """All that came of one account creation. The saga, its hold and its request have one id."""

    id: UUID
    status: Status | None
    hold: HoldState | None
    account: bool
    memberships: int


def _creations(facts: Facts, settled: bool) -> Iterator[Violation]:
    for creation in _each_creation(facts):
        for code in _wrong(creation) + (_unfinished(creation) if settled else []):
            yield Violation(code, str(creation.id), _told(creation))
    account_ids = {account_of(saga.id) for saga in facts.sagas} | {request.account_id for request in facts.requests}
    for membership in facts.memberships:
        if membership.member_id not in account_ids:
            detail = f"member {membership.member_id} was not created by anybody"
            yield Violation(Code.MEMBERSHIP_WITHOUT_ACCOUNT, str(membership.id), detail)


def _each_creation(facts: Facts) -> Iterator[_Creation]:
    statuses = {saga.id: saga.status for saga in facts.sagas if saga.name == CREATE_MEMBER_ACCOUNT.name}
    holds = {hold.id: hold.state for hold in facts.ledger.holds}
    granted = {request.id for request in facts.requests if request.code is None}
    captured = {id_ for id_, state in holds.items() if state is HoldState.CAPTURED}
    memberships = Counter(membership.member_id for membership in facts.memberships)
    for id_ in sorted(statuses.keys() | granted | captured):
        yield _Creation(id_, statuses.get(id_), holds.get(id_), id_ in granted, memberships[account_of(id_)])


def _wrong(c: _Creation) -> list[Code]:
    """Give what may be at no moment."""
    paid = c.hold is HoldState.CAPTURED
    broken = {
        Code.PAYMENT_WITHOUT_ACCOUNT: paid and not c.account,
        Code.MEMBERSHIP_WITHOUT_PAYMENT: c.memberships > 0 and not paid,
        Code.MEMBERSHIP_WITHOUT_ACCOUNT: c.memberships > 0 and not c.account,
        Code.MEMBERSHIP_TWICE: c.memberships > 1,
        Code.COMPLETED_WITHOUT_MEMBERSHIP: c.status is Status.COMPLETED and c.memberships == 0,
        Code.REFUSED_NOT_RELEASED: c.status is Status.REFUSED
        and c.hold not in (HoldState.RELEASED, HoldState.REFUSED, HoldState.BURNED),
        Code.REFUSED_WITH_ACCOUNT: c.status is Status.REFUSED and c.account,
    }
    return [code for code, is_broken in broken.items() if is_broken]


def _unfinished(c: _Creation) -> list[Code]:
    """Give what may only be on the way."""
    broken = {
        Code.ACCOUNT_WITHOUT_PAYMENT: c.account and c.hold is not HoldState.CAPTURED,
        Code.ACCOUNT_WITHOUT_MEMBERSHIP: c.account and c.memberships == 0,
        Code.MEMBERSHIP_WITHOUT_SAGA: c.memberships > 0 and c.status is not Status.COMPLETED,
    }
    return [code for code, is_broken in broken.items() if is_broken]


def _told(c: _Creation) -> str:
    return f"saga {c.status}, hold {c.hold}, account {c.account}, memberships {c.memberships}"


def _sagas(facts: Facts, settled: bool) -> Iterator[Violation]:
    ended = {saga.id for saga in facts.sagas if saga.status in ENDED}
    for saga in facts.sagas:
        if saga.id in ended and saga.data.keys() & CREATE_MEMBER_ACCOUNT.forget:
            yield Violation(Code.PERSONAL_DATA_KEPT, str(saga.id), f"{saga.status}, and still knows who it was for")
        if settled and saga.id not in ended:
            yield Violation(Code.SAGA_NOT_ENDED, str(saga.id), f"{saga.status} at {saga.step}: {saga.trail[-1:]}")
    for hold in facts.ledger.holds:
        # In flight, a saga may have been opened after the sagas were read: only an ended one proves an orphan.
        if hold.state is HoldState.OPEN and (settled or hold.id in ended):
            yield Violation(Code.ORPHAN_HOLD, str(hold.id), f"{hold.amount_units} units held for nothing")


def _requests(facts: Facts) -> Iterator[Violation]:
    granted = {request.account_id for request in facts.requests if request.code is None}
    on_plan = {subscriber.id for subscriber in facts.subscribers if subscriber.plan is not None}
    for id_ in sorted(granted ^ on_plan):
        detail = "granted, and there is no account" if id_ in granted else "an account that nobody asked for"
        yield Violation(Code.REQUEST_MISMATCH, str(id_), detail)


def _fax_numbers(facts: Facts) -> Iterator[Violation]:
    holders = Counter(s.fax_number for s in facts.subscribers if s.fax_number is not None)
    for number, count in holders.items():
        if count > 1:
            yield Violation(Code.FAX_NUMBER_TWICE, number, f"given to {count} subscribers")
    has = {(s.fax_number, s.id) for s in facts.subscribers if s.fax_number is not None}
    assigned = {
        (n.number, n.subscriber_id)
        for n in facts.fax_numbers
        if n.state is NumberState.ASSIGNED or n.subscriber_id is not None
    }
    for number, subscriber in sorted(has ^ assigned, key=str):
        detail = f"{subscriber} has it" if (number, subscriber) in has else f"assigned to {subscriber}"
        yield Violation(Code.FAX_NUMBER_MISMATCH, str(number), f"{detail}, and only one side says so")


def _addresses(facts: Facts) -> Iterator[Violation]:
    holders: defaultdict[str, list[UUID]] = defaultdict(list)
    for subscriber in facts.subscribers:
        holders[subscriber.email].append(subscriber.id)
    taken = {address.email: address.subscriber_id for address in facts.addresses}
    for email, ids in holders.items():
        if len(ids) > 1:
            yield Violation(Code.EMAIL_TWICE, str(ids[0]), f"and {len(ids) - 1} more have the same address")
        if taken.get(email) not in ids:
            yield Violation(Code.ADDRESS_MISMATCH, str(ids[0]), "its address is not taken in its name")
    for email, id_ in taken.items():
        if email not in holders:
            yield Violation(Code.ADDRESS_MISMATCH, str(id_), "an address is taken in its name that it does not have")


def _mails(facts: Facts, settled: bool) -> Iterator[Violation]:
    """A welcome is to the member, a receipt is about the member: either counts once for each membership."""
    mails = Counter((m.template, m.recipient_id if m.template is Template.WELCOME else m.about_id) for m in facts.mails)
    members = {membership.member_id for membership in facts.memberships}
    for (template, member), count in mails.items():
        if count > 1:
            yield Violation(Code.MAIL_TWICE, str(member), f"{count} mails: {template}")
        if member not in members:
            yield Violation(Code.MAIL_WITHOUT_MEMBERSHIP, str(member), f"{template}, and no membership")
    if settled:
        for member in sorted(members):
            for template in Template:
                if (template, member) not in mails:
                    yield Violation(Code.MAIL_MISSING, str(member), f"no {template}")


# --- the log ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Logged:
    """A record as it stands in a topic, with the part of its envelope that an invariant speaks of."""

    topic: str
    partition: int
    offset: int
    key: str
    id: str
    type: str
    correlation_id: str
    causation_id: str | None
    value: bytes


def logged(record: Record) -> Logged | None:
    """Read a record off a topic; None for one without an envelope, of which nothing can be said."""
    headers = {name: value.decode(errors="replace") for name, value in record.headers if value is not None}
    if "ce_type" not in headers or not _is_uuid(headers.get("ce_id", "")):
        return None
    return Logged(
        record.topic,
        record.partition,
        record.offset,
        (record.key or b"").decode(errors="replace"),
        headers["ce_id"],
        headers["ce_type"],
        headers.get("ce_correlationid", headers["ce_id"]),
        headers.get("ce_causationid"),
        record.value or b"",
    )


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


DIRECT_ANSWERS: Mapping[str, str] = {
    LEDGER_COMMANDS.name: LEDGER_EVENTS.name,
    PROVISIONING_COMMANDS.name: PROVISIONING_EVENTS.name,
}
"""Topics whose every command is answered when it is handled, under the command's own key, and where."""

_OUTCOMES = frozenset({MemberAccountCreated.TYPE, MemberAccountRefused.TYPE})
_MALFORMED = "command-malformed.v1"
_OWNERS_OWN = ("balance", "held", "available")


def check_log(log: Iterable[Logged]) -> list[Violation]:
    """Check the records of all topics, each partition in its order, when nothing is in flight any more."""
    records = list(log)
    first = _first_of_each_id(records)
    return [
        *_contents(records, first),
        *_partitions(records),
        *_outcomes(first.values()),
        *_answers(first.values()),
        *_exposures(first.values()),
    ]


def _first_of_each_id(records: Iterable[Logged]) -> dict[tuple[str, str], Logged]:
    """Leave repetitions out: the first record with an id is the one that had the effect."""
    found: dict[tuple[str, str], Logged] = {}
    for record in records:
        found.setdefault((record.topic, record.id), record)
    return found


def _contents(records: Iterable[Logged], first: Mapping[tuple[str, str], Logged]) -> Iterator[Violation]:
    for record in records:
        original = first[record.topic, record.id]
        # What others sent (commands) is theirs to repeat as they like; what we send must not change.
        if not record.topic.endswith(".commands") and (record.value, record.key) != (original.value, original.key):
            yield Violation(Code.CONTENT_CHANGED, record.id, f"{record.type} published again with other content")


def _partitions(records: Iterable[Logged]) -> Iterator[Violation]:
    partitions: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for record in records:
        partitions[record.topic, record.key].add(record.partition)
    for (topic, key), found in partitions.items():
        if len(found) > 1:
            yield Violation(Code.KEY_ON_TWO_PARTITIONS, key, f"{topic} {sorted(found)}")


def _outcomes(records: Iterable[Logged]) -> Iterator[Violation]:
    asked: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    malformed: set[str | None] = set()
    for record in records:
        if record.type == CreateMemberAccount.TYPE:
            asked[record.correlation_id] += 1
        elif record.type in _OUTCOMES:
            answered[record.correlation_id] += 1
        elif record.type == GroupsCommandMalformed.TYPE:
            malformed.add(record.correlation_id)
    for id_ in sorted(asked.keys() | answered.keys()):
        # One whose repetition is unreadable gets that answer too; one that is unreadable itself gets it alone.
        least = 0 if id_ in malformed else asked[id_]
        if answered[id_] < least:
            yield Violation(Code.OUTCOME_MISSING, id_, f"asked {asked[id_]} times, {answered[id_]} outcomes")
        if answered[id_] > asked[id_]:
            yield Violation(Code.OUTCOME_TWICE, id_, f"asked {asked[id_]} times, {answered[id_]} outcomes")


def _answers(records: Iterable[Logged]) -> Iterator[Violation]:
    commands: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    answers: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    malformed: set[str] = set()
    for record in records:
        if record.topic in DIRECT_ANSWERS:
            commands[DIRECT_ANSWERS[record.topic], record.key].append(record.id)
        elif record.type.endswith(_MALFORMED):
            malformed.add(record.causation_id or "")
        elif record.topic in DIRECT_ANSWERS.values():
            answers[record.topic, record.key].append(record.causation_id or "")
    for (topic, key), ids in commands.items():
        readable = [id_ for id_ in ids if id_ not in malformed]
        # One that could not be read at first, and could when it was retried, is answered out of its turn.
        given = [id_ for id_ in answers[topic, key] if id_ not in malformed]
        if missing := set(readable) - set(given):
            yield Violation(Code.ANSWER_MISSING, key, f"{topic}: {len(missing)} of {len(readable)}")
        elif given != readable:
            yield Violation(Code.OUT_OF_ORDER, key, f"{topic}: {readable} answered as {given}")


def _exposures(records: Iterable[Logged]) -> Iterator[Violation]:
    for record in records:
        if record.topic.endswith(".commands"):
            continue
        if b"@" in record.value and record.topic != PROVISIONING_DIRECTORY.name:
            yield Violation(Code.PERSON_EXPOSED, record.id, record.type)
        # Most are cleared by a glance at the bytes; a word may still be a value's, so the rest are read.
        if any(word.encode() in record.value for word in _OWNERS_OWN):
            for name in _names(json.loads(record.value)):
                if any(word in name for word in _OWNERS_OWN):
                    yield Violation(Code.OWNER_EXPOSED, record.id, f"{record.type} has {name}")


def _names(value: Any) -> Iterator[str]:
    """Give the names of all fields, at every depth."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner)
