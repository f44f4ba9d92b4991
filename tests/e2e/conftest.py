"""The whole product, once for all tests of this directory: real servers, and every service its own process."""

import os
from collections.abc import Iterator

import pytest

from deploy.local.product import Product
from deploy.paths import STATE
from tests.conftest import make_stack
from tests.e2e.driver import SETTINGS, World


@pytest.fixture(scope="package")
def product() -> Iterator[Product]:
    """All of it, running. Who stops or kills a part starts it again."""
    made = Product(make_stack(STATE / f"test-{os.getpid()}-e2e"))
    try:
        made.stack.start()
        made.launch_services(**SETTINGS)
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
