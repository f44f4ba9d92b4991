"""Grafana's dashboards: committed as the tables say, with panels beside each other, and queries that name metrics."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from deploy.observability import files, panels
from deploy.observability.alerts import ALERTS, OBJECTIVES
from deploy.observability.dashboards import WIDTH
from deploy.observability.panels import BOARDS
from deploy.observability.rules import groups
from popfax_contracts.topics import SERVICES
from tests.observability import promql
from tests.observability.known import known_metrics

Dashboard = dict[str, Any]

COMMITTED = {path.stem: json.loads(path.read_text()) for path in sorted((files.HERE / files.DASHBOARDS).glob("*.json"))}


def test_generated_files_are_what_the_tables_say() -> None:
    assert files.stale() == [], "run `make docs`"


def test_a_file_that_was_changed_is_missing_or_is_left_over_is_found_and_written_again(tmp_path: Path) -> None:
    assert files.write(tmp_path) == sorted(files.contents())
    (tmp_path / files.RULES).write_text("groups: []\n")
    (tmp_path / files.DASHBOARDS / "ledger.json").unlink()
    (tmp_path / files.DASHBOARDS / "old.json").write_text("{}")
    wrong = [files.DASHBOARDS / "ledger.json", files.DASHBOARDS / "old.json", files.RULES]
    assert files.stale(tmp_path) == wrong
    assert files.write(tmp_path) == wrong
    assert files.stale(tmp_path) == []


def test_there_is_an_overview_and_one_dashboard_per_service() -> None:
    assert [board.name for board in BOARDS] == ["overview", "groups", "ledger", "provisioning", "notifications"]
    assert set(COMMITTED) == {"overview", *SERVICES}
    assert [each["uid"] for each in COMMITTED.values()] == [f"popfax-{name}" for name in COMMITTED]


@pytest.mark.parametrize("name", COMMITTED)
def test_panels_stand_beside_each_other_and_say_what_they_answer(name: str) -> None:
    assert faults(COMMITTED[name]) == []


def test_panels_that_overlap_or_say_nothing_are_found() -> None:
    dashboard = json.loads(json.dumps(COMMITTED["ledger"]))
    graphs = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    graphs[1]["gridPos"] = graphs[0]["gridPos"]
    graphs[2]["gridPos"]["x"] = 20
    graphs[3]["description"] = ""
    del graphs[4]["targets"][0]
    assert faults(dashboard) == [
        "Time in Kafka ends at column 32 of 24",
        "Time of a batch has no question",
        "Messages in a batch has no query",
        "Handled and Lag overlap",
        "Time in Kafka and Time of a batch overlap",
    ]


def faults(dashboard: Dashboard) -> list[str]:
    """Return what a person would stumble over: panels beyond the edge or on each other, without question or query."""
    found = []
    graphs = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    for panel in graphs:
        if (end := panel["gridPos"]["x"] + panel["gridPos"]["w"]) > WIDTH:
            found.append(f"{panel['title']} ends at column {end} of {WIDTH}")
        if not panel.get("description"):
            found.append(f"{panel['title']} has no question")
        if not panel.get("targets"):
            found.append(f"{panel['title']} has no query")
    found += [
        f"{one['title']} and {other['title']} overlap"
        for one, other in combinations(dashboard["panels"], 2)
        if _overlap(one["gridPos"], other["gridPos"])
    ]
    return found


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


def test_every_metric_that_a_panel_or_a_rule_names_is_defined() -> None:
    assert promql.unknown(expressions(), known_metrics()) == {}


def expressions() -> list[str]:
    """Return every expression of every panel and rule."""
    return [*panels.queries(), *(rule["expr"] for group in groups(ALERTS, OBJECTIVES) for rule in group["rules"])]
