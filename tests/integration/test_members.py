"""The members of a group: found, sorted, paged and chosen on the server, in the page and in `/v1`."""

import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.stack import Stack
from popfax_contracts.groups import MAX_MEMBERS, DetachMembers, SetLowBalance, TransferUnits
from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from services.chassis import postgres
from services.groups.domain import AccountState, Subscriber
from services.groups.web import members, queries
from services.groups.web.members import MemberSort, Wanted
from tests.integration.recorder import execute, scratch_database
from tests.integration.seeding import group, member, person, seed
from tests.integration.serving import Client, serving
from tests.integration.test_page_borders import Browser
from tests.tokens import token
from tests.unit.given import NOW

ADA = person("Ada", 1_000_000, language="fr")
SOON = datetime.now(UTC) + timedelta(days=3)
LATER = datetime.now(UTC) + timedelta(days=300)

PEOPLE: tuple[Subscriber, ...] = (
    person("m1", 13, first_name="Agence", last_name="13", expires_at=LATER),
    person("m2", 103, first_name="Agence", last_name="103", expires_at=SOON),
    person("m3", 0, first_name="Agence", last_name="9", expires_at=None),
    person("m4", 40, first_name="Zoé", last_name="Zidane", state=AccountState.EXPIRED, expires_at=NOW),
    person("m5", 7, first_name="Étienne", last_name="Éluard", expires_at=LATER),
    person("m6", 7, first_name="Anne", last_name="de La Tour", expires_at=LATER),
    person("m7", 7, first_name="Jean", last_name="Dupont", expires_at=LATER),
    person("m8", 7, first_name="Cœur", last_name="d’Arc", expires_at=LATER, email="c.arc+fax@exemple.fr"),
    person("m9", 7, first_name=None, last_name=None, expires_at=LATER, email="nobody.told@example.com"),
)
BRANCHES = ["Agence 9", "Agence 13", "Agence 103"]
BY_NAME = [*BRANCHES, "Cœur d’Arc", "Anne de La Tour", "Jean Dupont", "Étienne Éluard", "", "Zoé Zidane"]
"""Who has no name yet is sorted by their address."""

BOB = person("Bob", 10_000_000, language="en")
CROWD = 2 * MAX_MEMBERS + 200


@pytest.fixture(scope="module")
def url(stack: Stack) -> Iterator[str]:
    with scratch_database(stack, Principal.GROUPS) as made:
        yield made


@pytest_asyncio.fixture(scope="module")
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    made = postgres.engine(url)
    crowd = [person(f"c{n}", n % 50, first_name="Camille", last_name=f"Roux {n}") for n in range(CROWD)]
    mine, theirs = [member(ADA, each) for each in PEOPLE], [member(BOB, each) for each in crowd]
    gone = person("Gone", 1, first_name="Agence", last_name="99")
    await seed(made, [ADA, BOB, gone, *PEOPLE, *crowd, group(ADA), group(BOB), *mine, *theirs])
    await seed(made, [member(ADA, gone, active=False, joined_at=None)])
    yield made
    await made.dispose()


