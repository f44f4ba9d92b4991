"""Every alert, and the fault that makes it fire: made on a running product, and repaired as the runbook says."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from pathlib import Path
from uuid import uuid4

from deploy.operator.kafka import ADMIN
from popfax_contracts.ledger import CreditUnits
from popfax_contracts.provisioning import PersonRecorded
from popfax_contracts.topics import LEDGER_COMMANDS, SERVICES, Principal
from services.chassis.kafka import partition_of
from tests.e2e.driver import Wire, wait
from tests.e2e.holding import held_back
from tests.observability.scene import STREAMS, Scene, environment

LATE_S = 61.0
"""Longer than a mail may take."""

HELD_S = 20.0
"""For how long nobody hears of new people, so that enough mails are late at once."""

PARKED = 60
"""How many commands are parked: the first one fails, and the others are behind it."""

SLOW_S = 1.5
"""How long a slow database makes a batch take."""


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong, and the alerts that it makes fire, each with the job that it is about."""

    what: str
    made: Callable[[Scene], AbstractContextManager[None]]
    """Makes the fault, and repairs it when the block ends."""
    fires: Mapping[str, str] = field(default_factory=dict)
    """What fires while the fault is there."""
    follows: Mapping[str, str] = field(default_factory=dict)
    """What fires once it is repaired: that what was late has been done says that it was late."""
    lasting_s: float = 0
    """How long it lasts at least."""

    @property
    def alerts(self) -> Sequence[tuple[str, str]]:
        """Return all alerts of this fault."""
        return [*self.fires.items(), *self.follows.items()]


@contextmanager
def _statements(scene: Scene, service: Principal, make: str, repair: str) -> Iterator[None]:
    with scene.database(service) as database:
        database.execute(make.encode())
        try:
            yield
        finally:
            database.execute(repair.encode())


@contextmanager
def _renamed(scene: Scene, service: Principal, table: str) -> Iterator[None]:
    there, back = f"ALTER TABLE {table} RENAME TO away", f"ALTER TABLE away RENAME TO {table}"
    with _statements(scene, service, there, back):
        yield


@contextmanager
def _stopped(scene: Scene, service: Principal) -> Iterator[None]:
    pid = scene.service(service).pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _popfax(scene: Scene, *words: str) -> str:
    """Run a command of the operator's, and return what it says."""
    settings = {k: v for name in (ADMIN, *SERVICES) for k, v in scene.stack.service_environment(name).items()}
    command = [str(Path(sys.executable).with_name("popfax")), *words]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


# Messages


