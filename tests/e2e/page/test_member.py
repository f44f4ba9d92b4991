"""What somebody sees and does who is invited into other people's groups; and what they never see."""

import re
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing
from urllib.error import HTTPError
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from playwright.sync_api import expect

from deploy.local.product import Product
from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from services.groups.web.page.speech import speech
from tests.e2e.driver import World, wait
from tests.e2e.page.cast import Cast
from tests.e2e.page.conftest import Visiting
from tests.e2e.page.people import Person, give, invite, join, link_of_invitation, rename, settle_in
from tests.tokens import cookie_of

LOCALES = {"fr": "fr-FR", "en": "en-GB"}


@pytest.mark.parametrize("language", LOCALES)
def test_accepts_an_invitation_and_leaves_again(stage: World, visit: Visiting, language: str) -> None:
    words, say = speech(language), speech(language).say
    owner, member = Person("Paul", "Durand", 7319), Person("Nora", "Silva", 3, language=language)  # type: ignore[arg-type]
    settle_in(stage, owner, member)
    rename(stage, owner, "Durand & Fils")
    at = visit(member, language="de-DE")
    at.see(
        say(
            "You are in nobody else’s group. When somebody invites you, the invitation appears at the top of this page."
        )
    )
    invite(stage, owner, member)
    at.see(say("%(owner)s invites you.", owner="Paul Durand"), "#received")
    at.press(re.compile(f"^{say('Accept')}"), "#received")
    at.see(say("You are a member of the group now."), "#toasts")
    at.see("Durand & Fils", "#joined")
    expect(at.page.locator("#received")).to_have_text("")
    give(stage, owner, (member,), 40)
    expect(at.page.locator("#balance")).to_contain_text(words.units(43))
    at.press(re.compile(f"^{say('Leave')}"), "#joined", role="link")
    expect(at.page.locator("dialog")).to_contain_text("Durand & Fils")
    at.press(say("Leave the group"), "dialog")
    at.see(say("You have left the group. Your account and your units stay yours."), "#toasts")
    expect(at.page.locator("#joined li")).to_have_count(0)
    expect(at.page.locator("#balance")).to_contain_text(words.units(43))


@pytest.mark.parametrize("language", LOCALES)
def test_declines_an_invitation(stage: World, visit: Visiting, language: str) -> None:
    say = speech(language).say
    owner, member = Person("Paul", "Durand"), Person("Nora", "Silva", language=language)  # type: ignore[arg-type]
    settle_in(stage, owner, member)
    invite(stage, owner, member)
    at = visit(member)
    at.press(re.compile(f"^{say('Decline')}"), "#received")
    at.see(say("You have declined the invitation."), "#toasts")
    expect(at.page.locator("#received")).to_have_text("")
    expect(at.page.locator("#joined li")).to_have_count(0)


def test_answers_an_invitation_from_its_mail_without_javascript(
    stage: World, visit: Visiting, product: Product
) -> None:
    owner, member = Person("Paul", "Durand"), Person("Nora", "Silva")
    settle_in(stage, owner, member)
    invite(stage, owner, member)
    wait(lambda: stage.mails_to(member.email) != [], "the invitation's mail")
    at = visit(None, scripts=False)
    at.page.goto(link_of_invitation(stage.mails_to(member.email)[-1]))
    assert at.page.url == f"{at.url}/invitation"
    at.see("Paul Durand vous invite dans son groupe")
    expect(at.page.get_by_role("button", name="Accepter")).to_have_count(0)
    at.page.goto(product.stack.keys.login_link(at.url, member.id))
    assert at.page.url == f"{at.url}/invitation"
    at.press("Accepter")
    at.see("Vous êtes maintenant membre du groupe.")
    at.press(re.compile("^Quitter"), "#joined", role="link")
    at.press("Quitter le groupe")
    at.see("Vous avez quitté le groupe")


# --- what is the owner's ----------------------------------------------------------------------------------------------


