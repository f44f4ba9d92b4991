"""Where the local stack keeps what it makes, all of it inside the checkout."""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
"""The directory that holds `contracts/`, `services/` and `deploy/`."""

STATE = CHECKOUT / ".local"
"""Everything that the local stack writes. Deleting it, while no stack runs, loses nothing but local data."""

JARS = STATE / "jars"
"""Kafka's jars, shared by all stacks."""