@contextmanager
def _handler_fails(scene: Scene) -> Iterator[None]:
    account = uuid4()
    make = f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'check_violation'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON accounts FOR EACH ROW WHEN (NEW.id = '{account}')
            EXECUTE FUNCTION refuse()
        """
    with _statements(scene, Principal.LEDGER, make, "DROP TRIGGER refuse ON accounts; DROP FUNCTION refuse()"):
        wire = Wire(scene.stack.kafka)
        for _ in range(PARKED):
            wire.send(CreditUnits(credit_id=uuid4(), account_id=account, amount_units=1))
        wire.flush()
        yield
    _popfax(scene, "parked", "retry", "--all")


@contextmanager
def _batch_damaged(scene: Scene) -> Iterator[None]:
    """Damage a batch on the broker's disk before it is read. The payer's own commands are on another partition."""
    partition = (partition_of(str(scene.payer.id), LEDGER_COMMANDS.partitions) + 1) % LEDGER_COMMANDS.partitions
    with _stopped(scene, Principal.LEDGER):
        for _ in range(2):
            _publish_batch(scene, partition)
        (log,) = scene.stack.directory.rglob(f"{LEDGER_COMMANDS.name}-{partition}/00000000000000000000.log")
        _damage_last_but_one(log)
    yield
    words = ("partitions", "skip", LEDGER_COMMANDS.name, str(partition), "--reason", "damaged", "--yes")
    _popfax(scene, *words, "--service", Principal.LEDGER)


def _publish_batch(scene: Scene, partition: int) -> None:
    wire = Wire(scene.stack.kafka)
    body = CreditUnits(credit_id=uuid4(), account_id=uuid4(), amount_units=1)
    headers = {"ce_specversion": "1.0", "ce_id": str(uuid4()), "ce_type": body.TYPE, "ce_source": "popfax/tests"}
    encoded = [(name, value.encode()) for name, value in headers.items()]
    wire.send_raw(LEDGER_COMMANDS.name, body.key().encode(), body.to_json(), encoded, partition)
    wire.flush()


def _damage_last_but_one(log: Path) -> None:
    data, at, ends = log.read_bytes(), 0, []
    while at + 12 <= len(data):
        at += 12 + int.from_bytes(data[at + 8 : at + 12], "big")
        ends.append(at)
    place = ends[-2] - 3
    with log.open("r+b") as file:
        file.seek(place)
        file.write(bytes([data[place] ^ 0xFF]))


@contextmanager
def _database_slow(scene: Scene) -> Iterator[None]:
    make = f"""
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep({SLOW_S}); RETURN NULL; END $$;
        CREATE TRIGGER slow AFTER INSERT ON inbox FOR EACH STATEMENT EXECUTE FUNCTION slow()
        """
    with _statements(scene, Principal.NOTIFICATIONS, make, "DROP TRIGGER slow ON inbox; DROP FUNCTION slow()"):
        yield


def _ledger_schema(scene: Scene) -> AbstractContextManager[None]:
    return _renamed(scene, Principal.LEDGER, "accounts")


@contextmanager
def _kafka_dead(scene: Scene) -> Iterator[None]:
    scene.stack.kafka.kill()
    try:
        yield
    finally:
        scene.stack.kafka.start()


# Outbox and work


def _unknown_type(scene: Scene) -> AbstractContextManager[None]:
    make = """
        INSERT INTO outbox (id, type, key, value, correlation_id, causation_id, made_at)
        VALUES (gen_random_uuid(), 'popfax.notifications.from-the-future.v1', 'k', '{}', 'c', 'c', now())
        """
    return _statements(scene, Principal.NOTIFICATIONS, make, "DELETE FROM outbox WHERE type LIKE '%from-the-future%'")


@contextmanager
def _ledger_hangs(scene: Scene) -> Iterator[None]:
    members = "SELECT member_id FROM memberships WHERE owner_id = %s AND active LIMIT 1"
    wait(lambda: scene.world.rows(Principal.GROUPS, members, scene.payer.id), "a member")
    ((member,),) = scene.world.rows(Principal.GROUPS, members, scene.payer.id)
    with _stopped(scene, Principal.LEDGER):
        body = {"mode": "amount", "amount_units": 1, "members": [str(member)]}
        assert scene.world.client(scene.payer.id).post("transfer-units", body).status == 202
        yield


@contextmanager
def _account_locked(scene: Scene) -> Iterator[None]:
    """Hold the row of an account that expires now."""
    account = "id = (SELECT id FROM subscribers WHERE state = 'active' AND expires_at > now() LIMIT 1)"
    with scene.database(Principal.PROVISIONING) as database:
        database.execute("BEGIN")
        found = database.execute(f"UPDATE subscribers SET expires_at = now() WHERE {account} RETURNING id".encode())
        ((id_,),) = found.fetchall()
        database.execute("COMMIT; BEGIN")
        database.execute("SELECT 1 FROM subscribers WHERE id = %s FOR UPDATE", [id_])
        yield
        database.execute("ROLLBACK")


# Mails


@contextmanager
def _file(path: Path) -> Iterator[None]:
    path.touch()
    try:
        yield
    finally:
        path.unlink()


def _no_answer(scene: Scene) -> AbstractContextManager[None]:
    return _file(scene.stack.mail.hang_after_data)


def _put_off(scene: Scene) -> AbstractContextManager[None]:
    return _file(scene.stack.mail.refuse)


def _refused(scene: Scene) -> AbstractContextManager[None]:
    return _file(scene.stack.mail.refuse_for_good)


@contextmanager
def _unsound_name(scene: Scene) -> Iterator[None]:
    other = f"WHERE id = '{scene.other.id}'"
    bad, good = (f"UPDATE people SET last_name = {name} {other}" for name in ("E'Martin\\nBcc: x'", "'Martin'"))
    with _statements(scene, Principal.NOTIFICATIONS, bad, good):
        wire = Wire(scene.stack.kafka)
        wire.send(scene.world.command(scene.other), actor=scene.other.id)
        wire.flush()
        yield
    parked = "SELECT id FROM mails WHERE state = 'parked'"
    for (mail,) in scene.world.rows(Principal.NOTIFICATIONS, parked):
        _popfax(scene, "mail", "retry", str(mail))


@contextmanager
def _directory_held(scene: Scene) -> Iterator[None]:
    """Have nobody hear of the people of the next seconds until their mails are late."""
    early = f"NEW.made_at < '{(datetime.now(UTC) + timedelta(seconds=HELD_S)).isoformat()}'"
    with held_back(scene.world, Principal.PROVISIONING, PersonRecorded, early):
        yield


@contextmanager
def _week_passes(scene: Scene) -> Iterator[None]:
    """Set back, by eight days, a mail to somebody who is not known."""
    unknown = "recipient_id NOT IN (SELECT id FROM people) AND state = 'queued'"

    def found() -> list[object]:
        return scene.world.rows(Principal.NOTIFICATIONS, f"SELECT id FROM mails WHERE {unknown} LIMIT 1")

    wait(found, "a mail to somebody unknown")
    make = f"""
        UPDATE mails SET made_at = now() - interval '8 days', next_attempt_at = now()
        WHERE id = (SELECT id FROM mails WHERE {unknown} LIMIT 1)
        """
    with _statements(scene, Principal.NOTIFICATIONS, make, "SELECT 1"):
        yield


# Database, web, processes


@contextmanager
def _commits_fail(scene: Scene) -> Iterator[None]:
    make = """
        CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF random() < 0.5 THEN RAISE EXCEPTION USING ERRCODE = 'serialization_failure'; END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER lose AFTER INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION lose()
        """
    with _statements(scene, Principal.PROVISIONING, make, "DROP TRIGGER lose ON outbox; DROP FUNCTION lose()"):
        yield


@contextmanager
def _asked(scene: Scene, browsers: int, pause_s: float) -> Iterator[None]:
    """Have so many browsers ask for the group's members again and again."""
    ended = threading.Event()

    def ask() -> None:
        client = scene.world.client(scene.payer.id)
        while not ended.wait(pause_s):
            with suppress(OSError, HTTPException):
                client.get("/v1/group/members")

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(browsers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()


@contextmanager
def _groups_locked(scene: Scene) -> Iterator[None]:
    with _asked(scene, 12, 0.1), scene.database(Principal.GROUPS) as database:
        database.execute("BEGIN; LOCK TABLE memberships, sagas IN ACCESS EXCLUSIVE MODE")
        yield
        database.execute("ROLLBACK")


@contextmanager
def _groups_schema(scene: Scene) -> Iterator[None]:
    with _asked(scene, 2, 0.5), _renamed(scene, Principal.GROUPS, "memberships"):
        yield


@contextmanager
def _streams_taken(scene: Scene) -> Iterator[None]:
    with ExitStack() as streams:
        for _ in range(STREAMS):
            streams.enter_context(scene.world.client(scene.payer.id).events())
        assert scene.world.client(scene.other.id).get("/v1/events").status == 503
        yield


@contextmanager
def _other_build(scene: Scene) -> Iterator[None]:
    scene.web.kill()
    with environment(POPFAX_COMMIT="another"):
        scene.web.launch(role="web")
    yield
    scene.web.kill()
    scene.web.launch(role="web")
    scene.web.wait_ready()


@contextmanager
def _crashes(scene: Scene) -> Iterator[None]:
    for _ in range(3):
        scene.web.kill()
        scene.web.launch(role="web")
        scene.web.wait_ready()
        time.sleep(1)  # Prometheus has to see each of them
    yield


HANDLER_FAILS = Fault(
    "the ledger's database refuses one account: its commands are parked",
    _handler_fails,
    {"PopfaxMessageParked": "ledger", "PopfaxCommandsFail": ""},
)
LEDGER_HANGS = Fault(
    "the ledger hangs (SIGSTOP) while accounts are created and a transfer is posted",
    _ledger_hangs,
    {
        "PopfaxServiceDown": "ledger",
        "PopfaxReplicaDown": "ledger",
        "PopfaxSagaStuck": "groups",
        "PopfaxTransferStuck": "groups",
        "PopfaxCommandUndecided": "groups",
    },
    {"PopfaxCreationsSlow": ""},
)
BATCH_DAMAGED = Fault(
    "a byte of a batch is changed on the broker's disk", _batch_damaged, {"PopfaxPartitionStopped": "ledger"}
)
LEDGER_SCHEMA = Fault(
    "the ledger's table of accounts is renamed",
    _ledger_schema,
    {"PopfaxServiceWaits": "ledger", "PopfaxConsumerStuck": "ledger"},
)
DATABASE_SLOW = Fault(
    f"each batch takes notifications' database {SLOW_S:g} s", _database_slow, {"PopfaxMessagesLate": "notifications"}
)
KAFKA_DEAD = Fault(
    "Kafka is killed", _kafka_dead, {"PopfaxConsumerUnhealthy": "provisioning", "PopfaxRelayLeaderless": "provisioning"}
)
UNKNOWN_TYPE = Fault(
    "a message of an unknown type is next in notifications' outbox",
    _unknown_type,
    {"PopfaxOutboxHeld": "notifications", "PopfaxOutboxOld": "notifications"},
)
ACCOUNT_LOCKED = Fault(
    "somebody holds the row of an account that expires now", _account_locked, {"PopfaxTimersLate": "provisioning"}
)
NO_ANSWER = Fault(
    "the mail server takes mails and hangs up without an answer", _no_answer, {"PopfaxMailUncertain": "notifications"}
)
PUT_OFF = Fault("the mail server puts all mails off (451)", _put_off, {"PopfaxMailsWait": "notifications"})
REFUSED = Fault("the mail server refuses all mails for good (554)", _refused, {"PopfaxMailsRefused": "notifications"})
UNSOUND_NAME = Fault(
    "a name with a line break is in notifications' database", _unsound_name, {"PopfaxMailParked": "notifications"}
)
WEEK_PASSES = Fault(
    "eight days pass for a mail to somebody unknown (set back in the database)",
    _week_passes,
    {"PopfaxMailAbandoned": "notifications"},
)
DIRECTORY_HELD = Fault(
    f"nobody hears of the people of {HELD_S:g} s until {LATE_S:g} s later",
    _directory_held,
    {"PopfaxMailToUnknown": "notifications"},
    {"PopfaxMailsSlow": ""},
    HELD_S + LATE_S,
)
COMMITS_FAIL = Fault(
    "half of provisioning's transactions lose a race", _commits_fail, {"PopfaxConflicts": "provisioning"}
)
GROUPS_LOCKED = Fault(
    "somebody locks groups' sagas and memberships, and twelve browsers ask",
    _groups_locked,
    {"PopfaxFiguresOld": "groups", "PopfaxDatabasePoolExhausted": "groups"},
)
GROUPS_SCHEMA = Fault(
    "groups' table of memberships is renamed, and browsers ask",
    _groups_schema,
    {"PopfaxHttpErrors": "groups", "PopfaxReadModelStale": ""},
)
STREAMS_TAKEN = Fault(
    f"one browser more than may wait for changes ({STREAMS})", _streams_taken, {"PopfaxStreamsRefused": "groups"}
)
OTHER_BUILD = Fault("one process runs another build", _other_build, {"PopfaxVersionsDiffer": ""})
CRASHES = Fault("a process is killed three times", _crashes, {"PopfaxCrashLoop": "groups"})

PHASES: Sequence[Sequence[Sequence[Fault]]] = (
    (
        (LEDGER_HANGS, HANDLER_FAILS, BATCH_DAMAGED),
        (UNKNOWN_TYPE, DATABASE_SLOW),
        (WEEK_PASSES, NO_ANSWER, REFUSED),
        (ACCOUNT_LOCKED, COMMITS_FAIL, UNSOUND_NAME),
        (STREAMS_TAKEN,),
        (OTHER_BUILD, CRASHES),
    ),
    ((GROUPS_SCHEMA, GROUPS_LOCKED), (LEDGER_SCHEMA,)),
    ((KAFKA_DEAD,),),
)
"""Phases follow each other; the lines of a phase run side by side, the faults of a line one after the other."""

THROUGHOUT: Sequence[Fault] = (PUT_OFF, DIRECTORY_HELD)
"""The line that runs beside all phases: the last of its faults is there for longer than a mail may take."""

FAULTS = (*THROUGHOUT, *(fault for phase in PHASES for line in phase for fault in line))

SLOW = (DIRECTORY_HELD, WEEK_PASSES, OTHER_BUILD, CRASHES, COMMITS_FAIL, GROUPS_LOCKED, KAFKA_DEAD)
"""Those that the test suite has no time for: they are made by `make alerts` alone."""
