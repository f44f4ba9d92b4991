"""Keys and tokens as the platform makes them, and as others would like to."""

import json
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import cache
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.utils import base64url_encode

AUDIENCE = "popfax-groups"

_ALGORITHMS = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA"}


@cache
def private_key(name: str) -> Any:
    """Return the key of a name, always the same. The beginning of the name says which kind it is."""
    make: dict[str, Callable[[], Any]] = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ed": ed25519.Ed25519PrivateKey.generate,
    }
    return make[name.partition("-")[0]]()


def described(name: str) -> dict[str, Any]:
    """Return a public key as it appears in a key set."""
    algorithm = _ALGORITHMS[name.partition("-")[0]]
    found = jwt.get_algorithm_by_name(algorithm).to_jwk(private_key(name).public_key(), as_dict=True)
    return {**found, "kid": name, "alg": algorithm, "use": "sig"}


def key_set(*names: str) -> str:
    """Return a key set as JSON."""
    return json.dumps({"keys": [described(name) for name in names]})


def write_keys(directory: Path, *names: str) -> Path:
    """Write a key set to a file; return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "jwks.json"
    path.write_text(key_set(*(names or ("ec",))))
    return path


def token(subscriber_id: UUID | str, key: str = "ec", kid: str | None = None, **claims: Any) -> str:
    """Return a valid token, unless `claims` make it invalid. A claim that is None is left out."""
    now = datetime.now(UTC)
    made = {
        "sub": str(subscriber_id),
        "aud": AUDIENCE,
        "exp": now + timedelta(minutes=5),
        "iat": now,
        "jti": uuid4().hex,
        **claims,
    }
    kept = {name: value for name, value in made.items() if value is not None}
    return jwt.encode(kept, private_key(key), _ALGORITHMS[key.partition("-")[0]], {"kid": kid or key})


def forged(key: str, header: dict[str, Any], claims: dict[str, Any]) -> str:
    """Return a token with any header and claims, signed with a key. Entries that are None are left out."""
    now = int(datetime.now(UTC).timestamp())
    algorithm = _ALGORITHMS[key.partition("-")[0]]
    head = {"alg": algorithm, "kid": key, "typ": "JWT", **header}
    body = {"sub": str(UUID(int=1)), "aud": AUDIENCE, "exp": now + 300, "iat": now, **claims}
    return sealed(key, *(json.dumps({k: v for k, v in part.items() if v is not None}) for part in (head, body)))


def sealed(key: str, head: str, body: str) -> str:
    """Return a token of any two texts, with a valid signature of them."""
    signer = jwt.get_algorithm_by_name(_ALGORITHMS[key.partition("-")[0]])
    signed = b".".join(base64url_encode(part.encode()) for part in (head, body))
    return b".".join((signed, base64url_encode(signer.sign(signed, private_key(key))))).decode()


def cookie_of(link: str) -> str:
    """Return the cookie that following a login link sets."""
    parts = urlsplit(link)
    with closing(HTTPConnection(parts.netloc, timeout=30)) as connection:
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        assert answer.status == HTTPStatus.SEE_OTHER, answer.status
        return str(answer.getheader("set-cookie")).partition(";")[0]
