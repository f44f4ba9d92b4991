"""What owners pay for members: granted and paid, or neither."""

from collections.abc import Iterator
from uuid import UUID

from deploy.operator.invariants.history import PAYMENTS, lines_of
from deploy.operator.invariants.invariant import Invariant, Violation
from deploy.operator.invariants.rows import by, each, merge_join, only
from deploy.operator.invariants.sagas import NOTHING_HELD, id_in
from deploy.operator.invariants.snapshot import Lateness, Snapshot
from services.chassis.sagas import SagaRow, Status
from services.groups.domain import HistoryEntry
from services.groups.sagas import PAY_FOR_MEMBER
from services.ledger.domain import Hold, HoldState
from services.provisioning.domain import Grant

_SAGAS = frozenset(saga.name for saga in PAY_FOR_MEMBER.values())


def check_grants(snapshot: Snapshot, late: Lateness) -> Iterator[Violation]:
    """Check each payment for a member: its saga or its line, its hold on the owner's account, its grant."""
    yield from each(
        merge_join(
            by(snapshot.groups.sagas, "id"),
            by(snapshot.ledger.holds, "id"),
            by(snapshot.provisioning.grants, "id"),
            lines_of(snapshot.groups.history, PAYMENTS, "id"),
        ),
        _payment,
        late,
    )


def _payment(
    id_: UUID,
    sagas: Iterator[SagaRow],
    holds: Iterator[Hold],
    grants: Iterator[Grant],
    told: Iterator[HistoryEntry],
    late: Lateness,
) -> Iterator[Violation]:
    saga, hold, grant, line = only(sagas), only(holds), only(grants), only(told)
    if saga is not None and saga.name not in _SAGAS:
        saga = None
    if saga is None and grant is None and line is None:
        return  # a hold, or a saga, of something else
    outcome = line.outcome if line is not None else None  # as the saga's status is, which another check compares
    for code in _wrong(outcome, hold, grant, late):
        detail = f"{outcome}, hold {hold and hold.state}, granted {grant is not None and grant.code is None}"
        yield Violation(code, str(id_), detail)
    if grant is not None and grant.payer_id is not None and (wrong := _other_than(grant, saga, hold, line, late)):
        yield Violation(Invariant.PURCHASE_MISMATCH, str(id_), wrong)


def _wrong(outcome: str | None, hold: Hold | None, grant: Grant | None, late: Lateness) -> list[Invariant]:
    paid = hold is not None and hold.state is HoldState.CAPTURED
    granted = grant is not None and grant.code is None
    ended = outcome == "done" or late(grant.decided_at if grant is not None else None)
    broken = {
        Invariant.PAYMENT_WITHOUT_PURCHASE: (paid or outcome == "done") and not granted,
        Invariant.PURCHASE_WITHOUT_PAYMENT: granted and ended and not paid,
        Invariant.REFUSED_WITH_PURCHASE: outcome == "refused" and granted,
        Invariant.REFUSED_NOT_RELEASED: outcome == "refused" and (hold is None or hold.state not in NOTHING_HELD),
    }
    return [code for code, is_broken in broken.items() if is_broken]


def _other_than(
    grant: Grant, saga: SagaRow | None, hold: Hold | None, line: HistoryEntry | None, late: Lateness
) -> str | None:
    """Say how a grant differs from what was asked for and what was held for it."""
    if saga is None and line is None:
        # In flight, its saga may have been opened after the sagas were read.
        return "granted, and nobody asked for it" if late(grant.decided_at) else None
    found = (grant.account_id, grant.action.value, grant.payer_id, grant.price_units)
    if line is not None and found != (line.member_id, line.kind.value, line.actor_id, line.units):
        return f"{found}, and the owner asked for {line.kind} of {line.member_id} for {line.units}"
    if saga is not None and saga.status is not Status.REFUSED and grant.payer_id != id_in(saga, "owner_id"):
        return f"paid by {grant.payer_id}, and its saga is of {id_in(saga, 'owner_id')}"
    if hold is not None and (hold.account_id, hold.amount_units) != (grant.payer_id, grant.price_units):
        return f"paid by {grant.payer_id} with {grant.price_units}, held {hold.amount_units} on {hold.account_id}"
    return None
