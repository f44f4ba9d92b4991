"""CPU time and memory, by process."""

from contextlib import suppress
from dataclasses import dataclass

import psutil

from deploy.local.kafka import KafkaBroker
from deploy.local.postgres import PostgresServer
from deploy.local.product import Product


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds since a process began, by name."""

    cpu_s: dict[str, float]

    def since(self, before: "Usage") -> dict[str, float]:
        """Return what was used between two looks."""
        return {name: spent - before.cpu_s.get(name, 0.0) for name, spent in self.cpu_s.items()}


class Meter:
    """Looks at the product's processes, and at this one, which is the load."""

    def __init__(self, product: Product) -> None:
        stack = product.stack
        assert isinstance(stack.kafka, KafkaBroker), "what runs in a container can't be looked into"
        assert isinstance(stack.postgres, PostgresServer)
        self._roots = {str(name): psutil.Process(service.pid) for name, service in product.services.items()}
        self._roots |= {"kafka": psutil.Process(stack.kafka.pid), "postgres": psutil.Process(stack.postgres.pid)}
        self._roots |= {"mail sink": psutil.Process(stack.mail.pid), "load": psutil.Process()}
        self._seen: dict[str, dict[int, float]] = {}

    def look(self) -> Usage:
        """Read the CPU time of each process and of its children. A child that ended in between keeps what it had."""
        found = {}
        for name, root in self._roots.items():
            spent = self._seen.setdefault(name, {})
            for process in self._tree(name, root):
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    spent[process.pid] = times.user + times.system
            found[name] = sum(spent.values())
        return Usage(found)

    def memory_mb(self) -> dict[str, float]:
        """Return the resident memory of each, in MB. PostgreSQL's processes share one buffer pool, counted once."""
        return {name: round(self._memory(root, name) / 1e6) for name, root in self._roots.items()}

    def _memory(self, root: psutil.Process, name: str) -> float:
        infos = []
        for process in self._tree(name, root):
            with suppress(psutil.NoSuchProcess):
                infos.append(process.memory_info())
        return sum(info.rss - info.shared for info in infos) + max((info.shared for info in infos), default=0)

    def _tree(self, name: str, root: psutil.Process) -> list[psutil.Process]:
        """Return a process and, unless it is the load, which is this one, all below it."""
        try:
            return [root] if name == "load" else [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
