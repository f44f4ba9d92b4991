"""Rows in order and merge-joined: however many there are, one key's are in memory."""

from collections.abc import Iterator
from random import Random

import pytest

from deploy.operator.invariants import Invariant, Violation, rows
from deploy.operator.invariants.rows import each, in_order, merge_join


def test_takes_the_rows_of_one_key_together_whatever_streams_have_it() -> None:
    found = [
        (key, [list(each_) for each_ in taken])
        for key, taken in merge_join([(1, "a"), (1, "b"), (3, "c")], [(2, "x"), (3, "y")], [])
    ]
    assert found == [(1, [["a", "b"], [], []]), (2, [[], ["x"], []]), (3, [["c"], ["y"], []])]


def test_goes_on_to_the_next_key_when_rows_were_not_read() -> None:
    assert [key for key, _ in merge_join([(1, "a"), (1, "b"), (2, "c")], [(1, "x")])] == [1, 2]


def test_reads_no_further_than_it_must() -> None:
    """An account's entries may be millions: they pass, and are not collected."""
    read = 0

    def stream() -> Iterator[tuple[int, int]]:
        nonlocal read
        for number in range(1_000_000):
            read += 1
            yield 1, number

    _, (taken,) = next(merge_join(stream()))
    assert [next(taken) for _ in range(3)] == [0, 1, 2]
    assert read < 10


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 95, 1000])
def test_sorts_what_does_not_fit_through_a_file(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "RUN", 10)
    monkeypatch.setattr(rows, "_BLOCK", 3)
    numbers = [(Random(count).randint(0, 50), n) for n in range(count)]
    found = list(in_order(iter(numbers)))
    assert sorted(found) == sorted(numbers)
    assert [key for key, _ in found] == sorted(key for key, _ in numbers)


def test_what_can_not_be_checked_is_a_finding_and_the_rest_is_checked() -> None:
    def check(key: int, taken: Iterator[int]) -> Iterator[Violation]:
        if 1 // next(taken) > 1:
            yield Violation(Invariant.OVERDRAWN, str(key), "")

    found = list(each(merge_join([(1, 0), (2, 1)]), check))
    assert [(violation.code, violation.subject) for violation in found] == [(Invariant.UNREADABLE, "1")]
