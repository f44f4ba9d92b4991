"""The product of a run: two replicas of each service and three brokers, and a network between them that can fail."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from deploy.local.errors import StackError
from deploy.local.kafka import BROKERS, KafkaBroker, KafkaCluster, Member
from deploy.local.ports import LOOPBACK, Port, free_port
from deploy.local.postgres import PostgresServer
from deploy.local.product import Product, ServiceProcess
from deploy.local.stack import Broker, Database, Stack
from deploy.operator.kafka import MECHANISM
from popfax_contracts.topics import SERVICES, Principal
from services.chassis import postgres
from services.provisioning import catalogue
from tests.conftest import ANY_PORTS
from tests.nemesis import statements
from tests.nemesis.commands import OPTIONS, PLANS
from tests.nemesis.history import STATEMENTS
from tests.nemesis.proxy import Network
from tests.nemesis.schedule import BROKER_NAMES, CLIENTS, MAILERS, QUORUM, REPLICAS, TO

SETTINGS = {
    "batch_records": "50",  # many batches, so that faults come in the middle of them
    "offset_commit_s": "1",
    "mail_lease_s": "10",
    "mail_backoff_s": "[0.5, 2, 5]",
    "mail_poll_s": "0.5",
    "invitations_owner_day": "5000",
    "invitations_owner_pending": "5000",
    "web_limit_person": "6000/minute",
    "web_limit_commands": "6000/minute",
}
"""The services' settings: those of production, but for delays and limits that would hide what is tried here."""

_EXTRA = 3
"""The number of the replica that comes and goes. It has the second one's connections."""

_READY_WITHIN_S = 180.0
"""How long all replicas may take to get ready, eight at the same time and on a machine that does other things too."""
_LOOKS_EVERY_S = 0.5

_DISK_MIB = 1024
_SPARE_KIB = 64
_FAKETIME = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/local/lib/faketime/libfaketime.so.1")
FAKETIME = "NEMESIS_FAKETIME"
"""Names libfaketime, if it is elsewhere than where Debian has it."""


def link_names() -> list[str]:
    """Return the names of all connections between two parts."""
    to_brokers = [f"{who}{TO}{broker}" for who in (*REPLICAS, CLIENTS, QUORUM) for broker in BROKER_NAMES]
    to_postgres = [f"{name}{TO}postgres" for name in REPLICAS]
    return [*to_brokers, *to_postgres, *(f"{name}{TO}mail" for name in MAILERS), f"groups{TO}keys"]


class ProxiedCluster(KafkaCluster):
    """Three brokers, each with a listener for each replica, so that any replica can be cut off from any broker."""

    def __init__(self, directory: Path, network: Network) -> None:
        super().__init__(directory)
        self._controllers.update({number: free_port() for number in range(1, BROKERS + 1)})
        self.brokers = [self._broker(number, network) for number in range(1, BROKERS + 1)]

    def _broker(self, number: int, network: Network) -> KafkaBroker:
        ports = {who: free_port() for who in (CLIENTS, *REPLICAS)}
        links = {who: network.links[f"{who}{TO}broker-{number}"] for who in ports}
        for who, link in links.items():
            link.lead_to(ports[who])
        names = {who: _listener(who) for who in ports}
        quorum = {each: network.links[f"{QUORUM}{TO}broker-{each}"] for each in self._controllers}
        quorum[number].lead_to(self._controllers[number])
        controller = f"CONTROLLER://{LOOPBACK}:{self._controllers[number]}"
        advertised = f"CONTROLLER://{LOOPBACK}:{quorum[number].port}"
        jaas = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        settings = {
            "listeners": ",".join([*(f"{names[who]}://{LOOPBACK}:{port}" for who, port in ports.items()), controller]),
            "advertised.listeners": ",".join(
                [*(f"{names[who]}://{LOOPBACK}:{link.port}" for who, link in links.items()), advertised]
            ),
            "controller.quorum.voters": ",".join(f"{each}@{LOOPBACK}:{link.port}" for each, link in quorum.items()),
            "listener.security.protocol.map": ",".join(
                f"{name}:SASL_PLAINTEXT" for name in (*names.values(), "CONTROLLER")
            ),
            "num.network.threads": "1",
        }
        for who in REPLICAS:
            of = f"listener.name.{names[who].lower()}"
            settings[f"{of}.sasl.enabled.mechanisms"] = MECHANISM
            settings[f"{of}.{MECHANISM.lower()}.sasl.jaas.config"] = jaas
        return KafkaBroker(
            self._directory.with_name(f"{self._directory.name}-{number}"),
            Port("POPFAX_KAFKA_PORT", ports[CLIENTS]),
            settings=settings,
            member=Member(number, self._controllers, self._directory / "passwords.json"),
        )


def _listener(who: str) -> str:
    return who.replace("-", "").upper()


