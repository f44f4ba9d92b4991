"""What a saga and a transfer cost is what was recorded, and the comparison can fail."""

import json
import os
import subprocess
import sys

import pytest

from tests.guard.costs import Costs, compare, recorded


def measured(module: str = "tests.guard") -> Costs:
    """Count in a process of its own: what has run in this one before must not matter."""
    command = [sys.executable, "-m", module, "--print"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    costs: Costs = json.loads(done.stdout)
    return costs


def test_costs_are_those_recorded() -> None:
    moved = compare(recorded(), measured())
    if moved:
        pytest.fail(
            "\n".join(["What a message costs has changed by more than 3 %:", *moved])
            + "\nIf this is meant, run `make costs`, and commit tests/guard/costs.json together with the change.",
            pytrace=False,
        )


def test_guard_names_what_is_wasted() -> None:
    lines = compare(recorded(), measured("tests.guard.wasteful"))
    moved = {line.partition(" → ")[0].rpartition(":")[0] for line in lines}
    assert {"saga, ledger: statements per batch", "transfer, groups: statements per batch"} <= moved
    assert any(name.startswith("saga, groups: calls in Python") for name in moved)
    assert not any(name.endswith(("rows written", "messages relayed", "bytes on the wire")) for name in moved)


def test_small_moves_pass_and_larger_ones_are_told_with_both_figures() -> None:
    before = {"saga, ledger: rows written": 10.0, "saga, ledger: gone": 1.0}
    assert compare(before, {"saga, ledger: rows written": 10.2, "saga, ledger: gone": 1.0}) == []
    assert compare(before, {"saga, ledger: rows written": 10.4, "saga, ledger: new": 1.0}) == [
        "saga, ledger: gone: 1.0 → not counted",
        "saga, ledger: new: not recorded → 1.0",
        "saga, ledger: rows written: 10.0 → 10.4",
    ]


def test_improvements_have_to_be_recorded_too() -> None:
    assert compare({"saga, ledger: rows written": 10.0}, {"saga, ledger: rows written": 9.0}) != []
