"""Prometheus' rules: promtool accepts them, and shows when each one is quiet, when it fires, when it is over."""

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.observability import files
from deploy.observability.alerts import ALERTS, OBJECTIVES, names
from deploy.observability.pace import Pace
from deploy.observability.rules import as_yaml, groups
from tests.observability import rule_cases
from tests.observability.programs import find_or_unpack

GROUPS = groups(ALERTS, OBJECTIVES)


@pytest.fixture(scope="module")
def promtool() -> str:
    return find_or_unpack("promtool")


def _run(promtool: str, *arguments: object) -> tuple[int, str]:
    done = subprocess.run([promtool, *map(str, arguments)], capture_output=True, text=True, timeout=250, check=False)
    return done.returncode, done.stdout + done.stderr


def _test(promtool: str, directory: Path, of: Sequence[dict[str, Any]]) -> tuple[int, str]:
    for group in of:
        rules = directory / f"{group['name']}.yaml"
        rules.write_text(as_yaml({"groups": [group]}))
        for number, document in enumerate(rule_cases.documents(group["name"], str(rules))):
            rules.with_suffix(f".{number}.test").write_text(as_yaml(document))
    return _run(promtool, "test", "rules", *sorted(directory.glob("*.test")))


def test_rules_are_what_the_table_says_and_promtool_accepts_them(promtool: str) -> None:
    assert files.RULES not in files.stale(), "run `make docs`"
    committed = files.HERE / files.RULES
    assert yaml.safe_load(committed.read_text()) == {"groups": GROUPS}
    assert _run(promtool, "check", "rules", committed)[0] == 0


def test_each_rule_is_quiet_fires_and_ends_as_it_should(promtool: str, tmp_path: Path) -> None:
    code, said = _test(promtool, tmp_path, GROUPS)
    assert code == 0, said


def test_an_alert_that_fires_too_early_is_found(promtool: str, tmp_path: Path) -> None:
    alerts = [replace(alert, lasting="0s") for alert in ALERTS["outbox"]]
    code, said = _test(promtool, tmp_path, groups({"outbox": alerts}, ()))
    assert code == 1
    assert "PopfaxRelayLeaderless" in said
    assert "PopfaxOutboxOld" not in said


def test_every_rule_has_a_case() -> None:
    assert _without_case(GROUPS) == set()


def test_a_rule_without_a_case_is_found() -> None:
    extra = replace(ALERTS["outbox"][0], name="PopfaxExtra")
    assert _without_case(groups({"outbox": [*ALERTS["outbox"], extra]}, ())) == {("PopfaxExtra", "critical", "")}


def _without_case(of: Sequence[dict[str, Any]]) -> set[tuple[str, str, str]]:
    documents = [document for group in of for document in rule_cases.documents(group["name"], "")]
    return rule_cases.rules(of) - rule_cases.tested(documents)


def test_no_two_alerts_share_a_name() -> None:
    assert len(names()) == len(set(names()))


def test_a_test_divides_every_duration_and_changes_nothing_else() -> None:
    pace = Pace(60)
    assert pace.duration("5m") == "5000ms"
    assert pace.expression('rate(a{what="5m"}[5m]) > 15m and b >= 3 and c > 0.05') == (
        'rate(a{what="5m"}[5000ms]) > 15 and b >= 3 and c > 0.05'
    )
    assert Pace().expression("a[1h] > 5m") == "a[1h] > 300"
