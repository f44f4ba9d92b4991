"""Stands in for the platform's login on this machine: a key pair, its public half for groups, and tokens.

The key's name says that it is for development. A service takes such a key only if a setting says so, which this stack
alone makes (`GROUPS_JWT_DEVELOPMENT_KEYS`).
"""

import json
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

from deploy.local.passwords import write_private
from deploy.local.paths import private_directory
from services.groups.web.keys import DEVELOPMENT

AUDIENCE = "popfax-groups"
LIFETIME = timedelta(hours=12)
"""How long a link is valid, and how long the session lasts."""

_ALGORITHM = "ES256"


class DevelopmentKeys:
    """A key pair in a directory of its own, made when it is first asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._private = directory / "private.json"

    @property
    def key_set(self) -> Path:
        """Return the file with the public key, as groups reads it (JWKS)."""
        path = self._directory / "jwks.json"
        if not path.exists():
            self._make(path)
        return path

    def token(self, subscriber_id: UUID, lifetime: timedelta = LIFETIME) -> str:
        """Make a token for a person."""
        assert self.key_set.exists()
        made = json.loads(self._private.read_text())
        now = datetime.now(UTC)
        claims = {"sub": str(subscriber_id), "aud": AUDIENCE, "iat": now, "exp": now + lifetime, "jti": str(uuid4())}
        key = load_pem_private_key(made["pem"].encode(), None)
        return jwt.encode(claims, key, _ALGORITHM, {"kid": made["kid"]})  # type: ignore[arg-type]

    def login_link(self, url: str, subscriber_id: UUID, lifetime: timedelta = LIFETIME) -> str:
        """Return the link with which the platform would send somebody to their group."""
        return f"{url}/login?{urlencode({'token': self.token(subscriber_id, lifetime)})}"

    def _make(self, path: Path) -> None:
        private_directory(self._directory)
        name, key = f"{DEVELOPMENT}{uuid4()}", ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        write_private(self._private, json.dumps({"kid": name, "pem": pem}))
        public = jwt.get_algorithm_by_name(_ALGORITHM).to_jwk(key.public_key(), as_dict=True)
        write_private(path, json.dumps({"keys": [{**public, "kid": name, "alg": _ALGORITHM, "use": "sig"}]}))
