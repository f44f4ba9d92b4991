"""Settings: environment variables with one prefix per service, or files with the same names in a secrets directory."""

import os
from ipaddress import ip_address
from typing import Annotated, Literal, TypeVar, cast

from pydantic import AfterValidator, Field, HttpUrl, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from popfax_contracts.topics import Principal

SECRETS_DIRECTORY = "POPFAX_SECRETS_DIR"
"""Names a directory with one file per setting (`ledger_database_url`), as container platforms mount secrets."""


def _is_protected(url: HttpUrl) -> HttpUrl:
    """Accept https, and http on this machine; no user name, since parsers differ in what they take for the host."""
    if url.username is not None or url.password is not None:
        raise ValueError("give an address without a user name")
    if url.scheme != "https" and not _is_loopback(url.host or ""):
        raise ValueError("give an https:// address")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


ProtectedUrl = Annotated[HttpUrl, AfterValidator(_is_protected)]
"""An address to which nobody can listen in between: `https://`, or this very machine."""


class KafkaSettings(BaseSettings):
    """How to reach Kafka as one principal."""

    kafka_bootstrap: str = Field(description="host:port of the brokers to begin with, separated by commas")
    kafka_username: str = Field(description="the principal's SCRAM user")
    kafka_password: SecretStr = Field(description="the principal's SCRAM password")
    kafka_security: Literal["SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "SASL_PLAINTEXT", description="SASL_SSL wherever the network is not one machine's"
    )


class ProcessSettings(BaseSettings):
    """The settings of every process of a service, whatever it does."""

    database_url: SecretStr = Field(description="postgresql+psycopg://role:password@host:port/database")
    http_host: str = Field("127.0.0.1", description="where /live, /ready and /metrics listen")
    http_port: int = Field(0, ge=0, le=65535, description="0 picks a free port")
    http_connections: int = Field(
        800,
        ge=10,
        description="connections over HTTP that may be open, nine tenths of them from one address",
    )
    log_format: Literal["json", "console"] = Field("json", description="json for machines, console for people")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug logs each message")


class ServiceSettings(ProcessSettings, KafkaSettings):
    """What a process needs to be told that consumes, relays and fires timers."""

    database_pool: int = Field(6, ge=3, le=50, description="connections to PostgreSQL, the relay's included")
    batch_records: int = Field(2000, ge=1, le=10000, description="the most messages in one transaction")
    offset_commit_s: float = Field(2.0, gt=0, le=10, description="offsets are committed this often, after the database")
    inbox_retention_days: int = Field(
        14, ge=1, description="how long message ids are remembered; longer than any topic keeps its records"
    )
    replica: str | None = Field(
        None, description="a stable name of this replica (static membership): its restart moves no partitions"
    )


S = TypeVar("S", bound=BaseSettings)


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

    return cast(S, Prefixed())
