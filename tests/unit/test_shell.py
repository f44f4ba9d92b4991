"""The way of a batch, on a database in memory: what is handled, skipped, answered, parked, and what follows it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid5

import pytest

from popfax_contracts.groups import CreateMemberAccount, GroupRenamed, GroupsCommandMalformed
from popfax_contracts.ids import message_id
from popfax_contracts.ledger import (
    BalanceChanged,
    CreditUnits,
    LedgerCommandMalformed,
    ReserveUnits,
    UnitsCredited,
    UnitsReserved,
)
from popfax_contracts.message import Event, Message
from popfax_contracts.topics import EVERYONE, GROUPS_COMMANDS, LEDGER_COMMANDS, LEDGER_EVENTS, Principal, Topic
from services.chassis.database import Cause, Conflict, Outage, Why
from services.chassis.envelopes import UNREADABLE_HEADERS
from services.chassis.memory import MemoryDatabase, MemoryTransaction
from services.chassis.messages import ClearTimer, Incoming, Outcome, Outgoing, SetTimer, position_id
from services.chassis.sagas import SagaDeadline
from services.chassis.service import AnyHandler, Handler, Moment, Service, nothing
from services.chassis.shell import (
    ATTEMPTS,
    CONFLICT_ATTEMPTS,
    MAX_VALUE_BYTES,
    PARK_PAUSE,
    PARKED_AT_ONCE,
    FromKafka,
    Shell,
)
from services.chassis.timers import fire_due, retry_requested, run_timers
from services.groups.consumers import GROUPS
from services.ledger.consumers import LEDGER
from services.ledger.domain import Account
from tests.simulation.bus import BusRecord
from tests.simulation.world import Decide, VirtualClock, drive, exchanged
from tests.unit.given import id_of

pytestmark = pytest.mark.usefixtures("quiet")

ADA, BOB = id_of("ada"), id_of("bob")


class Bug(Exception):
    """What a handler fails with."""


class Kitchen:
    """A service's shell on a database in memory, with handlers that can be made to fail on some messages."""

    def __init__(self, service: Service = LEDGER, database: MemoryDatabase | None = None) -> None:
        self.failing: set[UUID] = set()
        self.calls: list[UUID] = []
        self.database = database or MemoryDatabase()
        self.clock = VirtualClock(Random(1))
        self.service = exchanged(service, {model: self._fragile(each) for model, each in service.handlers.items()})
        self.shell = Shell(self.service, self.database, self.clock)
        self._offset = 0

    def _fragile(self, handler: AnyHandler) -> Decide:
        def handle(state: Any, message: Incoming[Any], moment: Moment) -> Outcome:
            outcome = handler(state, message, moment)
            sent_id = UUID(message.sent_id)
            self.calls.append(sent_id)
            if sent_id in self.failing:
                raise Bug
            return outcome

        return handle

    def record(self, body: Message, id_: str, topic: Topic | None = None, **changes: Any) -> BusRecord:
        """A record of a message, with parts of it changed."""
        self._offset += 1
        headers = [("ce_id", str(id_of(id_)).encode()), ("ce_type", body.TYPE.encode())]
        record = BusRecord(
            (topic or body.TOPICS[0]).name, 0, self._offset, body.key().encode(), body.to_json(), headers
        )
        return replace(record, **changes)

    def comes(self, *records: BusRecord) -> None:
        drive(self.shell.process(records, FromKafka()))

    def retry(self, *ids: UUID) -> None:
        drive(self.database.request_retry(ids))
        drive(retry_requested(self.shell))

    def sent(self) -> list[Outgoing]:
        """What was answered; what is told of balances comes on top, and is of no interest here."""
        return [out for out in self.database.contents.outbox if out.type != BalanceChanged.TYPE]

    def answers(self) -> list[str]:
        return [out.causation_id for out in self.sent()]

    def parked(self) -> list[tuple[UUID, Why]]:
        """The parked messages, by the ids that their sender gave them."""
        rows = [row.parked for row in self.database.contents.parked.values()]
        return [(UUID((dict(each.record.headers)["ce_id"] or b"").decode()), each.why) for each in rows]

    def balance(self, account: UUID) -> int:
        row: Account | None = self.database.contents.tables.get("accounts", {}).get(account)
        return row.balance_units if row else 0


def credit(name: str, account: UUID = ADA, units: int = 10) -> CreditUnits:
    return CreditUnits(credit_id=id_of(name), account_id=account, amount_units=units)


