"""What a run has shown, for people to read, and as a row of the table in docs/testing.md."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import quantiles

from rich.console import Console
from rich.table import Table

from deploy.operator.invariants import Logged, logged
from popfax_contracts.catalogue import COMMANDS
from tests.e2e.driver import Seen
from tests.nemesis.history import Entry
from tests.nemesis.judges import Breach
from tests.nemesis.schedule import Planned

AFTERMATH_S = 15.0
"""How long after its end a fault still counts as the reason why something waits."""

HEAD = (
    "| seed | minutes | commands | faults | p50 / p99 in calm | p50 / p99 in faults | settled after | violations |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault that took place."""

    planned: Planned
    begun_at: float
    ended_at: float
    """In seconds since 1970."""
    skipped: str = ""
    """Why it did not take place after all."""


class Answers:
    """Follows commands on the topics, until each has its outcome."""

    def __init__(self) -> None:
        self.asked: dict[str, tuple[str, float]] = {}
        """The type of each readable command by its id, and when it was appended to its topic."""
        self.waited_s: dict[str, float] = {}
        self._early: defaultdict[str, list[tuple[Logged, float]]] = defaultdict(list)
        """What was read of a command before the command: there is no order between partitions."""
        self._read = 0

    def follow(self, records: Sequence[Seen], ours: Mapping[str, str]) -> None:
        """Look at the records that are new. `ours` are the types of what was sent, by its id."""
        for seen in records[self._read :]:
            record = logged(seen)
            if record is None:
                continue
            if record.id in ours and record.type in COMMANDS and record.causation_id is None:
                self.asked.setdefault(record.id, (record.type, seen.at))
                for earlier, at in self._early.pop(record.id, ()):
                    self._answered(earlier, at)
            elif record.correlation_id in self.asked:
                self._answered(record, seen.at)
            elif record.correlation_id in ours:
                self._early[record.correlation_id].append((record, seen.at))
        self._read = len(records)

    def _answered(self, record: Logged, at: float) -> None:
        type_, asked_at = self.asked[record.correlation_id]
        if _answers(record, type_):
            self.waited_s.setdefault(record.correlation_id, max(0.0, at - asked_at))

    def by_type(self) -> Counter[str]:
        """Return how many commands of each type were answered."""
        return Counter(self.asked[id_][0] for id_ in self.waited_s)


def _answers(record: Logged, type_: str) -> bool:
    outcomes = {model.TYPE for model in COMMANDS[type_].outcomes()}
    return record.type in outcomes or record.type.endswith("command-malformed.v1")


@dataclass(slots=True)
class Result:
    """All that is known at the end of a run."""

    seed: int
    minutes: float
    sent: int
    acknowledged: int
    not_taken: Counter[str]
    replaced: int
    """How many of the load's clients were replaced, because they delivered nothing."""
    answers: Answers
    api: Counter[str]
    struck: Sequence[Struck]
    ended: Mapping[str, int]
    """How often each replica has ended by itself."""
    settled_s: float
    uncertain_mails: int
    mails: int
    breaches: Sequence[Breach]
    histories: Mapping[str, Sequence[Entry]] = field(default_factory=dict)

    @property
    def took_place(self) -> list[Struck]:
        """Return the faults that were not skipped."""
        return [each for each in self.struck if not each.skipped]

    def waits(self) -> tuple[list[float], list[float]]:
        """Return how long commands waited for their outcome: those sent in calm, and those sent in faults."""
        periods = [(each.begun_at, each.ended_at + AFTERMATH_S) for each in self.took_place]
        calm: list[float] = []
        faulty: list[float] = []
        for id_, waited in self.answers.waited_s.items():
            at = self.answers.asked[id_][1]
            (faulty if any(begin <= at + waited and at <= end for begin, end in periods) else calm).append(waited)
        return calm, faulty

    def row(self) -> str:
        """Return the run as a row of the table in the document."""
        calm, faulty = map(percentiles, self.waits())
        cells = [self.seed, f"{self.minutes:g}", f"{len(self.answers.asked):,}", len(self.took_place), calm, faulty]
        return f"| {' | '.join(map(str, [*cells, f'{self.settled_s:.0f} s', len(self.breaches)]))} |"


