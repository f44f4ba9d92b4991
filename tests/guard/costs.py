"""Counts what a saga and a transfer cost each service, and compares it with what was recorded."""

import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from cProfile import Profile
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE
from pathlib import Path
from types import CodeType
from typing import Any

from popfax_contracts.topics import Principal
from tests.guard.load import COUNT, Counts, Line, Watch, line

RECORDED = Path(__file__).with_name("costs.json")
TOLERANCE = 0.03

Costs = dict[str, float]
"""Figures by name, such as `saga, groups: rows written`."""

_PYTHON = ".".join(platform.python_version_tuple()[:2])
_CALLS = f"calls in Python {_PYTHON}"
_WAITING = ("/asyncio/", "/selectors.py", "/psycopg/", "/sqlalchemy/")
"""Code that waits for the servers: how often it looks is chance."""


class Profiles(Watch):
    """Counts each service's function calls."""

    def __init__(self) -> None:
        self._profiles: dict[Principal, Profile] = {}

    @contextmanager
    def over(self, principal: Principal) -> Iterator[None]:
        """Profile while a service handles a batch, or relays."""
        profile = self._profiles.setdefault(principal, Profile())
        profile.enable()
        try:
            yield
        finally:
            profile.disable()

    def take(self) -> dict[Principal, int]:
        """Return how many calls each service has made since the last time."""
        found = {principal: _calls(profile) for principal, profile in self._profiles.items()}
        self._profiles.clear()
        return found


def _calls(profile: Profile) -> int:
    """Count calls: of functions in Python, and those of C's that they call. What waits is left out, with all it calls.

    A coroutine counts as called each time that it goes on, so those are left out too.
    """
    entries: list[Any] = [entry for entry in profile.getstats() if _counts(entry.code)]
    called = [call for entry in entries for call in entry.calls or () if isinstance(call.code, str)]
    return sum(int(call.callcount) for call in (*entries, *called))


def _counts(code: CodeType | str) -> bool:
    if isinstance(code, str) or code.co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR):
        return False
    return not any(part in code.co_filename for part in _WAITING)


async def measure(directory: Path) -> Costs:
    """Count the costs of the fixed load, on a server in that directory."""
    profiles = Profiles()
    with line(directory, profiles) as running:
        await running.prepare()
        for _ in range(2):  # once to fill the caches, which a service has long filled
            costs = await _counted("saga", running, profiles, running.ask_for_accounts)
            costs |= await _counted("transfer", running, profiles, running.ask_for_transfers)
    return costs


async def _counted(what: str, running: Line, profiles: Profiles, ask: Callable[[int], None]) -> Costs:
    rows = running.rows_written()
    profiles.take()
    ask(COUNT)
    counts, calls, written = await running.settle(), profiles.take(), running.rows_written()
    costs: Costs = {}
    for service, did in counts.items():
        each = _each(did, written[service] - rows[service], calls[service])
        costs |= {f"{what}, {service}: {name}": round(figure, 3) for name, figure in each.items()}
    return costs


def _each(did: Counts, rows: int, calls: int) -> Costs:
    return {
        "messages handled": did.handled / COUNT,
        "messages relayed": did.relayed / COUNT,
        "statements per batch": did.statements / did.batches if did.batches else 0,
        "round trips per batch": did.trips / did.batches if did.batches else 0,
        "rows written": rows / COUNT,
        "bytes on the wire": did.wire_bytes / COUNT,
        _CALLS: calls / COUNT,
    }


def recorded() -> Costs:
    """Read what was recorded."""
    costs: Costs = json.loads(RECORDED.read_text())
    return costs


def record(costs: Costs) -> None:
    """Record new figures; the calls in other versions of Python stay."""
    others = {name: figure for name, figure in recorded().items() if _is_of_another_python(name)}
    RECORDED.write_text(json.dumps(dict(sorted((others | costs).items())), indent=1) + "\n")


def compare(before: Costs, now: Costs) -> list[str]:
    """Return a line for each figure that has moved by more than `TOLERANCE`, or that only one of the two has."""
    names = sorted(name for name in {*before, *now} if not _is_of_another_python(name))
    return [
        f"{name}: {before.get(name, 'not recorded')} → {now.get(name, 'not counted')}"
        for name in names
        if not _is_about(before.get(name), now.get(name))
    ]


def _is_of_another_python(name: str) -> bool:
    return "calls in Python" in name and not name.endswith(_CALLS)


def _is_about(before: float | None, now: float | None) -> bool:
    return before is not None and now is not None and abs(now - before) <= TOLERANCE * before
