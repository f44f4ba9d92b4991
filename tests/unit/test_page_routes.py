"""Every link and every form of the page leads somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from starlette.routing import compile_path

from services.groups.web import page
from services.groups.web.page.site import DONE, SHOWN

TEMPLATES = Path(page.__file__).parent / "templates"

LEADS = re.compile(r'\b(action|formaction|href|hx-get|hx-post)="(/[^"]*)"')
BESIDE = frozenset({"/login", "/language", "/invitation"})
"""What is there for those who are not logged in, too."""

SEARCHES = frozenset({"/", "/history", "/statement"})
"""What a form only asks for."""


def addresses(text: str) -> Iterator[tuple[str, str]]:
    """Yield the method and the path of whatever a template leads to; what it fills in is an id."""
    for attribute, address in LEADS.findall(text):
        path = re.sub(r"{%.*?%}", "", re.sub(r"/{{.*?}}", _filled_in, address))
        path = re.split(r"[?#]|{{", path)[0]
        if not path.startswith("/static/"):
            yield "GET" if attribute in ("href", "hx-get") else "POST", path


def _filled_in(found: re.Match[str]) -> str:
    """Return what stands in a path: an id, or how many parts something has."""
    return "/1" if "parts" in found[0] else f"/{UUID(int=1)}"


def leads_somewhere(method: str, path: str) -> bool:
    routes = SHOWN if method == "GET" else DONE
    return path in BESIDE | SEARCHES or any(compile_path(route)[0].match(path) for route in routes)


@pytest.mark.parametrize(
    "template", sorted(TEMPLATES.rglob("*.html")), ids=lambda path: str(path.relative_to(TEMPLATES))
)
def test_every_link_and_form_leads_somewhere(template: Path) -> None:
    assert [each for each in addresses(template.read_text()) if not leads_somewhere(*each)] == []


def test_one_that_leads_nowhere_is_found() -> None:
    text = '<form action="/lists/{{ id }}/nowhere"><a href="/history{{ query }}">'
    assert [leads_somewhere(*each) for each in addresses(text)] == [False, True]
    assert leads_somewhere("POST", f"/lists/{UUID(int=1)}/holders")
