"""The product with several replicas of each service, each of which can be of another version."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from deploy.drill.versions import Version
from deploy.local.process import run
from deploy.local.product import ServiceProcess
from deploy.local.stack import Stack
from deploy.operator.kafka import ADMIN
from popfax_contracts.topics import SERVICES, Principal

_IDLE_S = 40.0
"""How long a command may do nothing before it counts as stuck."""

Progress = Callable[[str], None]


@dataclass
class Replica:
    """A replica of a service, and the version that it is of."""

    service: Principal
    number: int
    version: Version
    process: ServiceProcess

    def __str__(self) -> str:
        return f"{self.service}-{self.number}"

    def why_not_ready(self) -> str:
        """Say why it is not ready, as it says it itself."""
        try:
            with urllib.request.urlopen(f"{self.process.url}/ready", timeout=5) as answer:  # noqa: S310  (loopback)
                said = json.load(answer)
        except urllib.error.HTTPError as error:
            said = json.load(error)
        except OSError:
            return "it does not answer"
        return "; ".join(said.get("why", {}).values()) or str(said)


class Fleet:
    """Servers of its own, brought to a version's state by that version's own commands, and its replicas on them."""

    def __init__(self, stack: Stack, version: Version, replicas: int, progress: Progress = lambda _: None) -> None:
        """`replicas` is how many of each service there are."""
        self.stack = stack
        self._version = version
        self._progress = progress
        self.replicas = [
            self._replica(service, number, version) for number in range(1, replicas + 1) for service in SERVICES
        ]

    def of(self, service: Principal) -> list[Replica]:
        """Return a service's replicas."""
        return [replica for replica in self.replicas if replica.service is service]

    def replace(self, replica: Replica, version: Version) -> None:
        """End a replica in good order, and start it under its own name as another version. Raises StackError."""
        replica.process.stop()
        replica.version = version
        replica.process = self._replica(replica.service, replica.number, version).process
        self._launch(replica)
        replica.process.wait_ready()

    def apply_topics(self, version: Version) -> None:
        """Bring the broker's topics and permissions to a version's state. Raises StackError."""
        self._run(version, "-m", "deploy.operator.cli", "topics", "--apply")

    def migrate(self, version: Version, *services: Principal) -> None:
        """Apply a version's migrations. Raises StackError."""
        self._run(version, "-m", "services.chassis.migrate", *services)

    def publish_plans(self, version: Version) -> None:
        """Publish what has changed of a version's plans and prices. Raises StackError."""
        self._run(version, "-m", "services.provisioning.catalogue")

    def publish_plans_again(self, version: Version) -> None:
        """Publish all plans and prices, for readers that passed over some of them before. Raises StackError."""
        self._run(version, "-m", "services.provisioning.catalogue", "--again")

    def not_ready(self) -> list[Replica]:
        """Return the replicas that do not say that they are ready."""
        return [replica for replica in self.replicas if not replica.process.ready()]

    def __enter__(self) -> Self:
        self.stack.start()
        try:
            for replica in self.replicas:
                self._launch(replica)
            self.apply_topics(self._version)
            self.migrate(self._version, *SERVICES)
            self.publish_plans(self._version)
            self._progress(f"topics, databases and plans of {self._version.name} are there")
            for replica in self.replicas:
                replica.process.wait_ready()
            self._progress(f"{len(self.replicas)} replicas of {self._version.name} are ready")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda replica: replica.process.stop(), self.replicas))
        self.stack.stop()

    def _replica(self, service: Principal, number: int, version: Version) -> Replica:
        process = ServiceProcess(service, self.stack, version.code, f"{service}-{number}", python=version.python)
        return Replica(service, number, version, process)

    def _launch(self, replica: Replica) -> None:
        replica.process.launch(replica=str(replica.number))

    def _run(self, version: Version, *arguments: str) -> None:
        environment: dict[str, Any] = {"PYTHONPATH": f"{version.code}{os.pathsep}{version.code / 'contracts'}"}
        for name in (ADMIN, *SERVICES):
            environment |= self.stack.service_environment(name)
        run(
            [version.python, *arguments],
            version.code,
            self.stack.directory / "commands.log",
            _IDLE_S,
            None,
            environment,
        )