def percentiles(waits: Sequence[float]) -> str:
    """Return the median and the 99th percentile of waits, in seconds, as text."""
    if len(waits) < 2:
        return "-"
    cuts = quantiles(waits, n=100, method="inclusive")
    return f"{cuts[49]:.2f} / {cuts[98]:.1f} s"


def bound(faults: int) -> str:
    """Say what no violation in so many faults shows: the rule of three."""
    most = min(1.0, 3 / faults)
    return f"no violation in {faults} faults: with 95 % confidence, fewer than {most:.1%} of them cause one"


def print_report(result: Result, console: Console) -> None:
    """Print what happened, and what is broken with its history."""
    console.print(_faults(result.struck, f"seed {result.seed}, {result.minutes:g} minutes"))
    for each in result.struck:
        if each.skipped:
            console.print(f"[yellow]skipped:[/] {each.planned}: {each.skipped}", highlight=False, soft_wrap=True)
    console.print(_commands(result))
    calm, faulty = result.waits()
    for name, waits in (("in calm", calm), ("in faults", faulty)):
        console.print(f"time to the outcome {name}, p50 / p99: {percentiles(waits)} of {len(waits):,}")
    console.print(
        f"{result.sent:,} records sent, {result.acknowledged:,} messages acknowledged"
        + (f", not taken: {_listed(result.not_taken)}" if result.not_taken else "")
        + (f", clients replaced: {result.replaced}" if result.replaced else "")
    )
    console.print(f"API: {_listed(result.api)}")
    console.print(f"{result.mails:,} mails sent, {result.uncertain_mails:,} of them uncertain at some time")
    if any(result.ended.values()):
        console.print(f"ended by themselves and were started again: {_listed(Counter(result.ended))}")
    console.print(f"all had settled {result.settled_s:.0f} s after the last fault")
    for breach in result.breaches:
        console.print(f"[bold red]✗[/] {breach}", highlight=False, soft_wrap=True)
        for entry in result.histories.get(breach.subject, ()):
            console.print(f"    {entry}", highlight=False, markup=False, soft_wrap=True)
    if result.breaches:
        console.print(f"[bold red]{len(result.breaches)} violations; the same again: SEED={result.seed}")
    elif result.took_place:
        console.print(f"[green]✓ {bound(len(result.took_place))}")


def print_campaign(results: Sequence[Result], console: Console) -> None:
    """Print what several runs have shown together: the rows of the document's table, and the faults of each kind."""
    struck = [each for result in results for each in result.struck]
    console.print(_faults(struck, f"{len(results)} runs, {sum(result.minutes for result in results):g} minutes"))
    took_place, violations = [each for each in struck if not each.skipped], sum(len(each.breaches) for each in results)
    console.print(f"[bold red]{violations} violations" if violations else f"[green]✓ {bound(max(1, len(took_place)))}")
    console.print(table(result.row() for result in results), highlight=False, markup=False, soft_wrap=True)


def _faults(struck: Sequence[Struck], title: str) -> Table:
    table = Table("fault", "times", "seconds", "skipped", title=title, box=None)
    for kind in sorted({each.planned.kind for each in struck}):
        of = [each for each in struck if each.planned.kind == kind]
        lasted = [each.ended_at - each.begun_at for each in of if not each.skipped]
        table.add_row(kind, f"{len(lasted)}", f"{sum(lasted):.0f}", f"{len(of) - len(lasted) or ''}")
    return table


def _commands(result: Result) -> Table:
    asked = Counter(type_ for type_, _ in result.answers.asked.values())
    answered = result.answers.by_type()
    table = Table("command", "sent", "answered under its own id", box=None)
    for type_, count in sorted(asked.items()):
        table.add_row(type_.removeprefix("popfax."), f"{count:,}", f"{answered[type_]:,}")
    return table


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()) if count)


def table(rows: Iterable[str]) -> str:
    """Return rows with the table's head."""
    return "\n".join([HEAD, *rows])
