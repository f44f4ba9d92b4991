"""What a batch needs of its service's tables: named beside each message's handler, loaded once for all of them.

The needs stand beside the handler as TigerBeetle's prefetch stands beside its execute, and Wolverine's `LoadAsync`
beside its `Handle`. A service's `Load` gathers them, and fetches table after table in one order: what is read of one
may lead to rows of the next.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from services.chassis.database import Transaction
from services.chassis.rows import Mapped, NotLoaded, Rows, RowSet

K = TypeVar("K")
R = TypeVar("R")


class Supply(Generic[R]):
    """Rows any of which will do, as many as a batch was found to need, or fewer where there are no more."""

    def __init__(self, rows: Iterable[R], wanted: int) -> None:
        self._rows = deque(rows)
        self._wanted = wanted

    def is_out(self) -> bool:
        """Return whether there are no more. Raises `NotLoaded` where the batch was not found to need one more."""
        if self._wanted == 0:
            raise NotLoaded("more than was asked for")
        return not self._rows

    def take(self) -> R:
        """Take one; raises `IndexError` where there are no more."""
        self._wanted -= 1
        return self._rows.popleft()


class Wanted(set[K], Generic[K, R]):
    """The rows of one table that a batch needs: a set of keys, and sets of rows whose keys are still to be found."""

    def __init__(self, mapped: Mapped[K, R], keys: Iterable[K] = ()) -> None:
        super().__init__(keys)
        self.mapped = mapped
        self._asked: dict[RowSet[K, R], set[Any]] = {}
        self._found: dict[RowSet[K, R], set[Any]] = {}
        self._followed: list[tuple[K, Callable[[R], None]]] = []

    def add_all(self, rowset: RowSet[K, R], value: Any = None) -> None:
        """Add all rows of a set."""
        self._asked.setdefault(rowset, set()).add(value)

    def then(self, key: K, follow: Callable[[R], None]) -> None:
        """Add a row, and what is to be done with it once it is there: it may lead to rows of other tables."""
        self.add(key)
        self._followed.append((key, follow))

    async def find(self, tx: Transaction) -> None:
        """Add the keys of the sets: a statement for each kind of set. Nothing is locked."""
        for rowset, values in self._asked.items():
            self |= await tx.keys(self.mapped, rowset.among(values))
            self._found.setdefault(rowset, set()).update(values)
        self._asked.clear()

    async def fetch(self, tx: Transaction, *, for_update: bool = True) -> Rows[K, R]:
        """Find what is not found yet, and load it all; lock it, unless it is only read."""
        await self.find(tx)
        rows = await tx.fetch(self.mapped, self, for_update=for_update)
        for rowset, values in self._found.items():
            rows.cover(rowset, values)
        for key, follow in self._followed:
            if (row := rows.get(key)) is not None:
                follow(row)
        return rows
