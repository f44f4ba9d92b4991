from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from popfax_contracts.ids import OWN_VERSION, derive, derive_own, message_id, uuid_of


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


@given(st.uuids(), st.text())
def test_an_id_of_our_own_has_a_version_that_no_client_may_choose(namespace: UUID, name: str) -> None:
    made = derive_own(namespace, name)
    assert made.version == OWN_VERSION
    assert made.int ^ derive(namespace, name).int == (5 ^ OWN_VERSION) << 76, "else it is the same"


Who = tuple[str, bytes, bytes]


def who(topic: str, source: str, id_: str) -> Who:
    return topic, source.encode(), id_.encode()


# Few letters: what is told apart must differ in where one part ends, too. Only a source may have a NUL in it.
whos = st.builds(who, st.text("a.", max_size=2), st.text("a\0", max_size=3), st.text("a", max_size=2))


@given(whos, whos)
def test_a_message_is_known_by_its_topic_its_source_and_its_id(one: Who, other: Who) -> None:
    assert (message_id(*one) == message_id(*other)) == (one == other)
    assert message_id(*one).version == OWN_VERSION
