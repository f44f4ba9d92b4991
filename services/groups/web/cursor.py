"""Where a page of the history ended, as an opaque word that a client gives back."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self
from uuid import UUID

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LENGTH = 8 + 16


class BadCursor(ValueError):
    """Nobody was ever given such a cursor."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last line of a page. The next page begins behind it, whatever was added in front meanwhile."""

    at: datetime
    id: UUID

    def __str__(self) -> str:
        micros = (self.at - _EPOCH) // _MICROSECOND
        return urlsafe_b64encode(micros.to_bytes(8, "big", signed=True) + self.id.bytes).decode()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one; raises `BadCursor`."""
        try:
            raw = urlsafe_b64decode(text.encode("ascii"))
            if len(raw) != _LENGTH:
                raise BadCursor("a cursor has another length")
            at = _EPOCH + int.from_bytes(raw[:8], "big", signed=True) * _MICROSECOND
        except (ValueError, OverflowError) as error:
            raise BadCursor("not a cursor") from error
        return cls(at, UUID(bytes=raw[8:]))
