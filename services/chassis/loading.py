"""Load plans: what a batch needs of its service's tables, named beside each handler, loaded once for the whole batch.

Needs stand beside the handler as TigerBeetle's prefetch stands beside its execute, and Wolverine's `LoadAsync` beside
its `Handle`. A service's `LoadPlan` collects them and fetches the tables in a fixed order, since the rows of one may
lead to rows of the next.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar

from services.chassis.database import Later, Transaction
from services.chassis.rows import Mapped, NotLoaded, Rows, RowSet

K = TypeVar("K")
R = TypeVar("R")


class Supply(Generic[R]):
    """Interchangeable rows, such as free numbers: as many as a batch needs, or fewer if there are no more."""

    def __init__(self, rows: Iterable[R], wanted: int) -> None:
        self._rows = deque(rows)
        self._wanted = wanted

    def is_out(self) -> bool:
        """Return whether none is left. Raises `NotLoaded` if the needs did not ask for another one."""
        if self._wanted == 0:
            raise NotLoaded("more than was asked for")
        return not self._rows

    def take(self) -> R:
        """Take one. Raises `IndexError` if none is left."""
        self._wanted -= 1
        return self._rows.popleft()


class NeededRows(set[K], Generic[K, R]):
    """The rows of one table that a batch needs: keys, and sets of rows whose keys are still to be found."""

    def __init__(self, mapped: Mapped[K, R], keys: Iterable[K] = ()) -> None:
        super().__init__(keys)
        self.mapped = mapped
        self.asked: dict[RowSet[K, R], set[Any]] = {}
        """The sets whose keys are still to be found, by their values."""
        self._found: dict[RowSet[K, R], set[Any]] = {}
        self._followed: list[tuple[K, Callable[[R], None]]] = []

    def add_all(self, rowset: RowSet[K, R], value: Any = None) -> None:
        """Add all rows of a set."""
        self.asked.setdefault(rowset, set()).add(value)

    def then(self, key: K, follow: Callable[[R], None]) -> None:
        """Add a row, and what to do with it once it is loaded: it may lead to rows of other tables."""
        self.add(key)
        self._followed.append((key, follow))

    async def find(self, tx: Transaction) -> None:
        """Find the keys of the sets, with one statement per kind of set; nothing is locked."""
        for rowset, values in self.asked.items():
            self |= await tx.keys(self.mapped, rowset.among(values))
            self._found.setdefault(rowset, set()).update(values)
        self.asked.clear()

    def fetch(self, tx: Transaction, *, for_update: bool = True) -> Awaitable[Rows[K, R]]:
        """Ask for all rows, by key and by set, in one statement; lock them unless they are only read."""
        sets = [rowset.among(values) for rowset, values in self.asked.items()]
        for rowset, values in self.asked.items():
            self._found.setdefault(rowset, set()).update(values)
        self.asked.clear()
        asked = tx.fetch(self.mapped, self, sets, for_update=for_update)
        return Later(lambda: self._follow(asked))

    async def _follow(self, asked: Awaitable[Rows[K, R]]) -> Rows[K, R]:
        rows = await asked
        for rowset, values in self._found.items():
            rows.cover(rowset, values)
            self.update(map(self.mapped.key_of, rows.loaded()))
        # Emptied, since what follows refers to the plan that holds it: a cycle only the garbage collector could free.
        followed, self._followed = self._followed, []
        for key, follow in followed:
            if (row := rows.find(key)) is not None:
                follow(row)
        return rows
