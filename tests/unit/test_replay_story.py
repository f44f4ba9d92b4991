"""In which order a service handled its messages, as its own events tell it."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from deploy.operator.replay.story import AT_ONCE, Heard, Kind, Step, Told, firsts, heard_of, steps, told_of
from popfax_contracts.ids import derive
from popfax_contracts.ledger import CreditUnits, UnitsCredited
from popfax_contracts.topics import LEDGER_COMMANDS, LEDGER_COMMANDS_FROM_GROUPS, LEDGER_EVENTS, Topic
from services.chassis.arrivals import Fetched
from services.chassis.messages import Incoming

BEGINNING = datetime(2026, 3, 1, 10, tzinfo=UTC)
BODY = CreditUnits(credit_id=uuid4(), account_id=uuid4(), amount_units=1)


def at(seconds: float) -> datetime:
    return BEGINNING + timedelta(seconds=seconds)


def heard(offset: int, received: float, topic: Topic = LEDGER_COMMANDS, partition: int = 0) -> Heard:
    """A message that Kafka got after so many seconds."""
    timestamp = int(at(received).timestamp() * 1000)
    record = Fetched(topic.name, partition, offset, b"key", b"{}", (), timestamp)
    id_ = uuid4()
    return heard_of(Incoming(id_, BODY, record, str(id_), None, None, str(id_)))


def told(cause: Heard, handled: float, offset: int = 0, ordinal: int = 0) -> Told:
    """An event that followed from a message when that was handled."""
    id_ = str(derive(cause.id, str(ordinal)))
    type_ = UnitsCredited.TYPE
    return Told(LEDGER_EVENTS.name, 0, offset, "key", b"{}", id_, type_, cause.sent_id, "", None, at(handled))


def ids(step: Step) -> list[UUID]:
    return [each.id for each in step.heard]


def test_messages_come_in_the_batches_in_which_their_events_were_made() -> None:
    first, second, third = heard(0, 1), heard(0, 2, LEDGER_COMMANDS_FROM_GROUPS), heard(1, 3)
    told_ = [told(second, 4.5, 0), told(first, 5, 1), told(third, 5, 2)]
    one, two = steps([first, second, third], told_)
    assert (ids(one), one.at, one.kind) == ([second.id], at(4.5), Kind.HEARD)
    assert (ids(two), two.at) == ([first.id, third.id], at(5))


def test_within_a_batch_the_order_of_the_events_counts() -> None:
    here, there = heard(0, 1), heard(0, 1, LEDGER_COMMANDS_FROM_GROUPS)
    (step,) = steps([here, there], [told(there, 5, 0), told(here, 5, 1)])
    assert ids(step) == [there.id, here.id]


def test_a_message_between_two_of_a_batch_was_in_it() -> None:
    line = [heard(offset, offset) for offset in range(3)]
    (step,) = steps(line, [told(line[0], 5, 0), told(line[2], 5, 1)])
    assert ids(step) == [each.id for each in line]


def test_a_message_without_events_is_placed_as_early_as_it_can_have_been_handled() -> None:
    quiet, other = heard(0, 2), heard(0, 1, partition=1)
    before, after = steps([quiet, other], [told(other, 3)])
    assert (before.kind, ids(before), before.at) == (Kind.QUIET, [quiet.id], at(2))
    assert ids(after) == [other.id]


def test_a_message_without_events_stays_behind_what_is_before_it_on_its_partition() -> None:
    spoken, quiet = heard(0, 1), heard(1, 2)
    first, second = steps([spoken, quiet], [told(spoken, 7)])
    assert (ids(first), ids(second), second.at) == ([spoken.id], [quiet.id], at(7))


def test_a_broker_whose_clock_is_ahead_changes_no_order() -> None:
    quiet, spoken = heard(0, 100), heard(1, 101)
    first, second = steps([quiet, spoken], [told(spoken, 7)])
    assert (ids(first), first.at, ids(second)) == ([quiet.id], at(7), [spoken.id])


def test_an_event_whose_cause_is_on_no_topic_was_due() -> None:
    message, unknown = heard(0, 1), heard(1, 1)
    due, step = steps([message], [told(message, 5), told(unknown, 4, 1), told(unknown, 4, 2, ordinal=1)])
    assert (due.kind, due.at, len(due.told)) == (Kind.DUE, at(4), 2)
    assert ids(step) == [message.id]


def test_an_event_is_a_messages_own_only_if_its_id_follows_from_it() -> None:
    message = heard(0, 1)
    forged = told(message, 5)
    forged.id = str(uuid4())
    kinds = [step.kind for step in steps([message], [forged])]
    assert kinds == [Kind.QUIET, Kind.DUE]


def test_of_repetitions_the_first_counts() -> None:
    message = heard(0, 1)
    once, again = told(message, 5), told(message, 9, 7)
    assert firsts([once, again]) == [once]
    (step,) = steps([message, message], [once])
    assert ids(step) == [message.id]


def test_many_messages_without_events_are_several_steps() -> None:
    line = [heard(offset, 1) for offset in range(AT_ONCE + 1)]
    assert [len(step.heard) for step in steps(line, [])] == [AT_ONCE, 1]


def test_a_record_without_an_envelope_of_ours_is_no_event() -> None:
    headers = [("ce_id", b"1"), ("ce_type", b"t"), ("ce_causationid", b"c"), ("ce_correlationid", b"k")]
    time = ("ce_time", BEGINNING.isoformat().encode())
    assert told_of(Fetched("t", 0, 0, None, None, headers, 0)) is None
    found = told_of(Fetched("t", 0, 0, None, None, [*headers, time], 0))
    assert found is not None
    assert (found.at, found.value) == (BEGINNING, b"")
