"""The whole product on one machine: the stack, and the four services, each its own process."""

import asyncio
import json
import os
import signal
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import sqlalchemy as sa
from confluent_kafka import KafkaException

from deploy.local.errors import StackError
from deploy.local.ports import LOOPBACK, Port
from deploy.local.process import Child
from deploy.local.stack import Stack
from deploy.operator import topics
from deploy.operator.kafka import ADMIN
from deploy.paths import CHECKOUT
from popfax_contracts.topics import SERVICES, Principal
from services.chassis import migrate, postgres
from services.chassis.early_exit import SIGNALS
from services.provisioning import catalogue

_READY_TIMEOUT_S = 40.0
_STOP_TIMEOUT_S = 12.0


class ServiceProcess:
    """One service as a process of its own."""

    def __init__(
        self,
        principal: Principal,
        stack: Stack,
        code: Path = CHECKOUT,
        name: str = "",
        run: Sequence[str] = (),
        python: str = sys.executable,
    ) -> None:
        """`code` is where its packages are, and `python` what runs them: another version's, where two run side by side.

        `name` tells a second process of the same service from the first; `run` is what the interpreter
        is to run, if not its app.
        """
        self.principal = principal
        self._run = run or ("-m", f"services.{principal}.app")
        self._code = code
        self._python = python
        self._stack = stack
        name = name or principal.value
        self._port = Port(f"{name.upper().replace('-', '_')}_HTTP_PORT")
        self._child = Child(name, stack.directory)
        self.settings: Mapping[str, str] = {}
        """Those of the last launch, beside the stack's: to launch it again as it was."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def url(self) -> str:
        """Where it answers /live, /ready and /metrics."""
        return f"http://{LOOPBACK}:{self._port.number}"

    def launch(self, **settings: str) -> None:
        """Start it, with settings beside the stack's, without waiting for it."""
        self.settings = settings
        self._port.serve(lambda port: self._launch(port, settings))

    def wait_ready(self) -> None:
        """Wait until it can work. Raises StackError when it ends, or is not ready in time."""
        self._child.wait_ready(self.ready, _READY_TIMEOUT_S)

    def ready(self) -> bool:
        """Return whether it reports that it is ready."""
        try:
            with urllib.request.urlopen(f"{self.url}/ready", timeout=2) as answer:  # noqa: S310  (loopback)
                return bool(all(json.load(answer).values()))
        except OSError:
            return False

    def stop(self) -> int | None:
        """End it as an orchestrator would, with SIGTERM; return its exit code."""
        return self._child.stop(signal.SIGTERM, _STOP_TIMEOUT_S)

    def kill(self) -> None:
        """End it as a crash would."""
        self._child.kill()

    def _launch(self, port: int, settings: dict[str, str]) -> None:
        # The command line names the directory, by which a later run recognises it as left behind.
        command = [self._python, *self._run, str(self._stack.directory)]
        prefix = self.principal.upper()
        environment = self._stack.process_environment(self.principal) | {
            f"{prefix}_{name.upper()}": value for name, value in settings.items()
        }
        if settings.get("role") == "web":  # it needs no Kafka, and so gets no settings for it
            environment = {key: value for key, value in environment.items() if "_KAFKA_" not in key}
        environment[f"{prefix}_HTTP_PORT"] = str(port)
        environment["PYTHONPATH"] = f"{self._code}{os.pathsep}{self._code / 'contracts'}"
        self._child.start(command, directory=self._code, environment=environment, held=SIGNALS)


class Product:
    """The stack with topics, ACLs, migrations and plans in place, and the services on it."""

    def __init__(self, stack: Stack, progress: Callable[[str], None] = lambda _: None, **settings: str) -> None:
        """`settings` are those of all services when it is entered."""
        self.stack = stack
        self._settings = settings
        self.services = {principal: ServiceProcess(principal, stack) for principal in SERVICES}
        self._progress = progress

    def prepare(self) -> None:
        """Bring a running stack to this version's state: topics and ACLs, migrations, plans. Raises StackError."""
        with ThreadPoolExecutor() as pool:
            applied = pool.submit(self._apply_topics)
            stored = pool.submit(self._migrate_and_store)
            applied.result()
            self._progress("topics and ACLs are there")
            stored.result()
            self._progress("databases and plans are there")

    def _apply_topics(self) -> None:
        try:
            differences = topics.apply(self.stack.kafka.client_config(ADMIN), self.stack.topic_settings)
        except topics.Stalled as error:
            raise StackError(f"Kafka is too slow, or stuck: {error}") from error
        except KafkaException as error:
            raise StackError(f"Kafka refuses topics or permissions: {error.args[0].str()}") from error
        if differences:
            raise StackError(f"the broker is not as it should be: {differences[0]}")

    def launch_services(self, **settings: str) -> None:
        """Start all four without waiting: each service waits by itself for what `prepare` provides.

        Invitations' links lead to the page here, so groups comes first: its port is known from then on.
        """
        groups = self.services[Principal.GROUPS]
        groups.launch(**settings)
        links = {Principal.NOTIFICATIONS: {"invitation_link": f"{groups.url}/invitation", "group_link": groups.url}}
        for service in self.services.values():
            if service is not groups:
                service.launch(**{**links.get(service.principal, {}), **settings})

    def wait_ready(self) -> None:
        """Wait until all four are ready. Raises StackError when one ends, or is not ready in time."""
        for service in self.services.values():
            service.wait_ready()
            self._progress(f"{service.principal} is ready")

    def start_services(self, **settings: str) -> None:
        """Start all four, and wait until they are ready."""
        self.launch_services(**settings)
        self.wait_ready()

    def stop_services(self) -> None:
        """End all four, at the same time."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda service: service.stop(), self.services.values()))

    def __enter__(self) -> Self:
        self.stack.start()
        try:
            # Their imports take as long as the preparation: both at the same time.
            self.launch_services(**self._settings)
            self.prepare()
            self.wait_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_services()
        self.stack.stop()

    def _migrate_and_store(self) -> None:
        # In this process, one service after the other: Alembic keeps its context in globals, and interpreters of their
        # own would take ten times as long as the migrations.
        try:
            for principal in SERVICES:
                migrate.upgrade(principal, self.stack.postgres.url(principal))
            asyncio.run(self._store_plans())
        except sa.exc.SQLAlchemyError as error:
            raise StackError(f"the databases could not be prepared: {str(error).splitlines()[0]}") from error

    async def _store_plans(self) -> None:
        engine = postgres.engine(self.stack.postgres.url(Principal.PROVISIONING))
        try:
            await catalogue.store(catalogue.read(catalogue.DEFAULT), engine, datetime.now(UTC))
        finally:
            await engine.dispose()
