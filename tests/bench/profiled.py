"""A service with its phases timed, for the bench alone: `python -m tests.bench.profiled SERVICE DIRECTORY`.

The service is the same, and nothing in it is replaced. A thread beside it wakes every few milliseconds and looks in
which phase the event loop's thread is (`phases`), if it is at work. The CPU time of that thread, read off its clock, is
then divided by how often each phase was seen; that of the consumer's thread and of librdkafka's threads is read off
theirs. So the parts are CPU time, not wall time, and their sum is that of the process.

What it costs is small and known: the sampler's CPU is a figure beside the others. For its sake a thread that wants to
run waits 0.2 ms at most, not 5 ms: else each look would come where the event loop's thread waits for something, anyway.
"""

from services.chassis.early_exit import exit_on_signal

if __name__ == "__main__":
    exit_on_signal()  # as in a service's app

import importlib
import json
import random
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from tests.bench.phases import ALL, CLIENT, FETCH, phase_of

INTERVAL_S = 0.005
SWITCH_S = 0.0002
WRITTEN_S = 0.1
"""How often what was seen is written to the file from which the bench reads it."""

SAMPLER = "sampler"
"""The name of the sampler's own CPU time beside the phases."""

_LOOP = ("/uvloop/__init__.py", "/asyncio/runners.py")
"""Where a stack ends while the event loop, which has no frames of its own, polls or works."""

CONSUMER = "consumer"
"""The name of the consumer's thread."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen since the process began: CPU times in seconds, and how often each phase was seen."""

    process_s: float
    loop_s: float
    consumer_s: float
    sampler_s: float
    looks: Mapping[str, int]

    def booked_since(self, before: "Seen") -> dict[str, float]:
        """Return the CPU seconds of each phase between two moments."""
        loop_s = self.loop_s - before.loop_s
        consumer_s, sampler_s = self.consumer_s - before.consumer_s, self.sampler_s - before.sampler_s
        looks = {phase: count - before.looks.get(phase, 0) for phase, count in self.looks.items()}
        each_s = loop_s / max(sum(looks.values()), 1)
        booked = {phase: looks.get(phase, 0) * each_s for phase in ALL}
        booked[FETCH] += consumer_s
        booked[CLIENT] += self.process_s - before.process_s - loop_s - consumer_s - sampler_s
        return booked | {SAMPLER: sampler_s}


def phases_file(directory: Path, name: str) -> Path:
    """Return where a service's sampler writes."""
    return directory / f"{name}.phases.json"


def read(file: Path) -> Seen:
    """Return what a service's sampler has written."""
    return Seen(**json.loads(file.read_text()))


class Sampler(threading.Thread):
    """Looks at the main thread, which runs the event loop, until the process ends."""

    def __init__(self, file: Path) -> None:
        super().__init__(name=SAMPLER, daemon=True)
        self._file = file
        self._looks: dict[str, int] = dict.fromkeys(ALL, 0)
        self._loop = threading.main_thread()
        assert self._loop.ident is not None
        self._loop_ident = self._loop.ident

    def run(self) -> None:
        """Look, and write what was seen now and then."""
        written = 0.0
        while True:
            time.sleep(INTERVAL_S * random.uniform(0.5, 1.5))  # else it might keep step with what it looks at
            self.look()
            if (now := time.monotonic()) > written + WRITTEN_S:
                written = now
                self._write()

    def look(self) -> None:
        """Count the phase that the loop's thread is in, unless it sleeps."""
        frame = sys._current_frames()[self._loop_ident]
        if not _is_in_the_loop(frame) or self._runs():
            self._looks[phase_of(frame)] += 1

    def seen(self) -> Seen:
        """Return what was seen so far; to be called in the sampler's thread."""
        consumers = [thread for thread in threading.enumerate() if thread.name == CONSUMER]
        consumer_s = sum(_cpu_s(thread) for thread in consumers)
        return Seen(time.process_time(), _cpu_s(self._loop), consumer_s, time.thread_time(), dict(self._looks))

    def _runs(self) -> bool:
        """Return whether the loop's thread is on a core: from its stack, polling and working look the same."""
        before = _cpu_s(self._loop)
        time.sleep(0)
        return _cpu_s(self._loop) > before

    def _write(self) -> None:
        unfinished = self._file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(asdict(self.seen())))
        unfinished.replace(self._file)


def _is_in_the_loop(frame: FrameType) -> bool:
    """Return whether a stack ends in the event loop itself, not in what it has called."""
    return frame.f_code.co_filename.endswith(_LOOP)


def _cpu_s(thread: threading.Thread) -> float:
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def main() -> None:
    """Run the service, and the sampler beside it."""
    service, directory = sys.argv[1], Path(sys.argv[2])
    app = importlib.import_module(f"services.{service}.app")
    sys.setswitchinterval(SWITCH_S)
    Sampler(phases_file(directory, service)).start()
    app.main()


if __name__ == "__main__":
    main()
