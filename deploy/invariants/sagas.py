"""Sagas and what they leave: an account that was created is paid and was a member, and no hold is forgotten."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from uuid import UUID

from deploy.invariants.codes import Code, Violation
from deploy.invariants.facts import Facts
from services._platform.sagas import ENDED, Status
from services.groups.domain import Kind, account_of, membership_of
from services.groups.sagas import CREATE_MEMBER_ACCOUNT
from services.ledger.domain import HoldState
from services.provisioning.sagas import PAID_ACTION
from services.provisioning.store import saga_of

_FORGET = {saga.name: saga.forget for saga in (CREATE_MEMBER_ACCOUNT, PAID_ACTION)}
_OUTCOMES = {Status.COMPLETED: "created", Status.REFUSED: "refused"}
_NOTHING_HELD = (HoldState.RELEASED, HoldState.REFUSED, HoldState.BURNED)


def check_sagas(facts: Facts, settled: bool) -> list[Violation]:
    """Check the account creations, and the ends of all sagas."""
    return [*_creations(facts, settled), *_lines(facts), *_ends(facts, settled), *_holds(facts, settled)]


@dataclass(frozen=True, slots=True)
class _Creation:
    """All that came of one account creation. The saga, its hold and its request have one id.

    `memberships` counts those that began with the account: they may have ended since. There is none of somebody who
    was invited, and accepted, before the account was paid: they were a member already (`was_member`).
    """

    id: UUID
    status: Status | None
    hold: HoldState | None
    account: bool
    memberships: int
    was_member: bool


def _creations(facts: Facts, settled: bool) -> Iterator[Violation]:
    for creation in _each_creation(facts):
        for code in _wrong(creation) + (_unfinished(creation) if settled else []):
            yield Violation(code, str(creation.id), _told(creation))
    account_ids = {account_of(saga.id) for saga in facts.groups.sagas}
    account_ids |= {request.account_id for request in facts.provisioning.requests}
    for member_id in sorted(_begun(facts).keys() - account_ids):
        yield Violation(Code.MEMBERSHIP_WITHOUT_ACCOUNT, str(member_id), "was not created by anybody")


def _each_creation(facts: Facts) -> Iterator[_Creation]:
    sagas = {saga.id: saga for saga in facts.groups.sagas}
    holds = {hold.id: hold.state for hold in facts.ledger.holds}
    granted = {request.id for request in facts.provisioning.requests if request.code is None}
    captured = {id_ for id_, state in holds.items() if state is HoldState.CAPTURED}
    captured -= {saga.id for saga in facts.provisioning.sagas}  # those paid for something else
    begun = _begun(facts)
    met = {membership.id for membership in facts.groups.memberships if membership.epoch}
    for id_ in sorted(sagas.keys() | granted | captured):
        saga, member_id = sagas.get(id_), account_of(id_)
        was_member = saga is not None and membership_of(UUID(saga.data["group_id"]), member_id) in met
        status = saga.status if saga is not None else None
        yield _Creation(id_, status, holds.get(id_), id_ in granted, begun[member_id], was_member)


def _begun(facts: Facts) -> Counter[UUID]:
    """Count the memberships that began with an account, by member."""
    lines = (line for line in facts.groups.history if line.kind is Kind.MEMBERSHIP)
    return Counter(line.member_id for line in lines if line.code == "account_created" and line.member_id is not None)


def _wrong(c: _Creation) -> list[Code]:
    """Give what may be at no moment."""
    paid = c.hold is HoldState.CAPTURED
    broken = {
        Code.PAYMENT_WITHOUT_ACCOUNT: paid and not c.account,
        Code.MEMBERSHIP_WITHOUT_PAYMENT: c.memberships > 0 and not paid,
        Code.MEMBERSHIP_WITHOUT_ACCOUNT: c.memberships > 0 and not c.account,
        Code.MEMBERSHIP_WITHOUT_SAGA: c.memberships > 0 and c.status is not Status.COMPLETED,
        Code.MEMBERSHIP_TWICE: c.memberships > 1,
        Code.COMPLETED_WITHOUT_MEMBERSHIP: c.status is Status.COMPLETED and not c.was_member,
        Code.REFUSED_NOT_RELEASED: c.status is Status.REFUSED and c.hold not in _NOTHING_HELD,
        Code.REFUSED_WITH_ACCOUNT: c.status is Status.REFUSED and c.account,
    }
    return [code for code, is_broken in broken.items() if is_broken]


def _unfinished(c: _Creation) -> list[Code]:
    """Give what may only be on the way."""
    broken = {
        Code.ACCOUNT_WITHOUT_PAYMENT: c.account and c.hold is not HoldState.CAPTURED,
        Code.ACCOUNT_WITHOUT_MEMBERSHIP: c.account and not c.was_member,
    }
    return [code for code, is_broken in broken.items() if is_broken]


def _told(c: _Creation) -> str:
    return (
        f"saga {c.status}, hold {c.hold}, account {c.account}, memberships {c.memberships}, was member {c.was_member}"
    )


def _lines(facts: Facts) -> Iterator[Violation]:
    """Each creation has its line, and the line says what became of it, and what was paid."""
    told = {line.id: line for line in facts.groups.history if line.kind is Kind.ACCOUNT}
    were = {saga.id: _OUTCOMES.get(saga.status, "pending") for saga in facts.groups.sagas}
    paid = {hold.id: hold.amount_units for hold in facts.ledger.holds if hold.state is HoldState.CAPTURED}
    for id_ in sorted(told.keys() | were.keys()):
        line, were_ = told.get(id_), were.get(id_)
        if line is None or line.outcome != were_:
            yield Violation(Code.HISTORY_MISMATCH, str(id_), f"creation {were_}, the line says {line and line.outcome}")
        elif line.units != paid.get(id_, line.units):
            yield Violation(Code.HISTORY_MISMATCH, str(id_), f"paid {paid[id_]}, the line says {line.units}")


def _ends(facts: Facts, settled: bool) -> Iterator[Violation]:
    for saga in chain(facts.groups.sagas, facts.provisioning.sagas):
        if saga.status in ENDED and saga.data.keys() & _FORGET[saga.name]:
            yield Violation(Code.PERSONAL_DATA_KEPT, str(saga.id), f"{saga.status}, and still knows who it was for")
        if settled and saga.status not in ENDED:
            yield Violation(Code.SAGA_NOT_ENDED, str(saga.id), f"{saga.status} at {saga.step}: {saga.trail[-1:]}")


def _holds(facts: Facts, settled: bool) -> Iterator[Violation]:
    # In flight, a saga may have been opened after the sagas were read, and provisioning's have ended since the ledger
    # was: only one whose end was read before the ledger proves an orphan.
    ended = {saga.id for saga in facts.groups.sagas if saga.status in ENDED}
    ended |= {saga_of(each.id) for each in facts.provisioning.purchases if each.decided_at is not None}
    for hold in facts.ledger.holds:
        if hold.state is HoldState.OPEN and (settled or hold.id in ended):
            yield Violation(Code.ORPHAN_HOLD, str(hold.id), f"{hold.amount_units} units held for nothing")
