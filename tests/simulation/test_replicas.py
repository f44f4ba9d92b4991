"""Replicas that are frozen, killed and cut off, in thousands of ways, and nothing is lost, reordered or done twice."""

import pytest

from tests.simulation.mistakes import MISTAKES
from tests.simulation.replicas import Story
from tests.simulation.stories import STORIES

pytestmark = pytest.mark.usefixtures("quiet")

SEEDS = {"relay": 25, "consumer": 15, "product": 10, "mails": 15}
SEEDS_FOR_A_MISTAKE = 100


@pytest.mark.parametrize("name", STORIES)
def test_no_seed_finds_anything(name: str) -> None:
    failing = {seed: findings for seed in range(SEEDS[name]) if (findings := STORIES[name](seed).run())}
    assert not failing, f"python -m tests.simulation {name} {min(failing)}"


@pytest.mark.parametrize("name", MISTAKES)
def test_a_seed_finds_that(name: str) -> None:
    mistake = MISTAKES[name]
    seeds = [mistake.found_by, *range(SEEDS_FOR_A_MISTAKE)]
    assert any(mistake.findings(seed) for seed in seeds), "no seed finds it any more"


@pytest.mark.parametrize("story", STORIES.values())
def test_the_same_seed_tells_the_same_story(story: type[Story]) -> None:
    told: list[list[tuple[str, str, str]]] = [[], []]
    for lines in told:
        assert story(3, lambda *line, lines=lines: lines.append(tuple(map(str, line)))).run() == []
    assert told[0] == told[1]
    assert {"fault", "appends"} <= {does for does, _, _ in told[0]}