def ids(*names: str) -> list[str]:
    return [str(id_of(name)) for name in names]


def identity(name: str, topic: Topic = LEDGER_COMMANDS) -> UUID:
    """Who the message is that its sender calls so."""
    return message_id(topic.name, b"", str(id_of(name)).encode())


# --- the inbox ---


def test_handles_a_message_once_that_comes_twice_in_a_batch_and_again_later() -> None:
    kitchen = Kitchen()
    record = kitchen.record(credit("c"), "m")
    kitchen.comes(record, record)
    kitchen.comes(record)
    assert kitchen.calls == [id_of("m")]
    assert kitchen.answers() == ids("m")


@pytest.mark.parametrize("together", [True, False])
def test_a_copy_that_cannot_be_read_of_what_was_handled_is_a_duplicate(together: bool) -> None:
    """As a version before sees it that does not know the type: refused, it would be told two outcomes."""
    kitchen = Kitchen()
    record = kitchen.record(credit("c"), "m")
    copy = replace(record, offset=99, headers=[("ce_id", ids("m")[0].encode()), ("ce_type", b"popfax.later.v1")])
    for batch in [[record, copy]] if together else [[record], [copy], [copy]]:
        kitchen.comes(*batch)
    assert kitchen.answers() == ids("m")
    assert kitchen.parked() == []


@pytest.mark.parametrize("together", [True, False])
def test_of_two_messages_with_one_id_the_first_counts_however_they_are_batched(together: bool) -> None:
    kitchen = Kitchen()
    first, second = kitchen.record(credit("c1", units=10), "m"), kitchen.record(credit("c2", units=99), "m")
    for batch in [[first, second]] if together else [[first], [second]]:
        kitchen.comes(*batch)
    assert kitchen.balance(ADA) == 10


def test_answers_come_in_the_order_of_the_messages() -> None:
    kitchen = Kitchen()
    names = [f"m{n}" for n in range(20)]
    kitchen.comes(*(kitchen.record(credit(name, ADA if n % 3 else BOB), name) for n, name in enumerate(names)))
    assert kitchen.answers() == ids(*names)


def test_an_answer_carries_its_causes_envelope_and_the_same_id_each_time() -> None:
    kitchen = Kitchen()
    extra = [("ce_correlationid", b"order 7"), ("ce_actor", str(BOB).encode()), ("traceparent", b"00-aa-bb-01")]
    record = kitchen.record(credit("c"), "m")
    record.headers = [*record.headers, *extra]
    kitchen.comes(record)
    body = UnitsCredited(credit_id=id_of("c"), account_id=ADA, amount_units=10)
    assert kitchen.sent() == [
        Outgoing(
            uuid5(identity("m"), "0"),
            UnitsCredited.TYPE,
            str(ADA),
            body.to_json(),
            "order 7",
            str(id_of("m")),
            BOB,
            "00-aa-bb-01",
            "platform",
        )
    ]


# --- what can't be read ---


def undecodable(kitchen: Kitchen) -> dict[str, tuple[BusRecord, str]]:
    good = kitchen.record(credit("c"), "bad")
    type_ = good.headers[1]
    return {
        "malformed JSON": (replace(good, value=b"{"), "malformed_command"),
        "bytes that are no text": (replace(good, value=b"\xff\xfe"), "malformed_command"),
        "no value": (replace(good, value=None), "malformed_command"),
        "a wrong field": (replace(good, value=good.value.replace(b"10", b'"10"')), "malformed_command"),  # type: ignore[union-attr]
        "a wrong key": (replace(good, key=str(BOB).encode()), "wrong_key"),
        "no key": (replace(good, key=None), "wrong_key"),
        "an unknown type": (replace(good, headers=[good.headers[0], ("ce_type", b"x.v1")]), "unknown_type"),
        "a type that is no text": (replace(good, headers=[good.headers[0], ("ce_type", b"\xff")]), "unknown_type"),
        "no type": (replace(good, headers=[good.headers[0]]), "unknown_type"),
        "no id": (replace(good, headers=[type_]), "malformed_envelope"),
        "an empty id": (replace(good, headers=[("ce_id", b""), type_]), "malformed_envelope"),
        "no header that can be read": (replace(good, headers=UNREADABLE_HEADERS), "malformed_envelope"),
        "neither id nor key": (replace(good, headers=[type_], key=b"who knows"), "malformed_envelope"),
        "an id that is no text": (replace(good, headers=[("ce_id", b"\xff" * 36), type_]), "malformed_envelope"),
    }


