"""A schedule is a function of its seed, and has everything that it should."""

import json
from collections import Counter
from itertools import pairwise
from typing import cast

import pytest

from popfax_contracts.catalogue import COMMANDS
from popfax_contracts.ledger import CaptureHold, ReleaseHold, ReserveUnits
from popfax_contracts.provisioning import RegisterSubscriber
from popfax_contracts.topics import SERVICES, TOPICS, Principal
from services.chassis.envelopes import Headers, text_of, unusual
from tests.nemesis.commands import CODECS, PER_S, Sending, as_document, askings, sendings, story, value_now
from tests.nemesis.faults import FAULTS, OfBrokers
from tests.nemesis.fleet import Fleet, link_names
from tests.nemesis.schedule import BROKER_NAMES, KINDS, MAJORITY, MOST, REPLICAS, TO, Planned, claims, faults, links
from tests.simulation.commands import sent
from tests.simulation.world import BEGINNING

pytestmark = pytest.mark.usefixtures("quiet")

MINUTES = 1.0
STORIES = 12
"""The most further stories that are told until each command was sent."""


@pytest.fixture(scope="module")
def load() -> list[Sending]:
    """What a seed sends."""
    return list(sendings(11, MINUTES))


def test_the_same_seed_makes_the_same_schedule_and_another_another(load: list[Sending]) -> None:
    first = [each for each in load if b"@s11.0.0." in each.sent.value]
    again = [each for each in story("11.0.0", 60.0) if b"@s11.0.0." in each.sent.value]
    assert [each.sent for each in again] == [each.sent for each in first] != []
    assert [each.codec for each in again] == [each.codec for each in first]
    assert story("11.0.1", 60.0) != story("11.0.0", 60.0)
    assert faults(11, 30) == faults(11, 30) != faults(12, 30)
    assert {each.kind for each in faults(11, 30, ["freeze", "kill"])} == {"freeze", "kill"}
    assert list(askings(11, 1)) == list(askings(11, 1)) != list(askings(12, 1))


def test_commands_come_in_order_and_at_their_pace(load: list[Sending]) -> None:
    assert all(one.at <= other.at for one, other in pairwise(load))
    assert load[-1].at < MINUTES * 60
    assert 1.0 <= len(load) / (MINUTES * 60 * PER_S) <= 1.15
    slowly = list(sendings(11, MINUTES, PER_S / 2))
    assert 1.0 <= 2 * len(slowly) / (MINUTES * 60 * PER_S) <= 1.15


def test_every_command_is_sent_that_others_than_services_send(load: list[Sending]) -> None:
    between_services = {type_ for type_, model in COMMANDS.items() if _is_between_services(model.TOPICS)}
    rare = {each.TYPE for each in (ReserveUnits, CaptureHold, ReleaseHold)}
    missing = COMMANDS.keys() - between_services - rare - _types(load)
    for number in range(STORIES):
        missing -= _types(story(f"{number}.0.0", 60.0)) if missing else set()
    assert missing == set()


def _types(sent_: list[Sending]) -> set[str]:
    return {(dict(each.sent.headers).get("ce_type") or b"").decode() for each in sent_}


def _is_between_services(topics: object) -> bool:
    writers = {topic.writer for topic in TOPICS if topic in topics}  # type: ignore[operator]
    own = {topic for topic in TOPICS if topic in topics and topic.writer == topic.service}  # type: ignore[operator]
    return Principal.PLATFORM not in writers and not own


def test_some_are_repeated_some_malformed_and_every_codec_and_mode_is_used(load: list[Sending]) -> None:
    times = Counter((each.sent.topic.name, dict(each.sent.headers).get("ce_id"), each.sent.value) for each in load)
    repeated = sum(count - 1 for count in times.values())
    assert 0.03 < repeated / len(load) < 0.08
    assert {each.codec for each in load} == set(CODECS)
    assert 0.2 < sum(each.structured for each in load) / len(load) < 0.4
    good = [each.sent for each in load if _is_readable(each.sent.headers, each.sent.value)]
    assert 0 < len(load) - len(good) < 0.03 * len(load)


def _is_readable(headers: Headers, value: bytes) -> bool:
    model = COMMANDS.get((dict(headers).get("ce_type") or b"").decode())
    try:
        return model is not None and bool(model.from_json(value)) and text_of(dict(headers)["ce_id"]) is not None
    except ValueError:
        return False


def test_both_modes_carry_the_same_message(load: list[Sending]) -> None:
    each = next(each for each in load if each.structured)
    headers, document = as_document(each.sent.headers, each.sent.value)
    found, value, errors = unusual(headers, document)
    assert not errors
    assert value is not None
    assert json.loads(value) == json.loads(each.sent.value)
    assert {name: found.get(name) for name, _ in each.sent.headers} == dict(each.sent.headers)


def test_moments_are_the_real_clocks_and_tokens_those_that_were_mailed() -> None:
    fields = {"subscriber_id": str(KNOWN), "email": "a@example.org", "first_name": "A", "last_name": "B"}
    body = RegisterSubscriber.model_validate({**fields, "language": "en", "plan": "send_only", "expires_at": BEGINNING})
    now = BEGINNING.replace(year=2040)
    value = value_now(Sending(0, sent(body, KNOWN), "none"), now, None)
    assert RegisterSubscriber.from_json(value).expires_at == now
    assert b'"token": "abc"' in value_now(Sending(0, sent(body, KNOWN), "none", token_of="x"), now, "abc")


KNOWN = next(askings(1, 1)).who


# --- faults -----------------------------------------------------------------------------------------------------------


def test_every_kind_has_its_fault_and_its_parts() -> None:
    assert FAULTS.keys() == KINDS.keys()
    there = {*link_names(), *REPLICAS, *BROKER_NAMES, MAJORITY}
    for kind in KINDS.values():
        for victim in kind.victims:
            if TO in victim:
                assert set(links(victim)) <= there
            elif victim in SERVICES or "-" in victim:
                assert claims(victim) <= there


def test_faults_of_brokers_strike_one_or_all() -> None:
    of_brokers = {kind: fault for kind, fault in FAULTS.items() if issubclass(fault, OfBrokers)}
    for kind, fault in of_brokers.items():
        for victim in KINDS[kind].victims:
            names = fault(cast(Fleet, None), Planned(kind, victim, 0, 1, 1)).names
            assert names == ([victim] if victim in BROKER_NAMES else list(BROKER_NAMES))


@pytest.mark.parametrize("seed", range(20))
def test_faults_overlap_and_never_strike_a_part_twice_at_once(seed: int) -> None:
    planned = faults(seed, 20)
    first = [each.kind for each in planned[: len(KINDS)]]
    assert len(set(first)) == len(KINDS), "each comes once before any comes again"
    most = 0
    for each in planned:
        assert 0 < each.lasts_s <= KINDS[each.kind].longest_s + 0.1
        assert each.ends_s <= 20 * 60 + 0.1
        others = [other for other in planned if other.begins_s <= each.begins_s < other.ends_s]
        most = max(most, len(others))
        assert all(not claims(each.victim) & claims(other.victim) for other in others if other is not each)
    assert most == MOST


def test_connections_stand_for_the_links_that_they_name() -> None:
    assert list(links("ledger-2~postgres")) == ["ledger-2~postgres"]
    assert list(links("ledger-2~brokers")) == [f"ledger-2~{broker}" for broker in BROKER_NAMES]
    assert list(links("ledger-2~everything")) == [*links("ledger-2~brokers"), "ledger-2~postgres"]
    assert len(list(links("everyone~broker-1"))) == len(REPLICAS) + 1
