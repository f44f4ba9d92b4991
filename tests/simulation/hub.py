"""Processes that run in one, under a seed: each has a loop and threads of its own, all share a virtual clock.

Time passes only when nobody has anything to do, and then at once to the next moment for which something waits. Whose
turn it is is the seed's choice, so is how long anything takes on the network; within a process, order is asyncio's.
A process can be frozen anywhere between two of its steps, and goes on there, however late: what has arrived meanwhile
is in its buffers, and all its timers are over. This is how FoundationDB and madsim test; here the code under test is
unchanged, with asyncio's loop and `threading.Thread` replaced, which greenlets make possible.
"""

import asyncio
import threading
from asyncio import events
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]  # it comes with sqlalchemy[asyncio]

from services.chassis.service import Moment

T = TypeVar("T")

BEGINNING = datetime(2031, 1, 1, tzinfo=UTC)
BEGUN_S = 1000.0
"""What the clock shows at the beginning: code that subtracts from it should not meet anything negative."""

FAR_S = 1e9
STEPS = 400_000
"""The most steps of a run: one that takes more hangs in a loop in which no time passes."""

UNWINDS_IN = 50
"""The most steps in which a dead process' tasks are unwound."""


class Hangs(Exception):
    """No end of steps is in sight."""


class _Sockets:
    """The sockets of a loop that has none: nothing is ever waited for."""

    def select(self, _: float | None) -> list[Any]:
        return []

    def close(self) -> None:
        pass