UNDECODABLE = list(undecodable(Kitchen()))


@pytest.mark.parametrize("name", UNDECODABLE)
def test_parks_with_its_reason_and_lets_what_follows_pass(name: str) -> None:
    kitchen = Kitchen()
    record, code = undecodable(kitchen)[name]
    kitchen.comes(record, kitchen.record(credit("next"), "next"))
    (row,) = kitchen.database.contents.parked.values()
    assert (row.parked.why, row.parked.code, row.parked.record) == (Why.UNDECODABLE, code, record)
    assert row.parked.id == position_id(record)
    assert kitchen.balance(ADA) == 10
    kitchen.comes(record)
    assert len(kitchen.database.contents.parked) == 1


@pytest.mark.parametrize("name", UNDECODABLE)
def test_answers_what_can_not_be_read_if_anything_of_it_says_which_it_is(name: str) -> None:
    kitchen = Kitchen()
    record, code = undecodable(kitchen)[name]
    kitchen.comes(record)
    if name == "neither id nor key":
        assert kitchen.sent() == []
        return
    (out,) = kitchen.sent()
    answer = LedgerCommandMalformed.from_json(out.value)
    sent_id = None if code == "malformed_envelope" else str(id_of("bad"))
    key = None if record.key is None else UUID(record.key.decode())
    assert (answer.parked_id, answer.command_id, answer.command_key) == (position_id(record), sent_id, key)
    assert (answer.code, out.key) == (code, str(answer.parked_id))
    assert out.correlation_id == out.causation_id == sent_id or str(answer.parked_id)


def test_an_answer_to_what_can_not_be_read_carries_its_correlation() -> None:
    kitchen = Kitchen()
    good = kitchen.record(credit("c"), "bad", key=None)
    kitchen.comes(replace(good, headers=[*good.headers, ("ce_correlationid", b"order 7")]))
    kitchen.comes(replace(good, offset=99, headers=[good.headers[1], ("ce_correlationid", b"order 8")]))
    assert [(out.correlation_id, out.causation_id) for out in kitchen.sent()] == [
        ("order 7", str(id_of("bad"))),
        ("order 8", kitchen.sent()[1].key),
    ]


def test_the_reasons_name_fields_and_never_contents() -> None:
    kitchen = Kitchen(GROUPS)
    body = b'{"group_id": "secret", "plan": "send_only", "price_units": 1, "email": "who knows", "language": "fr"}'
    record = BusRecord(
        GROUPS_COMMANDS.name,
        0,
        0,
        b"k",
        body,
        [("ce_id", str(ADA).encode()), ("ce_type", b"popfax.groups.create-member-account.v1")],
    )
    kitchen.comes(record)
    answer = GroupsCommandMalformed.from_json(kitchen.sent()[0].value)
    assert answer.errors == (
        "group_id: uuid_parsing",
        "email: value_error",
        "first_name: missing",
        "last_name: missing",
    )
    assert b"who knows" not in kitchen.sent()[0].value
    assert b"secret" not in kitchen.sent()[0].value


def test_a_header_that_is_no_text_costs_the_header_alone() -> None:
    kitchen = Kitchen()
    record = kitchen.record(credit("c"), "m")
    kitchen.comes(replace(record, headers=[*record.headers, ("traceparent", b"\xff"), ("other", b"\xfe")]))
    assert kitchen.balance(ADA) == 10
    assert kitchen.sent()[0].traceparent is None


def test_others_types_on_others_topics_are_none_of_ours() -> None:
    kitchen = Kitchen(GROUPS)
    event = UnitsCredited(credit_id=id_of("c"), account_id=ADA, amount_units=1)
    kitchen.comes(kitchen.record(event, "m"))
    assert (kitchen.parked(), kitchen.sent(), kitchen.database.contents.inbox) == ([], [], set())


def test_a_type_on_a_topic_where_it_does_not_belong_is_parked() -> None:
    kitchen = Kitchen(GROUPS)
    event = UnitsReserved(hold_id=id_of("h"), account_id=ADA, amount_units=1)
    kitchen.comes(kitchen.record(event, "m", topic=GROUPS_COMMANDS))
    (row,) = kitchen.database.contents.parked.values()
    assert (row.parked.code, row.parked.detail) == ("wrong_topic", f"ce_type: belongs on {LEDGER_EVENTS.name}")


