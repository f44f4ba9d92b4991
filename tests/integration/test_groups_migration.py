"""Groups' rows of the version before, after its migrations."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from alembic import command
from psycopg.types.json import Jsonb

from deploy.local.stack import Stack
from popfax_contracts.groups import MembershipRecorded
from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from services.chassis import migrate
from services.groups.domain import account_of, history_of_leg, history_of_membership, membership_of
from services.groups.timers import TransferDue
from tests.integration.recorder import execute, scratch_database
from tests.unit.given import NOW, id_of

ADA, DONE, REFUSED, OPEN = id_of("ada"), id_of("done"), id_of("refused"), id_of("open")
GROUP, MEMBER = group_of(ADA), account_of(DONE)
MEMBERSHIP = membership_of(GROUP, MEMBER)


def _saga(url: str, id_: UUID, status: str, code: str | None) -> None:
    data = Jsonb({"group_id": str(GROUP), "owner_id": str(ADA), "plan": "send_only", "price_units": 60})
    ended = None if status == "running" else NOW
    row = (id_, "create-member-account", status, "-", code, data, "c", id_, ADA, NOW, NOW, ended, "")
    execute(url, f"INSERT INTO sagas VALUES ({', '.join(['%s'] * len(row))})", *row)


@pytest.fixture
def before(stack: Stack) -> Iterator[str]:
    """A database as the first version left it, with some of its rows."""
    with scratch_database(stack) as url:
        command.upgrade(migrate.config(Principal.GROUPS, url), "groups_0001")
        execute(url, "INSERT INTO groups VALUES (%s, %s, 'Ada L.')", GROUP, ADA)
        execute(url, "INSERT INTO addresses VALUES ('ada@example.org', %s)", ADA)
        execute(url, "INSERT INTO plans VALUES ('send_only', 60)")
        _saga(url, DONE, "completed", None)
        _saga(url, REFUSED, "refused", "units_short")
        _saga(url, OPEN, "running", None)
        execute(url, "INSERT INTO memberships VALUES (%s, %s, %s, 1, %s)", MEMBERSHIP, GROUP, MEMBER, NOW)
        yield url


def test_memberships_are_active_ones_of_the_groups_owner(before: str) -> None:
    migrate.upgrade(Principal.GROUPS, before)
    found = execute(before, "SELECT id, owner_id, active, epoch, invitation_id, ended_at FROM memberships")
    assert found == [(MEMBERSHIP, ADA, True, 1, None, None)]


def test_what_had_happened_has_its_lines_in_the_history(before: str) -> None:
    migrate.upgrade(Principal.GROUPS, before)
    lines = execute(before, "SELECT id, kind, actor_id, member_id, units, outcome, code FROM history")
    assert sorted(lines, key=str) == sorted(
        [
            (DONE, "account", ADA, MEMBER, 60, "created", None),
            (REFUSED, "account", ADA, None, 60, "refused", "units_short"),
            (OPEN, "account", ADA, None, 60, "pending", None),
            (history_of_membership(MEMBERSHIP, 1), "membership", ADA, MEMBER, None, "active", "account_created"),
        ],
        key=str,
    )


def test_todays_members_are_told_once(before: str) -> None:
    migrate.upgrade(Principal.GROUPS, before)
    migrate.upgrade(Principal.GROUPS, before)
    ((type_, key, value),) = execute(before, "SELECT type, key, value FROM outbox")
    assert (type_, key) == (MembershipRecorded.TYPE, str(MEMBERSHIP))
    assert MembershipRecorded.from_json(value) == MembershipRecorded(
        membership_id=MEMBERSHIP, group_id=GROUP, owner_id=ADA, member_id=MEMBER, epoch=1, state="active", joined_at=NOW
    )


def test_who_is_known_by_an_address_is_a_subscriber(before: str) -> None:
    migrate.upgrade(Principal.GROUPS, before)
    assert execute(before, "SELECT id, email, state FROM subscribers") == [(ADA, "ada@example.org", "active")]


ALONE, SHARED, TRANSFERRED = id_of("to one"), id_of("to two"), id_of("done long ago")


def _transfer(url: str, id_: UUID, state: str, *members: UUID) -> None:
    row = (id_, GROUP, ADA, "amount", 5, state, None, None, NOW, None)
    execute(url, f"INSERT INTO transfers VALUES ({', '.join(['%s'] * len(row))})", *row)
    for member in members:
        line = (history_of_leg(id_, member), GROUP, "transfer", NOW, ADA, member, id_, 5, state, None, None)
        execute(url, f"INSERT INTO history VALUES ({', '.join(['%s'] * len(line))})", *line)


def test_open_transfers_ask_again_unless_the_order_of_their_members_matters(stack: Stack) -> None:
    with scratch_database(stack) as url:
        command.upgrade(migrate.config(Principal.GROUPS, url), "groups_0009")
        _transfer(url, ALONE, "pending", MEMBER)
        _transfer(url, SHARED, "pending", MEMBER, ADA)
        _transfer(url, TRANSFERRED, "done", MEMBER)
        migrate.upgrade(Principal.GROUPS, url)
        ((id_, type_, key, value, actor),) = execute(url, "SELECT id, type, key, value, actor FROM timers")
        assert (id_, type_, key, actor) == (ALONE, TransferDue.TYPE, str(ALONE), ADA)
        assert TransferDue.from_json(value) == TransferDue(transfer_id=ALONE)
        assert execute(url, "SELECT DISTINCT requests FROM transfers") == [(1,)]
