"""What is counted and measured of batches, records, sagas, waits and connections; and that every series is there."""

import json
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from random import Random
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import REGISTRY, Metric, generate_latest

from popfax_contracts.ledger import CreditUnits, SpendUnits
from popfax_contracts.message import Message
from popfax_contracts.topics import LEDGER_COMMANDS, PROVISIONING_EVENTS
from services.chassis import client_state, metrics
from services.chassis.arrivals import Arrivals, Fetched
from services.chassis.client_state import MUTE_S, STRANDED_S, UNREAD_S, ClientState
from services.chassis.database import Conflict
from services.chassis.memory import MemoryDatabase
from services.chassis.messages import StoredRecord, Undecodable
from services.chassis.metrics import Part
from services.chassis.observed import Observed, count_conflict
from services.chassis.rows import Rows
from services.chassis.sagas import SagaRow, Status
from services.chassis.service import Moment, Service
from services.chassis.shell import FromKafka, Shell
from services.groups.consumers import GROUPS
from services.groups.tables import SAGAS
from services.ledger.consumers import LEDGER
from tests.exported import differences
from tests.simulation.bus import BusRecord
from tests.simulation.world import SERVICES, VirtualClock, drive, exchanged
from tests.unit.given import NOW, id_of

pytestmark = pytest.mark.usefixtures("quiet")

PAUSE_S = 9.0
"""How long the machine may stand still between two lines."""

Reading = Callable[[], float]


def series(name: str, **labels: str) -> Reading:
    """Return how to ask for what a series has gained since now."""
    before = REGISTRY.get_sample_value(name, labels) or 0.0
    return lambda: (REGISTRY.get_sample_value(name, labels) or 0.0) - before


def commands(outcome: str, answer: str) -> Reading:
    return series("popfax_commands_total", outcome=outcome, answer=answer)


def record(body: Message, id_: str, **changes: Any) -> BusRecord:
    headers: list[tuple[str, bytes | None]] = [("ce_id", str(id_of(id_)).encode()), ("ce_type", body.TYPE.encode())]
    made = {"value": body.to_json(), "headers": headers} | changes
    return BusRecord(LEDGER_COMMANDS.name, 0, 0, body.key().encode(), **made)


def come(*records: BusRecord, service: Service = LEDGER) -> None:
    drive(Shell(service, MemoryDatabase(), VirtualClock(Random(1))).process(records, FromKafka()))


# --- batches, and what commands become ---


def test_a_batch_is_counted_by_source_and_topic_and_its_duplicates_apart() -> None:
    topic = LEDGER_COMMANDS.name
    batches, known = series("popfax_batches_total", source="messages"), series("popfax_messages_duplicate_total")
    handled = series("popfax_messages_handled_total", topic=topic)
    size, sizes = (series(f"popfax_batch_messages_{kind}", topic=topic) for kind in ("sum", "count"))
    one, other = (
        record(CreditUnits(credit_id=id_of(name), account_id=id_of("a"), amount_units=1), name) for name in "bc"
    )
    come(one, other, one)
    assert [batches(), known(), handled(), size(), sizes()] == [1, 1, 2, 3, 1]


def test_a_command_is_answered_refused_or_parked() -> None:
    def explode(*_: Any) -> Any:
        raise ZeroDivisionError

    answered, refused = (
        commands("answered", "popfax.ledger.units-credited.v1"),
        commands("refused", "popfax.ledger.spend-refused.v1"),
    )
    malformed, parked = commands("refused", "popfax.ledger.command-malformed.v1"), commands("parked", "none")
    failed = series("popfax_handler_errors_total", type=CreditUnits.TYPE)
    credit = CreditUnits(credit_id=id_of("c"), account_id=id_of("a"), amount_units=5)
    spend = SpendUnits(spend_id=id_of("s"), account_id=id_of("a"), amount_units=9, purpose="fax", reference="r")
    come(record(credit, "1"), record(spend, "2"), record(credit, "3", value=b"{"))
    assert [answered(), refused(), malformed(), parked(), failed()] == [1, 1, 1, 0, 0]
    come(record(credit, "4"), service=exchanged(LEDGER, {CreditUnits: explode}))
    assert [answered(), parked(), failed()] == [1, 1, 1]


