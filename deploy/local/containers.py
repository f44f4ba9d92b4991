"""The same stack with Kafka and PostgreSQL in containers, from their official images. Needs a Docker engine.

The mail sink stays a process of this machine. The containers' data live in the containers, which are removed at the
end, and by testcontainers' own reaper should this process be killed: every stack begins afresh.
"""

import os
from collections.abc import Callable
from pathlib import Path

from docker.errors import DockerException  # type: ignore[import-untyped]  # its stubs are a package of their own
from testcontainers.core.container import DockerContainer

from deploy.local.errors import PortTakenError, StackError
from deploy.local.kafka import USERS, as_properties, common_properties, environment, format_arguments
from deploy.local.passwords import load_or_create
from deploy.local.paths import private_directory
from deploy.local.ports import LOOPBACK, Port, is_free
from deploy.local.postgres import SETTINGS, SUPERUSER, create_databases, database_url, lets_in
from deploy.local.process import wait_until
from deploy.local.stack import Broker, Database, Stack
from deploy.operator.kafka import ADMIN, answers_authenticated, client_config
from popfax_contracts.topics import SERVICES, Principal

KAFKA_IMAGE = "apache/kafka:4.3.0@sha256:0be4c9eb3565733612d2836d65636fd611a219ebcf5b4162e5ac259ea0ecb907"
POSTGRES_IMAGE = "postgres:18.6@sha256:86c951e05bf56c93d95d397747fb8820ac76cc3bedb78f43abd83eedbe3666ae"
"""The official images, as in deploy/docker/compose.yaml. Environment variables of these names name others."""

_CONTROLLER_PORT = 9093
_POSTGRES_PORT = 5432
_KAFKA_FILES = "/popfax"
_KAFKA_SCRATCH = "/tmp"  # noqa: S108 - inside the container, where its user can write
_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 15

# As the image's own start does, but with our users: format unless that was done, then become the broker.
_KAFKA_START = f"""set -e
cp {_KAFKA_FILES}/server.properties {_KAFKA_SCRATCH}/server.properties
if [ ! -e {_KAFKA_SCRATCH}/formatted ]; then
    xargs /opt/kafka/bin/kafka-run-class.sh < {_KAFKA_FILES}/format.args > /dev/null  # it prints the users' keys
    touch {_KAFKA_SCRATCH}/formatted
fi
exec /opt/kafka/bin/kafka-server-start.sh {_KAFKA_SCRATCH}/server.properties
"""


class ContainerStack(Stack):
    """A Stack whose Kafka and PostgreSQL are containers. Raises StackError on start if there is no Docker engine."""

    def _make_kafka(self, port: Port) -> Broker:
        return KafkaContainer(self.directory / "kafka", port)

    def _make_postgres(self, port: Port) -> Database:
        return PostgresContainer(self.directory / "postgres", port)

    def _prepare(self) -> None:
        """The images bring what they need."""


class _Container:
    """A container that is made once, and can be killed and started again with its data."""

    def __init__(self) -> None:
        self._made: DockerContainer | None = None

    def start(self, make: Callable[[], DockerContainer], ready: Callable[[], bool], port: int) -> None:
        """Make it if need be, start it, and wait until it is ready. Raises StackError; PortTakenError for `port`."""
        try:
            self._run(make)
        except (DockerException, OSError) as error:  # requests' errors are OSErrors
            self.stop()
            if not is_free(port):
                raise PortTakenError(f"port {port} is taken") from error
            raise StackError(f"Docker can't run the container: {_first_line(error)}") from error
        if not wait_until(ready, _START_TIMEOUT_S, interval_s=0.1):
            self.stop()
            raise StackError(f"the container was not ready after {_START_TIMEOUT_S:g} s")

    def stop(self) -> None:
        """Stop and remove it."""
        if self._made is not None:
            self._made.get_wrapped_container().stop(timeout=_STOP_TIMEOUT_S)
            self._made.stop()
            self._made = None

    def kill(self) -> None:
        """End it with SIGKILL. Its data stay."""
        if self._made is not None:
            self._made.get_wrapped_container().kill()
            self._made.get_wrapped_container().wait()

    def pause(self) -> None:
        """Freeze it."""
        if self._made is not None:
            self._made.get_wrapped_container().pause()

    def resume(self) -> None:
        """Let it go on."""
        if self._made is not None:
            self._made.get_wrapped_container().unpause()

    def output(self) -> str:
        """Return what it has printed."""
        return "" if self._made is None else self._made.get_wrapped_container().logs().decode(errors="replace")

    def _run(self, make: Callable[[], DockerContainer]) -> None:
        if self._made is not None:
            self._made.get_wrapped_container().start()
            return
        made = make()
        made.start()
        self._made = made


