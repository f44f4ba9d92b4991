"""A campaign: very many seeds, in parallel and resumable, with what they covered; what is rare steers what is sent.

    python -m tests.simulation campaign --seeds 200000 --jobs 2 --resume FILE

Covered is a handler, in a state of the rows that its message names, while a fault strikes. After each round of seeds,
commands weigh more that lead to handlers which have met few faults in their states. A round's weights are written to
the file, and a seed with its weights is a story that can be told again (`--replay SEED`). An interrupted campaign goes
on where it was.
"""

import json
from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from popfax_contracts.message import Message
from services.chassis.memory import MemoryTransaction
from services.chassis.messages import TIMERS, Incoming, Outcome, StoredRecord
from services.chassis.rows import Rows
from services.chassis.service import AnyHandler, Moment, Service
from tests.quiet import silence_logs
from tests.simulation.bus import BusRecord
from tests.simulation.commands import COMMANDS
from tests.simulation.world import SERVICES, SILENT, Decide, Fault, FaultyDatabase, Node, Tell, World, exchanged

CHUNK = 50
ROUND = 20 * CHUNK
"""How many seeds run before the weights are chosen again."""

RARE = 20
"""What was visited less often than this is rare."""

MOST = 8
"""How much more a command may weigh than in the table."""

Cell = tuple[str, str, str]
"""A handler, by its service and the type of its message; the state of the rows that this names; and the fault."""

FAULTS: Mapping[Fault | None, str] = {
    None: "none",
    Fault.AT_COMMIT: "lost before the commit",
    Fault.AFTER_COMMIT: "lost after the commit",
    Fault.RACE: "lost race",
}
OTHERS = ("handled again", "retried when parked", "late")
ALL_FAULTS = (*FAULTS.values(), *OTHERS)
"""What may strike. A connection that is lost at the beginning never reaches a handler."""

PLAIN: Sequence[float] = [weight for weight, _ in COMMANDS]
"""The commands' weights as they stand in the table."""


class _Struck(FaultyDatabase):
    """A database that knows which fault is about to strike."""

    def __init__(self) -> None:
        super().__init__()
        self.struck: Fault | None = None

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[MemoryTransaction]:
        self.struck = self.fault
        async with super().begin() as tx:
            yield tx


class CoveredWorld(World):
    """The product, which counts what its handlers meet."""

    def __init__(
        self,
        seed: int,
        weights: Sequence[float] = PLAIN,
        services: Sequence[Service] = SERVICES,
        tell: Tell = SILENT,
    ) -> None:
        self.covered: Counter[Cell] = Counter()
        self.led: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """How often what an entry of the table sent has led to each handler."""
        self._tried: set[tuple[str, Any]] = set()
        self._held_back: set[int] = set()
        super().__init__(seed, services, _Struck, tell=tell)
        self.cast.weights = weights

    def _node(self, service: Service, database: FaultyDatabase) -> Node:
        assert isinstance(database, _Struck)
        watched = {model: self._watched(service, database, each) for model, each in service.handlers.items()}
        return super()._node(exchanged(service, watched), database)

    def _watched(self, service: Service, database: _Struck, handler: AnyHandler) -> Decide:
        def handle(state: Any, message: Incoming[Any], moment: Moment) -> Outcome:
            name = _name(service, type(message.body))
            self.covered[name, _state(state, message), self._fault(name, database, message)] += 1
            if (entry := self.cast.sent_by.get(message.correlation_id)) is not None:
                self.led[entry][name] += 1
            return handler(state, message, moment)

        return handle

    def _fault(self, name: str, database: _Struck, message: Incoming[Any]) -> str:
        who = name, message.id
        again = who in self._tried
        self._tried.add(who)
        if database.struck is not None:
            return FAULTS[database.struck]
        if isinstance(message.record, StoredRecord):
            return "none" if message.record.topic == TIMERS else "retried when parked"
        if again:
            return "handled again"
        return "late" if id(message.record) in self._held_back else "none"

    def _deliver(self, node: Node, batch: Sequence[BusRecord]) -> None:
        delayed = node.consumer.delayed
        self._held_back = {id(record) for record in batch if (record.topic, record.partition) in delayed}
        super()._deliver(node, batch)


def _name(service: Service, model: type[Message]) -> str:
    return f"{service.principal} {model.TYPE.removeprefix('popfax.')}"


