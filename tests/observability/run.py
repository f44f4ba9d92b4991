"""Makes every fault, waits for its alerts to fire and to resolve, and tells how long that took."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

from tests.documents.tables import table
from tests.observability.faults import PHASES, THROUGHOUT, Fault
from tests.observability.scene import Scene

TIMEOUT_S = 90.0
"""The longest wait for an alert to fire, or to resolve, on a busy machine."""


@dataclass(frozen=True)
class Seen:
    """What was seen of an alert. Seconds since the fault was made, and since it was repaired."""

    alert: str
    fault: str
    fired_s: float
    resolved_s: float


def run(made: Scene, told: Callable[[Seen], None] = lambda _: None, only: Collection[Fault] = ()) -> list[Seen]:
    """Make all faults, or `only` these; `told` hears of each alert.

    Raises TimeoutError if an alert does not fire, or does not resolve.
    """

    def line(faults: Sequence[Fault]) -> list[Seen]:
        wanted = [each for each in faults if not only or each in only]
        return [seen for fault in wanted for seen in _make(made, fault, told)]

    with ThreadPoolExecutor() as pool:
        throughout = pool.submit(line, THROUGHOUT)
        found = [seen for phase in PHASES for seen in chain.from_iterable(pool.map(line, phase))]
        return [*found, *throughout.result()]


def as_table(seen: Iterable[Seen]) -> str:
    """Return what was seen, as Markdown."""
    rows = [(each.alert, each.fault, f"{each.fired_s:.1f} s", f"{each.resolved_s:.1f} s") for each in seen]
    return table(("alert", "fault that was made", "fired after", "resolved after"), sorted(rows))


def _make(made: Scene, fault: Fault, told: Callable[[Seen], None]) -> Iterator[Seen]:
    for key in fault.alerts:
        made.watch.await_quiet(key, TIMEOUT_S)
    begun = time.monotonic()
    with fault.made(made):
        fired = {key: made.watch.await_firing(key, begun, TIMEOUT_S) for key in fault.fires.items()}
        time.sleep(max(0.0, begun + fault.lasting_s - time.monotonic()))
        repairing = time.monotonic()
    fired |= {key: made.watch.await_firing(key, begun, TIMEOUT_S) for key in fault.follows.items()}
    for key in fault.alerts:
        over = made.watch.await_quiet(key, TIMEOUT_S)
        seen = Seen(key[0], fault.what, fired[key] - begun, max(0.0, over - repairing))
        told(seen)
        yield seen