def test_a_parked_message_that_still_cannot_be_read_is_an_error_of_no_type() -> None:
    failed = series("popfax_handler_errors_total", type="unreadable")
    stored = StoredRecord(id_of("p"), None, LEDGER_COMMANDS.name, 0, 0, b"k", b"{", [])
    Observed(LEDGER).failed(Undecodable(id_of("p"), stored, "malformed", ()))
    assert failed() == 1


def test_a_message_from_a_topic_that_is_read_no_more_gets_its_own_series() -> None:
    handled = series("popfax_messages_handled_total", topic="popfax.former")
    observed = Observed(LEDGER)
    observed._handled["popfax.former"].inc()
    assert handled() == 1


@pytest.mark.parametrize(
    ("state", "cause"),
    [("40P01", "deadlock"), ("40001", "serialization"), ("23505", "duplicate_key"), ("40003", "other")],
)
def test_a_lost_race_has_a_cause(state: str, cause: str) -> None:
    lost = series("popfax_batch_conflicts_total", cause=cause)
    count_conflict(Conflict(state))
    assert lost() == 1


# --- sagas ---


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [
        (Status.COMPLETED, None, "completed"),
        (Status.REFUSED, "units_short", "refused"),
        (Status.REFUSED, "timed_out", "timed_out"),
        (Status.REFUSED, "cancelled", "cancelled"),
    ],
)
def test_a_saga_is_measured_once_when_it_ends(status: Status, code: str | None, outcome: str) -> None:
    moment = Moment(datetime.now(UTC), lambda _: b"")
    labels = {"saga": "create-member-account", "outcome": outcome}
    count, seconds = (series(f"popfax_saga_seconds_{kind}", **labels) for kind in ("count", "sum"))
    observed = Observed(GROUPS)
    ended, running = _saga(moment, status, code, moment.now), _saga(moment, Status.RUNNING, None, None)
    earlier = _saga(moment, status, code, NOW)  # a late reply only adds to its trail
    for row in (ended, running, earlier):
        observed.effects([], [_put(row)], moment)
    assert (count(), seconds()) == pytest.approx((1, 3)), "whatever fractions other tests have left in the sum"


def _saga(moment: Moment, status: Status, code: str | None, ended_at: datetime | None) -> SagaRow:
    return SagaRow(
        id=id_of("s"),
        name="create-member-account",
        status=status,
        step="reserve units",
        code=code,
        data={},
        correlation_id="c",
        causation_id=id_of("c"),
        actor=None,
        opened_at=moment.now - timedelta(seconds=3),
        updated_at=moment.now,
        ended_at=ended_at,
        trail=(),
    )


def _put(row: SagaRow) -> Rows[UUID, SagaRow]:
    rows = Rows(SAGAS, {row.id: None})
    rows.put(row)
    return rows


# --- records: how old they are ---


def fetched(topic: str, age_s: float, made_s: float | None = None) -> Fetched:
    now = datetime.now(UTC)
    headers = [("ce_time", (now - timedelta(seconds=made_s)).isoformat().encode())] if made_s is not None else []
    return Fetched(topic, 0, 0, b"", b"", headers, int((now.timestamp() - age_s) * 1000))


def test_the_oldest_record_of_each_topic_is_measured_and_the_batch_in_hand_has_an_age() -> None:
    commands, events = LEDGER_COMMANDS.name, PROVISIONING_EVENTS.name
    lag, delay = (series(f"popfax_{name}_seconds_sum", topic=events) for name in ("message_lag", "event_delay"))
    count = series("popfax_message_lag_seconds_count", topic=commands)
    arrivals = Arrivals(LEDGER)
    arrivals.begin([fetched(commands, 1), fetched(events, 2, 3), fetched(events, 50, 60), fetched(commands, 20)])
    in_hand = {name: _in_hand(name) for name in (commands, events)}
    assert in_hand == pytest.approx({commands: 20, events: 50}, abs=PAUSE_S)
    arrivals.committed()
    assert count() == 1
    assert (lag(), delay()) == pytest.approx((50, 60), abs=PAUSE_S)
    assert _in_hand(events) == 0


