"""What is handled at once, and what waits for company, by what its topic is for."""

from dataclasses import dataclass

import pytest

from popfax_contracts.topics import (
    GROUPS_COMMANDS,
    GROUPS_COMMANDS_FROM_HTTP,
    LEDGER_BALANCES,
    LEDGER_COMMANDS_FROM_GROUPS,
    LEDGER_COMMANDS_FROM_PROVISIONING,
    LEDGER_EVENTS,
    NOTIFICATIONS_EVENTS,
    PROVISIONING_EVENTS,
    Topic,
)
from services.chassis.gathering import BATCH_TIMES, FACTS_S, LONGEST_S, Gathering
from services.groups.consumers import GROUPS
from services.ledger.consumers import LEDGER
from services.notifications.consumers import NOTIFICATIONS

FULL = 10


@dataclass(frozen=True)
class Record:
    topic: str
    number: int = 0
    partition: int = 0


class Round:
    """Groups' gathering, with a clock of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.gathering: Gathering[Record] = Gathering(GROUPS, FULL, lambda: self.now)

    def comes(self, *topics: Topic) -> list[str]:
        """Fetch a record of each topic; return what is taken."""
        self.gathering.add([Record(topic.name) for topic in topics])
        return [record.topic for record in self.gathering.take()]

    def begin(self, took: float) -> None:
        """Begin a group, which takes so long."""
        assert self.comes(GROUPS_COMMANDS) == [GROUPS_COMMANDS.name]
        self.now += took
        self.gathering.handled()


@pytest.fixture
def round_() -> Round:
    return Round()


def test_what_a_topic_is_for_follows_from_the_contracts() -> None:
    assert GROUPS.entries == {GROUPS_COMMANDS.name, GROUPS_COMMANDS_FROM_HTTP.name}
    assert GROUPS.awaited == {LEDGER_EVENTS.name, PROVISIONING_EVENTS.name}
    assert LEDGER.awaited == {LEDGER_COMMANDS_FROM_GROUPS.name, LEDGER_COMMANDS_FROM_PROVISIONING.name}
    assert NOTIFICATIONS.awaited == set(), "nobody waits for a mail"


def test_the_first_command_is_handled_at_once(round_: Round) -> None:
    assert round_.comes(GROUPS_COMMANDS) == [GROUPS_COMMANDS.name]


def test_what_begins_soon_after_waits_for_a_share_of_what_a_batch_takes(round_: Round) -> None:
    round_.begin(took=0.005)
    assert round_.comes(GROUPS_COMMANDS) == []
    round_.now += 0.005 * BATCH_TIMES - 0.005 - 0.001
    assert round_.comes(GROUPS_COMMANDS_FROM_HTTP) == []
    assert round_.gathering.patience_s(1.0) == pytest.approx(0.001)
    round_.now += 0.002
    assert len(round_.comes()) == 2


def test_an_answer_waits_for_nobody_and_lets_what_begins_wait_on(round_: Round) -> None:
    round_.begin(took=0.005)
    assert round_.comes(GROUPS_COMMANDS, LEDGER_EVENTS) == [LEDGER_EVENTS.name]
    round_.gathering.handled()
    assert len(round_.gathering) == 1
    assert round_.comes(LEDGER_BALANCES, PROVISIONING_EVENTS) == [LEDGER_BALANCES.name, PROVISIONING_EVENTS.name]


def test_facts_wait_for_whatever_is_handled_next(round_: Round) -> None:
    round_.begin(took=0.005)
    assert round_.comes(LEDGER_BALANCES, NOTIFICATIONS_EVENTS) == []
    assert round_.comes(LEDGER_EVENTS) == [LEDGER_BALANCES.name, NOTIFICATIONS_EVENTS.name, LEDGER_EVENTS.name]


def test_facts_wait_a_little_for_company_even_if_nothing_goes_on(round_: Round) -> None:
    assert round_.comes(LEDGER_BALANCES) == []
    assert round_.gathering.patience_s(1.0) == pytest.approx(FACTS_S)
    round_.now += FACTS_S
    assert round_.comes() == [LEDGER_BALANCES.name]
    round_.gathering.handled()
    assert round_.comes(NOTIFICATIONS_EVENTS) == []
    assert len(round_.comes(GROUPS_COMMANDS)) == 2


def test_answers_alone_do_not_make_what_begins_wait(round_: Round) -> None:
    assert round_.comes(LEDGER_EVENTS) == [LEDGER_EVENTS.name]
    round_.now += 0.005
    round_.gathering.handled()
    assert round_.comes(GROUPS_COMMANDS) == [GROUPS_COMMANDS.name]


def test_a_full_batch_waits_for_nobody(round_: Round) -> None:
    round_.begin(took=0.005)
    assert len(round_.comes(*[GROUPS_COMMANDS] * FULL)) == FULL


def test_nothing_waits_longer_than_the_longest(round_: Round) -> None:
    round_.begin(took=0.05)
    assert round_.comes(GROUPS_COMMANDS) == []
    round_.now += LONGEST_S
    assert round_.comes() == [GROUPS_COMMANDS.name]


def test_who_loses_a_partition_forgets_what_waits_on_it(round_: Round) -> None:
    round_.begin(took=0.005)
    waiting = [Record(GROUPS_COMMANDS.name, number, partition=number % 2) for number in range(4)]
    round_.gathering.add(waiting)
    round_.gathering.lose({(GROUPS_COMMANDS.name, 1)})
    assert round_.gathering.clear() == [waiting[0], waiting[2]]


def test_order_within_a_topic_is_kept(round_: Round) -> None:
    round_.begin(took=0.005)
    records = [Record(GROUPS_COMMANDS.name, number) for number in range(5)]
    for record in records:
        round_.gathering.add([record, Record(LEDGER_EVENTS.name)])
        round_.gathering.take()
    round_.now += LONGEST_S
    assert round_.gathering.take() == records
