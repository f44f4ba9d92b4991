"""Rows in the order of a key, and the rows of one key together: how an invariant reads tables of any size.

An invariant is about one thing (a movement, an account, a saga) and all rows that refer to it. So each check is a
merge join: streams in the order of that thing's id, taken together key by key, and a pure function of the rows of one
key. What is in memory is one key's rows, whatever the tables' sizes.
"""

import heapq
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter, itemgetter
from tempfile import TemporaryFile
from typing import IO, Any, Generic, TypeVar

from deploy.operator.invariants.invariant import Invariant, Violation

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

Keyed = Iterable[tuple[Any, R]]
"""Rows, each with its key, in the order of the keys."""

RUN = 50_000
"""How many rows are sorted in memory at once; more go through a file."""

_BLOCK = 500
"""How many rows of a run are read back from the file at once."""


class Ordered(ABC, Generic[R_co]):
    """A table stored elsewhere, which can be read in any order and any number of times."""

    @abstractmethod
    def __iter__(self) -> Iterator[R_co]:
        """Read all rows, in no order."""

    @abstractmethod
    def by(self, columns: Sequence[str]) -> Iterator[R_co]:
        """Read the rows that have a value in each of these columns, in the order of the columns."""

    @abstractmethod
    def distinct(self, column: str) -> Iterable[Any]:
        """Return the distinct values of a column."""


def by(rows: Iterable[R], *columns: str) -> Keyed[R]:
    """Return rows in the order of some columns, of which the first is the key. Rows without a key are left out."""
    key_of = attrgetter(columns[0])
    ordered = rows.by(columns) if isinstance(rows, Ordered) else _sorted(rows, columns)
    return ((key_of(row), row) for row in ordered)


def _sorted(rows: Iterable[R], columns: Sequence[str]) -> Iterable[R]:
    complete = (row for row in rows if all(getattr(row, name) is not None for name in columns))
    return sorted(complete, key=attrgetter(*columns))


def distinct(rows: Iterable[Any], column: str) -> Iterable[Any]:
    """Return the distinct values of a column."""
    return rows.distinct(column) if isinstance(rows, Ordered) else dict.fromkeys(map(attrgetter(column), rows))


def in_order(pairs: Iterable[tuple[Any, R]]) -> Keyed[R]:
    """Sort rows by a derived key, which no database can sort by: in memory, and beyond `RUN` rows through a file.

    All pairs are read at once; the result can be read only once.
    """
    source = iter(pairs)
    run = _run(source)
    if len(run) < RUN:
        return run
    # A file without a name: nothing of it remains, whatever happens.
    file = TemporaryFile()  # noqa: SIM115 - closed by the reader at its end, or with the last reference to it
    starts: list[tuple[int, int]] = []
    while run:
        starts.append((file.tell(), len(run)))
        for begin in range(0, len(run), _BLOCK):
            pickle.dump(run[begin : begin + _BLOCK], file, pickle.HIGHEST_PROTOCOL)
        run = _run(source)
    return _merged(file, starts)


def _run(source: Iterator[tuple[Any, R]]) -> list[tuple[Any, R]]:
    return sorted(islice(source, RUN), key=itemgetter(0))


def _merged(file: IO[bytes], starts: Sequence[tuple[int, int]]) -> Iterator[tuple[Any, Any]]:
    with file:
        yield from heapq.merge(*(_read_back(file, *each) for each in starts), key=itemgetter(0))


def _read_back(file: IO[bytes], position: int, count: int) -> Iterator[tuple[Any, Any]]:
    while count > 0:
        file.seek(position)
        block = pickle.load(file)  # noqa: S301 - written by this very process, to a file that nobody else can open
        position = file.tell()
        count -= len(block)
        yield from block


class _Stream:
    """Rows in the order of their keys, from which one key's rows can be taken."""

    def __init__(self, rows: Keyed[Any]) -> None:
        self._rows = iter(rows)
        self.is_over = False
        self._step()

    def _step(self) -> None:
        try:
            self.key, self._row = next(self._rows)
        except StopIteration:
            self.is_over = True

    def take(self, key: Any) -> Iterator[Any]:
        while not self.is_over and self.key == key:
            row = self._row
            self._step()
            yield row


Group = tuple[Any, Sequence[Iterator[Any]]]
"""A key, and for each stream its rows with that key, which can be read only once."""


def merge_join(*streams: Keyed[Any]) -> Iterator[Group]:
    """Yield every key that any stream has, with each stream's rows of that key."""
    heads = [_Stream(rows) for rows in streams]
    while waiting := [head.key for head in heads if not head.is_over]:
        key = min(waiting)
        taken = [head.take(key) for head in heads]
        yield key, taken
        for rows in taken:
            for _ in rows:  # rows that the check has not read
                pass


_UNFIT = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""The exceptions that an unexpected value leads to."""


def each(groups: Iterable[Group], check: Callable[..., Iterable[Violation]], *more: Any) -> Iterator[Violation]:
    """Check every key's rows. A check that fails on an unexpected value yields the violation `UNREADABLE`."""
    for key, rows in groups:
        try:
            yield from check(key, *rows, *more)
        except _UNFIT as error:
            yield Violation(
                Invariant.UNREADABLE, str(key), f"{check.__name__.strip('_')} can't be checked: {error!r}"[:200]
            )


def only(rows: Iterator[R]) -> R | None:
    """Return the only row of a primary key, None if there is none."""
    return next(rows, None)
