"""Timers: every row that needs a timer has it, and every timer has its row.

This holds at every moment: a row and its timer are written in one transaction. A timer whose handler failed is
parked; it counts as present, and is found by its age. A saga's deadline and an account's expiry have no timers.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any
from uuid import UUID

from deploy.operator.invariants.invariant import Invariant, Violation
from deploy.operator.invariants.rows import by, each, in_order, merge_join, only
from deploy.operator.invariants.snapshot import ChassisTables, ParkedRow, Snapshot, TimerRow
from services.chassis.messages import TIMERS
from services.chassis.sagas import CancelSaga, RetrySaga, SagaDeadline
from services.groups.domain import Invitation, InvitationState, Transfer, TransferState
from services.groups.timers import InvitationDue, RetryTransfer, TransferDue
from services.ledger.messages import CorrectBalance
from services.provisioning.domain import FaxNumber, NumberState
from services.provisioning.timers import ExpiryDue, NumberRested, rest_of


@dataclass(frozen=True, slots=True)
class Due:
    """A timer that a row needs: its message, and when it is due."""

    what: str
    type: str
    due_at: datetime | None


_WITHOUT_ROW = frozenset(
    model.TYPE for model in (RetrySaga, CancelSaga, CorrectBalance, RetryTransfer, SagaDeadline, ExpiryDue)
)
"""Messages whose timers belong to no row: operators', which are due at once, and those that version 0.2.0 set of rows
that know by themselves when they are due.
"""


def check_timers(snapshot: Snapshot) -> Iterator[Violation]:
    """Check each service's timers against its rows."""
    invited, numbers = snapshot.groups.invitations, snapshot.provisioning.fax_numbers
    yield from _compared(snapshot.ledger, ())
    yield from _compared(snapshot.notifications, ())
    yield from _compared(
        snapshot.groups,
        chain(
            _made_of(invited, _invitation),
            _made_of(snapshot.groups.transfers, _transfer),
        ),
    )
    yield from _compared(snapshot.provisioning, _made_of(numbers, _number))


def _compared(snapshot: ChassisTables, due: Iterable[tuple[UUID, Due]]) -> Iterator[Violation]:
    parked = ((id_, row) for id_, row in by(snapshot.parked, "id") if row.topic == TIMERS)
    yield from each(merge_join(in_order(due), by(snapshot.timers, "id"), parked), _timer)


def _timer(
    id_: UUID, due: Iterator[Due], timers: Iterator[TimerRow], parked: Iterator[ParkedRow]
) -> Iterator[Violation]:
    wanted, timer = only(due), only(timers)
    if timer is None:
        if wanted is not None and only(parked) is None:
            yield Violation(Invariant.TIMER_MISSING, str(id_), f"{wanted.what}, and no timer, due at {wanted.due_at}")
        return
    if timer.type in _WITHOUT_ROW:
        return
    if wanted is None:
        yield Violation(Invariant.TIMER_WITHOUT_ROW, str(id_), f"{timer.type} of {timer.key}, due at {timer.due_at}")
        return
    if timer.type != wanted.type:
        yield Violation(Invariant.TIMER_MISSING, str(id_), f"{wanted.what}, and its timer is a {timer.type}")
    if wanted.due_at is not None and timer.due_at != wanted.due_at:
        detail = f"{wanted.what}, due at {wanted.due_at}, and its timer at {timer.due_at}"
        yield Violation(Invariant.TIMER_MISSING, str(id_), detail)


def _made_of(rows: Iterable[Any], make: Callable[[Any], tuple[UUID, Due] | None]) -> Iterator[tuple[UUID, Due]]:
    return (made for row in rows if (made := make(row)) is not None)


def _invitation(invitation: Invitation) -> tuple[UUID, Due] | None:
    if invitation.state is not InvitationState.PENDING:
        return None
    return invitation.id, Due("a pending invitation", InvitationDue.TYPE, invitation.expires_at)


def _transfer(transfer: Transfer) -> tuple[UUID, Due] | None:
    if transfer.state is not TransferState.PENDING:
        return None
    return transfer.id, Due("a pending transfer", TransferDue.TYPE, None)


def _number(number: FaxNumber) -> tuple[UUID, Due] | None:
    if number.state is not NumberState.RESTING:
        return None
    return rest_of(number.number), Due(f"number {number.number} rests", NumberRested.TYPE, None)
