"""The fields that messages share: units, names, e-mail addresses, languages."""

import re
from enum import StrEnum
from functools import lru_cache
from typing import Annotated

import idna
from email_validator import EmailNotValidError, ValidatedEmail, validate_email
from pydantic import AfterValidator, Field, StringConstraints

MAX_UNITS = 1_000_000_000
"""The most that one message may move; far above any price, far below what a bigint overflows at."""

Units = Annotated[int, Field(strict=True, gt=0, le=MAX_UNITS)]
"""A positive whole number of Pop units."""

UnitsOrNone = Annotated[int, Field(strict=True, ge=0, le=MAX_UNITS)]
"""A whole number of Pop units, which may be 0."""

# A name ends up in mail headers and terminals: nothing that starts a new line or hides in one gets through.
Name = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f\x85\u2028\u2029]+$"
    ),
]
"""A person's first or last name as they write it: one line, 1 to 100 characters."""

GroupName = Name
"""What a group is called: one line, as its owner writes it."""

Reference = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[!-~]+$")]
"""Something that the sender can find again in its own books: 1 to 100 visible ASCII characters. Never personal data."""

PhoneNumber = Annotated[str, StringConstraints(pattern=r"^\+[1-9][0-9]{5,14}$")]
"""A telephone number in E.164, such as `+33199000000`."""

PlanName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,49}$")]
"""A plan's stable name, such as `send_receive`. Whether such a plan is on sale is for a handler to say."""

Code = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,49}$")]
"""A refusal's stable code, such as `units_short`."""


class Language(StrEnum):
    """The languages that Popfax writes to people in."""

    FR = "fr"
    EN = "en"


def canonical_email(address: str) -> str:
    """Give the form under which two spellings of one mailbox are the same: case-folded, the domain in IDNA ASCII.

    Mailbox names are case-sensitive by the letter of RFC 5321 and nowhere in practice, so they are folded too.
    Raises `ValueError` for what is not an address.
    """
    mailbox, at, domain = address.rpartition("@")
    if at and _PLAIN_MAILBOX.fullmatch(mailbox):
        return f"{mailbox.casefold()}@{_canonical_domain(domain)}"
    found = _validated(address)
    return f"{found.local_part.casefold()}@{_canonical_domain(found.domain)}"


# The library judges every address that is not plain, and every domain once: they repeat, and it takes its time.
_PLAIN_MAILBOX = re.compile(r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*", re.ASCII)


@lru_cache(maxsize=4096)
def _canonical_domain(domain: str) -> str:
    found = _validated(f"x@{domain}")
    return (found.ascii_domain or idna.encode(found.domain, uts46=True).decode()).casefold()


def _validated(address: str) -> ValidatedEmail:
    try:
        return validate_email(address, check_deliverability=False, allow_smtputf8=True)
    except EmailNotValidError as error:
        # The library's message may quote the address, and an error must carry no personal data.
        raise ValueError("not an e-mail address") from error


Email = Annotated[str, StringConstraints(strip_whitespace=True, max_length=254), AfterValidator(canonical_email)]
"""An e-mail address as somebody typed it; read back in its canonical form."""

CanonicalEmail = Annotated[str, StringConstraints(max_length=254, pattern=r"^[^\s@\x00-\x1f\x7f]+@[a-z0-9.-]+$")]
"""An e-mail address that a service has already made canonical: checked for shape alone, which is cheap."""
