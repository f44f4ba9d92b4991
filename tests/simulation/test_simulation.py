"""Thousands of ways in which the product can be interrupted, and no invariant broken by any of them."""

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from math import inf
from multiprocessing import get_context
from time import monotonic

import pytest

from deploy.operator import snapshots
from tests.quiet import silence_logs
from tests.simulation.mutations import FOUND_BY, MUTATIONS, NOT_NAMED
from tests.simulation.world import SERVICES, World

pytestmark = pytest.mark.usefixtures("quiet")

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "2000"))
FIRST_SEED = int(os.environ.get("SIMULATION_FIRST_SEED", "0"))
SECONDS = float(os.environ.get("SIMULATION_SECONDS", "12"))
"""The time limit for all seeds but the first `LEAST`, in seconds. The test says how many seeds were tried."""

PROCESSES = 2
CHUNK = 50
LEAST = 300
"""How many seeds are tried however slow the machine is: fewer prove nothing."""

SEEDS_FOR_A_MUTATION = 300
RARELY_READ_AGAIN = 251
"""A seed in which the rarest message without a row of the inbox is read again, to be tried first."""


def run_seeds(seeds: range, until: float) -> tuple[int, dict[int, list[str]]]:
    """Run seeds until the time is over; return how many were run, and the findings of each failing one."""
    found: dict[int, list[str]] = {}
    done = 0
    for seed in seeds:
        if seed >= FIRST_SEED + LEAST and monotonic() > until:
            break
        done += 1
        if findings := World(seed).run():
            found[seed] = findings
    return done, found


def test_no_seed_breaks_an_invariant() -> None:
    chunks = [
        range(first, min(first + CHUNK, FIRST_SEED + SEEDS)) for first in range(FIRST_SEED, FIRST_SEED + SEEDS, CHUNK)
    ]
    end = monotonic() + SECONDS
    until = [inf if chunk.start < FIRST_SEED + LEAST else end for chunk in chunks]
    with ProcessPoolExecutor(PROCESSES, get_context("spawn"), initializer=silence_logs) as pool:
        results = list(pool.map(run_seeds, chunks, until))
    tried = sum(done for done, _ in results)
    failing = {seed: findings for _, found in results for seed, findings in found.items()}
    lines = [
        f"python -m tests.simulation {seed}\n    " + "\n    ".join(failing[seed][:5]) for seed in sorted(failing)[:5]
    ]
    assert not failing, f"{len(failing)} of {tried} seeds find something; replay with\n" + "\n".join(lines)
    print(f"{tried} seeds")


@pytest.mark.parametrize("name", MUTATIONS)
def test_finds_the_bug_that(name: str) -> None:
    mutation = MUTATIONS[name]
    seeds = sorted(range(SEEDS_FOR_A_MUTATION), key=lambda seed: seed != FOUND_BY.get(name))
    found_by = next((seed for seed in seeds if mutation.world(seed).run()), None)
    assert found_by is not None, f"{SEEDS_FOR_A_MUTATION} seeds did not notice: {name}"


@pytest.mark.parametrize("name", NOT_NAMED)
def test_a_set_that_is_not_named_raises_the_first_time_that_it_is_read(name: str) -> None:
    worlds = (NOT_NAMED[name].world(seed) for seed in range(SEEDS_FOR_A_MUTATION))
    world = next(world for world in worlds if world.run())
    failures = [failure for node in world.nodes for failure in node.shell.failures]
    assert failures
    assert all("NotLoaded" in failure for failure in failures), "nothing else failed, so nothing wrong was saved"


def test_reading_causes_before_their_effects_would_raise_false_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order in which an operator's audit reads a running product matters, and the simulation reads in it."""
    monkeypatch.setattr(snapshots, "READS", snapshots.READS[::-1])
    assert any(World(seed).run() for seed in range(SEEDS_FOR_A_MUTATION))


def test_every_message_without_a_row_of_the_inbox_is_read_again() -> None:
    """Reading it again is what shows that its handler knows a repetition."""
    missing = {model.TYPE.encode() for service in SERVICES for model in service.by_row}
    for seed in (RARELY_READ_AGAIN, *range(SEEDS_FOR_A_MUTATION)):
        world = World(seed)
        assert not world.run()
        missing -= world.read_again
        if not missing:
            return
    assert not missing


def test_the_same_seed_tells_the_same_story() -> None:
    stories = {_story(seed=11, hash_seed=hash_seed) for hash_seed in ("1", "2")}
    assert len(stories) == 1
    assert "create-member-account" in stories.pop()


def _story(seed: int, hash_seed: str) -> str:
    """Replay a seed in another process, where sets have another order."""
    command = [sys.executable, "-m", "tests.simulation", str(seed)]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
