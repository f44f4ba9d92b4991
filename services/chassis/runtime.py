"""Starts a service in order, runs it, and stops it in order.

A service can start before Kafka or PostgreSQL is up: it waits, alive but not ready. It survives a restart of either.
On SIGTERM it finishes the current batch, commits, leaves the group, and exits with 0.
"""

import asyncio
import gc
import signal
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
import structlog
import uvloop
from sqlalchemy.ext.asyncio import AsyncEngine

from popfax_contracts.topics import Principal, kept_at_most
from services.chassis import build, metrics, migrate, postgres
from services.chassis.consumer import Consumer, FencedError
from services.chassis.database import Cause
from services.chassis.early_exit import exit_on_signal
from services.chassis.health import Check, HttpServer, Site, health_app
from services.chassis.kafka_access import access
from services.chassis.logs import configure_logs
from services.chassis.markers import mark
from services.chassis.metrics import Part
from services.chassis.open_work import OpenWork, kinds_of
from services.chassis.outages import Outages
from services.chassis.partitions import Stops
from services.chassis.postgres import INBOX, PostgresDatabase
from services.chassis.process_names import Does, ProcessName
from services.chassis.pruning import Old, prune
from services.chassis.relay import Relay
from services.chassis.renewal import renew
from services.chassis.service import Service
from services.chassis.settings import ProcessSettings, ServiceSettings
from services.chassis.shell import Shell
from services.chassis.timers import run_retries, run_timers
from services.chassis.tracing import start_tracing, tracing
from services.chassis.wakeups import Bell, Wakeup
from services.chassis.watchdog import watch

log = structlog.get_logger(__name__)

END_S = 2.0
"""How long the end of the background tasks may take when the process stops."""

CANCELLED_EVERY_S = 0.5
"""How long a task has for its end before it is cancelled again."""

T = TypeVar("T", bound=ServiceSettings)
P = TypeVar("P", bound=ProcessSettings)

Background = Callable[[AsyncEngine, T, Outages, Wakeup], Coroutine[Any, Any, None]]
"""A background task of a service, which runs until cancelled (for example the mail sender).

Its `Wakeup` wakes it after each batch that this process has committed.
"""

SiteOf = Callable[[P, Callable[[], None]], Site | None]
"""Builds what a service serves over HTTP besides its health; it must call its argument after each of its commits."""


def run(service: Service, settings: T, background: Sequence[Background[T]] = (), site: SiteOf[T] | None = None) -> None:
    """Run a service until SIGTERM or SIGINT; with a `site`, it serves that from the same process."""
    configure_logs(service.principal.value, settings.log_format, settings.log_level)
    start_tracing(service.principal, settings)
    if retention(settings) <= kept_at_most():
        raise SystemExit(f"inbox_retention_days must exceed what topics keep at most, which is {kept_at_most()}")
    metrics.forget(*([] if site else [Part.SITE]), *([] if service.sagas else [Part.SAGAS]))
    name = ProcessName.of_this_process(service.principal, Does.ALL if site else Does.WORKER, settings.replica)
    engine = postgres.engine_of(settings, settings.database_pool, application_name=str(name))
    work = _Work(service, settings, engine, background)
    served = site(settings, work.relay.wake) if site else None
    _run(_Process(service.principal, settings, engine, work, served))


def serve(principal: Principal, settings: P, site: SiteOf[P]) -> None:
    """Serve only a service's site until SIGTERM or SIGINT; other processes do its work and publish what this writes.

    Nothing here waits for Kafka, and no batch blocks the event loop that people are waiting on.
    """
    configure_logs(principal.value, settings.log_format, settings.log_level)
    metrics.forget(Part.WORK, Part.SAGAS)
    start_tracing(principal, settings)
    name = ProcessName.of_this_process(principal, Does.WEB)
    engine = postgres.engine_of(settings, 1, application_name=str(name))
    _run(_Process(principal, settings, engine, None, site(settings, Bell(engine).ring)))


def _run(process: "_Process") -> None:
    metrics.BUILD.labels(process.principal.value, build.version(), build.commit()).set(1)
    uvloop.run(process.run())
    exit_on_signal()  # the event loop has restored the signal handlers


async def end(tasks: Collection[asyncio.Task[Any]], within_s: float = END_S) -> None:
    """Cancel tasks until they have ended, for so many seconds at most.

    Once is not enough for a task that goes on whatever fails: within a statement, a cancellation may come out as an
    error of its connection, and Python 3.11's `asyncio.wait_for` returns in place of a cancellation that arrives
    together with what it waits for.
    """
    give_up_at = time.monotonic() + within_s
    going_on = set(tasks)
    while going_on and time.monotonic() < give_up_at:
        for task in going_on:
            task.cancel()
        _, going_on = await asyncio.wait(going_on, timeout=CANCELLED_EVERY_S)
    await asyncio.gather(*(set(tasks) - going_on), return_exceptions=True)  # how they ended matters no more
    for task in going_on:
        log.warning("task_not_ended", task=getattr(task.get_coro(), "__qualname__", task.get_name()))


def retention(settings: ServiceSettings) -> timedelta:
    """Return how long message ids are kept, and whatever else is keyed by them."""
    return timedelta(days=settings.inbox_retention_days)


