"""What `popfax audit` and `popfax ledger verify` share: snapshots, progress, and how what was found is told."""

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
"""So many violations a table shows; JSON has `KEPT`, and both say how many there are."""

KEPT = 1_000

_EVERY_S = 0.2
_LINE_EVERY_S = 10.0


class Progress:
    """Says on stderr how far a long look has got: on a terminal all the time, elsewhere a line every ten seconds."""

    def __init__(self) -> None:
        self._part = ""
        self._rows = 0
        self._began = self._said = time.monotonic()
        self._status = err.status("") if err.is_terminal else None

    @contextmanager
    def shown(self) -> Iterator["Progress"]:
        """Show it until the end."""
        if self._status is None:
            yield self
            return
        with self._status:
            yield self

    def begin(self, part: str) -> None:
        """Go on with another part."""
        self._part = part
        self._say(_EVERY_S)

    def __call__(self, rows: int) -> None:
        """Hear that so many more rows were read."""
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
    """Open snapshots of all four services. Raises Unreachable, also for what goes wrong while they are read."""
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
    """What was found: the first ones, and how many there are."""

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
    """Say what was looked at and what is wrong with it, or that it is `sound`; exit with 1 if anything is wrong."""
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
