"""What an owner's own accounts need: the history as a table for a spreadsheet, and a statement to be printed."""

import csv
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from http import HTTPStatus
from io import StringIO
from urllib.parse import quote

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from services.groups.web import lines, queries
from services.groups.web.lines import Filter, WantedLines
from services.groups.web.page import views
from services.groups.web.page.asked import Asked, asked
from services.groups.web.page.flows.history import known
from services.groups.web.page.visit import Visit
from services.groups.web.page.words import N_

STATEMENT_LINES = 2000
"""As many lines a statement has at most: some forty sheets."""

_SEPARATORS: Mapping[str, str] = {"fr": ";"}
"""What spreadsheets expect where the comma separates decimals."""

_MARK = "\ufeff"
"""Without it, spreadsheets take UTF-8 for something else."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


# --- a table for a spreadsheet ----------------------------------------------------------------------------------------


async def table(visit: Visit) -> Response:
    """Return the lines that the history's address asks for, all of them, as CSV."""
    wanted = asked(visit.request.query_params)
    if wanted.error:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    name = quote(visit.speech.say(N_("popfax-history-%(day)s.csv"), day=visit.speech.dates.date_of(datetime.now(UTC))))
    return StreamingResponse(
        _rows(visit, wanted.wanted(visit.caller.id, visit.speech.dates)),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f"attachment; filename={name}"},
    )


async def _rows(visit: Visit, wanted: WantedLines) -> AsyncIterator[str]:
    """Yield the table, some hundred lines at a time: whatever the history's length, no more is in memory."""
    yield _MARK + _written(visit, [_head(visit)])
    async for portion in lines.all_of(visit.context.reading, wanted):
        yield _written(visit, [_row(visit, views.shown_line(line)) for line in portion])


def _head(visit: Visit) -> Sequence[str]:
    say = visit.speech.say
    return (
        say(N_("Reference")),
        say(N_("Date and time (%(zone)s)"), zone=visit.speech.dates.zone.key),
        say(N_("What")),
        say(N_("Name")),
        say(N_("E-mail address")),
        say(N_("POP units")),
        say(N_("Outcome")),
    )


def _row(visit: Visit, shown: views.Line) -> Sequence[str | int]:
    line, say = shown.line, visit.speech.say
    return (
        shown.reference,
        f"{line.at.astimezone(visit.speech.dates.zone):%Y-%m-%d %H:%M:%S}",
        say(shown.what),
        harmless(line.member_name or ""),
        harmless(line.member_email or ""),
        "" if line.units is None or line.outcome == "refused" else line.units,
        say(shown.mark.word) if shown.mark.word else "",
    )


def harmless(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula (OWASP: CSV injection); an apostrophe marks it as text."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _written(visit: Visit, rows: Sequence[Sequence[str | int]]) -> str:
    text = StringIO()
    csv.writer(text, delimiter=_SEPARATORS.get(visit.speech.language, ",")).writerows(rows)
    return text.getvalue()


# --- a statement ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sum:
    """What was paid for one kind of thing."""

    what: str
    count: int
    units: int


@dataclass(frozen=True, slots=True)
class Statement:
    """What an owner paid for in a period, oldest first; `is_too_long` says that there is more than one has room for."""

    first: date
    last: date
    lines: tuple[views.Line, ...]
    is_too_long: bool

    @property
    def sums(self) -> Sequence[Sum]:
        """Return what was paid, by kind."""
        units: dict[str, list[int]] = defaultdict(list)
        for each in self.lines:
            units[each.what].append(each.line.units or 0)
        return [Sum(what, len(found), sum(found)) for what, found in sorted(units.items())]

    @property
    def units(self) -> int:
        """Return what was paid in all."""
        return sum(each.units for each in self.sums)


async def statement(visit: Visit) -> Response:
    """Show what the owner paid for in a period; without one, in this month. With `member`, for that member alone."""
    wanted = asked(visit.request.query_params)
    period = _period(wanted, visit.speech.dates.date_of(datetime.now(UTC)))
    async with visit.context.reading() as connection:
        values = {
            "statement": None if wanted.error else await _statement(visit, connection, period),
            "owner": await views.visitor(connection, visit.caller.id),
            "group_name": await queries.name_of_group(connection, visit.caller.id),
            "member": await known(visit, connection, period.member_id),
        }
    return visit.render(
        "statement.html",
        **values,
        asked=period,
        error=wanted.error,
        now=datetime.now(UTC),
        zone=visit.speech.dates.zone.key,
        most=STATEMENT_LINES,
    )


def _period(wanted: Asked, today: date) -> Asked:
    """Fill in what an address leaves open: from the month's first day, until today."""
    first = wanted.first or (wanted.last or today).replace(day=1)
    return replace(wanted, first=first, last=wanted.last or max(today, first), error="")


async def _statement(visit: Visit, connection: AsyncConnection, period: Asked) -> Statement:
    assert period.first is not None, "the period is filled in"
    assert period.last is not None, "the period is filled in"
    wanted = replace(period.wanted(visit.caller.id, visit.speech.dates), filter=Filter.ALL, paid=True)
    page = await lines.page_of(connection, wanted, None, STATEMENT_LINES)
    is_too_long = page.next is not None
    shown = () if is_too_long else tuple(map(views.shown_line, reversed(page.lines)))
    return Statement(period.first, period.last, shown, is_too_long)
