"""Names of one long word, and names from right to left: the page keeps its width, its order, and all of each name."""

from collections.abc import Callable, Mapping

import pytest
from playwright.sync_api import Browser

from deploy.local.product import Product
from popfax_contracts.fields import Language
from tests.e2e.driver import World
from tests.e2e.page.people import Person, give, invite, join, rename, settle_in
from tests.e2e.page.test_states import overflow
from tests.e2e.page.visits import DESKTOP, PHONE, Visit, visiting

LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaftsvorstandsvorsitzend"
assert len(LONG) == 100


class People:
    """An owner whose group and members have such names, and who is invited and in groups with such names."""

    def __init__(self, world: World) -> None:
        self.owner = Person("שירה", "בן־דוד", 500)
        self.long = Person(LONG, LONG, 12)
        self.arabic = Person("محمد", "عبد الرحمن", 7, Language.EN)
        self.invited = Person("Lea", "Novak")
        self.hosts = (Person("ليلى", "حداد"), Person(LONG, LONG))
        settle_in(world, self.owner, self.long, self.arabic, self.invited, *self.hosts)
        rename(world, self.owner, "משפחת לוי")
        join(world, self.owner, self.long, self.arabic)
        give(world, self.owner, (self.long, self.arabic), 5)
        invite(world, self.owner, self.invited)
        rename(world, self.hosts[1], LONG)
        join(world, self.hosts[0], self.owner)
        join(world, self.hosts[1], self.owner)
        for host in (self.long, self.arabic):
            invite(world, host, self.owner)


@pytest.fixture(scope="module")
def people(stage: World) -> People:
    return People(stage)


def _whole(visit: Visit, _: People) -> None:
    visit.page.wait_for_selector("#members")


def _renaming(visit: Visit, _: People) -> None:
    visit.page.locator("#rename").click()
    visit.page.wait_for_selector("#name")


def _transfer(visit: Visit, _: People) -> None:
    visit.page.locator("#all").check()
    visit.page.locator("#amount").fill("2")
    visit.page.locator(".transfer .button.main").click()
    visit.page.wait_for_selector("dialog[open]")


def _removal(visit: Visit, _: People) -> None:
    visit.page.locator("#all").check()
    visit.page.locator(".transfer .danger").click()
    visit.page.wait_for_selector("dialog[open]")


def _leaving(visit: Visit, _: People) -> None:
    visit.page.locator("#joined .button").last.click()
    visit.page.wait_for_selector("dialog[open]")


def _plan(visit: Visit, _: People) -> None:
    visit.page.locator("#email").fill(f"{LONG[:64].replace('ä', 'a')}@{'example.' * 20}com".lower())
    visit.page.locator(".invite .button").click()
    visit.page.wait_for_selector(".choices")


def _payment(visit: Visit, people: People) -> None:
    _plan(visit, people)
    visit.page.locator("#flow .button.main").click()
    visit.page.locator("#person-first_name").fill(LONG)
    visit.page.locator("#person-last_name").fill(people.arabic.last_name)
    visit.page.locator("#flow .button.main").click()
    visit.page.wait_for_selector("#flow .summary")


def _somebody_else(visit: Visit, people: People) -> None:
    visit.open(visit.product.stack.keys.login_link("", people.long.id))
    visit.page.wait_for_selector(".gate form[action='/login']")


def _long_visitor(visit: Visit, people: People) -> None:
    _somebody_else(visit, people)
    visit.page.locator(".gate form[action='/login'] .button").click()
    visit.page.wait_for_selector("#members")


STATES: Mapping[str, Callable[[Visit, People], None]] = {
    "whole": _whole,
    "renaming": _renaming,
    "transfer": _transfer,
    "removal": _removal,
    "leaving": _leaving,
    "plan": _plan,
    "payment": _payment,
    "somebody-else": _somebody_else,
    "long-visitor": _long_visitor,
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("language", ["fr", "en"])
def test_names_keep_their_place(browser: Browser, product: Product, people: People, state: str, language: str) -> None:
    with visiting(browser, product, people.owner.id) as visit:
        visit.page.locator(f"button[name=language][value={language}]").click()
        visit.page.wait_for_selector(f"html[lang={language}] #members")
        visit.page.wait_for_load_state()
        STATES[state](visit, people)
        for size in (DESKTOP, PHONE):
            visit.page.set_viewport_size({"width": size[0], "height": size[1]})
            assert overflow(visit) <= 0, f"wider than the screen: {size}"
            assert visit.measure(_OUT_OF_PLACE) == [], size


_OUT_OF_PLACE = """() => {
  const wide = document.documentElement.clientWidth;
  const found = [];
  for (const element of document.querySelectorAll("bdi, [dir=auto]")) {
    const box = element.getBoundingClientRect();
    if (!box.width || element.closest(".hidden")) continue;
    const text = (element.value ?? element.textContent).trim();
    const surround = element.parentElement.closest("[role=dialog], dialog, .card, .wide, body").getBoundingClientRect();
    if (box.left < surround.left - 1 || box.right > surround.right + 1 || box.right > wide) {
      if (getComputedStyle(element).textOverflow !== "ellipsis") found.push(`sticks out: ${text}`);
    }
    const first = text.match(/\\p{L}/u)?.[0] ?? "a";
    const direction = /[\\u0590-\\u06ff]/.test(first) ? "rtl" : "ltr";
    if (getComputedStyle(element).direction !== direction) found.push(`not ${direction}: ${text}`);
  }
  for (const element of document.querySelectorAll("p, li, h2, td, th, button, .entry, .line")) {
    if (getComputedStyle(element).direction !== "ltr") found.push(`turned around: ${element.textContent.trim()}`);
  }
  return found;
}"""
"""What a name does to the page: sticks out of its card or dialog, runs the wrong way, or turns its surroundings."""