class ProxiedStack(Stack):
    """The servers. As root, the last broker's and PostgreSQL's disks are small file systems that can be full."""

    def __init__(self, directory: Path, network: Network) -> None:
        self._network = network
        self.disks: dict[str, Path] = {}
        """The file systems that were made, by the names of whose they are."""
        super().__init__(directory, ANY_PORTS, brokers=BROKERS)

    def _make_kafka(self, port: Port) -> Broker:
        self.cluster = ProxiedCluster(self.directory / "kafka", self._network)
        return self.cluster

    def _make_postgres(self, port: Port) -> Database:
        return PostgresServer(self.directory / "postgres", port, statements.settings(self.directory / STATEMENTS))

    def _prepare(self) -> None:
        super()._prepare()
        if os.geteuid() == 0:
            for name, path in ((BROKER_NAMES[-1], f"kafka-{BROKERS}"), ("postgres", "postgres")):
                disk = self.directory / path
                disk.mkdir(mode=0o700, exist_ok=True)
                if _mount("-t", "tmpfs", "-o", f"size={_DISK_MIB}m,mode=0711", "tmpfs", str(disk)):
                    self.disks[name] = disk

    def fill(self, name: str) -> None:
        """Make a disk as large as what is on it, and a little more."""
        path = self.disks[name]
        while not _mount("-o", f"remount,size={shutil.disk_usage(path).used // 1024 + _SPARE_KIB}k", str(path)):
            pass  # it has grown by more meanwhile

    def empty(self, name: str) -> None:
        """Make a disk as large as it was."""
        _mount("-o", f"remount,size={_DISK_MIB}m", str(self.disks[name]))

    def remove(self, keep: bool = False) -> None:
        """Stop all, and delete the file systems and, unless it is to be kept, the directory."""
        self.stop()
        for disk in self.disks.values():
            subprocess.run(["umount", str(disk)], check=False)
        if not keep:
            super().remove()


def _mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode == 0


_PROBED_EVERY_S = 10.0


