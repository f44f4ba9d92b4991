"""What a run reports is what has happened."""

import json
from collections import Counter
from io import StringIO

import pytest
from rich.console import Console

from popfax_contracts.ledger import CreditUnits, UnitsCredited
from tests.e2e.driver import Seen
from tests.nemesis.judges import Breach
from tests.nemesis.report import HEAD, Answers, Result, Struck, bound, percentiles, print_campaign, print_report
from tests.nemesis.run import Stillness
from tests.nemesis.schedule import Planned


def _asked(at: float, structured: bool = False) -> Seen:
    if structured:
        document = {"specversion": "1.0", "id": "c", "type": CreditUnits.TYPE, "source": "s", "data": {}}
        headers = [("content-type", b"application/cloudevents+json")]
        return Seen("commands", 0, 0, b"k", json.dumps(document).encode(), headers, at)
    return Seen("commands", 0, 0, b"k", b"{}", [("ce_id", b"c"), ("ce_type", CreditUnits.TYPE.encode())], at)


def _told(at: float, type_: str = UnitsCredited.TYPE) -> Seen:
    headers = [("ce_id", b"e"), ("ce_type", type_.encode()), ("ce_correlationid", b"c"), ("ce_causationid", b"c")]
    return Seen("events", 0, 0, b"k", b"{}", headers, at)


def _followed(*records: Seen) -> Answers:
    answers = Answers()
    for number in range(len(records) + 1):
        answers.follow(records[:number], {"c": CreditUnits.TYPE})
    return answers


@pytest.mark.parametrize("structured", [False, True])
def test_a_command_waits_from_its_record_to_its_outcomes(structured: bool) -> None:
    assert _followed(_asked(1.0, structured), _told(3.5)).waited_s == {"c": 2.5}
    assert _followed(_told(3.5), _asked(1.0, structured)).waited_s == {"c": 2.5}, "there is no order between partitions"
    assert _followed(_asked(1.0, structured), _told(3.5, "another.v1")).waited_s == {}


def _result(*breaches: Breach) -> Result:
    struck = [
        Struck(Planned("kill", "ledger-1", 5, 10, 1), 100.0, 110.0),
        Struck(Planned("set the clock back", "ledger", 5, 10, 1), 100.0, 100.0, "no libfaketime"),
    ]
    answers = _followed(_asked(105.0), _told(107.0))
    ended, api = {"ledger-1": 0}, Counter({"200": 4})
    return Result(7, 2, 3, 2, Counter(), 0, answers, api, struck, ended, 12.3, 0, 5, breaches)


def test_a_report_says_what_was_skipped_and_what_is_broken() -> None:
    console = Console(width=160, record=True, file=StringIO())
    print_report(_result(Breach("log", "c", "lost")), console)
    text = console.export_text()
    assert "skipped: set the clock back (ledger): no libfaketime" in text
    assert "✗ log: c: lost" in text
    assert "SEED=7" in text
    print_report(_result(), console)
    assert "✓ no violation in 1 faults" in console.export_text()


def test_a_campaign_adds_its_runs_up() -> None:
    console = Console(width=160, record=True, file=StringIO())
    print_campaign([_result(), _result()], console)
    text = console.export_text()
    lines = {line.split("  ")[0].strip(): line.split()[-3:] for line in text.splitlines() if line}
    assert lines["kill"] == ["kill", "2", "20"]
    assert lines["set the clock back"] == ["0", "0", "2"]
    assert "✓ no violation in 2 faults" in text
    assert text.count(_result().row()) == 2
    print_campaign([_result(), _result(Breach("log", "c", "lost"))], console)
    assert "1 violations" in console.export_text()


def test_a_row_fits_the_table() -> None:
    row = _result().row()
    assert row.count("|") == HEAD.splitlines()[0].count("|")
    assert row == "| 7 | 2 | 1 | 1 | - | - | 12 s | 0 |"


def test_percentiles_and_the_rule_of_three() -> None:
    assert percentiles([float(n) for n in range(101)]) == "50.00 / 99.0 s"
    assert "fewer than 1.0% of" in bound(300)


def test_what_does_not_move_for_too_long_is_found() -> None:
    stillness = Stillness(10.0)
    assert [stillness.is_over(state, at) for state, at in (("a", 0), ("a", 9), ("b", 12), ("b", 21))] == [False] * 4
    assert stillness.is_over("b", 23)
