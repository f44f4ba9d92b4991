"""A column is written to the byte as psycopg writes it."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from psycopg.types.array import ListBinaryDumper
from psycopg.types.numeric import Int4, Int8
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from services.chassis.arrays import encoder
from services.chassis.tables import Bytes, timestamp

ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-11))])
TIMES = st.datetimes(timezones=ZONES)

# A type, the oid of its items for psycopg, its values, and what makes psycopg write a number at its full length.
KINDS: dict[str, tuple[sa.types.TypeEngine[Any], int, st.SearchStrategy[Any], Any]] = {
    "UUID": (sa.Uuid(), 2950, st.uuids(), None),
    "text": (sa.Text(), 25, st.text(st.characters(exclude_categories=["Cs"])), None),
    "bytes": (Bytes(), 17, st.binary(), None),
    "bigint": (sa.BigInteger(), 20, st.integers(-(2**63), 2**63 - 1), Int8),
    "integer": (sa.Integer(), 23, st.integers(-(2**31), 2**31 - 1), Int4),
    "boolean": (sa.Boolean(), 16, st.booleans(), None),
    "timestamp": (timestamp(), 1184, TIMES, None),
    "date": (sa.Date(), 1082, st.dates(), None),
}


def as_psycopg_writes(oid: int, values: Sequence[Any], wrap: Any) -> bytes:
    dumper = ListBinaryDumper(list)
    dumper.sub_dumper = psycopg.adapters.get_dumper_by_oid(oid, psycopg.pq.Format.BINARY)(object)
    dumped = dumper.dump([value if value is None or wrap is None else wrap(value) for value in values])
    assert dumped is not None
    return bytes(dumped)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_an_array_is_the_same_to_the_byte(kind: str, data: st.DataObject) -> None:
    type_, oid, values, wrap = KINDS[kind]
    column = data.draw(st.lists(st.one_of(st.none(), values), max_size=20))
    assert encoder(ARRAY(type_))(column) == as_psycopg_writes(oid, column, wrap)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("column", [[], [None], [None, None]])
def test_nothing_and_nulls_are_the_same_to_the_byte(kind: str, column: list[None]) -> None:
    type_, oid, _, wrap = KINDS[kind]
    assert encoder(ARRAY(type_))(column) == as_psycopg_writes(oid, column, wrap)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_column_of_one_value_is_the_same_to_the_byte(kind: str, data: st.DataObject) -> None:
    type_, oid, values, wrap = KINDS[kind]
    column = [data.draw(values)] * data.draw(st.integers(1, 20)) + data.draw(st.lists(st.none() | values, max_size=1))
    assert encoder(ARRAY(type_))(column) == as_psycopg_writes(oid, column, wrap)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_single_value_is_the_item_of_an_array(kind: str, data: st.DataObject) -> None:
    type_, oid, values, wrap = KINDS[kind]
    value = data.draw(values)
    assert as_psycopg_writes(oid, [value], wrap)[24:] == encoder(type_)(value)


def test_what_looks_like_a_null_in_the_bytes_is_none() -> None:
    column = [b"\xff\xff\xff\xff"]
    assert encoder(ARRAY(Bytes()))(column) == as_psycopg_writes(17, column, None)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (sa.BigInteger(), 2**63),
        (sa.BigInteger(), "1"),
        (sa.Uuid(), "not an id"),
        (sa.Text(), 5),
        (sa.Text(), "\ud800"),
        (sa.DateTime(timezone=True), datetime(2031, 1, 1)),  # noqa: DTZ001
        (sa.Date(), 5),
    ],
)
def test_what_does_not_fit_is_an_error_that_is_not_the_databases(type_: Any, value: Any) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011
        encoder(ARRAY(type_))([value])
    assert not isinstance(raised.value, psycopg.Error | OSError | MemoryError | ImportError)


def test_an_unknown_type_is_refused_when_the_statement_is_built() -> None:
    with pytest.raises(TypeError, match="JSONB"):
        encoder(JSONB())


def test_a_date_is_counted_from_2000() -> None:
    assert encoder(sa.Date())(date(2000, 1, 2)) == b"\0\0\0\x01"
