"""What the owner of a group does on the page, in both languages, with the whole product behind it."""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage
from uuid import uuid4

import pytest
from playwright.sync_api import expect

from deploy.local.product import Product
from popfax_contracts.fields import Language
from popfax_contracts.ledger import SpendUnits, UnitsSpent
from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from services.groups.web.page.speech import Speech, speech
from tests.e2e.driver import PRICES, World, wait
from tests.e2e.page.cast import Cast
from tests.e2e.page.conftest import Visiting
from tests.e2e.page.people import Person, give, join, rename, settle_in, units_of
from tests.e2e.page.visits import Visit

LOCALES = {"fr": "fr-FR", "en": "en-GB"}


@dataclass
class Scene:
    """Somebody at their own page, in a language, and how that says things."""

    world: World
    owner: Person
    visit: Visit
    words: Speech

    def say(self, message: str, **facts: object) -> str:
        return self.words.say(message, **facts)


Opening = Callable[..., Scene]


@pytest.fixture(params=["fr", "en"])
def open_scene(request: pytest.FixtureRequest, stage: World, visit: Visiting) -> Opening:
    """A new owner with members, at their page. Their language is another one: the page is in the one they choose."""
    language = request.param

    def open_it(units: int = 500, members: tuple[Person, ...] = (), **more: object) -> Scene:
        owner = Person("Anne", "Martin", units, language=language)
        settle_in(stage, owner, *members)
        if members:
            join(stage, owner, *members)
        other = LOCALES[
            "en" if language == "fr" else "fr"
        ]  # the browser's language counts for less than the directory's
        return Scene(stage, owner, visit(owner, language=other, **more), speech(language))

    return open_it


def pair() -> tuple[Person, Person]:
    return Person("Léa", "Novak", 15), Person("Sam", "Taylor", 80)


def row(scene: Scene, person: Person) -> str:
    return f"#members tr:has(label[for=m{person.id.hex}])"


def test_gives_the_group_a_name(open_scene: Opening) -> None:
    scene = open_scene()
    visit, say = scene.visit, scene.say
    expect(visit.page.locator("h1")).to_have_text("Anne Martin")
    expect(visit.page.locator("html")).to_have_attribute("lang", scene.words.language)
    visit.press(f"{say('Edit')} {say('the name of the group')}", role="link")
    expect(visit.page.locator("#name")).to_be_focused()
    visit.fill(say("Name of the group"), "Étude <Martin> & fils")
    visit.press(say("Save"))
    expect(visit.page.locator("h1")).to_have_text("Étude <Martin> & fils")
    visit.see(say("The group has its new name."), "#toasts")


def test_invites_a_subscriber_and_takes_it_back(open_scene: Opening) -> None:
    scene = open_scene()
    visit, say = scene.visit, scene.say
    known = Person("Nora", "Silva")
    settle_in(scene.world, known)
    visit.fill(say("E-mail address"), known.email.upper())
    visit.press(say("Invite / Create"))
    visit.see(say("The invitation is on its way to %(email)s.", email=known.email.upper()), "#flow")
    visit.see(known.email, "#pending")
    visit.see(say("Invitation of %(who)s", who=known.email), "#history")
    visit.press(re.compile(f"^{say('Withdraw')}"), "#pending")
    visit.see(say("The invitation is withdrawn."), "#toasts")
    expect(visit.page.locator("#pending")).to_have_text("")
    visit.see(say("Withdrawn"), "#history")


