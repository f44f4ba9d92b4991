"""Where the local stack keeps what it makes, all of it inside the checkout."""

import stat
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
"""The directory that holds `contracts/`, `services/` and `deploy/`."""

STATE = CHECKOUT / ".local"
"""Everything that the local stack writes. Deleting it, while no stack runs, loses nothing but local data."""

JARS = STATE / "jars"
"""Kafka's jars, shared by all stacks."""


def private_directory(path: Path, passable: bool = False) -> None:
    """Make a directory that nobody else can list or enter, or make one so that is there.

    With `passable` others who know a name in it may enter if they can already: PostgreSQL runs as another user.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    others = stat.S_IRWXG | stat.S_IRWXO
    kept = stat.S_IXGRP | stat.S_IXOTH if passable else 0
    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~(others & ~kept))
