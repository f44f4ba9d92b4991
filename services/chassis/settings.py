"""Settings: environment variables with one prefix per service, or files with the same names in a secrets directory.

Settings that would connect to another machine without protection (`security`) are refused, unless one of them says that
this is meant. Secrets (fields of the type `SecretStr`) are read again by `reread`, which whoever connects calls first.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast

import structlog
from pydantic import AfterValidator, Field, HttpUrl, PrivateAttr, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from popfax_contracts.topics import Principal
from services.chassis import security

log = structlog.get_logger(__name__)

SECRETS_DIRECTORY = "POPFAX_SECRETS_DIR"
"""Names a directory with one file per setting (`ledger_database_url`), as container platforms mount secrets."""


def _is_protected(url: HttpUrl) -> HttpUrl:
    """Accept https, and http on this machine; no user name, since parsers differ in what they take for the host."""
    if url.username is not None or url.password is not None:
        raise ValueError("give an address without a user name")
    if url.scheme != "https" and not security.is_loopback(url.host or ""):
        raise ValueError("give an https:// address")
    return url


ProtectedUrl = Annotated[HttpUrl, AfterValidator(_is_protected)]
"""An address to which nobody can listen in between: `https://`, or this very machine."""


class ConnectingSettings(BaseSettings):
    """What every process is told that connects to something."""

    allow_unprotected: bool = Field(
        False,
        description="whether other machines may be reached without TLS, or with one that does not prove the server's "
        "name: only where something else protects the network",
    )

    def reread(self) -> None:
        """Take over secrets that have changed. Only settings that were read from outside have anywhere to look."""

    def _require(self, protected: bool, otherwise: str) -> None:
        """Raise `ValueError` for what is not protected, unless that is allowed."""
        if not (protected or self.allow_unprotected):
            raise ValueError(f"{otherwise}; or set allow_unprotected, if something else protects the network")


class KafkaSettings(ConnectingSettings):
    """How to reach Kafka as one principal."""

    kafka_bootstrap: str = Field(description="host:port of the brokers to begin with, separated by commas")
    kafka_username: str = Field(description="the principal's SCRAM user; with `SSL`, the name to be known by in logs")
    kafka_password: SecretStr | None = Field(
        None, min_length=1, description="the principal's SCRAM password; required, except with `SSL`"
    )
    kafka_security: Literal["SASL_PLAINTEXT", "SASL_SSL", "SSL"] = Field(
        "SASL_PLAINTEXT",
        description="`SASL_SSL` wherever a broker is on another machine; `SSL` if a certificate alone says who we are",
    )
    kafka_ca_file: Path | None = Field(
        None, description="certificates (PEM) of the authorities that brokers are trusted by; none: the system's"
    )
    kafka_certificate_file: Path | None = Field(
        None, description="our own certificate (PEM) and its chain, if the brokers ask for one"
    )
    kafka_key_file: Path | None = Field(None, description="its private key (PEM, without a password)")

    @model_validator(mode="after")
    def _kafka_is_protected(self) -> Self:
        remote = security.remote_brokers(self.kafka_bootstrap)
        self._require(
            self.kafka_security != "SASL_PLAINTEXT" or not remote,
            f"{', '.join(remote)} would be reached without TLS: set kafka_security to SASL_SSL",
        )
        if self.kafka_security == "SSL":
            if self.kafka_certificate_file is None:
                raise ValueError("with SSL, kafka_certificate_file says who we are")
        elif self.kafka_password is None:
            raise ValueError("kafka_password is missing")
        if self.kafka_security != "SASL_PLAINTEXT":
            security.client_context(*self.kafka_tls_files)
        elif any(self.kafka_tls_files):
            raise ValueError("there are files for TLS, and kafka_security is SASL_PLAINTEXT")
        return self

    @property
    def kafka_tls_files(self) -> tuple[Path | None, Path | None, Path | None]:
        """Return the files with the authorities' certificates, our certificate, and our key."""
        return self.kafka_ca_file, self.kafka_certificate_file, self.kafka_key_file


class DatabaseSettings(ConnectingSettings):
    """How to reach a service's database."""

    database_url: SecretStr = Field(
        min_length=1,
        description="postgresql+psycopg://role:password@host:port/database; of another machine, with "
        "`?sslmode=verify-full&sslrootcert=FILE` (`sslrootcert=system` for the system's authorities)",
    )

    @model_validator(mode="after")
    def _database_is_protected(self) -> Self:
        trouble = security.unprotected_database(self.database_url.get_secret_value())
        self._require(trouble is None, f"database_url: {trouble}")
        return self


