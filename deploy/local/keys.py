"""Stands in for the platform's login on this machine: a key pair, its public half for groups, and tokens.

The key's name says that it is for development. A service takes such a key only if a setting says so, which this stack
alone makes (`GROUPS_JWT_DEVELOPMENT_KEYS`).
"""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode
from uuid import UUID, uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from services.groups.web.auth import DEVELOPMENT

AUDIENCE = "popfax-groups"
LIFETIME = timedelta(hours=12)
"""How long a link logs somebody in, and how long they are known then."""

_ALGORITHM = "ES256"


class DevelopmentKeys:
    """A key pair in a directory of its own, made when it is first asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._private = directory / "private.json"

    @property
    def key_set(self) -> Path:
        """Give the file with the public key, as groups reads it (JWKS)."""
        path = self._directory / "jwks.json"
        if not path.exists():
            self._make(path)
        return path

    def token(self, subscriber_id: UUID, lifetime: timedelta = LIFETIME) -> str:
        """Make a token that speaks for somebody."""
        assert self.key_set.exists()
        made = json.loads(self._private.read_text())
        now = datetime.now(UTC)
        claims = {"sub": str(subscriber_id), "aud": AUDIENCE, "iat": now, "exp": now + lifetime}
        key = load_pem_private_key(made["pem"].encode(), None)
        return jwt.encode(claims, key, _ALGORITHM, {"kid": made["kid"]})  # type: ignore[arg-type]

    def login_link(self, url: str, subscriber_id: UUID, lifetime: timedelta = LIFETIME) -> str:
        """Give the link with which the platform would send somebody to their group."""
        return f"{url}/login?{urlencode({'token': self.token(subscriber_id, lifetime)})}"

    def _make(self, path: Path) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        name, key = f"{DEVELOPMENT}{uuid4()}", ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        with os.fdopen(os.open(self._private, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump({"kid": name, "pem": pem}, file)
        public = jwt.get_algorithm_by_name(_ALGORITHM).to_jwk(key.public_key(), as_dict=True)
        path.write_text(json.dumps({"keys": [{**public, "kid": name, "alg": _ALGORITHM, "use": "sig"}]}))
