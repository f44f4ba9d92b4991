"""An owner's books on a real database: a member's page, the history by member and days, the table, the statement."""

import csv
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.stack import Stack
from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from services.chassis import postgres
from services.chassis.references import reference
from services.groups.domain import HistoryEntry, Invitation, InvitationState, Kind, Subscriber
from services.groups.web import lines
from services.groups.web.context import read_only
from services.groups.web.lines import Filter, WantedLines
from services.groups.web.page.flows import books
from tests.integration.recorder import execute, scratch_database
from tests.integration.seeding import group, member, person, seed
from tests.integration.serving import Client, serving
from tests.integration.test_page_borders import Browser
from tests.tokens import token
from tests.unit.given import id_of

NOW = datetime(2031, 3, 10, 12, tzinfo=UTC)
ADA = person("Ada", 777_001, last_name="Lovelace", time_zone="America/Martinique")
BOB = person("Bob", 20_002, first_name="=Bob", last_name="Of-Bob")
EVE, ZOE, DAN = person("Eve", 5_005), person("Zoe", 6_006), person("Dan", 7_007, language="fr")
GROUP = group_of(ADA.id)
TO_EVE = Invitation(
    id_of("to Eve"), GROUP, ADA.id, EVE.id, InvitationState.PENDING, 1, b"\x01" * 32, NOW, NOW, None, EVE.email
)


def line(
    name: str, kind: Kind, who: Subscriber | None, at: datetime, units: int | None = None, **more: Any
) -> HistoryEntry:
    """A line of Ada's history, done by her."""
    who_id = who.id if who else None
    made = HistoryEntry(id_of(name), GROUP, kind, at, ADA.id, who_id, id_of(f"of {name}"), units, "done", None, at)
    return replace(made, **more)


