"""What a service waits for, as it tells of it; and that every series of a metric is there from the start."""

from contextlib import suppress

import pytest
from prometheus_client import REGISTRY

from services.chassis.database import Cause, Outage, Why
from services.chassis.outages import FORGOTTEN_S, LOG_EVERY_S, Outages


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outages(clock: Clock) -> Outages:
    return Outages(clock)


def meet(outages: Outages, who: str = "messages", cause: Cause = Cause.LOCKED) -> None:
    with pytest.raises(Outage), outages.watching(who):
        raise Outage("55P03", cause)


def test_a_wait_says_its_cause_and_since_when_until_it_is_over(outages: Outages, clock: Clock) -> None:
    assert outages.waits == {}
    for clock.now in (1000.0, 1010.0, 1020.0):
        meet(outages)
    wait = outages.waits["messages"]
    assert (wait.cause, wait.detail, wait.since, wait.met_at) == (Cause.LOCKED, "55P03", 1000.0, 1020.0)
    with outages.watching("messages"):
        pass
    assert outages.waits == {}


def test_what_goes_well_for_one_ends_no_other_ones_wait(outages: Outages) -> None:
    meet(outages, "timers")
    with outages.watching("messages"):
        pass
    assert list(outages.waits) == ["timers"]


def test_a_loop_that_can_look_for_work_and_not_do_it_waits_all_the_while(outages: Outages, clock: Clock) -> None:
    """The alert is about how long: a wait that began again with each round would never be long."""
    for clock.now in (1000.0, 1010.0, 1020.0):
        with suppress(Outage), outages.watching("timers"):
            with outages.watching("timers"):
                pass  # it has found some
            meet(outages, "timers")
            raise Outage("55P03", Cause.LOCKED)
    assert outages.waited_s(Cause.LOCKED) == 20.0
    with outages.watching("timers"):
        pass
    assert outages.waits == {}


def test_whose_work_is_another_ones_now_waits_no_longer(outages: Outages) -> None:
    meet(outages)
    outages.given_up("messages")
    assert outages.trouble() is None
    outages.given_up("messages")


def test_what_is_no_outage_neither_begins_a_wait_nor_ends_one(outages: Outages) -> None:
    meet(outages)
    with pytest.raises(ValueError, match="a bug"), outages.watching("messages"):
        raise ValueError("a bug")
    assert list(outages.waits) == ["messages"]


def test_a_wait_that_nobody_meets_again_is_over(outages: Outages, clock: Clock) -> None:
    meet(outages)
    clock.now += FORGOTTEN_S
    assert outages.waits == {}


def test_another_cause_is_another_wait(outages: Outages, clock: Clock) -> None:
    meet(outages)
    clock.now += 5
    meet(outages, cause=Cause.AWAY)
    wait = outages.waits["messages"]
    assert (wait.cause, wait.since) == (Cause.AWAY, 1005.0)


def test_a_wait_that_goes_on_is_logged_now_and_then(
    outages: Outages, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []

    class Log:
        def warning(self, event: str, **_: object) -> None:
            lines.append(event)

        info = warning

    monkeypatch.setattr("services.chassis.outages.log", Log())
    for _ in range(60):
        meet(outages)
        clock.now += 1
    assert lines == ["waiting"] * int(60 / LOG_EVERY_S)
    with outages.watching("messages"):
        pass
    assert lines[-1] == "goes_on"


@pytest.mark.parametrize(
    ("name", "label", "values"),
    [("popfax_messages_parked_total", "why", Why), ("popfax_outages_total", "cause", Cause)],
)
def test_every_series_is_there_before_anything_happens(name: str, label: str, values: type[Why] | type[Cause]) -> None:
    found = {sample.labels[label] for family in REGISTRY.collect() for sample in family.samples if sample.name == name}
    assert found == {value.value for value in values}
