"""The order of the measurements in a run, how long each takes, and how far a run has come."""

import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tests.bench.measures import hops, idle, mails, page, replicas, sagas, trace, transfers
from tests.bench.running import Bench
from tests.bench.sizes import Sizes

Figures: TypeAlias = dict[str, Any]
Measure: TypeAlias = Callable[[Bench, Figures], Awaitable[Figures]]


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement. It is given what was measured before, and returns what it adds."""

    title: str
    about_s: float
    measure: Measure
    may_be_left_out: bool = True


def steps(sizes: Sizes) -> list[Step]:
    """Return a run's measurements on one product, in order."""
    steady = [_steady(str(rate), rate, sizes) for rate in sizes.rates]
    return [
        Step("owners and a warm-up", 6 + sizes.warm_up / 600, _prepared, may_be_left_out=False),
        Step(f"idle for {sizes.idle_s} s", sizes.idle_s + 4, _alone(idle.idle)),
        Step(f"{sizes.sagas:,} sagas at full speed", sizes.sagas / 1200 + 6, _alone(sagas.full_speed)),
        *steady,
        _steady(sagas.HALF, 0, sizes),
        Step("a saga's hops, read off Kafka", sizes.steady_s / 2 + 6, _alone(trace.trace)),
        Step("all sagas on one account", sizes.one_account / 400 + 8, _alone(sagas.one_account)),
        Step(f"the page while {sizes.page_rate} sagas/s run", sizes.page_s * 1.5 + 16, _alone(page.page)),
        Step("mails beside sagas, one sender", sizes.mail_sagas / 600 + 10, _mails("one", 1)),
        Step("mails beside sagas, two senders", sizes.mail_sagas / 600 + 14, _mails("two", 2)),
        Step("a second replica of each service", sizes.replica_sagas / 400 + 30, _alone(replicas.replicas)),
        Step(f"{sizes.transfers:,} transfers", sizes.transfers / 5000 + 12, _alone(transfers.transfers)),
        Step("mails alone", sizes.mails_s + 6, _mails_alone),
    ]


PROFILE = "CPU by service and phase, and by statement"


def profile_steps(sizes: Sizes) -> list[Step]:
    """Return what is measured on a product whose services are profiled."""
    return [
        Step("owners and a warm-up", 6 + sizes.warm_up / 600, _prepared),
        Step(PROFILE, sizes.steady_s + sizes.sagas / 2400 + 12, _profiled),
    ]


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
        yield
        self._expected_s += about_s

    def remaining(self) -> str:
        """Return how long the rest takes, if it goes on as it has gone so far."""
        passed = time.monotonic() - self._began
        pace = passed / self._expected_s if self._expected_s > 30 else 1.0
        minutes, seconds = divmod(round(max(self.total_s - self._expected_s, 0) * pace), 60)
        return f"about {minutes} min {seconds:02} s to go"


async def measured(bench: Bench, planned: Sequence[Step], progress: Progress) -> Figures:
    """Take each step, and return all figures."""
    figures: Figures = {}
    for step in planned:
        with progress.doing(step.title, step.about_s):
            figures |= await step.measure(bench, figures)
    return figures