# Before midnight in Martinique, and in Paris the next day already.
LATE = datetime(2031, 3, 2, 1, 30, tzinfo=UTC)
MANY = [
    line(f"many {n}", Kind.TRANSFER, DAN, datetime(2030, 1, 1, tzinfo=UTC) + timedelta(minutes=n), 1)
    for n in range(700)
]
TWICE = id_of("one transfer")
LINES = [
    line("account", Kind.ACCOUNT, BOB, NOW - timedelta(days=9), 45, outcome="created"),
    line("joined", Kind.MEMBERSHIP, BOB, NOW - timedelta(days=9), outcome="active"),
    line("late", Kind.TRANSFER, ZOE, LATE, 7),
    line("leg of Bob", Kind.TRANSFER, BOB, NOW, 20, reference_id=TWICE),
    line("leg of Dan", Kind.TRANSFER, DAN, NOW, 0, reference_id=TWICE),
    line("refused", Kind.TRANSFER, BOB, NOW, None, outcome="refused", code="units_short"),
    line("invited", Kind.INVITATION, EVE, NOW, outcome="pending", reference_id=TO_EVE.id),
    line("failed", Kind.ACCOUNT, None, NOW, 45, outcome="refused", code="units_short"),
    line("name", Kind.NAME, None, NOW, outcome="renamed"),
]
GONE = {"active": False, "ended_at": NOW, "shown_name": "Zoe as she was", "shown_email": "zoe@example.org"}
ROWS = [
    *(ADA, BOB, EVE, ZOE, DAN, group(ADA, "Ada's friends"), group(DAN)),
    *(member(ADA, BOB), member(ADA, DAN), member(ADA, ZOE, **GONE)),
    member(ADA, EVE, active=False, epoch=0, invitation_id=TO_EVE.id, joined_at=None),
    *(TO_EVE, *LINES, *MANY),
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


def visit(client: Client, who: Subscriber) -> Browser:
    browser = Browser(client)
    assert browser.log_in(token(who.id)).status == 303
    return browser


@pytest.fixture(scope="module")
def ada(client: Client) -> Browser:
    return visit(client, ADA)


# --- a member's page --------------------------------------------------------------------------------------------------


def test_a_member_has_a_page_with_state_units_and_their_lines_alone(ada: Browser, client: Client) -> None:
    page = ada.get(f"/members/{BOB.id}").text
    for said in (
        "=Bob Of-Bob",
        "bob@example.com",
        "20,002\u00a0POP",
        "In use",
        "Account created for",
        "joined the group",
    ):
        assert said in page, said
    assert "Zoe" not in page
    assert f'href="/members/{BOB.id}"' in ada.get("/history").text
    assert f'href="/members/{BOB.id.hex}"' in ada.get("/").text
    told = client.as_(ADA.id).get(f"/v1/group/members/{BOB.id}").json
    assert (told["name"], told["available_units"], told["is_member"]) == ("=Bob Of-Bob", 20_002, True)


def test_of_a_former_member_the_owner_sees_what_they_saw_when_it_ended(ada: Browser, client: Client) -> None:
    page = ada.get(f"/members/{ZOE.id}").text
    assert "Zoe as she was" in page
    assert "6,006" not in page
    assert client.as_(ADA.id).get(f"/v1/group/members/{ZOE.id}").json == {
        "member_id": str(ZOE.id),
        "is_member": False,
        "name": "Zoe as she was",
        "email": "zoe@example.org",
        "state": None,
        "expires_at": None,
        "available_units": None,
        "epoch": 1,
        "joined_at": "2031-01-01T00:00:00Z",
        "ended_at": "2031-03-10T12:00:00Z",
    }


@pytest.mark.parametrize(("owner", "somebody"), [(ADA, EVE), (DAN, BOB), (DAN, ADA), (BOB, ADA)])
def test_nobody_else_has_a_page(client: Client, owner: Subscriber, somebody: Subscriber) -> None:
    browser = visit(client, owner)
    for path in (f"/members/{somebody.id}", f"/history?member={somebody.id}", f"/statement?member={somebody.id}"):
        assert browser.get(path).status == 404, path
    assert client.as_(owner.id).get(f"/v1/group/members/{somebody.id}").problem == (404, "not_found")


# --- the history by member and days -----------------------------------------------------------------------------------


def told(client: Client, **query: Any) -> list[str]:
    """The references that `/v1/history` answers with, all pages of it."""
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = client.as_(ADA.id).get(f"/v1/history?{urlencode({**query, 'limit': 2, **cursor})}").json
        found += [each["reference_id"] for each in page["lines"]]
        if page["next"] is None:
            return found
        cursor = {"cursor": page["next"]}


def test_the_history_is_that_of_a_member_and_a_period(client: Client) -> None:
    assert set(told(client, member=BOB.id)) == {
        str(id_of(f"of {name}")) for name in ("account", "joined", "refused")
    } | {str(TWICE)}
    assert set(told(client, member=BOB.id, filter="transfers")) == {str(TWICE), str(id_of("of refused"))}
    assert told(client, member=EVE.id) == [str(TO_EVE.id)]
    period = {"from": "2031-03-02T01:30:00Z", "before": "2031-03-10T12:00:00+00:00"}
    assert told(client, **period) == [str(id_of("of late"))]
    assert told(client, **period | {"before": "2031-03-02T02:30:00+01:00"}) == []


@pytest.mark.parametrize("name", ["from", "before"])
@pytest.mark.parametrize(
    "text",
    ["2031-03-02", "2031-03-02T01:30:00", "1930000000", "2031-3-2T01:30:00Z", "2031-03-02 01:30:00Z", "", "today"],
)
def test_a_moment_is_one_as_the_document_says(client: Client, name: str, text: str) -> None:
    answer = client.as_(ADA.id).get(f"/v1/history?{urlencode({name: text})}")
    assert answer.problem == (422, "malformed")


def test_days_are_those_of_whoever_reads(ada: Browser) -> None:
    def has(first: str, last: str) -> bool:
        return "1 Mar 2031, 21:30" in ada.get(f"/history?from={first}&to={last}").text

    assert has("2031-03-01", "2031-03-01")
    assert not has("2031-03-02", "2031-03-02")
    assert not has("2031-02-01", "2031-02-28")


@pytest.mark.parametrize("day", ["2031-13-01", "20310301", "2031-W10-1", "1999-12-31", "2200-01-01", "9999-12-31", "x"])
def test_what_is_no_day_is_said_and_shows_nothing(ada: Browser, day: str) -> None:
    for path in (f"/history?from={day}", f"/history?to={day}", f"/statement?from={day}"):
        answer = ada.get(path)
        assert (answer.status, "such as 2026-11-26" in answer.text) == (200, True), path
    assert ada.get(f"/history.csv?from={day}").status == 404


def test_a_member_is_found_by_what_somebody_types(ada: Browser) -> None:
    assert ada.get("/history?who=OF-B%C3%96B").header("location") == f"/history?member={BOB.id}"
    several = ada.get("/history?who=example").text
    assert "Several people are called that" in several
    assert f"/history?member={ZOE.id}" in several
    assert f"{EVE.id}" not in several
    assert "Nobody in your group is called that." in ada.get("/history?who=nobody").text


def test_the_tab_is_in_the_address_and_stays_in_another_language(client: Client) -> None:
    browser = visit(client, ADA)
    here = "http://groups.example/?filter=transfers"
    assert 'id="tab-transfers" data-tab="transfers" href="/?filter=transfers#history"' in browser.get("/").text
    assert 'aria-current="true">Transfers' in browser.get("/?filter=transfers").text
    assert browser.post("/language", {"language": "fr"}, referer=here).header("location") == "/?filter=transfers"
    for path in (f"/lists/{GROUP}", f"/payments/{GROUP}", f"/commands/{GROUP}/3?members=7"):
        there = browser.post("/language", {"language": "fr"}, referer=f"http://groups.example{path}")
        assert there.header("location") == path
    for elsewhere in ("http://evil.example/?filter=transfers", "http://groups.example/transfers/confirm", ""):
        assert browser.post("/language", {"language": "en"}, referer=elsewhere).header("location") == "/", elsewhere


@pytest.mark.parametrize(("here", "member"), [("/", ""), (f"/members/{DAN.id}", f"&member={DAN.id}")])
def test_a_tab_that_htmx_has_turned_can_be_turned_again_where_it_is(ada: Browser, here: str, member: str) -> None:
    turned = ada.get(f"/history?filter=transfers{member}", HX_Request="true").text
    for tabs in (turned, ada.get(here).text):
        again = f'href="{here}?filter=invitations#history" hx-get="/history?filter=invitations{member}"'
        assert again in tabs.replace("&amp;", "&"), here


def test_a_top_up_that_gave_nothing_says_so(ada: Browser) -> None:
    page = ada.get(f"/history?member={DAN.id}&from=2031-03-01").text
    assert "Had enough already" in page
    assert "0\u00a0POP" not in page


async def test_each_read_is_a_range_of_an_index(url: str, engine: AsyncEngine) -> None:
    """With a million lines, too: nothing is sorted but what the ranges bring."""
    for wanted, index in (
        (WantedLines(ADA.id, since=NOW - timedelta(days=1)), "history_of_group"),
        (WantedLines(ADA.id, Filter.TRANSFERS), "history_of_group_by_kind"),
        (WantedLines(ADA.id, member_id=DAN.id, before=NOW), "history_of_member"),
        (WantedLines(ADA.id, Filter.INVITATIONS, DAN.id), "history_of_member"),
    ):
        query = str(lines._lines(wanted, None, 10).compile(engine, compile_kwargs={"literal_binds": True}))
        plan = "\n".join(row[0] for row in execute(url, f"EXPLAIN {query}".replace("%%", "%")))
        assert f"{index} on history" in plan, plan
        assert "Seq Scan on history" not in plan, plan


# --- a table for a spreadsheet ----------------------------------------------------------------------------------------


def table(browser: Browser, path: str, delimiter: str = ",") -> list[list[str]]:
    answer = browser.get(path)
    assert (answer.status, answer.header("content-type")) == (200, "text/csv; charset=utf-8")
    assert answer.text.startswith("\ufeff")
    return list(csv.reader(StringIO(answer.text[1:], newline=""), delimiter=delimiter))


def test_the_table_has_every_line_of_the_page_and_harms_no_spreadsheet(ada: Browser) -> None:
    head, *rows = table(ada, "/history.csv")
    assert head[:2] == ["Reference", "Date and time (America/Martinique)"]
    assert len(rows) == len(LINES) + len(MANY)
    assert [
        reference(TWICE),
        "2031-03-10 08:00:00",
        "Transfer of units",
        "'=Bob Of-Bob",
        "bob@example.com",
        "20",
        "Done",
    ] in rows
    assert [
        reference(TWICE),
        "2031-03-10 08:00:00",
        "Transfer of units",
        "Dan Of-Dan",
        "dan@example.com",
        "0",
        "Had enough already",
    ] in rows
    assert [row[3:] for row in rows if row[0] == reference(id_of("of failed"))] == [["", "", "", "Refused"]]
    _, *narrow = table(ada, f"/history.csv?member={ZOE.id}&from=2031-03-01&to=2031-03-01")
    assert [row[3:5] for row in narrow] == [["Zoe as she was", "zoe@example.org"]]


def test_the_table_is_in_the_readers_language(client: Client) -> None:
    browser = visit(client, DAN)
    answer = browser.get("/history.csv")
    assert (answer.header("content-disposition") or "").startswith("attachment; filename=popfax-historique-")
    assert table(browser, "/history.csv", ";") == [
        [
            "Référence",
            "Date et heure (Europe/Paris)",
            "Objet",
            "Nom",
            "Adresse e-mail",
            "POP unités",
            "Résultat",
        ]
    ]


@pytest.mark.parametrize("text", ["=1+1", "+33", "-2", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_name_is_no_formula(text: str) -> None:
    assert books.harmless(text) == f"'{text}"


async def test_no_more_of_the_history_is_in_memory_than_one_portion(engine: AsyncEngine) -> None:
    sizes = [len(part) async for part in lines.all_of(lambda: read_only(engine), WantedLines(ADA.id))]
    assert sizes == [lines.AT_ONCE, len(LINES) + len(MANY) - lines.AT_ONCE]


# --- a statement ------------------------------------------------------------------------------------------------------


def test_a_statement_lists_what_was_paid_and_sums_it_up(ada: Browser) -> None:
    page = ada.get("/statement?from=2031-03-01&to=2031-03-31").text
    for said in ("Ada Lovelace", "Ada&#39;s friends", "from 1 Mar 2031 to 31 Mar 2031", "America/Martinique"):
        assert said in page, said
    for name in ("of account", "of late"):
        assert reference(id_of(name)) in page, name
    assert reference(TWICE) in page
    assert reference(id_of("of refused")) not in page
    assert '<td class="number">72\u00a0POP</td>' in page  # 45 for the account, 7 and 20 transferred
    assert "You paid for nothing" in ada.get("/statement?from=2031-04-01&to=2031-04-02").text
    assert 'class="card statement"' not in ada.get("/statement?from=2031-04-30&to=2031-04-01").text
    of_bob = ada.get(f"/statement?from=2031-03-01&to=2031-03-31&member={BOB.id}").text
    assert '<td class="number">65\u00a0POP</td>' in of_bob


def test_a_statement_that_would_be_too_long_says_so_and_sums_nothing_up(
    ada: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "STATEMENT_LINES", 2)
    page = ada.get("/statement?from=2031-03-01&to=2031-03-31").text
    assert "There are more than 2 lines in this period" in page
    assert "Total" not in page


def test_a_statement_is_of_this_month_unless_another_period_is_asked_for(ada: Browser) -> None:
    page = ada.get("/statement").text
    today = datetime.now(UTC) - timedelta(hours=4)  # in Martinique
    assert f'name="from" value="{today:%Y-%m}-01"' in page