def test_invites_several_at_once_and_creates_accounts_for_those_whom_nobody_knows(
    stage: World, visit: Visiting, product: Product
) -> None:
    say = speech("en").say
    owner, known = Person("Anne", "Martin", 130, language=Language.EN), Person("Nora", "Silva")
    settle_in(stage, owner, known)
    new = [f"{name}.{owner.mark}@branch.example" for name in ("ada", "bob")]
    at = visit(owner, language="en-GB")
    at.press(say("Invite several people at once"), role="link")
    lines = f"Ada;Roux;{new[0]}\n{known.email}\nBob Lee <{new[1]}>\nnobody"
    at.fill(say("E-mail addresses, one on each line"), lines)
    at.press(say("Check the list"))
    at.see(say("Not an address"), "#flow")
    at.press("Invite 3 people")
    at.see("2 addresses belong to nobody yet.", "#flow")
    at.see(say("Invited"), "#flow .tag")
    at.see(known.email, "#pending")
    at.press("Create 2 accounts", role="link")
    at.page.get_by_label(re.compile(say("Send Only"))).check()
    at.press(say("Continue"), "#flow")
    at.press("Pay 120\u00a0POP", "#flow")
    expect(at.page.locator("#flow .tag.good")).to_have_count(2)
    at.see("Ada Roux", "#members")
    at.see("Bob Lee", "#members")
    expect(at.page.locator("#balance")).to_contain_text("10\u00a0POP")
    wait(lambda: len(stage.mails_to(known.email)) == 1, "the invitation's mail")
    at.press(re.compile(f"^{say('Send again')}"), "#pending")
    at.see(say("The invitation is on its way."), "#toasts")
    wait(lambda: len(stage.mails_to(known.email)) == 2, "the mail that was sent again")
    at.open("/?show=invited")
    at.press(re.compile(f"^{say('Send again')}"), "#members")
    wait(lambda: len(stage.mails_to(known.email)) == 3, "the mail that was sent from the list")
    at.press(re.compile(f"^{say('Withdraw')}"), "#members")
    at.see(say("The invitation is withdrawn."), "#toasts")
    expect(at.page.locator("#members .entry")).to_have_count(0)


def test_is_told_why_nobody_is_invited(open_scene: Opening) -> None:
    scene = open_scene()
    visit, say = scene.visit, scene.say
    for email, why in (
        ("no address", "This does not look like an e-mail address."),
        (scene.owner.email, "This is your own address."),
    ):
        visit.fill(say("E-mail address"), email)
        visit.press(say("Invite / Create"))
        visit.see(say(why), "#flow")
        field = visit.page.locator("#email")
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_have_value(email)


def test_creates_an_account_and_sees_it_come_into_being(open_scene: Opening, product: Product) -> None:
    scene = open_scene(500)
    visit, say = scene.visit, scene.say
    email = f"camille.{scene.owner.id.hex[:8]}@branch.example"
    visit.fill(say("E-mail address"), email)
    visit.press(say("Invite / Create"))
    visit.page.get_by_label(re.compile(say("Send Only"))).check()
    visit.press(say("Continue"), "#flow")
    expect(visit.page.locator("#person-email")).to_have_value(email)
    visit.fill(say("First name"), "Camille")
    visit.fill(say("Last name"), "Roux")
    visit.press(say("Continue"), "#flow")
    price = PRICES["send_only"]
    options = visit.page.locator("#flow .choice")
    last = say("Pay with %(price)s POP units from your account, instead of money", price=price)
    expect(options.last).to_contain_text(last)
    expect(options.last.get_by_role("radio")).to_be_checked()
    visit.see(say("Bank card"), "#flow")
    provisioning = product.services[Principal.PROVISIONING]
    provisioning.stop()
    try:
        visit.press(say("Continue"), "#flow")
        expect(visit.page.locator("#flow .trail .now")).to_contain_text(say("Create the account"))
        expect(visit.page.locator("#flow .trail .behind")).to_have_count(1)
    finally:
        provisioning.launch(**provisioning.settings)
    visit.see(re.compile("Camille Roux"), "#flow .good")
    expect(visit.page.locator("#flow .trail .behind")).to_have_count(4)
    visit.see("Camille Roux", "#members")
    expect(visit.page.locator("#balance")).to_contain_text(scene.words.units(500 - price))
    visit.see(say("Account created for %(who)s", who="Camille Roux"), "#history")
    provisioning.wait_ready()


