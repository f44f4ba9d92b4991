"""Where the checkout is, and where its tools keep what they make."""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
"""The directory that holds `contracts/`, `services/` and `deploy/`."""

STATE = CHECKOUT / ".local"
"""Everything that the tools write. Deleting it, while no local stack runs, loses nothing but local data."""
