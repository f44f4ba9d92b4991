from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from contracts.ids import derive, uuid_of


@given(st.integers(0, 2**128 - 1))
def test_an_id_of_a_number_is_the_standard_one(value: int) -> None:
    made, standard = uuid_of(value), UUID(int=value)
    assert made == standard
    assert (hash(made), str(made), made.bytes, made.is_safe) == (
        hash(standard), str(standard), standard.bytes, standard.is_safe,
    )  # fmt: skip


@given(st.uuids(), st.text())
def test_a_derived_id_is_the_standard_version_5(namespace: UUID, name: str) -> None:
    assert derive(namespace, name) == uuid5(namespace, name)
