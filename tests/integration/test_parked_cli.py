"""`popfax parked` of commands that were posted over HTTP: whoever posted one is told when it is dropped."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

from deploy.local.stack import Stack
from deploy.operator.cli.app import app
from deploy.operator.cli.errors import Exit
from popfax_contracts.groups import RenameGroup
from popfax_contracts.message import group_of
from popfax_contracts.topics import GROUPS_COMMANDS, GROUPS_COMMANDS_FROM_HTTP, Principal
from services.chassis.database import Parked, Why
from services.chassis.messages import Outgoing, StoredRecord, headers_of, source_of
from services.chassis.postgres import PostgresDatabase, engine
from services.groups.web.posting import post
from tests.integration.recorder import execute, scratch_database
from tests.unit.given import id_of

ADA, COMMAND, OTHER, PARKED = id_of("ada"), id_of("command"), id_of("other command"), id_of("parked message")
RENAME = RenameGroup(group_id=group_of(ADA), name="Ours")


@pytest.fixture
def url(stack: Stack) -> Iterator[str]:
    with scratch_database(stack, Principal.GROUPS) as url:
        yield url


async def _post_and_park(url: str, topic: str = GROUPS_COMMANDS_FROM_HTTP.name) -> None:
    """Post two commands, and put one of them aside as groups does when its handler fails."""
    connected = engine(url, 2)
    for id_ in (COMMAND, OTHER):
        await post(connected, RENAME, ADA, id_)
    out = Outgoing(COMMAND, RENAME.TYPE, RENAME.key(), RENAME.to_json(), str(COMMAND), str(COMMAND), ADA, None)
    headers = headers_of(out, source_of(Principal.GROUPS), datetime.now(UTC).isoformat())
    record = StoredRecord(PARKED, None, topic, 0, 0, RENAME.key().encode(), RENAME.to_json(), headers)
    async with PostgresDatabase(connected).begin() as tx:
        await tx.park([Parked(PARKED, record, Why.FAILED, "Bug", "here")], datetime.now(UTC))
    await connected.dispose()


def parked(url: str, *arguments: str, expect: Exit = Exit.OK) -> Any:
    command = ["parked", *arguments, "--service", "groups", "--json"]
    done = CliRunner().invoke(app, command, env={"GROUPS_DATABASE_URL": url})
    assert done.exit_code == expect, done.output
    return json.loads(done.stdout) if done.stdout else None


def commands(url: str) -> dict[UUID, tuple[str, str | None, bool]]:
    rows = execute(url, "SELECT id, state, code, ended_at IS NOT NULL FROM commands")
    return {id_: (state, code, ended) for id_, state, code, ended in rows}


PENDING = ("pending", None, False)


def test_names_the_posted_command_and_refuses_it_when_it_is_dropped(url: str) -> None:
    asyncio.run(_post_and_park(url))
    shown = parked(url, "show", str(PARKED))["posted_command"]
    assert (shown["id"], shown["type"]) == (str(COMMAND), RENAME.TYPE)
    env = {"GROUPS_DATABASE_URL": url, "COLUMNS": "200"}
    text = CliRunner().invoke(app, ["parked", "show", str(PARKED), "--service", "groups"], env=env).stdout
    assert f"{COMMAND}, pending for" in text
    assert parked(url, "drop", str(PARKED), "--yes")["posted_command_id"] == str(COMMAND)
    assert commands(url) == {COMMAND: ("refused", "dropped", True), OTHER: PENDING}


def test_what_is_answered_already_keeps_its_answer(url: str) -> None:
    asyncio.run(_post_and_park(url))
    execute(url, "UPDATE commands SET awaits = 1 WHERE id = %s", COMMAND)
    assert "posted_command" not in parked(url, "show", str(PARKED))
    assert parked(url, "drop", str(PARKED), "--yes")["posted_command_id"] is None
    assert commands(url) == {COMMAND: PENDING, OTHER: PENDING}


def test_a_message_of_somebody_else_ends_no_command_that_has_its_id(url: str) -> None:
    asyncio.run(_post_and_park(url, GROUPS_COMMANDS.name))
    assert parked(url, "drop", str(PARKED), "--yes")["posted_command_id"] is None
    assert commands(url) == {COMMAND: PENDING, OTHER: PENDING}
