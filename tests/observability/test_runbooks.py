"""Every alert has a runbook of the same form, whose commands exist and whose queries name metrics that exist."""

from pathlib import Path

import pytest

from deploy.observability.alerts import names
from tests.observability import promql, runbooks
from tests.observability.known import known_metrics
from tests.observability.runbooks import RUNBOOKS


def test_every_alert_has_a_runbook_and_no_runbook_is_left_over() -> None:
    assert sorted(path.stem for path in RUNBOOKS.glob("*.md")) == sorted(names())


@pytest.mark.parametrize("name", names())
def test_runbook_has_the_form_and_commands_that_can_be_typed(name: str) -> None:
    assert runbooks.faults(RUNBOOKS / f"{name}.md", known_metrics()) == []


def test_a_runbook_of_another_form_is_found(tmp_path: Path) -> None:
    text = (RUNBOOKS / "PopfaxOutboxOld.md").read_text()
    other = tmp_path / "PopfaxOutboxOld.md"
    for old, new, fault in (
        ("# PopfaxOutboxOld\n", "# OutboxOld\n", "the title is"),
        ("## Impact\n", "## Consequences\n", "the sections are"),
        ("```sh\npopfax topics\n```", "", None),
    ):
        other.write_text(text.replace(old, new, 1))
        found = runbooks.faults(other, known_metrics())
        assert (found == []) if fault is None else any(fault in each for each in found), found
    other.write_text(text[: text.index("## Repair")] + "## Repair\n\nWait.\n")
    assert runbooks.faults(other, known_metrics()) == ["Repair has no command"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("popfax parked list", None),
        ("popfax parked show MESSAGE", None),
        ("popfax parked lost", "No such command 'lost'"),
        ("popfax parked list --sevrice ledger", "No such option: --sevrice"),
        ("popfax parked show", "Missing argument"),
        ("popfax audit now", "unexpected extra argument"),
        ("curl -s $REPLICA/ready", None),
        ("curl -s $REPLICA/health", "only $REPLICA/live"),
        ("python -m services.chassis.migrate groups", None),
        ("python -m services.chassis.migrat groups", "there is no module"),
        ("promtool query instant $PROMETHEUS 'sum(popfax_relay_leader)'", None),
        ("promtool query instant $PROMETHEUS 'sum(popfax_relay_leaders)'", "no such metric"),
        ("promtool query instant $PROMETHEUS 'sum(popfax_relay_leader'", "unclosed"),
        ("promtool query instat $PROMETHEUS 'up'", "only `promtool query instant"),
        ("systemctl restart popfax", "not a program that a runbook may name"),
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str, fault: str | None) -> None:
    found = runbooks.fault_of(line, known_metrics())
    assert found is None if fault is None else found is not None and fault in found


def test_a_metric_that_nobody_exports_is_found() -> None:
    expression = (
        'sum by (job) (rate(popfax_mails_send_total[5m])) / on (job) up > 0 or absent(popfax_open{what="mail"})'
    )
    assert promql.unknown([expression], known_metrics()) == {expression: {"popfax_mails_send_total"}}
