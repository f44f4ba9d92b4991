"""`popfax saga` over both services that run sagas: each saga is found where it runs, and told whose it is."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

from deploy.local.stack import Stack
from deploy.operator.cli.app import app
from deploy.operator.cli.errors import Exit
from popfax_contracts.topics import Principal
from services.chassis.sagas import CancelSaga
from tests.integration.recorder import execute, scratch_database
from tests.unit.given import id_of

INSERT = "INSERT INTO sagas VALUES (%s, %s, %s, 'reserve units', NULL, %s, 'c', %s, NULL, %s, %s, %s, 'opened')"

CREATION, PURCHASE, ENDED, UNKNOWN = (id_of(name) for name in ("creation", "purchase", "ended", "unknown"))


@pytest.fixture
def urls(stack: Stack) -> Iterator[Mapping[Principal, str]]:
    """Two databases: an open saga in each, one of them stuck, and one that has ended."""
    with (
        scratch_database(stack, Principal.GROUPS) as groups,
        scratch_database(stack, Principal.PROVISIONING) as provisioning,
    ):
        now = datetime.now(UTC)
        minute, hour = now - timedelta(minutes=1), now - timedelta(hours=1)
        _insert(groups, CREATION, "create-member-account", minute, None, {"plan": "send_only", "email": "a@b.c"})
        _insert(provisioning, PURCHASE, "paid-action", hour, None, {"action": "extension", "forward_to": "+331"})
        _insert(provisioning, ENDED, "paid-action", hour, minute, {})
        yield {Principal.GROUPS: groups, Principal.PROVISIONING: provisioning}


def _insert(url: str, id_: UUID, name: str, opened: datetime, ended: datetime | None, data: Mapping[str, Any]) -> None:
    status = "running" if ended is None else "completed"
    execute(url, INSERT, id_, name, status, json.dumps(data), id_, opened, opened, ended)


def saga(urls: Mapping[Principal, str], *arguments: str, expect: Exit = Exit.OK) -> Any:
    env = {f"{service.upper()}_DATABASE_URL": url for service, url in urls.items()}
    done = CliRunner().invoke(app, ["saga", *arguments, "--json"], env=env)
    assert done.exit_code == expect, done.output
    return json.loads(done.stdout) if done.stdout else None


def test_lists_the_open_ones_of_both_services_the_oldest_first(urls: Mapping[Principal, str]) -> None:
    listed = [(each["service"], each["id"], each["stuck"]) for each in saga(urls, "list")]
    assert listed == [("provisioning", str(PURCHASE), True), ("groups", str(CREATION), False)]
    assert [each["id"] for each in saga(urls, "list", "--limit", "1")] == [str(PURCHASE)]


def test_lists_those_that_have_ended_last(urls: Mapping[Principal, str]) -> None:
    assert [each["id"] for each in saga(urls, "list", "--all")] == [str(PURCHASE), str(CREATION), str(ENDED)]


def test_shows_one_of_either_without_personal_data(urls: Mapping[Principal, str]) -> None:
    shown = saga(urls, "show", str(PURCHASE)[:13])
    assert (shown["service"], shown["data"]) == ("provisioning", {"action": "extension"})
    assert saga(urls, "show", str(CREATION))["data"] == {"plan": "send_only"}
    saga(urls, "show", str(UNKNOWN), expect=Exit.NO)


def test_hands_an_operators_word_to_the_service_that_runs_it(urls: Mapping[Principal, str]) -> None:
    saga(urls, "cancel", str(PURCHASE), "--timeout", "0.1", expect=Exit.UNREACHABLE)
    timers = {service: execute(url, "SELECT type, key FROM timers") for service, url in urls.items()}
    assert timers == {Principal.GROUPS: [], Principal.PROVISIONING: [(CancelSaga.TYPE, str(PURCHASE))]}
