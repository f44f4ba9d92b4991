"""Sagas and what they leave: each created account is paid and became a member, and no hold is forgotten."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from deploy.operator.invariants.history import PAYMENTS, lines, lines_of
from deploy.operator.invariants.invariant import Invariant, Violation
from deploy.operator.invariants.rows import by, each, in_order, merge_join, only
from deploy.operator.invariants.snapshot import Lateness, Removal, Snapshot
from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from services.chassis.sagas import ENDED, Saga, SagaRow, Status
from services.groups.domain import HistoryEntry, Kind, Membership, account_of, membership_of
from services.groups.sagas import CREATE_MEMBER_ACCOUNT, PAY_FOR_MEMBER
from services.groups.sagas import SAGAS as SAGAS_OF_GROUPS
from services.ledger.domain import Hold, HoldState
from services.provisioning.domain import Action, Request
from services.provisioning.sagas import PAID_ACTION

_OF_SAGAS = PAYMENTS | {Kind.ACCOUNT}
"""The lines about groups' sagas: what an owner pays for."""

NOTHING_HELD = (HoldState.RELEASED, HoldState.REFUSED, HoldState.BURNED)
_STATUSES = {"created": Status.COMPLETED, "refused": Status.REFUSED}


def check_sagas(snapshot: Snapshot, late: Lateness) -> Iterator[Violation]:
    """Check sagas, their holds and their lines; then the outcome of each account creation."""
    removed = Removed(snapshot.groups.removal("sagas"), snapshot.provisioning.removal("sagas"))
    yield from each(
        merge_join(
            by(snapshot.groups.sagas, "id"),
            by(snapshot.provisioning.sagas, "id"),
            by(snapshot.ledger.holds, "id"),
            lines_of(snapshot.groups.history, _OF_SAGAS, "id"),
        ),
        _saga,
        late,
        removed,
    )
    yield from each(
        merge_join(
            in_order(_creations(snapshot, removed)),
            by(snapshot.groups.memberships, "member_id"),
            lines(snapshot.groups.history, Kind.MEMBERSHIP, "member_id"),
        ),
        _creation,
        late,
    )


def id_in(saga: SagaRow, name: str) -> UUID | None:
    """Return an id from a saga's data, None if it is missing or is not an id."""
    try:
        return UUID(saga.data[name])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


@dataclass(frozen=True, slots=True)
class Removed:
    """Decides whether a saga is gone because of its age: then its line, or its purchase, says what became of it."""

    of_groups: Removal
    of_provisioning: Removal

    def payment(self, line: HistoryEntry | None) -> bool:
        """Return whether the saga of what an owner pays for may be gone, of which the history has this line."""
        return line is not None and self.of_groups(line.ended_at)

    def saga_of(self, hold: Hold, line: HistoryEntry | None) -> bool:
        """Return whether the saga of a hold may be gone. An open hold's is not."""
        if hold.state is HoldState.OPEN:
            return False
        if line is not None or hold.holder == Principal.GROUPS:
            return self.payment(line)
        return self.of_provisioning(hold.closed_at or hold.opened_at)


# --- sagas, their holds, their lines ---


def _saga(
    id_: UUID,
    by_groups: Iterator[SagaRow],
    actions: Iterator[SagaRow],
    holds: Iterator[Hold],
    told: Iterator[HistoryEntry],
    late: Lateness,
    removed: Removed,
) -> Iterator[Violation]:
    payment, action, hold, line = only(by_groups), only(actions), only(holds), only(told)
    runs = ((payment, _definition(payment), Principal.GROUPS), (action, PAID_ACTION, Principal.PROVISIONING))
    for saga, definition, service in runs:
        if saga is not None:
            yield from _itself(saga, definition, late)
            if hold is not None and (wrong := _not_asked_for(saga, hold, service)):
                yield Violation(Invariant.HOLD_MISMATCH, str(id_), wrong)
    if payment is not None and (wrong := _not_derived(payment)):
        yield Violation(Invariant.SAGA_MISMATCH, str(id_), wrong)
    if hold is not None and (wrong := _orphaned(hold, payment, action, late, removed.saga_of(hold, line))):
        yield Violation(Invariant.ORPHAN_HOLD, str(id_), wrong)
    if payment is None and removed.payment(line):
        if hold is not None and line is not None and (wrong := _not_told(hold, line)):
            yield Violation(Invariant.HOLD_MISMATCH, str(id_), wrong)
    elif (payment is not None or line is not None) and (wrong := _mistold(payment, line)):
        yield Violation(Invariant.HISTORY_MISMATCH, str(id_), wrong)


def _definition(saga: SagaRow | None) -> Saga:
    return SAGAS_OF_GROUPS.definitions.get(saga.name if saga is not None else "", CREATE_MEMBER_ACCOUNT)


