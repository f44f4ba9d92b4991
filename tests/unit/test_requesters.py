"""Answers say who asked, and only those that matter to nobody else are passed over."""

from dataclasses import replace

import pytest

from popfax_contracts.ledger import (
    BalanceChanged,
    HoldCaptured,
    HoldReleased,
    ReserveUnits,
    UnitsRefused,
    UnitsReserved,
)
from popfax_contracts.message import Message
from popfax_contracts.provisioning import AccountExpired
from popfax_contracts.topics import LEDGER_COMMANDS_FROM_GROUPS, Principal
from services.chassis import metrics
from services.chassis.memory import MemoryDatabase
from services.chassis.messages import Incoming, headers_of, outgoing
from services.chassis.service import Service
from services.chassis.shell import FromKafka, Shell
from services.ledger.consumers import LEDGER
from tests.counted import total
from tests.simulation.bus import BusRecord
from tests.simulation.world import SERVICES, drive
from tests.unit.given import NOW, given, id_of, incoming

HOLD, ADA = id_of("hold"), id_of("Ada")
RESERVED = UnitsReserved(hold_id=HOLD, account_id=ADA, amount_units=5)
BALANCE = BalanceChanged(account_id=ADA, version=1, balance_units=5, available_units=0)
ANSWERS: dict[type[Message], Message] = {
    UnitsReserved: RESERVED,
    UnitsRefused: UnitsRefused(hold_id=HOLD, account_id=ADA, code="units_short", command_type=ReserveUnits.TYPE),
    HoldCaptured: HoldCaptured(hold_id=HOLD, account_id=ADA, amount_units=5, version=1),
    HoldReleased: HoldReleased(hold_id=HOLD, account_id=ADA, amount_units=5),
}
PASSING = [service for service in SERVICES if service.for_requester]


def asked_by(writer: Principal) -> Incoming[Message]:
    return incoming(ReserveUnits(hold_id=HOLD, account_id=ADA, amount_units=5), writer=writer)


@pytest.mark.parametrize("writer", [Principal.GROUPS, Principal.PROVISIONING])
def test_an_answer_names_the_writer_of_its_commands_topic(writer: Principal) -> None:
    assert outgoing(RESERVED, 0, asked_by(writer)).requester == writer.value


def test_what_answers_nothing_names_nobody() -> None:
    assert outgoing(BALANCE, 1, asked_by(Principal.GROUPS)).requester is None
    assert outgoing(RESERVED, 0, incoming(AccountExpired(account_id=ADA, expires_at=NOW))).requester is None


def test_the_requester_travels_in_a_header() -> None:
    headers = dict(headers_of(outgoing(RESERVED, 0, asked_by(Principal.GROUPS)), "popfax/ledger", "now"))
    assert headers["ce_requester"] == b"groups"
    assert "ce_requester" not in dict(
        headers_of(outgoing(BALANCE, 1, asked_by(Principal.GROUPS)), "popfax/ledger", "now")
    )


def handled(service: Service, body: Message, *requesters: bytes | None, **others: bytes) -> tuple[int, int]:
    """Let a service handle an answer with these requesters; return how many it handled, and how many it parked."""
    headers: list[tuple[str, bytes | None]] = [
        ("ce_id", b"7"),
        ("ce_type", body.TYPE.encode()),
        *(("ce_requester", requester) for requester in requesters),
        *others.items(),
    ]
    database = MemoryDatabase()
    record = BusRecord(body.TOPICS[0].name, 0, 0, body.key().encode(), body.to_json(), headers)
    before = total(metrics.HANDLED)
    drive(Shell(service, database).process([record], FromKafka()))
    return int(total(metrics.HANDLED) - before), len(database.contents.parked)


@pytest.mark.parametrize("service", PASSING, ids=lambda service: service.principal)
@pytest.mark.parametrize("kind", ANSWERS)
def test_another_requesters_answers_are_passed_over_and_all_others_handled(
    service: Service, kind: type[Message]
) -> None:
    body, own = ANSWERS[kind], service.principal.value.encode()
    others = [each.value.encode() for each in Principal if each is not service.principal]
    assert [handled(service, body, other) for other in others] == [(0, 0)] * len(others)
    for requester in (own, b"", b"somebody", own.upper(), None):
        assert handled(service, body, requester) == (1, 0)
    assert handled(service, body) == (1, 0), "of an earlier version, or another writer"
    assert handled(service, body, others[0], others[0]) == (0, 1), "ambiguous: parked, as any repeated attribute"


@pytest.mark.parametrize("service", PASSING, ids=lambda service: service.principal)
def test_only_answers_that_do_nothing_without_their_saga_are_passed_over(service: Service) -> None:
    assert service.for_requester == set(ANSWERS)
    for kind in service.for_requester:
        given(service).when(ANSWERS[kind]).then().leaves()


def test_a_command_is_never_passed_over() -> None:
    command = asked_by(Principal.GROUPS).body
    assert command.TOPICS[0] is LEDGER_COMMANDS_FROM_GROUPS
    wrong = replace(LEDGER, for_requester=frozenset({type(command)}))
    assert handled(wrong, command, b"provisioning") == (1, 0)
