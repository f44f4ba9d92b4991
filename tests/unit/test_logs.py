"""Logs: one line of JSON per event, known fields, and no flood."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.paths import CHECKOUT
from services.chassis.logs import EVERY_S, FIELDS, FREELY, Limit
from tests.documents.logs import Logged, logged

_SCRIPT = """
import logging, threading, warnings
import structlog
from services.chassis.logs import configure_logs

configure_logs("ledger", "json", "info")
log = structlog.get_logger("services.ledger.a")
log.info("plain", what="a\\nb")
for _ in range(25):
    log.warning("relay_failed", error="OSError")
log.warning("relay_failed", error="KafkaError")
for _ in range(3):
    logging.getLogger("aiokafka").error("no %s", "broker")
    logging.getLogger("librdkafka").error("%s %s", "FAIL", "1")
logging.getLogger("librdkafka").error("%s %s", "FATAL", "2")
logging.getLogger("librdkafka").info("not worth a line")
warnings.warn("deprecated")
try:
    1 / 0
except ZeroDivisionError:
    log.error("failed", exc_info=True)
thread = threading.Thread(target=lambda: {}["none"])
thread.start()
thread.join()
raise RuntimeError("the end")
"""


@pytest.fixture(scope="module")
def lines() -> list[dict[str, object]]:
    """What a process logs, each line read as JSON."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False, cwd=CHECKOUT)
    assert (done.returncode, done.stdout) == (1, "")
    return [json.loads(line) for line in done.stderr.splitlines()]


def of(lines: list[dict[str, object]], event: str) -> list[dict[str, object]]:
    return [line for line in lines if str(line["event"]).startswith(event)]


def test_everything_is_one_line_of_json_with_known_fields(lines: list[dict[str, object]]) -> None:
    always = {"timestamp", "level", "event", "logger", "service"}
    assert all(always <= line.keys() <= FIELDS.keys() for line in lines)
    assert {line["service"] for line in lines} == {"ledger"}, "also in other threads"
    assert (of(lines, "plain")[0]["what"], of(lines, "plain")[0]["logger"]) == ("a\nb", "services.ledger.a")
    assert "ZeroDivisionError" in str(of(lines, "failed")[0]["exception"])


def test_an_error_that_ends_a_thread_or_the_process_is_a_line_too(lines: list[dict[str, object]]) -> None:
    assert [(line["error"], line["level"]) for line in of(lines, "crashed")] == [
        ("KeyError", "critical"),
        ("RuntimeError", "critical"),
    ]
    assert len([line for line in lines if "deprecated" in str(line["event"])]) == 1


def test_what_repeats_itself_is_limited_and_what_differs_is_not(lines: list[dict[str, object]]) -> None:
    assert [line["error"] for line in of(lines, "relay_failed")] == ["OSError"] * FREELY + ["KafkaError"]
    assert len(of(lines, "no broker")) == 1
    assert [line["event"] for line in of(lines, "FA")] == ["FAIL 1", "FATAL 2"]
    assert of(lines, "not worth") == []


def _record(at: float, event: str = "relay_failed", level: int = logging.WARNING) -> logging.LogRecord:
    record = logging.LogRecord("services.a", level, "", 0, {"event": event}, (), None)
    record.created = at
    return record


def test_a_line_comes_now_and_then_and_says_how_many_were_left_out() -> None:
    limit, passed = Limit(), []
    for tenth in range(600):  # a minute, ten times a second
        if limit.filter(record := _record(tenth / 10)):
            passed.append(record)
    assert len(passed) == FREELY + 60 / EVERY_S - 1
    assert limit.filter(later := _record(1000))
    assert sum(vars(record)["suppressed"] for record in [*passed, later]) == 600 - len(passed)


def test_debugging_is_not_limited_and_memory_is() -> None:
    limit = Limit()
    assert all(limit.filter(_record(0, level=logging.DEBUG)) for _ in range(100))
    for number in range(5000):
        limit.filter(_record(0, f"event {number}"))
    assert len(limit._kinds) <= 1001


def test_every_field_of_every_line_is_documented() -> None:
    found = list(logged(CHECKOUT / "services"))
    assert len(found) > 30
    assert undocumented(found) == []
    of_us = {field for line in found for field in line.fields}
    general = {"timestamp", "level", "event", "logger", "service", "suppressed", "exception"}
    assert set(FIELDS) - general <= of_us, "what no line has"


def undocumented(lines: list[Logged]) -> list[str]:
    return [f"{line.module}: {line.event}: {field}" for line in lines for field in line.fields if field not in FIELDS]


def test_an_undocumented_field_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('log.info("begun", what=1, whom=2)\nlog.log(20, "ended", whose=3)\n')
    assert undocumented(list(logged(tmp_path))) == ["a: begun: whom", "a: ended: whose"]