def _itself(saga: SagaRow, definition: Saga, late: Lateness) -> Iterator[Violation]:
    id_, ended = str(saga.id), saga.status in ENDED
    if saga.name != definition.name or saga.step not in {step.name for step in definition.steps}:
        yield Violation(
            Invariant.UNKNOWN_VALUE, id_, f"a saga {saga.name!r} at step {saga.step!r}, which no code knows"
        )
    if ended is (saga.ended_at is None):
        yield Violation(Invariant.SAGA_MISMATCH, id_, f"{saga.status}, and ended at {saga.ended_at}")
    if saga.status is Status.REFUSED and saga.code is None:
        yield Violation(Invariant.SAGA_MISMATCH, id_, "refused, and nobody knows why")
    if ended and saga.data.keys() & definition.forget:
        yield Violation(Invariant.PERSONAL_DATA_KEPT, id_, f"{saga.status}, and still knows who it was for")
    if not ended and late(saga.opened_at):
        yield Violation(Invariant.SAGA_NOT_ENDED, id_, f"{saga.status} at {saga.step}, since {saga.opened_at}")


def _not_derived(saga: SagaRow) -> str | None:
    owner_id, group_id = id_in(saga, "owner_id"), id_in(saga, "group_id")
    if owner_id is None or group_id != group_of(owner_id) or saga.actor != owner_id:
        return f"asked by {saga.actor}, of {owner_id}, for the group {group_id}"
    return None


def _not_asked_for(saga: SagaRow, hold: Hold, service: Principal) -> str | None:
    """Say how a hold differs from what its saga asks for. Only the account of a burned hold is compared."""
    if not hold.is_of(service):
        return f"its saga is run by {service}, and it is held by {hold.holder}"
    own = service is Principal.PROVISIONING
    payer = id_in(saga, "account_id" if own else "owner_id")
    wanted = (payer, saga.data.get("price_units"), own and saga.data.get("action") == Action.EXTENSION)
    found = (hold.account_id, hold.amount_units, hold.extends)
    if hold.state is HoldState.BURNED:
        wanted, found = wanted[:1], found[:1]  # type: ignore[assignment]
    return None if found == wanted else f"its saga asks for {_text_of(wanted)}, and it is {_text_of(found)}"


def _not_told(hold: Hold, line: HistoryEntry) -> str | None:
    """Say how a hold differs from what the line says of its saga, which was removed."""
    wanted, found = (line.actor_id, line.units), (hold.account_id, hold.amount_units)
    if hold.state is HoldState.BURNED:
        wanted, found = wanted[:1], found[:1]  # type: ignore[assignment]
    return None if found == wanted else f"its line says {_text_of(wanted)}, and it is {_text_of(found)}"


def _text_of(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values))


def _orphaned(hold: Hold, payment: SagaRow | None, action: SagaRow | None, late: Lateness, removed: bool) -> str | None:
    """Say what is wrong with a hold that no saga asked for or will close.

    In flight, a saga may have been opened after the sagas were read, and one of provisioning's may have ended after
    the ledger was read. Then the hold, or the saga's end, is recent.
    """
    saga = payment or action
    if saga is None and removed:
        return None
    if saga is None:
        return f"{hold.state}, and of no saga: {hold.amount_units} units" if late(hold.opened_at) else None
    if hold.state is not HoldState.OPEN:
        return None
    ended = saga.status in ENDED and (saga is payment or late(saga.ended_at))
    return f"{hold.amount_units} units held for nothing" if ended or late.settled else None


def _mistold(saga: SagaRow | None, line: HistoryEntry | None) -> str | None:
    """Say how the history's line about what an owner pays for differs from its saga."""
    if saga is None or line is None:
        return f"{saga and saga.name} {saga and saga.status}, the line says {line and line.outcome}"
    ended = saga.status in ENDED
    kind, done, member_id = _told_of(saga)
    wanted = (
        kind,
        {Status.COMPLETED: done, Status.REFUSED: "refused"}.get(saga.status, "pending"),
        id_in(saga, "group_id"),
        id_in(saga, "owner_id"),
        member_id,
        saga.id,
        saga.data.get("price_units"),
        saga.code if saga.status is Status.REFUSED else None,
        saga.opened_at,
        saga.ended_at if ended else None,
    )
    found = (
        line.kind,
        line.outcome,
        line.group_id,
        line.actor_id,
        line.member_id,
        line.reference_id,
        line.units,
        line.code,
        line.at,
        line.ended_at,
    )
    if found == wanted:
        return None
    differ = [(was, says) for was, says in zip(wanted, found, strict=True) if was != says]
    return "; ".join(f"{saga.name} {was}, the line says {says}" for was, says in differ)


def _told_of(saga: SagaRow) -> tuple[Kind, str, UUID | None]:
    """Return the kind of a saga's line, the word for its success, and the member whom it is about by now."""
    if saga.name != CREATE_MEMBER_ACCOUNT.name:
        kind = next((kind for kind, each in PAY_FOR_MEMBER.items() if each.name == saga.name), Kind.EXTENSION)
        return kind, "done", id_in(saga, "member_id")
    return Kind.ACCOUNT, "created", account_of(saga.id) if saga.status is Status.COMPLETED else None


