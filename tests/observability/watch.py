"""Follows which alerts fire, since when and until when."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.observability.server import Prometheus

POLL_S = 0.2

Key = tuple[str, str]
"""An alert's name, and the job that it is about, empty if it is about none."""


class Watch:
    """Asks a Prometheus for its alerts until the block ends. Times are those of `time.monotonic`, in seconds."""

    def __init__(self, prometheus: Prometheus) -> None:
        self._prometheus = prometheus
        self._firing: dict[Key, float] = {}
        self._last: dict[Key, tuple[float, float]] = {}
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def await_firing(self, key: Key, since: float, timeout_s: float) -> float:
        """Wait until an alert has begun to fire after that moment; return when."""

        def fired() -> float | None:
            begun = self._firing.get(key) or self._last.get(key, (0.0, 0.0))[0]
            return begun if begun >= since else None

        return self._await(fired, f"{key} does not fire", timeout_s)

    def await_quiet(self, key: Key, timeout_s: float) -> float:
        """Wait until an alert does not fire; return since when, 0 if it never has."""

        def quiet() -> float | None:
            return None if key in self._firing else self._last.get(key, (0.0, 0.0))[1]

        return self._await(quiet, f"{key} goes on", timeout_s)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._thread.join()

    def _await(self, condition: Callable[[], float | None], otherwise: str, timeout_s: float) -> float:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while (found := condition()) is None:
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"{otherwise}, after {timeout_s:g} s; firing: {sorted(self._firing)}")
        return found

    def _run(self) -> None:
        while not self._ended:
            firing = {
                (each.name, each.labels.get("job", "")) for each in self._prometheus.alerts() if each.state == "firing"
            }
            now = time.monotonic()
            with self._changed:
                for key in firing - self._firing.keys():
                    self._firing[key] = now
                for key in self._firing.keys() - firing:
                    self._last[key] = self._firing.pop(key), now
                self._changed.notify_all()
            time.sleep(POLL_S)
