"""The parts of the upgrade drill that need no product: what answers say, and where versions come from."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.drill.asked import Asked, Figures, answered_wrongly, figures, unanswered
from deploy.drill.versions import Version, in_checkout, last_release
from deploy.local.errors import StackError
from deploy.operator.cli.wire import Seen
from deploy.paths import CHECKOUT
from popfax_contracts.codes import LedgerCode
from popfax_contracts.ledger import CreditRefused, CreditUnits, UnitsCredited
from popfax_contracts.message import Message

START = datetime(2026, 3, 1, tzinfo=UTC)
PACKAGES = Path("requirements/operator.txt")


def _asked(at_s: float, *answers: tuple[float, Message]) -> Asked:
    command = CreditUnits(credit_id=uuid4(), account_id=uuid4(), amount_units=1)
    made = Asked("1", command, START + timedelta(seconds=at_s))
    for number, (after_s, body) in enumerate(answers):
        at = made.at + timedelta(seconds=after_s)
        made.answers[str(number)] = Seen("", 0, 0, at, str(number), body.TYPE, "", "1", "1", body)
    return made


CREDITED = UnitsCredited(credit_id=uuid4(), account_id=uuid4(), amount_units=1)
REFUSED = CreditRefused(
    credit_id=uuid4(), account_id=uuid4(), command_type=CreditUnits.TYPE, code=LedgerCode.ID_CONFLICT
)


def test_one_outcome_is_right() -> None:
    assert answered_wrongly([_asked(0, (1, CREDITED)), _asked(0)]) == []


@pytest.mark.parametrize("answers", [[(1, CREDITED), (2, CREDITED)], [(1, REFUSED)]], ids=["two", "a refusal"])
def test_two_outcomes_and_a_refusal_are_wrong(answers: list[tuple[float, Message]]) -> None:
    (found,) = answered_wrongly([_asked(0, (1, CREDITED)), _asked(0, *answers)])
    assert found.startswith("CreditUnits 1 was answered by ")


def test_what_has_no_outcome_is_unanswered() -> None:
    left = _asked(3)
    assert unanswered([_asked(0, (1, CREDITED)), left]) == [left]


def test_a_step_has_the_gap_between_its_answers_and_its_slowest_one() -> None:
    asked = [_asked(0, (1, CREDITED)), _asked(1, (7, CREDITED)), _asked(11, (1, CREDITED))]
    assert figures(asked, START, START + timedelta(seconds=10)) == Figures(2, 7.0, 7.0)


def test_a_version_whose_packages_are_all_here_runs_in_our_environment(tmp_path: Path) -> None:
    version = _version(tmp_path, (CHECKOUT / PACKAGES).read_text())
    version.install(pytest.fail)
    assert version.python == sys.executable


def test_a_version_with_other_packages_has_them_installed_once(tmp_path: Path) -> None:
    said: list[str] = []
    version = _version(tmp_path, "not-there==1 ; python_version < '3'\nrich==1 ; python_version < '3'\n")
    version.install(said.append)
    version.install(said.append)
    assert said == [f"installing the packages of {tmp_path.name}"]
    assert subprocess.run([version.python, "-c", "import rich"], capture_output=True, check=False).returncode == 1


def test_a_release_whose_commit_is_not_here_is_asked_for(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "releases.toml").write_text(f'[[release]]\nversion = "1"\ncommit = "{"0" * 40}"\n')
    with pytest.raises(StackError, match=r"git fetch --unshallow"):
        last_release(tmp_path, tmp_path / "state")


def _version(directory: Path, packages: str) -> Version:
    (directory / "services").mkdir()
    (directory / PACKAGES).parent.mkdir()
    (directory / PACKAGES).write_text(packages)
    return in_checkout(directory)
