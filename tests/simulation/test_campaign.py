"""A campaign goes on where it was interrupted, says what it covered, and sends more of what leads to rare cells."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tests.simulation import campaign
from tests.simulation.campaign import ALL_FAULTS, MOST, PLAIN, RARE, CoveredWorld, Progressed
from tests.simulation.commands import COMMANDS
from tests.simulation.world import World

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "CHUNK", 1)
    monkeypatch.setattr(campaign, "ROUND", 2)


@pytest.mark.usefixtures("small")
def test_an_interrupted_campaign_ends_like_one_that_was_not(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    whole = campaign.campaign(tmp_path / "whole", 3, 1, console)
    lines = (tmp_path / "whole").read_text().splitlines(keepends=True)
    cut = tmp_path / "cut"
    cut.write_text("".join(lines[:2]) + lines[2][:100])
    resumed = campaign.campaign(cut, 3, 1, console)
    assert (resumed.covered, resumed.weights, resumed.done) == (whole.covered, whole.weights, {0, 1, 2})
    assert whole.weights_of(0) == [*PLAIN]
    assert whole.weights_of(2) != PLAIN
    campaign.report(whole, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "never visited" in printed
    assert "3 seeds" in printed


def test_what_was_covered_is_the_same_in_every_run_and_watching_changes_nothing() -> None:
    first, again, plain = CoveredWorld(11), CoveredWorld(11), World(11)
    assert first.run() == again.run() == plain.run() == []
    assert first.covered == again.covered
    assert [len(log) for log in first.bus.logs.values()] == [len(log) for log in plain.bus.logs.values()]
    faults = {fault for _, _, fault in first.covered}
    assert "none" in faults
    assert faults <= set(ALL_FAULTS)
    assert any(state != "nothing yet" for _, state, _ in first.covered)


def test_a_command_that_leads_to_rare_cells_weighs_more() -> None:
    plain = {make.__name__: weight for weight, make in COMMANDS}
    led = {name: {"groups often": 9} for name in plain}
    led |= {"leave_group": {"groups often": 5, "ledger rarely": 3}, "detach_members": {"ledger rarely": 1}}
    del led["sent_again"]
    covered = {("groups often", "there", fault): RARE for fault in ALL_FAULTS} | {("ledger rarely", "there", "none"): 1}
    found = dict(zip(plain, campaign.weights(covered, led), strict=True))
    grown = {name: found[name] / weight for name, weight in plain.items() if found[name] > weight}
    share = plain["leave_group"] / plain["detach_members"] / 3
    expected = {"leave_group": MOST, "detach_members": 1 + (MOST - 1) * share}
    assert grown == pytest.approx(expected, rel=1e-3), "by their share, for as often as they are sent"


def test_what_a_command_leads_to_in_other_services_is_known() -> None:
    world = CoveredWorld(11)
    world.run()
    assert world.led["create_member_account"]["groups groups.create-member-account.v1"]
    assert world.led["create_member_account"]["ledger ledger.reserve-units.v1"]


def test_a_handler_that_no_seed_reached_is_named() -> None:
    assert "ledger ledger.capture-hold.v1" in campaign.never_called({})
    assert "ledger ledger.capture-hold.v1" not in campaign.never_called({("ledger ledger.capture-hold.v1", "", ""): 1})


def test_a_finding_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    line = {"chunk": 0, "findings": {"7": ["broken"]}, "covered": [["groups a", "b", "none", 2]], "led": {}}
    path.write_text(json.dumps({"round": 0, "weights": PLAIN}) + "\n" + json.dumps(line) + "\n")
    told = Progressed.read(path)
    assert told.findings == {7: ["broken"]}
    assert told.covered["groups a", "b", "none"] == 2