class KafkaContainer:
    """Kafka in a container, with the users and ACLs of the embedded broker."""

    def __init__(self, directory: Path, port: Port) -> None:
        self._directory = directory
        self._port = port
        self._container = _Container()
        self._passwords: dict[str, str] = {}

    @property
    def bootstrap(self) -> str:
        """Where clients connect, as host:port. Known after the first start."""
        return f"{LOOPBACK}:{self._port.number}"

    def password(self, user: str) -> str:
        """The password of one of USERS. Known after the first start."""
        return self._passwords[user]

    def environment(self, user: str) -> dict[str, str]:
        """The settings for Kafka of one of USERS, by their environment names."""
        return environment(self.bootstrap, user, self.password(user))

    def client_config(self, user: str) -> dict[str, str]:
        """What confluent-kafka needs to connect as one of USERS."""
        return client_config(user, self.environment(user))

    def start(self) -> None:
        """Start, and return when it answers an authenticated request. Raises StackError."""
        private_directory(self._directory)
        self._passwords = load_or_create(self._directory / "passwords.json", USERS)
        self._port.serve(self._start_on)

    def stop(self) -> None:
        """End it in good order, and remove its data."""
        self._container.stop()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._container.kill()

    def pause(self) -> None:
        """Freeze it."""
        self._container.pause()

    def resume(self) -> None:
        """Let it go on."""
        self._container.resume()

    def output(self) -> str:
        """Return what it has printed, which the engine shows to whoever may ask it."""
        return self._container.output()

    def _start_on(self, port: int) -> None:
        config = client_config(ADMIN, environment(f"{LOOPBACK}:{port}", ADMIN, self.password(ADMIN)))
        self._container.start(lambda: self._make(port), lambda: answers_authenticated(config, timeout_s=1.0), port)

    def _make(self, port: int) -> DockerContainer:
        container = DockerContainer(os.environ.get("KAFKA_IMAGE", KAFKA_IMAGE))
        container.with_env("KAFKA_HEAP_OPTS", "-Xmx512m")  # the image's default is twice that, taken at once
        _publish(container, port, port)
        arguments = "\n".join(format_arguments(f"{_KAFKA_SCRATCH}/server.properties", self._passwords))
        container.with_copy_into_container(self._properties(port).encode(), f"{_KAFKA_FILES}/server.properties")
        container.with_copy_into_container(arguments.encode(), f"{_KAFKA_FILES}/format.args")
        return container.with_kwargs(entrypoint=["/bin/sh", "-c", _KAFKA_START])

    def _properties(self, port: int) -> str:
        # The same port inside as outside, so that one address is right for the clients and for the broker itself.
        properties = {
            **common_properties(self.password(ADMIN)),
            "listeners": f"CLIENTS://0.0.0.0:{port},CONTROLLER://{LOOPBACK}:{_CONTROLLER_PORT}",
            "advertised.listeners": f"CLIENTS://{LOOPBACK}:{port}",
            "controller.quorum.voters": f"1@{LOOPBACK}:{_CONTROLLER_PORT}",
            "log.dirs": f"{_KAFKA_SCRATCH}/data",
        }
        return as_properties(properties)


class PostgresContainer:
    """PostgreSQL in a container, with the roles and databases of the embedded server."""

    def __init__(self, directory: Path, port: Port) -> None:
        self._directory = directory
        self._port = port
        self._container = _Container()
        self._passwords: dict[str, str] = {}

    @property
    def superuser_url(self) -> str:
        """SQLAlchemy's URL of the superuser, for tests. Known after the first start."""
        return self._superuser_url(self._port.number)

    def url(self, service: Principal) -> str:
        """SQLAlchemy's URL of a service's own database, as its own role. Known after the first start."""
        return database_url(self._port.number, service, self._passwords[service], service)

    def start(self) -> None:
        """Start, and return when every service's database is there. Raises StackError."""
        private_directory(self._directory)
        self._passwords = load_or_create(self._directory / "passwords.json", (SUPERUSER, *SERVICES))
        self._port.serve(self._start_on)
        create_databases(self.superuser_url, {service: self._passwords[service] for service in SERVICES})

    def stop(self) -> None:
        """End it in good order, and remove its data."""
        self._container.stop()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._container.kill()

    def _start_on(self, port: int) -> None:
        self._container.start(lambda: self._make(port), lambda: lets_in(self._superuser_url(port)), port)

    def _make(self, port: int) -> DockerContainer:
        container = DockerContainer(os.environ.get("POSTGRES_IMAGE", POSTGRES_IMAGE))
        _publish(container, _POSTGRES_PORT, port)
        container.with_env("POSTGRES_PASSWORD", self._passwords[SUPERUSER])
        return container.with_command([part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")])

    def _superuser_url(self, port: int) -> str:
        return database_url(port, SUPERUSER, self._passwords[SUPERUSER], "postgres")


def _publish(container: DockerContainer, inside: int, outside: int) -> None:
    """Publish a port on the loopback interface alone. `with_bind_ports` would publish it on every interface."""
    container.ports[f"{inside}/tcp"] = (LOOPBACK, outside)  # type: ignore[assignment]  # the Docker client takes both


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
