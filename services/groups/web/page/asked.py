"""Which lines of the history an address asks for: whose, of which kind, and of which days by the reader's clock."""

import re
from dataclasses import dataclass, replace
from datetime import date, timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException

from popfax_contracts.fields import END_OF_TIME, FIRST_MOMENT
from services.chassis.dates import Dates
from services.groups.web.lines import Filter, WantedLines
from services.groups.web.page.words import N_

NOT_A_DAY = N_("Give days as year, month and day, such as 2026-11-26.")
BACKWARDS = N_("The first day is after the last one.")

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_FIRST, _LAST = FIRST_MOMENT.date() + timedelta(days=1), END_OF_TIME.date() - timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Asked:
    """What an address asks for. With an `error`, which says what is wrong with it, nothing is."""

    filter: Filter = Filter.ALL
    member_id: UUID | None = None
    first: date | None = None
    last: date | None = None
    """The last day of the period, which belongs to it."""
    error: str = ""

    @property
    def is_narrow(self) -> bool:
        """Return whether a member or a period is asked for."""
        return bool(self.member_id or self.first or self.last)

    def wanted(self, owner_id: UUID, dates: Dates) -> WantedLines:
        """Return the lines that are asked for."""
        return WantedLines(
            owner_id,
            self.filter,
            self.member_id,
            since=dates.start_of(self.first) if self.first else None,
            before=dates.start_of(self.last + timedelta(days=1)) if self.last else None,
        )

    def query(self, **changed: Any) -> str:
        """Return an address's query that asks for the same, but for what is changed, and for a page if `cursor` is."""
        cursor = changed.pop("cursor", None)
        other = replace(self, **changed)
        named = {
            "filter": None if other.filter == Filter.ALL else other.filter,
            "member": other.member_id,
            "from": other.first,
            "to": other.last,
            "cursor": cursor,
        }
        query = urlencode({name: str(value) for name, value in named.items() if value is not None})
        return f"?{query}" if query else ""


def asked(params: QueryParams) -> Asked:
    """Read an address's query. A filter that there is not is passed over; a day that there is not is an error.

    Raises `HTTPException`, for there is nothing at an address with what can't be a member's id.
    """
    wanted = params.get("filter", "")
    found = Asked(Filter(wanted) if wanted in set(Filter) else Filter.ALL, _id(params.get("member", "")))
    try:
        found = replace(found, first=_day(params.get("from", "")), last=_day(params.get("to", "")))
    except ValueError:
        return replace(found, error=NOT_A_DAY)
    return replace(found, error=BACKWARDS) if found.first and found.last and found.first > found.last else found


def _id(text: str) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError as error:
        raise HTTPException(HTTPStatus.NOT_FOUND) from error


def _day(text: str) -> date | None:
    if not text.strip():
        return None
    if not _DAY.fullmatch(text.strip()):
        raise ValueError("not a day")
    day = date.fromisoformat(text.strip())
    if not _FIRST <= day <= _LAST:
        raise ValueError("not a day that can be spoken of")
    return day
