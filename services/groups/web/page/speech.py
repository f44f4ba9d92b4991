"""How things are said: a language's catalogue, its numbers and dates, and templates that speak it."""

import re
from collections.abc import Callable, Mapping
from copy import copy
from datetime import date, datetime
from functools import cache, lru_cache
from hashlib import sha256
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Self

import jinja2
from babel import Locale
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal
from babel.support import NullTranslations, Translations
from babel.units import format_unit
from markupsafe import Markup

from services.chassis.dates import dates
from services.groups.web.page.words import PLANS, REFUSALS, UNKNOWN_REFUSAL

HERE = Path(__file__).parent
LANGUAGES: Mapping[str, str] = {"fr": "Français", "en": "English"}
"""Those that there are, as they call themselves. The first is for whoever speaks none of them."""

_SOURCE = "en"


class Speech:
    """A language, and by whose clock times are said in it: Popfax's own, unless `by_clock_of` says another."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._locale = Locale(language)
        self._translations = catalogue(language)
        self.dates = dates(language, None)
        self.number = lru_cache(maxsize=8192)(self._number)  # a page has a thousand, and few different ones
        self._environment = _environment(self)

    def by_clock_of(self, time_zone: str | None) -> Self:
        """Return the language for somebody in a time zone."""
        other = copy(self)
        other.dates = dates(self.language, time_zone)
        return other

    def render(self, template: str, **values: object) -> str:
        """Render a template."""
        return self._environment.get_template(template).render(values, dates=self.dates)

    def say(self, message: str, **values: object) -> str:
        """Say a sentence."""
        said = str(self._translations.ugettext(message))
        return said % values if values else said

    def units(self, value: int) -> str:
        """Say a number of units as the seed does: `20 POP`."""
        return f"{self.number(value)}\u00a0POP"

    def duration(self, seconds: int) -> str:
        """Say how long something takes: seconds, or whole minutes from two on."""
        unit, number = ("second", seconds) if seconds < 120 else ("minute", ceil(seconds / 60))
        return str(format_unit(number, f"duration-{unit}", locale=self._locale))

    def refusal(self, code: str | None) -> str:
        """Say why something was refused. Codes may come that we have no sentence for."""
        return self.say(REFUSALS.get(code or "", UNKNOWN_REFUSAL))

    def plan(self, name: str) -> str:
        """Say what a plan is called."""
        return self.say(PLANS[name].name) if name in PLANS else name

    def plan_hint(self, name: str) -> str:
        """Say what a plan is for."""
        return self.say(PLANS[name].hint) if name in PLANS else ""

    def _number(self, value: int) -> str:
        return str(format_decimal(value, locale=self._locale))


@cache
def speech(language: str) -> Speech:
    """Return a language, made once."""
    return Speech(language)


def choose(chosen: str | None, directory: str | None, accepted: str) -> Speech:
    """Choose a language: what somebody has chosen, else the one that Popfax writes to them in, else their browser's."""
    wanted = [chosen, directory, *_by_preference(accepted)]
    return speech(next((each for each in wanted if each in LANGUAGES), next(iter(LANGUAGES))))


_RANGE = re.compile(r"^\s*([a-zA-Z]{2,3})(?:-[\w-]*)?\s*(?:;\s*q=\s*([01](?:\.\d{0,3})?))?\s*$")


def _by_preference(accepted: str) -> list[str]:
    """Read `Accept-Language` (RFC 9110), the best first."""
    found = [match for each in accepted.split(",")[:20] if (match := _RANGE.match(each))]
    weighed = [(float(match[2] or 1), match[1].lower()) for match in found]
    return [language for weight, language in sorted(weighed, key=lambda each: -each[0]) if weight > 0]


@cache
def catalogue(language: str) -> NullTranslations:
    """Read a language's catalogue. What is said in the source is in its language already."""
    if language == _SOURCE:
        return NullTranslations()
    compiled = BytesIO()
    with (HERE / "locales" / f"{language}.po").open("rb") as source:
        write_mo(compiled, read_po(source, locale=language))
    compiled.seek(0)
    return Translations(compiled)


def _environment(spoken: Speech) -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        extensions=["jinja2.ext.i18n"],
    )
    made.install_gettext_translations(spoken._translations, newstyle=True)  # type: ignore[attr-defined]
    made.globals.update(language=spoken.language, languages=LANGUAGES, static=static)
    named: Mapping[str, Callable[..., object]] = {
        "number": spoken.number,
        "units": spoken.units,
        "moment": _moment,
        "day": _day,
        "date": _date,
        "refusal": spoken.refusal,
        "plan": spoken.plan,
        "plan_hint": spoken.plan_hint,
        "say": spoken.say,
        "bdi": bdi,
        "isolate": isolate,
    }
    made.filters.update(named)
    made.globals.update(number=spoken.number)
    return made


@jinja2.pass_context
def _moment(context: jinja2.runtime.Context, at: datetime) -> str:
    """Say when something was."""
    return str(context["dates"].moment(at))


@jinja2.pass_context
def _day(context: jinja2.runtime.Context, at: datetime) -> str:
    """Say a day."""
    return str(context["dates"].day(at))


@jinja2.pass_context
def _date(context: jinja2.runtime.Context, day: date) -> str:
    """Say a day of the calendar."""
    return str(context["dates"].calendar_day(day))


def bdi(name: str | None) -> Markup | str:
    """Return a name for a sentence, whose direction it must not change; nothing for none."""
    return Markup("<bdi>{}</bdi>").format(name) if name else ""


def isolate(name: str) -> str:
    """Return a name for where no markup can be, such as a title: between Unicode's own isolates (UAX 9)."""
    return f"\u2068{name}\u2069"


@cache
def static(path: str) -> str:
    """Return the address of a static file: it changes with its content, so it may be cached forever."""
    content = (HERE / "static" / path).read_bytes()
    return f"/static/{path}?v={sha256(content).hexdigest()[:12]}"
