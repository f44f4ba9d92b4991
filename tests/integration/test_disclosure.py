"""What page, API and changes tell an owner of somebody who declined, left or was detached: nothing of afterwards."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.stack import Stack
from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from services.chassis import postgres
from services.groups.domain import AccountState, HistoryEntry, Invitation, InvitationState, Kind
from services.groups.tables import subscribers
from services.groups.web.queries import fingerprints
from tests.integration.recorder import scratch_database
from tests.integration.seeding import group, member, person, seed
from tests.integration.serving import Client, serving
from tests.integration.test_page_borders import Browser
from tests.tokens import token
from tests.unit.given import NOW, id_of

ADA = person("Ada", 5)
LEFT, DECLINED, PENDING = (person(name, 4711, email=f"{name.lower()}@later.example") for name in ("Lea", "Dee", "Pia"))
GROUP = group_of(ADA.id)
SOON = datetime.now(UTC) + timedelta(days=3)


def invitation(of: str, state: InvitationState) -> Invitation:
    ended, email = None if state is InvitationState.PENDING else NOW, f"{of.lower()}@then.example"
    id_ = id_of(f"to {of}")
    return Invitation(id_, GROUP, ADA.id, id_of(of), state, 1, b"\x01" * 32, NOW, SOON, ended, email)


def line(of: str, kind: Kind, seconds: int, outcome: str) -> HistoryEntry:
    reference = id_of(f"to {of}") if kind is Kind.INVITATION else id_of(f"line {seconds}")
    at = NOW + timedelta(seconds=seconds)
    return HistoryEntry(id_of(f"line {seconds}"), GROUP, kind, at, ADA.id, id_of(of), reference, 3, outcome, None, NOW)


ROWS = [
    ADA,
    LEFT,
    DECLINED,
    PENDING,
    group(ADA),
    member(ADA, LEFT, active=False, ended_at=NOW, shown_name="Lea Then", shown_email="lea@then.example"),
    member(ADA, DECLINED, active=False, epoch=0, joined_at=None),
    member(ADA, PENDING, active=False, epoch=0, joined_at=None, invitation_id=id_of("to Pia")),
    invitation("Lea", InvitationState.ACCEPTED),
    invitation("Dee", InvitationState.DECLINED),
    invitation("Pia", InvitationState.PENDING),
    line("Lea", Kind.INVITATION, 1, "accepted"),
    line("Lea", Kind.MEMBERSHIP, 2, "left"),
    line("Lea", Kind.TRANSFER, 3, "done"),
    line("Dee", Kind.INVITATION, 4, "declined"),
    line("Pia", Kind.INVITATION, 5, "pending"),
]


@pytest.fixture(scope="module")
def url(stack: Stack) -> Iterator[str]:
    with scratch_database(stack, Principal.GROUPS) as made:
        yield made


@pytest_asyncio.fixture(scope="module")
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    made = postgres.engine(url)
    await seed(made, ROWS)
    yield made
    await made.dispose()


@pytest.fixture(scope="module")
def client(url: str, engine: AsyncEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving(url, tmp_path_factory.mktemp("keys")) as made:
        yield made


def test_the_history_tells_names_and_addresses_of_then(client: Client) -> None:
    lines = client.as_(ADA.id).get("/v1/history").json["lines"]
    assert [(each["kind"], each["member_name"], each["member_email"]) for each in lines] == [
        ("invitation", None, "pia@then.example"),
        ("invitation", None, "dee@then.example"),
        ("transfer", "Lea Then", "lea@then.example"),
        ("membership", "Lea Then", "lea@then.example"),
        ("invitation", "Lea Then", "lea@then.example"),
    ]


@pytest.mark.parametrize("path", ["/v1/group", "/v1/group/members", "/v1/group/invitations", "/v1/history"])
def test_no_route_tells_what_came_afterwards(client: Client, path: str) -> None:
    text = client.as_(ADA.id).get(path).text
    assert "later.example" not in text
    assert "4711" not in text
    assert "Of-" not in text.replace("Of-Ada", "")


def test_the_page_tells_nothing_of_it(client: Client) -> None:
    browser = Browser(client)
    browser.log_in(token(ADA.id))
    for path in ("/", "/parts", "/history", "/history?filter=invitations", "/history?filter=transfers"):
        text = browser.get(path).text
        assert "then.example" in text or "Lea Then" in text, path
        assert "later.example" not in text, path
        assert "4711" not in text, path


async def test_no_change_is_told_of_what_is_not_shown(engine: AsyncEngine, tmp_path: Path) -> None:
    ids = [LEFT.id, DECLINED.id, PENDING.id]
    changed = {
        "email": "even@later.example",
        "first_name": "Somebody",
        "last_name": "Else",
        "available_units": 815,
        "state": AccountState.EXPIRED.value,
        "expires_at": SOON,
    }
    async with engine.connect() as connection:
        before = await fingerprints(connection, [ADA.id])
        await connection.execute(sa.update(subscribers).where(subscribers.c.id.in_(ids)).values(changed))
        assert await fingerprints(connection, [ADA.id]) == before
        await connection.rollback()
