"""Amounts of units, as people write and paste them: read by their language, and refused when two readings are possible.

Units are whole, and given for good: of `1,000` a French reader may mean one, an English one a thousand.
"""

import re
import unicodedata
from collections.abc import Mapping

from services.groups.web.page.forms import MAX_NUMBER
from services.groups.web.page.words import N_

_SPACES = " \u00a0\u2007\u2009\u202f"
_GROUPS: Mapping[str, str] = {"en": ",", "fr": ""}
"""What stands between thousands in a language, beside spaces and apostrophes."""

_NUMBER = re.compile(r"\+?\s*([0-9][0-9\s',.]*?)\s*(?:pop)?\.?", re.IGNORECASE)


class NoAmount(ValueError):
    """A text is no amount. `message` says why, to whoever wrote it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


NOT_WHOLE = N_("Give a whole number of POP units, 1 or more.")
NOT_CLEAR = N_("This can be read in two ways. Write the amount without a point or a comma, such as 1000.")
TOO_LARGE = N_("This is more than can be transferred at a time.")


def read_amount(text: str, language: str) -> int:
    """Return the units that somebody means, from 1 to `MAX_NUMBER`. Raises `NoAmount`."""
    found = _NUMBER.fullmatch(_plain(text))
    if found is None:
        raise NoAmount(NOT_WHOLE)
    digits = _digits(found[1], _GROUPS.get(language, ""))
    if len(digits) > len(str(MAX_NUMBER)) or int(digits) > MAX_NUMBER:
        raise NoAmount(TOO_LARGE)
    if int(digits) == 0:
        raise NoAmount(NOT_WHOLE)
    return int(digits)


def _plain(text: str) -> str:
    """Return a text with everybody's digits, spaces, signs and apostrophes as ASCII has them."""
    made = []
    for each in text.strip():
        digit = unicodedata.decimal(each, None)
        if digit is not None:
            made.append(str(digit))
        elif each in _SPACES:
            made.append(" ")
        elif unicodedata.category(each) != "Cf":  # marks of direction come with what is pasted
            made.append({"\u2019": "'", "\uff0b": "+", "\uff0c": ",", "\uff0e": "."}.get(each, each))
    return "".join(made).strip()


def _digits(written: str, group: str) -> str:
    """Return the digits of a number without what stands between its thousands. Raises `NoAmount`."""
    separators = set(re.findall(r"[^0-9]", written))
    if not separators:
        return written.lstrip("0") or "0"
    (separator, *more) = separators
    in_groups = re.fullmatch(r"[0-9]{1,3}(?:[^0-9][0-9]{3})+", written) is not None
    if not more and in_groups and separator in {" ", "'", group}:
        return re.sub(r"[^0-9]", "", written).lstrip("0") or "0"
    raise NoAmount(NOT_CLEAR if separators & {",", "."} and in_groups else NOT_WHOLE)
