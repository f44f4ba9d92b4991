"""What an owner pays for members, on the page and a database: for whom, at which price, and what came of it."""

import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.stack import Stack
from popfax_contracts.dates import months_later
from popfax_contracts.groups import PayForMember
from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from services.chassis import postgres
from services.groups.domain import AccountState, Option, Plan, Subscriber
from tests.integration.recorder import plain, scratch_database
from tests.integration.seeding import group, member, person, seed
from tests.integration.serving import Client, serving
from tests.integration.test_page_borders import Browser
from tests.tokens import token

NOW = datetime.now(UTC)
DAY = timedelta(days=1)

OWNER = person("Olga", 100, expires_at=NOW + 400 * DAY)
SHORT, EXPIRED = person("Sam", 0), person("Emil", 50, state=AccountState.EXPIRED, expires_at=NOW - DAY)
WITH_PLAN = {"plan": "send_only"}
FAR = person("Fay", 5, expires_at=NOW + 200 * DAY, **WITH_PLAN)
SOON = person("Sid", 5, expires_at=NOW + 20 * DAY, **WITH_PLAN)
NEAR = person("Ned", 5, expires_at=NOW + 5 * DAY, **WITH_PLAN)
LAST = person("Lea", 5, expires_at=NOW + timedelta(hours=5), **WITH_PLAN)
OVER = person("Ove", 5, state=AccountState.EXPIRED, expires_at=NOW - 3 * DAY, **WITH_PLAN)
NEVER = person("Nina", 5, expires_at=None)
UNTOLD = person("Una", 5, expires_at=NOW + 90 * DAY)
PACKED = person("Pia", 5, expires_at=NOW + 90 * DAY, options_pack=True, **WITH_PLAN)
MEMBERS = (FAR, SOON, NEAR, LAST, OVER, NEVER, UNTOLD, PACKED)


@pytest.fixture(scope="module")
def url(stack: Stack) -> Iterator[str]:
    with scratch_database(stack, Principal.GROUPS) as made:
        yield made


@pytest_asyncio.fixture(scope="module")
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    made = postgres.engine(url)
    people = [OWNER, SHORT, EXPIRED, *MEMBERS]
    theirs = [member(owner, each) for owner in (OWNER, SHORT, EXPIRED) for each in MEMBERS]
    sold = [Plan("send_only", 30, 12), Option("options_pack", 40)]
    await seed(made, [*people, *theirs, *sold, *(group(each) for each in (OWNER, SHORT, EXPIRED))])
    yield made
    await made.dispose()


@pytest.fixture(scope="module")
def client(url: str, engine: AsyncEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    link = "https://www.popfax.example/account"
    with serving(url, tmp_path_factory.mktemp("keys"), account_link=link, web_limit_commands="1000/minute") as made:
        yield made


def visiting(client: Client, visitor: Subscriber) -> Browser:
    browser = Browser(client)
    assert browser.log_in(token(visitor.id)).status == 303
    return browser


def row(text: str, name: str) -> str:
    """Return a member's row of the list."""
    found: list[str] = [each for each in re.findall(r"<tr>.*?</tr>", text, re.DOTALL) if f"<bdi>{name} " in each]
    assert len(found) == 1
    return found[0]


def question(browser: Browser, action: str, *members: Subscriber) -> str:
    """Tick members, and return what is asked before they are paid for."""
    ticked = [("member", f"{each.id.hex}.1") for each in members]
    text = browser.ask("POST", f"/payments/{action}/confirm", [("proof", browser.proof()), *ticked]).text
    return text[text.index('id="members-answer"') : text.index('id="selection"')]


def fields(text: str) -> list[tuple[str, str]]:
    """Return what the question's form sends."""
    form = text[text.index("<form") :]
    return re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form)


# --- the list ---------------------------------------------------------------------------------------------------------


def test_each_end_is_marked_in_words(client: Client) -> None:
    text = visiting(client, OWNER).get("/").text
    for name, words, tone in (
        ("Lea", "Expires within a day", "bad"),
        ("Ned", "Expires in 5 days", "bad"),
        ("Sid", "Expires in 20 days", "wait"),
        ("Ove", "Expired", "off"),
    ):
        assert f'<span class="tag {tone}">{words}</span>' in row(text, name)
    assert re.search(r"class=\"ends\">\d+ \w+ \d{4}<", row(text, "Fay"))
    assert "tag" not in row(text, "Fay")
    assert 'class="ends"><' in row(text, "Nina")


# --- the question -----------------------------------------------------------------------------------------------------


