"""The crash points as data: each seam is there, every step of a saga is in the matrix, and a trap springs once."""

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from popfax_contracts.ledger import HoldCaptured, UnitsReserved
from popfax_contracts.topics import Principal
from services.chassis.sagas import CancelSaga, RetrySaga
from services.chassis.service import Service
from services.groups.consumers import GROUPS
from services.groups.sagas import SAGAS as GROUPS_SAGAS
from services.ledger.consumers import LEDGER
from services.notifications.consumers import NOTIFICATIONS
from services.provisioning.consumers import PROVISIONING
from services.provisioning.sagas import SAGAS as PROVISIONING_SAGAS
from tests.crashpoints import __main__ as command
from tests.crashpoints import report, seams
from tests.crashpoints.matrix import CELLS, ROWS, rounds
from tests.crashpoints.planted import MISTAKES
from tests.crashpoints.running import Verdict
from tests.crashpoints.stories import STORIES
from tests.crashpoints.trap import About, Armed, Trap

SERVICES: dict[Principal, Service] = {each.principal: each for each in (GROUPS, LEDGER, PROVISIONING, NOTIFICATIONS)}


@pytest.mark.parametrize("where", sorted(seams.PLACES))
def test_seam_is_there(where: str) -> None:
    holder, name = seams.found(where)
    assert callable(getattr(holder, name))


def test_seam_that_is_gone_is_noticed() -> None:
    with pytest.raises(AttributeError):
        seams.found("services.chassis.relay:Relay.publish_all")


def test_every_point_is_in_the_matrix() -> None:
    assert {row.point for row in ROWS} == {seam.point for seam in seams.SEAMS}


def test_every_row_is_of_a_service_that_meets_its_message() -> None:
    for row in ROWS:
        if row.model is not None:
            handled = row.model in SERVICES[row.service].handlers
            said = any(topic.writer is row.service for topic in row.model.TOPICS)
            assert handled or said, row


def test_every_message_that_moves_a_saga_is_in_the_matrix_at_its_service() -> None:
    tried = {(row.service, row.model) for row in ROWS}
    for service, sagas in ((Principal.GROUPS, GROUPS_SAGAS), (Principal.PROVISIONING, PROVISIONING_SAGAS)):
        moving = sagas._references.keys() - {RetrySaga, CancelSaga}  # an operator's
        assert UnitsReserved in moving
        assert {(service, model) for model in moving} <= tried


def test_every_row_has_its_story_and_every_story_a_row() -> None:
    assert {row.story for row in ROWS if row.story} == set(STORIES)


def test_no_two_cells_are_called_the_same() -> None:
    assert len({cell.name for cell in CELLS}) == len(CELLS) > 280


def test_rounds_have_every_cell_once_and_crash_each_service_once_at_most() -> None:
    made = list(rounds(CELLS, 4))
    assert sorted(cell.name for cells in made for cell in cells) == sorted(cell.name for cell in CELLS)
    assert len(made) < len(CELLS) / 2
    for cells in made:
        assert len({cell.row.service for cell in cells}) == len(cells)
        assert len({cell.replicas for cell in cells}) == 1
        assert sum(cell.row.story in STORIES and STORIES[cell.row.story].holds for cell in cells) <= 1


def test_every_planted_mistake_is_in_a_function_that_is_there_and_has_its_cell() -> None:
    for mistake in MISTAKES.values():
        seams.found(mistake.where)
        assert [cell.name for cell in CELLS].count(mistake.cell) == 1


# --- traps ------------------------------------------------------------------------------------------------------------

CAUSE = "5b7c1a7e-0000-4000-8000-000000000001"


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    made = Trap(tmp_path / "ledger")
    made.arm(Armed("before the commit", UnitsReserved.TYPE, (CAUSE,), signal.SIGKILL))
    return made