def test_is_told_why_no_account_is_created_and_can_try_again(open_scene: Opening) -> None:
    scene = open_scene(10)
    visit, say = scene.visit, scene.say
    visit.fill(say("E-mail address"), f"x.{scene.owner.id.hex[:8]}@branch.example")
    visit.press(say("Invite / Create"))
    visit.press(say("Continue"), "#flow")
    visit.fill(say("First name"), " ")
    visit.fill(say("Last name"), "Roux")
    visit.press(say("Continue"), "#flow")
    visit.see(say("Give a name of one line, with at most 100 characters."), "#flow")
    visit.fill(say("First name"), "Camille")
    visit.press(say("Continue"), "#flow")
    lacking = scene.words.units(PRICES["send_receive"] - 10)
    visit.see(say("You have %(units)s: you lack %(missing)s.", units=scene.words.units(10), missing=lacking), "#flow")
    visit.press(say("Continue"), "#flow")
    visit.see(say("You do not have enough POP units for this. Nothing was taken."), "#flow")
    expect(visit.page.locator("#balance")).to_contain_text(scene.words.units(10))
    visit.press(say("Try again"), "#flow")
    visit.see("Camille Roux", "#flow")


def test_transfers_an_amount_after_seeing_what_it_costs(open_scene: Opening) -> None:
    lea, sam = pair()
    scene = open_scene(100, (lea, sam))
    visit, say, units = scene.visit, scene.say, scene.words.units
    visit.page.get_by_label(say("All")).check()
    visit.page.locator("#amount").fill("60")
    visit.see(say("Cost: %(cost)s. You lack %(missing)s.", cost=units(120), missing=units(20)), "#cost")
    visit.page.locator("#amount").fill("20")
    visit.see(units(40), "#cost")
    visit.see(say("You will have %(left)s left.", left=units(60)), "#cost")
    visit.press(say("Transfer"))
    dialog = visit.page.locator("dialog")
    expect(dialog).to_contain_text(say("This cannot be undone: the units are the members’ own from then on."))
    visit.press(say("Cancel"), "dialog", role="link")
    expect(dialog).to_have_count(0)
    expect(visit.page.locator(row(scene, lea))).to_contain_text(units(15))
    visit.press(say("Transfer"))
    visit.press(say("Transfer %(units)s", units=units(40)), "dialog")
    visit.see(say("The units are transferred."), "#toasts")
    expect(visit.page.locator(row(scene, lea))).to_contain_text(units(35))
    expect(visit.page.locator(row(scene, sam))).to_contain_text(units(100))
    expect(visit.page.locator("#balance")).to_contain_text(units(60))
    expect(visit.page.locator("#amount")).to_have_value("")
    expect(visit.page.locator("#members input[name=member]:checked")).to_have_count(0)
    visit.press(say("Transfers"), "#history", role="link")
    visit.see(say("Transfer to %(who)s", who=sam.name), "#history")
    expect(visit.page.locator("#history .line")).to_have_count(2)


def test_tops_up_to_a_balance_and_pays_the_gaps(open_scene: Opening) -> None:
    lea, sam = pair()
    scene = open_scene(100, (lea, sam))
    visit, say, units = scene.visit, scene.say, scene.words.units
    visit.tick(lea.name, sam.name)
    visit.page.get_by_label(say("Top up to")).check()
    visit.page.locator("#amount").fill("50")
    visit.see(units(35), "#cost")
    visit.press(say("Transfer"))
    names = visit.page.locator("dialog .names")
    expect(names.first).to_have_text(lea.name)
    expect(names.last).to_have_text(sam.name)
    visit.press(say("Transfer %(units)s", units=units(35)), "dialog")
    expect(visit.page.locator(row(scene, lea))).to_contain_text(units(50))
    expect(visit.page.locator(row(scene, sam))).to_contain_text(units(80))
    expect(visit.page.locator("#balance")).to_contain_text(units(65))
    expect(visit.page.locator("#amount")).to_have_value("")
    visit.tick(lea.name, sam.name)
    visit.page.locator("#amount").fill("50")
    visit.press(say("Transfer"))
    visit.see(say("Everybody you have chosen has as much already: nothing to transfer."), "#members-answer")


