"""The product's infrastructure on this machine: Kafka, PostgreSQL and a mail sink, on the loopback interface."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from deploy.local import jars, postgres_archive
from deploy.local.certificates import Authority
from deploy.local.errors import StackError
from deploy.local.kafka import BROKERS, KafkaBroker, KafkaCluster
from deploy.local.keys import DevelopmentKeys
from deploy.local.login_codes import LoginCodes
from deploy.local.mailsink import MailSink
from deploy.local.passwords import write_private
from deploy.local.paths import JARS, private_directory
from deploy.local.ports import Port, Ports
from deploy.local.postgres import PostgresServer
from deploy.local.process import end_recorded
from deploy.operator.kafka import ADMIN
from deploy.operator.topic_settings import CLUSTER, ONE_BROKER
from popfax_contracts.topics import SERVICES, Principal
from services.chassis.settings import SECRETS_DIRECTORY

__all__ = ["Broker", "Database", "Part", "Ports", "Stack", "StackError", "remove_abandoned"]

Progress = Callable[[str], None]

_LOCK = "lock"
_SECRET = ("_PASSWORD", "_DATABASE_URL")
"""Endings of the names of settings that are secrets."""
_FIRST_KIND = {"brokers": 1, "tls": False}
"""The kind of a stack that has not noted it."""


class Part(Protocol):
    """One server of the stack."""

    def start(self) -> None:
        """Start, and return when it answers. Raises StackError, and leaves nothing running, when it fails."""

    def stop(self) -> None:
        """End it in good order. Nothing happens when it does not run."""

    def kill(self) -> None:
        """End it as a crash would, with its data left as they are. `start` brings it back on the same port."""


class Broker(Part, Protocol):
    """A Kafka broker, or several, with one SCRAM user a principal."""

    @property
    def bootstrap(self) -> str:
        """Where clients connect, as host:port, separated by commas."""

    def password(self, user: str) -> str:
        """A user's password."""

    def environment(self, user: str) -> dict[str, str]:
        """A user's settings for Kafka, by their environment names."""

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

    With `tls`, all connections are encrypted and verified by an authority of the stack's own, mails are taken from who
    logs in, and the services' secrets are files (`secrets`). With three `brokers`, Kafka is a cluster.

    Use it as a context manager, or call `start` and `stop`. Whatever an earlier run left running in the directory is
    ended first; `fresh=True` also deletes its data.
    """

    def __init__(
        self,
        directory: Path,
        ports: Ports | None = None,
        *,
        fresh: bool = False,
        progress: Progress = lambda _: None,
        tls: bool = False,
        brokers: int = 1,
    ) -> None:
        if brokers not in (1, BROKERS):
            raise StackError(f"there can be 1 broker, or {BROKERS}")
        ports = ports or Ports.from_environment()
        self.directory = directory.absolute()
        self.brokers = brokers
        self.topic_settings = ONE_BROKER if brokers == 1 else CLUSTER
        self.authority = Authority(self.directory / "authority") if tls else None
        """Who signs the servers' certificates, if there is TLS."""
        self.secrets = self.directory / "secrets"
        """Where the services' passwords are files, if there is TLS: they are read again at each connection."""
        self.kafka: Broker = self._make_kafka(Port("POPFAX_KAFKA_PORT", ports.kafka_port))
        self.postgres: Database = self._make_postgres(Port("POPFAX_POSTGRES_PORT", ports.postgres_port))
        mail_port = Port("POPFAX_SMTP_PORT", ports.smtp_port)
        self.mail = MailSink(self.directory / "mail", mail_port, authority=self.authority)
        self.keys = DevelopmentKeys(self.directory / "keys")
        self.login_codes = LoginCodes(self.directory)
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
            self._remember_kind()
            self._prepare()
            self._start_parts({"Kafka": self.kafka, "PostgreSQL": self.postgres, "the mail sink": self.mail})
            if self.authority is not None:
                self._write_secrets()
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
        environment = self.kafka.environment(name)
        if name in SERVICES:
            environment[f"{prefix}_DATABASE_URL"] = self.postgres.url(Principal(name))
        if name == Principal.GROUPS:
            environment[f"{prefix}_JWT_JWKS"] = str(self.keys.key_set)
            environment[f"{prefix}_JWT_DEVELOPMENT_KEYS"] = "true"
        if name == Principal.NOTIFICATIONS:
            environment |= self.mail.environment
        return environment

    def process_environment(self, name: str) -> dict[str, str]:
        """The same for a service's process: with TLS, its secrets are files instead."""
        environment = self.service_environment(name)
        if self.authority is None:
            return environment
        open_ones = {key: value for key, value in environment.items() if not key.endswith(_SECRET)}
        return open_ones | {SECRETS_DIRECTORY: str(self.secrets)}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _make_kafka(self, port: Port) -> Broker:
        made = KafkaBroker if self.brokers == 1 else KafkaCluster
        return made(self.directory / "kafka", port, authority=self.authority)

    def _make_postgres(self, port: Port) -> Database:
        return PostgresServer(self.directory / "postgres", port, authority=self.authority)

    def _prepare(self) -> None:
        """What has to be there before anything can start."""
        jars.ensure(JARS, self._progress)
        if self.authority is not None:
            postgres_archive.ensure(self._progress)
            self.authority.make()

    def _remember_kind(self) -> None:
        """Note what the data in the directory belong to. Raises StackError if they belong to another kind of stack."""
        path, kind = self.directory / "kind.json", {"brokers": self.brokers, "tls": self.authority is not None}
        used = (self.directory / "postgres").exists()
        before = json.loads(path.read_text()) if path.exists() else _FIRST_KIND if used else kind
        if before != kind:
            raise StackError(f"{self.directory} has data of a stack with {_said(before)}: start it so, or afresh")
        write_private(path, json.dumps(kind))

    def _write_secrets(self) -> None:
        private_directory(self.secrets)
        for name in (ADMIN, *Principal):
            for key, value in self.service_environment(name).items():
                if key.endswith(_SECRET):
                    write_private(self.secrets / key.lower(), value)

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


def _said(kind: dict[str, Any]) -> str:
    return f"{kind['brokers']} broker{'s' if kind['brokers'] > 1 else ''} {'and' if kind['tls'] else 'without'} TLS"


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