class Client:
    """Somebody without a browser, who asks for whatever they like."""

    def __init__(self, product: Product, who: Person | None) -> None:
        self.url = product.services[Principal.GROUPS].url
        self.cookie = cookie_of(product.stack.keys.login_link(self.url, who.id)) if who else None

    def ask(self, path: str, fields: Mapping[str, object] | None = None, **headers: str) -> tuple[int, str]:
        """Ask for a page, or send a form."""
        data = None if fields is None else urlencode(fields, doseq=True).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, headers)
        if self.cookie:
            request.add_header("Cookie", self.cookie)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with closing(error):
                return error.code, error.read().decode()

    def proof(self) -> str:
        """Return what our forms carry."""
        found = re.search(r'name="proof" value="([^"]+)"', self.ask("/")[1])
        assert found
        return found[1]

    def events(self) -> Iterator[str]:
        """Yield what the stream of changes says, line by line."""
        request = urllib.request.Request(f"{self.url}/events", headers={"Cookie": str(self.cookie)})
        with urllib.request.urlopen(request, timeout=20) as answer:
            for line in answer:
                yield line.decode()


def test_a_member_finds_nothing_of_the_owners_on_any_route(stage: World, product: Product) -> None:
    owner = Person("Paul", "Durand", 7319)
    member, other = Person("Nora", "Silva", 3), Person("Xavier", "Quentin", 6428)
    settle_in(stage, owner, member, other)
    rename(stage, owner, "Durand & Fils")
    join(stage, owner, member, other)
    give(stage, owner, (member,), 40)
    waiting = Person("Yann", "Zeller")
    settle_in(stage, waiting)
    invitation = invite(stage, owner, waiting)[waiting.id]
    own = group_of(owner.id)
    names = [owner.email, other.email, other.name, waiting.email, str(owner.id), owner.id.hex, other.id.hex]
    names += [waiting.id.hex, str(invitation)]
    secret = re.compile("|".join([*map(re.escape, names), r"(?<![\w-])(7\W?319|7\W?279|7\W?278|6\W?428)(?![\w-])"]))
    client, mine = Client(product, member), Client(product, owner)
    assert len(set(secret.findall(mine.ask("/")[1]))) > 1, "the owner does see them"
    fields: dict[str, object] = {"proof": client.proof(), "once": "1"}
    ticked = {"member": [f"{other.id.hex}.1"], "mode": "amount", "amount": "5", "all": "1"}
    seen = [
        client.ask(path)
        for path in (
            "/", "/parts", "/history", "/history?filter=transfers", "/history?filter=invitations", "/name", "/invite",
            f"/groups/{own}/leave", f"/commands/{uuid4()}", f"/groups/{group_of(other.id)}/leave",
        )
    ]  # fmt: skip
    for path in ("/members/confirm", "/transfers/cost", "/transfers/confirm", "/members/detach", "/transfers"):
        seen.append(client.ask(path, {**fields, **ticked}))
    for deed in ("revoke", "accept", "decline"):
        seen.append(client.ask(f"/invitations/{invitation}/{deed}", fields))
    seen.append(client.ask(f"/groups/{own}/leave", {**fields, "epoch": 7}))
    seen.append(client.ask("/create/plan", fields))
    for status, text in seen:
        assert status in {200, 404}, text
        assert secret.search(text) is None
    stream = client.events()
    lines = [next(stream) for _ in range(4)]
    give(stage, owner, (member,), 1)
    lines += [line for _, line in zip(range(6), stream, strict=False)]
    assert any("event: changed" in line for line in lines)
    assert [line for line in lines if secret.search(line)] == []
    still = "SELECT count(*) FROM memberships WHERE group_id = %s AND active"
    assert stage.rows(Principal.GROUPS, still, own)[0][0] == 2, "and nothing of it was done"
    state = "SELECT state FROM invitations WHERE id = %s"
    assert stage.rows(Principal.GROUPS, state, invitation)[0][0] == "pending"


def test_nobody_sees_what_became_of_somebody_elses_command(stage: World, product: Product, cast: Cast) -> None:
    client = Client(product, cast.anne)
    fields = {"proof": client.proof(), "once": "1", "name": "Cabinet Martin"}
    assert client.ask("/name", fields, **{"HX-Request": "true"})[0] == 200
    query = "SELECT id FROM commands WHERE actor_id = %s ORDER BY asked_at DESC LIMIT 1"
    command = stage.rows(Principal.GROUPS, query, cast.anne.id)[0][0]
    assert client.ask(f"/commands/{command}")[0] == 200
    assert Client(product, cast.members[0]).ask(f"/commands/{command}")[0] == 404


# --- who is let in ----------------------------------------------------------------------------------------------------

