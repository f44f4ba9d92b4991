"""Alarms: something is due at a moment that a row of the business has itself, so that no timer is written for it.

Most rows are never due: a saga ends long before its deadline. A timer for each would be inserted and deleted for
nothing, so an index of the rows themselves finds those that are due. A handler locks its row and looks whether it is
still due, so an alarm needs no claim: of two replicas that found the same row, the second finds it changed.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar
from uuid import UUID

import sqlalchemy as sa

from services.chassis.messages import SetTimer, StoredRecord, timer_record
from services.chassis.rows import Mapped

R = TypeVar("R")

_NOTHING_LATER = timedelta()


@dataclass(frozen=True, eq=False)
class Alarm(Generic[R]):
    """The rows of one table that will be due, for the database; and what is due of one of them, for everybody.

    `moment` is a column or expression with an index over the rows that are `waiting`; a row is due `after` that moment.
    `record` says the same in Python, exactly: it returns None for a row that is not waiting. The message has the row's
    key: while that is blocked by a parked message, the row is passed over. At most `at_once` rows are handled together:
    set it where handling one reads many others.
    """

    mapped: Mapped[Any, R]
    moment: sa.ColumnElement[datetime]
    waiting: sa.ColumnElement[bool]
    record: Callable[[R], StoredRecord | None]
    after: timedelta = _NOTHING_LATER
    at_once: int = sys.maxsize


def due_record(timer: SetTimer, correlation_id: str, actor: UUID | None = None) -> StoredRecord:
    """Return the record that a timer would have become when due: a repeated alarm is the same message."""
    body = timer.message
    return timer_record(
        timer.id, timer.due_at, body.TYPE, body.key(), body.to_json(), correlation_id, actor, traceparent=None
    )
