"""Text, addresses and moments from outside: kept or refused as docs/borders.md says, example by example."""

import json
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from popfax_contracts.fields import (
    END_OF_TIME,
    FIRST_MOMENT,
    Email,
    GroupName,
    Keyword,
    Name,
    PlanName,
    Reference,
    StoredName,
    Timestamp,
    Units,
    canonical_email,
)
from popfax_contracts.groups import RenameGroup
from popfax_contracts.notifications import SendInvitation
from popfax_contracts.provisioning import PersonRecorded, RegisterSubscriber
from popfax_contracts.text import _FULL_STOPS, _PLAIN
from services.ledger.messages import CorrectBalance
from tests.borders import examples, quoted

NAMES: TypeAdapter[str] = TypeAdapter(Name)
GROUP_NAMES: TypeAdapter[str] = TypeAdapter(GroupName)
EMAILS: TypeAdapter[str] = TypeAdapter(Email)
MOMENTS: TypeAdapter[datetime] = TypeAdapter(Timestamp)


def refusal(adapter: TypeAdapter[Any], value: object) -> str:
    """Validate what has to be refused; return the type of the error."""
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(value)
    (error,) = caught.value.errors()
    return error["type"]


# --- names ---


@pytest.mark.parametrize(("cell", "outcome"), [row[:2] for row in examples("names")])
@pytest.mark.parametrize("adapter", [NAMES, GROUP_NAMES], ids=["name", "group"])
def test_names_are_kept_or_refused_as_the_table_says(adapter: TypeAdapter[str], cell: str, outcome: str) -> None:
    name = quoted(cell)
    if outcome.startswith("refused"):
        assert refusal(adapter, name) == quoted(outcome)
    else:
        assert adapter.validate_python(name) == (name if outcome == "kept" else quoted(outcome))


@given(st.text(max_size=210))
def test_a_name_that_is_kept_is_kept_again(text: str) -> None:
    try:
        name = NAMES.validate_python(text)
    except ValidationError:
        return
    assert 1 <= len(name) <= 100
    assert NAMES.validate_python(name) == name


LINKING = st.sampled_from(
    ["http://", "HTTPS://", "www.", "evil.com", "evil.com/a", "EVIL.FR", "a@evil.org", "evil。net"]
)
BESIDE = st.text(st.sampled_from(" ,;:!?()«»'\"_"), max_size=3)


@given(BESIDE, LINKING, BESIDE)
def test_no_name_that_is_kept_holds_a_link(before: str, link: str, after: str) -> None:
    assert refusal(NAMES, f"Anne {before}{link}{'x' if link[-1] in '/.' else ''}{after} B") == "web_address"


def test_what_makes_a_web_address_is_in_no_plain_name_however_it_is_normalised() -> None:
    plain = "".join(filter(_PLAIN.fullmatch, map(chr, range(0x110000))))
    assert {"A", "é", "ſ", "7"} <= set(plain)
    assert not set(".:/") & set(unicodedata.normalize("NFKC", plain).translate(_FULL_STOPS))


def test_a_name_that_was_accepted_earlier_is_still_read() -> None:
    old, id_ = "\u202eevil.com\u200b", str(UUID(int=1))
    person = {"subscriber_id": id_, "email": "a@b.example", "first_name": old, "last_name": "x", "language": "fr"}
    assert PersonRecorded.from_json(json.dumps(person).encode()).first_name == old
    moment = "2031-01-01T00:00:00Z"
    invitation = dict.fromkeys(("invitation_id", "recipient_id", "owner_id"), id_)
    command = {**invitation, "round": 1, "group_name": old, "token": "0" * 64, "expires_at": moment}
    assert SendInvitation.from_json(json.dumps(command).encode()).group_name == old
    assert TypeAdapter(StoredName).validate_python(old) == old
    with pytest.raises(ValidationError):
        RenameGroup.from_json(json.dumps({"group_id": id_, "name": old}).encode())


def test_a_remark_hides_nothing() -> None:
    def reason(text: str) -> str:
        return CorrectBalance(
            correction_id=UUID(int=1), account_id=UUID(int=2), amount_units=1, reason=text, operator="jo"
        ).reason

    assert reason(" see  https://desk.example/4711 ") == "see https://desk.example/4711"
    for text in ("ab", "\u202ekrow on", "a\nb c", "x" * 201):
        with pytest.raises(ValidationError):
            reason(text)


