"""`popfax demo` as a person, or a pipe, runs it; and its checks on observed that don't hold."""

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import psutil
import pytest
import typer
from rich.console import Console

from deploy.demo import commands_to_try, show_checks, verdict
from deploy.demo.cast import Cast
from deploy.demo.checks import (
    ACCEPTANCE,
    COMPENSATION,
    CREATION,
    DETACHMENT,
    EXTENSION,
    INVITATION,
    MAILS,
    OFFER,
    SPENDING,
    STATES,
    TRANSFER,
    Creation,
    Deed,
    Expiry,
    Extension,
    Joining,
    Observations,
    Offer,
    Parting,
    checks,
    history,
)
from deploy.demo.reading import Balance
from deploy.local.process import wait_until
from deploy.local.stack import remove_abandoned
from deploy.operator.cli.app import app
from deploy.operator.cli.commands import build, find
from deploy.operator.cli.connection import FILE_NAME
from deploy.operator.cli.errors import Exit
from deploy.paths import CHECKOUT, STATE

DONE_WITHIN_S = 120

STORY = (
    "1. What is on sale",
    "send_receive     120 POP  12 months  yes",
    "2. Anne Martin signs up",
    "platform asks provisioning: register subscriber",
    "called “Anne Martin” as she is",
    "“Cabinet Martin” it is",
    "3. She invites Paul Durand",
    "Subject  Anne Martin vous invite à rejoindre",
    "/invitation?id=",
    "groups says: member joined",
    "4. She invites sam@branch.example, which nobody has",
    "groups says: account creation required  send_only 60 POP, send_receive",
    "5. So she creates an account for Sam Taylor",
    "groups asks ledger: reserve units",
    "provisioning says: account provisioned",
    "fax number +33199",
    "Anne                   -120   200 → 80",
    "Subject  Welcome to Popfax",
    "https://www.popfax.example/password?token=",
    "6. One more",
    "because: units_short",
    "7. Anne buys 300 more",
    "Anne  380 → 260",
    "8. Paul sends a fax and a text message",
    "ledger says: units spent  fax, 12 POP, Paul’s account",
    "9. Anne tops everybody up to 60",
    "Sam   60 → 60",
    "10. Paul extends his account",
    "provisioning says: account extended  60 POP, Paul’s account",
    "11. Anne detaches Sam",
    "12. Nora Silva’s account ends",
    "provisioning says: account expired",
    "refused now (account_expired)",
    "It is active again",
    "13. Elsewhere, two owners want the same e-mail address",
    "because: email_taken",
    "groups asks ledger: release hold",
    "14. What Anne reads in her group’s history",
    "15. A new subscriber",
    "records, 1 of",
    "16. The mails",
    "Nora  Your Popfax account has expired",
    "17. What was expected",
    "checks hold",
)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A demo's directory of this test's own."""
    made = STATE / f"test-demo-{time.time_ns()}"
    yield made
    remove_abandoned(STATE, made.name)


def popfax(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", "from deploy.operator.cli import main; main()", *arguments],
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


def test_is_alone_and_ends_at_ctrl_c_with_nothing_left_and_no_traceback(directory: Path) -> None:
    running = demo(directory)
    assert wait_until(lambda: bool(list(directory.glob("*/*.process.json"))), DONE_WITHIN_S)
    with demo(directory) as second:
        _, err = second.communicate(timeout=DONE_WITHIN_S)
    assert second.returncode == Exit.UNREACHABLE
    assert len(err.splitlines()) == 1
    running.send_signal(signal.SIGINT)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=DONE_WITHIN_S)
    assert running.returncode == Exit.INTERRUPTED
    assert err.splitlines() == ["popfax: interrupted"]
    assert left_of(directory) == []


@pytest.mark.drill
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
    types=(*CREATION, "balance-changed", "membership-recorded"),
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

PRICES = {"send_receive": 120, "send_only": 60}
ACTIVE, EXPIRED = ("active",) * STATES, ("expired",) * STATES
DEED = Deed(types=(), unhandled=(), before={}, after={}, shown={}, entries=())
JOINED = Joining(
    asked=replace(DEED, types=INVITATION),
    token=True,
    invited=("pending",),
    was_member=False,
    answered=replace(DEED, types=ACCEPTANCE[::-1]),
    ended=("accepted",),
    is_member=True,
)
SHARED = replace(
    DEED,
    types=(*TRANSFER, "units-received", "units-received", "balance-changed"),
    before={"Anne": 380, "Paul": 0, "Sam": 0},
    after={"Anne": 260, "Paul": 60, "Sam": 60},
    shown={"Anne": 260, "Paul": 60, "Sam": 60},
    entries=(-120, 60, 60),
)
SPENT = replace(
    DEED,
    types=SPENDING,
    before={"Paul": 60},
    after={"Paul": 45},
    shown={"Paul": 45},
    entries=(-12, 12, -3, 3),
)
TOPPED_UP = replace(
    DEED,
    types=(*TRANSFER, "units-received"),
    before={"Anne": 260, "Paul": 45, "Sam": 60},
    after={"Anne": 245, "Paul": 60, "Sam": 60},
    entries=(-15, 15),
)
END = datetime(2026, 12, 1, 12, tzinfo=UTC)
EXTENDED = Extension(
    deed=replace(DEED, types=EXTENSION, before={"Paul": 60}, after={"Paul": 0}, entries=(-60, 60)),
    before=END,
    after=END + timedelta(days=365),
)
DETACHED = Parting(
    deed=replace(DEED, types=DETACHMENT, before={"Sam": 60}, after={"Sam": 60}),
    members=("Paul",),
    states=ACTIVE,
)
ENDED = Expiry(
    told=("account-expired",),
    expired=EXPIRED,
    code="account_expired",
    given=replace(DEED, before={"Anne": 245, "Nora": 0}, after={"Anne": 185, "Nora": 60}),
    extension=Extension(
        deed=replace(DEED, types=EXTENSION, before={"Nora": 60}, after={"Nora": 0}),
        before=END,
        after=END + timedelta(days=365, seconds=1),
    ),
    active=ACTIVE,
)
GOOD = Observations(
    prices=PRICES,
    known_prices=dict(reversed(PRICES.items())),
    validity_months=12,
    owner_name="Anne Martin",
    group_names=("Anne Martin", "Cabinet Martin"),
    joined=JOINED,
    offered=Offer(types=OFFER, prices=PRICES, accounts=0),
    created=CREATED,
    short=REFUSED,
    won=replace(CREATED, after=Balance(140, 0), entries=(-60, 60)),
    lost=RACED,
    shared=SHARED,
    spent=SPENT,
    topped_up=TOPPED_UP,
    extended=EXTENDED,
    detached=DETACHED,
    expired=ENDED,
    history=history(PRICES)[::-1],
    members=("Nora", "Paul"),
    agree=True,
    mails=dict(MAILS),
    recipients=("Anne", "Sam"),
    parked=0,
    violations=(),
)


def expiry(**changed: Any) -> Observations:
    return replace(GOOD, expired=replace(ENDED, **changed))


def deed_of(extension: Extension, **changed: Any) -> Extension:
    return replace(extension, deed=replace(extension.deed, **changed))


BROKEN = {
    "the price is not known": replace(GOOD, known_prices={"send_only": 60}),
    "the group has no name of its own": replace(GOOD, group_names=("Anne Martin", "Anne Martin")),
    "the group is not called what its owner is": replace(GOOD, group_names=(None, "Cabinet Martin")),
    "no invitation": replace(GOOD, joined=replace(JOINED, asked=replace(DEED, types=("invite-by-email",)))),
    "a mail without a token": replace(GOOD, joined=replace(JOINED, token=False)),
    "two invitations pending": replace(GOOD, joined=replace(JOINED, invited=("pending", "pending"))),
    "the mail makes a member": replace(GOOD, joined=replace(JOINED, was_member=True)),
    "the answer says too much": replace(
        GOOD, joined=replace(JOINED, answered=replace(DEED, types=(*ACCEPTANCE, "member-joined")))
    ),
    "the invitation is open": replace(GOOD, joined=replace(JOINED, ended=("pending",))),
    "the answer makes no member": replace(GOOD, joined=replace(JOINED, is_member=False)),
    "nobody's address is invited": replace(GOOD, offered=replace(GOOD.offered, types=INVITATION)),
    "old prices are offered": replace(GOOD, offered=replace(GOOD.offered, prices={"send_only": 50})),
    "an invitation makes an account": replace(GOOD, offered=replace(GOOD.offered, accounts=1)),
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
    "entries of nothing": replace(GOOD, short=replace(REFUSED, entries=(-120, 120))),
    "account without payment": replace(GOOD, short=replace(REFUSED, accounts=1)),
    "two accounts": replace(GOOD, won=replace(GOOD.won, accounts=2)),
    "both are members": replace(GOOD, lost=replace(RACED, members=1)),
    "the winner did not pay": replace(GOOD, won=replace(GOOD.won, after=Balance(200, 0))),
    "refused for something else": replace(GOOD, lost=replace(RACED, code="timed_out")),
    "nothing was compensated": replace(GOOD, lost=replace(RACED, types=REFUSED.types, hold=None)),
    "the hold is open": replace(GOOD, lost=replace(RACED, hold="open")),
    "units were lost": replace(GOOD, lost=replace(RACED, after=Balance(20, 0))),
    "one member is not told": replace(GOOD, shared=replace(SHARED, types=(*TRANSFER, "units-received"))),
    "one member got nothing": replace(GOOD, shared=replace(SHARED, after={"Anne": 320, "Paul": 60, "Sam": 0})),
    "entries of one leg": replace(GOOD, shared=replace(SHARED, entries=(-60, 60))),
    "the owner is shown old units": replace(GOOD, shared=replace(SHARED, shown=SHARED.before)),
    "told of nothing": replace(GOOD, topped_up=replace(TOPPED_UP, types=SHARED.types)),
    "who has it gets more": replace(GOOD, topped_up=replace(TOPPED_UP, after={"Anne": 185, "Paul": 60, "Sam": 120})),
    "an entry of nothing": replace(GOOD, topped_up=replace(TOPPED_UP, entries=(-15, 15, 0))),
    "a spending is lost": replace(GOOD, spent=replace(SPENT, types=SPENDING[:2])),
    "spent twice": replace(GOOD, spent=replace(SPENT, after={"Paul": 30})),
    "the owner is not shown what is left": replace(GOOD, spent=replace(SPENT, shown={"Paul": 60})),
    "nobody got what was spent": replace(GOOD, spent=replace(SPENT, entries=(-12, -3))),
    "extended without a hold": replace(GOOD, extended=deed_of(EXTENDED, types=("extend-account", "account-extended"))),
    "extended for nothing": replace(GOOD, extended=deed_of(EXTENDED, after={"Paul": 60})),
    "the payment is nowhere": replace(GOOD, extended=deed_of(EXTENDED, entries=())),
    "the rest of the year is lost": replace(GOOD, extended=replace(EXTENDED, after=END + timedelta(days=345))),
    "not detached": replace(GOOD, detached=replace(DETACHED, members=("Paul", "Sam"))),
    "nobody is told of the detachment": replace(
        GOOD, detached=replace(DETACHED, deed=replace(DETACHED.deed, types=DETACHMENT[:2]))
    ),
    "units are taken back": replace(GOOD, detached=replace(DETACHED, deed=replace(DETACHED.deed, after={"Sam": 0}))),
    "the account is lost": replace(GOOD, detached=replace(DETACHED, states=("closed", "active", "active"))),
    "expired twice": expiry(told=("account-expired", "account-expired")),
    "one has not heard of the end": expiry(expired=("expired", "active", "expired")),
    "an expired account spends": expiry(code=None),
    "an expired account receives nothing": expiry(given=replace(ENDED.given, after=ENDED.given.before)),
    "extended without asking the ledger": expiry(extension=deed_of(ENDED.extension, types=EXTENSION[:1])),
    "it came back for nothing": expiry(extension=deed_of(ENDED.extension, after={"Nora": 60})),
    "its new year begins in the past": expiry(extension=replace(ENDED.extension, after=END + timedelta(days=365))),
    "it has no end": expiry(extension=replace(ENDED.extension, after=None)),
    "one has not heard that it is back": expiry(active=("active", "active", "expired")),
    "a line of the history is missing": replace(GOOD, history=GOOD.history[1:]),
    "a line is there twice": replace(GOOD, history=(*GOOD.history, GOOD.history[0])),
    "a detached member is among today's": replace(GOOD, members=("Nora", "Paul", "Sam")),
    "topic and database differ": replace(GOOD, agree=False),
    "a mail came twice": replace(GOOD, mails=MAILS | {"Paul": 5}),
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


def test_every_check_has_facts_that_fail_it() -> None:
    failed = {(each.about, each.what) for observed in BROKEN.values() for each in checks(observed) if not each.ok}
    assert failed == {(each.about, each.what) for each in checks(GOOD)}


def test_no_two_checks_are_called_the_same() -> None:
    names = [(each.about, each.what) for each in checks(GOOD)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("deed", ["asked", "answered"])
def test_a_message_that_was_not_handled_counts_in_whatever_scene(deed: str) -> None:
    observed = replace(GOOD, joined=replace(JOINED, **{deed: replace(getattr(JOINED, deed), unhandled=("x",))}))
    assert [each.what for each in checks(observed) if not each.ok] == ["messages not handled"]


@pytest.mark.parametrize(
    "command", [*commands_to_try(Cast()), "mail preview"], ids=lambda command: command.split(" --")[0]
)
def test_what_is_to_be_tried_can_be_typed(command: str) -> None:
    words, group = shlex.split(command), typer.main.get_command(app)
    while isinstance(group, click.Group):
        group = group.commands[words.pop(0)]
    group.make_context("popfax", words)
    if group.name == "send":
        fields = [value for flag, value in pairwise(words) if flag == "--set"]
        actor = UUID(words[words.index("--actor") + 1])
        assert build(find(words[0]), fields, actor)