@pytest.mark.parametrize(
    ("point", "model", "text"),
    [
        ("after the commit", UnitsReserved, CAUSE),
        ("before the commit", HoldCaptured, CAUSE),
        ("before the commit", UnitsReserved, "5b7c1a7e-0000-4000-8000-000000000002"),
    ],
)
def test_trap_lets_pass_what_it_is_not_for(trap: Trap, point: str, model: Any, text: str) -> None:
    trap.pass_by(point, [About(model.TYPE, text)])
    assert trap.sprung_by() is None


def test_trap_is_sprung_once_by_the_process_that_gets_there_first(trap: Trap, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.crashpoints.trap import About, Trap\n"
        "Trap(Path(sys.argv[1])).pass_by('before the commit', [About(sys.argv[2], sys.argv[3])])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "ledger"), UnitsReserved.TYPE, CAUSE]
    first = subprocess.Popen(command)
    assert first.wait(60) == -signal.SIGKILL
    assert trap.sprung_by() == first.pid
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
    trap.disarm()
    assert trap.sprung_by() is None


# --- seams that are passed --------------------------------------------------------------------------------------------


def test_process_passes_a_point_before_and_after_what_it_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def point(side: str) -> seams.Seam:
        return seams.Seam(side, "", side, lambda call: [About(None, call["rows"])])

    def publish(rows: str) -> str:
        said.append("published")
        return rows

    def pass_by(name: str, abouts: Any) -> None:
        said.append(f"{name} {[about.text for about in abouts]}")

    wrapped = seams._at(point("before"), seams._at(point("after"), publish, pass_by), pass_by)
    assert wrapped(rows="r") == "r"
    assert said == ["before ['r']", "published", "after ['r']"]


# --- the table --------------------------------------------------------------------------------------------------------


def test_table_tells_what_holds_what_is_broken_and_what_proves_nothing(tmp_path: Path) -> None:
    path, (first, second, third) = tmp_path / "kept.jsonl", CELLS[:3]
    for verdict in (
        Verdict(first, True, ["lost"], 1.0),
        Verdict(first, True, [], 1.0),  # the newest counts
        Verdict(second, True, ["units are gone"], 1.0),
        Verdict(third, False, [], 1.0),
    ):
        report.keep(verdict, path)
    made = report.table(report.kept(path)).splitlines()
    assert made[2] == f"| {first.row.point} | {first.row.what} | ✓ | – | **broken** | – |"
    assert "not reached" in made[3]
    assert made[-1] == f"1 of {len(CELLS)} cells hold, 1 are broken, 1 points were not reached."


def test_cells_are_chosen_by_number_by_name_and_by_what_holds_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "KEPT", tmp_path / "kept.jsonl")
    assert command.chosen(begin=300) == list(CELLS[300:])
    assert {cell.row.service for cell in command.chosen(only=["ledger", "· 2"])} == {Principal.LEDGER}


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    def run(*rounds: Sequence[Verdict]) -> int:
        monkeypatch.setattr(command, "tried", lambda *_: rounds)
        return command.main(["--only", "before the handler"])

    monkeypatch.setattr(report, "KEPT", tmp_path / "kept.jsonl")
    return run


@pytest.mark.parametrize(("reached", "violations", "code"), [(True, [], 0), (True, ["lost"], 1), (False, [], 1)])
def test_run_fails_for_a_broken_cell_and_for_one_that_proves_nothing(
    outcomes: Callable[..., int], reached: bool, violations: list[str], code: int
) -> None:
    assert outcomes([Verdict(CELLS[0], reached, violations, 1.0)]) == code


def test_run_fails_for_a_round_that_does_not_hold_though_each_of_its_cells_does(
    outcomes: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = CELLS[:2]
    held = [Verdict(cell, True, [], 1.0) for cell in (first, second)]
    assert outcomes([held[0], Verdict(second, True, ["lost"], 1.0)], held[:1], held[1:]) == 1
    assert set(report.kept()) == {first.name, second.name}
    assert "Together they did not hold" in capsys.readouterr().out
