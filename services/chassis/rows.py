"""The rows that a batch touches: loaded once, changed in memory, saved once.

An identity map and unit of work (Fowler, *Patterns of Enterprise Application Architecture*), reduced to what a handler
needs. Rows are frozen dataclasses: a handler replaces a row, so no change goes unnoticed and nothing has to be copied.
Frozen, that is, for the type checker and the architecture's tests: see `_thawed`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from copy import copy
from dataclasses import fields, make_dataclass
from enum import Enum
from functools import cache
from itertools import zip_longest
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_origin, get_type_hints

import sqlalchemy as sa
from pydantic_core import to_json
from sqlalchemy.dialects.postgresql import JSONB

if TYPE_CHECKING:
    from dataclasses import replace as replace  # noqa: PLC0414 (mypy then knows each class's fields)
else:

    def replace(row, **changes):
        """Return a row with other values in some fields, as `dataclasses.replace` does, for classes that are mapped."""
        return row.__replace__(**changes)


K = TypeVar("K")
R = TypeVar("R")


class NotLoaded(Exception):
    """A handler read a row, or a set of rows, that its needs do not name and that may therefore not be loaded."""


class Mapped(Generic[K, R]):
    """Maps a table to the dataclass of its rows: same names, same order, one column as primary key."""

    def __init__(
        self, table: sa.Table, row: type[R], constant: Iterable[str] = (), rarely: Collection[str] = ()
    ) -> None:
        """Raise `TypeError` if the table and the dataclass differ, but for the columns that the database fills itself.

        `constant` columns are written with a new row and left out of updates. `rarely` ones, which may not be null, are
        large: an update in which such a field is the same object neither encodes it nor sends it.
        """
        self.table = table
        self.row = _thawed(row)
        self.names = tuple(f.name for f in fields(row))  # type: ignore[arg-type]
        written = tuple(c.name for c in table.columns if c.identity is None and c.server_onupdate is None)
        if self.names != written:
            raise TypeError(f"{table.name} has columns {written}, {row.__name__} has fields {self.names}")
        (self.key_column,) = table.primary_key.columns
        self.columns = tuple(table.c[name] for name in self.names)
        self.changing = tuple(name for name in self.names if name not in frozenset(constant))
        self.rarely = frozenset(rarely)
        self.key_of: Callable[[R], K] = attrgetter(self.key_column.name)
        hints = get_type_hints(row)
        converters = [_converters(hints[c.name], c) for c in self.columns]
        self.encoders = {name: encode for name, (encode, _) in zip(self.names, converters, strict=True)}
        self._decoders = [(i, decode) for i, (_, decode) in enumerate(converters) if decode is not None]

    def tolerant(self, unknown: Callable[[Any], Any]) -> "Mapped[K, R]":
        """Return a mapping for reading only: a value that an enum does not have is passed to `unknown`."""
        made = copy(self)
        made._decoders = [(i, _tolerant(decode, unknown)) for i, decode in self._decoders]
        return made

    def from_values(self, values: Iterable[Any]) -> R:
        """Build a row from the values that a query returned, in the order of `names`."""
        if not self._decoders:
            return self.row(*values)
        found = list(values)
        for index, decode in self._decoders:
            found[index] = decode(found[index])
        return self.row(*found)


def _thawed(row: type[R]) -> type[R]:
    """Return a frozen dataclass, to which it gives the constructor of a plain one.

    Its own sets every field by calling `object.__setattr__`, which takes ten times as long, and rows are made for every
    message. Nothing assigns to a field: mypy checks it wherever the class is known, `impure_handlers` in every handler.
    """
    if "__setattr__" in vars(row):
        plain = make_dataclass(row.__name__, [(f.name, f.type, f) for f in fields(row)])  # type: ignore[arg-type]
        row.__init__ = plain.__init__  # type: ignore[method-assign,misc]
        row.__replace__ = _replacer(row)  # type: ignore[attr-defined]
        del row.__setattr__, row.__delattr__
    return row


def _replacer(row: type[R]) -> Callable[..., R]:
    """Return the method behind `replace`: one call of the constructor, where `dataclasses` loops over all fields."""
    names = [f.name for f in fields(row)]  # type: ignore[arg-type]
    parameters = ", ".join(f"{name}=_same" for name in names)
    values = ", ".join(f"self.{name} if {name} is _same else {name}" for name in names)
    made: dict[str, Any] = {"_row": row, "_same": object()}
    exec(f"def __replace__(self, *, {parameters}): return _row({values})", made)  # noqa: S102 (nothing but fields' names)
    return made["__replace__"]  # type: ignore[no-any-return]


class RowSet(Generic[K, R]):
    """The rows of a table that share a value in one column and have given values in others: a group's active members.

    Without a column, it is the whole table.
    """

    def __init__(self, mapped: Mapped[K, R], column: str | None = None, **others: Collection[Any]) -> None:
        """Raise `TypeError` for an unknown column. In each of the `others`, a row has one of the given values."""
        self.mapped = mapped
        self.column = column
        self._others = others
        self.name = f"{mapped.table.name} by {column}" if column else f"all of {mapped.table.name}"
        if unknown := {*others, *([column] if column else ())} - set(mapped.names):
            raise TypeError(f"{mapped.table.name} has no {sorted(unknown)}")

    def value_of(self, row: R) -> Any:
        """Return the value that a row shares with the rest of its set."""
        return getattr(row, self.column) if self.column else None

    def holds(self, row: R) -> bool:
        """Return whether a row belongs to the set of its value."""
        return all(getattr(row, name) in values for name, values in self._others.items())

    def among(self, values: Collection[Any]) -> dict[str, Collection[Any]]:
        """Return the arguments of `Transaction.keys` that find the rows of these values' sets."""
        columns: dict[str, Collection[Any]] = {self.column: values} if self.column else {}
        for name, others in self._others.items():
            encode = self.mapped.encoders[name]
            columns[name] = [encode(other) for other in others] if encode else others
        return columns


