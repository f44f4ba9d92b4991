"""The fields that messages share: units, names, e-mail addresses, dates and times, languages."""

import re
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache, lru_cache
from importlib.resources import files
from string import ascii_lowercase, ascii_uppercase
from typing import Annotated
from uuid import UUID

import tzdata  # type: ignore[import-untyped]
from email_validator import EmailNotValidError, ValidatedEmail, validate_email
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError, PydanticKnownError

from popfax_contracts.ids import OWN_VERSION
from popfax_contracts.text import canonical_line, canonical_name

MAX_UNITS = 1_000_000_000
"""The most that one message may move; far above any price, far below what a bigint overflows at."""


def _not_ours(id_: UUID) -> UUID:
    if id_.version == OWN_VERSION:
        raise PydanticCustomError("own_id", "ids of version 8 are the product's own")
    return id_


ClientId = Annotated[UUID, AfterValidator(_not_ours)]
"""An id that a client chooses for what it makes: a UUID of any version but 8, which is the product's own."""

Units = Annotated[int, Field(strict=True, gt=0, le=MAX_UNITS)]
"""A positive whole number of Pop units."""

UnitsOrNone = Annotated[int, Field(strict=True, ge=0, le=MAX_UNITS)]
"""A whole number of Pop units, which may be 0."""

# Before anything looks at a text it is as short as one may be whose canonical form is shorter.
_Short = StringConstraints(strip_whitespace=True, min_length=1, max_length=200)
_MAX_NAME = 100
_ONE_LINE = r"^[^\x00-\x1f\x7f\x85\u2028\u2029]+$"


def _fitting(name: str) -> str:
    if len(name) > _MAX_NAME:
        raise PydanticKnownError("string_too_long", {"max_length": _MAX_NAME})
    return name


Name = Annotated[
    str,
    _Short,
    AfterValidator(canonical_name),
    AfterValidator(_fitting),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": _MAX_NAME, "pattern": _ONE_LINE}),
]
"""A person's first or last name as they write it: one line, 1 to 100 characters, in NFC.

Refused are characters that can't be seen or that change the direction of text, piled up marks, and web addresses:
`popfax_contracts.text` says which, and docs/borders.md has examples.
"""

GroupName = Name
"""What a group is called: one line, as its owner writes it."""

StoredName = Annotated[str, StringConstraints(min_length=1, max_length=_MAX_NAME, pattern=_ONE_LINE)]
"""A name that a service has accepted already, perhaps under older rules: only its shape is checked."""

Line = Annotated[str, _Short, AfterValidator(canonical_line)]
"""A note by an operator: one line of 1 to 200 characters, with nothing hidden in it."""

Reference = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[!-~]+$")]
"""A reference to the sender's own books: 1 to 100 visible ASCII characters. Never personal data."""

PhoneNumber = Annotated[str, StringConstraints(pattern=r"^\+[1-9][0-9]{5,14}$")]
"""A telephone number in E.164, such as `+33199000000`."""

Months = Annotated[int, Field(strict=True, ge=1, le=120)]
"""How long a plan is good for, in calendar months: 12 are a year, whether it has 365 days or 366."""

PlanName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,49}$")]
"""A plan's stable name, such as `send_receive`. Whether such a plan is on sale is for a handler to say."""

Keyword = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,49}$")]
"""A stable word of a list that may grow, such as `account_created`: a reader must expect words that are new to it."""


class Language(StrEnum):
    """The languages that Popfax writes to people in."""

    FR = "fr"
    EN = "en"


DEFAULT_TIME_ZONE = "Europe/Paris"
"""Popfax's own, and that of everybody who has set no other."""

_ZONE = r"^[A-Z][A-Za-z0-9_+-]*(/[A-Z][A-Za-z0-9_+-]*){0,2}$"


@cache
def time_zones() -> frozenset[str]:
    """Return the names of all time zones: those of the `tzdata` package, whatever the machine has."""
    names = (files(tzdata) / "zones").read_text(encoding="ascii").split()
    return frozenset(names) - {"Factory"}  # that is no place, but a clock that nobody has set


def _known_zone(name: str) -> str:
    if name not in time_zones():
        raise PydanticCustomError("time_zone", "not a time zone of the IANA database")
    return name


StoredTimeZone = Annotated[str, StringConstraints(max_length=50, pattern=_ZONE)]
"""A time zone that a service has accepted already, perhaps by newer data: only its shape is checked."""