@pytest.fixture(scope="module")
def client(url: str, engine: AsyncEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving(url, tmp_path_factory.mktemp("keys")) as made:
        yield made


@pytest.fixture(scope="module")
def ada(client: Client) -> Client:
    return client.as_(ADA.id)


@pytest.fixture
def bob(client: Client) -> Browser:
    browser = Browser(client)
    assert browser.log_in(token(BOB.id)).status == 303
    return browser


def names(found: list[dict[str, Any]]) -> list[str]:
    return [f"{each['first_name'] or ''} {each['last_name'] or ''}".strip() for each in found]


def listed(ada: Client, **query: object) -> list[str]:
    return names(ada.get(f"/v1/group/members?{urlencode(query)}").json["items"])


# --- sorted and found -------------------------------------------------------------------------------------------------


def test_names_are_sorted_as_people_sort_them(ada: Client) -> None:
    """A number by its value, an accent as if it were not there, and small letters beside the large ones."""
    assert listed(ada) == BY_NAME
    assert listed(ada, direction="desc") == BY_NAME[::-1]


def test_others_are_sorted_by_units_and_by_the_end_of_their_account(ada: Client) -> None:
    by_units = ada.get("/v1/group/members?sort=units").json["items"]
    assert [each["available_units"] for each in by_units] == [0, 7, 7, 7, 7, 7, 13, 40, 103]
    assert names(by_units)[1:6] == ["Cœur d’Arc", "Anne de La Tour", "Jean Dupont", "Étienne Éluard", ""]
    by_end = listed(ada, sort="end")
    assert [*by_end[:2], by_end[-2], by_end[-1]] == ["Agence 103", "Agence 13", "Zoé Zidane", "Agence 9"]


@pytest.mark.parametrize(
    ("sought", "expected"),
    [
        ("etienne", ["Étienne Éluard"]),
        ("ÉLUARD étienne", ["Étienne Éluard"]),
        ("coeur", ["Cœur d’Arc"]),
        ("d'arc", ["Cœur d’Arc"]),
        ("C.ARC+FAX@exemple.fr", ["Cœur d’Arc"]),
        ("agence 13", ["Agence 13"]),
        ("tour ann", ["Anne de La Tour"]),
        ("nobody.told", [""]),
        ("%", []),
        ("_", []),
        ("Anne Dupont", []),
        ("99", []),
    ],
)
def test_finds_whoever_has_all_words_without_accents_and_case(ada: Client, sought: str, expected: list[str]) -> None:
    assert listed(ada, search=sought) == expected


def test_finds_under_the_name_of_today_and_forgets_the_one_before(ada: Client, url: str) -> None:
    person_id = PEOPLE[6].id
    execute(url, "UPDATE subscribers SET last_name = 'Çelik', balance_version = 2 WHERE id = %s", person_id)
    assert (listed(ada, search="celik"), listed(ada, search="dupont")) == (["Jean Çelik"], [])
    execute(url, "UPDATE subscribers SET listed_as = NULL WHERE id = %s", person_id)
    assert listed(ada, search="celik") == ["Jean Çelik"], "one whom the migration passed over is found as well"
    execute(url, "UPDATE subscribers SET first_name = NULL, last_name = NULL, email = NULL WHERE id = %s", person_id)
    assert execute(url, "SELECT listed_as FROM subscribers WHERE id = %s", person_id) == [(None,)]
    execute(
        url,
        "UPDATE subscribers SET first_name = 'Jean', last_name = 'Dupont', email = 'm7@example.com' WHERE id = %s",
        person_id,
    )


def test_balances_are_written_without_touching_an_index(url: str, engine: AsyncEngine) -> None:
    indexed = execute(url, "SELECT indexdef FROM pg_indexes WHERE tablename = 'subscribers'")
    assert [each for (each,) in indexed if "units" in each or "listed_as" in each] == []


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ("active", 8),
        ("expired", 1),
        ("ending", 1),
        ("low", 0),
        ("all", 9),
    ],
)
def test_filters(ada: Client, filter_: str, expected: int) -> None:
    found = ada.get(f"/v1/group/members?filter={filter_}&limit=1").json
    assert (found["total"], len(found["items"])) == (expected, min(expected, 1))


def test_low_is_below_what_the_owner_has_said(ada: Client, url: str) -> None:
    values = (group_of(ADA.id), ADA.id)
    execute(
        url, "INSERT INTO low_balances (group_id, owner_id, below_units, mails, low) VALUES (%s, %s, 7, 0, '')", *values
    )
    try:
        assert listed(ada, filter="low") == ["Agence 9"]
    finally:
        execute(url, "DELETE FROM low_balances")


def test_the_owner_says_what_is_low_and_the_list_marks_who_is(bob: Browser, url: str, clean: None) -> None:
    form = {"proof": bob.proof(), "once": "low", "mail": "1"}
    assert "below how many POP units" in bob.post("/low-balance", form, HX_Request="true").text
    assert "whole number" in bob.post("/low-balance", {**form, "below": "1.5"}, HX_Request="true").text
    assert posted(url, SetLowBalance.TYPE) == []
    bob.post("/low-balance", {**form, "below": "1,000"}, HX_Request="true")
    ((_, value),) = posted(url, SetLowBalance.TYPE)
    assert SetLowBalance.from_json(bytes(value)) == SetLowBalance(
        group_id=group_of(BOB.id), below_units=1000, mail=True
    )
    values = (group_of(BOB.id), BOB.id)
    execute(
        url, "INSERT INTO low_balances (group_id, owner_id, below_units, mails, low) VALUES (%s, %s, 2, 0, '')", *values
    )
    try:
        rows = re.findall(r"<tr><td class=\"tick\">.*?</tr>", bob.get("/").text)
        marked = {"Few units" in row for row in rows if re.search(r"\b(?<!\d)[01]\sPOP", row)}
        assert (marked, {"Few units" in row for row in rows}) == ({True}, {True, False})
    finally:
        execute(url, "DELETE FROM low_balances")


