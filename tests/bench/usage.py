"""CPU time and memory, by process."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import psutil

from deploy.local.kafka import KafkaBroker
from deploy.local.postgres import PostgresServer
from deploy.local.stack import Stack

LOAD = "load"
"""This process: it publishes the commands and follows the events, and is no part of the product."""


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds since a process began, by name."""

    cpu_s: dict[str, float]

    def since(self, before: "Usage") -> dict[str, float]:
        """Return what was used between two looks."""
        return {name: spent - before.cpu_s.get(name, 0.0) for name, spent in self.cpu_s.items()}


class Meter:
    """Looks at a product's processes, and at this one, which is the load.

    Several processes may share a name: replicas of a service, or one before and one after a restart.
    """

    def __init__(self, stack: Stack) -> None:
        assert isinstance(stack.kafka, KafkaBroker), "what runs in a container can't be looked into"
        assert isinstance(stack.postgres, PostgresServer)
        self._roots: dict[str, list[psutil.Process]] = {}
        self._seen: dict[str, dict[int, float]] = {}
        self.watch("kafka", stack.kafka.pid)
        self.watch("postgres", stack.postgres.pid)
        self.watch("mail sink", stack.mail.pid)
        self.watch(LOAD, psutil.Process().pid)

    def watch(self, name: str, pid: int) -> None:
        """Look at a process, too."""
        self._roots.setdefault(name, []).append(psutil.Process(pid))

    def look(self) -> Usage:
        """Read the CPU time of each process and of its children. One that ended in between keeps what it had."""
        found = {}
        for name in self._roots:
            spent = self._seen.setdefault(name, {})
            for process in self._processes(name):
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    spent[process.pid] = times.user + times.system
            found[name] = sum(spent.values())
        return Usage(found)

    def memory_mb(self) -> dict[str, float]:
        """Return the resident memory of each, in MB. What processes share, as PostgreSQL's do, is counted once."""
        return {name: round(_memory(self._processes(name)) / 1e6) for name in self._roots}

    def _processes(self, name: str) -> list[psutil.Process]:
        """Return the living processes under a name and, unless it is the load, which is this one, all below them."""
        found = []
        for root in self._roots[name]:
            with suppress(psutil.NoSuchProcess):
                found += [root] if name == LOAD else [root, *root.children(recursive=True)]
        return found


def _memory(processes: Iterable[psutil.Process]) -> float:
    infos = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            infos.append(process.memory_info())
    return sum(info.rss - info.shared for info in infos) + max((info.shared for info in infos), default=0)


def per(used: dict[str, float], count: float) -> dict[str, int]:
    """Return what one of `count` things cost each process, in microseconds."""
    return {name: round(seconds / count * 1e6) for name, seconds in used.items()}
