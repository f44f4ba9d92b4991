"""`popfax transfer`: what the ledger has not answered, and an operator's word to ask it again now."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

from deploy.local.stack import Stack
from deploy.operator.cli.app import app
from deploy.operator.cli.errors import Exit
from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from services.groups.domain import TRANSFER_DEADLINE
from services.groups.timers import RetryTransfer, TransferDue
from tests.integration.recorder import execute, scratch_database
from tests.unit.given import id_of

OWNER = id_of("owner")
OLD, NEW, DONE, UNKNOWN = (id_of(f"{name} transfer") for name in ("old", "new", "done", "unknown"))
MINUTE = timedelta(minutes=1)


@pytest.fixture
def url(stack: Stack) -> Iterator[str]:
    """A database with an open transfer that is stuck, an open one that is not, and one that is done."""
    with scratch_database(stack, Principal.GROUPS) as url:
        now = datetime.now(UTC)
        _insert(url, OLD, "pending", now - TRANSFER_DEADLINE - MINUTE, None, requests=3, members=2)
        _insert(url, NEW, "pending", now - MINUTE, None, requests=1, members=1)
        _insert(url, DONE, "done", now - MINUTE, now, requests=1, members=1)
        yield url


def _insert(
    url: str, id_: UUID, state: str, asked: datetime, ended: datetime | None, *, requests: int, members: int
) -> None:
    row = (id_, group_of(OWNER), OWNER, "amount", 5, state, None, 5 if ended else None, asked, ended, requests)
    execute(url, f"INSERT INTO transfers VALUES ({', '.join(['%s'] * len(row))})", *row)
    for place in range(members):
        line = (id_of(f"{id_} {place}"), group_of(OWNER), "transfer", asked, OWNER, id_of(f"member {place}"), id_, 5)
        execute(url, f"INSERT INTO history VALUES ({', '.join(['%s'] * len(line))}, %s, NULL, %s)", *line, state, ended)
    if ended is None:
        body = TransferDue(transfer_id=id_)
        timer = (id_, asked, body.TYPE, body.key(), body.to_json(), f"command of {id_}", OWNER, None)
        execute(url, f"INSERT INTO timers VALUES ({', '.join(['%s'] * len(timer))})", *timer)


def transfer(url: str, *arguments: str, expect: Exit = Exit.OK) -> Any:
    done = CliRunner().invoke(app, ["transfer", *arguments, "--json"], env={"GROUPS_DATABASE_URL": url})
    assert done.exit_code == expect, done.output
    return json.loads(done.stdout) if done.stdout else done.stderr


def test_lists_the_open_ones_the_oldest_first_with_what_is_known_of_them(url: str) -> None:
    listed = transfer(url, "list")
    assert [(each["id"], each["stuck"], each["members"], each["requests"]) for each in listed] == [
        (str(OLD), True, 2, 3),
        (str(NEW), False, 1, 1),
    ]
    assert (listed[1]["group_id"], listed[1]["owner_id"]) == (str(group_of(OWNER)), str(OWNER))
    assert (listed[1]["amount_units"], listed[1]["mode"]) == (5, "amount")
    assert 60 <= listed[1]["age_s"] < 300
    assert [each["id"] for each in transfer(url, "list", "--limit", "1")] == [str(OLD)]


def test_says_in_a_table_which_are_stuck(url: str) -> None:
    env = {"GROUPS_DATABASE_URL": url, "COLUMNS": "200"}
    _, old, new = CliRunner().invoke(app, ["transfer", "list"], env=env).stdout.splitlines()
    assert (old.split()[0], old.rstrip().endswith("STUCK")) == (str(OLD)[:8], True)
    assert (new.split()[0], "STUCK" in new) == (str(NEW)[:8], False)


def test_hands_an_operators_word_to_groups_in_the_name_of_the_command_that_began_it(url: str) -> None:
    """The answer finds the command that was posted by this correlation and this actor."""
    told = transfer(url, "retry", str(OLD)[:13], "--timeout", "0.1", expect=Exit.UNREACHABLE)
    assert (told["state"], told["requests"]) == ("pending", 3)
    query = "SELECT key, correlation_id, actor FROM timers WHERE type = %s"
    assert execute(url, query, RetryTransfer.TYPE) == [(str(OLD), f"command of {OLD}", OWNER)]
    assert execute(url, "SELECT count(*) FROM timers WHERE type = %s", TransferDue.TYPE) == [(2,)]


def test_leaves_alone_what_has_ended_what_is_none_and_what_has_no_timer(url: str) -> None:
    assert "has ended: done 5 units" in transfer(url, "retry", str(DONE), expect=Exit.NO)
    assert "there is no transfer" in transfer(url, "retry", str(UNKNOWN), expect=Exit.NO)
    transfer(url, "retry", "%", expect=Exit.USAGE)
    execute(url, "DELETE FROM timers WHERE id = %s", NEW)
    assert "has no timer" in transfer(url, "retry", str(NEW), expect=Exit.NO)
    assert execute(url, "SELECT count(*) FROM timers") == [(1,)]
