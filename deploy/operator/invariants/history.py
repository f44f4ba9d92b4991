"""The lines of the history by kind, for the checks of each kind."""

from collections.abc import Iterable

from deploy.operator.invariants.rows import Keyed, by
from services.groups.domain import HistoryEntry, Kind


def lines(history: Iterable[HistoryEntry], kind: Kind, *columns: str) -> Keyed[HistoryEntry]:
    """Return the lines of one kind in the order of some columns."""
    return ((key, line) for key, line in by(history, *columns) if line.kind is kind)