# --- page by page -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("sort", ["name", "units", "end"])
@pytest.mark.parametrize("limit", [1, 4])
def test_pages_hold_everybody_once(ada: Client, sort: str, direction: str, limit: int) -> None:
    query = f"/v1/group/members?sort={sort}&direction={direction}"
    whole, found, cursor = ada.get(query).json["items"], [], ""
    while True:
        page = ada.get(f"{query}&limit={limit}{cursor}").json
        assert page["total"] == 9
        found += page["items"]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert found == whole


def test_a_cursor_is_good_for_its_own_query_alone_and_names_nobody(ada: Client) -> None:
    cursor = ada.get("/v1/group/members?limit=1").json["next"]
    assert "gence" not in cursor
    for query in (f"sort=units&cursor={cursor}", f"search=a&cursor={cursor}", "cursor=none", f"cursor={'A' * 43}="):
        answer = ada.get(f"/v1/group/members?{query}")
        assert (answer.problem, answer.json["errors"][0].startswith("query.cursor")) == ((422, "malformed"), True), (
            query
        )


def test_a_large_group_is_shown_with_the_first_of_its_members(client: Client) -> None:
    shown = client.as_(BOB.id).get("/v1/group").json
    assert (len(shown["members"]), shown["members_total"]) == (1000, CROWD)
    assert [each["last_name"] for each in shown["members"][:3]] == ["Roux 0", "Roux 1", "Roux 2"]


