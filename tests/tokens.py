"""Keys and tokens as the platform makes them, and as others would like to."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

AUDIENCE = "popfax-groups"

_ALGORITHMS = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA"}


@cache
def private_key(name: str) -> Any:
    """The same key for the same name. What the name begins with says what kind it is."""
    make: dict[str, Callable[[], Any]] = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ed": ed25519.Ed25519PrivateKey.generate,
    }
    return make[name.partition("-")[0]]()


def described(name: str) -> dict[str, Any]:
    """A public key as a set of keys has it."""
    algorithm = _ALGORITHMS[name.partition("-")[0]]
    found = jwt.get_algorithm_by_name(algorithm).to_jwk(private_key(name).public_key(), as_dict=True)
    return {**found, "kid": name, "alg": algorithm, "use": "sig"}


def key_set(*names: str) -> str:
    """A set of keys."""
    return json.dumps({"keys": [described(name) for name in names]})


def write_keys(directory: Path, *names: str) -> Path:
    """A file with a set of keys."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "jwks.json"
    path.write_text(key_set(*(names or ("ec",))))
    return path


def token(subscriber_id: UUID | str, key: str = "ec", kid: str | None = None, **claims: Any) -> str:
    """A good token, unless something else is said. A claim that is None is left out."""
    now = datetime.now(UTC)
    facts = {"sub": str(subscriber_id), "aud": AUDIENCE, "exp": now + timedelta(minutes=5), "iat": now, **claims}
    kept = {name: value for name, value in facts.items() if value is not None}
    return jwt.encode(kept, private_key(key), _ALGORITHMS[key.partition("-")[0]], {"kid": kid or key})
