"""The deadlines of sagas, as alarms: a saga that has not passed its pivot in time is called off."""

from collections.abc import Sequence
from functools import partial
from uuid import UUID

import sqlalchemy as sa

from services.chassis.alarms import Alarm, due_record
from services.chassis.messages import SetTimer, StoredRecord
from services.chassis.rows import Mapped
from services.chassis.sagas import Saga, SagaDeadline, SagaRow, Sagas, Status


def deadlines(sagas: Sagas, rows: Mapped[UUID, SagaRow]) -> Sequence[Alarm[SagaRow]]:
    """Return an alarm for each definition, over the index of open sagas."""
    return [_deadline(saga, rows) for saga in sagas.definitions.values()]


def _deadline(saga: Saga, rows: Mapped[UUID, SagaRow]) -> Alarm[SagaRow]:
    column = rows.table.c
    waiting = sa.and_(
        column.ended_at.is_(None),
        column.name == saga.name,
        column.status == Status.RUNNING.value,
        column.step.in_(sorted(saga.up_to_pivot)),
    )
    return Alarm(rows, column.opened_at, waiting, partial(_record, saga), saga.deadline)


def _record(saga: Saga, row: SagaRow) -> StoredRecord | None:
    if row.name != saga.name or row.status is not Status.RUNNING or row.step not in saga.up_to_pivot:
        return None
    timer = SetTimer(row.id, row.opened_at + saga.deadline, SagaDeadline(saga_id=row.id))
    return due_record(timer, row.correlation_id, row.actor)
