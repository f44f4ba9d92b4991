"""Whoever is killed while sagas are in flight, at a point of the code or anywhere, comes back: everything adds up."""

import os
from collections.abc import Callable, Iterator

import pytest

from deploy.local.product import Product
from deploy.paths import STATE
from popfax_contracts.groups import MemberAccountCreated, MemberAccountRefused
from popfax_contracts.ledger import UnitsReserved
from popfax_contracts.topics import Principal
from tests.crashpoints.crew import Crew, crewed
from tests.crashpoints.judging import parked_since, wrong_mails
from tests.crashpoints.matrix import CELLS
from tests.crashpoints.process import USUAL
from tests.crashpoints.running import try_round
from tests.crashpoints.stories import STORIES, cast
from tests.e2e import driver
from tests.e2e.driver import PRICES, SETTLED_S, World, wait

SETTINGS = {name: value for name, value in driver.KILLED_SETTINGS.items() if name != "offset_commit_s"}
"""Offsets are committed as late as in production, so that much is handled twice after a crash."""

SAGAS = 200
OWNERS = 20
AFFORDED = 9
"""How many accounts each owner can pay, of the ten that they ask for."""

Crash = Callable[[Product], None]


AT_POINTS = (
    "before the commit · groups AccountProvisioned · account · kill · 1",
    "between acknowledgement and deletion · ledger UnitsReserved · account · kill · 1",
    "between commit and offsets · provisioning ProvisionAccount · account · kill · 1",
    "between SMTP DATA and its answer · notifications · account · kill · 1",
)
"""One cell per service of the matrix that `make crashpoints` tries."""


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    """A product of this module's own, whose services can be killed at a point of their code."""
    with crewed(STATE / f"test-{os.getpid()}-crashes", SETTINGS, sessions=USUAL) as running:
        yield running


@pytest.fixture(scope="module")
def product(crew: Crew) -> Product:
    """The same, as any other product."""
    return crew.product


def test_services_that_are_killed_at_a_point_of_their_code_lose_nothing_and_repeat_nothing(
    crew: Crew, world: World
) -> None:
    cells = [cell for cell in CELLS if cell.name in AT_POINTS]
    assert len(cells) == len(AT_POINTS)
    verdicts = try_round(crew, world, cells, cast(world, [STORIES[cell.row.story] for cell in cells]))
    assert [(each.cell.name, each.reached, each.violations) for each in verdicts if not each.holds] == []
    said = [seen.id for seen in world.log.seen if seen.says(UnitsReserved)]
    assert len(said) > len(set(said)), "what was acknowledged and not deleted is published again"


def _broker(product: Product) -> None:
    product.stack.kafka.kill()
    product.stack.kafka.start()


def _database(product: Product) -> None:
    product.stack.postgres.kill()
    product.stack.postgres.start()


def _several(product: Product) -> None:
    product.services[Principal.GROUPS].kill()
    product.stack.postgres.kill()
    product.services[Principal.LEDGER].kill()
    product.stack.kafka.kill()
    product.services[Principal.NOTIFICATIONS].kill()
    product.stack.postgres.start()
    for principal in (Principal.GROUPS, Principal.LEDGER, Principal.NOTIFICATIONS):
        service = product.services[principal]
        service.launch(**service.settings)
    product.stack.kafka.start()


VICTIMS: dict[str, Crash] = {
    "broker": _broker,
    "postgres": _database,
    "several": _several,
}


@pytest.mark.drill
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_crash_in_flight_loses_nothing_and_repeats_nothing(world: World, victim: str) -> None:
    price = PRICES["send_only"]
    owners = world.owners(OWNERS, units=AFFORDED * price)
    sent = [world.create(owner) for _ in range(SAGAS // OWNERS) for owner in owners]
    world.wire.flush()
    wait(lambda: _ended(world, sent) > 0, "the first saga has ended")
    assert _ended(world, sent) < SAGAS, "the crash comes too late to show anything"
    VICTIMS[victim](world.product)
    world.product.wait_ready()
    outcomes = world.answers(sent, MemberAccountCreated, MemberAccountRefused, timeout_s=SETTLED_S)
    world.settle()

    created = [seen for seen in outcomes.values() if seen.says(MemberAccountCreated)]
    assert len(created) == OWNERS * AFFORDED
    refused = [seen for seen in outcomes.values() if seen.says(MemberAccountRefused)]
    assert {seen["code"] for seen in refused} == {"units_short"}
    assert {world.available(owner) for owner in owners} == {0}
    assert wrong_mails(world, {seen["member_id"] for seen in created}) == []
    assert all(not rows for rows in parked_since(world).values())
    world.check_log()


def _ended(world: World, sent: list[str]) -> int:
    query = "SELECT count(*) FROM sagas WHERE ended_at IS NOT NULL AND correlation_id = ANY(%s)"
    return int(world.rows(Principal.GROUPS, query, sent)[0][0])
