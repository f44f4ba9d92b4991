"""How long rules wait. A test divides every duration in them by a factor, and changes nothing else.

Durations are written as PromQL has them: `[5m]`, and also where an age is compared: `> 5m`, which Prometheus reads only
from version 3 on, so that it becomes a number of seconds.
"""

import re
from dataclasses import dataclass

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

_RANGE = re.compile(r"\[(\d+[smhd])\]")
_COMPARED = re.compile(r"([<>]=? )(\d+[smhd])\b")


def seconds(duration: str) -> int:
    """Return a duration such as `5m` in seconds."""
    return int(duration[:-1]) * _SECONDS[duration[-1]]


@dataclass(frozen=True, slots=True)
class Pace:
    """By which factor every duration is shorter than in production."""

    factor: int = 1

    def duration(self, text: str) -> str:
        """Return a duration as Prometheus has to be told it."""
        return text if self.factor == 1 else f"{round(1000 * self._seconds(text))}ms"

    def expression(self, text: str) -> str:
        """Return an expression with its ranges, and the ages that it compares with, at this pace."""
        ranged = _RANGE.sub(lambda match: f"[{self.duration(match[1])}]", text)
        return _COMPARED.sub(lambda match: f"{match[1]}{self._seconds(match[2]):g}", ranged)

    def _seconds(self, text: str) -> float:
        return seconds(text) / self.factor