def _state(state: Any, message: Incoming[Any]) -> str:
    """Return the states of the rows that a message names, table by table; a row without a state just exists."""
    values = (getattr(message.body, name) for name in message.body.model_fields_set)
    named = [value for value in values if isinstance(value, UUID | str)]
    found = []
    for table, rows in _tables(state):
        for key in named:
            if (row := rows._now.get(key)) is not None:
                found.append(f"{table}: {_state_of(row)}")
    return ", ".join(sorted(set(found))) or "nothing yet"


def _tables(state: Any) -> Iterator[tuple[str, Rows[Any, Any]]]:
    for each in fields(state):
        if isinstance(rows := getattr(state, each.name), Rows):
            yield each.name, rows


def _state_of(row: Any) -> str:
    status, step = getattr(row, "status", None) or getattr(row, "state", None), getattr(row, "step", None)
    told = getattr(status, "value", "there")
    return f"{told} ({step})" if step else str(told)


# --- the weights ------------------------------------------------------------------------------------------------------


def weights(covered: Mapping[Cell, int], led: Mapping[str, Mapping[str, int]]) -> list[float]:
    """Return the commands' weights: those weigh more that lead to handlers with many rare cells, as few others do.

    `led` says how often what an entry of the table sent has led to each handler, at once or through other services. An
    entry's pull is how many of their rare cells are its share, for as often as it is sent; one that only repeats what
    others sent has none.
    """
    rare = _rare(covered)
    called = Counter[str]()
    for handlers in led.values():
        called.update(handlers)
    pulls = {}
    for plain, make in COMMANDS:
        shares = (rare[handler] * count / called[handler] for handler, count in led.get(make.__name__, {}).items())
        pulls[make.__name__] = sum(shares) / plain
    most = max(pulls.values(), default=0)
    if not most:
        return [*PLAIN]
    return [round(plain * (1 + (MOST - 1) * pulls[make.__name__] / most), 3) for plain, make in COMMANDS]


def _rare(covered: Mapping[Cell, int]) -> Counter[str]:
    """Return how many cells of each handler, in the states that were seen, are rare or were never visited."""
    found = Counter[str]()
    for (handler, _), by_fault in _by_state(covered).items():
        found[handler] += sum(by_fault[fault] < RARE for fault in ALL_FAULTS)
    return found


def _by_state(covered: Mapping[Cell, int]) -> dict[tuple[str, str], Counter[str]]:
    found: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for (handler, state, fault), count in covered.items():
        found[handler, state][fault] += count
    return found


# --- the file ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Progressed:
    """How far a campaign has got: what its file says."""

    path: Path
    covered: Counter[Cell] = field(default_factory=Counter)
    findings: dict[int, list[str]] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    """The first seeds of the chunks that have been run."""
    weights: dict[int, list[float]] = field(default_factory=dict)
    """By the first seed of a round."""
    led: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @classmethod
    def read(cls, path: Path) -> "Progressed":
        """Read a file; the line in which a campaign was interrupted is passed over, and its chunk run again."""
        made = cls(path)
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    told = json.loads(line)
                except ValueError:
                    continue
                made.take(told)
        return made

    def take(self, told: Mapping[str, Any]) -> None:
        """Add what a line says."""
        if "weights" in told:
            self.weights[told["round"]] = told["weights"]
            return
        self.done.add(told["chunk"])
        self.findings |= {int(seed): found for seed, found in told["findings"].items()}
        for handler, state, fault, count in told["covered"]:
            self.covered[handler, state, fault] += count
        for entry, handlers in told["led"].items():
            self.led[entry].update(handlers)

    def write(self, told: Mapping[str, Any]) -> None:
        """Add a line to the file, and what it says."""
        with self.path.open("a") as file:
            file.write(json.dumps(told) + "\n")
        self.take(told)

    def weights_of(self, seed: int) -> list[float]:
        """Return the weights with which a seed was run. Raises `KeyError` if it was not."""
        return self.weights[seed - seed % ROUND]


def run_chunk(first: int, seeds: int, given: Sequence[float]) -> dict[str, Any]:
    """Run so many seeds, and return what the file is to say of them."""
    covered: Counter[Cell] = Counter()
    findings: dict[int, list[str]] = {}
    led: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for seed in range(first, first + seeds):
        world = CoveredWorld(seed, given)
        if found := world.run():
            findings[seed] = found
        covered.update(world.covered)
        for entry, handlers in world.led.items():
            led[entry].update(handlers)
    return {
        "chunk": first,
        "findings": findings,
        "covered": [[*cell, count] for cell, count in sorted(covered.items())],
        "led": led,
    }