class Replica:
    """A process that is kept running, as an orchestrator would, unless a fault holds it down."""

    def __init__(self, process: ServiceProcess, settings: Mapping[str, str]) -> None:
        self.lock = threading.RLock()
        self.process = process
        self.ended = 0
        """How often it has ended by itself."""
        self._settings = settings
        self._wanted = False
        self._probed_at = time.monotonic()

    def launch(self) -> None:
        """Start it, and keep it running from now on."""
        with self.lock:
            self._wanted = True
            if not self.runs():
                self.process.launch(**self._settings)

    def kill(self) -> None:
        """End it with SIGKILL, for now."""
        with self.lock:
            self._wanted = False
            self.process.kill()

    def stop(self) -> None:
        """End it with SIGTERM, for now."""
        with self.lock:
            self._wanted = False
            self.process.stop()

    def exchange(self, process: ServiceProcess) -> None:
        """Go on as another process, which starts at once."""
        with self.lock:
            self.stop()
            self.process = process
            self.launch()

    def signal(self, what: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        with self.lock, suppress(StackError, ProcessLookupError):
            os.kill(self.process.pid, what)

    def runs(self) -> bool:
        """Return whether the process is there."""
        try:
            return bool(self.process.pid)
        except StackError:
            return False

    def look_after(self) -> None:
        """Start it again if it has ended by itself, or says that it is not alive."""
        if not self.lock.acquire(blocking=False):
            return  # a fault is at work
        try:
            if self._wanted and not (self.runs() and self._lives()):
                self.ended += 1
                self.process.kill()
                self.process.launch(**self._settings)
        finally:
            self.lock.release()

    def _lives(self) -> bool:
        """Return what a probe would: one that does not answer may be frozen, and then goes on."""
        if time.monotonic() - self._probed_at < _PROBED_EVERY_S:
            return True
        self._probed_at = time.monotonic()
        try:
            with urllib.request.urlopen(f"{self.process.url}/live", timeout=1):
                return True
        except urllib.error.HTTPError:
            return False
        except OSError:
            return True


class Fleet:
    """All of it, by the names that a schedule uses."""

    def __init__(self, directory: Path, progress: Callable[[str], None] = lambda _: None, keep: bool = False) -> None:
        """With `keep`, the directory stays, but for what is on file systems of its own."""
        self._directory = directory
        self._keep = keep
        self._progress = progress
        self._open = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def _start(self) -> None:
        self.network = self._open.enter_context(Network(link_names()))
        self.stack = ProxiedStack(self._directory, self.network)
        self._open.callback(self.stack.remove, keep=self._keep)
        self.stack.start()
        self._progress("three brokers, PostgreSQL and the mail sink are up")
        self.brokers = dict(zip(BROKER_NAMES, self.stack.cluster.brokers, strict=True))
        self._lead()
        self.product = Product(self.stack)
        self.product.prepare()
        asyncio.run(self._price())
        self._progress("topics, databases and plans are there")
        self.replicas = {name: self._replica(name) for name in REPLICAS}
        self.extras = {service: self._replica(f"{service}-2", _EXTRA) for service in SERVICES}
        self._open.callback(self._stop)
        for replica in self.replicas.values():
            replica.launch()
        deadline = time.monotonic() + _READY_WITHIN_S
        while away := self.away():
            if time.monotonic() > deadline:
                raise StackError(f"{away}: its log is in {self._directory}")
            time.sleep(_LOOKS_EVERY_S)
        self._progress(f"{len(self.replicas)} replicas are ready")

    def _lead(self) -> None:
        for name, link in self.network.links.items():
            match name.partition(TO)[2]:
                case "postgres":
                    link.lead_to(self._postgres_port)
                case "mail":
                    link.lead_to(self.stack.mail.port)
                case "keys":
                    link.lead_to(self._open.enter_context(_serving(self.stack.keys.key_set)))

    @property
    def _postgres_port(self) -> int:
        return int(self.stack.postgres.url(Principal.GROUPS).rpartition(":")[2].partition("/")[0])

    @property
    def database(self) -> PostgresServer:
        """Return the server of the databases."""
        assert isinstance(self.stack.postgres, PostgresServer)
        return self.stack.postgres

    def database_processes(self) -> list[psutil.Process]:
        """Return PostgreSQL's processes, the postmaster first. Raises StackError when it does not run."""
        root = psutil.Process(self.database.pid)
        return [root, *root.children(recursive=True)]

    def of(self, service: str) -> list[Replica]:
        """Return a service's replicas."""
        return [replica for name, replica in self.replicas.items() if name.startswith(service)]

    def process(self, name: str, number: int | None = None, clock_s: int = 0) -> ServiceProcess:
        """Return a process for a replica, whose clock is this much ahead. It has the replica's ports and name."""
        service = Principal(name.partition("-")[0])
        label = name if number is None else f"{service}-{number}"
        if not clock_s:
            return ServiceProcess(service, self.stack, name=label)
        set_ = (f"LD_PRELOAD={faketime()}", f"FAKETIME={clock_s:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC=1")
        run = (*set_, sys.executable, "-m", f"services.{service}.app")
        return ServiceProcess(service, self.stack, name=label, run=run, python="/usr/bin/env")

    def look_after(self) -> None:
        """Start again what has ended by itself."""
        for replica in (*self.replicas.values(), *self.extras.values()):
            replica.look_after()

    def away(self) -> str:
        """Say which replica does not work by its own account; "" if all do."""
        return next((f"{name} is not ready" for name, each in self.replicas.items() if not each.process.ready()), "")

    def _replica(self, name: str, number: int | None = None) -> Replica:
        return Replica(self.process(name, number), self._settings(name, number or int(name[-1])))

    def _settings(self, name: str, number: int) -> Mapping[str, str]:
        service = Principal(name.partition("-")[0])
        port = {where: str(self.network.links[f"{name}{TO}{where}"].port) for where in ("postgres", *BROKER_NAMES)}
        settings = {
            **SETTINGS,
            "database_url": self.stack.postgres.url(service).replace(
                f":{self._postgres_port}/", f":{port['postgres']}/"
            ),
            "kafka_bootstrap": ",".join(f"{LOOPBACK}:{port[broker]}" for broker in BROKER_NAMES),
        }
        if number != _EXTRA:
            settings["replica"] = str(number)
        if service is Principal.NOTIFICATIONS:
            settings["smtp_port"] = str(self.network.links[f"{name}{TO}mail"].port)
        if service is Principal.GROUPS:
            settings["jwt_jwks"] = f"http://{LOOPBACK}:{self.network.links[f'groups{TO}keys'].port}/jwks.json"
        return settings

    def _stop(self) -> None:
        for replica in (*self.replicas.values(), *self.extras.values()):
            replica.signal(signal.SIGCONT)
            replica.kill()

    async def _price(self) -> None:
        """Put on sale what the stories' owners can pay."""
        read = catalogue.read(catalogue.DEFAULT)
        plans = {
            name: entry.model_copy(update={"price_units": PLANS[name].price_units, "validity_months": 12})
            for name, entry in read.plans.items()
        }
        options = {
            name: entry.model_copy(update={"price_units": OPTIONS[name].price_units})
            for name, entry in read.options.items()
        }
        engine = postgres.engine(self.stack.postgres.url(Principal.PROVISIONING))
        try:
            changed = read.model_copy(update={"plans": plans, "options": options})
            await catalogue.store(changed, engine, datetime.now(UTC))
        finally:
            await engine.dispose()


def faketime() -> str | None:
    """Return where libfaketime is; None if it is nowhere."""
    if named := os.environ.get(FAKETIME):
        return named
    return next((str(path) for pattern in _FAKETIME for path in Path("/").glob(pattern[1:])), None)


@contextmanager
def _serving(file: Path) -> Iterator[int]:
    """Serve one file over HTTP, whatever is asked for, until the block ends; yield the port."""
    server = ThreadingHTTPServer((LOOPBACK, 0), partial(_OneFile, file))
    thread = threading.Thread(target=server.serve_forever, name="keys", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _OneFile(BaseHTTPRequestHandler):
    """Answers with a file."""

    def __init__(self, file: Path, *arguments: object) -> None:
        self._file = file
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answer. The server finds this method by its name."""
        content = self._file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""
