"""Whoever is killed while sagas are in flight, and comes back: every saga ends, and everything adds up."""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from deploy.local.mailsink import read_mails
from deploy.local.product import Product
from popfax_contracts.groups import MemberAccountCreated, MemberAccountRefused
from popfax_contracts.topics import SERVICES, Principal
from tests.e2e import driver
from tests.e2e.conftest import running_product
from tests.e2e.driver import PRICES, SETTLED_S, World, wait

SETTINGS = {name: value for name, value in driver.SETTINGS.items() if name != "offset_commit_s"}
"""Offsets are committed as late as in production, so that much is handled twice after a crash."""

SAGAS = 200
OWNERS = 20
AFFORDED = 9
"""How many accounts each owner can pay, of the ten that they ask for."""

Crash = Callable[[Product], None]


@pytest.fixture(scope="module")
def product() -> Iterator[Product]:
    """A product of this module's own."""
    with running_product("crashes", SETTINGS) as running:
        yield running


def _service(principal: Principal) -> Crash:
    def crash(product: Product) -> None:
        service = product.services[principal]
        service.kill()
        service.launch(**service.settings)
        service.wait_ready()

    return crash


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
    **{principal.value: _service(principal) for principal in SERVICES},
    "broker": _broker,
    "postgres": _database,
    "several": _several,
}


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
    _assert_one_welcome_each(world, {seen["member_id"] for seen in created})
    assert all(not rows for rows in _parked_since(world).values())
    world.check_log()


def _ended(world: World, sent: list[str]) -> int:
    query = "SELECT count(*) FROM sagas WHERE ended_at IS NOT NULL AND correlation_id = ANY(%s)"
    return int(world.rows(Principal.GROUPS, query, sent)[0][0])


def _parked_since(world: World) -> dict[Principal, list[object]]:
    starts = world.log.start
    return {
        service: [row for row in rows if (row[0], row[1]) in starts and row[2] >= starts[row[0], row[1]]]
        for service, rows in world.parked().items()
    }


def _assert_one_welcome_each(world: World, members: set[str]) -> None:
    """One mail a membership, by its Message-ID; each further copy was counted as uncertain beforehand."""
    query = (
        "SELECT m.id::text, m.recipient_id::text, d.uncertain FROM mails m JOIN deliveries d ON d.mail_id = m.id"
        " WHERE m.template = 'welcome' AND m.state = 'sent'"
    )
    welcomes = {id_: (member, uncertain) for id_, member, uncertain in world.rows(Principal.NOTIFICATIONS, query)}
    ours = {id_: uncertain for id_, (member, uncertain) in welcomes.items() if member in members}
    assert Counter(member for member, _ in welcomes.values() if member in members) == Counter(members)
    kept = Counter(str(mail["message-id"])[1:].split("@")[0] for mail in read_mails(world.stack.mail.mails))
    assert {id_: kept[id_] for id_ in ours if not 1 <= kept[id_] <= 1 + ours[id_]} == {}
