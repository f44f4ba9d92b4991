"""The list of known mutants is true: each mistake can be made, what must catch it is there, and a survivor shows."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.paths import CHECKOUT
from tests.mutants.__main__ import Verdict, attempt, summary
from tests.mutants.known import NotApplied, Patch, Trial, patched, selects, trials
from tests.mutants.seeds import in_order
from tests.mutants.tree import BROKEN_OFF, Tree

TRIALS = trials()


def test_every_mistake_can_be_made() -> None:
    for patch in {trial.patch for trial in TRIALS if trial.patch is not None}:
        assert patched(patch) != (CHECKOUT / patch.file).read_text()


def test_everything_that_must_catch_one_is_there() -> None:
    selections = {trial.selection for trial in TRIALS if trial.selection is not None}
    assert [selection for selection in selections if not selects(selection)] == []


def test_no_two_mutants_have_one_name() -> None:
    by_name: dict[str, set[Patch | None]] = {}
    for trial in TRIALS:
        by_name.setdefault(trial.mutant, set()).add(trial.patch)
    assert [name for name, patches in by_name.items() if len(patches) > 1] == []


@pytest.mark.parametrize("text", ["x = 2\n", "x = 1\nx = 1\n"])
def test_a_patch_that_does_not_fit_exactly_once_is_refused(text: str) -> None:
    with pytest.raises(NotApplied):
        Patch("x.py", "x = 1", "x = 3").applied(text)


def test_a_mistake_that_is_no_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("x = 1\n")
    with pytest.raises(SyntaxError):
        patched(Patch("x.py", "x = 1", "x ="), tmp_path)


@pytest.mark.parametrize(
    "selection",
    ["tests/unit/test_nothing.py", "tests/unit/test_ids.py::test_nothing", "tests/unit/test_ids.py::Nothing::test_it"],
)
def test_a_selection_that_is_not_there_is_noticed(selection: str) -> None:
    assert not selects(selection)


def test_the_seed_that_finds_it_is_tried_first() -> None:
    assert in_order(7)[:3] == [7, 0, 1]
    assert in_order(9999)[0] == 9999


class _Answering(Tree):
    """A tree on which nothing runs, and everything ends as said."""

    def __init__(self, code: int, printed: str) -> None:
        self._ends = code, printed

    @contextmanager
    def with_mistake(self, patch: Patch) -> Iterator[None]:
        patch.applied("right")
        yield

    def run(self, arguments: list[str], seconds: float) -> tuple[int, str]:
        return self._ends


TEST = Trial("a mutant", Patch("x.py", "right", "wrong"), "tests/unit/test_ids.py", 0, 60.0)
SEED = Trial("a mutant", Patch("x.py", "right", "wrong"), None, 0, 60.0)
OLD = Trial("a mutant", Patch("x.py", "gone", "wrong"), None, 0, 60.0)


@pytest.mark.parametrize(
    ("trial", "code", "printed", "caught_by", "otherwise"),
    [
        (TEST, 1, "…\nFAILED tests/unit/test_ids.py::test_it[a b] - no\n", "test_it[a b]: no", ""),
        (SEED, 1, "seed 41: overdrawn\n", "seed 41: overdrawn", ""),
        (TEST, 0, "1 passed", None, "survives"),
        (SEED, 0, "", None, "survives"),
        (TEST, 4, "no tests ran", None, "can't be tried"),
        (SEED, 1, "Traceback: ImportError", None, "can't be tried"),
        (TEST, BROKEN_OFF, "", None, "not caught within 60 s"),
        (OLD, 1, "seed 41: overdrawn\n", None, "no longer applies"),
    ],
)
def test_what_counts_as_caught(trial: Trial, code: int, printed: str, caught_by: str | None, otherwise: str) -> None:
    verdict = attempt(_Answering(code, printed), trial)
    assert verdict.caught_by == caught_by
    assert verdict.otherwise.startswith(otherwise)


def test_the_summary_counts_survivors() -> None:
    table = summary([Verdict(TEST, 3.0, "test_it"), Verdict(TEST, 9.0, None), Verdict(SEED, 41.2, "seed 41: …")])
    assert "| `tests/unit` | 2 | 1 | 3 s |\n" in table
    assert "| `tests/simulation` | 1 | 1 | 41 s |\n" in table
