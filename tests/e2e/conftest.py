"""The whole product, once for all tests of this directory: real servers, and every service its own process."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from deploy.local.product import Product
from deploy.local.stack import Stack
from deploy.paths import STATE
from tests.collector import Collector, collecting
from tests.conftest import ANY_PORTS, make_stack
from tests.e2e.driver import SETTINGS, World


@pytest.fixture(scope="package")
def collector() -> Iterator[Collector]:
    """Where the product sends its spans."""
    with collecting() as running:
        yield running


@pytest.fixture(scope="package")
def product(collector: Collector) -> Iterator[Product]:
    """All of it, running. Who stops or kills a part starts it again. It records the traces that others begin."""
    with running_product("e2e", SETTINGS | {"otlp_endpoint": collector.url, "trace_ratio": "0"}) as running:
        yield running


@contextmanager
def running_product(name: str, settings: Mapping[str, str]) -> Iterator[Product]:
    """A product of its own, whose services have these settings, and which is removed at the end."""
    made = Product(make_stack(STATE / f"test-{os.getpid()}-{name}"))
    try:
        made.stack.start()
        made.launch_services(**settings)
        made.prepare()
        made.wait_ready()
        yield made
    finally:
        made.stop_services()
        made.stack.remove()


@pytest.fixture
def world(product: Product) -> Iterator[World]:
    """The product as the platform sees it, followed from now on; at the end nothing may be broken."""
    made = World(product)
    yield made
    made.close()


@pytest.fixture(scope="session")
def secure_stack() -> Iterator[Stack]:
    """Three brokers (replication 3, two in sync), PostgreSQL and a mail sink, all with TLS, and nothing in them yet.

    What runs on it gets its settings from `process_environment`, with which secrets are files.
    """
    made = Stack(STATE / f"test-{os.getpid()}-secure", ANY_PORTS, fresh=True, tls=True, brokers=3)
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture
def secure_product(secure_stack: Stack) -> Iterator[Product]:
    """The product on it: topics, ACLs, migrations and plans are there, and one process of each service runs."""
    with running_services(secure_stack, SETTINGS) as made:
        yield made


@contextmanager
def running_services(stack: Stack, settings: Mapping[str, str]) -> Iterator[Product]:
    """The product on a running stack, one process of each service, with these settings."""
    made = Product(stack)
    try:
        made.launch_services(**settings)
        made.prepare()
        made.wait_ready()
        yield made
    finally:
        made.stop_services()