class ProcessSettings(DatabaseSettings):
    """The settings of every process of a service, whatever it does."""

    http_host: str = Field("127.0.0.1", description="where /live, /ready and /metrics listen")
    http_port: int = Field(0, ge=0, le=65535, description="0 picks a free port")
    http_connections: int = Field(
        800,
        ge=10,
        description="connections over HTTP that may be open, nine tenths of them from one address",
    )
    log_format: Literal["json", "console"] = Field("json", description="json for machines, console for people")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug logs each message")
    otlp_endpoint: HttpUrl | None = Field(
        None,
        description="where a collector takes traces by OTLP over HTTP, such as `https://collector:4318/v1/traces`;"
        " without it, nothing is traced",
    )
    otlp_ca_file: Path | None = Field(
        None,
        description="certificates (PEM) of the authorities that the collector is trusted by; none: those of"
        " the package `certifi`",
    )
    trace_ratio: float = Field(
        0.01,
        ge=0,
        le=1,
        description="the share of traces that are recorded, of those that begin here; one that a message brings is"
        " recorded if its sender records it",
    )

    @model_validator(mode="after")
    def _collector_is_protected(self) -> Self:
        if (url := self.otlp_endpoint) is not None:
            protected = url.scheme == "https" or security.is_loopback(url.host or "")
            self._require(protected, "otlp_endpoint: give an https:// address")
        return self


class ServiceSettings(ProcessSettings, KafkaSettings):
    """What a process needs to be told that consumes, relays and fires timers."""

    database_pool: int = Field(6, ge=3, le=50, description="connections to PostgreSQL, the relay's included")
    batch_records: int = Field(2000, ge=1, le=10000, description="the most messages in one transaction")
    offset_commit_s: float = Field(2.0, gt=0, le=10, description="offsets are committed this often, after the database")
    inbox_retention_days: int = Field(
        14, ge=1, description="how long message ids are remembered; longer than any topic keeps its records"
    )
    measure_s: float = Field(
        15.0, gt=0, le=60, description="how often what waits in the database is counted: as often as Prometheus asks"
    )
    replica: str | None = Field(
        None, description="a stable name of this replica (static membership): its restart moves no partitions"
    )


class SagaSettings(ServiceSettings):
    """What a service that runs sagas needs to be told."""

    saga_retention_days: int = Field(
        90, ge=1, description="how long ended sagas are kept; not less than `inbox_retention_days`"
    )

    @model_validator(mode="after")
    def _sagas_outlast_messages(self) -> Self:
        if self.saga_retention_days < self.inbox_retention_days:
            raise ValueError("saga_retention_days is less than inbox_retention_days: a message would not find its saga")
        return self


S = TypeVar("S", bound=ConnectingSettings)


def load_settings(kind: type[S], principal: Principal) -> S:
    """Read a principal's settings, such as `LEDGER_DATABASE_URL`; raises pydantic's `ValidationError`."""
    directory = os.environ.get(SECRETS_DIRECTORY)

    class Prefixed(kind):  # type: ignore[valid-type,misc]
        model_config = SettingsConfigDict(
            env_prefix=f"{principal.value.upper()}_",
            secrets_dir=directory,
            extra="ignore",
            hide_input_in_errors=True,  # what is wrong is often beside a password
        )

        _files: Mapping[str, bytes] | None = PrivateAttr(None)

        def reread(self) -> None:
            """Take over secrets that have changed; of anything else that has, a restart takes notice."""
            if directory is None:
                return
            try:
                files = {file.name: file.read_bytes() for file in Path(directory).iterdir() if file.is_file()}
                if files == self._files:
                    return
                read = type(self)()
            except (ValueError, OSError) as error:  # a file is just being written
                log.warning("secrets_not_read", error=type(error).__name__)
                return
            self._files = files
            for name in _secrets(kind):
                setattr(self, name, getattr(read, name))

    return cast(S, Prefixed())


def settings_from(kind: type[S], prefix: str, values: Mapping[str, str]) -> S:
    """Return settings that are among `values`, by their environment names, and nowhere else.

    Raises pydantic's `ValidationError`.
    """

    class Given(kind):  # type: ignore[valid-type,misc]
        model_config = SettingsConfigDict(extra="ignore", hide_input_in_errors=True)

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **_: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (init_settings,)

    start = f"{prefix.upper()}_"
    named = {name.removeprefix(start).lower(): value for name, value in values.items() if name.startswith(start)}
    return cast(S, Given(**named))


def _secrets(kind: type[BaseSettings]) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        if field.annotation in (SecretStr, SecretStr | None):
            yield name
