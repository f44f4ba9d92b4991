"""The page in a real browser: somebody who visits it, and what a visit must never bring: errors, breaches, barriers."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import UUID

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Response, expect

from deploy.local.product import Product
from popfax_contracts.topics import Principal

AXE = Path(__file__).with_name("axe-4.14.1.min.js")
DESKTOP, PHONE = (1280, 900), (390, 844)
WITHIN_MS = 15_000

expect.set_options(timeout=WITHIN_MS)

_ASK_TOO_OFTEN = """async refused => {
    const ask = async () => (await fetch("/name")).status;
    while (!(await Promise.all(Array.from({length: 60}, ask))).includes(refused));
}"""


class Visit:
    """Somebody's browser at the page. Everything that goes wrong in it is remembered."""

    def __init__(self, page: Page, product: Product, who: UUID | None, url: str) -> None:
        self.page = page
        self.product = product
        self.who = who
        self.url = url
        self.wrongs: list[str] = []
        self.expected: set[int] = set()
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.wrongs.append(f"error: {error}"))
        page.on("response", self._answered)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.wrongs.append(f"console: {message.text}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.expected:
            self.wrongs.append(f"{response.status}: {response.url.partition('?')[0]}")

    def log_in(self) -> "Visit":
        """Come from the platform."""
        assert self.who is not None
        self.page.goto(self.product.stack.keys.login_link(self.url, self.who))
        return self

    def open(self, path: str = "/") -> "Visit":
        """Go somewhere."""
        self.page.goto(f"{self.url}{path}")
        return self

    def see(self, text: str | re.Pattern[str], within: str = "body") -> Locator:
        """Wait until a text is there to be seen."""
        found = self.page.locator(within).get_by_text(text).first
        expect(found).to_be_visible()
        return found

    def press(self, name: str | re.Pattern[str], within: str = "body", role: Any = "button") -> None:
        """Press a button, or follow a link."""
        self.page.locator(within).get_by_role(role, name=name, exact=isinstance(name, str)).first.click()

    def fill(self, label: str, text: str) -> None:
        """Fill a field in."""
        self.page.get_by_label(label, exact=True).fill(text)

    def tick(self, *names: str) -> None:
        """Choose members."""
        for name in names:
            self.page.locator("#members").get_by_label(re.compile(f"^\\W*\\w*{re.escape(name)}")).check()

    def measure(self, script: str) -> Any:
        """Return what a script says of the page as it is seen: its elements may be there before its style sheet."""
        self.page.wait_for_load_state()
        return self.page.evaluate(script)

    def ask_too_often(self) -> None:
        """Make requests until one is refused for the time being. Many at once: a slow machine would never get there."""
        self.expected.add(HTTPStatus.TOO_MANY_REQUESTS)
        self.page.evaluate(_ASK_TOO_OFTEN, HTTPStatus.TOO_MANY_REQUESTS.value)

    def barriers(self) -> list[str]:
        """Return what axe finds that somebody could stumble over."""
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(AXE.read_text())
        found = self.measure("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{each['id']}: {node['target']} {node['failureSummary']}"
            for each in found["violations"]
            for node in each["nodes"]
        ]


@contextmanager
def visiting(
    browser: Browser,
    product: Product,
    who: UUID | None,
    language: str = "fr-FR",
    size: tuple[int, int] = DESKTOP,
    scheme: Any = "light",
    scripts: bool = True,
    url: str | None = None,
) -> Iterator[Visit]:
    """A browser of its own for somebody, logged in if they are anybody; nothing may have gone wrong at the end.

    `url` is of the process that serves the page, if that is not the product's own.
    """
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        locale=language,
        color_scheme=scheme,
        java_script_enabled=scripts,
        reduced_motion="reduce",
    )
    context.set_default_timeout(WITHIN_MS)
    try:
        visit = Visit(context.new_page(), product, who, url or product.services[Principal.GROUPS].url)
        if who is not None:
            visit.log_in()
        yield visit
        assert visit.wrongs == [], visit.wrongs
    finally:
        context.close()
