"""`popfax demo` as a person, or a pipe, runs it; and its checks on facts that don't hold."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from deploy.cli.connection import FILE_NAME
from deploy.cli.demo import show_checks, verdict
from deploy.cli.demo.checks import COMPENSATION, CREATION, Creation, Facts, checks
from deploy.cli.demo.reading import Balance
from deploy.cli.errors import Exit
from deploy.local.paths import CHECKOUT, STATE
from deploy.local.process import wait_until
from deploy.local.stack import remove_abandoned

DONE_WITHIN_S = 120

STORY = (
    "1. What is on sale",
    "send_receive  120 POP  365 days  yes",
    "2. Anne Martin signs up",
    "platform asks provisioning: register subscriber",
    "3. Anne creates an account for Sam Taylor",
    "groups asks ledger: reserve units",
    "provisioning says: account provisioned",
    "fax number +33199",
    "Anne                   -120   200 → 80",
    "Subject  Welcome to Popfax",
    "https://www.popfax.example/password?token=",
    "4. One more",
    "because: units_short",
    "5. Two owners want the same e-mail address",
    "because: email_taken",
    "groups asks ledger: release hold",
    "6. What was expected",
    "checks hold",
)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A demo's directory of this test's own."""
    remove_abandoned(STATE, "test-")
    made = STATE / f"test-demo-{time.time_ns()}"
    yield made
    remove_abandoned(STATE, made.name)


