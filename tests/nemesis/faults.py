"""The faults: each begins, lasts, and ends with everything mended that it broke."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random
from typing import Any

import psutil
import psycopg
from psycopg import sql

from deploy.local.errors import StackError
from deploy.operator.kafka import ADMIN
from popfax_contracts.topics import SERVICES, Principal
from tests.e2e.driver import DEFINITIONS
from tests.nemesis.fleet import Fleet, Replica, faketime
from tests.nemesis.offsets import to_the_beginning
from tests.nemesis.schedule import BROKER_NAMES, TO, Planned, claims, links

DELAY_S = 0.3
"""How much later everything arrives on a slow connection."""
CLOCK_S = 600
"""How far a clock is set ahead or back."""
SCALED_EVERY_S = 20.0
_ENDS_EVERY_S = 1.0
_STARTS_WITHIN_S = 240.0
_GROUP_EMPTIES_S = 15.0
"""How long after a group's last member its offsets can be set: a member with a name is waited for."""


class Skipped(Exception):
    """This machine can't have this fault. The message says why."""


class Fault:
    """A fault of a plan. `begin` and `end` are called once each, from a thread of the fault's own."""

    def __init__(self, fleet: Fleet, planned: Planned) -> None:
        self.fleet = fleet
        self.planned = planned
        self.random = Random(planned.seed)
        self.over = threading.Event()
        """Set when it is time to end."""

    @property
    def victim(self) -> str:
        """Return the name of what it strikes."""
        return self.planned.victim

    def begin(self) -> None:
        """Break something. Raises `Skipped`."""

    def end(self) -> None:
        """Mend it."""

    def every(self, seconds: float, do: Callable[[], object]) -> None:
        """Do something now and every so often until it is time to end."""
        do()
        while not self.over.wait(seconds):
            do()


# --- replicas ---------------------------------------------------------------------------------------------------------


class OfReplica(Fault):
    """Strikes one replica."""

    @property
    def replica(self) -> Replica:
        """Return the replica."""
        return self.fleet.replicas[self.victim]


class Kill(OfReplica):
    """SIGKILL, and it comes back later."""

    def begin(self) -> None:
        self.replica.kill()

    def end(self) -> None:
        self.replica.launch()


class Terminate(Kill):
    """SIGTERM, and it comes back later."""

    def begin(self) -> None:
        self.replica.stop()


class Freeze(OfReplica):
    """SIGSTOP, and SIGCONT later: it goes on as if nothing had been, in a world that has gone on without it."""

    def begin(self) -> None:
        self.replica.signal(signal.SIGSTOP)

    def end(self) -> None:
        self.replica.signal(signal.SIGCONT)


class OfService(Fault):
    """Strikes all replicas of a service."""

    def all(self, do: Callable[[Replica], object]) -> None:
        """Do something to all its replicas at the same time."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(do, self.fleet.of(self.victim)))


class Clock(OfService):
    """All replicas of a service have a clock that is wrong by ten minutes."""

    sign = 1

    def begin(self) -> None:
        if faketime() is None:
            raise Skipped("libfaketime is not installed (on Debian and Ubuntu: apt install libfaketime)")
        self._set(self.sign * CLOCK_S)

    def end(self) -> None:
        self._set(0)

    def _set(self, ahead_s: int) -> None:
        for name in sorted(claims(self.victim)):
            self.fleet.replicas[name].exchange(self.fleet.process(name, clock_s=ahead_s))


class ClockBack(Clock):
    """The same, but behind."""

    sign = -1


class Scale(OfService):
    """One replica, three, one, and so on, every 20 s."""

    def begin(self) -> None:
        self.every(SCALED_EVERY_S, self._change)

    def end(self) -> None:
        self._extra.stop()
        self.fleet.of(self.victim)[1].launch()

    def _change(self) -> None:
        second = self.fleet.of(self.victim)[1]
        if second.runs():
            second.stop()
            self._extra.stop()
        else:
            second.launch()
            self._extra.launch()

    @property
    def _extra(self) -> Replica:
        return self.fleet.extras[Principal(self.victim)]


class Replay(OfService):
    """A service reads everything again from the beginning: its group's offsets are set to it."""

    def begin(self) -> None:
        self.all(Replica.stop)
        config = {**self.fleet.stack.kafka.client_config(ADMIN), "log_level": 0}
        topics = DEFINITIONS[Principal(self.victim)].topics
        deadline = time.monotonic() + 4 * _GROUP_EMPTIES_S
        while why := to_the_beginning(config, self.victim, topics):
            # The group is not empty yet, or the brokers have a fault of their own.
            if time.monotonic() > deadline:
                raise Skipped(f"the group's offsets could not be set: {why}")
            time.sleep(1)

    def end(self) -> None:
        self.all(Replica.launch)


