"""A service with its phases timed, for the bench alone: `python -m tests.bench.profiled SERVICE DIRECTORY`.

The service is the same, and nothing in it is replaced. A thread beside it wakes every few milliseconds, reads how much
CPU each Python thread has had since (`pthread_getcpuclockid`), and books that to the phase which the thread's stack is
in (`phases`). So the figures are CPU time, not wall time, and phases much shorter than the interval come out right on
average. Their sum is the process's own CPU time: what no Python thread used, librdkafka's threads did.

Its cost is small and known: the sampler's own CPU is a figure beside the others. For its sake a thread that wants to
run waits 0.2 ms at most, not 5 ms: else each sample would be taken where the service waits for something, anyway.
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
from pathlib import Path

from tests.bench.phases import ALL, CLIENT, REST, phase_of

INTERVAL_S = 0.004
SWITCH_S = 0.0002
WRITTEN_S = 0.25
"""How often the sums are written to the file from which the bench reads them."""

SAMPLER = "sampler"
"""The name of the sampler's own CPU time beside the phases."""


def phases_file(directory: Path, name: str) -> Path:
    """Return where a service's sums are."""
    return directory / f"{name}.phases.json"


class Sampler(threading.Thread):
    """Books the CPU time of this process's threads to phases, until the process ends."""

    def __init__(self, file: Path) -> None:
        super().__init__(name=SAMPLER, daemon=True)
        self._file = file
        self._spent: dict[str, float] = dict.fromkeys(ALL, 0.0)
        self._before: dict[int, float] = {}

    def run(self) -> None:
        """Sample, and write the sums now and then."""
        written = 0.0
        while True:
            time.sleep(INTERVAL_S * random.uniform(0.5, 1.5))  # else it might keep step with what it samples
            self.sample()
            if (now := time.monotonic()) > written + WRITTEN_S:
                written = now
                self._write()

    def sample(self) -> None:
        """Book what each thread has used since the last sample."""
        named = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if ident not in named or ident == threading.get_ident():
                continue
            used = time.clock_gettime(time.pthread_getcpuclockid(ident))
            since = used - self._before.get(ident, used)
            self._before[ident] = used
            if since > 0:
                phase = phase_of(frame, CLIENT if named[ident] == "consumer" else REST)
                self._spent[phase] += since

    def sums(self) -> dict[str, float]:
        """Return each phase's CPU seconds so far, the sampler's own among them."""
        own = time.thread_time()
        phases = dict(self._spent)
        rest = time.process_time() - sum(phases.values()) - own
        return phases | {CLIENT: phases[CLIENT] + rest, SAMPLER: own}

    def _write(self) -> None:
        unfinished = self._file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self.sums()))
        unfinished.replace(self._file)


def main() -> None:
    """Run the service, and the sampler beside it."""
    service, directory = sys.argv[1], Path(sys.argv[2])
    app = importlib.import_module(f"services.{service}.app")
    sys.setswitchinterval(SWITCH_S)
    Sampler(phases_file(directory, service)).start()
    app.main()


if __name__ == "__main__":
    main()
