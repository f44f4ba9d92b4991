"""Two minutes of the nemesis: a schedule that has nearly all kinds of faults, and nothing is broken by it."""

import faulthandler
import os
import warnings
from pathlib import Path

import pytest
from rich.console import Console

from deploy.paths import STATE
from tests.nemesis.report import print_report
from tests.nemesis.run import Run

pytestmark = pytest.mark.usefixtures("quiet")

MINUTES = 2.0
SEED = 433
"""A schedule whose 24 faults are all of different kinds, and restart little that is slow to start."""
PER_S = 6.0
"""Commands per second: other tests run at the same time."""


@pytest.fixture
def directory() -> Path:
    """Return where it runs. It removes this itself."""
    return STATE / f"test-{os.getpid()}-nemesis"


@pytest.mark.filterwarnings("default::pytest.PytestWarning")
def test_two_minutes_of_everything_break_nothing(directory: Path) -> None:
    """What it prints, the report with all histories, is shown if it fails; a warning says what could not be tried."""
    faulthandler.cancel_dump_traceback_later()  # it may take longer than any other test, and bounds itself
    result = Run(directory, SEED, MINUTES, print, per_s=PER_S).run()
    print_report(result, Console(width=160))
    if skipped := [f"{each.planned}: {each.skipped}" for each in result.struck if each.skipped]:
        warnings.warn(pytest.PytestWarning(f"the nemesis skipped {'; '.join(skipped)}"), stacklevel=1)
    assert [str(each) for each in result.breaches] == []
    assert len(result.took_place) >= 6 * MINUTES
    asked = len(result.answers.asked)
    assert len(result.answers.waited_s) >= 0.9 * asked >= 0.5 * PER_S * MINUTES * 60
