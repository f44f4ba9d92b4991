"""A running product that is scraped and worked, in which faults are made."""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from deploy.local.product import Product, ServiceProcess
from deploy.local.stack import Stack
from deploy.observability.alerts import ALERTS, OBJECTIVES
from deploy.observability.pace import Pace
from deploy.observability.rules import Alert, groups
from popfax_contracts.ledger import CreditUnits
from popfax_contracts.topics import SERVICES, Principal
from tests.conftest import make_stack
from tests.e2e.driver import SETTINGS, SETTLED_S, Owner, Wire, World, wait
from tests.observability.server import Prometheus
from tests.observability.watch import Watch

PACE = Pace(60)
"""A minute of a rule passes in a second."""

PACES: Mapping[str, Pace] = {
    **{alert.name: Pace(240) for alert in ALERTS["mails"]},  # which wait for as long as an hour
    "PopfaxVersionsDiffer": Pace(240),
    "PopfaxCrashLoop": Pace(10),  # a process takes seconds to start
}
"""The alerts whose time passes differently."""

STREAMS = 2
"""How many streams of changes there may be."""

EVERY_S = 0.3
"""The pause between two account creations."""


def rules() -> dict[str, Any]:
    """Return all rules at the pace of the test, as a rule file."""
    made = groups({}, OBJECTIVES, PACE)
    for name, alerts in ALERTS.items():
        for pace, members in _by_pace(alerts).items():
            made += groups({f"{name}-{pace.factor}": members}, (), pace)
    return {"groups": made}


def _by_pace(alerts: Sequence[Alert]) -> Mapping[Pace, list[Alert]]:
    found: dict[Pace, list[Alert]] = {}
    for alert in alerts:
        found.setdefault(PACES.get(alert.name, PACE), []).append(alert)
    return found


@dataclass
class Scene:
    """What faults are made in."""

    product: Product
    web: ServiceProcess
    """A process that serves the page, beside the one of groups that does everything."""
    world: World
    watch: Watch
    prometheus: Prometheus
    payer: Owner
    """Whose accounts are created all the time."""
    other: Owner

    @property
    def stack(self) -> Stack:
        """Kafka, PostgreSQL and the mail sink."""
        return self.product.stack

    def service(self, principal: Principal) -> ServiceProcess:
        """Return a service's process."""
        return self.product.services[principal]

    @contextmanager
    def database(self, service: Principal) -> Iterator[psycopg.Connection[Any]]:
        """Connect to a service's database, as its own role; every statement is committed."""
        url = self.stack.postgres.url(service).replace("+psycopg", "", 1)
        with psycopg.connect(url, autocommit=True) as connection:
            yield connection


@contextmanager
def scene(directory: Path) -> Iterator[Scene]:
    """Start a product, a Prometheus that scrapes it, and work for it; end all of it in the end."""
    product = Product(make_stack(directory))
    web = ServiceProcess(Principal.GROUPS, product.stack, name="groups-web")
    settings = {**SETTINGS, "measure_s": "0.5", "sse_connections": str(STREAMS)}
    with ExitStack() as cleanup:
        cleanup.callback(product.stack.remove)
        product.stack.start()
        cleanup.callback(product.stop_services)
        product.launch_services(**settings)
        cleanup.callback(web.kill)
        web.launch(role="web")
        product.prepare()
        product.wait_ready()
        web.wait_ready()
        prometheus = cleanup.enter_context(
            Prometheus(product.stack.directory / "prometheus", _targets(product, web), rules())
        )
        world = World(product)
        cleanup.callback(world.close)
        payer, other = world.owners(2, units=1_000_000)
        watch = cleanup.enter_context(Watch(prometheus))
        made = Scene(product, web, world, watch, prometheus, payer, other)
        cleanup.enter_context(_working(made))
        wait(lambda: _is_seen(made), "Prometheus sees all of it", SETTLED_S)
        yield made


def _is_seen(made: Scene) -> bool:
    """Say whether every process has been scraped, and work can be seen."""
    up = made.prometheus.query("count(up == 1)")
    sent = made.prometheus.query("sum(rate(popfax_mails_sent_total[5s])) > 0")
    return bool(up and sent) and int(up[0]["value"][1]) == len(SERVICES) + 1


def _targets(product: Product, web: ServiceProcess) -> Mapping[str, Sequence[str]]:
    targets = {str(name): [service.url.removeprefix("http://")] for name, service in product.services.items()}
    targets[Principal.GROUPS].append(web.url.removeprefix("http://"))
    return targets


@contextmanager
def _working(made: Scene) -> Iterator[None]:
    """Have accounts created, and units credited, until the block ends."""
    ended = threading.Event()
    wire = Wire(made.stack.kafka)

    def work() -> None:
        while not ended.wait(EVERY_S):
            wire.send(made.world.command(made.payer), actor=made.payer.id)
            wire.send(CreditUnits(credit_id=uuid4(), account_id=made.payer.id, amount_units=1))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for what is started within the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
