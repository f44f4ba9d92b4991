"""The rows that a batch touches: loaded once, changed in memory, saved once.

An identity map and unit of work (Fowler, *Patterns of Enterprise Application Architecture*) cut down to what a handler
needs. Rows are frozen dataclasses: a handler replaces a row, so nothing changes unseen and nothing has to be copied.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from copy import copy
from dataclasses import fields
from enum import Enum
from operator import attrgetter
from typing import Any, Generic, TypeVar, get_origin, get_type_hints

import sqlalchemy as sa
from pydantic_core import to_json
from sqlalchemy.dialects.postgresql import JSONB

K = TypeVar("K")
R = TypeVar("R")


class NotLoaded(Exception):
    """A handler read a row, or a set of rows, that its needs do not name: it would have decided blindly."""


class Mapped(Generic[K, R]):
    """A table and the dataclass of its rows: same names, same order, one column as primary key."""

    def __init__(self, table: sa.Table, row: type[R], constant: Iterable[str] = ()) -> None:
        """Raise `TypeError` where the table and the dataclass differ.

        `constant` columns are written with a new row and never again: an update leaves them out.
        """
        self.table = table
        self.row = row
        self.names = tuple(f.name for f in fields(row))  # type: ignore[arg-type]
        written = tuple(c.name for c in table.columns if c.identity is None)
        if self.names != written:
            raise TypeError(f"{table.name} has columns {written}, {row.__name__} has fields {self.names}")
        (self.key_column,) = table.primary_key.columns
        self.columns = tuple(table.c[name] for name in self.names)
        self.changing = tuple(name for name in self.names if name not in frozenset(constant))
        self.key_of: Callable[[R], K] = attrgetter(self.key_column.name)
        hints = get_type_hints(row)
        coders = [_coder(hints[c.name], c) for c in self.columns]
        self.encoders = {name: encode for name, (encode, _) in zip(self.names, coders, strict=True)}
        self._decoders = [(i, decode) for i, (_, decode) in enumerate(coders) if decode is not None]

    def tolerant(self, unknown: Callable[[Any], Any]) -> "Mapped[K, R]":
        """Return the same for who only looks: a value that an enum does not have becomes what `unknown` makes of it."""
        made = copy(self)
        made._decoders = [(i, _tolerant(decode, unknown)) for i, decode in self._decoders]
        return made

    def from_values(self, values: Iterable[Any]) -> R:
        """Make a row of the values that a query gave, in the order of `names`."""
        if not self._decoders:
            return self.row(*values)
        found = list(values)
        for index, decode in self._decoders:
            found[index] = decode(found[index])
        return self.row(*found)


class RowSet(Generic[K, R]):
    """The rows of a table that share a value in one column, and have fixed ones in others: a group's active members.

    Without a column it is the whole table.
    """

    def __init__(self, mapped: Mapped[K, R], column: str | None = None, **others: Collection[Any]) -> None:
        """Raise `TypeError` for a column that the table has not. Each of `others` has one of the values given."""
        self.mapped = mapped
        self.column = column
        self._others = others
        self.name = f"{mapped.table.name} by {column}" if column else f"all of {mapped.table.name}"
        if unknown := {*others, *([column] if column else ())} - set(mapped.names):
            raise TypeError(f"{mapped.table.name} has no {sorted(unknown)}")

    def value_of(self, row: R) -> Any:
        """Return the value that a row shares with its set."""
        return getattr(row, self.column) if self.column else None

    def holds(self, row: R) -> bool:
        """Return whether a row belongs to one of these sets: to the one of its value."""
        return all(getattr(row, name) in values for name, values in self._others.items())

    def among(self, values: Collection[Any]) -> dict[str, Collection[Any]]:
        """Return what `Transaction.keys` is asked for: the rows of the sets of these values."""
        columns: dict[str, Collection[Any]] = {self.column: values} if self.column else {}
        for name, others in self._others.items():
            encode = self.mapped.encoders[name]
            columns[name] = [encode(other) for other in others] if encode else others
        return columns


Code = Callable[[Any], Any] | None


def _coder(hint: Any, column: sa.Column[Any]) -> tuple[Code, Code]:
    """Say how a field becomes what its column holds, and back; None where they are the same.

    JSON travels as text, and gives lists where rows want tuples. Lines of text are one text: cheaper than JSON.
    """
    if isinstance(column.type, JSONB):
        return _json, tuple if get_origin(hint) is tuple else None
    if get_origin(hint) is tuple:
        return "\n".join, lambda text: tuple(text.split("\n")) if text else ()
    if isinstance(hint, type) and issubclass(hint, Enum):
        return attrgetter("value"), hint
    return None, None


def _tolerant(decode: Callable[[Any], Any], unknown: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decoded(value: Any) -> Any:
        try:
            return decode(value)
        except (TypeError, ValueError):
            return unknown(value)

    return decoded


def _json(value: Any) -> str:
    return to_json(value).decode()


class Rows(Generic[K, R]):
    """The rows of one table that a batch may read and change."""

    __slots__ = ("_found", "_now", "_sets", "_touched", "mapped")

    def __init__(self, mapped: Mapped[K, R], found: Mapping[K, R | None]) -> None:
        """Take what was found: every key that was asked for, with None where there is no row."""
        self.mapped = mapped
        self._found = found
        self._now: dict[K, R | None] = dict(found)
        self._touched: dict[K, None] = {}
        self._sets: dict[RowSet[K, R], dict[Any, dict[K, None]]] = {}

    def cover(self, rowset: RowSet[K, R], values: Iterable[Any]) -> None:
        """Note that what was found includes these sets, whole: `all` may be asked for them from now on."""
        index: dict[Any, dict[K, None]] = {value: {} for value in values}
        for key, row in self._now.items():
            if row is not None and (keys := index.get(rowset.value_of(row))) is not None:
                keys[key] = None
        self._sets[rowset] = index

    def get(self, key: K) -> R | None:
        """Give the row as the batch has left it so far, None if there is none; raises `NotLoaded`."""
        try:
            return self._now[key]
        except KeyError:
            raise NotLoaded(f"{self.mapped.table.name} {key}") from None

    def __getitem__(self, key: K) -> R:
        """Give a row that must be there; raises `KeyError` if it is not."""
        row = self.get(key)
        if row is None:
            raise KeyError(f"{self.mapped.table.name} {key}")
        return row

    def all(self, rowset: RowSet[K, R], value: Any = None) -> list[R]:
        """Return the rows of a set as the batch has left it so far, in the order of their keys; raises `NotLoaded`."""
        try:
            keys = self._sets[rowset][value]
        except KeyError:
            raise NotLoaded(f"{rowset.name} {value}") from None
        rows = map(self._now.__getitem__, sorted(keys))  # type: ignore[type-var]
        return [row for row in rows if row is not None and rowset.value_of(row) == value and rowset.holds(row)]

    def put(self, row: R) -> None:
        """Write a row, new or changed."""
        key = self.mapped.key_of(row)
        self._now[key] = row
        self._touched[key] = None
        for rowset, index in self._sets.items():
            if (keys := index.get(rowset.value_of(row))) is not None:
                keys[key] = None

    def remove(self, key: K) -> None:
        """Delete a row."""
        self._now[key] = None
        self._touched[key] = None

    def loaded(self) -> list[R]:
        """Return every row that is there, whoever in the batch asked for it: for who loads, never for handlers."""
        return [row for row in self._now.values() if row is not None]

    def written(self) -> tuple[list[R], list[R], list[K]]:
        """Give what the batch leaves to be saved: rows that are new, rows that changed, and keys of rows removed."""
        inserted: list[R] = []
        updated: list[R] = []
        removed: list[K] = []
        for key in self._touched:
            row = self._now[key]
            was_there = self._found.get(key) is not None
            if row is not None:
                (updated if was_there else inserted).append(row)
            elif was_there:
                removed.append(key)
        return inserted, updated, removed


class Appended(Generic[R]):
    """Rows of a table that is only ever added to."""

    __slots__ = ("mapped", "rows")

    def __init__(self, mapped: "AppendOnly[R]") -> None:
        self.mapped = mapped
        self.rows: list[R] = []

    def add(self, row: R) -> None:
        """Append a row."""
        self.rows.append(row)


class AppendOnly(Mapped[Any, R]):
    """A table that is only ever added to: what it has for a key is of no interest here."""


Changes = Rows[Any, Any] | Appended[Any]
