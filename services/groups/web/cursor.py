"""Where a page of a list ended, as an opaque word that a client gives back."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self
from uuid import UUID

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NEVER = 2**63 - 1


class BadCursor(ValueError):
    """Nobody was ever given such a cursor."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last line of a page. The next page begins behind it, whatever was added in front meanwhile."""

    at: datetime
    id: UUID

    def __str__(self) -> str:
        return _word(_micros(self.at).to_bytes(8, "big", signed=True) + self.id.bytes)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one; raises `BadCursor`."""
        raw = _raw(text, 8 + 16)
        return cls(_moment(int.from_bytes(raw[:8], "big", signed=True)), UUID(bytes=raw[8:]))


@dataclass(frozen=True, slots=True)
class MemberCursor:
    """The last member of a page: which query it belongs to, what that sorts by, and who. It holds nobody's name."""

    query: bytes
    """Eight bytes that no other query has."""
    value: int
    id: UUID

    @classmethod
    def of_moment(cls, query: bytes, at: datetime | None, id_: UUID) -> Self:
        """Make one for members that are sorted by a moment; None is never, and comes after all others."""
        return cls(query, _NEVER if at is None else _micros(at), id_)

    @property
    def at(self) -> datetime | None:
        """Return the moment that it was made of. Raises `BadCursor` if it was made of none."""
        return None if self.value == _NEVER else _moment(self.value)

    def __str__(self) -> str:
        return _word(self.query + self.value.to_bytes(8, "big", signed=True) + self.id.bytes)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one; raises `BadCursor`."""
        raw = _raw(text, 8 + 8 + 16)
        return cls(raw[:8], int.from_bytes(raw[8:16], "big", signed=True), UUID(bytes=raw[16:]))


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def _moment(micros: int) -> datetime:
    try:
        return _EPOCH + micros * _MICROSECOND
    except OverflowError as error:
        raise BadCursor("not a moment") from error


def _word(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode()


def _raw(text: str, length: int) -> bytes:
    try:
        raw = urlsafe_b64decode(text.encode("ascii"))
    except ValueError as error:
        raise BadCursor("not a cursor") from error
    if len(raw) != length:
        raise BadCursor("a cursor has another length")
    return raw
