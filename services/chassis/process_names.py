"""What a process calls itself in PostgreSQL's `application_name`, so that the database tells who works on it.

For example `popfax-ledger 0.3.0 worker a`: the service, its version, what the process does, and its replica's name or,
without one, its host and process id.
"""

import os
import re
import socket
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from popfax_contracts.topics import SERVICES, Principal
from services.chassis import build

MOST_BYTES = 63
"""PostgreSQL cuts off what is longer."""

_FOREIGN = re.compile(r"[^A-Za-z0-9._+:-]")


class Does(StrEnum):
    """What a process of a service does."""

    WORKER = "worker"
    """It consumes, relays and fires timers."""
    WEB = "web"
    """It serves people over HTTP."""
    ALL = "all"
    """Both."""


@dataclass(frozen=True, slots=True)
class ProcessName:
    """A process of a service."""

    service: Principal
    version: str
    does: Does
    name: str

    @classmethod
    def of_this_process(cls, service: Principal, does: Does, replica: str | None = None) -> Self:
        """Return the name of the process that asks."""
        return cls(service, build.version(), does, replica or f"{socket.gethostname()}:{os.getpid()}")

    @classmethod
    def read(cls, text: str) -> Self | None:
        """Read what `str` has written, None if it is anything else."""
        words = text.split(" ")
        if len(words) != 4:
            return None
        service, version, does, name = words
        known = {f"popfax-{each}": each for each in SERVICES}
        return cls(known[service], version, Does(does), name) if service in known and does in list(Does) else None

    def __str__(self) -> str:
        """Return it in at most `MOST_BYTES` of ASCII; of a longer name, the end, which tells replicas apart."""
        begin = f"popfax-{self.service} {_checked(self.version)[:12]} {self.does} "
        return begin + _checked(self.name)[len(begin) - MOST_BYTES :]


def _checked(text: str) -> str:
    return _FOREIGN.sub("_", text) or "_"
