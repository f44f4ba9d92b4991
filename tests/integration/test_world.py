"""What is wrong with the world is not wrong with the message: each fault on a real PostgreSQL, and after it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncEngine

from popfax_contracts.ledger import CreditUnits
from popfax_contracts.topics import LEDGER_COMMANDS
from services.chassis import postgres
from services.chassis.database import Cause, Outage, Why
from services.chassis.messages import Incoming, Outcome, SetTimer
from services.chassis.postgres import PARKED, PostgresDatabase
from services.chassis.sagas import SagaDeadline
from services.chassis.service import Handler, Moment, nothing
from services.chassis.shell import PARKED_AT_ONCE, FromKafka, Shell
from services.chassis.timers import fire_due, retry_requested
from tests.integration.line import id_of_record
from tests.integration.recorder import UNSAVABLE, Recorder, Sent, credit, effects, execute, parked, plain
from tests.unit.given import incoming


@dataclass
class Service:
    """A service on a database of its own, whose role is no superuser; `url` is the superuser's."""

    url: str
    role: str
    own_url: str
    engine: AsyncEngine
    recorder: Recorder
    shell: Shell

    def record(self, body: CreditUnits, id_: UUID | None = None) -> Sent:
        headers = [("ce_id", str(id_ or uuid4()).encode()), ("ce_type", body.TYPE.encode())]
        return Sent(LEDGER_COMMANDS.name, 0, 0, body.key().encode(), body.to_json(), headers)

    async def handle(self, *records: Sent) -> None:
        await self.shell.process(records, FromKafka())

    async def until_handled(self, *records: Sent, within_s: float = 30) -> None:
        """Try as the consumer does."""
        async with asyncio.timeout(within_s):
            while True:
                try:
                    return await self.handle(*records)
                except Outage:
                    await asyncio.sleep(0.1)

    async def amounts(self, account: UUID) -> list[int]:
        return [effect.amount_units for effect in await effects(self.engine, [account])]

    def execute(self, statement: str) -> None:
        execute(self.url, statement)


