"""Several invitations at once, one sent again, and the page behind an invitation's link: on a real database."""

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import pytest
import pytest_asyncio
from psycopg.types.json import Jsonb
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.stack import Stack
from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from services.chassis import postgres
from services.groups.domain import Invitation, InvitationState, Plan, Tally, hash_token, sent_invitations_tally
from services.groups.web.page.speech import speech
from tests.integration.recorder import execute, scratch_database
from tests.integration.seeding import group, member, person, seed
from tests.integration.serving import Client, serving
from tests.integration.test_page_borders import Answer, Browser
from tests.tokens import token
from tests.unit.given import NOW, id_of

ADA, BOB, EVE, MEG = person("Ada", 500), person("Bob"), person("Eve"), person("Meg")
LATER = datetime.now(UTC) + timedelta(days=3)
SECRET = "ab" * 32


def invitation(name: str, state: InvitationState = InvitationState.PENDING, **changed: Any) -> Invitation:
    """An invitation of Bob by Ada; only one of a group can be pending."""
    fields: dict[str, Any] = {
        "id": id_of(f"invitation {name}"),
        "group_id": group_of(ADA.id),
        "owner_id": ADA.id,
        "subscriber_id": BOB.id,
        "state": state,
        "round": 1,
        "token_hash": hash_token(bytes.fromhex(SECRET)),
        "made_at": NOW,
        "expires_at": LATER,
        "ended_at": None if state is InvitationState.PENDING else NOW,
        "email": BOB.email,
    }
    return Invitation(**(fields | changed))


PENDING = invitation("pending")
LAPSED = invitation("lapsed", group_id=group_of(EVE.id), owner_id=EVE.id, expires_at=LATER - timedelta(days=4))
ENDED = {
    state: invitation(state, state)
    for state in (InvitationState.ACCEPTED, InvitationState.DECLINED, InvitationState.REVOKED)
}


@pytest.fixture(scope="module")
def url(stack: Stack) -> Iterator[str]:
    with scratch_database(stack, Principal.GROUPS) as made:
        yield made


@pytest_asyncio.fixture(scope="module")
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    made = postgres.engine(url)
    asked = Tally(sent_invitations_tally(ADA.id), 1, datetime.now(UTC).date(), 90)
    plans = [Plan("send_receive", 120, 12), Plan("send_only", 60, 12)]
    people = [ADA, BOB, EVE, MEG, group(ADA, "Office"), group(BOB), group(EVE, "Lapsed"), member(ADA, MEG)]
    await seed(made, [*people, PENDING, LAPSED, *ENDED.values(), asked, *plans])
    yield made
    await made.dispose()