def popfax(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", "from deploy.cli import main; main()", *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "DEMO_EXIT": "1", "COLUMNS": "80", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def demo(directory: Path) -> "subprocess.Popen[str]":
    return popfax("demo", "--directory", str(directory))


def left_of(directory: Path) -> list[str]:
    """What still runs of a demo: every server of it names its directory on its command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        alive = process.info["status"] != psutil.STATUS_ZOMBIE
        if alive and any(str(directory) in argument for argument in process.info["cmdline"] or ()):
            found.append(" ".join(process.info["cmdline"]))
    return found


def test_tells_its_story_even_after_a_killed_run(directory: Path) -> None:
    killed = demo(directory)
    assert wait_until(lambda: bool(list(directory.glob("kafka/*.process.json"))), DONE_WITHIN_S)
    killed.kill()
    killed.communicate()

    with demo(directory) as told:
        out, err = told.communicate(timeout=DONE_WITHIN_S)
    assert told.returncode == Exit.OK, out + err
    assert err == ""
    assert [part for part in STORY if part not in out] == []
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out
    assert left_of(directory) == []


def test_ends_at_ctrl_c_with_nothing_left_and_no_traceback(directory: Path) -> None:
    running = demo(directory)
    assert wait_until(lambda: bool(list(directory.glob("*/*.process.json"))), DONE_WITHIN_S)
    running.send_signal(signal.SIGINT)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=DONE_WITHIN_S)
    assert running.returncode == Exit.INTERRUPTED
    assert err.splitlines() == ["popfax: interrupted"]
    assert left_of(directory) == []


def test_says_in_one_line_that_another_one_runs(directory: Path) -> None:
    first = demo(directory)
    try:
        assert wait_until(lambda: bool(list(directory.glob("*/*.process.json"))), DONE_WITHIN_S)
        with demo(directory) as second:
            _, err = second.communicate(timeout=DONE_WITHIN_S)
        assert second.returncode == Exit.UNREACHABLE
        assert len(err.splitlines()) == 1
    finally:
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=DONE_WITHIN_S)


def test_up_keeps_the_product_up_for_other_commands_until_ctrl_c(directory: Path) -> None:
    running = popfax("up", "--json", "--directory", str(directory))
    file = directory / FILE_NAME
    assert wait_until(file.exists, DONE_WITHIN_S)
    with popfax("ledger", "verify", "--env-file", str(file)) as other:
        out, err = other.communicate(timeout=DONE_WITHIN_S)
    assert other.returncode == Exit.OK, out + err
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=DONE_WITHIN_S)
    assert running.returncode == Exit.OK
    assert json.loads(out)["env_file"] == str(file)
    assert not file.exists()
    assert left_of(directory) == []


REFUSED = Creation(
    types=("create-member-account", "member-account-refused"),
    unhandled=(),
    code="units_short",
    saga="refused",
    hold="refused",
    before=Balance(80, 0),
    after=Balance(80, 0),
    entries=(),
    accounts=0,
    members=0,
    fax_number=None,
    mails=(),
)
CREATED = replace(
    REFUSED,
    types=CREATION,
    code=None,
    saga="completed",
    hold="captured",
    before=Balance(200, 0),
    entries=(-120, 120),
    accounts=1,
    members=1,
    fax_number="+33199000000",
    mails=("Anne", "Sam"),
)
RACED = replace(REFUSED, types=COMPENSATION, code="email_taken", hold="released", accounts=1)
GOOD = Facts(
    prices={"send_receive": 120, "send_only": 60},
    known_prices={"send_only": 60, "send_receive": 120},
    created=CREATED,
    short=REFUSED,
    won=replace(CREATED, after=Balance(140, 0), entries=(-60, 60)),
    lost=RACED,
    price_created=120,
    price_raced=60,
    recipients=("Anne", "Sam"),
    parked=0,
    violations=(),
)

BROKEN = {
    "the price is not known": replace(GOOD, known_prices={"send_only": 60}),
    "a message is missing": replace(GOOD, created=replace(CREATED, types=CREATION[:-1])),
    "messages out of order": replace(GOOD, created=replace(CREATED, types=CREATION[::-1])),
    "the saga is open": replace(GOOD, created=replace(CREATED, saga="running")),
    "the owner did not pay": replace(GOOD, created=replace(CREATED, after=Balance(200, 0))),
    "units are still held": replace(GOOD, created=replace(CREATED, after=Balance(80, 120))),
    "entries don't balance": replace(GOOD, created=replace(CREATED, entries=(-120,))),
    "no account": replace(GOOD, created=replace(CREATED, accounts=0)),
    "no fax number": replace(GOOD, created=replace(CREATED, fax_number=None)),
    "no membership": replace(GOOD, created=replace(CREATED, members=0)),
    "two welcomes": replace(GOOD, created=replace(CREATED, mails=("Anne", "Sam", "Sam"))),
    "not refused": replace(GOOD, short=replace(REFUSED, code=None)),
    "paid for nothing": replace(GOOD, short=replace(REFUSED, after=Balance(20, 0))),
    "account without payment": replace(GOOD, short=replace(REFUSED, accounts=1)),
    "two accounts": replace(GOOD, won=replace(GOOD.won, accounts=2)),
    "both are members": replace(GOOD, lost=replace(RACED, members=1)),
    "nothing was compensated": replace(GOOD, lost=replace(RACED, types=REFUSED.types, hold=None)),
    "the hold is open": replace(GOOD, lost=replace(RACED, hold="open")),
    "units were lost": replace(GOOD, lost=replace(RACED, after=Balance(20, 0))),
    "a message was not handled": replace(GOOD, lost=replace(RACED, unhandled=("hold-released",))),
    "messages were put aside": replace(GOOD, parked=1),
    "an invariant is broken": replace(GOOD, violations=("books_not_zero books: all entries sum to 1",)),
}


def test_passes_when_all_that_was_expected_was_observed() -> None:
    assert [each for each in checks(GOOD) if not each.ok] == []
    assert verdict(checks(GOOD), Console(quiet=True)) is Exit.OK


@pytest.mark.parametrize("what", BROKEN)
def test_fails_when_something_was_not_observed(what: str) -> None:
    results = checks(BROKEN[what])
    assert any(not each.ok for each in results)
    console = Console(record=True, width=80, file=io.StringIO())
    show_checks(results, console)
    assert verdict(results, console) is Exit.NO
    assert "✗" in console.export_text()
