"""Which schemas a version works on: at least what it needs, at most what still knows it."""

import pytest

from services.chassis.migrate import Known

VERSION = Known("r3", frozenset({"r1", "r2", "r3"}), frozenset({"r3"}))
UNDEMANDING = Known("r3", frozenset({"r1", "r2", "r3"}), frozenset({"r2", "r3"}))
"""Its newest migration is one that its code does not need."""


@pytest.mark.parametrize(
    ("version", "revision", "oldest", "suits"),
    [
        (VERSION, "r3", None, True),
        (VERSION, "r2", None, False),
        (VERSION, None, None, False),
        (UNDEMANDING, "r2", None, True),
        (UNDEMANDING, "r1", None, False),
        (VERSION, "r4", "r3", True),
        (VERSION, "r5", "r2", True),
        (VERSION, "r4", "r4", False),
        (VERSION, "r4", None, False),
    ],
)
def test_a_version_works_on_a_schema(version: Known, revision: str | None, oldest: str | None, suits: bool) -> None:
    assert version.suits(revision, oldest) is suits
