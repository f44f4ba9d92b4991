"""Whatever a token is made of, it is read or refused; the table of borders has examples."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.groups.web.auth import BadToken, Caller, Tokens
from services.groups.web.keys import Keys
from tests.tokens import AUDIENCE, forged, sealed, write_keys
from tests.unit.test_borders import TABLE, examples

COLUMNS = ("token", "signed by", "header", "claims", "answer")

CODES = {
    "algorithm_not_allowed",
    "claim_missing",
    "malformed_claim",
    "malformed_token",
    "token_expired",
    "token_not_yet_valid",
    "unknown_key",
    "wrong_audience",
    "wrong_issuer",
    "wrong_signature",
}
"""All that may be said of a bad token."""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    return Tokens(Keys(str(write_keys(tmp_path_factory.mktemp("keys"), "ec", "rsa", "ed"))), AUDIENCE)


async def answer(tokens: Tokens, text: str) -> str:
    """What is said of a token; whoever is let in is somebody, until some time."""
    try:
        caller = await tokens.caller(text)
    except BadToken as bad:
        return bad.code
    assert isinstance(caller, Caller)
    assert isinstance(caller.id, UUID)
    return "accepted"


@pytest.mark.parametrize(
    ("key", "header", "claims", "expected"),
    [pytest.param(*row[1:], id=row[0]) for row in examples(TABLE.read_text(), COLUMNS)],
)
async def test_answers_as_the_table_says(tokens: Tokens, key: str, header: str, claims: str, expected: str) -> None:
    assert await answer(tokens, forged(key, json.loads(header), json.loads(claims))) == expected


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["ES256", "none", "ec", "rsa", AUDIENCE, "exp", 1 << 62, -(1 << 62), 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
HEADERS = st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "x5c", "zip"]), ODD)
CLAIMS = st.dictionaries(st.sampled_from(["sub", "aud", "exp", "nbf", "iat", "iss", "jti"]), ODD)


@given(header=HEADERS)
@settings(max_examples=300, deadline=None)
async def test_any_header_is_refused_or_read(tokens: Tokens, header: dict[str, Any]) -> None:
    assert await answer(tokens, forged("ec", header, {})) in CODES | {"accepted"}


@given(claims=CLAIMS)
@settings(max_examples=300, deadline=None)
async def test_any_claims_are_refused_or_read(tokens: Tokens, claims: dict[str, Any]) -> None:
    assert await answer(tokens, forged("ec", {}, claims)) in CODES | {"accepted"}


@given(
    text=st.text()
    | st.builds(".".join, st.lists(st.text("abcABC019_-=+/é\x00"), max_size=5))
    | st.builds(sealed, st.just("ec"), st.text(), st.text())
)
@settings(max_examples=300, deadline=None)
async def test_any_text_is_refused(tokens: Tokens, text: str) -> None:
    assert await answer(tokens, text) in CODES


@pytest.mark.parametrize("part", ['{"a":' * 1500, "[" * 3000, '{"exp": ' + "9" * 5000 + "}", "[]", "null", "7"])
@pytest.mark.parametrize("place", ["header", "claims"])
async def test_refuses_depths_and_sizes(tokens: Tokens, part: str, place: str) -> None:
    good = json.dumps({"alg": "ES256", "kid": "ec"})
    text = sealed("ec", part, "{}") if place == "header" else sealed("ec", good, part)
    assert await answer(tokens, text) in CODES


def test_every_code_of_the_table_is_known() -> None:
    rows = list(examples(Path(TABLE).read_text(), COLUMNS))
    assert len(rows) > 20
    assert {row[-1] for row in rows} - {"accepted"} <= CODES
