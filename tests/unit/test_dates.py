"""How days and times are said, and where days begin: one way for the page and for mails."""

from datetime import UTC, date, datetime

import pytest
from pydantic import TypeAdapter, ValidationError

from popfax_contracts.fields import StoredTimeZone, TimeZone, time_zones
from services.chassis.dates import dates

AT = datetime(2026, 11, 26, 23, 30, tzinfo=UTC)

ZONES: TypeAdapter[str] = TypeAdapter(TimeZone)


@pytest.mark.parametrize(
    ("language", "zone", "day", "moment"),
    [
        ("en", None, "27 Nov 2026", "27 Nov 2026, 00:30"),
        ("fr", None, "27 nov. 2026", "27 nov. 2026 à 00:30"),
        ("en", "America/Martinique", "26 Nov 2026", "26 Nov 2026, 19:30"),
        ("fr", "Pacific/Noumea", "27 nov. 2026", "27 nov. 2026 à 10:30"),
        ("en", "Europe/Atlantis", "27 Nov 2026", "27 Nov 2026, 00:30"),
    ],
)
def test_a_moment_is_said_in_the_language_and_by_the_clock_of_whoever_reads_it(
    language: str, zone: str | None, day: str, moment: str
) -> None:
    said = dates(language, zone)
    assert (said.day(AT), said.moment(AT)) == (day, moment)
    assert said.moment(AT).startswith(said.day(AT))


def test_a_day_is_put_into_words_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes dozens of calls of functions, and a mail says the same day several times."""
    said: list[date] = []

    def say(day: date, pattern: str, locale: str) -> str:
        said.append(day)
        return day.isoformat()

    monkeypatch.setattr("services.chassis.dates.format_date", say)
    for zone in (None, "Pacific/Noumea"):
        for _ in range(3):
            dates("en", zone).moment(datetime(1931, 5, 6, 12, tzinfo=UTC))
    assert said == [date(1931, 5, 6)]


def test_a_day_begins_at_its_first_moment_there() -> None:
    paris = dates("fr", None)
    assert paris.date_of(AT) == date(2026, 11, 27)
    assert paris.start_of(date(2026, 11, 27)) == datetime(2026, 11, 26, 23, tzinfo=UTC)
    assert paris.start_of(date(2026, 7, 1)) == datetime(2026, 6, 30, 22, tzinfo=UTC)
    # Clocks go forward at midnight: the day begins at one.
    assert dates("en", "America/Asuncion").start_of(date(2023, 10, 1)) == datetime(2023, 10, 1, 4, tzinfo=UTC)


@pytest.mark.parametrize("name", ["Europe/Paris", "America/Argentina/Buenos_Aires", "Etc/GMT+3", "UTC"])
def test_a_time_zone_is_one_of_the_iana_database(name: str) -> None:
    assert ZONES.validate_python(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Europe",
        "europe/paris",
        "Europe/Atlantis",
        "../etc/passwd",
        "+02:00",
        "Factory",
        "localtime",
        "Europe/Paris\n",
    ],
)
def test_nothing_else_is_a_time_zone(name: str) -> None:
    with pytest.raises(ValidationError):
        ZONES.validate_python(name)


def test_every_zone_has_the_shape_that_readers_check_and_can_be_loaded() -> None:
    stored: TypeAdapter[str] = TypeAdapter(StoredTimeZone)
    for name in time_zones():
        assert dates("en", stored.validate_python(name)).zone.key == name