# --- servers ----------------------------------------------------------------------------------------------------------


class OfBrokers(Fault):
    """Strikes a broker, or all of them."""

    def all(self, do: Callable[[Any], object]) -> None:
        """Do something to each at the same time."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(do, [self.fleet.brokers[name] for name in self.names]))

    @property
    def names(self) -> list[str]:
        """Return the names of the brokers that it strikes."""
        return [name for name in BROKER_NAMES if name in claims(self.victim)]


class KillBrokers(OfBrokers):
    """SIGKILL, and they come back later, with their data as they are."""

    def begin(self) -> None:
        self.all(lambda broker: broker.kill())

    def end(self) -> None:
        self.all(started)


class StopBroker(KillBrokers):
    """SIGTERM, and it comes back later."""

    def begin(self) -> None:
        self.all(lambda broker: broker.stop())


class FreezeBrokers(OfBrokers):
    """SIGSTOP, and SIGCONT later."""

    def begin(self) -> None:
        self.all(lambda broker: broker.pause())

    def end(self) -> None:
        self.all(lambda broker: broker.resume())


class KillDatabase(Fault):
    """SIGKILL of all of PostgreSQL's processes, which comes back later and recovers."""

    def begin(self) -> None:
        self.fleet.database.kill()

    def end(self) -> None:
        started(self.fleet.database)


class FreezeDatabase(Fault):
    """SIGSTOP of all of PostgreSQL's processes."""

    _frozen: Sequence[psutil.Process] = ()

    def begin(self) -> None:
        self._frozen = self.fleet.database_processes()
        self._each(psutil.Process.suspend)

    def end(self) -> None:
        self._each(psutil.Process.resume)

    def _each(self, do: Callable[[psutil.Process], object]) -> None:
        for process in self._frozen:
            with suppress(psutil.NoSuchProcess):
                do(process)


class FillDisk(Fault):
    """A server's disk is full: what it does then is its own affair. It is started again once there is room."""

    def begin(self) -> None:
        if self.victim not in self.fleet.stack.disks:
            raise Skipped("only root may mount the small file systems")
        self.fleet.stack.fill(self.victim)

    def end(self) -> None:
        self.fleet.stack.empty(self.victim)
        server = self.fleet.brokers.get(self.victim, self.fleet.database)
        if not (isinstance(server, type(self.fleet.database)) and self._is_whole()):
            server.kill()
            started(server)

    def _is_whole(self) -> bool:
        """Return whether PostgreSQL has come through it, as it does when only a batch has failed."""
        try:
            with psycopg.connect(_url(self.fleet, Principal.LEDGER), connect_timeout=5) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True


def started(server: Any) -> None:
    """Start a server, however often it takes: another fault may keep it from getting ready."""
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while True:
        try:
            return server.start()  # type: ignore[no-any-return]
        except StackError as error:
            if "runs already" in str(error):
                return None
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


# --- connections ------------------------------------------------------------------------------------------------------


class Cut(Fault):
    """Nothing gets through a connection, in either direction, and nobody is told."""

    def begin(self) -> None:
        self.fleet.network.set(links(self.victim), cut=True)

    def end(self) -> None:
        self.fleet.network.set(links(self.victim))


class Slow(Cut):
    """Everything arrives later."""

    def begin(self) -> None:
        self.fleet.network.set(links(self.victim), delay_s=DELAY_S)


class NoKeys(Cut):
    """The server of the platform's public keys refuses connections."""

    def begin(self) -> None:
        self.fleet.network.set(self._links, refuses=True)

    def end(self) -> None:
        self.fleet.network.set(self._links)

    @property
    def _links(self) -> Sequence[str]:
        return [name for name in self.fleet.network.links if name.endswith(f"{TO}{self.victim}")]


# --- databases --------------------------------------------------------------------------------------------------------


class OfDatabase(Fault):
    """Strikes a service's database."""

    @property
    def service(self) -> Principal:
        """Return whose it is."""
        return next(service for service in SERVICES if self.victim.endswith(service))

    def begin(self) -> None:
        try:
            with psycopg.connect(_url(self.fleet, self.service), connect_timeout=5) as connection:
                self.strike(connection)
                connection.rollback()
        except psycopg.OperationalError:
            self.over.wait()  # the database has another fault, or this one's session was ended

    def strike(self, connection: psycopg.Connection) -> None:
        """Do it, and come back when it is time to end."""


