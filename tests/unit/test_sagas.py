"""A saga's definition is refused when it could not keep the rules."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest

from contracts.ledger import UnitsRefused
from services._platform.sagas import LocalPivot, Saga, Step
from services.groups.sagas import CREATE_MEMBER_ACCOUNT

RESERVE, PROVISION, CAPTURE = cast(tuple[Step, Step, Step], CREATE_MEMBER_ACCOUNT.steps)
APPLY = LocalPivot("apply", lambda state, saga, moment: ())

BROKEN: list[tuple[str, Sequence[Step | LocalPivot], str]] = [
    ("no pivot", [RESERVE, replace(PROVISION, cancel=None), CAPTURE], "exactly one step is the pivot"),
    ("two pivots", [RESERVE, PROVISION, replace(PROVISION, name="again")], "exactly one step is the pivot"),
    ("two pivots, one of them local", [RESERVE, PROVISION, APPLY], "exactly one step is the pivot"),
    ("it begins with a local pivot", [APPLY, CAPTURE], "nothing to be reached by"),
    ("nothing undoes a step before the pivot", [replace(RESERVE, undo=None), PROVISION], "can't be undone"),
    ("nothing answers an undoing", [replace(RESERVE, undone=None), PROVISION], "can't be undone"),
    ("a step after the pivot can be refused", [PROVISION, replace(CAPTURE, refused=UnitsRefused)], "only forward"),
    ("a step after the pivot can be undone", [PROVISION, replace(CAPTURE, undo=RESERVE.undo)], "only forward"),
]


@pytest.mark.parametrize(("steps", "why"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_refuses_a_definition_in_which(steps: Sequence[Step | LocalPivot], why: str) -> None:
    with pytest.raises(TypeError, match=why):
        replace(CREATE_MEMBER_ACCOUNT, steps=tuple(steps))


@pytest.mark.parametrize("steps", [[PROVISION], [PROVISION, CAPTURE], [RESERVE, PROVISION, CAPTURE]])
def test_accepts_a_definition_with_its_pivot_anywhere(steps: Sequence[Step]) -> None:
    saga: Saga = replace(CREATE_MEMBER_ACCOUNT, steps=tuple(steps))
    assert saga.steps[saga.pivot] is PROVISION


def test_accepts_a_definition_with_a_local_pivot() -> None:
    saga = replace(CREATE_MEMBER_ACCOUNT, steps=(RESERVE, APPLY, CAPTURE))
    assert saga.steps[saga.pivot] is APPLY
