"""What somebody is in the middle of on the page survives a reload, another language, and the end of their visit."""

import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.stack import Stack
from popfax_contracts.topics import Principal
from services.chassis import postgres
from services.groups.domain import Plan
from services.groups.web.page.drafts import _MAX_LENGTH
from tests.integration.recorder import execute, scratch_database
from tests.integration.seeding import group, member, person, seed
from tests.integration.serving import Client, serving
from tests.integration.test_page_borders import Answer, Browser, _field
from tests.tokens import token

ADA, BOB, EVE = person("Ada", 500), person("Bob"), person("Eve")
NINA = {"plan": "send_only", "first_name": "Nina", "last_name": "Petit", "email": "nina@example.com", "language": "fr"}
BOBS = f"{BOB.id.hex}.1"


@pytest.fixture(scope="module")
def url(stack: Stack) -> Iterator[str]:
    with scratch_database(stack, Principal.GROUPS) as made:
        yield made


@pytest_asyncio.fixture(scope="module")
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    made = postgres.engine(url)
    plans = [Plan("send_only", 15, 12), Plan("send_receive", 45, 12)]
    await seed(made, [ADA, BOB, EVE, group(ADA), group(EVE), member(ADA, BOB), *plans])
    yield made
    await made.dispose()


@pytest.fixture(scope="module")
def client(url: str, engine: AsyncEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving(url, tmp_path_factory.mktemp("keys")) as made:
        yield made


@pytest.fixture
def ada(client: Client) -> Browser:
    made = Browser(client)
    assert made.log_in(token(ADA.id)).status == 303
    made.post("/language", {"language": "en"})
    return made


def _post(browser: Browser, path: str, form: dict[str, str], **headers: str) -> Answer:
    return browser.post(path, {"proof": browser.proof(), "once": "1", **form}, **headers)


def _end(url: str) -> None:
    execute(url, "UPDATE sessions SET until = now() - interval '1 second' WHERE subscriber_id = %s", ADA.id)


PATHS: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "a plan": ("/create/plan", {"email": "nina@example.com"}, ("Choose a plan", "nina@example.com")),
    "a person": ("/create/person", NINA, ('value="Nina"', 'value="nina@example.com"')),
    "a person who lacks a name": ("/create/payment", {**NINA, "first_name": ""}, ('value="Petit"',)),
    "the payment": ("/create/payment", NINA, ("Nina Petit", "instead of money")),
    "an address that is none": ("/invite", {"email": "nina@@example"}, ('value="nina@@example"',)),
    "a name": ("/name", {"name": "a\tb"}, ('value="a\tb"',)),
}


@pytest.mark.parametrize(("path", "form", "shown"), PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("live", [{}, {"hx_request": "true"}], ids=["a page", "a part"])
def test_a_reload_shows_the_step_again(
    ada: Browser, path: str, form: dict[str, str], shown: tuple[str, ...], live: dict[str, str]
) -> None:
    assert _post(ada, path, form, **live).status == 200
    for _ in range(2):
        again = ada.get("/").text
        assert [each for each in shown if each not in again] == []
        assert "had ended" not in again


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/name", {"name": "A very good name", "once": "refused"}),
        ("/invite", {"email": "bob@example.com", "once": "refused"}),
    ],
)
def test_without_a_script_what_is_refused_can_be_put_right(
    ada: Browser, url: str, path: str, form: dict[str, str]
) -> None:
    _post(ada, path, form, hx_request="true")
    refuse = "UPDATE commands SET state = 'refused', code = 'group_closed', ended_at = now() WHERE actor_id = %s"
    execute(url, refuse, ADA.id)
    shown = _post(ada, path, form)
    assert shown.status == 200
    assert "closed" in shown.text
    assert f'value="{form.get("name") or form["email"]}"' in shown.text


def test_a_page_of_orders_that_is_no_more_leads_to_those_there_are(ada: Browser) -> None:
    gone = ada.get("/orders?page=7")
    assert (gone.status, gone.header("location")) == (303, "/orders")
    assert ada.get("/orders").status == 200