# --- what fails by itself ---


@pytest.mark.parametrize("place", range(7))
def test_halving_finds_the_poison_and_handles_all_the_others(place: int) -> None:
    kitchen = Kitchen()
    names = [f"m{n}" for n in range(7)]
    kitchen.failing = {id_of(names[place])}
    accounts = [id_of(f"account {name}") for name in names]
    kitchen.comes(*(kitchen.record(credit(name, acc), name) for name, acc in zip(names, accounts, strict=True)))
    assert kitchen.parked() == [(id_of(names[place]), Why.FAILED)]
    assert kitchen.answers() == ids(*(name for n, name in enumerate(names) if n != place))
    assert [kitchen.balance(acc) for acc in accounts] == [0 if n == place else 10 for n in range(7)]


def test_tries_a_failing_message_several_times_with_pauses() -> None:
    kitchen = Kitchen()
    kitchen.failing = {id_of("m")}
    before = kitchen.clock.now
    kitchen.comes(kitchen.record(credit("c"), "m"))
    assert kitchen.calls == [id_of("m")] * ATTEMPTS
    assert kitchen.clock.now - before > timedelta(seconds=0.5)


def test_what_follows_a_failed_one_on_its_key_is_parked_behind_it_and_other_keys_flow_on() -> None:
    kitchen = Kitchen()
    kitchen.failing = {id_of("m1")}
    kitchen.comes(
        kitchen.record(credit("c0"), "m0"),
        kitchen.record(credit("c1"), "m1"),
        kitchen.record(credit("c2"), "m2"),
        kitchen.record(credit("c3", BOB), "m3"),
    )
    kitchen.comes(kitchen.record(credit("c4"), "m4"))
    assert kitchen.parked() == [(id_of("m1"), Why.FAILED), (id_of("m2"), Why.BEHIND), (id_of("m4"), Why.BEHIND)]
    assert (kitchen.balance(ADA), kitchen.balance(BOB)) == (10, 10)


def blocked_kitchen() -> Kitchen:
    """One where m1 failed and m2 and m3 stand behind it."""
    kitchen = Kitchen()
    kitchen.failing = {id_of("m1")}
    kitchen.comes(*(kitchen.record(credit(f"c{n}"), f"m{n}") for n in (1, 2, 3)))
    kitchen.calls.clear()
    return kitchen


@pytest.mark.parametrize("asked_for", [["m1"], ["m3"], ["m1", "m2", "m3"]])
def test_retries_oldest_first_whichever_is_asked_for_and_unblocks_the_key(asked_for: Sequence[str]) -> None:
    kitchen = blocked_kitchen()
    kitchen.failing.clear()
    kitchen.retry(*map(identity, asked_for))
    assert kitchen.calls == [id_of("m1"), id_of("m2"), id_of("m3")]
    assert (kitchen.parked(), kitchen.database.contents.blocked) == ([], set())
    kitchen.comes(kitchen.record(credit("c4"), "m4"))
    assert kitchen.answers() == ids("m1", "m2", "m3", "m4")


def test_a_retry_that_fails_again_stops_its_key_and_is_counted() -> None:
    kitchen = blocked_kitchen()
    kitchen.failing = {id_of("m2")}
    kitchen.retry(identity("m1"))
    assert kitchen.parked() == [(id_of("m2"), Why.FAILED), (id_of("m3"), Why.BEHIND)]
    row = kitchen.database.contents.parked[identity("m2")]
    assert (row.parked.code, row.attempts, kitchen.database.contents.retrying) == ("Bug", 2, set())
    kitchen.calls.clear()
    drive(retry_requested(kitchen.shell))
    assert kitchen.calls == []


def test_a_retried_message_that_comes_again_is_a_duplicate() -> None:
    kitchen = blocked_kitchen()
    kitchen.failing.clear()
    kitchen.retry(identity("m1"))
    kitchen.comes(kitchen.record(credit("c1"), "m1"))
    assert kitchen.balance(ADA) == 30