DEEDS = (
    "/logout", "/name", "/invite", "/create/plan", "/create/person", "/create/payment", "/create", "/members/confirm",
    "/members/detach", "/transfers/cost", "/transfers/confirm", "/transfers", f"/invitations/{uuid4()}/accept",
    f"/invitations/{uuid4()}/decline", f"/invitations/{uuid4()}/revoke", f"/groups/{uuid4()}/leave",
    f"/commands/{uuid4()}",
)  # fmt: skip


def test_nothing_is_done_by_a_form_that_is_not_ours(stage: World, product: Product, cast: Cast) -> None:
    client = Client(product, cast.zoe)
    good = {"proof": client.proof(), "once": "1", "name": "Taken over"}
    for path in DEEDS:
        assert client.ask(path, {"once": "1"})[0] == 403, path
        assert client.ask(path, {**good, "proof": "x"})[0] == 403, path
        assert client.ask(path, good, Origin="https://evil.example")[0] == 403, path
        assert client.ask(path, good, **{"Sec-Fetch-Site": "cross-site"})[0] == 403, path
        assert client.ask(path)[0] in {200, 404, 405}, path
    assert stage.rows(Principal.GROUPS, "SELECT count(*) FROM commands WHERE actor_id = %s", cast.zoe.id)[0][0] == 0


def test_nobody_gets_in_without_a_good_token(product: Product, cast: Cast) -> None:
    nobody = Client(product, None)
    for path in ("/", "/parts", "/history", "/events", "/name", f"/commands/{uuid4()}"):
        assert nobody.ask(path)[0] == 401
    for path in DEEDS:
        assert nobody.ask(path, {})[0] == 401
    forged = Client(product, cast.anne)
    assert forged.cookie
    forged.cookie = forged.cookie[:-4] + "AAAA"
    status, text = forged.ask("/")
    assert status == 401
    assert cast.anne.name not in text


def test_the_token_is_out_of_the_address_at_once_and_the_visit_can_be_ended(visit: Visiting, cast: Cast) -> None:
    at = visit(cast.anne)
    assert "token" not in at.page.url
    assert "token" not in at.page.evaluate("document.referrer")
    cookie = next(each for each in at.page.context.cookies() if each["name"] == "popfax")
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    at.expected.add(401)
    at.press("Se déconnecter")
    at.see("Connectez-vous à Popfax")
    assert at.page.context.cookies() == []


def test_every_answer_tells_the_browser_to_run_nothing_but_our_files(product: Product, cast: Cast) -> None:
    client = Client(product, cast.anne)
    for path in ("/", "/static/page.css", "/nothing", "/login?token=bad"):
        request = urllib.request.Request(f"{client.url}{path}", headers={"Cookie": str(client.cookie)})
        try:
            answer = urllib.request.urlopen(request, timeout=20)
        except HTTPError as error:
            answer = error
        with closing(answer):
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["referrer-policy"] == "same-origin"


def test_a_page_written_into_a_name_stays_text(stage: World, visit: Visiting) -> None:
    owner = Person("<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", 9)
    settle_in(stage, owner)
    at = visit(owner)
    expect(at.page.locator("h1")).to_have_text(owner.name)
    assert at.page.locator("h1 img, h1 script").count() == 0


def test_says_how_long_to_wait_when_it_was_too_much(stage: World, visit: Visiting) -> None:
    owner = Person("Anne", "Pressée")
    settle_in(stage, owner)
    at = visit(owner)
    toast = at.page.locator("#toasts").get_by_text(re.compile(r"^C’était trop à la fois. Attendez \d+\W+secondes?,"))
    while toast.count() == 0:  # each second some more is allowed again
        at.ask_too_often()
        at.press("Transferts", "#history", role="link")
        at.page.wait_for_timeout(200)
    expect(toast).to_be_visible()
    expect(at.page.locator("#toasts")).not_to_contain_text("connexion")
    expect(at.page.locator("h1")).to_have_text(owner.name)


def test_says_so_when_the_product_does_not_answer(visit: Visiting, cast: Cast, product: Product) -> None:
    at = visit(cast.zoe)
    at.page.route("**/invite", lambda route: route.abort())
    at.fill("Adresse e-mail", "x@example.com")
    at.press("Inviter / Créer")
    at.see("La connexion est perdue", "#toasts")
    wait(lambda: at.page.locator("#email").input_value() == "x@example.com", "what was typed is still there")
    at.wrongs.clear()  # the browser complains of the connection, as it should