@pytest.mark.parametrize("adapter", [TypeAdapter(Reference), TypeAdapter(Keyword), TypeAdapter(PlanName)])
@pytest.mark.parametrize("text", ["", "a b", "é", "a\u200b", "a\n", "x" * 101])
def test_references_and_codes_are_visible_ascii(adapter: TypeAdapter[str], text: str) -> None:
    if adapter.validate_python("abc") and text == "a\n":
        text = "a\nb"  # a reference loses the spaces around it
    assert refusal(adapter, text).startswith("string_")


# --- addresses ---


@pytest.mark.parametrize(("cell", "outcome"), [row[:2] for row in examples("addresses")])
def test_addresses_are_kept_or_refused_as_the_table_says(cell: str, outcome: str) -> None:
    address = quoted(cell)
    if outcome == "refused":
        assert refusal(EMAILS, address) in ("value_error", "hidden_character", "stacked_marks", "string_too_long")
    else:
        kept = address if outcome == "kept" else quoted(outcome)
        assert EMAILS.validate_python(address) == kept == canonical_email(kept)


ALIKE = ["weiß", "weiss", "ſam", "sam", "ﬁn", "fin", "İ", "i̇", "i", "É", "é", "\u0435", "e", "ａ", "a", "ς", "σ"]


def test_two_people_whose_addresses_look_alike_are_two_people() -> None:
    kept = {canonical_email(f"{mailbox}@example.com") for mailbox in ALIKE}
    assert len(kept) == len(ALIKE)


@given(st.emails() | st.text(max_size=80).map(lambda text: f"{text}@example.com"))
def test_an_address_that_is_kept_is_kept_again_and_within_its_bounds(address: str) -> None:
    try:
        kept = EMAILS.validate_python(address)
    except ValidationError:
        return
    assert EMAILS.validate_python(kept) == kept
    assert len(kept.encode()) <= 254
    assert len(kept.rpartition("@")[0].encode()) <= 64


# --- moments ---


@pytest.mark.parametrize(("cell", "outcome"), [row[:2] for row in examples("moments")])
def test_moments_are_read_or_refused_as_the_table_says(cell: str, outcome: str) -> None:
    written = quoted(cell)
    value = json.loads(written)
    if outcome == "kept":
        assert MOMENTS.validate_json(written) == MOMENTS.validate_python(value) == datetime.fromisoformat(value)
        return
    with pytest.raises(ValidationError):
        MOMENTS.validate_json(written)
    with pytest.raises(ValidationError):
        MOMENTS.validate_python(value)


# A day away from the bounds the year that is written is one of those that there are, whatever the offset.
SECONDS = st.integers(86_400, int((END_OF_TIME - FIRST_MOMENT).total_seconds()) - 86_400)
OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(SECONDS, OFFSETS, st.integers(0, 999_999))
def test_a_moment_that_is_told_is_read_as_it_was(seconds: int, offset: timezone, microseconds: int) -> None:
    moment = (FIRST_MOMENT + timedelta(seconds=seconds, microseconds=microseconds)).astimezone(offset)
    assert MOMENTS.validate_json(MOMENTS.dump_json(moment)) == moment.astimezone(UTC)


@pytest.mark.parametrize("units", [0, -1, 1.0, 1.5, "1", True, None, 10**9 + 1, 10**30])
def test_units_are_whole_numbers(units: object) -> None:
    assert TypeAdapter(Units).validate_python(1) == 1
    with pytest.raises(ValidationError):
        TypeAdapter(Units).validate_json(json.dumps(units))


def test_every_moment_of_a_message_is_bounded() -> None:
    fields = {"subscriber_id": str(UUID(int=1)), "email": "a@b.example", "first_name": "a", "last_name": "b"}
    whole = {**fields, "language": "fr", "plan": "send_only"}
    for moment in ("9999-12-31T00:00:00Z", "0001-01-01T00:00:00Z", 20000000001):
        with pytest.raises(ValidationError):
            RegisterSubscriber.from_json(json.dumps({**whole, "expires_at": moment}).encode())
