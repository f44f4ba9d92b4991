"""Every state of the page: nobody stumbles over it, on a desk or on a phone, by day or by night."""

import pytest
from playwright.sync_api import Browser

from deploy.local.product import Product
from tests.e2e.page.cast import Cast
from tests.e2e.page.people import Person
from tests.e2e.page.states import STATES, arranged
from tests.e2e.page.visits import DESKTOP, PHONE, Visit, visiting

LOOKS = (("light", DESKTOP), ("dark", PHONE))


@pytest.mark.parametrize("name", STATES)
def test_every_state_is_without_barriers(browser: Browser, product: Product, cast: Cast, name: str) -> None:
    def visit_of(who: Person | None):  # type: ignore[no-untyped-def]
        return visiting(browser, product, who.id if who else None)

    with arranged(STATES[name], visit_of, cast) as visit:
        for scheme, size in LOOKS:
            look_at(visit, scheme, size)
            assert visit.barriers() == [], (scheme, size)
            assert overflow(visit) <= 0, f"wider than the screen: {scheme} {size}"


def look_at(visit: Visit, scheme: str, size: tuple[int, int]) -> None:
    visit.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    visit.page.set_viewport_size({"width": size[0], "height": size[1]})


def overflow(visit: Visit) -> int:
    return int(visit.measure("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