def test_the_question_says_who_until_when_at_which_price_and_what_is_left(client: Client) -> None:
    text = question(visiting(client, OWNER), "extension", FAR, NEAR)
    assert "Extend 2 accounts?" in text
    end = months_later(FAR.expires_at or NOW, 12)
    for sentence in ("Fay Of-Fay", "Ned Of-Ned", str(end and end.year), "30\u00a0POP", "60\u00a0POP", "40\u00a0POP"):
        assert sentence in text
    paid = [value for name, value in fields(text) if name == "pay"]
    assert [each.split(".")[:3] for each in paid] == [[each.id.hex, "1", "30"] for each in (FAR, NEAR)]
    assert "Pay 60\u00a0POP" in text


def test_who_cannot_be_paid_for_is_left_out_and_it_says_why(client: Client) -> None:
    browser = visiting(client, OWNER)
    text = question(browser, "extension", OVER, NEVER, UNTOLD)
    assert "Extend 1 account?" in text, "an expired account can be extended"
    assert "This account never expires." in text
    assert "What it costs is known 30 days before its end." in text
    text = question(browser, "options_pack", FAR, OVER, PACKED)
    assert "Add the options pack to 1 account?" in text
    assert "This account has expired: extend it first." in text
    assert "This account has the options pack already." in text
    assert [value.split(".")[0] for name, value in fields(text) if name == "pay"] == [FAR.id.hex]


def test_more_than_the_owner_has_is_said_before_and_cannot_be_paid(client: Client) -> None:
    text = question(visiting(client, OWNER), "extension", FAR, SOON, NEAR, LAST)
    assert re.search(r"You lack</dt><dd class=\"bad\">20\u00a0POP", text)
    assert 'href="https://www.popfax.example/account"' in text
    assert "Pay 120" not in text


def test_nobody_else_s_member_is_paid_for(client: Client) -> None:
    assert "Choose one or several members first." in question(visiting(client, OWNER), "extension", SHORT)
    assert visiting(client, OWNER).post("/payments/a_fax/confirm", {"proof": "x"}).status in (403, 404)


# --- an owner who can't -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "words"),
    [(SHORT, "You have no POP units"), (EXPIRED, "Your account has expired. You can still invite and remove members")],
)
def test_an_owner_who_cannot_pay_is_told_before_the_attempt(client: Client, owner: Subscriber, words: str) -> None:
    text = visiting(client, owner).get("/").text
    assert words in text
    assert 'href="https://www.popfax.example/account"' in text
    assert len(re.findall(r'<button [^>]*disabled aria-describedby="notice"', text)) == 3
    assert "Invite / Create</button>" in text


def test_an_owner_who_can_pay_is_told_nothing(client: Client) -> None:
    text = visiting(client, OWNER).get("/").text
    assert 'class="notice"' not in text
    assert 'aria-describedby="notice"' not in text


# --- paying -----------------------------------------------------------------------------------------------------------


def test_each_member_is_paid_for_by_a_command_of_its_own_once_and_followed_as_one(client: Client, url: str) -> None:
    browser = visiting(client, OWNER)
    sent = fields(question(browser, "extension", FAR, NEAR))
    answers = [browser.ask("POST", "/payments/extension", sent) for _ in range(2)]
    places = {answer.header("location") for answer in answers}
    assert {answer.status for answer in answers} == {303}
    assert len(places) == 1, "a form that is sent twice is paid once"
    (place,) = places
    assert place is not None
    with psycopg.connect(plain(url)) as database:
        posted = database.execute(
            "SELECT convert_from(value, 'UTF8') FROM outbox WHERE type = %s", (PayForMember.TYPE,)
        ).fetchall()
        asked = {PayForMember.from_json(text.encode()) for (text,) in posted}
        shown = {"group_id": group_of(OWNER.id), "epoch": 1, "action": "extension", "price_units": 30}
        assert asked == {PayForMember(**shown, member_id=each.id, expires_at=each.expires_at) for each in (FAR, NEAR)}
        assert browser.get(place).text.count("In progress") == 2
        for n, (state, code) in enumerate((("done", None), ("refused", "end_changed"))):
            database.execute(
                "UPDATE commands SET state = %s, code = %s, ended_at = now(), result = %s WHERE id ="
                " (SELECT id FROM commands WHERE type = %s ORDER BY id LIMIT 1 OFFSET %s)",
                (state, code, None if code else '{"event": "member-paid-for"}', PayForMember.TYPE, n),
            )
            database.commit()
    text = browser.get(place).text
    assert "Paid for 1 member." in text
    assert "1 member was not paid for." in text
    assert "This account was extended in the meantime. Nothing was taken." in text
    assert visiting(client, SHORT).get(place).status == 404


def test_a_form_of_nobody_s_is_refused(client: Client) -> None:
    browser = visiting(client, OWNER)
    for pay in ("", "nobody", f"{FAR.id.hex}.1.thirty.", f"{FAR.id.hex}.1.30.tomorrow"):
        answer = browser.post("/payments/extension", {"proof": browser.proof(), "once": "x", "pay": pay})
        assert answer.status == 422, pay
