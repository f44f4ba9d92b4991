"""Amounts are read as their language writes them, wherever they were pasted from; what is not clear is refused."""

from contextlib import suppress

import pytest
from hypothesis import given, strategies

from services.groups.web.page.amounts import NOT_CLEAR, NOT_WHOLE, TOO_LARGE, NoAmount, read_amount
from services.groups.web.page.forms import MAX_NUMBER
from services.groups.web.page.speech import LANGUAGES, speech

BOTH = ("fr", "en")


@pytest.mark.parametrize(
    ("text", "languages", "units"),
    [
        ("20", BOTH, 20),
        ("  20 ", BOTH, 20),
        ("+20", BOTH, 20),
        ("＋ 20", BOTH, 20),
        ("020", BOTH, 20),
        ("20 POP", BOTH, 20),
        ("1\u202f000\u00a0POP", BOTH, 1000),
        ("1 000", BOTH, 1000),
        ("1\u00a0000", BOTH, 1000),
        ("1\u202f000", BOTH, 1000),
        ("1\u2009000", BOTH, 1000),
        ("1\u2007000\u2007000", BOTH, 1_000_000),
        ("1'000", BOTH, 1000),
        ("1’000", BOTH, 1000),
        ("1,000", ("en",), 1000),
        ("12,000,000", ("en",), 12_000_000),
        ("١٢٣", BOTH, 123),
        ("१०००", BOTH, 1000),
        ("２０", BOTH, 20),
        ("\u200e20\u200f", BOTH, 20),
        (str(MAX_NUMBER), BOTH, MAX_NUMBER),
    ],
)
def test_reads(text: str, languages: tuple[str, ...], units: int) -> None:
    assert {read_amount(text, language) for language in languages} == {units}


@pytest.mark.parametrize(
    ("text", "languages", "why"),
    [
        ("1,000", ("fr",), NOT_CLEAR),
        ("1.000", BOTH, NOT_CLEAR),
        ("12.000.000", BOTH, NOT_CLEAR),
        ("1,000.000", ("en",), NOT_CLEAR),
        ("", BOTH, NOT_WHOLE),
        ("POP", BOTH, NOT_WHOLE),
        ("0", BOTH, NOT_WHOLE),
        ("0 000", BOTH, NOT_WHOLE),
        ("-5", BOTH, NOT_WHOLE),
        ("\u22125", BOTH, NOT_WHOLE),
        ("1.5", BOTH, NOT_WHOLE),
        ("1,5", BOTH, NOT_WHOLE),
        ("1,000.00", BOTH, NOT_WHOLE),
        ("10 00", BOTH, NOT_WHOLE),
        ("20 30", BOTH, NOT_WHOLE),
        ("1e3", BOTH, NOT_WHOLE),
        ("0x10", BOTH, NOT_WHOLE),
        ("½", BOTH, NOT_WHOLE),
        ("²", BOTH, NOT_WHOLE),
        ("vingt", BOTH, NOT_WHOLE),
        (str(MAX_NUMBER + 1), BOTH, TOO_LARGE),
        ("9" * 400, BOTH, TOO_LARGE),
    ],
)
def test_refuses(text: str, languages: tuple[str, ...], why: str) -> None:
    for language in languages:
        with pytest.raises(NoAmount) as refused:
            read_amount(text, language)
        assert refused.value.message == why


@given(strategies.text(max_size=20), strategies.sampled_from(BOTH))
def test_any_text_is_an_amount_or_refused(text: str, language: str) -> None:
    with suppress(NoAmount):
        assert 1 <= read_amount(text, language) <= MAX_NUMBER


@given(strategies.integers(1, MAX_NUMBER), strategies.sampled_from(list(LANGUAGES)))
def test_reads_what_the_page_itself_writes(units: int, language: str) -> None:
    assert read_amount(speech(language).units(units), language) == units
