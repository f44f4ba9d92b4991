"""Cursors: what was given out is read back, and nothing else is."""

from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given, strategies

from services.groups.web.cursor import BadCursor, Cursor

MOMENTS = strategies.datetimes(timezones=strategies.just(UTC))


@given(MOMENTS, strategies.uuids())
def test_is_read_back_to_the_microsecond(at: datetime, id_: UUID) -> None:
    assert Cursor.parse(str(Cursor(at, id_))) == Cursor(at, id_)


@pytest.mark.parametrize("text", ["", "x", "é", "AAAA", "A" * 31, "A" * 33, "f" * 32, "=" * 32])
def test_refuses_what_is_none(text: str) -> None:
    with pytest.raises(BadCursor):
        Cursor.parse(text)


@given(strategies.text(max_size=40))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    with suppress(BadCursor):
        Cursor.parse(text)
