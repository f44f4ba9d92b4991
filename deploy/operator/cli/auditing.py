"""What `popfax audit` and `popfax ledger verify` share: snapshots, progress, and the report of violations."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice

import sqlalchemy as sa
import typer

from deploy.operator.cli.connection import Connection
from deploy.operator.cli.errors import Exit, Unreachable
from deploy.operator.cli.output import err, print_json, print_table, say
from deploy.operator.invariants import Snapshot, Violation
from deploy.operator.snapshots import READS, snapshots

SHOWN = 100
"""The most violations that a table shows. JSON shows up to `KEPT`; both give the total."""

KEPT = 1_000

_EVERY_S = 0.2
_LINE_EVERY_S = 10.0


class Progress:
    """Reports progress on stderr: continuously on a terminal, elsewhere one line every ten seconds."""

    def __init__(self) -> None:
        self._part = ""
        self._rows = 0
        self._began = self._said = time.monotonic()
        self._status = err.status("") if err.is_terminal else None

    @contextmanager
    def shown(self) -> Iterator["Progress"]:
        """Show progress until the context ends."""
        if self._status is None:
            yield self
            return
        with self._status:
            yield self

    def begin(self, part: str) -> None:
        """Begin the next part."""
        self._part = part
        self._say(_EVERY_S)

    def __call__(self, rows: int) -> None:
        """Count this many more rows as read."""
        self._rows += rows
        self._say(_EVERY_S if self._status is not None else _LINE_EVERY_S)

    def _say(self, every_s: float) -> None:
        now = time.monotonic()
        if now - self._said < every_s:
            return
        self._said = now
        text = f"{self._part}: {self._rows:,} rows read in {now - self._began:.0f} s"
        if self._status is not None:
            self._status.update(text)
        elif every_s == _LINE_EVERY_S:
            err.print(text, soft_wrap=True)


@contextmanager
def open_snapshots(connection: Connection, progress: Progress | None = None) -> Iterator[Snapshot]:
    """Open snapshots of all four services. Raises Unreachable, also for errors while they are read."""
    urls = {principal: connection.database_url(principal) for principal, _, _ in READS}
    try:
        with snapshots(urls, progress or (lambda _: None)) as snapshot:
            yield snapshot
    except sa.exc.OperationalError as error:
        raise Unreachable("a service's database can't be reached") from error
    except sa.exc.DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        raise Unreachable(f"a service's database can't be read ({state}): is it at this version?") from error


class Found:
    """The violations that were found: the first ones, and the number of all."""

    def __init__(self) -> None:
        self.first: list[Violation] = []
        self.count = 0

    def add(self, violations: Iterable[Violation]) -> None:
        """Keep the first ones, and count all."""
        violations = iter(violations)
        more = list(islice(violations, KEPT - len(self.first)))
        self.first += more
        self.count += len(more) + sum(1 for _ in violations)


def conclude(counts: Mapping[str, int], found: Found, sound: str, json: bool) -> None:
    """Print what was checked and its violations, or `sound` if there are none. Exits with 1 if there are any."""
    if json:
        kept = [{"code": each.code, "subject": each.subject, "detail": each.detail} for each in found.first]
        print_json({**counts, "violations": kept, "violations_total": found.count})
    else:
        say(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
        if found.count:
            shown = [(each.code, each.subject, each.detail) for each in found.first[:SHOWN]]
            print_table(("violation", "of", "detail"), shown)
            more = f", of which {len(shown)} are shown" if found.count > len(shown) else ""
            say(f"✗ {found.count} {'violation' if found.count == 1 else 'violations'}{more}", "red")
        else:
            say(f"✓ {sound}", "green")
    if found.count:
        raise typer.Exit(Exit.NO)
