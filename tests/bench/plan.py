"""The order of the measurements in a run, how long each takes, and how far a run has come."""

import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from tests.bench.measures import growth, hops, idle, mails, page, replicas, room, sagas, trace, transfers, yardstick
from tests.bench.running import Bench, StackOf, plain_stack
from tests.bench.sizes import Sizes

Figures: TypeAlias = dict[str, Any]
FAILED = "failed"
"""The name of the titles of steps that raised."""

START_S = 18.0
"""About how long a product takes to start and to stop."""

Measure: TypeAlias = Callable[[Bench, Figures], Awaitable[Figures]]


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement. It is given what was measured before, and returns what it adds."""

    title: str
    about_s: float
    measure: Measure
    prepares: bool = False
    """Whether it measures nothing, but the others need it."""
    extra: bool = False
    """Whether the quick bench leaves it out."""


@dataclass(frozen=True, slots=True)
class Section:
    """Measurements on one product, in order, and what is special about that product."""

    title: str
    sizes: Sizes
    steps: Sequence[Step]
    stack_of: StackOf = plain_stack
    module: str = ""

    @property
    def about_s(self) -> float:
        """Return about how long it takes."""
        return START_S + sum(step.about_s for step in self.steps)

    def only(self, word: str) -> "Section":
        """Return it without the steps in whose titles a word is missing."""
        return replace(self, steps=[step for step in self.steps if step.prepares or word in step.title])

    def measures(self) -> bool:
        """Return whether there is anything to measure."""
        return not all(step.prepares for step in self.steps)


def main_section(sizes: Sizes) -> Section:
    """Return what every run measures."""
    steps = [
        _preparation(sizes),
        Step(f"idle for {sizes.idle_s} s", sizes.idle_s + 4, _alone(idle.idle)),
        Step(f"{sizes.sagas:,} sagas at full speed", sizes.sagas / 1200 + 6, _alone(sagas.full_speed)),
        *(_steady(str(rate), rate, sizes) for rate in sizes.rates),
        _steady(sagas.HALF, 0, sizes),
        Step("a saga's hops, read off Kafka", sizes.steady_s / 2 + 6, _alone(trace.trace), extra=True),
        Step("all sagas on one account", sizes.one_account / 400 + 8, _alone(sagas.one_account)),
        Step(f"the page while {sizes.page_rate} sagas/s run", sizes.page_s * 1.5 + 16, _alone(page.page)),
        Step("mails beside sagas, one sender", sizes.mail_sagas / 600 + 10, _mails("one", 1)),
        Step("mails beside sagas, two senders", sizes.mail_sagas / 600 + 14, _mails("two", 2), extra=True),
        Step("two replicas of each service", sizes.replica_sagas / 400 + 30, _alone(replicas.replicas), extra=True),
        Step(f"{sizes.transfers:,} transfers", sizes.transfers / 5000 + 12, _alone(transfers.transfers)),
        Step("mails alone", sizes.mails_s + 6, _mails_alone),
        Step("pgbench", sizes.pgbench_s + 3, _alone(yardstick.yardstick)),
    ]
    return Section("the product", sizes, [step for step in steps if not (step.extra and sizes.quick)])


def profile_section(sizes: Sizes) -> Section:
    """Return what is measured on a product whose services are profiled, once."""
    profile = Step("CPU by service and phase, and by statement", sizes.steady_s + sizes.sagas / 2400 + 12, _profiled)
    return Section("the product, profiled", sizes, [_preparation(sizes), profile], hops.stack, "tests.bench.profiled")


def large_section(sizes: Sizes) -> Section:
    """Return what is measured on a product with one large group, once."""
    title = f"the page of a large group while {sizes.large_page_rate} commands/s go through"
    step = Step(title, sizes.page_s * 2 + 45, _alone(page.large_page))
    return Section("a product with a large group", sizes, [_preparation(sizes), step])


def growth_section(sizes: Sizes) -> Section:
    """Return what is measured on a product whose databases are filled, once."""
    rows = sizes.grown_accounts * 15 + sizes.grown_inbox + sizes.grown_history
    title = f"growth to {sizes.grown_accounts:,} accounts"
    bytes_ = Step("bytes of a saga by table", sizes.room_sagas / 100 + 30, _alone(room.room))
    step = Step(title, rows / 120_000 + 90, _alone(growth.growth))
    return Section("a product to fill", sizes, [_preparation(sizes), bytes_, step])


def _preparation(sizes: Sizes) -> Step:
    return Step("owners and a warm-up", 6 + sizes.warm_up / 600, _prepared, prepares=True)


async def _profiled(bench: Bench, _: Figures) -> Figures:
    return {"hops": await hops.hops(bench)}


def _steady(name: str, rate: float, sizes: Sizes) -> Step:
    async def measure(bench: Bench, before: Figures) -> Figures:
        per_s = rate or before["full"]["sagas_per_s"] / 2
        return {"steady": {**before.get("steady", {}), name: await sagas.steady(bench, per_s)}}

    title = f"{rate:g} sagas/s" if rate else "half the full rate"
    return Step(title, max(sizes.steady_s, 50 / (rate or 50)) + 6, measure)


def _mails(name: str, senders: int) -> Measure:
    async def measure(bench: Bench, before: Figures) -> Figures:
        return {"mails": {**before.get("mails", {}), name: await mails.beside_sagas(bench, senders)}}

    return measure


async def _mails_alone(bench: Bench, before: Figures) -> Figures:
    return {"mails": {**before.get("mails", {}), "alone": await mails.alone(bench)}}


def _alone(measured: Callable[[Bench], Awaitable[Figures]]) -> Measure:
    async def measure(bench: Bench, _: Figures) -> Figures:
        return await measured(bench)

    return measure


async def _prepared(bench: Bench, _: Figures) -> Figures:
    await bench.prepare()
    return {}


@dataclass(slots=True)
class Progress:
    """Shows a person on stderr what is being done, what is done, and about how long the rest will take."""

    total_s: float
    _number: int = 0
    _began: float = field(default_factory=time.monotonic)
    _expected_s: float = 0.0

    @contextmanager
    def doing(self, title: str, about_s: float) -> Iterator[None]:
        """Tell that a step begins; when it ends, count what it was expected to take."""
        self._number += 1
        print(f"  {self._number:>2}. {title} … {self.remaining()}", file=sys.stderr, flush=True)
        try:
            yield
        finally:
            self._expected_s += about_s

    def remaining(self) -> str:
        """Return how long the rest takes, if it goes on as it has gone so far."""
        passed = time.monotonic() - self._began
        pace = passed / self._expected_s if self._expected_s > 30 else 1.0
        minutes, seconds = divmod(round(max(self.total_s - self._expected_s, 0) * pace), 60)
        return f"about {minutes} min {seconds:02} s to go"


async def measured(bench: Bench, steps: Sequence[Step], progress: Progress) -> Figures:
    """Take each step, and return all figures. A step that fails is told and named, and does not cost the others."""
    figures: Figures = {}
    for step in steps:
        try:
            with progress.doing(step.title, step.about_s):
                figures |= await step.measure(bench, figures)
        except Exception:
            if step.prepares:
                raise
            traceback.print_exc()
            figures.setdefault(FAILED, []).append(step.title)
    return figures
