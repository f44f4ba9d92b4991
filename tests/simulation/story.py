"""A seed's run for people to read: who did what, with which message, in order."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from services.chassis.arrivals import Fetched
from tests.simulation.bus import BusRecord
from tests.simulation.hub import BEGUN_S
from tests.simulation.replicas import Story
from tests.simulation.world import Tell, World

_COLOURS = {
    "sends": "cyan",
    "relays": "green",
    "appends": "green",
    "reads": "dim",
    "outage": "red",
    "crash": "red",
    "poison": "red",
    "fault": "red",
}


def replay(seed: int, console: Console, made: Callable[[Tell], World] | None = None) -> list[str]:
    """Run a seed again and print every step; return the findings."""
    table = Table("step", "time", "who", "does", "what", title=f"seed {seed}", box=None, title_justify="left")

    def tell(does: str, who: str, what: Any) -> None:
        text = _record(what) if isinstance(what, BusRecord) else str(what)
        table.add_row(str(world.step), f"{world.clock.now:%d %H:%M:%S}", who, does, text, style=_COLOURS.get(does))

    world = made(tell) if made else World(seed, tell=tell)
    findings = world.run()
    _print(console, table, findings)
    return findings


def replay_replicas(kind: type[Story], seed: int, console: Console) -> list[str]:
    """Run a seed's story of replicas again and print what happened; return the findings."""
    table = Table("time", "who", "does", "what", title=f"seed {seed}", box=None, title_justify="left")

    def tell(does: str, who: str, what: Any) -> None:
        text = _record(what) if isinstance(what, Fetched) else str(what)
        table.add_row(f"{story.hub.now - BEGUN_S:.4f}", who, does, text, style=_COLOURS.get(does))

    story = kind(seed, tell)
    findings = story.run()
    _print(console, table, findings)
    return findings


def _print(console: Console, table: Table, findings: Sequence[str]) -> None:
    console.print(table)
    for finding in findings:
        console.print(f"[bold red]broken[/] {finding}", highlight=False)
    console.print(f"{len(findings)} findings")


def _record(record: BusRecord | Fetched) -> str:
    headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    kind = headers.get("ce_type", "?").removeprefix("popfax.")
    place = f"{record.topic.removeprefix('popfax.')}/{record.partition}@{record.offset}"
    return f"{kind} {place} id={headers.get('ce_id', '?')[:8]} {_fields(record.value)}"


def _fields(value: bytes | None) -> str:
    """Return the fields as text, with ids shortened to what tells them apart."""
    try:
        fields = json.loads(value or b"")
    except ValueError:
        return repr(value)
    return " ".join(f"{name}={str(field)[:8] if name.endswith('_id') else field}" for name, field in fields.items())