def test_removes_the_selection_after_being_asked_once(open_scene: Opening) -> None:
    lea, sam = pair()
    scene = open_scene(0, (lea, sam))
    visit, say = scene.visit, scene.say
    visit.press(say("Remove the selection"))
    visit.see(say("Choose one or several members first."), "#members-answer")
    visit.tick(lea.name)
    visit.press(say("Remove the selection"))
    expect(visit.page.locator("dialog")).to_contain_text(lea.name)
    expect(visit.page.locator("dialog")).not_to_contain_text(sam.name)
    visit.press(say("Remove"), "dialog")
    expect(visit.page.locator(row(scene, lea))).to_have_count(0)
    expect(visit.page.locator(row(scene, sam))).to_have_count(1)
    visit.see(say("Removed"), "#history")


def test_reads_the_history_from_the_newest_to_the_oldest_line(open_scene: Opening) -> None:
    lea, sam = pair()
    scene = open_scene(500, (lea, sam))
    for _ in range(8):
        give(scene.world, scene.owner, (lea, sam), 1)
    visit, say = scene.visit, scene.say
    visit.open()
    lines = visit.page.locator("#history .line")
    expect(lines).to_have_count(10)
    visit.press(say("Older"), "#history", role="link")
    expect(lines).to_have_count(20)
    expect(visit.page.locator("#history .older")).to_have_count(0)
    visit.press(say("Invitations"), "#history", role="link")
    expect(lines).to_have_count(2)
    expect(visit.page.locator("#tab-invitations")).to_have_attribute("aria-current", "true")
    visit.press(say("Transfers"), "#history", role="link")
    expect(lines).to_have_count(10)
    expect(visit.page).to_have_url(f"{visit.url}/?filter=transfers")


def test_sees_at_once_what_others_change(open_scene: Opening) -> None:
    lea, sam = pair()
    scene = open_scene(100, (lea, sam))
    visit = scene.visit.open("/?search=A&sort=units")
    visit.tick(lea.name)
    visit.page.locator("#email").fill("half an addr")
    rename(scene.world, scene.owner, "Renamed elsewhere")
    expect(visit.page.locator("h1")).to_have_text("Renamed elsewhere")
    give(scene.world, scene.owner, (sam,), 7)
    expect(visit.page.locator(row(scene, sam))).to_contain_text(scene.words.units(87))
    expect(visit.page.locator("#balance")).to_contain_text(scene.words.units(93))
    expect(visit.page.locator("#email")).to_have_value("half an addr")
    expect(visit.page.locator(f"#m{lea.id.hex}")).to_be_checked()
    expect(visit.page.locator("#search")).to_have_value("A")
    expect(visit.page.locator("#members th[aria-sort]")).to_contain_text(scene.say("Units"))
    assert units_of(scene.world, sam) == 87


def test_works_with_the_keyboard_alone(open_scene: Opening) -> None:
    lea, sam = pair()
    scene = open_scene(100, (lea, sam))
    page, say = scene.visit.page, scene.say
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.locator(f"#m{lea.id.hex}").focus()
    page.keyboard.press("Space")
    page.locator("#amount").focus()
    page.keyboard.type("5")
    page.keyboard.press("Enter")  # the form's first button: to transfer, not to remove
    expect(page.locator("dialog h2")).to_have_text(say("Transfer %(units)s?", units=scene.words.units(5)))
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    page.locator("#amount").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name=say("Transfer %(units)s", units=scene.words.units(5))).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#balance")).to_contain_text(scene.words.units(95))


