"""Tokens: the good ones say who asks, and nobody else gets in."""

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from services.groups.web import auth
from services.groups.web.auth import BadToken, Tokens
from services.groups.web.keys import Keys, NoKeys, read_keys
from tests.tokens import AUDIENCE, described, private_key, token, write_keys
from tests.unit.given import id_of

ADA = id_of("Ada")


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(Keys(str(write_keys(tmp_path, "ec", "rsa", "ed"))), AUDIENCE)


async def _refusal(tokens: Tokens, text: str) -> str:
    with pytest.raises(BadToken) as refused:
        await tokens.caller(text)
    return refused.value.code


def _encoded(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("key", ["ec", "rsa", "ed"])
async def test_says_who_asks_and_until_when(tokens: Tokens, key: str) -> None:
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=3)
    caller = await tokens.caller(token(ADA, key, exp=until))
    assert (caller.id, caller.until) == (ADA, until)


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"exp": 1}, "token_expired"),
        ({"exp": datetime.now(UTC) - timedelta(seconds=auth.LEEWAY_S + 5)}, "token_expired"),
        ({"exp": None}, "claim_missing"),
        ({"nbf": datetime.now(UTC) + timedelta(days=1)}, "token_not_yet_valid"),
        ({"iat": datetime.now(UTC) + timedelta(days=1)}, "token_not_yet_valid"),
        ({"aud": "popfax-fax"}, "wrong_audience"),
        ({"aud": None}, "claim_missing"),
        ({"sub": None}, "claim_missing"),
        ({"sub": "ada"}, "malformed_claim"),
        ({"exp": 1 << 62}, "malformed_claim"),
    ],
)
async def test_refuses_claims_that_are_not_good(tokens: Tokens, claims: dict[str, Any], code: str) -> None:
    assert await _refusal(tokens, token(ADA, **claims)) == code


async def test_takes_a_token_that_ended_within_what_clocks_may_differ(tokens: Tokens) -> None:
    assert (await tokens.caller(token(ADA, exp=datetime.now(UTC) - timedelta(seconds=5)))).id == ADA


async def test_refuses_a_key_that_is_not_the_platforms(tokens: Tokens) -> None:
    assert await _refusal(tokens, token(ADA, "ec-mallory")) == "unknown_key"
    assert await _refusal(tokens, token(ADA, "ec-mallory", kid="ec")) == "wrong_signature"


async def test_refuses_a_key_that_is_for_another_algorithm(tokens: Tokens) -> None:
    assert await _refusal(tokens, token(ADA, "rsa", kid="ec")) == "algorithm_not_allowed"


async def test_refuses_a_token_without_a_signature(tokens: Tokens) -> None:
    claims = {"sub": str(ADA), "aud": AUDIENCE, "exp": 1 << 40}
    assert await _refusal(tokens, jwt.encode(claims, "", "none", {"kid": "ec"})) == "algorithm_not_allowed"
    stripped = token(ADA).rpartition(".")[0] + "."
    assert await _refusal(tokens, stripped) == "wrong_signature"


async def test_refuses_a_token_signed_with_the_public_key_as_a_secret(tokens: Tokens) -> None:
    """The oldest trick: HS256, with what everybody may know as the secret."""
    import hashlib  # noqa: PLC0415
    import hmac  # noqa: PLC0415

    public = private_key("rsa").public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    head = _encoded({"alg": "HS256", "kid": "rsa", "typ": "JWT"})
    body = _encoded({"sub": str(ADA), "aud": AUDIENCE, "exp": 1 << 40})
    mac = hmac.new(pem, f"{head}.{body}".encode(), hashlib.sha256).digest()
    forged = f"{head}.{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    assert await _refusal(tokens, forged) == "algorithm_not_allowed"


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "." * 5, "é" * 40, "x" * 9000, f"{_encoded([])}.{_encoded({})}.x"])
async def test_refuses_what_is_no_token(tokens: Tokens, text: str) -> None:
    assert await _refusal(tokens, text) in {"malformed_token", "algorithm_not_allowed"}


async def test_refuses_a_token_that_wants_what_we_do_not_know(tokens: Tokens) -> None:
    claims = {"sub": str(ADA), "aud": AUDIENCE, "exp": 1 << 40}
    text = jwt.encode(claims, private_key("ec"), "ES256", {"kid": "ec", "crit": ["exp"], "exp": 1})
    assert await _refusal(tokens, text) == "malformed_token"


async def test_refuses_another_issuer_where_one_is_named(tmp_path: Path) -> None:
    tokens = Tokens(Keys(str(write_keys(tmp_path))), AUDIENCE, "https://popfax.example")
    assert await _refusal(tokens, token(ADA, iss="https://evil.example")) == "wrong_issuer"
    assert await _refusal(tokens, token(ADA)) == "claim_missing"
    assert (await tokens.caller(token(ADA, iss="https://popfax.example"))).id == ADA


async def test_the_only_key_needs_no_name(tmp_path: Path) -> None:
    claims = {"sub": str(ADA), "aud": AUDIENCE, "exp": datetime.now(UTC) + timedelta(minutes=1)}
    nameless = jwt.encode(claims, private_key("ec"), "ES256")
    assert (await Tokens(Keys(str(write_keys(tmp_path))), AUDIENCE).caller(nameless)).id == ADA
    several = Tokens(Keys(str(write_keys(tmp_path, "ec", "rsa"))), AUDIENCE)
    assert await _refusal(several, nameless) == "unknown_key"


async def test_a_weak_key_proves_nothing(tmp_path: Path) -> None:
    weak = rsa.generate_private_key(65537, 1024)  # the platform's own mistake
    public = jwt.get_algorithm_by_name("RS256").to_jwk(weak.public_key(), as_dict=True)
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [{**public, "kid": "weak"}]}))
    claims = {"sub": str(ADA), "aud": AUDIENCE, "exp": datetime.now(UTC) + timedelta(minutes=1)}
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        text = jwt.encode(claims, weak, "RS256", {"kid": "weak"})
    assert await _refusal(Tokens(Keys(str(tmp_path / "jwks.json")), AUDIENCE), text) == "malformed_token"


def test_leaves_out_keys_that_are_for_something_else() -> None:
    secret = {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "alg": "HS256", "kid": "secret"}
    listed = [described("ec"), {**described("rsa"), "use": "enc"}, secret, {"kty": "??"}, {}, 7]
    assert set(read_keys(json.dumps({"keys": listed}).encode())) == {"ec"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": 1}', "null"])
def test_refuses_what_is_no_set_of_keys(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_keys(text.encode())


async def test_without_keys_nothing_can_be_checked(tmp_path: Path) -> None:
    with pytest.raises(NoKeys):
        await Tokens(Keys(str(tmp_path / "none.json")), AUDIENCE).caller(token(ADA))