def test_a_retried_message_that_can_not_be_read_stays_parked() -> None:
    kitchen = Kitchen()
    record = kitchen.record(credit("c"), "m", value=b"{")
    kitchen.comes(record)
    kitchen.retry(position_id(record))
    row = kitchen.database.contents.parked[position_id(record)]
    assert (row.parked.code, row.attempts) == ("StillUndecodable", 2)
    assert list(kitchen.database.contents.parked) == [position_id(record)]
    assert drive(retry_requested(kitchen.shell)) == 0, "its retry is spent"


def test_a_newer_version_reads_what_was_parked_unless_it_has_come_again_meanwhile() -> None:
    kitchen = Kitchen()
    older = replace(LEDGER, handlers={ReserveUnits: LEDGER.handlers[ReserveUnits]})
    newest, kitchen.shell = kitchen.shell, Shell(older, kitchen.database, kitchen.clock)
    known, again = kitchen.record(credit("c1"), "m1"), kitchen.record(credit("c2", BOB), "m2")
    kitchen.comes(known, again)
    kitchen.shell = newest
    kitchen.comes(replace(again, offset=99))
    kitchen.retry(position_id(known), position_id(again))
    assert kitchen.parked() == []
    assert (kitchen.balance(ADA), kitchen.balance(BOB)) == (10, 10)


def test_what_was_parked_unread_and_came_again_and_failed_is_handled_once_when_both_are_retried() -> None:
    kitchen = Kitchen()
    older = replace(LEDGER, handlers={ReserveUnits: LEDGER.handlers[ReserveUnits]})
    newest, kitchen.shell = kitchen.shell, Shell(older, kitchen.database, kitchen.clock)
    unread = kitchen.record(credit("c1"), "m1")
    kitchen.comes(unread)
    kitchen.shell = newest
    kitchen.failing = {id_of("m1")}
    kitchen.comes(replace(unread, offset=99))
    kitchen.failing.clear()
    kitchen.retry(position_id(unread), identity("m1"))
    assert kitchen.parked() == []
    assert kitchen.balance(ADA) == 10


def test_what_is_too_large_to_publish_is_parked_and_changes_nothing() -> None:
    kitchen = Kitchen()
    large = LedgerCommandMalformed(
        parked_id=ADA, command_type="", code="malformed_command", errors=("x" * MAX_VALUE_BYTES,)
    )
    talkative = exchanged(LEDGER, {CreditUnits: _and(LEDGER.handlers[CreditUnits], large)})
    kitchen.shell = Shell(talkative, kitchen.database, kitchen.clock)
    kitchen.comes(kitchen.record(credit("c"), "m"))
    assert kitchen.parked() == [(id_of("m"), Why.FAILED)]
    assert (kitchen.balance(ADA), kitchen.sent()) == (0, [])


def _and(handler: AnyHandler, more: Message) -> Decide:
    return lambda state, message, moment: [*handler(state, message, moment), more]


# --- compacted topics ---

KEY, OTHER_KEY = id_of("key"), id_of("other key")


def told(version: int, account: UUID = KEY) -> BalanceChanged:
    return BalanceChanged(account_id=account, version=version, balance_units=version, available_units=version)


LIMITS = Topic("popfax.ledger.limits", Principal.LEDGER, EVERYONE, compacted=True)


class LimitSet(Event, type="popfax.ledger.limit-set.v1", topic=LIMITS, key="account_id"):
    """Something else of an account that a compacted topic keeps."""

    account_id: UUID
    units: int


class LimitLifted(Event, type="popfax.ledger.limit-lifted.v1", topic=LIMITS, key="account_id", tombstone=True):
    """It is no more."""

    account_id: UUID


def limit(units: int) -> LimitSet:
    return LimitSet(account_id=KEY, units=units)


LIFTED = LimitLifted(account_id=KEY)
CREDITED = UnitsCredited(credit_id=ADA, account_id=KEY, amount_units=1)

TOLD: dict[str, tuple[list[list[Message]], list[Message]]] = {
    # What the messages of a batch return, and what is published of it.
    "of one message the last": ([[told(1), told(2)]], [told(2)]),
    "of several messages the last one's": ([[told(1)], [told(2)], [told(3)]], [told(3)]),
    "one per key": ([[told(1)], [told(7, OTHER_KEY)], [told(2)]], [told(2), told(7, OTHER_KEY)]),
    "one per topic, though the key is the same": ([[told(1)], [limit(1)]], [told(1), limit(1)]),
    "everything on other topics, in order": (
        [[CREDITED, told(1), CREDITED], [told(2), CREDITED]],
        [CREDITED] * 3 + [told(2)],
    ),
    "a tombstone after the record": ([[limit(1)], [LIFTED]], [LIFTED]),
    "a record after the tombstone": ([[LIFTED], [limit(2)]], [limit(2)]),
}


