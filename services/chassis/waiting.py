"""What waits: rows of one kind that are open until something happens, declared for the metrics (`open_work`)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

MOST = 100_000
"""So many rows of a kind are counted; more count as that many. ADR 49 says what that costs."""

FEWER = 10_000
"""The same for rows of which each takes another look-up."""


@dataclass(frozen=True, eq=False)
class Waiting:
    """A kind of rows that wait, by the value of the metrics' label `what`.

    `rows` are those rows in the order of an index, which should have no others: what they have been waiting since is
    the first column.
    """

    what: str
    means: str
    rows: "sa.Select[Any]"
    most: int = MOST

    @property
    def query(self) -> "sa.Select[Any]":
        """Return the query for how many there are, and how many seconds the oldest has waited, None without any."""
        (since, *_) = (found := self.rows.limit(self.most).subquery()).c
        age_s: sa.ColumnElement[Any] = sa.extract("epoch", sa.func.now() - sa.func.min(since))
        return sa.select(*(sa.func.count(), age_s)).select_from(found)


def waiting(what: str, means: str, since: "sa.Column[datetime]", waits: "sa.ColumnElement[bool]") -> Waiting:
    """Return the kind of the rows for which `waits` holds; there must be an index of those by `since`."""
    return Waiting(what, means, sa.select(since).where(waits).order_by(since))


def open_sagas(sagas: sa.Table) -> Waiting:
    """Return the kind of the sagas that have not ended."""
    return waiting("saga", "sagas that have not ended", sagas.c.opened_at, sagas.c.ended_at.is_(None))
