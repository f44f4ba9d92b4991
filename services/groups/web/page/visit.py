"""A visit: a request of somebody who is known, and how it is answered.

An answer is a part of the page for htmx, and for everybody else the whole page with that part in its place.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from secrets import token_hex
from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from services.groups.web.auth import Caller
from services.groups.web.context import WebContext
from services.groups.web.lines import Filter
from services.groups.web.page import drafts, session, views
from services.groups.web.page.failures import is_live
from services.groups.web.page.forms import CARRIED, Form, Texts
from services.groups.web.page.search import FIELDS, Search, read_search
from services.groups.web.page.speech import Speech
from services.groups.web.sessions import mark_of


@dataclass(frozen=True, slots=True)
class Answer:
    """A part of the page: where it goes, its template, and what that speaks of."""

    region: str
    template: str
    values: Mapping[str, Any] = field(default_factory=dict)
    toast: str = ""
    """Said in passing."""
    has_news: bool = False
    """Whether the rest of the page must be read again."""
    resumed_at: str = ""
    """Where to send the form to have this shown again; empty if there is nothing to go on with."""
    is_spent: bool = False
    """Whether what was chosen and typed has been done, and must not be there to be done again."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A request of somebody who is known, with all that is needed to answer it."""

    context: WebContext
    request: Request
    caller: Caller
    secret: str
    speech: Speech
    form: Form
    note: str = ""
    """What the page says of an answer that comes later than it was asked for."""

    @property
    def is_live(self) -> bool:
        """Return whether htmx asks, for a part of the page."""
        return is_live(self.request)

    @property
    def filter(self) -> Filter:
        """Return which lines of the history the visitor looks at."""
        wanted = self.request.query_params.get("filter", "")
        return Filter(wanted) if wanted in set(Filter) else Filter.ALL

    @property
    def search(self) -> Search:
        """Return which members the visitor looks for: as a form brings it, or the address."""
        return read_search(self.form.some(*FIELDS) or self.request.query_params)

    def render(self, template: str, **more: Any) -> HTMLResponse:
        """Render a template with what every template may use, and with `more`."""
        return HTMLResponse(self.speech.render(template, **self._values(), **more))

    async def show(self, answer: Answer) -> Response:
        """Return a part of the page to htmx, and to everybody else the page with that part in its place."""
        response = await (self._show_part(answer) if self.is_live else self.show_page(answer))
        self._keep_draft(response, answer)
        return response

    async def _show_part(self, answer: Answer) -> Response:
        text = self.speech.render(answer.template, **{**self._values(), **answer.values})
        if answer.toast:
            text += self.speech.render("toast.html", said=answer.toast)
        told = [name for name, is_so in (("spent", answer.is_spent), ("refresh", answer.has_news)) if is_so]
        return HTMLResponse(text, headers={"HX-Trigger": ", ".join(told)} if told else None)

    async def show_page(self, answer: Answer | None = None) -> Response:
        """Return the whole page, with an answer in its place if there is one."""
        values = {**self._values(), "shown": await self.shown(), "oob": False, "regions": Texts()}
        values["note"] = "" if answer else self.note
        if answer is not None:
            part = self.speech.render(answer.template, **{**values, **answer.values})
            if self.note:
                part = self.speech.render("note.html", note=self.note) + part
            values["regions"] = Texts({answer.region: Markup(part)})  # noqa: S704 - a template has made it
        return HTMLResponse(self.speech.render("page.html", **values))

    async def shown(self) -> views.Shown:
        """Read all that the page shows the visitor."""
        async with self.context.reading() as connection:
            return await views.shown(
                connection, self.caller.id, self.filter, self.search, self.speech, self.form.all("member")
            )

    def _keep_draft(self, response: Response, answer: Answer) -> None:
        """Let the browser keep what an answer can be shown with again, or forget what has come to its end."""
        if answer.resumed_at:
            form = Form({name: [value] for name, value in self.form.some(*CARRIED).items()})
            made = drafts.of(mark_of(self.caller.id), answer.resumed_at, form, answer.region)
            drafts.keep(response, self.request, made)
        elif (draft := drafts.kept(self.request)) and draft.region in {"", answer.region}:
            drafts.forget(response, self.request)

    def _values(self) -> dict[str, Any]:
        return {
            "proof": session.proof(self.secret),
            "once": partial(token_hex, 8),
            "is_live": self.is_live,
            "account_page": self.context.settings.account_page,
            "typed": self.form.some("amount", "mode"),
        }


Handler = Callable[[Visit], Awaitable[Response]]
