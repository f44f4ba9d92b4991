"""Text that somebody chooses and others read: the form in which it is kept, and what is refused in it.

A name ends up in strangers' mails, on pages and in terminals. So nothing in it hides, turns the text around it, piles
up over other lines, or becomes a link that Popfax would seem to recommend.
"""

import re
import unicodedata
from functools import cache
from itertools import pairwise

from precis_i18n import get_profile
from publicsuffixlist import PublicSuffixList
from pydantic_core import PydanticCustomError

MAX_MARKS = 4
"""As many marks may stand on one letter (Unicode Technical Standard 39, section 5.4)."""

# RFC 8265: any letter, digit, symbol or punctuation, in NFC; every kind of space becomes a plain one. It refuses
# controls, ignorable and unassigned code points, private use, and joiners outside the scripts that need them.
_FREEFORM = get_profile("OpaqueString")

# A blank that counts as a symbol, what stands for something that is not there or was lost, and a note without a head.
_BLANK = re.compile("[\u2800\ufffc\ufffd\U0001d159]")

# Most names. What this matches is in its canonical form, and has neither the stop nor the colon of a web address.
_PLAIN = re.compile(r"[A-Za-zÀ-ÖØ-öø-ſ0-9'’-]+( [A-Za-zÀ-ÖØ-öø-ſ0-9'’-]+)*")


def canonical_line(text: str) -> str:
    """Return the form in which a line of text is kept: NFC, single spaces, none around it.

    Raises `PydanticCustomError`: `hidden_character` for what can't be seen or shown, `stacked_marks` for marks that
    stand on nothing, on each other's heads, or twice.
    """
    if _PLAIN.fullmatch(text):
        return text
    try:
        line = " ".join(_FREEFORM.enforce(text).split())
    except UnicodeError as error:  # its text quotes the character, and an error must carry no personal data
        raise PydanticCustomError("hidden_character", "a character that can't be seen, or is none") from error
    if not line or _BLANK.search(line):
        raise PydanticCustomError("hidden_character", "a character that can't be seen, or is none")
    if _is_stacked(line):
        raise PydanticCustomError("stacked_marks", "more marks than a letter has")
    return line


def canonical_name(text: str) -> str:
    """Return a line of text that is no web address either; raises `PydanticCustomError`, also `web_address`."""
    if _PLAIN.fullmatch(text):
        return text
    line = canonical_line(text)
    if holds_web_address(line):
        raise PydanticCustomError("web_address", "a web address, or what programs take for one")
    return line


def _is_stacked(line: str) -> bool:
    run = 0
    for before, after in pairwise(" " + unicodedata.normalize("NFD", line)):
        if unicodedata.category(after) not in ("Mn", "Me"):
            run = 0
            continue
        run += 1
        if run > MAX_MARKS or before in (" ", after):
            return True
    return False


_FULL_STOPS = str.maketrans("。｡", "..")
_ADDRESS = re.compile(r"://|(?<![^\W_])(www\.\w|\d{1,3}(\.\d{1,3}){3}[/:])", re.IGNORECASE)
_DOTTED = re.compile(r"(?:[^\W_]|-)+(?:\.(?:[^\W_]|-)+)+")


def holds_web_address(line: str) -> bool:
    """Return whether mail programs would make a link of part of a line: a scheme, `www.`, or a domain that can exist.

    A domain ends in a top-level domain that there is, so `Dr.Anne` and `J.R. Müller` hold none. The domains reserved
    for examples count, too.
    """
    seen = unicodedata.normalize("NFKC", line).translate(_FULL_STOPS)
    return bool(_ADDRESS.search(seen)) or any(
        _is_top_level(found.group().rpartition(".")[2].lower()) for found in _DOTTED.finditer(seen)
    )


def _is_top_level(label: str) -> bool:
    return label in ("example", "invalid", "localhost", "onion", "test") or _suffixes().publicsuffix(label) is not None


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList(accept_unknown=False, only_icann=True)
