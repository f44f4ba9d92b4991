"""Random passwords, made once for a data directory and kept in it."""

import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from deploy.local.errors import StackError


def load_or_create(path: Path, names: Iterable[str]) -> dict[str, str]:
    """The password of each name, from `path` (mode 0600), which is made if it is not there.

    Raises StackError when `path` was made for other names: the server beside it knows those, and no others.
    """
    wanted = sorted(names)
    if not path.exists():
        write_private(path, json.dumps({name: secrets.token_hex(16) for name in wanted}, indent=2))
    passwords: dict[str, str] = json.loads(path.read_text())
    if sorted(passwords) != wanted:
        raise StackError(f"{path.parent} was made for other users: delete it, or start afresh")
    return passwords


def write_private(path: Path, text: str) -> None:
    """Write a file, whole or not at all, that only its owner can read."""
    written = path.with_name(f"{path.name}.new")
    written.unlink(missing_ok=True)
    with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    written.replace(path)