# --- account creations ---


@dataclass(frozen=True, slots=True)
class _Creation:
    """The rows of one account creation: the saga, its hold and its request share one id."""

    id: UUID
    status: Status | None
    group_id: UUID | None
    hold: HoldState | None
    granted: bool
    opened_at: Any


def _creations(snapshot: Snapshot, removed: Removed) -> Iterator[tuple[UUID, _Creation]]:
    """Yield the account creations, each with the id of the account that it creates."""
    for id_, (sagas, actions, holds, requests, grants, told) in merge_join(
        by(snapshot.groups.sagas, "id"),
        by(snapshot.provisioning.sagas, "id"),
        by(snapshot.ledger.holds, "id"),
        by(snapshot.provisioning.requests, "id"),
        by(snapshot.provisioning.grants, "id"),
        lines_of(snapshot.groups.history, _OF_SAGAS, "id"),
    ):
        saga, hold, line = only(sagas), only(holds), only(told)
        request: Request | None = only(requests)
        if only(grants) is not None or _is_for_a_member(saga, line):
            continue
        was = line if saga is None and removed.payment(line) else None
        paid_otherwise = only(actions) is not None or (
            saga is None and was is None and hold is not None and removed.saga_of(hold, line)
        )
        granted = request is not None and request.code is None
        captured = hold is not None and hold.state is HoldState.CAPTURED and not paid_otherwise
        if saga is not None or was is not None or granted or captured:
            moments = [each.opened_at for each in (saga, hold) if each is not None]
            moments += [request.decided_at] if request is not None else []
            moments += [was.at] if was is not None else []
            yield (
                account_of(id_),
                _Creation(
                    id_,
                    saga.status if saga is not None else _STATUSES.get(was.outcome) if was is not None else None,
                    id_in(saga, "group_id") if saga is not None else was.group_id if was is not None else None,
                    hold.state if hold is not None else None,
                    granted,
                    max(moments),
                ),
            )


def _is_for_a_member(saga: SagaRow | None, line: HistoryEntry | None) -> bool:
    """Return whether a saga of groups, or its line, is about what an owner pays for somebody who is a member."""
    if saga is not None:
        return saga.name in {each.name for each in PAY_FOR_MEMBER.values()}
    return line is not None and line.kind in PAYMENTS


def _creation(
    account_id: UUID,
    creations: Iterator[_Creation],
    memberships: Iterator[Membership],
    told: Iterator[HistoryEntry],
    late: Lateness,
) -> Iterator[Violation]:
    creation = only(creations)
    begun = sum(line.code == "account_created" for line in told)
    if creation is None:
        if begun:
            yield Violation(Invariant.MEMBERSHIP_WITHOUT_ACCOUNT, str(account_id), "was not created by anybody")
        return
    # Somebody who accepted an invitation before the account was paid was a member already.
    wanted = membership_of(creation.group_id, account_id) if creation.group_id is not None else None
    was_member = any(membership.id == wanted and membership.epoch for membership in memberships)
    codes = _wrong(creation, begun, was_member)
    if late(creation.opened_at):
        codes += _unfinished(creation, was_member)
    for code in codes:
        yield Violation(
            code,
            str(creation.id),
            f"saga {creation.status}, hold {creation.hold}, account {creation.granted}, memberships {begun}, "
            f"was member {was_member}",
        )


def _wrong(c: _Creation, begun: int, was_member: bool) -> list[Invariant]:
    """Return the invariants that are violated whatever the moment."""
    paid, refused = c.hold is HoldState.CAPTURED, c.status is Status.REFUSED
    broken = {
        Invariant.PAYMENT_WITHOUT_ACCOUNT: paid and not c.granted,
        Invariant.MEMBERSHIP_WITHOUT_PAYMENT: begun > 0 and not paid,
        Invariant.MEMBERSHIP_WITHOUT_ACCOUNT: begun > 0 and not c.granted,
        Invariant.MEMBERSHIP_WITHOUT_SAGA: begun > 0 and c.status is not Status.COMPLETED,
        Invariant.MEMBERSHIP_TWICE: begun > 1,
        Invariant.COMPLETED_WITHOUT_MEMBERSHIP: c.status is Status.COMPLETED and not was_member,
        Invariant.REFUSED_NOT_RELEASED: refused and c.hold not in NOTHING_HELD,
        Invariant.REFUSED_WITH_ACCOUNT: refused and c.granted,
    }
    return [code for code, is_broken in broken.items() if is_broken]


def _unfinished(c: _Creation, was_member: bool) -> list[Invariant]:
    """Return the invariants that are violated unless the creation is still in flight."""
    broken = {
        Invariant.ACCOUNT_WITHOUT_PAYMENT: c.granted and c.hold is not HoldState.CAPTURED,
        Invariant.ACCOUNT_WITHOUT_MEMBERSHIP: c.granted and not was_member,
    }
    return [code for code, is_broken in broken.items() if is_broken]