@pytest.fixture(scope="module")
def client(url: str, engine: AsyncEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving(url, tmp_path_factory.mktemp("keys"), login_link="https://log-in.example/here") as made:
        yield made


def logged_in(client: Client, who: UUID) -> Browser:
    browser = Browser(client)
    assert browser.log_in(token(who)).status == 303
    return browser


@pytest.fixture
def ada(client: Client) -> Browser:
    return logged_in(client, ADA.id)


def hidden(text: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', text)
    assert found, text
    return found[1].replace("&#34;", '"')


def sent(browser: Browser, path: str, page: str, **fields: str) -> Answer:
    """Send a form of a page, as htmx does."""
    form = {"proof": hidden(page, "proof"), "once": hidden(page, "once"), **fields}
    return browser.post(path, form, hx_request="true")


def answer(url: str, list_id: str, answers: Mapping[str, str | None]) -> None:
    """Answer the commands of a list, by address: with an event, or with a refusal that begins with `!`."""
    ((lines,),) = execute(url, "SELECT lines FROM command_lists WHERE id = %s", UUID(list_id))
    for line in lines:
        if (said := answers.get(line["email"])) is None:
            continue
        code = said[1:] if said.startswith("!") else None
        values = (("refused", code, None) if code else ("done", None, Jsonb({"event": said}))) + (NOW, UUID(line["id"]))
        execute(url, "UPDATE commands SET state = %s, code = %s, result = %s, ended_at = %s WHERE id = %s", *values)


def list_id(text: str) -> str:
    found = re.search(r'hx-get="/lists/([0-9a-f-]{36})"', text)
    assert found, text
    return found[1]


def posted(url: str) -> list[tuple[Any, ...]]:
    return execute(url, "SELECT id FROM commands WHERE type LIKE '%invite-by-email%'")


# --- several at once --------------------------------------------------------------------------------------------------


def test_each_line_is_judged_before_anything_is_sent(ada: Browser, url: str) -> None:
    lines = ["Ann <ann@new.example>", "ann@new.example", "nobody", "meg@example.com", "bob@example.com"]
    lines += ["ada@example.com", *(f"{n}@new.example" for n in range(10))]
    before = posted(url)
    checked = sent(ada, "/invite/several/check", ada.get("/invite/several").text, lines="\n".join(lines)).text
    found = re.findall(r'<span class="tag \w+">([^<]+)</span>', checked)
    assert found == [
        "Ready",
        "Twice in the list",
        "Not an address",
        "Member already",
        "Invited already",
        "Your own address",
        *["Ready"] * 9,
        "More than one day allows",  # of a hundred, ninety are used up
    ]
    assert "Invite 10 people" in checked
    assert posted(url) == before


def test_a_list_is_sent_once_followed_as_one_and_leads_to_accounts(ada: Browser, url: str) -> None:
    before = len(posted(url))
    lines = "Ann;Onimous;ann@list.example\nnew@list.example\nold@list.example"
    checked = sent(ada, "/invite/several/check", ada.get("/invite/several").text, lines=lines).text
    form = {name: hidden(checked, name) for name in ("proof", "once", "chosen", "lines")}
    first, again = (ada.post("/invite/several/send", form, hx_request="true").text for _ in range(2))
    assert list_id(first) == list_id(again)
    assert len(posted(url)) == before + 3
    assert "0 of 3 done" in first

    id_ = list_id(first)
    unknown = "account-creation-required"
    answer(url, id_, {"ann@list.example": unknown, "old@list.example": "!quota_address_day"})
    assert "2 of 3 done" in ada.get(f"/lists/{id_}").text
    answer(url, id_, {"new@list.example": unknown})
    ended = ada.get(f"/lists/{id_}", hx_request="true")
    assert ended.header("hx-trigger") == "refresh"
    assert "2 addresses belong to nobody yet" in ended.text
    assert "hx-trigger" not in ended.text
    assert speech("en").refusal("quota_address_day") in ended.text

    asked = ada.get(f"/lists/{id_}/accounts", hx_request="true").text
    assert 'value="Onimous"' in asked
    fields = {"plan": "send_receive", "language": "fr", "person": "0", "first_name.0": "Ann", "last_name.0": ""}
    assert 'id="error-last_name.0"' in sent(ada, f"/lists/{id_}/payment", asked, **fields).text
    fields["last_name.0"] = "Onimous"
    cost = sent(ada, f"/lists/{id_}/payment", asked, **fields).text
    assert "Pay 120\u00a0POP" in cost
    followed = sent(ada, f"/lists/{id_}/accounts", cost, price="120", **fields).text
    (command,) = execute(url, "SELECT value FROM outbox WHERE type LIKE '%create-member-account%'")
    assert b'"email":"ann@list.example"' in bytes(command[0])
    accounts = list_id(followed)
    answer(url, accounts, {"ann@list.example": "!email_taken"})
    assert "belongs to a Popfax subscriber already" in ada.get(f"/lists/{accounts}").text
    assert "1 account" in ada.get("/invite/several").text


def test_the_accounts_of_a_list_cost_their_sum_and_no_more_than_there_is(ada: Browser, url: str) -> None:
    emails = [f"{n}@sum.example" for n in range(5)]
    checked = sent(ada, "/invite/several/check", ada.get("/invite/several").text, lines="\n".join(emails)).text
    id_ = list_id(sent(ada, "/invite/several/send", checked, chosen=hidden(checked, "chosen")).text)
    answer(url, id_, dict.fromkeys(emails, "account-creation-required"))
    asked = ada.get(f"/lists/{id_}/accounts", hx_request="true").text
    names = {f"{name}.{n}": "Name" for n in range(5) for name in ("first_name", "last_name")}
    form = {"proof": hidden(asked, "proof"), "plan": "send_receive", "language": "en", "once": "1", **names}

    def cost(*people: str) -> str:
        body = [*form.items(), *(("person", each) for each in people)]
        return ada.ask("POST", f"/lists/{id_}/payment", body, hx_request="true").text

    assert "Pay 480\u00a0POP" in cost("0", "1", "2", "3")
    lacking = cost("0", "1", "2", "3", "4")
    assert "You lack 100\u00a0POP" in lacking
    assert "Pay 600" not in lacking
    assert "one person at least" in cost()


def test_a_list_is_its_owners_alone(ada: Browser, client: Client) -> None:
    checked = sent(ada, "/invite/several/check", ada.get("/invite/several").text, lines="x@own.example").text
    id_ = list_id(sent(ada, "/invite/several/send", checked, chosen=hidden(checked, "chosen")).text)
    eve = logged_in(client, EVE.id)
    assert ada.get(f"/lists/{id_}").status == 200
    assert eve.get(f"/lists/{id_}").status == 404
    assert "x@own.example" not in eve.get("/invite/several").text


def test_without_a_script_the_list_is_a_page_of_its_own(ada: Browser) -> None:
    page = ada.get("/invite/several").text
    form = {"proof": hidden(page, "proof"), "once": "42", "lines": "plain@list.example"}
    checked = ada.post("/invite/several/check", form).text
    answered = ada.post("/invite/several/send", {**form, "chosen": hidden(checked, "chosen")})
    assert answered.status == 303
    assert "plain@list.example" in ada.get(answered.header("location") or "").text


# --- one that is sent again -------------------------------------------------------------------------------------------


def test_a_pending_invitation_is_sent_again_by_its_owner_alone(ada: Browser, client: Client, url: str) -> None:
    page = ada.get("/").text
    assert f"/invitations/{PENDING.id}/resend" in page
    pending = sent(ada, f"/invitations/{PENDING.id}/resend", page, resend="1").text
    assert 'hx-target="#pending-answer"' in pending
    ((value,),) = execute(url, "SELECT value FROM outbox WHERE convert_from(value, 'UTF8') LIKE '%bob@example.com%'")
    assert bytes(value) == b'{"group_id":"%s","email":"bob@example.com"}' % str(group_of(ADA.id)).encode()
    eve = logged_in(client, EVE.id)
    said = sent(eve, f"/invitations/{PENDING.id}/resend", eve.get("/").text).text
    assert "not waiting for an answer" in said


async def test_many_invitations_are_shown_in_pages_each_with_what_can_be_done(
    url: str, engine: AsyncEngine, client: Client
) -> None:
    invited = [person(f"Invited {n}", email=f"invited.{n}@example.com") for n in range(60)]
    zoe = person("Zoe")
    pending = [
        invitation(
            f"to {each.email}", group_id=group_of(zoe.id), owner_id=zoe.id, subscriber_id=each.id, email=each.email
        )
        for each in invited
    ]
    await seed(engine, [zoe, group(zoe), *invited, *pending])
    browser = logged_in(client, zoe.id)
    first, listed = browser.get("/").text, [browser.get(f"/?show=invited&page={n}").text for n in (1, 2, 9)]
    beside = first.count("/revoke") // 2
    assert (beside, "Show all 60" in first) == (10, True)
    assert [text.count("/revoke") // 2 - beside for text in listed] == [50, 10, 10]
    button = re.search(r'<button class="button small" name="resend" value="1" formaction="([^"]+)"', listed[1])
    assert button
    again = sent(browser, button[1], listed[1], resend="1", at="/transfers/cost", mode="amount", show="invited")
    assert 'hx-target="#pending-answer"' in again.text


# --- the link ---------------------------------------------------------------------------------------------------------


def follow(browser: Browser, invitation: Invitation, secret: str = SECRET, **headers: str) -> Answer:
    """Follow the link of a mail, to where it leads."""
    arrived = browser.get(f"/invitation?{urlencode({'id': invitation.id, 'token': secret})}", **headers)
    assert (arrived.status, arrived.header("location")) == (303, "/invitation")
    assert arrived.header("referrer-policy") == "no-referrer"
    return browser.get("/invitation")


TELLS = ("Office", "Of-Ada", "Bob")


def test_whoever_has_the_mail_sees_who_invites_and_logs_in_at_the_platform(client: Client) -> None:
    shown = follow(Browser(client), PENDING)
    assert (shown.status, shown.header("cache-control")) == (200, "no-store")
    assert "Office" in shown.text
    assert "Ada Of-Ada" in shown.text
    assert "sees the state of your account and your available units" in shown.text
    assert 'href="https://log-in.example/here"' in shown.text
    assert 'href="https://log-in.example/here"' in Browser(client).get("/").text, "wherever they come to"
    assert SECRET not in shown.text
    assert "accept" not in shown.text.replace("If you accept", "")


def test_logging_in_leads_back_and_the_right_person_answers(client: Client, url: str) -> None:
    browser = Browser(client)
    follow(browser, PENDING)
    assert browser.log_in(token(BOB.id)).header("location") == "/invitation"
    shown = browser.get("/invitation").text
    form = {"proof": hidden(shown, "proof"), "once": hidden(shown, "once")}
    assert "Joining the group" in browser.post(f"/invitations/{PENDING.id}/accept", form, hx_request="true").text
    assert "popfax-invitation" not in browser.cookies
    ((actor,),) = execute(url, "SELECT actor FROM outbox WHERE type LIKE '%accept-invitation%'")
    assert actor == BOB.id


def test_somebody_else_is_told_nothing_but_that_it_is_not_for_them(client: Client) -> None:
    eve = logged_in(client, EVE.id)
    shown = follow(eve, PENDING)
    assert "for another account" in shown.text
    assert not any(each in shown.text for each in TELLS)
    left = eve.post("/logout", {"proof": hidden(shown.text, "proof"), "then": "/invitation"})
    assert left.header("location") == "/invitation"
    assert "Office" in eve.get("/invitation").text


def test_a_link_that_proves_nothing_tells_nothing(client: Client) -> None:
    unknown = invitation("unknown")
    eve = logged_in(client, EVE.id)
    found = [
        follow(browser, about, secret).text
        for browser in (Browser(client), eve)
        for about, secret in ((PENDING, "cd" * 32), (unknown, SECRET), (PENDING, "garbage"), (PENDING, ""))
    ]
    for text in found:
        assert "lien" in text or "This link is not good" in text
        assert not any(each in text for each in TELLS)
    assert Browser(client).get("/invitation").status == 404


def test_who_is_invited_needs_no_newest_mail(client: Client) -> None:
    """They see it on their page anyway."""
    assert "Office" in follow(logged_in(client, BOB.id), PENDING, "cd" * 32).text


@pytest.mark.parametrize(
    ("about", "said"),
    [
        (LAPSED, "This invitation has lapsed"),
        (ENDED[InvitationState.ACCEPTED], "This invitation is accepted already"),
        (ENDED[InvitationState.DECLINED], "This invitation was declined"),
        (ENDED[InvitationState.REVOKED], "This invitation was withdrawn"),
    ],
    ids=lambda each: each.state.value if isinstance(each, Invitation) else "",
)
def test_one_that_has_ended_says_so(client: Client, about: Invitation, said: str) -> None:
    for browser in (Browser(client), logged_in(client, BOB.id)):
        shown = follow(browser, about).text
        assert said in shown
        assert f"/invitations/{about.id}/accept" not in shown
    assert "for another account" in follow(logged_in(client, MEG.id), about).text


@pytest.mark.parametrize(
    ("method", "headers"),
    [("HEAD", {}), ("GET", {"sec_purpose": "prefetch"}), ("GET", {"sec_fetch_dest": "image"}), ("GET", {})],
)
def test_a_look_at_the_link_changes_nothing(client: Client, url: str, method: str, headers: dict[str, str]) -> None:
    state = "SELECT (SELECT count(*) FROM commands), (SELECT count(*) FROM outbox), (SELECT count(*) FROM sessions)"
    before = execute(url, state)
    path = f"/invitation?{urlencode({'id': PENDING.id, 'token': SECRET})}"
    for _ in range(2):
        looked = Browser(client)
        assert looked.ask(method, path, None, **headers).status == 303
        assert bool(looked.cookies) == (headers == {} and method == "GET")
    assert execute(url, state) == before


def test_switching_the_language_stays_with_the_invitation(client: Client) -> None:
    browser = Browser(client)
    follow(browser, PENDING)
    switched = browser.post("/language", {"language": "fr", "then": "/invitation"})
    assert switched.header("location") == "/invitation"
    assert "Vous êtes invité dans" in browser.get("/invitation").text
    assert browser.post("/language", {"language": "fr", "then": "https://evil.example"}).header("location") == "/"
