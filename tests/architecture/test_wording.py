"""The words of code and documents stay plain English; each rule is shown to fail on a breach of it."""

import pytest

from deploy.paths import CHECKOUT
from tests.architecture.wording import PHRASES, banned_phrases, documents, odd_docstrings

BREACHES = [
    ("It takes one database a\n# service.", "per"),
    ("That costs 30 µs a message.", "per"),
    ("A reply to it is none of ours.", "ignored"),
    ("Rows that others hold, at a pinch.", "preferably"),
    ("The timer is set anew.", "again"),
    ("A topic that was deleted and\n    made again.", "recreated"),
    ("The inbox, which\n# forgets one day, let it through.", "retention"),
    ("It happens seldom.", "rarely"),
    ("A plan that is dearer.", "expensive"),
    ("It waits for ever.", "forever"),
    ("The plumbing's tables.", "chassis"),
    ("What the asker sees.", "caller"),
]
"""A text with each of the phrases, and a word of what is to be written instead."""


def test_nothing_says_what_is_banned() -> None:
    found = {path: banned_phrases(path.read_text()) for path in documents(CHECKOUT)}
    assert [f"{path.relative_to(CHECKOUT)}:{each}" for path, phrases in found.items() for each in phrases] == []


@pytest.mark.parametrize(("text", "better"), BREACHES, ids=[better for _, better in BREACHES])
def test_a_banned_phrase_is_found(text: str, better: str) -> None:
    (found,) = banned_phrases(text)
    assert found[0].isdigit()
    assert better in found


def test_every_phrase_has_a_breach_that_shows_it_found() -> None:
    assert len(BREACHES) == len(PHRASES)


@pytest.mark.parametrize(
    "text", ["once a second", "60 a minute per replica", "a key a day", "one a day", "say whoever asks"]
)
def test_other_english_is_left_alone(text: str) -> None:
    assert banned_phrases(text) == []


def test_docstrings_say_what_is_returned_in_the_imperative() -> None:
    modules = [path for path in documents(CHECKOUT) if path.suffix == ".py"]
    assert [f"{m.relative_to(CHECKOUT)}:{each}" for m in modules for each in odd_docstrings(m.read_text())] == []


@pytest.mark.parametrize("begins", ["Give the row.", "Gives the row, or None.", "Returns the row."])
def test_a_docstring_that_says_it_otherwise_is_found(begins: str) -> None:
    assert odd_docstrings(f'class Rows:\n    async def get(self):\n        """{begins}"""\n') == [f"2: get: {begins!r}"]


@pytest.mark.parametrize("begins", ["Return the row.", "Yield the rows.", "Giveaway."])
def test_a_docstring_in_the_imperative_is_left_alone(begins: str) -> None:
    assert odd_docstrings(f'def get():\n    """{begins}"""\n') == []