def test_a_form_for_an_order_that_is_cancelled_leads_back_to_where_the_member_was_chosen(ada: Browser) -> None:
    assert re.search(r'<a class="button" href="/">Cancel</a>', ada.get(f"/orders/new?member={BOBS}").text)


def test_another_language_shows_the_step_again_with_what_was_being_typed(ada: Browser) -> None:
    _post(ada, "/create/person", {"plan": "send_only", "email": "nina@example.com"})
    typed = urlencode({"proof": ada.proof(), "at": "/create/person", **NINA, "first_name": "Nîna"})
    ada.post("/language", {"language": "fr", "draft": typed})
    shown = ada.get("/").text
    assert 'lang="fr"' in shown
    assert 'value="Nîna"' in shown


def test_what_is_being_typed_is_kept_before_it_is_sent(ada: Browser) -> None:
    kept = _post(ada, "/draft", {"at": "/invite", "email": "nin"}, hx_request="true")
    assert (kept.status, kept.text) == (204, "")
    assert 'value="nin"' in ada.get("/").text
    assert _post(ada, "/draft", {"at": "/logout"}).status == 422


ENDS: dict[str, tuple[str, str]] = {
    "a flow": ("/create/person", "/invite"),
    "a name": ("/name", "/title"),
}


@pytest.mark.parametrize(("begun", "cancelled"), ENDS.values(), ids=ENDS)
def test_what_is_cancelled_is_forgotten(ada: Browser, begun: str, cancelled: str) -> None:
    _post(ada, begun, {**NINA, "name": "a\tb"})
    assert "popfax-draft" in ada.cookies
    assert ada.get(cancelled, hx_request="true").status == 200
    assert "popfax-draft" not in ada.cookies
    assert "data-focus" not in ada.get("/").text


def test_cancelling_one_thing_forgets_no_other(ada: Browser) -> None:
    _post(ada, "/create/person", NINA)
    ada.get("/title", hx_request="true")
    assert 'value="Nina"' in ada.get("/").text


ASKED: dict[str, tuple[str, dict[str, str], str]] = {
    "a person": ("/create/payment", NINA, "Nina Petit"),
    "an account": ("/create", {**NINA, "price": "15", "payment": "pop_units"}, "Nina Petit"),
    "a name": ("/name", {"name": "Cabinet"}, 'value="Cabinet"'),
    "an invitation": ("/invite", {"email": "eve@example.com"}, 'value="eve@example.com"'),
    "a transfer": ("/transfers", {"mode": "amount", "amount": "20", "member": BOBS}, "Transfer 20"),
    "a removal": ("/members/detach", {"member": BOBS}, "Remove 1 member"),
}