@pytest.mark.parametrize(("returned", "published"), TOLD.values(), ids=TOLD)
def test_of_a_batch_a_compacted_topic_gets(returned: list[list[Message]], published: list[Message]) -> None:
    kitchen = timing({f"m{n}": outcome for n, outcome in enumerate(returned)})
    kitchen.comes(*(kitchen.record(credit(f"c{n}"), f"m{n}") for n in range(len(returned))))
    outbox = kitchen.database.contents.outbox
    assert [(out.type, out.value) for out in outbox] == [(body.TYPE, body.to_json()) for body in published]


def test_a_message_that_the_service_may_not_send_is_a_bug_of_its_handler() -> None:
    """It is parked like any other failure, and never gets to the outbox, where it would stand in the others' way."""
    kitchen = timing({"m": [GroupRenamed(group_id=KEY, owner_id=ADA)]})
    kitchen.comes(kitchen.record(credit("c"), "m"))
    assert kitchen.parked() == [(id_of("m"), Why.FAILED)]
    assert kitchen.sent() == []


def test_each_of_two_batches_tells_its_own() -> None:
    kitchen = timing({"m1": [told(1)], "m2": [told(2)]})
    for name in ("m1", "m2"):
        kitchen.comes(kitchen.record(credit(name), name))
    values = [out.value for out in kitchen.database.contents.outbox]
    assert values == [told(1).to_json(), told(2).to_json()]


def test_what_a_compacted_topic_gets_has_the_envelope_of_what_brought_it_about() -> None:
    kitchen = timing({"m1": [told(1)], "m2": [CREDITED, told(2)]})
    kitchen.comes(kitchen.record(credit("m1"), "m1"), kitchen.record(credit("m2"), "m2"))
    (newest,) = [out for out in kitchen.database.contents.outbox if out.type == BalanceChanged.TYPE]
    assert (newest.id, newest.causation_id) == (uuid5(identity("m2"), "1"), str(id_of("m2")))


def test_a_message_that_fails_tells_a_compacted_topic_nothing() -> None:
    kitchen = timing({"m1": [told(1)], "m2": [told(2)]})
    kitchen.failing = {id_of("m2")}
    kitchen.comes(kitchen.record(credit("m1"), "m1"), kitchen.record(credit("m2"), "m2"))
    assert [out.value for out in kitchen.database.contents.outbox] == [told(1).to_json()]


# --- the database's failures ---


class Stormy(MemoryDatabase):
    """A database that fails so many times, each time as it is told: at the beginning, or just before the commit."""

    def __init__(self, error: Callable[[], Exception], times: int, *, at_commit: bool = False) -> None:
        super().__init__()
        self.error, self.times, self.at_commit = error, times, at_commit

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[MemoryTransaction]:
        self.times -= 1
        if self.times >= 0 and not self.at_commit:
            raise self.error()
        async with super().begin() as tx:
            yield tx
            if self.times >= 0:
                raise self.error()


@pytest.mark.parametrize("at_commit", [True, False])
def test_an_outage_is_the_callers_to_wait_for_and_nothing_has_happened(at_commit: bool) -> None:
    kitchen = Kitchen(database=Stormy(Outage, 1, at_commit=at_commit))
    record = kitchen.record(credit("c"), "m")
    with pytest.raises(Outage):
        kitchen.comes(record)
    assert (kitchen.balance(ADA), kitchen.sent(), kitchen.parked()) == (0, [], [])
    kitchen.comes(record)
    assert kitchen.balance(ADA) == 10


def test_a_lost_race_is_run_again_without_halving() -> None:
    kitchen = Kitchen(database=Stormy(Conflict, CONFLICT_ATTEMPTS - 1, at_commit=True))
    kitchen.comes(*(kitchen.record(credit(f"c{n}"), f"m{n}") for n in range(3)))
    assert len(kitchen.calls) == 3 * CONFLICT_ATTEMPTS
    assert (kitchen.balance(ADA), kitchen.parked()) == (30, [])