Converter = Callable[[Any], Any] | None


def _converters(hint: Any, column: sa.Column[Any]) -> tuple[Converter, Converter]:
    """Return the converters from a field to its column and back; None if nothing has to be converted.

    JSON travels as text, and returns lists where rows have tuples. Lines of text are stored as one text, cheaper than
    JSON.
    """
    if isinstance(column.type, JSONB):
        return _json, tuple if get_origin(hint) is tuple else None
    if get_origin(hint) is tuple:
        return "\n".join, lambda text: tuple(text.split("\n")) if text else ()
    if isinstance(hint, type) and issubclass(hint, Enum):
        return attrgetter("_value_"), cache(hint)  # `value` is a property written in Python, and so is the look-up
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

    __slots__ = ("_found", "_now", "_sets", "mapped")

    def __init__(self, mapped: Mapped[K, R], found: Mapping[K, R | None]) -> None:
        """Take what was found: every requested key, with None if there is no row."""
        self.mapped = mapped
        self._found = found
        self._now: dict[K, R | None] = dict(found)
        self._sets: dict[RowSet[K, R], dict[Any, dict[K, None]]] = {}

    def cover(self, rowset: RowSet[K, R], values: Iterable[Any]) -> None:
        """Note that these sets were loaded completely: `all` may return them from now on."""
        index: dict[Any, dict[K, None]] = {value: {} for value in values}
        for key, row in self._now.items():
            if row is not None and (keys := index.get(rowset.value_of(row))) is not None:
                keys[key] = None
        self._sets[rowset] = index

    def find(self, key: K) -> R | None:
        """Return a row with the batch's changes so far, None if there is none.

        Raises `NotLoaded` for a key not asked for.
        """
        try:
            return self._now[key]
        except KeyError:
            raise NotLoaded(f"{self.mapped.table.name} {key}") from None

    def __getitem__(self, key: K) -> R:
        """Return a row that must exist. Raises `KeyError` if it doesn't, `NotLoaded` for a key not asked for."""
        row = self.find(key)
        if row is None:
            raise KeyError(f"{self.mapped.table.name} {key}")
        return row

    def all(self, rowset: RowSet[K, R], value: Any = None) -> list[R]:
        """Return a set's rows with the batch's changes so far, in the order of their keys. Raises `NotLoaded`."""
        try:
            keys = self._sets[rowset][value]
        except KeyError:
            raise NotLoaded(f"{rowset.name} {value}") from None
        if not keys:
            return []
        rows = map(self._now.__getitem__, sorted(keys))  # type: ignore[type-var]
        return [row for row in rows if row is not None and rowset.value_of(row) == value and rowset.holds(row)]

    def put(self, row: R) -> None:
        """Write a row, new or changed."""
        key = self.mapped.key_of(row)
        self._now[key] = row
        for rowset, index in self._sets.items():
            if (keys := index.get(rowset.value_of(row))) is not None:
                keys[key] = None

    def remove(self, key: K) -> None:
        """Delete a row."""
        self._now[key] = None

    def replaced(self, row: R, name: str) -> Any:
        """Return a field's value if it is another object than in the row that was found, None if it is the same."""
        value, before = getattr(row, name), self._found.get(self.mapped.key_of(row))
        return None if before is not None and getattr(before, name) is value else value

    def loaded(self) -> list[R]:
        """Return every loaded row, whichever message needed it: for loading, never for handlers."""
        return [row for row in self._now.values() if row is not None]

    def written(self) -> tuple[list[R], list[R], list[K]]:
        """Return what is to be saved: new rows, changed rows, and the keys of removed ones."""
        inserted: list[R] = []
        updated: list[R] = []
        removed: list[K] = []
        # Both have the same keys in the same order, except that rows nobody asked for were added at the end.
        for before, (key, row) in zip_longest(self._found.values(), self._now.items()):
            if row is before:
                continue
            if row is None:
                removed.append(key)
            else:
                (inserted if before is None else updated).append(row)
        return inserted, updated, removed


class Appended(Generic[R]):
    """Rows of an append-only table."""

    __slots__ = ("mapped", "rows")

    def __init__(self, mapped: "AppendOnly[R]") -> None:
        self.mapped = mapped
        self.rows: list[R] = []

    def add(self, row: R) -> None:
        """Append a row."""
        self.rows.append(row)


class AppendOnly(Mapped[Any, R]):
    """Maps an append-only table, whose existing rows are never loaded."""


Changes = Rows[Any, Any] | Appended[Any]
