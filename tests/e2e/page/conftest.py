"""One browser, and one cast, for all tests of the page."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial

import pytest
from playwright.sync_api import Browser, sync_playwright

from deploy.local.product import Product
from tests.browser import find_or_install
from tests.e2e.driver import World
from tests.e2e.page.cast import Cast, make_cast
from tests.e2e.page.people import Person
from tests.e2e.page.visits import Visit, visiting

Visiting = Callable[..., Visit]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A real Chromium. None is a failure."""
    program = find_or_install()
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="package")
def stage(product: Product) -> Iterator[World]:
    """The product as the platform sees it, for all tests of the page."""
    made = World(product)
    yield made
    made.close()


@pytest.fixture(scope="package")
def cast(stage: World) -> Cast:
    """An owner with members and a history, and somebody who is in other people's groups. Tests leave it as it is."""
    return make_cast(stage)


@pytest.fixture
def visit(browser: Browser, product: Product) -> Iterator[Visiting]:
    """Opens visits; at the end nothing may have gone wrong in any of them."""
    with ExitStack() as open_visits:

        def open_visit(who: Person | None, **more: object) -> Visit:
            opened: AbstractContextManager[Visit] = partial(visiting, browser, product)(
                who.id if who else None,
                **more,  # type: ignore[arg-type]
            )
            return open_visits.enter_context(opened)

        yield open_visit