class _Work:
    """What a replica does beside answering over HTTP: it consumes, relays, fires timers, cleans up."""

    def __init__(
        self, service: Service, settings: Any, engine: AsyncEngine, background: Sequence[Background[Any]]
    ) -> None:
        self._principal = service.principal
        self._settings = settings
        self._engine = engine
        self._background = [(job, Wakeup()) for job in background]
        self._access = access(settings)
        self.relay = Relay(service.principal, engine, settings)
        database = PostgresDatabase(engine, partial(migrate.suits, service.principal))
        self._shell = Shell(service, database, committed=self._committed)
        self._consumer = Consumer(service, self._shell, settings, Stops(engine))
        self._open_work = OpenWork(engine, kinds_of(service), settings.measure_s)
        for cause in Cause:
            metrics.OUTAGE_SECONDS.labels(cause).set_function(partial(self._shell.outages.waited_s, cause))

    @property
    def alive(self) -> bool:
        """Return whether the consume loop gets on, and Kafka's client with it."""
        return self._consumer.alive

    @property
    def checks(self) -> dict[str, Check]:
        """Return what readiness consists of, by name."""
        return {"kafka": self._not_consuming, "work": self._waiting}

    def begin(self) -> list[asyncio.Task[None]]:
        """Begin with all of it: the relay first, for it may have rows of an earlier life."""
        return [
            asyncio.create_task(self.relay.run()),
            asyncio.create_task(self._consumer.run()),
            asyncio.create_task(renew(self._settings, self._access, self._consumer.renew, self.relay.renew)),
            asyncio.create_task(run_timers(self._shell)),
            asyncio.create_task(run_retries(self._shell)),
            asyncio.create_task(self._open_work.run()),
            asyncio.create_task(mark(self._engine, self._settings, self._principal, self.relay.wake)),
            # Message ids that no topic can deliver again.
            asyncio.create_task(prune(self._engine, Old(INBOX.c.received_at, retention(self._settings)))),
            *(
                asyncio.create_task(job(self._engine, self._settings, self._shell.outages, wakeup))
                for job, wakeup in self._background
            ),
        ]

    async def stop(self) -> None:
        """Finish the batch in hand and leave the group; the tasks of `begin` are then to be cancelled."""
        try:
            await self._consumer.stop()
        except Exception as error:  # what ended it early has been noted, or Kafka is away and can't be told
            log.warning("consumer_not_stopped", error=type(error).__name__)

    def _committed(self, to_relay: bool) -> None:
        if to_relay:
            self.relay.wake()
        for _, wakeup in self._background:
            wakeup.wake()

    async def _not_consuming(self) -> str | None:
        return self._consumer.trouble()

    async def _waiting(self) -> str | None:
        return self._shell.outages.trouble()


class _Process:
    """A process of a service: its signals, its HTTP server, its `work` if it does any, its `site` if it has one."""

    def __init__(
        self,
        principal: Principal,
        settings: Any,
        engine: AsyncEngine,
        work: _Work | None,
        site: Site | None,
    ) -> None:
        self.principal = principal
        self.settings = settings
        self.engine = engine
        self.work = work
        self.site = site
        self.tasks: list[asyncio.Task[None]] = []
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopped.set)
        closing = self.site.hang_up if self.site else lambda: None
        where = self.settings.http_host, self.settings.http_port
        http = HttpServer(self._health(), *where, closing, self.settings.http_connections)
        watching = asyncio.create_task(watch(self._alive))
        serving = asyncio.create_task(http.serve())
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self.stopped.wait())
        await asyncio.wait({starting, stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and not serving.done():
            starting.result()
            log.info("started", http_port=http.port)
            await asyncio.wait({stopping, serving, *self.tasks}, return_when=asyncio.FIRST_COMPLETED)
        failed = [t for t in (starting, serving, *self.tasks) if t.done() and not t.cancelled() and t.exception()]
        await self._stop(http, serving, starting)
        await end([watching])  # its timer goes on: the interpreter's own end may hang, too
        if failed:
            raise SystemExit(f"{self.principal}: {self._cause(failed[0].exception())}")
        log.info("stopped")

    async def _start(self) -> None:
        """Wait for a database that this version works on, then start."""
        while reason := await self._not_migrated():
            log.info("waiting", what="database", reason=reason)
            await asyncio.sleep(1)
        if self.work:
            self.tasks = self.work.begin()
        # Existing objects stay, so the garbage collector need not look at them again, and may run less often (which
        # otherwise takes a fifth of all CPU).
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)

    async def _not_migrated(self) -> str | None:
        try:
            return await migrate.trouble(self.principal, self.engine)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            return f"it does not answer: {postgres.reason(error)}"

    def _health(self) -> Any:
        checks = {"database": self._not_migrated, **(self.work.checks if self.work else {})}
        return health_app(live=self._alive, checks=checks, site=self.site)

    def _alive(self) -> bool:
        return self.work is None or self.work.alive

    def _cause(self, error: BaseException | None) -> str:
        if isinstance(error, FencedError):
            variable = f"{self.principal.upper()}_REPLICA={self.settings.replica}"
            return f"{variable} is taken: another process has joined under this name ({error})"
        return repr(error)

    async def _stop(self, http: HttpServer, serving: asyncio.Task[None], starting: asyncio.Task[None]) -> None:
        await end([starting])
        if self.work:
            await self.work.stop()
        await end(self.tasks)
        http.should_exit = True
        await asyncio.gather(asyncio.wait({serving}, timeout=2), tracing().stop())
        if self.site:
            await self.site.close()
        await self.engine.dispose()