async def test_members_that_were_read_make_the_same_fingerprint(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        for owner in (ADA, BOB):
            _, hashed = await members.read_hashed(connection, owner.id, Wanted(sort=MemberSort.UNITS), 5, skip=2)
            assert hashed is not None
            seen = await queries.fingerprint(connection, owner.id, hashed)
            assert {owner.id: seen} == await queries.fingerprints(connection, [owner.id])
        _, hashed = await members.read_hashed(connection, ADA.id, Wanted(search="agence"), 5)
        assert hashed is None, "of some alone there is none"


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_shows_what_its_address_says(bob: Browser) -> None:
    text = bob.get("/?search=camille+roux+1&sort=units&direction=desc&page=2").text
    assert text.count('name="member"') == 50
    assert 'value="camille roux 1"' in text
    assert 'aria-sort="descending"' in text
    assert "page 2 of" in text
    assert len(text) < 100_000
    assert bob.get("/members?search=zzz", HX_Request="true").text.count('name="member"') == 0
    assert f"page {CROWD // 50} of" in bob.get("/?page=999").text, (
        "the last page is shown in the place of one beyond it"
    )
    assert bob.get("/?show=nonsense&sort=nonsense&page=-1").text.count('name="member"') == 50


def form_of(text: str) -> dict[str, str]:
    """What the confirmation carries."""
    found = text[text.index('class="confirm') :]
    return {name: unescape(value) for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', found)}


def posted(url: str, type_: str) -> list[tuple[UUID, bytes]]:
    return execute(url, "SELECT id, value FROM outbox WHERE type = %s ORDER BY seq", type_)


@pytest.fixture
def clean(url: str, engine: AsyncEngine) -> Iterator[None]:
    yield
    execute(url, "DELETE FROM outbox")
    execute(url, "DELETE FROM commands")


def test_all_who_match_get_units_in_parts_that_are_followed_as_one(bob: Browser, url: str, clean: None) -> None:
    given = {"proof": bob.proof(), "matching": "1", "mode": "amount", "amount": "1,000", "once": "a"}
    cost = bob.post("/transfers/cost", given).text
    assert f"{CROWD * 1000:,}" in cost
    asked = bob.post("/transfers/confirm", given, HX_Request="true").text
    assert f"{CROWD:,} members get" in asked
    assert "in 3 parts" in asked
    form = form_of(asked)
    followed = bob.post("/transfers", form, HX_Request="true").text
    assert "0 of 3 parts are done." in followed
    again = bob.post("/transfers", form, HX_Request="true").text
    assert "0 of 3 parts are done." in again, "the same form asks once"
    commands = [(id_, TransferUnits.from_json(bytes(value))) for id_, value in posted(url, TransferUnits.TYPE)]
    named = [member_id for _, command in commands for member_id in command.members]
    assert [len(command.members) for _, command in commands] == [733, 733, 734]
    assert (len(set(named)), {command.amount_units for _, command in commands}) == (CROWD, {1000})
    address = re.search(r'hx-post="(/commands/[^"]+)"', followed)
    assert address
    _end(url, commands[0][0], "done")
    told = {"proof": form["proof"], "members": str(CROWD)}
    assert "1 of 3 parts are done." in bob.post(address[1], told, HX_Request="true").text
    _end(url, commands[1][0], "done")
    _end(url, commands[2][0], "refused")
    ended = bob.post(address[1], told, HX_Request="true")
    assert "1,466,000\u00a0POP are transferred to 1,466 members." in ended.text
    assert "Nothing was done for 734 members:" in ended.text
    assert "You do not have enough POP units for this." in ended.text
    assert ended.header("hx-trigger") == "spent, refresh"
    assert bob.get(f"{address[1]}?members={CROWD}").status == 200, "and without JavaScript"
    stranger = Browser(bob.client)
    stranger.log_in(token(ADA.id))
    assert stranger.get(address[1]).status == 404


def _end(url: str, id_: UUID, state: str) -> None:
    code = None if state == "done" else "units_short"
    statement = (
        "UPDATE commands SET state = %s, code = %s, ended_at = now(),"
        """ result = '{"event": "units-transferred", "total_units": 733000}' WHERE id = %s"""
    )
    execute(url, statement, state, code, id_)


def test_what_was_confirmed_is_what_is_sent_or_it_is_asked_again(bob: Browser, url: str, clean: None) -> None:
    given = {
        "proof": bob.proof(),
        "matching": "1",
        "search": "roux 10",
        "mode": "top_up_to",
        "amount": "10",
        "once": "b",
    }
    asked = bob.post("/transfers/confirm", given, HX_Request="true").text
    assert "enough already" in asked
    form = form_of(asked)
    ((left_id,),) = execute(url, "SELECT id FROM subscribers WHERE last_name = 'Roux 100'")
    execute(url, "UPDATE memberships SET active = false WHERE member_id = %s", left_id)
    try:
        for path in ("/transfers", "/members/detach"):
            again = bob.post(path, form, HX_Request="true").text
            assert "The list has changed since you were asked." in again, path
        assert posted(url, TransferUnits.TYPE) == posted(url, DetachMembers.TYPE) == []
        confirmed = form_of(bob.post("/transfers", form, HX_Request="true").text)
        assert "changed" not in bob.post("/transfers", confirmed, HX_Request="true").text
        ((_, value),) = posted(url, TransferUnits.TYPE)
        assert left_id not in TransferUnits.from_json(bytes(value)).members
    finally:
        execute(url, "UPDATE memberships SET active = true WHERE member_id = %s", left_id)


def test_members_are_removed_in_parts(bob: Browser, url: str, clean: None) -> None:
    given = {"proof": bob.proof(), "matching": "1", "once": "c"}
    form = form_of(bob.post("/members/confirm", given, HX_Request="true").text)
    assert "0 of 3 parts are done." in bob.post("/members/detach", form, HX_Request="true").text
    commands = [DetachMembers.from_json(bytes(value)) for _, value in posted(url, DetachMembers.TYPE)]
    assert [len(command.members) for command in commands] == [733, 733, 734]


def test_without_javascript_all_are_those_who_are_shown(bob: Browser, url: str, clean: None) -> None:
    given = {"proof": bob.proof(), "all": "1", "search": "roux 21", "page": "2", "amount": "5", "mode": "amount"}
    text = bob.post("/transfers/confirm", given).text
    shown = set(re.findall(r'<input type="checkbox" name="member" value="([^"]+)"', text))
    carried = set(re.findall(r'<input type="hidden" name="member" value="([^"]+)"', text))
    assert carried == shown
    assert len(shown) == 50
    assert 'value="roux 21"' in text, "what was searched for is still there"


def test_an_amount_is_read_by_the_language_of_the_page(bob: Browser, ada: Client) -> None:
    given = {"proof": bob.proof(), "matching": "1", "mode": "amount"}
    assert "1,000,000" not in bob.post("/transfers/cost", {**given, "amount": "1.000"}).text
    assert "This can be read in two ways." in bob.post("/transfers/cost", {**given, "amount": "1.000"}).text
    french = Browser(ada)
    french.log_in(token(ADA.id))
    given["proof"] = french.proof()
    assert "deux façons" in french.post("/transfers/cost", {**given, "amount": "1,000"}).text
    assert "9\u202f000" in french.post("/transfers/cost", {**given, "amount": "1\u202f000"}).text


@pytest.mark.parametrize("query", ["search=roux+7", "search=nobody+there", "show=invited", "sort=units&page=2", ""])
def test_the_list_alone_is_exchanged_while_somebody_types(bob: Browser, query: str) -> None:
    answer = bob.get(f"/members?{query}", HX_Request="true")
    assert answer.status == 200
    assert 'id="members"' in answer.text
    assert "<html" not in answer.text