def test_changes_the_language(open_scene: Opening) -> None:
    scene = open_scene()
    other = "en" if scene.words.language == "fr" else "fr"
    scene.visit.press(other.upper())
    expect(scene.visit.page.locator("html")).to_have_attribute("lang", other)
    scene.visit.see(speech(other).say("Members"))
    scene.visit.open()
    expect(scene.visit.page.locator("html")).to_have_attribute("lang", other)


def test_works_without_javascript(open_scene: Opening) -> None:
    lea, sam = pair()
    scene = open_scene(300, (lea, sam), scripts=False)
    visit, say, units = scene.visit, scene.say, scene.words.units
    visit.press(f"{say('Edit')} {say('the name of the group')}", role="link")
    visit.fill(say("Name of the group"), "Plain")
    visit.press(say("Save"))
    expect(visit.page.locator("h1")).to_have_text("Plain")
    visit.page.locator(f"#m{lea.id.hex}").check()
    visit.page.locator("#amount").fill("20")
    visit.press(say("Transfer"))
    visit.see(say("Left after it"))
    visit.press(say("Transfer %(units)s", units=units(20)))
    visit.see(say("The units are transferred."))
    expect(visit.page.locator(row(scene, lea))).to_contain_text(units(35))
    visit.fill(say("E-mail address"), f"plain.{scene.owner.id.hex[:8]}@branch.example")
    visit.press(say("Invite / Create"))
    visit.press(say("Continue"), "#flow")
    visit.fill(say("First name"), "Camille")
    visit.fill(say("Last name"), "Roux")
    visit.press(say("Continue"), "#flow")
    visit.press(say("Continue"), "#flow")
    visit.see(say("The account is there, and a member of your group."), "#flow")
    visit.see("Camille Roux", "#members")
    visit.page.get_by_label(say("All")).check()
    visit.press(say("Remove the selection"))
    visit.press(say("Remove"))
    visit.see(say("Nobody is in your group yet."))


# --- what goes on by itself, and is looked up later -------------------------------------------------------------------


def spend(world: World, person: Person, units: int) -> None:
    body = SpendUnits(spend_id=uuid4(), account_id=person.id, amount_units=units, purpose="fax", reference="fax-1")
    world.ask(body, UnitsSpent, actor=person.id)


def test_keeps_a_member_at_a_level_until_the_order_is_stopped(stage: World, visit: Visiting) -> None:
    owner, lea, sam = Person("Anne", "Martin", 300), Person("Léa", "Novak", 30), Person("Sam", "Taylor", 80)
    settle_in(stage, owner, lea, sam)
    join(stage, owner, lea, sam)
    words, at = speech("fr"), visit(owner)
    say, units = words.say, words.units
    at.tick(lea.name)
    at.press(say("Standing order"))
    at.fill(say("When there are fewer than"), "20")
    at.fill(say("top up to"), "50")
    at.fill(say("at most in a month"), "200")
    at.press(say("Save"))
    at.see(say("In force"), ".orders")
    at.press(say("Back to the group"), role="link")
    scene = Scene(stage, owner, at, words)
    spend(stage, lea, 20)
    expect(at.page.locator(row(scene, lea))).to_contain_text(units(50))
    expect(at.page.locator("#balance")).to_contain_text(units(260))
    at.see(say("Transfer to %(who)s, by standing order", who=lea.name), "#history")

    at.tick(sam.name)
    at.press(say("Standing order"))
    at.page.get_by_label(re.compile(say("Every month"))).check()
    at.fill(say("On the first of each month"), "30")
    at.press(say("Save"))
    orders = at.page.locator(".orders .entry")
    expect(orders).to_have_count(2)
    expect(orders.first).to_contain_text(say("Given this month: %(units)s", units=units(40)))
    expect(orders.last).to_contain_text(say("%(amount)s on the first of each month", amount=units(30)))
    at.press(re.compile(f"^{say('Stop')}.*{lea.name}"))
    expect(orders).to_have_count(1)
    expect(orders).to_contain_text(sam.name)

    at.press(say("Back to the group"), role="link")
    spend(stage, lea, 45)
    expect(at.page.locator(row(scene, lea))).to_contain_text(units(5))
    moved = "SELECT due_at, transfer_id FROM standing_orders WHERE member_id = %s"
    assert stage.rows(Principal.GROUPS, moved, lea.id) == [(None, None)], "the balance came, and set nothing off"
    expect(at.page.locator("#balance")).to_contain_text(units(260))


