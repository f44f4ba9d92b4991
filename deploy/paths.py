"""Where the checkout is, and where its tools keep what they make."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
"""The directory that holds `contracts/`, `services/` and `deploy/`."""

STATE = CHECKOUT / ".local"
"""Everything that the tools write. Deleting it, while no local stack runs, loses nothing but local data."""


@contextmanager
def only_one_fetches(target: Path) -> Iterator[None]:
    """Hold a lock beside `target`, so that only one process fetches it at a time.

    The kernel releases the lock if this process dies.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
