"""How connections are secured, whatever is spoken over them: what may be reached without TLS, and with which TLS.

A connection is protected if nobody in between can read it or pretend to be its other end: it stays on this machine, or
it has TLS and the server's certificate is for the name that we asked for. Everything else is refused when settings are
read. What a name resolves to is not asked: of names, only `localhost` is this machine.
"""

import ssl
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import sqlalchemy as sa

BY_DEFAULT = "probe"
"""librdkafka's word for the authorities that the system trusts."""


def is_loopback(host: str) -> bool:
    """Return whether a host, as written, is this machine."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def client_context(
    ca_file: Path | None, certificate_file: Path | None = None, key_file: Path | None = None
) -> ssl.SSLContext:
    """Return a context that verifies a server's certificate and name, and shows ours if there is one.

    Without `ca_file`, it trusts the system's authorities; with it, those of the file alone. Raises `ValueError` with
    the name of the file that is no good.
    """
    if certificate_file is None and key_file is not None:
        raise ValueError(f"there is a key ({key_file}) and no certificate")
    made = ssl.create_default_context() if ca_file is None else _trusting(ca_file)
    if certificate_file is not None:
        try:
            made.load_cert_chain(certificate_file, key_file, lambda: b"")  # else OpenSSL would ask in the terminal
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise ValueError(f"{certificate_file} is no certificate with the key {key_file}: {_said(error)}") from error
    return made


def _trusting(ca_file: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # of which verifying certificate and name is the default
    try:
        made.load_verify_locations(ca_file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{ca_file} holds no certificates of authorities: {_said(error)}") from error
    if not made.cert_store_stats()["x509_ca"]:
        raise ValueError(f"{ca_file} holds no certificate of an authority")
    return made


def _said(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__


def remote_brokers(bootstrap: str) -> list[str]:
    """Return the brokers of a list that are on other machines. Raises `ValueError` for what is not host:port."""
    return [host for host in map(_host_of, bootstrap.split(",")) if not is_loopback(host)]


def _host_of(broker: str) -> str:
    parts = urlsplit(f"//{broker}")
    if not parts.hostname or parts.port is None or parts.netloc != broker or "@" in broker:
        raise ValueError(f"{broker!r} is not host:port")  # also SASL_SSL://host:port, which one of our clients takes
    return parts.hostname


def unprotected_database(url: str) -> str | None:
    """Say why whoever is in between could listen to a database's connections, or pose as the server; None if not.

    What the URL leaves open comes from where libpq takes it: the environment (`PGHOST`, `PGSSLMODE`) and its defaults.
    Raises `ValueError` for what is no URL.
    """
    try:
        parsed = sa.make_url(url)
        _, given = parsed.get_dialect()().create_connect_args(parsed)
        defaults = dict(_defaults())
    except (sa.exc.ArgumentError, ValueError, MemoryError):  # the last is how an unknown PGSERVICE shows
        # Without its cause, which may quote the password.
        raise ValueError("it is not a URL such as postgresql+psycopg://role:password@host:port/database") from None
    if "service" in given:  # its file may name any host, and is libpq's to read
        remote, options = ["a service's host"], dict(given)
    else:
        options = {**defaults, **given}
        remote = list(_remote_servers(options))
    _require_file(options.get("sslrootcert"))
    if not remote or options.get("sslmode") == "verify-full":
        return None
    mode = f"sslmode={options['sslmode']}" if "sslmode" in options else "no sslmode"
    return f"{', '.join(remote)} would be reached with {mode}: give sslmode=verify-full"


def _defaults() -> Iterator[tuple[str, str]]:
    for option in psycopg.pq.Conninfo.get_defaults():
        if option.val:
            yield option.keyword.decode(), option.val.decode()


def _remote_servers(options: Mapping[str, object]) -> Iterator[str]:
    """Yield the servers on other machines. An address (`hostaddr`) goes before the name that it was given for."""
    names, addresses = (str(options.get(each) or "").split(",") for each in ("host", "hostaddr"))
    for number in range(max(len(names), len(addresses))):
        server = _at(addresses, number) or _at(names, number)
        if server and not server.startswith(("/", "@")) and not is_loopback(server):  # those are sockets in files
            yield server


def _at(texts: list[str], number: int) -> str:
    return texts[number].strip() if number < len(texts) else ""


def _require_file(place: object) -> None:
    if place and place != "system":
        client_context(Path(str(place)))


def contents(files: Iterable[Path | None]) -> tuple[bytes | None, ...]:
    """Return what is in files, to see whether they have changed. Raises `OSError`."""
    return tuple(None if file is None else file.read_bytes() for file in files)
