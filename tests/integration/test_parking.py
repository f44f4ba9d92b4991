"""Parking by key, with the real shell on a real PostgreSQL."""

from uuid import uuid4

import pytest

from popfax_contracts.ledger import LedgerCommandMalformed
from services.chassis import postgres
from services.chassis.database import Outage, Why
from services.chassis.postgres import PostgresDatabase, stored_record
from services.chassis.shell import FromKafka, Shell
from services.chassis.timers import retry_requested
from tests.integration.line import Line
from tests.integration.line import id_of_record as _id
from tests.integration.recorder import UNSAVABLE, Sent, count, credit, effects, execute, parked

BAD, GOOD = uuid4(), uuid4()


async def _fail_one(line: Line) -> list[Sent]:
    """Put four messages on one key and four on another; the second of the first key fails."""
    bad = [line.record(credit(BAD, number)) for number in (1, 2, 3)]
    good = [line.record(credit(GOOD, number)) for number in (1, 2, 3)]
    line.recorder.broken.add(_id(bad[1]))
    await line.handle(bad[0], good[0], bad[1], good[1], bad[2], good[2])
    return bad


async def test_what_follows_a_failed_message_on_its_key_waits_and_the_others_flow(line: Line) -> None:
    bad = await _fail_one(line)
    assert await line.amounts(BAD) == [1]
    assert await line.amounts(GOOD) == [1, 2, 3]
    rows = await parked(line.engine)
    assert [(row.id, row.why) for row in rows] == [(_id(bad[1]), Why.FAILED), (_id(bad[2]), Why.BEHIND)]
    assert rows[0].code == "RuntimeError"
    assert "recorder.py" in rows[0].detail
    later = line.record(credit(BAD, 4))
    await line.handle(later, line.record(credit(GOOD, 4)))
    assert await line.amounts(BAD) == [1]
    assert await line.amounts(GOOD) == [1, 2, 3, 4]
    assert (await line.why()) == [Why.FAILED, Why.BEHIND, Why.BEHIND]


async def test_a_parked_message_keeps_its_bytes(line: Line) -> None:
    bad = await _fail_one(line)
    kept = stored_record((await parked(line.engine))[0])
    assert (kept.topic, kept.partition, kept.offset) == (bad[1].topic, bad[1].partition, bad[1].offset)
    assert (kept.key, kept.value, list(kept.headers)) == (bad[1].key, bad[1].value, list(bad[1].headers))


async def test_a_repeated_delivery_of_what_is_parked_changes_nothing(line: Line) -> None:
    bad = await _fail_one(line)
    await line.handle(*bad)
    assert await line.why() == [Why.FAILED, Why.BEHIND]
    assert await line.amounts(BAD) == [1]


async def test_a_retry_handles_oldest_first_with_the_same_ids_and_frees_the_key(line: Line) -> None:
    bad = await _fail_one(line)
    line.recorder.broken.clear()
    await line.retry(_id(bad[1]))
    assert [effect.message_id for effect in await effects(line.engine, [BAD])] == [_id(record) for record in bad]
    assert await line.amounts(BAD) == [1, 2, 3]
    assert await parked(line.engine) == []
    await line.handle(line.record(credit(BAD, 4)), *bad)
    assert await line.amounts(BAD) == [1, 2, 3, 4]


async def test_a_retry_that_fails_again_waits_for_the_operator_once_more(line: Line) -> None:
    bad = await _fail_one(line)
    await line.retry(_id(bad[1]))
    rows = await parked(line.engine)
    assert [(row.why, row.attempts, row.retry_requested_at) for row in rows] == [
        (Why.FAILED, 2, None),
        (Why.BEHIND, 1, None),
    ]
    assert await retry_requested(line.shell) == 0
    await line.handle(line.record(credit(BAD, 4)))
    assert await line.amounts(BAD) == [1]


async def test_a_dropped_message_unblocks_its_key_once_what_waits_behind_it_is_handled(line: Line) -> None:
    bad = await _fail_one(line)
    await _drop(line, bad[1])
    await line.handle(line.record(credit(BAD, 4)))
    assert await line.amounts(BAD) == [1], "what was behind it comes first"
    await line.retry(_id(bad[2]))
    assert await line.amounts(BAD) == [1, 3, 4]
    assert await parked(line.engine) == []


async def test_dropping_the_last_one_unblocks_its_key(line: Line) -> None:
    bad = await _fail_one(line)
    for record in bad[1:]:
        await _drop(line, record)
    await line.handle(line.record(credit(BAD, 4)), *bad)
    assert await line.amounts(BAD) == [1, 4], "what was dropped does not come back with a repeated delivery"


async def _drop(line: Line, record: Sent) -> None:
    """What `popfax parked drop` does."""
    async with PostgresDatabase(line.engine).begin() as tx:
        assert _id(record) in await tx.drop_parked([_id(record)])


async def test_an_unreadable_record_blocks_nothing(line: Line) -> None:
    garbage = line.record(credit(BAD), value=b"{")
    await line.handle(garbage, line.record(credit(BAD, 2)))
    (row,) = await parked(line.engine)
    assert (row.why, row.code, row.detail) == (Why.UNDECODABLE, "malformed_command", "value: json_invalid")
    assert await line.amounts(BAD) == [2]
    sent = execute(str(line.engine.url.render_as_string(False)), "SELECT type FROM outbox ORDER BY seq")
    assert (LedgerCommandMalformed.TYPE,) in sent, "its sender is told"


async def test_what_fails_only_when_saved_is_parked_too(line: Line) -> None:
    bad = line.record(credit(BAD, UNSAVABLE))
    await line.handle(line.record(credit(GOOD, 1)), bad, line.record(credit(GOOD, 2)))
    (row,) = await parked(line.engine)
    assert (row.why, row.code) == (Why.FAILED, "CheckViolation 23514 effects_amount_units_check")
    assert await line.amounts(GOOD) == [1, 2]
    assert await line.amounts(BAD) == []


async def test_a_failed_message_leaves_no_trace_but_its_parked_row(line: Line) -> None:
    before = await count(line.engine, "outbox")
    bad = line.record(credit(BAD, 1))
    line.recorder.broken.add(_id(bad))
    await line.handle(bad)
    assert await count(line.engine, "outbox") == before
    assert await line.amounts(BAD) == []


async def test_an_outage_is_not_a_failure(line: Line, ledger_url: str) -> None:
    unreachable = postgres.engine(ledger_url.rsplit("@", 1)[0] + "@127.0.0.1:1/nowhere")
    shell = Shell(line.recorder.service, PostgresDatabase(unreachable))
    with pytest.raises(Outage):
        await shell.process([line.record(credit(BAD))], FromKafka())
    await unreachable.dispose()
