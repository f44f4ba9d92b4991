"""The drill of an upgrade: it upgrades the last release and goes back, and an incompatible change breaks it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.drill.command import Lines, described, under_traffic
from deploy.drill.steps import QUICK, UpgradeDrill
from deploy.drill.versions import Version, in_checkout, last_release, this
from deploy.local.errors import StackError
from deploy.operator.cli.output import out
from deploy.paths import CHECKOUT, STATE
from tests.integration.test_versions import BREAKING, next_version

WITHIN_S = 60.0


def _old() -> Version:
    """Return the last release; this version where its commit is not here."""
    try:
        return last_release()
    except StackError:
        return in_checkout(CHECKOUT)


def _claiming_too_much(directory: Path) -> Version:
    """Return a next version, one of whose migrations breaks the version before, though it says that it does not."""
    next_version(directory, BREAKING, compatible=True)
    for name in ("deploy", "requirements"):
        shutil.copytree(CHECKOUT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    return in_checkout(directory)


@pytest.mark.drill
def test_the_last_release_is_upgraded_and_goes_back_and_an_incompatible_migration_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = _old(), this()
    old.install(print)
    place = STATE / f"test-{os.getpid()}-drill"
    with under_traffic(place, old, 2, out) as (fleet, connected, traffic):
        result = UpgradeDrill(fleet, connected, traffic, old, new, WITHIN_S).run(Lines(out), quick=True)
        assert result.broken is None
        there = [f"{service}-1: {old.name} → {new.name}" for service in QUICK]
        back = [f"{service}-1: {new.name} → {old.name}" for service in reversed(QUICK)]
        assert [step.name for step in result.steps[-5:-1]] == [*there, *back]
        assert all(step.figures and step.figures.commands for step in result.steps if "audit" not in step.name)
        assert described(result, old, new)["ok"] is True
        assert min(result.commands, result.mails) > 50

        broken = UpgradeDrill(fleet, connected, traffic, old, _claiming_too_much(tmp_path / "next"), WITHIN_S)
        found = broken.run(Lines(out), quick=True).broken
    shutil.rmtree(place)
    assert re.match(r"migrate .*: ledger parked \d+ messages, .* for NotNullViolation 23502", found or "")
    assert there[0] in capsys.readouterr().out


def test_a_directory_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    popfax = str(Path(sys.executable).with_name("popfax"))
    command = [popfax, "drill", "upgrade", "--from", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "is no checkout of the product" in done.stderr) == (2, True)
