"""The matrix can fail: each planted mistake is found by its cell."""

import os
from contextlib import closing

import pytest

from deploy.paths import STATE
from tests.crashpoints import running
from tests.crashpoints.crew import crewed
from tests.crashpoints.matrix import CELLS
from tests.crashpoints.planted import MISTAKES
from tests.crashpoints.running import try_round
from tests.crashpoints.stories import STORIES, cast
from tests.e2e.driver import World

pytestmark = pytest.mark.drill

GIVEN_UP_S = 20.0
"""How long a story that will never end is waited for."""


@pytest.mark.parametrize("name", MISTAKES)
def test_planted_mistake_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = (cell for cell in CELLS if cell.name == MISTAKES[name].cell)
    directory, mistakes = STATE / f"test-{os.getpid()}-planted", {cell.row.service: name}
    with crewed(directory, mistakes=mistakes) as crew, closing(World(crew.product)) as world:
        people = cast(world, [STORIES[cell.row.story]])
        monkeypatch.setattr(running, "ENDED_S", GIVEN_UP_S)
        (verdict,) = try_round(crew, world, [cell], people)
    assert verdict.reached
    assert verdict.violations