def test_who_loses_every_race_waits() -> None:
    kitchen = Kitchen(database=Stormy(Conflict, CONFLICT_ATTEMPTS))
    record = kitchen.record(credit("c"), "m")
    with pytest.raises(Outage):
        kitchen.comes(record)
    assert kitchen.shell.outages.waits["messages"].cause is Cause.CONTENDED
    kitchen.comes(record)
    assert (kitchen.balance(ADA), kitchen.parked()) == (10, [])


def test_who_makes_a_row_that_is_always_there_is_parked() -> None:
    kitchen = Kitchen(database=Stormy(lambda: Conflict("23505"), CONFLICT_ATTEMPTS))
    kitchen.comes(kitchen.record(credit("c"), "m"))
    assert kitchen.parked() == [(id_of("m"), Why.FAILED)]


# --- a fault that hits every message alike ---


def all_failing(count: int) -> tuple[Kitchen, list[BusRecord]]:
    kitchen = Kitchen()
    kitchen.failing = {id_of(f"m{n}") for n in range(count)}
    return kitchen, [kitchen.record(credit(f"c{n}", id_of(f"a{n}")), f"m{n}") for n in range(count)]


def tried(kitchen: Kitchen, records: Sequence[BusRecord]) -> bool:
    """Whether a batch is done; if not, it waits for what is hardly the messages' fault."""
    try:
        kitchen.comes(*records)
    except Outage as outage:
        return outage.cause is not Cause.BUG
    return True


def test_while_nothing_succeeds_few_are_parked_and_so_many_more_after_each_pause() -> None:
    kitchen, records = all_failing(3 * PARKED_AT_ONCE)
    for _ in range(3):
        assert not tried(kitchen, records)
        assert len(kitchen.parked()) == PARKED_AT_ONCE
    kitchen.clock.now += PARK_PAUSE
    assert not tried(kitchen, records)
    assert len(kitchen.parked()) == 2 * PARKED_AT_ONCE
    kitchen.clock.now += PARK_PAUSE
    assert tried(kitchen, records)


def test_what_fails_beside_what_succeeds_is_parked_however_much_it_is() -> None:
    kitchen, records = all_failing(3 * PARKED_AT_ONCE)
    good = kitchen.record(credit("good", BOB), "good")
    attempts = 0
    while not tried(kitchen, [*records, kitchen.record(credit(f"good {attempts}", BOB), f"good {attempts}")]):
        attempts += 1
    assert attempts <= 3
    kitchen.comes(good)
    assert len(kitchen.parked()) == 3 * PARKED_AT_ONCE


def test_no_message_overtakes_one_of_its_key_that_was_held() -> None:
    kitchen, records = all_failing(PARKED_AT_ONCE + 1)
    last = id_of(f"a{PARKED_AT_ONCE}")
    behind = kitchen.record(credit("behind", last), "behind")
    assert not tried(kitchen, [*records, behind])
    assert kitchen.balance(last) == 0
    kitchen.failing.clear()
    assert tried(kitchen, [*records, behind])
    assert kitchen.balance(last) == 20
    assert kitchen.answers() == ids(f"m{PARKED_AT_ONCE}", "behind")


# --- messages without a row of the inbox ---


def hold(name: str, units: int = 10) -> ReserveUnits:
    return ReserveUnits(hold_id=id_of(name), account_id=ADA, amount_units=units)


def test_a_message_that_its_row_tells_has_no_row_of_the_inbox_and_the_same_answer_again() -> None:
    kitchen = Kitchen()
    record = kitchen.record(hold("h"), "reserve")
    kitchen.comes(record, record)
    assert len(kitchen.calls) == 1, "within a batch, the first one counts"
    assert kitchen.database.contents.inbox == set()
    kitchen.comes(record)
    first, again = kitchen.sent()
    assert (first.id, first.value) == (again.id, again.value)


def test_once_parked_it_is_in_the_inbox_and_is_not_handled_when_it_comes_again() -> None:
    kitchen = Kitchen()
    record = kitchen.record(hold("h"), "reserve")
    kitchen.failing.add(id_of("reserve"))
    kitchen.comes(record)
    (parked,) = kitchen.database.contents.parked
    assert kitchen.database.contents.inbox == {parked}
    kitchen.failing.clear()
    kitchen.comes(record)
    assert kitchen.sent() == []
    kitchen.retry(parked)
    kitchen.comes(record)
    assert len(kitchen.sent()) == 1


def test_what_clients_send_needs_the_inbox() -> None:
    by_row = replace(LEDGER.handlers[CreditUnits], once_by="its transfer")
    with pytest.raises(TypeError, match="CreditUnits has senders that choose ids"):
        replace(LEDGER, handlers={CreditUnits: by_row})


