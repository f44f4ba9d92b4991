"""How a command reaches the product: by settings from a file, the environment, or the running local product."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from confluent_kafka import KafkaError, KafkaException
from pydantic import ValidationError

from deploy.operator.cli.errors import Refused, Unreachable, UsageError
from deploy.operator.kafka import ADMIN, answers_authenticated
from deploy.paths import STATE
from popfax_contracts.topics import Principal
from services.chassis.kafka_access import librdkafka
from services.chassis.postgres import sessions
from services.chassis.settings import (
    SECRETS_DIRECTORY,
    ConnectingSettings,
    DatabaseSettings,
    KafkaSettings,
    settings_from,
)

S = TypeVar("S", bound=ConnectingSettings)

T = TypeVar("T")

DIRECTORY = STATE / "demo"
"""Where `popfax demo` and `popfax up` keep the local product, unless told otherwise."""

FILE_NAME = "popfax.env"

APPLICATION = "popfax"
"""What PostgreSQL shows as the name of the command line's connections."""

_CONNECT_TIMEOUT_S = 5
_MARKS = ("_DATABASE_URL", "_KAFKA_BOOTSTRAP")
"""Endings of settings' names: an environment with such a setting says where the product is."""


class Connection:
    """The product that a command talks to."""

    def __init__(self, values: Mapping[str, str], source: str) -> None:
        """`values` are settings by their environment names; `source` says where they come from, for errors."""
        self._values = values
        self._source = source
        self._engines: dict[Principal, sa.Engine] = {}

    def kafka(self, user: str) -> dict[str, str]:
        """Return confluent-kafka's configuration for a principal, or for the administrator.

        Raises Unreachable for a setting that is missing, and UsageError for one that can't be used.
        """
        quiet = {"log_level": "0"}  # librdkafka's log lines: errors are returned anyway
        return librdkafka(self._settings(KafkaSettings, user)) | quiet

    @cached_property
    def admin(self) -> dict[str, str]:
        """Return confluent-kafka's configuration for the administrator."""
        return self.kafka(ADMIN)

    def database_url(self, service: Principal) -> str:
        """Return the URL of a service's database. Raises Unreachable if it is not set."""
        return self._settings(DatabaseSettings, service).database_url.get_secret_value()

    def rows(self, service: Principal, statement: sa.Executable) -> Sequence[Any]:
        """Run one statement in a service's database, in its own transaction. Raises Unreachable."""

        def run(connection: sa.Connection) -> Sequence[Any]:
            found = connection.execute(statement)
            return found.all() if found.returns_rows else []

        return self.ask(service, run)

    def ask(self, service: Principal, question: Callable[[sa.Connection], T]) -> T:
        """Run a function on a service's database, in a transaction. Raises Unreachable, or Refused if it answers."""
        try:
            with self._engine(service).begin() as connection:
                return question(connection)
        except sa.exc.OperationalError as error:
            raise Unreachable(f"{service}'s database can't be reached ({self._source})") from error
        except sa.exc.DBAPIError as error:  # a missing table or privilege: not the schema that this version expects
            raise Refused(f"{service}'s database refuses: {type(error.orig).__name__} ({self._source})") from error

    def close(self) -> None:
        """Close the connections to the databases."""
        for engine in self._engines.values():
            engine.dispose()

    def _engine(self, service: Principal) -> sa.Engine:
        if service not in self._engines:
            self._engines[service] = sa.create_engine(
                self.database_url(service),
                hide_parameters=True,
                connect_args=sessions(application_name=APPLICATION) | {"connect_timeout": _CONNECT_TIMEOUT_S},
            )
        return self._engines[service]

    def _settings(self, kind: type[S], user: str) -> S:
        try:
            return settings_from(kind, user, self._values)
        except ValidationError as error:
            wrong = error.errors()[0]
            if wrong["type"] == "missing":
                name = f"{user}_{wrong['loc'][0]}".upper()
                raise Unreachable(f"{name} is not set ({self._source})") from None
            raise UsageError(f"{user.upper()}: {wrong['msg'].removeprefix('Value error, ')} ({self._source})") from None


def require_kafka(config: Mapping[str, str]) -> None:
    """Raise Unreachable unless a broker answers, without waiting for an admin request to time out."""
    if not answers_authenticated(config, _CONNECT_TIMEOUT_S):
        raise Unreachable(f"Kafka does not answer at {config['bootstrap.servers']}")


def connect(file: Path | None) -> Connection:
    """Find the product's settings: in `file`, else in the environment, else the running local product's.

    Only one source is used, since mixing the settings of two products would be dangerous. Raises Unreachable.
    """
    made = _find(file)
    _made.append(made)
    return made


def close_all() -> None:
    """Close every connection that a command has opened."""
    while _made:
        _made.pop().close()


_made: list[Connection] = []


def _find(file: Path | None) -> Connection:
    if file is not None:
        return Connection(_read(file), str(file))
    if SECRETS_DIRECTORY in os.environ or any(name.endswith(_MARKS) for name in os.environ):
        return Connection({**_secrets(), **os.environ}, "from the environment")
    local = DIRECTORY / FILE_NAME
    if not local.exists():
        raise Unreachable("no product runs here: start one with `popfax up`, or name one with --env-file")
    return Connection(_read(local), "the local product")


def unreachable(error: KafkaException) -> Unreachable:
    """Turn confluent-kafka's exception into one with a readable message."""
    cause = error.args[0]
    text = cause.str() if isinstance(cause, KafkaError) else str(cause)
    return Unreachable(f"Kafka can't be reached, or refuses: {text}")


def _read(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Unreachable(f"{file} can't be read: {getattr(error, 'strerror', None) or 'it is not text'}") from error
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.lstrip().startswith("#"))
    return {name.strip().removeprefix("export "): value.strip() for name, value in pairs}


def _secrets() -> dict[str, str]:
    directory = os.environ.get(SECRETS_DIRECTORY)
    if directory is None or not Path(directory).is_dir():
        return {}
    return {file.name.upper(): file.read_text().strip() for file in Path(directory).iterdir() if file.is_file()}