@pytest.mark.parametrize(("path", "form", "shown"), ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("live", [{}, {"hx_request": "true"}], ids=["a page", "a part"])
def test_whoever_logs_in_again_goes_on_where_their_visit_ended(
    url: str, ada: Browser, path: str, form: dict[str, str], shown: str, live: dict[str, str]
) -> None:
    before = execute(url, "SELECT count(*) FROM commands")
    sent = {"proof": ada.proof(), "once": "1", **form}
    _end(url)
    told = ada.post(path, sent, **live)
    if live:
        assert told.header("hx-redirect") == "/"
        told = ada.get("/")
    assert told.status == 401
    assert "was not sent" in told.text
    assert ada.log_in(token(ADA.id)).status == 303
    again = ada.get("/").text
    assert shown in again
    assert "Your visit had ended." in again
    assert "Your visit had ended." not in ada.get("/").text
    assert execute(url, "SELECT count(*) FROM commands") == before, "nothing is done unasked"


def test_what_can_not_be_gone_on_with_is_said_not_to_be_done(url: str, ada: Browser) -> None:
    proof = ada.proof()
    _end(url)
    told = ada.post(f"/invitations/{EVE.id}/accept", {"proof": proof})
    assert (told.status, "was not done" in told.text) == (401, True)
    ada.log_in(token(ADA.id))
    assert "what you asked for last was not done" in ada.get("/").text
    assert "what you asked for last was not done" not in ada.get("/").text


@pytest.mark.parametrize("live", [{}, {"hx_request": "true"}], ids=["a page", "a part"])
def test_a_form_of_a_visit_before_is_shown_again_and_not_carried_out(
    url: str, ada: Browser, live: dict[str, str]
) -> None:
    """Another tab has been open all the time, and its forms are older than the session."""
    before, sent = execute(url, "SELECT count(*) FROM commands"), {"proof": ada.proof(), "name": "Cabinet"}
    _end(url)
    ada.log_in(token(ADA.id))
    again = ada.post("/name", sent, **live)
    assert (again.header("location") or again.header("hx-redirect")) == "/"
    assert 'value="Cabinet"' in ada.get("/").text
    ada.log_in(token(EVE.id))
    asked = ada.log_in(token(EVE.id))
    ada.post("/login", {"token": _field(asked.text, "token"), "proof": _field(asked.text, "proof")})
    assert ada.post("/name", sent, **live).status == 403
    assert execute(url, "SELECT count(*) FROM commands") == before


def test_what_was_chosen_is_chosen_again(url: str, ada: Browser) -> None:
    sent = {"proof": ada.proof(), "mode": "top_up_to", "amount": "37", "member": BOBS}
    _end(url)
    assert ada.post("/transfers/cost", sent, hx_request="true").header("hx-redirect") == "/"
    ada.log_in(token(ADA.id))
    shown = ada.get("/").text
    assert 'value="37"' in shown
    assert re.search(rf'value="{BOBS}"[^>]* checked', shown)
    assert 'value="37"' not in ada.get("/").text


def test_whoever_comes_back_after_their_visit_is_told_that_it_has_ended(url: str, ada: Browser) -> None:
    _end(url)
    assert "Your visit has ended" in ada.get("/").text


def test_nobody_else_is_shown_what_was_typed(url: str, ada: Browser) -> None:
    _post(ada, "/create/person", NINA)
    _end(url)
    ada.get("/")
    assert ada.log_in(token(EVE.id)).status == 303
    assert "Nina" not in ada.get("/").text
    assert "popfax-draft" not in ada.cookies
    ada.log_in(token(ADA.id))
    _post(ada, "/create/person", NINA)
    ada.post("/logout", {"proof": ada.proof()})
    assert ada.cookies.keys() == {"popfax-language"}


def test_no_other_site_puts_words_into_anybodys_mouth(url: str, ada: Browser) -> None:
    proof = ada.proof()
    for form in ({**NINA, "proof": "guessed"}, NINA):
        ada.post("/language", {"language": "en", "draft": urlencode({"at": "/create/person", **form})})
        assert "popfax-draft" not in ada.cookies
    _end(url)
    for form, headers in (({"proof": "guessed"}, {}), ({"proof": proof}, {"sec_fetch_site": "cross-site"})):
        ada.post("/create/person", {**NINA, **form}, **headers)
        assert "popfax-draft" not in ada.cookies


@pytest.mark.parametrize("kept", ["", "x", "e30=", "bnVsbA==", "eyJtYXJrIjogMX0=", "é"])
def test_a_draft_that_is_none_changes_nothing(ada: Browser, kept: str) -> None:
    ada.cookies["popfax-draft"] = kept.encode().decode("latin-1")
    assert ada.get("/").status == 200


def test_a_draft_is_bounded(ada: Browser) -> None:
    everybody = [("member", f"{number:032x}.1") for number in range(200)]
    body = urlencode([("proof", ada.proof()), ("at", "/transfers"), ("amount", "20"), *everybody])
    ada.post("/language", {"language": "en", "draft": body})
    assert 0 < len(ada.cookies["popfax-draft"]) < _MAX_LENGTH
    assert ada.get("/").status == 200


def test_the_cookie_of_a_visit_outlives_it_by_an_hour_and_opens_nothing(client: Client) -> None:
    browser = Browser(client)
    until = datetime.now(UTC) + timedelta(seconds=30)
    given = browser.log_in(token(ADA.id, exp=until)).header("set-cookie") or ""
    assert "Max-Age=36" in given
