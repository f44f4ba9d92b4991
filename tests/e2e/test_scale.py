"""Two and three replicas of everything on three brokers, added and taken away under traffic: nothing is lost."""

from collections.abc import Iterator

import pytest

from deploy.local.stack import Stack
from popfax_contracts.topics import SERVICES
from tests.e2e import scaling
from tests.e2e.conftest import running_services
from tests.e2e.driver import Seen, World


@pytest.fixture
def world(secure_stack: Stack) -> Iterator[World]:
    """The product with TLS, one replica of each service, as the platform sees it."""
    with running_services(secure_stack, scaling.SETTINGS | {"replica": "a"}) as product:
        made = World(product)
        yield made
        made.close()


@pytest.mark.drill
def test_replicas_come_and_go_under_traffic_and_nothing_is_lost_and_order_is_kept(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    # The one without a name leaves the group at once; the named one is waited for, in case it comes back.
    changes, sent = scaling.scaled(world, {"b": False, "c": True}, {False: 2.0, True: 12.0})
    with capsys.disabled():
        print(f"\n{sent} commands; seconds without an outcome / longest wait, by service:\n{scaling.table(changes)}")
    assert [each.what for each in changes] == ["1", "1 → 2", "2 → 3", "3 → 2", "2 → 1"]
    assert all(each.silent_s.keys() == each.waited_s.keys() == set(SERVICES) for each in changes)


def test_silence_is_measured_from_the_last_outcome_before_a_change() -> None:
    assert scaling.longest_silence([0.0, 1.0, 2.0, 7.0, 8.0], 3.0, 9.0) == 5.0
    assert scaling.longest_silence([0.0, 1.0, 2.0, 7.0], 0.5, 4.0) == 2.0
    assert scaling.longest_silence([], 3.0, 9.0) == 6.0


def _seen(offset: int, type_: str, id_: str, correlation: str = "", topic: str = "t") -> Seen:
    headers = [("ce_type", type_.encode()), ("ce_id", id_.encode()), ("ce_correlationid", correlation.encode())]
    return Seen(topic, 0, offset, b"key", b"{}", headers)


def test_outcomes_in_another_order_are_found_and_missing_and_repeated_ones() -> None:
    command, outcome = (each.TYPE for each in scaling.OUTCOMES[SERVICES[0]])
    asked = [_seen(0, command, "1"), _seen(1, command, "2")]

    def told(*of: str) -> list[Seen]:
        return [_seen(number, outcome, f"o{number}", each, "answers") for number, each in enumerate(of)]

    assert scaling.out_of_order([*asked, *told("1", "2")]) == []
    for wrong in (told("2", "1"), told("1"), told("1", "2", "2")):
        assert scaling.out_of_order([*asked, *wrong]) == [f"{command} key"]