# --- timers ---


def timing(effects: dict[str, Outcome]) -> Kitchen:
    """A ledger whose handlers answer with the timers that they are told, by message."""
    by_id = {id_of(name): outcome for name, outcome in effects.items()}
    handlers: dict[type[Message], AnyHandler] = {
        CreditUnits: Handler(lambda _, message, __: by_id[UUID(message.sent_id)], nothing),
        SagaDeadline: Handler(lambda *_: (), nothing),
    }
    return Kitchen(replace(LEDGER, handlers=handlers))


SOON = VirtualClock(Random(1)).now + timedelta(minutes=1)
LATE = SOON + timedelta(days=1)
TIMER = id_of("timer")


def deadline(at: Any) -> SetTimer:
    return SetTimer(TIMER, at, SagaDeadline(saga_id=TIMER))


@pytest.mark.parametrize(
    ("words", "due"),
    [
        ([[deadline(SOON)]], SOON),
        ([[deadline(SOON), deadline(LATE)]], LATE),
        ([[deadline(SOON)], [ClearTimer(TIMER)]], None),
        ([[ClearTimer(TIMER)], [deadline(SOON)]], SOON),
        ([[deadline(SOON)], [ClearTimer(TIMER)], [deadline(LATE)]], LATE),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_the_last_word_on_a_timer_counts_however_it_is_batched(words: list[Outcome], due: Any, together: bool) -> None:
    kitchen = timing({f"m{n}": outcome for n, outcome in enumerate(words)})
    records = [kitchen.record(credit(f"c{n}"), f"m{n}") for n in range(len(words))]
    for batch in [records] if together else [[record] for record in records]:
        kitchen.comes(*batch)
    assert [timer.due_at for timer, _ in kitchen.database.contents.timers.values()] == ([due] if due else [])


def test_a_timer_fires_once_when_it_is_due_with_its_causes_envelope() -> None:
    kitchen = timing({"m": [deadline(SOON)]})
    kitchen.comes(kitchen.record(credit("c"), "m"))
    kitchen.calls.clear()
    assert drive(fire_due(kitchen.shell)) == 0
    kitchen.clock.now = SOON
    assert [drive(fire_due(kitchen.shell)) for _ in range(2)] == [1, 0]
    assert len(kitchen.calls) == 1


async def test_timers_rest_until_the_next_one_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.chassis.timers.LOOK_S", 60.0)
    due_at = datetime.now(UTC) + timedelta(seconds=0.3)
    kitchen = timing({"m": [deadline(due_at)]})
    await kitchen.shell.process([kitchen.record(credit("c"), "m")], FromKafka())
    kitchen.calls.clear()
    running = asyncio.create_task(run_timers(Shell(kitchen.service, kitchen.database)))
    try:
        async with asyncio.timeout(10):
            while not kitchen.calls:  # noqa: ASYNC110  (a list is no event)
                await asyncio.sleep(0.01)
        assert datetime.now(UTC) >= due_at
    finally:
        running.cancel()


def test_a_timer_that_fails_is_parked_and_can_be_retried() -> None:
    kitchen = timing({"m": [deadline(SOON)]})
    kitchen.comes(kitchen.record(credit("c"), "m"))
    kitchen.clock.now = SOON
    (record,) = drive(kitchen.database.due_timers(SOON, 1))
    sent_id = UUID(dict(record.headers)["ce_id"].decode())  # type: ignore[union-attr]
    kitchen.failing = {sent_id}
    drive(fire_due(kitchen.shell))
    assert kitchen.parked() == [(sent_id, Why.FAILED)]
    assert kitchen.database.contents.timers == {}
    kitchen.failing.clear()
    kitchen.retry(*kitchen.database.contents.parked)
    assert kitchen.parked() == []


def test_a_service_refuses_a_topic_that_it_may_not_read_and_a_handler_without_its_topic() -> None:
    with pytest.raises(TypeError, match="may not read"):
        replace(LEDGER, topics=(LEDGER_COMMANDS, GROUPS_COMMANDS))
    handlers: dict[type[Message], AnyHandler] = {CreateMemberAccount: Handler(lambda *_: (), nothing)}
    with pytest.raises(TypeError, match="does not subscribe"):
        replace(LEDGER, handlers=handlers)