TimeZone = Annotated[StoredTimeZone, AfterValidator(_known_zone)]
"""A time zone by its name in the IANA database, spelled as there: `Europe/Paris`, `America/Martinique`."""

MAX_MAILBOX_OCTETS, MAX_EMAIL_OCTETS = 64, 254
"""The longest mailbox name, and the longest address, that RFC 5321 lets a server count on."""


def canonical_email(address: str) -> str:
    """Return the form under which two spellings of one mailbox are the same.

    A domain is written in lower-case ASCII, by IDNA 2008 (UTS 46, not transitional: `straße.de` stays another domain
    than `strasse.de`). A mailbox name is brought into NFC, and its ASCII letters into lower case: case-sensitive by the
    letter of RFC 5321, they are so nowhere in practice. Nothing else is folded: `weiß`, `weiss` and a Cyrillic `wеiss`
    are three mailboxes, which may be three people's. Raises `ValueError` for what is not an address, quoted mailbox
    names, comments and IP addresses included.
    """
    mailbox, at, domain = address.rpartition("@")
    if not at or not _PLAIN_MAILBOX.fullmatch(mailbox):
        found = _validated(address)
        mailbox, domain = _visible(found.local_part).translate(_ASCII_LOWER), found.domain
    canonical = f"{mailbox.translate(_ASCII_LOWER)}@{_canonical_domain(domain)}"
    if len(mailbox.encode()) > MAX_MAILBOX_OCTETS or len(canonical.encode()) > MAX_EMAIL_OCTETS:
        raise ValueError("too long for an e-mail address")
    return canonical


# The library judges every address that is not plain, and every domain once: they repeat, and it takes its time.
_PLAIN_MAILBOX = re.compile(r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*", re.ASCII)
_ASCII_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)


def _visible(mailbox: str) -> str:
    """Return a mailbox name as it is. Raises `ValueError` where text that people read would be refused.

    And for one with the beginning of an encoded word (RFC 2047): a mail program would read another address.
    """
    if canonical_line(mailbox) != mailbox or "=?" in mailbox:
        raise ValueError("not an e-mail address")
    return mailbox


@lru_cache(maxsize=4096)
def _canonical_domain(domain: str) -> str:
    ascii_domain = _validated(f"x@{domain}").ascii_domain
    assert ascii_domain is not None, "the library gives one for every domain that it accepts"
    return ascii_domain.lower()


def _validated(address: str) -> ValidatedEmail:
    try:
        return validate_email(address, check_deliverability=False, allow_smtputf8=True)
    except EmailNotValidError as error:
        # The library's message may quote the address, and an error must carry no personal data.
        raise ValueError("not an e-mail address") from error


Email = Annotated[str, StringConstraints(strip_whitespace=True, max_length=254), AfterValidator(canonical_email)]
"""An e-mail address as somebody typed it; read back in its canonical form.

64 octets at most before the `@`, 254 in all. `canonical_email` says which spellings are one mailbox.
"""

CanonicalEmail = Annotated[str, StringConstraints(max_length=254, pattern=r"^[^\s@\x00-\x1f\x7f]+@[a-z0-9.-]+$")]
"""An e-mail address that a service has already made canonical: only its shape is checked, which is cheap."""

FIRST_MOMENT, END_OF_TIME = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""The moments that a message can speak of: from the first on, and before the end."""

_CLOCK = "[0-2][0-9]:[0-5][0-9]"
_MOMENT = rf"^2[01][0-9]{{2}}-[01][0-9]-[0-3][0-9]T{_CLOCK}:[0-5][0-9](\.[0-9]{{1,6}})?(Z|[+-]{_CLOCK})$"
_WRITTEN = re.compile(_MOMENT)


def _written_moment(value: object) -> object:
    """Let through what code has made, and what is written as RFC 3339 wants it: no number, and no other spelling."""
    if isinstance(value, datetime) or (isinstance(value, str) and _WRITTEN.fullmatch(value)):
        return value
    raise PydanticCustomError("moment", "not a moment as RFC 3339 writes it, from 2000 to 2199")


def _moment_in_bounds(moment: datetime) -> datetime:
    if not FIRST_MOMENT <= moment < END_OF_TIME:
        raise PydanticCustomError("moment", "not a moment from 2000 to 2199")
    return moment


Timestamp = Annotated[
    AwareDatetime,
    BeforeValidator(_written_moment),
    AfterValidator(_moment_in_bounds),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": _MOMENT}),
]
"""A moment as RFC 3339 writes it, with its offset, from 2000 to 2199: `2031-07-14T09:30:00Z`."""
