"""How days and times are said to people: one way, on the page and in mails, by the clock of their own time zone."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from babel.dates import format_date

from popfax_contracts.fields import DEFAULT_TIME_ZONE

_MOMENT: Mapping[str, str] = {"fr": "{day} à {time}", "en": "{day}, {time}"}


@dataclass(frozen=True, slots=True)
class Dates:
    """Days and times for somebody: in their language, and as their clock has it."""

    language: str
    zone: ZoneInfo

    def day(self, at: datetime) -> str:
        """Return the day of a moment: `26 Nov 2026`."""
        return self.calendar_day(self.date_of(at))

    def calendar_day(self, day: date) -> str:
        """Return a day of the calendar, said in the same way."""
        return _said(day, self.language)

    def moment(self, at: datetime) -> str:
        """Return the day and the time of a moment: `26 Nov 2026, 14:05`."""
        local = at.astimezone(self.zone)
        return _MOMENT[self.language].format(day=self.calendar_day(local.date()), time=f"{local:%H:%M}")

    def date_of(self, at: datetime) -> date:
        """Return the day of a moment, as a date."""
        return at.astimezone(self.zone).date()

    def start_of(self, day: date) -> datetime:
        """Return the moment at which a day begins, in UTC; where clocks go forward at midnight, it is the jump."""
        return datetime.combine(day, time.min, self.zone).astimezone(UTC)


@lru_cache(maxsize=1024)
def _said(day: date, language: str) -> str:
    """Return a day in words: a pattern is looked up for each, and the same few days are on everything."""
    return str(format_date(day, "d MMM y", locale=language))


@lru_cache(maxsize=1024)
def dates(language: str, time_zone: str | None) -> Dates:
    """Return how days and times are said in a language and time zone."""
    return Dates(language, zone_of(time_zone))


def zone_of(time_zone: str | None) -> ZoneInfo:
    """Return somebody's time zone.

    Somebody who has set no zone has Popfax's own, and so has one whose zone this machine's data does not have yet.
    """
    try:
        return ZoneInfo(time_zone or DEFAULT_TIME_ZONE)
    except ZoneInfoNotFoundError:
        return ZoneInfo(DEFAULT_TIME_ZONE)