def campaign(path: Path, seeds: int, jobs: int, console: Console) -> Progressed:
    """Run all seeds that the file does not have yet, and return what it says then."""
    told = Progressed.read(path)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress, processes(jobs) as side_by_side:
        bar = progress.add_task("seeds", total=seeds, completed=min(len(told.done) * CHUNK, seeds))
        for begins in range(0, seeds, ROUND):
            chunks = [at for at in range(begins, min(begins + ROUND, seeds), CHUNK) if at not in told.done]
            if begins not in told.weights:
                told.write({"round": begins, "weights": weights(told.covered, told.led)})
            run = partial(run_chunk, seeds=CHUNK, given=told.weights[begins])
            for line in side_by_side(run, chunks):
                told.write(line)
                found = f", {len(told.findings)} find something" if told.findings else ""
                progress.update(bar, advance=CHUNK, description=f"seeds ({len(told.covered)} cells{found})")
    return told


@contextmanager
def processes(jobs: int) -> Iterator[Callable[[Callable[[int], Any], Sequence[int]], Iterable[Any]]]:
    """Yield `map` for so many processes; one is this one."""
    if jobs == 1:
        yield map
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=silence_logs) as pool:
        yield pool.map


# --- the report -------------------------------------------------------------------------------------------------------


def never_called(covered: Mapping[Cell, int]) -> list[str]:
    """Return the handlers that no seed has reached."""
    every = {
        f"{service.principal} {model.TYPE.removeprefix('popfax.')}"
        for service in SERVICES
        for model in service.handlers
    }
    return sorted(every - {handler for handler, _, _ in covered})


def report(told: Progressed, console: Console) -> None:
    """Print what was covered, handler by handler, and what was never visited."""
    by_state = _by_state(told.covered)
    states: defaultdict[str, list[Counter[str]]] = defaultdict(list)
    missing: list[tuple[str, str, list[str]]] = []
    for (handler, state), faults in sorted(by_state.items()):
        states[handler].append(faults)
        if lacks := [fault for fault in ALL_FAULTS if not faults[fault]]:
            missing.append((handler, state, lacks))
    table = Table("handler", "states", "visited", "of", box=None, title="what was covered", title_justify="left")
    for handler, of_states in sorted(states.items()):
        visited = sum(fault in faults for faults in of_states for fault in ALL_FAULTS)
        table.add_row(handler, str(len(of_states)), str(visited), str(len(of_states) * len(ALL_FAULTS)))
    console.print(table)
    lacking = Table("handler", "state", "without", box=None, title="never visited", title_justify="left")
    for handler in never_called(told.covered):
        lacking.add_row(handler, "[bold]never called[/]", "")
    for handler, state, lacks in missing:
        lacking.add_row(handler, state, ", ".join(lacks))
    console.print(lacking)
    all_cells = len(by_state) * len(ALL_FAULTS)
    console.print(f"{len(told.done) * CHUNK} seeds, {len(told.covered)} of {all_cells} cells", highlight=False)
    for seed, findings in sorted(told.findings.items()):
        console.print(f"[bold red]{seed}[/]", *findings, sep="\n    ", highlight=False)
    console.print(f"{len(told.findings)} seeds find something", highlight=False)


def main(
    arguments: Sequence[str], console: Console, replay: Callable[[int, Callable[[Tell], World]], list[str]]
) -> int:
    """Run a campaign, or tell one of its seeds again; return 1 if anything was found."""
    parser = ArgumentParser("python -m tests.simulation campaign", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=ROUND, help="run the seeds from 0 up to here")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--resume", type=Path, required=True, help="the campaign's file")
    parser.add_argument("--replay", type=int, metavar="SEED", help="tell this seed of the campaign again")
    given = parser.parse_args(arguments)
    if given.replay is not None:
        made = partial(CoveredWorld, given.replay, Progressed.read(given.resume).weights_of(given.replay))
        return 1 if replay(given.replay, lambda tell: made(tell=tell)) else 0
    told = campaign(given.resume, given.seeds, given.jobs, console)
    report(told, console)
    return 1 if told.findings else 0