class Loop(asyncio.BaseEventLoop):
    """asyncio's own loop, by the hub's clock."""

    def __init__(self, process: "Process") -> None:
        super().__init__()
        self._process = process
        self._selector = _Sockets()
        self.readers: dict[int, Callable[[], None]] = {}

    def time(self) -> float:
        return self._process.hub.now

    def call_soon(self, *arguments: Any, **context: Any) -> asyncio.Handle:  # type: ignore[override]
        self._process.is_wanted_at(0.0)
        return super().call_soon(*arguments, **context)

    def call_at(self, when: float, *arguments: Any, **context: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        self._process.is_wanted_at(when)
        return super().call_at(when, *arguments, **context)

    def call_soon_threadsafe(self, *arguments: Any, **context: Any) -> asyncio.Handle:  # type: ignore[override]
        return self.call_soon(*arguments, **context)

    def add_reader(self, fd: int, callback: Callable[[], None], *_: Any) -> None:  # type: ignore[override]
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> bool:  # type: ignore[override]
        return self.readers.pop(fd, None) is not None

    async def create_connection(self, made: Callable[[], Any], *_: Any, **given: Any) -> Any:  # type: ignore[override]
        """Connect to what listens there. Raises `ConnectionRefusedError`."""
        if (listens := self._process.hub.listening.get((given["host"], given["port"]))) is None:
            raise ConnectionRefusedError
        return await listens(self._process, made)

    def run_in_executor(self, _: Any, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Call a function at once, as if a thread had taken no time."""
        done = self.create_future()
        done.set_result(function(*arguments))
        return done

    def _process_events(self, _: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    @property
    def next_at(self) -> float:
        """Return when it has something to do next."""
        if self._ready:  # type: ignore[attr-defined]
            return 0.0
        scheduled = self._scheduled  # type: ignore[attr-defined]
        return scheduled[0].when() if scheduled else FAR_S

    def step(self) -> None:
        """Run what is due, once."""
        before = events._get_running_loop()
        self._thread_id = threading.get_ident()
        events._set_running_loop(self)
        try:
            self._run_once()  # type: ignore[attr-defined]
        finally:
            self._thread_id = None  # type: ignore[assignment]
            events._set_running_loop(before)


class Thread:
    """A thread of a process, in place of `threading.Thread`: it runs until it waits for something."""

    def __init__(self, process: "Process", target: Callable[[], None]) -> None:
        self._process = process
        self._greenlet = greenlet(target)
        self._wakes_at = FAR_S
        self._until: Callable[[], object] = lambda: False

    def start(self) -> None:
        self._wakes_at = self._process.hub.now
        self._process.threads.append(self)
        self._process.is_wanted_at(0.0)

    def is_alive(self) -> bool:
        return not self._greenlet.dead

    @property
    def next_at(self) -> float:
        """Return when it goes on, as far as is known now."""
        if self._greenlet.dead:
            return FAR_S
        return 0.0 if self._until() else self._wakes_at

    def step(self) -> None:
        """Go on."""
        self._greenlet.switch()

    def end(self) -> None:
        """Unwind it."""
        if not self._greenlet.dead:
            self._greenlet.throw()

    def wait(self, until: Callable[[], object], seconds: float = FAR_S) -> None:
        """Wait for a condition, at most for so long; called from within the thread."""
        assert getcurrent() is self._greenlet
        self._wakes_at, self._until = self._process.hub.now + seconds, until
        assert self._greenlet.parent is not None
        self._greenlet.parent.switch()


class Process:
    """An operating system's process: a loop and its threads, which can be frozen and killed together."""

    def __init__(self, hub: "Hub", name: str) -> None:
        self.hub = hub
        self.name = name
        self.loop = Loop(self)
        self.loop.set_exception_handler(self._failed)
        self.threads: list[Thread] = []
        self._begun: list[asyncio.Task[Any]] = []
        """Its tasks, which nothing else holds once it is dead, and which are still to be unwound then."""
        self.due_at = FAR_S
        """When it has something to do next; kept, since the hub looks at it at every step."""
        self._frozen_until = 0.0
        self._freezes = 0, 0.0
        self.dead = False
        self.on_death: list[Callable[[], None]] = []
        """What the system does for it when it dies: it closes its connections."""
        hub.processes.append(self)

    @property
    def frozen_until(self) -> float:
        """Return the end of its last freeze."""
        return self._frozen_until

    def _failed(self, _: Any, context: dict[str, Any]) -> None:
        if not self.dead:
            self.hub.failures.append(f"{self.name}: {context.get('exception') or context['message']!r}")

    def post(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call something in the process' loop, unless it is dead: what arrives at a frozen one waits."""
        if not self.dead:
            self.loop.call_soon(function, *arguments)

    def start(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Begin with a task."""
        self.post(lambda: self._begun.append(self.loop.create_task(work())))

    def freeze(self, seconds: float, in_steps: int = 0) -> None:
        """Freeze it, as SIGSTOP does, and let it go on after so many seconds.

        A moment between two of its steps is where it is at work; one in time is mostly one in which it rests.
        """
        self._freezes = in_steps, seconds
        if in_steps:
            return
        self._frozen_until = max(self._frozen_until, self.hub.now + seconds)
        self._look()

    def spare(self) -> None:
        """Take back a freeze that has not begun; one that has lasts on."""
        self._freezes = 0, 0.0

    def kill(self) -> None:
        """End it, as SIGKILL does: no line of it is run any more."""
        if not self.dead:
            self.dead, self.due_at = True, FAR_S
            for close in self.on_death:
                close()

    def is_wanted_at(self, when: float) -> None:
        """Note that it has something to do then."""
        if when < self.due_at and not self.dead:
            self.due_at = max(when, self._frozen_until)

    def _look(self) -> None:
        """Look when it has something to do next."""
        if self.dead:
            return
        at = self.loop.next_at
        for thread in self.threads:
            at = min(at, thread.next_at)
        self.due_at = max(at, self._frozen_until)

    def step(self) -> None:
        """Take one step of its loop or of one of its threads."""
        now = self.hub.now
        due: list[Loop | Thread] = [self.loop] if self.loop.next_at <= now else []
        due += [thread for thread in self.threads if thread.next_at <= now]
        before, self.hub.current = self.hub.current, self
        try:
            (due[0] if len(due) == 1 else self.hub.random.choice(due)).step()
        finally:
            self.hub.current = before
            self._look()
        steps, seconds = self._freezes
        if steps:
            self.freeze(seconds, steps - 1)

    def clean_up(self) -> None:
        """Unwind what it was doing: nothing of that is heard any more, since it is dead."""
        before, self.hub.current = self.hub.current, self
        for thread in self.threads:
            thread.end()
        for _ in range(UNWINDS_IN):
            if not (tasks := asyncio.all_tasks(self.loop)):
                break
            for task in tasks:
                task.cancel()
            self.loop.step()
        self.hub.current = before
        self.loop.close()


class Hub:
    """The virtual clock, the processes, and whatever is on its way between them."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.now = BEGUN_S
        self.beginning = BEGINNING
        self.processes: list[Process] = []
        self.failures: list[str] = []
        self.current: Process | None = None
        self.steps = 0
        self.listening: dict[tuple[str, int], Callable[[Process, Callable[[], Any]], Coroutine[Any, Any, Any]]] = {}
        """What connects a process to a host and port."""
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def after(self, seconds: float, happens: Callable[[], None]) -> None:
        """Have something happen outside of all processes, later."""
        self.at(self.now + seconds, happens)

    def at(self, moment: float, happens: Callable[[], None]) -> None:
        """Have something happen at a moment: of one moment, in the order in which it was asked for."""
        heappush(self._coming, (moment, next(self._numbers), happens))

    def latency(self) -> float:
        """Return how long something takes on the network, in seconds: mostly a millisecond, sometimes much longer."""
        chance = self.random.random()
        if chance < 0.9:
            return 0.0005 + chance * 0.002
        return 0.05 * self.random.random() if chance < 0.995 else self.random.random()

    def time(self) -> float:
        """Return the present moment in seconds: `time.monotonic`, and `time.time` as well."""
        return self.now

    def date(self) -> datetime:
        """Return the present moment."""
        return self.beginning + timedelta(seconds=self.now)

    def skip(self, time: timedelta) -> None:
        """Set all clocks forward: hours or weeks in which nothing happened, though no wait is any shorter."""
        self.beginning += time

    def run(self, seconds: float, done: Callable[[], object] = lambda: False) -> bool:
        """Let so much time pass, or less if something is done first; return whether it is."""
        until = self.now + seconds
        while not done():
            due: list[Process | None] = [each for each in self.processes if each.due_at <= self.now]
            coming = self._coming[0][0] if self._coming else FAR_S
            if coming <= self.now:
                due.append(None)
            if due:
                self._step(due)
                continue
            at = min(coming, *(process.due_at for process in self.processes))
            if at > until:
                self.now = until
                return bool(done())
            self.now = at
        return True

    def _step(self, due: "Sequence[Process | None]") -> None:
        self.steps += 1
        if self.steps > STEPS:
            raise Hangs(", ".join(each.name for each in due if each is not None))
        chosen = due[0] if len(due) == 1 else due[int(self.random.random() * len(due))]
        if chosen is None:
            heappop(self._coming)[2]()
        else:
            chosen.step()

    def end(self) -> None:
        """Kill all processes, and forget them."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.clean_up()


class HubClock:
    """The shell's clock in a simulated process."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def moment(self) -> Moment:
        """Return the present moment."""
        return Moment(self._hub.date(), self._hub.random.randbytes)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class VirtualTime:
    """The module `time`, as far as the chassis uses it."""

    def __init__(self, hub: Hub) -> None:
        self.monotonic = self.time = self.perf_counter = hub.time


class VirtualThreading:
    """The module `threading`, as far as the consumer uses it."""

    Event = threading.Event

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def Thread(self, target: Callable[[], None], name: str, daemon: bool) -> Thread:  # noqa: N802 (as there)
        """Return a thread of the process that is running."""
        assert self._hub.current is not None
        return Thread(self._hub.current, target)