def _in_hand(topic: str) -> float:
    return REGISTRY.get_sample_value("popfax_oldest_unhandled_seconds", {"topic": topic}) or 0.0


@pytest.mark.parametrize("ce_time", [b"", b"yesterday", b"\xff", None])
def test_an_event_without_a_time_has_no_delay(ce_time: bytes | None) -> None:
    events = PROVISIONING_EVENTS.name
    lag, delay = (series(f"popfax_{name}_seconds_count", topic=events) for name in ("message_lag", "event_delay"))
    arrivals = Arrivals(LEDGER)
    arrivals.begin([Fetched(events, 0, 0, b"", b"", [("ce_time", ce_time)], int(time.time() * 1000) + 9000)])
    assert _in_hand(events) == 0, "a clock that is ahead makes nothing young"
    arrivals.committed()
    assert (lag(), delay()) == (1, 0)


def test_a_batch_that_is_given_up_has_no_age() -> None:
    arrivals = Arrivals(LEDGER)
    arrivals.begin([fetched(LEDGER_COMMANDS.name, 5)])
    arrivals.dropped()
    assert _in_hand(LEDGER_COMMANDS.name) == 0


def partition(number: int, **told: Any) -> dict[str, Any]:
    usual = {"fetch_state": "active", "fetchq_cnt": 0, "leader": 1, "desired": True, "lo_offset": 0, "next_offset": 0}
    return {"partition": number, "ls_offset": 0, "committed_offset": -1001} | usual | told


def broker(id_: int, *reads: int, **told: Any) -> dict[str, Any]:
    toppars = {f"a-{number}": {"topic": "a", "partition": number} for number in reads}
    return {"nodename": "", "nodeid": id_, "state": "UP", "rxidle": 0, "source": "learned", "toppars": toppars} | told


def statistics(*partitions: dict[str, Any], **leader: Any) -> str:
    """Return what librdkafka says of itself, with all of its brokers connected."""
    return json.dumps(
        {
            "brokers": {
                "GroupCoordinator": broker(-1, source="logical"),
                "1": broker(1, *(each["partition"] for each in partitions)) | leader,
            },
            "cgrp": {"state": "up", "join_state": "steady"},
            "topics": {"a": {"topic": "a", "partitions": {str(each["partition"]): each for each in partitions}}},
        }
    )


def test_lag_is_what_lies_between_the_partitions_ends_and_what_is_handled() -> None:
    state = ClientState()
    told = statistics(
        partition(0, ls_offset=100, committed_offset=90),
        partition(1, ls_offset=50, lo_offset=20),  # never committed, and its first 20 are deleted
        partition(2, ls_offset=70, committed_offset=10),  # handled up to 65, and not committed yet
        partition(3, ls_offset=-1001, committed_offset=5),  # its end is not known yet
        partition(4, ls_offset=1000),  # another replica's by now
    )
    state.take(told, {("a", number) for number in range(4)})
    assert state.lags(["a", "b"], {("a", 2): 65}) == {"a": 10 + 30 + 5, "b": 0}


def test_a_partition_that_another_replica_has_taken_over_does_not_matter() -> None:
    state, told = ClientState(), statistics(partition(0, fetch_state="stopped", ls_offset=5, committed_offset=1))
    state.take(told, {("a", 0)})
    assert state.trouble() == "a/0 is not fetched: stopped"
    state.take(told, set())
    assert state.trouble() is None
    assert state.lags(["a"], {}) == {"a": 0}


def test_a_leader_over_whose_connection_nothing_is_read_does_not_matter() -> None:
    """Seen after a broker was missing from the metadata: it was INIT for minutes, while its partitions were read."""
    state = ClientState()
    state.take(statistics(partition(0), state="INIT"), {("a", 0)})
    assert state.trouble() == "the leader of a/0 is not connected: INIT"
    state.take(statistics(partition(0), state="INIT", toppars={}), {("a", 0)})
    assert state.trouble() is None
    state.take(statistics(partition(0, leader=2)), {("a", 0)})
    assert state.trouble() == "the leader of a/0 is not connected: unknown"


