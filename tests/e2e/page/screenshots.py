"""Takes a picture of every state of the page: `python -m tests.e2e.page.screenshots`, or `make screenshots`.

By day and by night, on a desk and on a phone, with the whole product behind it.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html import escape
from pathlib import Path

from playwright.sync_api import sync_playwright

from deploy.local.product import Product
from deploy.paths import CHECKOUT, STATE
from tests.browser import find_or_install
from tests.conftest import make_stack
from tests.e2e.driver import SETTINGS, World
from tests.e2e.page.cast import make_cast
from tests.e2e.page.people import Person
from tests.e2e.page.states import STATES, arranged
from tests.e2e.page.visits import DESKTOP, PHONE, visiting

DIRECTORY = CHECKOUT / "build" / "screenshots"
LOOKS = {
    f"{scheme}-{device}": (scheme, size)
    for device, size in (("desktop", DESKTOP), ("phone", PHONE))
    for scheme in ("light", "dark")
}


def main() -> None:
    """Take them all, or those of the states that are named."""
    wanted = sys.argv[1:] or list(STATES)
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with _product() as product, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_or_install(print), args=["--no-sandbox"])
        world = World(product)
        cast = make_cast(world)
        for name in wanted:
            with arranged(STATES[name], partial(_visit, browser, product), cast) as visit:
                for look, (scheme, size) in LOOKS.items():
                    visit.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                    visit.page.set_viewport_size({"width": size[0], "height": size[1]})
                    visit.page.wait_for_timeout(100)  # what moves has come to rest
                    is_modal = visit.page.locator("dialog[open]").count() > 0
                    # The caret stays: to hide it, Playwright would write a style into the page, which the page forbids.
                    path = DIRECTORY / f"{name}.{look}.png"
                    visit.page.screenshot(path=path, full_page=not is_modal, caret="initial")
            print(name)
        world.close()
        browser.close()
    index = DIRECTORY / "index.html"
    index.write_text(_index())
    print(index)


def _visit(browser, product: Product, who: Person | None):  # type: ignore[no-untyped-def]
    return visiting(browser, product, who.id if who else None)


@contextmanager
def _product() -> Iterator[Product]:
    product = Product(make_stack(STATE / f"test-{os.getpid()}-screenshots"))
    try:
        product.stack.start()
        product.launch_services(**SETTINGS)
        product.prepare()
        product.wait_ready()
        yield product
    finally:
        product.stop_services()
        product.stack.remove()


def _index() -> str:
    rows = "\n".join(_row(name) for name in STATES)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>The group page</title>
<style>body{{font:16px system-ui,sans-serif;margin:2em}}img{{height:420px;border:1px solid #ccc}}td,th{{padding:.5em}}
th{{text-align:left;vertical-align:top}}</style></head><body><h1>The group page</h1><table>
{rows}
</table></body></html>
"""


def _row(name: str) -> str:
    files = [Path(f"{name}.{look}.png") for look in LOOKS]
    shown = "".join(
        f'<td><a href="{file}"><img src="{file}" alt="{escape(file.stem)}" loading="lazy"></a></td>' for file in files
    )
    return f"<tr><th>{escape(name)}</th>{shown}</tr>"


if __name__ == "__main__":
    main()