def test_is_mailed_once_a_day_who_has_few_units(stage: World, visit: Visiting) -> None:
    owner, lea, sam = Person("Anne", "Martin", 0, Language.EN), Person("Léa", "Novak", 30), Person("Sam", "Taylor", 80)
    settle_in(stage, owner, lea, sam)
    join(stage, owner, lea, sam)
    words, at = speech("en"), visit(owner)
    say, scene = words.say, Scene(stage, owner, at, words)
    at.press(re.compile(f"^{say('Edit')} {say('what few units are')}"), role="link")
    at.fill(say("Mark members who have fewer than"), "20")
    at.page.get_by_label(say("Mail me who has become low, once a day at most")).check()
    at.press(say("Save"), "#low")
    at.see(say("Members with fewer than %(units)s are marked.", units=words.units(20)), "#low")
    expect(at.page.locator("#members .wait")).to_have_count(0)
    spend(stage, lea, 15)
    expect(at.page.locator(row(scene, lea))).to_contain_text(say("Few units"))
    expect(at.page.locator(row(scene, sam))).not_to_contain_text(say("Few units"))

    def look() -> None:
        """Have the morning come, and wait until groups has looked."""
        come = "UPDATE low_balances SET look_at = now() WHERE group_id = %s RETURNING look_at"
        ((moment,),) = stage.rows(Principal.GROUPS, come, group_of(owner.id))
        looked = "SELECT look_at > %s FROM low_balances WHERE group_id = %s"
        wait(lambda: stage.rows(Principal.GROUPS, looked, moment, group_of(owner.id)) == [(True,)], "a look")

    def mails() -> list[EmailMessage]:
        return [mail for mail in stage.mails_to(owner.email) if "fewer than 20\u00a0POP" in mail["subject"]]

    look()
    wait(mails, "the mail")
    spend(stage, sam, 75)
    expect(at.page.locator(row(scene, sam))).to_contain_text(say("Few units"))
    look()
    (mail,) = mails()
    text = mail.get_body(("plain",))
    assert text is not None
    assert lea.name in text.get_content()
    sent = "SELECT mails FROM low_balances WHERE group_id = %s"
    assert stage.rows(Principal.GROUPS, sent, group_of(owner.id)) == [(1,)]


def test_looks_up_what_a_member_was_given(visit: Visiting, cast: Cast) -> None:
    at, lea, sam, say = visit(cast.anne), cast.members[0], cast.members[2], speech("fr").say
    at.press(re.compile(lea.name), "#members", role="link")
    at.see(say("Member since"))
    expect(at.page.locator("#history .line")).to_have_count(3)
    at.press(say("Filter, export, print"), role="link")
    at.see(lea.name, ".whose")
    at.fill(say("From"), "2020-01-01")
    at.press(say("Show"))
    at.see(lea.name, ".whose")
    with at.page.expect_download() as waited:
        at.press(say("Export for a spreadsheet (CSV)"), role="link")
    rows = list(csv.reader(waited.value.path().read_text("utf-8-sig").splitlines(), delimiter=";"))
    assert {row[3] for row in rows[1:]} == {lea.name}
    assert [row[5] for row in rows[1:] if row[5]] == ["20"]
    at.press(say("Statement to print"), role="link")
    statement = at.page.locator(".statement")
    expect(statement).to_contain_text(lea.name)
    expect(statement.locator(".total")).to_contain_text(speech("fr").units(20))
    expect(statement).not_to_contain_text(sam.name)
