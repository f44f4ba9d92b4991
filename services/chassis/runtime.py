"""Starts a service in order, runs it, and stops it in order.

A service starts when Kafka or PostgreSQL is not up yet: it waits, alive and not ready. It survives the restart of
either. SIGTERM finishes the batch in hand, commits, leaves the group, and exits 0.
"""

import asyncio
import gc
import signal
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
import structlog
import uvloop
from sqlalchemy.ext.asyncio import AsyncEngine

from popfax_contracts.topics import kept_at_most
from services.chassis import migrate, postgres
from services.chassis.consumer import Consumer, FencedError
from services.chassis.ending import end_at_once
from services.chassis.health import HttpServer, Site, health_app
from services.chassis.logs import configure_logs
from services.chassis.markers import mark
from services.chassis.outages import Outages
from services.chassis.partitions import Stops
from services.chassis.postgres import INBOX, PostgresDatabase
from services.chassis.pruning import prune
from services.chassis.relay import Relay
from services.chassis.service import Service
from services.chassis.settings import ServiceSettings
from services.chassis.shell import Shell
from services.chassis.timers import run_retries, run_timers

log = structlog.get_logger(__name__)

T = TypeVar("T", bound=ServiceSettings)

Background = Callable[[AsyncEngine, T, Outages], Coroutine[Any, Any, None]]
"""Something a service does beside its messages, until cancelled (the mail sender is one)."""

SiteOf = Callable[[T, Callable[[], None]], Site | None]
"""Makes what a service serves over HTTP beside its health; it calls what it is given after each of its commits."""


def run(service: Service, settings: T, background: Sequence[Background[T]] = (), site: SiteOf[T] | None = None) -> None:
    """Run a service until SIGTERM or SIGINT."""
    configure_logs(service.principal.value, settings.log_format, settings.log_level)
    if retention(settings) <= kept_at_most():
        raise SystemExit(f"inbox_retention_days must exceed what topics keep at most, which is {kept_at_most()}")
    uvloop.run(_Process(service, settings, background, site).run())
    end_at_once()  # the loop has given the signals back


def retention(settings: ServiceSettings) -> timedelta:
    """Give for how long message ids are remembered, and what else is known by them."""
    return timedelta(days=settings.inbox_retention_days)


class _Process:
    def __init__(
        self,
        service: Service,
        settings: Any,
        background: Sequence[Background[Any]],
        site: SiteOf[Any] | None,
    ) -> None:
        self.service = service
        self.settings = settings
        self.engine = postgres.engine(settings.database_url.get_secret_value(), settings.database_pool)
        self.relay = Relay(service.principal, self.engine, settings)
        self.shell = Shell(
            service, PostgresDatabase(self.engine, partial(migrate.suits, service.principal)), committed=self.relay.wake
        )
        self.consumer = Consumer(service, self.shell, settings, Stops(self.engine))
        self.background = background
        self.site = site(settings, self.relay.wake) if site else None
        self.tasks: list[asyncio.Task[None]] = []
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopped.set)
        closing = self.site.hang_up if self.site else lambda: None
        where = self.settings.http_host, self.settings.http_port
        http = HttpServer(self._health(), *where, closing, self.settings.http_connections)
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
        if failed:
            raise SystemExit(f"{self.service.principal}: {self._cause(failed[0].exception())}")
        log.info("stopped")

    async def _start(self) -> None:
        """Wait for what we need, then begin: the relay first, for it may have rows of an earlier life."""
        while reason := await self._not_migrated():
            log.info("waiting", what="database", reason=reason)
            await asyncio.sleep(1)
        self.tasks = [
            asyncio.create_task(self.relay.run()),
            asyncio.create_task(self.consumer.run()),
            asyncio.create_task(run_timers(self.shell, self.settings.timer_poll_s)),
            asyncio.create_task(run_retries(self.shell, max(1.0, self.settings.timer_poll_s))),
            asyncio.create_task(mark(self.engine, self.service.principal, self.relay.wake)),
            # Message ids that no topic can bring again.
            asyncio.create_task(prune(self.engine, INBOX.c.received_at, retention(self.settings))),
            *(asyncio.create_task(job(self.engine, self.settings, self.shell.outages)) for job in self.background),
        ]
        # What is there now stays: the collector need not look at it again, and at garbage less often (a fifth of
        # all CPU otherwise).
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)

    async def _not_migrated(self) -> str | None:
        try:
            return await migrate.trouble(self.service.principal, self.engine)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            return f"it does not answer: {type(error).__name__}"

    async def _not_consuming(self) -> str | None:
        return self.consumer.trouble()

    async def _waiting(self) -> str | None:
        return self.shell.outages.trouble()

    def _health(self) -> Any:
        return health_app(
            live=lambda: self.consumer.alive,
            checks={"database": self._not_migrated, "kafka": self._not_consuming, "work": self._waiting},
            site=self.site,
        )

    def _cause(self, error: BaseException | None) -> str:
        if isinstance(error, FencedError):
            variable = f"{self.service.principal.upper()}_REPLICA={self.settings.replica}"
            return f"{variable} is taken: another process has joined under this name ({error})"
        return repr(error)

    async def _stop(self, http: HttpServer, serving: asyncio.Task[None], starting: asyncio.Task[None]) -> None:
        starting.cancel()
        try:
            await self.consumer.stop()
        except Exception as error:  # what ended it early has been noted, or Kafka is away and hears no farewell
            log.warning("consumer_not_stopped", error=type(error).__name__)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, starting, return_exceptions=True)
        http.should_exit = True
        await asyncio.wait({serving}, timeout=2)
        if self.site:
            await self.site.close()
        await self.engine.dispose()
