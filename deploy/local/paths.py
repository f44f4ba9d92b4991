"""Where the local stack keeps its files, all of them inside the checkout, and how a path is shown."""

import stat
from pathlib import Path

from deploy.paths import CHECKOUT, STATE

JARS = STATE / "jars"
"""Kafka's jars, shared by all stacks."""


def private_directory(path: Path, passable: bool = False) -> None:
    """Create a directory that nobody else can list or enter, or make an existing one so.

    With `passable` others who know a name in it may enter if they can already: PostgreSQL runs as another user.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    others = stat.S_IRWXG | stat.S_IRWXO
    kept = stat.S_IXGRP | stat.S_IXOTH if passable else 0
    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~(others & ~kept))


def path_for_people(path: Path) -> str:
    """Return a path as one would type it here."""
    for base in (Path.cwd(), CHECKOUT):
        if path.is_relative_to(base):
            return str(path.relative_to(base))
    return str(path)
