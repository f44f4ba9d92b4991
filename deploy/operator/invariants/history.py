"""The lines of the history by kind, for the checks of each kind."""

from collections.abc import Collection, Iterable

from deploy.operator.invariants.rows import Keyed, by
from services.groups.domain import HistoryEntry, Kind

PAYMENTS = frozenset({Kind.EXTENSION, Kind.OPTIONS_PACK})
"""What an owner pays for a member."""


def lines(history: Iterable[HistoryEntry], kind: Kind, *columns: str) -> Keyed[HistoryEntry]:
    """Return the lines of one kind in the order of some columns."""
    return lines_of(history, (kind,), *columns)


def lines_of(history: Iterable[HistoryEntry], kinds: Collection[Kind], *columns: str) -> Keyed[HistoryEntry]:
    """Return the lines of some kinds in the order of some columns."""
    return ((key, line) for key, line in by(history, *columns) if line.kind in kinds)
