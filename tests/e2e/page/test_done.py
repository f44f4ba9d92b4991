"""Done means that whoever asked sees it, whichever of two topics comes first; and no answer undoes what is newer."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from playwright.sync_api import Page, Route, expect

from popfax_contracts.ledger import BalanceChanged, TransfersPosted
from popfax_contracts.message import group_of
from popfax_contracts.provisioning import PersonRecorded
from popfax_contracts.topics import Principal
from services.groups.web.page.speech import speech
from tests.e2e.driver import PRICES, World, wait
from tests.e2e.holding import held_back
from tests.e2e.page.conftest import Visiting
from tests.e2e.page.people import Person, give, join, rename, settle_in
from tests.integration.serving import Answer, Client

WORDS = speech("fr")


def _client(world: World, who: Person) -> Client:
    host, _, port = world.product.services[Principal.GROUPS].url.removeprefix("http://").partition(":")
    return Client(host, int(port)).with_(world.stack.keys.token(who.id))


def _state(client: Client, posted: Answer) -> str:
    assert posted.status == 202, posted.text
    return str(client.get(posted.headers["location"]).json["state"])


def _await_done(client: Client, posted: Answer) -> None:
    wait(lambda: _state(client, posted) != "pending", "the end of the command")
    assert _state(client, posted) == "done"


def _is_answered(world: World, posted: Answer) -> bool:
    """Say whether groups has the answer, and waits for what it changed."""
    query = "SELECT awaits > 0 AND state = 'pending' FROM commands WHERE id = %s"
    return bool(world.rows(Principal.GROUPS, query, UUID(posted.json["id"]))[0][0])


def _units(client: Client) -> dict[str, int]:
    return {each["member_id"]: each["available_units"] for each in client.get("/v1/group/members").json["items"]}


def _give(client: Client, *members: Person, units: int) -> Answer:
    body = {"mode": "amount", "amount_units": units, "members": [str(each.id) for each in members]}
    return client.post("transfer-units", body)


def test_a_transfer_is_done_once_its_balances_are_told(stage: World) -> None:
    owner, lea, sam = Person("Anne", "Martin", 100), Person("Léa", "Novak", 15), Person("Sam", "Taylor", 80)
    settle_in(stage, owner, lea, sam)
    join(stage, owner, lea, sam)
    anne = _client(stage, owner)
    with held_back(stage, Principal.LEDGER, BalanceChanged):
        posted = _give(anne, lea, sam, units=20)
        wait(lambda: _is_answered(stage, posted), "the ledger's answer")
        assert anne.get(posted.headers["location"]).json["result"] is None
        assert _units(anne) == {str(lea.id): 15, str(sam.id): 80}
    _await_done(anne, posted)
    assert _units(anne) == {str(lea.id): 35, str(sam.id): 100}
    assert anne.get("/v1/units").json["available_units"] == 60


def test_a_transfer_is_done_once_it_is_answered_though_its_balances_came_first(stage: World) -> None:
    owner, lea = Person("Anne", "Martin", 100), Person("Léa", "Novak", 15)
    settle_in(stage, owner, lea)
    join(stage, owner, lea)
    anne = _client(stage, owner)
    with held_back(stage, Principal.LEDGER, TransfersPosted):
        posted = _give(anne, lea, units=20)
        wait(lambda: _units(anne) == {str(lea.id): 35}, "the balance")
        assert _state(anne, posted) == "pending"
    _await_done(anne, posted)


def test_an_account_is_created_once_its_holder_and_its_payment_are_told(stage: World) -> None:
    owner, price = Person("Anne", "Martin", 500), PRICES["send_only"]
    settle_in(stage, owner)
    anne = _client(stage, owner)
    email = f"camille.{owner.mark}@branch.example"
    body = {"plan": "send_only", "price_units": price, "email": email, "first_name": "Camille", "last_name": "Roux"}
    with (
        held_back(stage, Principal.LEDGER, BalanceChanged),
        held_back(stage, Principal.PROVISIONING, PersonRecorded),
    ):
        posted = anne.post("create-member-account", body | {"language": "fr"})
        wait(lambda: _is_answered(stage, posted), "the payment")
        (member,) = anne.get("/v1/group/members").json["items"]
        assert (member["first_name"], anne.get("/v1/units").json["available_units"]) == (None, 500)
    _await_done(anne, posted)
    (member,) = anne.get("/v1/group/members").json["items"]
    assert (member["first_name"], member["email"]) == ("Camille", email)
    assert anne.get("/v1/units").json["available_units"] == 500 - price


def test_without_javascript_what_is_done_is_on_the_page(stage: World, visit: Visiting) -> None:
    owner, lea = Person("Anne", "Martin", 100), Person("Léa", "Novak", 15)
    settle_in(stage, owner, lea)
    join(stage, owner, lea)
    at, say = visit(owner, scripts=False), WORDS.say
    with held_back(stage, Principal.LEDGER, BalanceChanged):
        at.page.locator(f"#m{lea.id.hex}").check()
        at.page.locator("#amount").fill("20")
        at.press(say("Transfer"))
        at.press(say("Transfer %(units)s", units=WORDS.units(20)))
        expect(at.page.get_by_role("button", name=say("Look again"))).to_be_visible()
    pending = "SELECT FROM commands WHERE actor_id = %s AND state = 'pending'"
    wait(lambda: not stage.rows(Principal.GROUPS, pending, owner.id), "the transfer's end")
    at.press(say("Look again"))
    at.see(say("The units are transferred."))
    expect(at.page.locator(f"#members tr:has(#m{lea.id.hex})")).to_contain_text(WORDS.units(35))
    expect(at.page.locator("#balance")).to_contain_text(WORDS.units(80))


# --- answers that come late -------------------------------------------------------------------------------------------


@contextmanager
def _late(page: Page, address: re.Pattern[str]) -> Iterator[list[Route]]:
    """Hold back what is asked for at an address until the block ends; the answers come in turn."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(address, hold)
    yield held
    for route in held:
        route.continue_()
    page.unroute(address)


