"""Two minutes of the nemesis: a schedule that has most kinds of faults, and nothing is broken by it."""

import faulthandler
import os
from pathlib import Path

import pytest
from rich.console import Console

from deploy.paths import STATE
from tests.nemesis.report import Result, print_report
from tests.nemesis.run import Run

pytestmark = pytest.mark.usefixtures("quiet")

MINUTES = float(os.environ.get("NEMESIS_MINUTES", "2"))
SEED = int(os.environ.get("NEMESIS_SEED", "1"))


@pytest.fixture
def directory() -> Path:
    """Return where it runs. It removes this itself."""
    return STATE / f"test-{os.getpid()}-nemesis"


@pytest.mark.drill
def test_two_minutes_of_everything_break_nothing(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faulthandler.cancel_dump_traceback_later()  # it may take longer than any other test, and bounds itself
    with capsys.disabled():
        result: Result = Run(directory, SEED, MINUTES, print).run()
        print_report(result, Console(width=160))
    assert [str(each) for each in result.breaches] == []
    assert len(result.took_place) >= 4 * MINUTES
    assert len(result.answers.waited_s) >= 0.9 * len(result.answers.asked) > 300 * MINUTES