class EndSessions(OfDatabase):
    """All of a service's connections are ended, every second."""

    def strike(self, connection: psycopg.Connection) -> None:
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s AND pid <> pg_backend_pid()"
        self.every(_ENDS_EVERY_S, lambda: connection.execute(end, [self.service.value]))


class LockTable(OfDatabase):
    """Somebody has a table for themselves."""

    def strike(self, connection: psycopg.Connection) -> None:
        connection.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier(self.table(connection))))
        self.over.wait()

    def table(self, connection: psycopg.Connection) -> str:
        """Return one of the service's tables."""
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1").fetchall()
        return str(self.random.choice(found)[0])


class LockRows(LockTable):
    """Somebody has some of a table's rows for themselves."""

    def strike(self, connection: psycopg.Connection) -> None:
        some = sql.SQL("SELECT 1 FROM {} TABLESAMPLE BERNOULLI (50) FOR UPDATE SKIP LOCKED")
        connection.execute(some.format(sql.Identifier(self.table(connection))))
        self.over.wait()


class RetryParked(Fault):
    """An operator retries all parked messages, readable or not."""

    def begin(self) -> None:
        environment: dict[str, str] = {}
        for name in (ADMIN, *SERVICES):
            environment |= self.fleet.stack.service_environment(name)
        command = [sys.executable, "-m", "deploy.operator.cli", "parked", "retry", "--all", "--timeout", "5"]
        subprocess.run(command, env=environment, check=False, capture_output=True, timeout=120)


def _url(fleet: Fleet, service: Principal) -> str:
    """Return the address of a service's database for the superuser, whom its limits do not hold."""
    url = fleet.stack.postgres.superuser_url.replace("+psycopg", "", 1)
    return f"{url.rpartition('/')[0]}/{service}"


# --- mail -------------------------------------------------------------------------------------------------------------


class SlowMail(Fault):
    """The mail server's answers take their time."""

    def begin(self) -> None:
        self.fleet.network.set(self._links, delay_s=4 * DELAY_S)

    def end(self) -> None:
        self.fleet.network.set(self._links)

    @property
    def _links(self) -> Sequence[str]:
        return [name for name in self.fleet.network.links if name.endswith(f"{TO}{self.victim}")]


class RefuseMail(Fault):
    """The mail server refuses every mail for now."""

    def begin(self) -> None:
        self.fleet.stack.mail.refuse.touch()

    def end(self) -> None:
        self.fleet.stack.mail.refuse.unlink(missing_ok=True)


class DropAnswers(Fault):
    """The mail server takes mails and ends the connection before it says so: their senders can't know."""

    def begin(self) -> None:
        self.fleet.stack.mail.hang_after_data.touch()

    def end(self) -> None:
        self.fleet.stack.mail.hang_after_data.unlink(missing_ok=True)


class NoMailServer(Fault):
    """The mail server is killed."""

    def begin(self) -> None:
        self.fleet.stack.mail.kill()

    def end(self) -> None:
        started(self.fleet.stack.mail)


FAULTS: Mapping[str, type[Fault]] = {
    "kill": Kill,
    "terminate": Terminate,
    "freeze": Freeze,
    "kill a broker": KillBrokers,
    "stop a broker": StopBroker,
    "freeze a broker": FreezeBrokers,
    "kill all brokers": KillBrokers,
    "freeze all brokers": FreezeBrokers,
    "kill PostgreSQL": KillDatabase,
    "freeze PostgreSQL": FreezeDatabase,
    "cut": Cut,
    "slow": Slow,
    "cut between brokers": Cut,
    "slow between brokers": Slow,
    "fill a broker's disk": FillDisk,
    "fill PostgreSQL's disk": FillDisk,
    "set the clock ahead": Clock,
    "set the clock back": ClockBack,
    "one replica, three replicas": Scale,
    "end sessions": EndSessions,
    "lock a table": LockTable,
    "lock rows": LockRows,
    "replay a group": Replay,
    "retry what is parked": RetryParked,
    "slow mail": SlowMail,
    "refuse mail": RefuseMail,
    "no mail server": NoMailServer,
    "drop mail's answers": DropAnswers,
    "no keys": NoKeys,
}
"""What does each kind of a schedule."""