@asynccontextmanager
async def service_on(url: str, **settings: str) -> AsyncIterator[Service]:
    role = f"role_{uuid4().hex}"
    execute(url, f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    execute(url, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    scheme, rest = url.split("://")
    own_url = f"{scheme}://{role}:secret@{rest.rpartition('@')[2]}"
    engine = postgres.engine(own_url, 8, **settings)
    recorder = Recorder()
    try:
        yield Service(url, role, own_url, engine, recorder, Shell(recorder.service, PostgresDatabase(engine)))
    finally:
        await engine.dispose()
        execute(url, f"DROP OWNED BY {role}")
        execute(url, f"DROP ROLE {role}")


@pytest_asyncio.fixture
async def service(ledger_url: str) -> AsyncIterator[Service]:
    async with service_on(ledger_url) as made:
        yield made


def counted(cause: Cause) -> float:
    return REGISTRY.get_sample_value("popfax_outages_total", {"cause": cause.value}) or 0


RAISE = """
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'told to fail' USING ERRCODE = '{state}'; END $$;
CREATE TRIGGER fails BEFORE INSERT ON effects FOR EACH ROW EXECUTE FUNCTION fail()
"""
"""What can't be had otherwise at will: a full disk, a server out of memory, an error that nobody knows."""
MEND = "DROP TRIGGER fails ON effects; DROP FUNCTION fail()"

FAULTS: dict[str, tuple[str, str, Cause]] = {
    # What breaks it, what mends it (`{role}` is the service's), and what it counts as.
    "a missing table": (
        "ALTER TABLE effects RENAME TO gone",
        "ALTER TABLE gone RENAME TO effects",
        Cause.SCHEMA,
    ),
    "a missing column": (
        "ALTER TABLE effects RENAME amount_units TO gone",
        "ALTER TABLE effects RENAME gone TO amount_units",
        Cause.SCHEMA,
    ),
    "a missing chassis table": (
        "ALTER TABLE outbox RENAME TO gone",
        "ALTER TABLE gone RENAME TO outbox",
        Cause.SCHEMA,
    ),
    "a column of another type": (
        "ALTER TABLE effects RENAME amount_units TO gone; ALTER TABLE effects ADD amount_units DATE",
        "ALTER TABLE effects DROP amount_units; ALTER TABLE effects RENAME gone TO amount_units",
        Cause.SCHEMA,
    ),
    "a missing privilege": (
        "REVOKE INSERT ON effects FROM {role}",
        "GRANT INSERT ON effects TO {role}",
        Cause.PRIVILEGE,
    ),
    "a role that may not even read": (
        "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}",
        Cause.PRIVILEGE,
    ),
    "a read-only database": (
        "ALTER ROLE {role} SET default_transaction_read_only = on",
        "ALTER ROLE {role} RESET default_transaction_read_only",
        Cause.READ_ONLY,
    ),
    "a role that may not log in": ("ALTER ROLE {role} NOLOGIN", "ALTER ROLE {role} LOGIN", Cause.AWAY),
    "too many connections": (
        "ALTER ROLE {role} CONNECTION LIMIT 0",
        "ALTER ROLE {role} CONNECTION LIMIT -1",
        Cause.AWAY,
    ),
    "a full disk": (RAISE.format(state="53100"), MEND, Cause.RESOURCES),
    "a server out of memory": (RAISE.format(state="53200"), MEND, Cause.RESOURCES),
    "a deadlock, however often": (RAISE.format(state="40P01"), MEND, Cause.CONTENDED),
    "a serialization failure, however often": (RAISE.format(state="40001"), MEND, Cause.CONTENDED),
    "a statement that an operator cancels": (RAISE.format(state="57014"), MEND, Cause.AWAY),
    "an error that nobody knows": (RAISE.format(state="XX000"), MEND, Cause.OTHER),
}


@pytest.mark.parametrize(("breaks", "mends", "cause"), FAULTS.values(), ids=FAULTS)
async def test_a_message_waits_for(service: Service, breaks: str, mends: str, cause: Cause) -> None:
    account, others = uuid4(), [uuid4() for _ in range(4)]
    await service.handle(service.record(credit(account, 1)))
    before = counted(cause)
    service.execute(breaks.format(role=service.role))
    await service.engine.dispose()  # what is set for a role holds for new connections
    batch = [service.record(credit(each, number)) for number in (2, 3) for each in (account, *others)]
    for _ in range(3):
        with pytest.raises(Outage) as caught:
            await service.handle(*batch)
        assert caught.value.cause is cause
    assert counted(cause) == before + 3, "each attempt is counted"
    assert service.shell.outages.waits["messages"].cause is cause, "whoever asks is told"
    service.execute(mends.format(role=service.role))
    await service.until_handled(*batch)
    assert service.shell.outages.waits == {}
    assert await service.amounts(others[0]) == [2, 3]
    assert (await service.amounts(account))[1:] == [2, 3]
    assert await parked(service.engine) == []


@contextmanager
def _locked(service: Service, statement: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(plain(service.url)) as connection:
        connection.execute(statement.encode())
        yield connection


async def test_a_message_waits_for_a_table_that_is_locked_for_long(ledger_url: str) -> None:
    async with service_on(ledger_url, lock_timeout="300ms") as service:
        body = credit(uuid4(), 1)
        with _locked(service, "LOCK TABLE effects IN ACCESS EXCLUSIVE MODE"):
            for _ in range(12):  # longer than any race is run again for
                with pytest.raises(Outage) as caught:
                    await service.handle(service.record(body))
                assert caught.value.cause is Cause.LOCKED
        await service.handle(service.record(body))
        assert await service.amounts(body.account_id) == [1]
        assert await parked(service.engine) == []


async def test_a_backend_that_is_cancelled_or_ended_blames_no_message(service: Service) -> None:
    body, loop = credit(uuid4(), 1), asyncio.get_running_loop()
    waiting = "SELECT {what}(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    for what in ("pg_cancel_backend", "pg_terminate_backend"):
        with _locked(service, "LOCK TABLE effects IN ACCESS EXCLUSIVE MODE"):
            attempt = asyncio.ensure_future(service.handle(service.record(body)))
            deadline = loop.time() + 30
            while not execute(service.url, waiting.format(what=what)):
                assert loop.time() < deadline
                await asyncio.sleep(0.05)
            with pytest.raises(Outage):
                await attempt
    await service.handle(service.record(body))
    assert await parked(service.engine) == []


async def test_a_transaction_that_was_idle_for_too_long_blames_no_message(ledger_url: str) -> None:
    async with service_on(ledger_url, idle_in_transaction_session_timeout="200ms") as service:
        slow = credit(uuid4(), 1)
        service.recorder.before = lambda: time.sleep(0.5)  # a process that was stopped, or starved, in a batch
        with pytest.raises(Outage):
            await service.handle(service.record(slow))
        service.recorder.before = lambda: None
        await service.until_handled(service.record(slow))
        assert await service.amounts(slow.account_id) == [1]
        assert await parked(service.engine) == []


async def test_what_breaks_a_constraint_is_parked_but_not_on_a_schema_that_this_version_does_not_know(
    service: Service,
) -> None:
    known = False

    async def suits(_: Any) -> bool:
        return known

    service.shell.database = PostgresDatabase(service.engine, suits)
    service.execute("ALTER TABLE effects ADD COLUMN reason TEXT NOT NULL DEFAULT ''")
    service.execute("ALTER TABLE effects ALTER reason DROP DEFAULT")
    batch = [service.record(credit(uuid4(), 1)) for _ in range(3)]
    with pytest.raises(Outage) as caught:
        await service.handle(*batch)
    assert caught.value.cause is Cause.SCHEMA
    assert await parked(service.engine) == []
    known = True
    await service.handle(*batch)
    assert [row.code.split()[:2] for row in await parked(service.engine)] == [["NotNullViolation", "23502"]] * 3


async def test_nothing_is_told_to_be_parked_that_could_not_be(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(Shell, "_tell_parked", lambda _, message, **__: told.append(message))
    bad = service.record(credit(uuid4(), UNSAVABLE))
    service.execute(f"REVOKE INSERT ON parked FROM {service.role}")
    with pytest.raises(Outage):
        await service.handle(bad)
    assert told == []
    service.execute(f"GRANT INSERT ON parked TO {service.role}")
    await service.handle(bad)
    assert len(told) == len(await parked(service.engine)) == 1


async def test_a_bug_that_fails_everything_parks_a_few_and_waits(service: Service) -> None:
    accounts = [uuid4() for _ in range(40)]
    batch = [service.record(credit(account, 1)) for account in accounts]
    service.recorder.broken.update(map(id_of_record, batch))
    for _ in range(2):
        with pytest.raises(Outage) as caught:
            await service.handle(*batch)
        assert caught.value.cause is Cause.BUG
        assert len(await parked(service.engine)) == PARKED_AT_ONCE
    service.recorder.broken.clear()  # the deployment is mended
    await service.handle(*batch)
    assert len(await effects(service.engine, accounts)) == 40 - PARKED_AT_ONCE
    assert [row.why for row in await parked(service.engine)] == [Why.FAILED] * PARKED_AT_ONCE


BROKEN: dict[str, Callable[[], Exception]] = {
    "memory": MemoryError,
    "a module that is not there": lambda: ModuleNotFoundError("gone"),
    "a file that is not there": FileNotFoundError,
}


@pytest.mark.parametrize("error", BROKEN.values(), ids=BROKEN)
async def test_a_process_that_lacks(service: Service, error: Callable[[], Exception]) -> None:
    def fail() -> None:
        raise error()

    body = credit(uuid4(), 1)
    service.recorder.before = fail
    with pytest.raises(Outage) as caught:
        await service.handle(service.record(body), service.record(credit(uuid4(), 1)))
    assert caught.value.cause is Cause.PROCESS
    service.recorder.before = lambda: None
    await service.handle(service.record(body))
    assert await service.amounts(body.account_id) == [1]
    assert await parked(service.engine) == []


async def test_timers_wait_for_the_world_too(service: Service) -> None:
    fired: list[object] = []

    def fire(_: Any, message: Incoming[Any], __: Moment) -> Outcome:
        fired.append(message)
        return ()

    timing = replace(service.recorder.service, handlers={SagaDeadline: Handler(fire, nothing)})
    service.shell = Shell(timing, service.shell.database)
    body = SagaDeadline(saga_id=uuid4())
    async with service.shell.database.begin() as tx:
        await tx.set_timers([(SetTimer(uuid4(), datetime(2020, 1, 1, tzinfo=UTC), body), incoming(body))])
    service.execute("ALTER TABLE timers RENAME TO gone")
    with pytest.raises(Outage):
        await fire_due(service.shell)
    assert service.shell.outages.waits["timers"].cause is Cause.SCHEMA
    service.execute("ALTER TABLE gone RENAME TO timers")
    service.execute(f"REVOKE DELETE ON timers FROM {service.role}")
    with pytest.raises(Outage):
        await fire_due(service.shell)
    service.execute(f"GRANT DELETE ON timers TO {service.role}")
    assert await fire_due(service.shell) == 1
    assert len(fired) == 1
    assert await parked(service.engine) == []
    assert service.shell.outages.waits == {}


async def test_a_retry_waits_for_the_world_and_is_not_spent_on_it(service: Service) -> None:
    bad = service.record(credit(uuid4(), 5))
    id_ = id_of_record(bad)
    service.recorder.broken.add(id_)
    await service.handle(bad)
    service.recorder.broken.clear()
    await service.shell.database.request_retry([id_])
    service.execute("ALTER TABLE effects RENAME TO gone")
    with pytest.raises(Outage):
        await retry_requested(service.shell)
    assert service.shell.outages.waits["retries"].cause is Cause.SCHEMA
    ((attempts,),) = execute(service.url, f"SELECT attempts FROM {PARKED.name}")
    assert attempts == 1
    service.execute("ALTER TABLE gone RENAME TO effects")
    await retry_requested(service.shell)
    assert await parked(service.engine) == []
    assert service.shell.outages.waits == {}