def test_a_refresh_on_its_way_does_not_turn_back_a_tab(stage: World, visit: Visiting) -> None:
    owner, lea = Person("Anne", "Martin", 100), Person("Léa", "Novak", 15)
    settle_in(stage, owner, lea)
    join(stage, owner, lea)
    give(stage, owner, (lea,), 1)
    at, say = visit(owner), WORDS.say
    lines, chosen = at.page.locator("#history .line"), at.page.locator("#history [aria-current]")
    expect(lines).to_have_count(3)
    with _late(at.page, re.compile("/parts")) as refreshes:
        rename(stage, owner, "Renamed")
        wait(lambda: at.page.title() is not None and bool(refreshes), "a refresh on its way")
        at.press(say("Transfers"), "#history", role="link")
        expect(lines).to_have_count(1)
    expect(at.page.locator("h1")).to_have_text("Renamed")  # the refresh has come, and changed all else
    expect(chosen).to_have_text(say("Transfers"))
    expect(lines).to_have_count(1)
    give(stage, owner, (lea,), 2)
    expect(lines).to_have_count(2)
    expect(chosen).to_have_text(say("Transfers"))


def test_a_tab_on_its_way_is_turned_after_a_refresh_and_the_last_of_two_counts(stage: World, visit: Visiting) -> None:
    owner, lea = Person("Anne", "Martin", 100), Person("Léa", "Novak", 15)
    settle_in(stage, owner, lea)
    join(stage, owner, lea)
    give(stage, owner, (lea,), 1)
    at, say = visit(owner), WORDS.say
    lines, chosen = at.page.locator("#history .line"), at.page.locator("#history [aria-current]")
    with _late(at.page, re.compile(r"filter=invitations$")) as turned:
        at.press(say("Invitations"), "#history", role="link")
        wait(lambda: at.page.title() is not None and bool(turned), "a tab on its way")
        rename(stage, owner, "Renamed")
        expect(at.page.locator("h1")).to_have_text("Renamed")
        at.press(say("Transfers"), "#history", role="link")
        expect(chosen).to_have_text(say("Transfers"))
    with at.page.expect_response(re.compile("/parts")):
        rename(stage, owner, "Renamed again")
    expect(at.page.locator("h1")).to_have_text("Renamed again")
    expect(chosen).to_have_text(say("Transfers"))
    expect(lines).to_have_count(1)


def test_nobody_else_learns_what_a_command_waits_for(stage: World) -> None:
    owner, lea = Person("Anne", "Martin", 100), Person("Léa", "Novak", 15)
    settle_in(stage, owner, lea)
    join(stage, owner, lea)
    anne, member = _client(stage, owner), _client(stage, lea)
    with held_back(stage, Principal.LEDGER, BalanceChanged):
        posted = _give(anne, lea, units=20)
        wait(lambda: _is_answered(stage, posted), "the ledger's answer")
        assert member.get(posted.headers["location"]).status == 404
        seen = [member.get(path).text for path in ("/v1/units", "/v1/memberships", "/v1/group", "/v1/history")]
        assert not any(posted.json["id"] in text or str(owner.id) in text for text in seen)
        assert str(group_of(owner.id)) in seen[1], "their membership, and no more"