def test_a_partition_that_has_more_and_is_not_read_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    now, state, place = 0.0, ClientState(), ("a", 0)
    monkeypatch.setattr(client_state, "time", SimpleNamespace(monotonic=lambda: now))

    def later(next_offset: int, waiting: int = 0, held: Collection[tuple[str, int]] = ()) -> str | None:
        nonlocal now
        now += UNREAD_S + 1
        state.take(statistics(partition(0, ls_offset=50, next_offset=next_offset, fetchq_cnt=waiting)), {place}, held)
        return state.trouble()

    assert later(20) is None
    assert later(20) == "a/0 has more than 20, and is not read"
    assert later(20, waiting=1) is None, "some of it waits to be handled"
    assert later(20) is None, "nothing waits any more: what comes next may be on its way"
    assert later(30) is None, "it moves"
    assert later(30, held={place}) is None, "it is held on purpose"
    assert later(50) is None, "that is all"


@pytest.mark.parametrize(
    ("joined", "broker_state", "stranded"),
    [("steady", "UP", False), ("wait-join", "UP", True), ("steady", "INIT", True), ("wait-join", "INIT", True)],
)
def test_client_in_no_group_or_with_no_broker_is_stranded(
    joined: str, broker_state: str, stranded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator is connected in each case: librdkafka asks it for no other broker."""
    now, state = 0.0, ClientState()
    monkeypatch.setattr(client_state, "time", SimpleNamespace(monotonic=lambda: now))
    told = json.loads(statistics(partition(0), state=broker_state)) | {"cgrp": {"state": "up", "join_state": joined}}
    state.take(json.dumps(told), {("a", 0)})
    now += STRANDED_S
    assert not state.stranded
    now += 1
    assert state.stranded is stranded
    state.take(statistics(partition(0)), {("a", 0)})
    assert not state.stranded


def test_a_client_that_has_long_said_nothing_is_mute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(client_state, "time", SimpleNamespace(monotonic=lambda: now))
    state = ClientState()
    now += MUTE_S
    assert not state.mute
    now += 1
    assert state.mute
    state.take(statistics(partition(0)), {("a", 0)})
    assert not state.mute


# --- every series is there ---


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.principal)
def test_what_a_service_counts_has_its_series_before_anything_happens(service: Service) -> None:
    Shell(service, MemoryDatabase())
    Arrivals(service)
    topics = {topic.name for topic in service.topics}
    assert all(topics | {"timers"} <= values(each, "topic") for each in (metrics.HANDLED, metrics.BATCH_SIZE))
    by_topic: list[Any] = [metrics.LAG_SECONDS, metrics.BATCH_SECONDS, metrics.OLDEST_UNHANDLED]
    assert all(topics <= values(each, "topic") for each in by_topic)
    assert {model.TYPE for model in service.handlers} <= values(metrics.HANDLER_ERRORS, "type")
    assert set(service.sagas) <= values(metrics.SAGA_SECONDS, "saga")


def values(metric: Any, label: str) -> set[str]:
    families: list[Metric] = metric.collect()
    return {sample.labels[label] for family in families for sample in family.samples}


def test_every_definition_has_a_meaning_and_a_question() -> None:
    assert len(metrics.DEFINITIONS) > 30
    for each in metrics.DEFINITIONS:
        assert each.means, each.metric
        assert each.answers.endswith("?"), each.metric


def test_what_is_exported_otherwise_than_documented_is_found() -> None:
    Shell(LEDGER, MemoryDatabase())
    text = generate_latest().decode()
    expected = differences(text, *Part)
    changes = {
        "\npopfax_relay_failures_total ": "\npopfax_made_up ",  # another name
        "# TYPE popfax_consumer_partitions gauge": "# TYPE popfax_consumer_partitions counter",
        'popfax_outages_total{cause="bug"}': 'popfax_outages_total{cause="bugs"}',  # a value that is not among those
        'popfax_messages_handled_total{topic="timers"}': 'popfax_messages_handled_total{place="timers"}',
    }
    for before, after in changes.items():
        assert before in text, before
        changed = text.replace(before, after)
        assert set(differences(changed, *Part)) - set(expected), before
    without = [line for line in text.splitlines() if not line.startswith("popfax_relay_leader")]
    assert set(differences("\n".join(without), *Part)) - set(expected)
