"""The product's infrastructure on this machine: Kafka, PostgreSQL and a mail sink, on the loopback interface."""

import fcntl
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TextIO

from deploy.local import jars
from deploy.local.errors import StackError
from deploy.local.kafka import KafkaBroker
from deploy.local.keys import DevelopmentKeys
from deploy.local.mailsink import MailSink
from deploy.local.paths import JARS, private_directory
from deploy.local.ports import Port, Ports
from deploy.local.postgres import PostgresServer
from deploy.local.process import end_recorded
from popfax_contracts.topics import SERVICES, Principal

__all__ = ["Broker", "Database", "Part", "Ports", "Stack", "StackError", "remove_abandoned"]

Progress = Callable[[str], None]

_LOCK = "lock"


class Part(Protocol):
    """One server of the stack."""

    def start(self) -> None:
        """Start, and return when it answers. Raises StackError, and leaves nothing running, when it fails."""

    def stop(self) -> None:
        """End it in good order. Nothing happens when it does not run."""

    def kill(self) -> None:
        """End it as a crash would, with its data left as they are. `start` brings it back on the same port."""


class Broker(Part, Protocol):
    """A Kafka broker with one SCRAM user a principal."""

    @property
    def bootstrap(self) -> str:
        """Where clients connect, as host:port."""

    def password(self, user: str) -> str:
        """A user's password."""

    def client_config(self, user: str) -> dict[str, str]:
        """What confluent-kafka needs to connect as this user."""

    def pause(self) -> None:
        """Freeze it: connections stay, and nothing answers."""

    def resume(self) -> None:
        """Let it go on."""


class Database(Part, Protocol):
    """A PostgreSQL server with one role and one database per service."""

    @property
    def superuser_url(self) -> str:
        """SQLAlchemy's URL of the superuser, for tests."""

    def url(self, service: Principal) -> str:
        """SQLAlchemy's URL of a service's own database, as its own role."""


class Stack:
    """All of it, in one directory, which only one stack at a time can use.

    Use it as a context manager, or call `start` and `stop`. Whatever an earlier run left running in the directory is
    ended first; `fresh=True` also deletes its data.
    """

    def __init__(
        self, directory: Path, ports: Ports | None = None, *, fresh: bool = False, progress: Progress = lambda _: None
    ) -> None:
        ports = ports or Ports.from_environment()
        self.directory = directory.absolute()
        self.kafka: Broker = self._make_kafka(Port("POPFAX_KAFKA_PORT", ports.kafka_port))
        self.postgres: Database = self._make_postgres(Port("POPFAX_POSTGRES_PORT", ports.postgres_port))
        self.mail = MailSink(self.directory / "mail", Port("POPFAX_SMTP_PORT", ports.smtp_port))
        self.keys = DevelopmentKeys(self.directory / "keys")
        self._fresh = fresh
        self._progress = progress
        self._lock: TextIO | None = None

    def start(self) -> None:
        """Start all, in parallel. Raises StackError, and leaves nothing running, when one does not start."""
        if self._lock is not None:
            raise StackError(f"the stack in {self.directory} runs already")
        self._lock = _acquire(self.directory)
        try:
            end_recorded(self.directory)
            if self._fresh:
                self._wipe()
            self._prepare()
            self._start_parts({"Kafka": self.kafka, "PostgreSQL": self.postgres, "the mail sink": self.mail})
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all that runs, in good order, and let go of the directory."""
        try:
            with ThreadPoolExecutor() as pool:
                stopping = [pool.submit(part.stop) for part in (self.kafka, self.postgres, self.mail)]
            for each in stopping:
                each.result()
        finally:
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def remove(self) -> None:
        """Stop all, and delete the directory."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def service_environment(self, name: str) -> dict[str, str]:
        """The settings of a service (or of "admin", or of the platform) as environment variables."""
        prefix = name.upper()
        environment = {
            f"{prefix}_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            f"{prefix}_KAFKA_USERNAME": str(name),
            f"{prefix}_KAFKA_PASSWORD": self.kafka.password(name),
        }
        if name in SERVICES:
            environment[f"{prefix}_DATABASE_URL"] = self.postgres.url(Principal(name))
        if name == Principal.GROUPS:
            environment[f"{prefix}_JWT_JWKS"] = str(self.keys.key_set)
            environment[f"{prefix}_JWT_DEVELOPMENT_KEYS"] = "true"
        if name == Principal.NOTIFICATIONS:
            environment[f"{prefix}_SMTP_HOST"] = self.mail.host
            environment[f"{prefix}_SMTP_PORT"] = str(self.mail.port)
        return environment

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _make_kafka(self, port: Port) -> Broker:
        return KafkaBroker(self.directory / "kafka", port)

    def _make_postgres(self, port: Port) -> Database:
        return PostgresServer(self.directory / "postgres", port)

    def _prepare(self) -> None:
        """What has to be there before anything can start."""
        jars.ensure(JARS, self._progress)

    def _start_parts(self, parts: dict[str, Part]) -> None:
        with ThreadPoolExecutor(len(parts)) as pool:
            starting = {pool.submit(part.start): name for name, part in parts.items()}
            try:
                for started in as_completed(starting):
                    started.result()
                    self._progress(f"{starting[started]} is up")
            except BaseException:
                for part in parts.values():
                    part.kill()  # else the pool would wait until those that are still starting have got there
                raise

    def _wipe(self) -> None:
        for entry in self.directory.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != _LOCK:
                entry.unlink()


def remove_abandoned(state: Path, prefix: str) -> None:
    """Delete the stacks in `state` whose names begin with `prefix`, except those that a living process uses."""
    for directory in state.glob(f"{prefix}*/"):
        try:
            lock = _acquire(directory)
        except StackError:
            continue
        with lock:
            end_recorded(directory)
            shutil.rmtree(directory, ignore_errors=True)


def _acquire(directory: Path) -> TextIO:
    """Lock a directory for us, until this process dies, however it dies. Raises StackError."""
    private_directory(directory, passable=True)
    lock = os.fdopen(os.open(directory / _LOCK, os.O_WRONLY | os.O_CREAT, 0o600), "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise StackError(f"another process runs a stack in {directory}: stop that one first") from error
    return lock
