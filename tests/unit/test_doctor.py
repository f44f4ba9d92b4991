"""What the doctor makes of the facts: each fault by its code, and nothing else besides what it must bring with it."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from deploy.operator.cli.doctor.facts import (
    Address,
    Broker,
    Cluster,
    Database,
    Facts,
    Fit,
    Group,
    Leader,
    Mails,
    Member,
    ParkedMessages,
    Process,
    Schema,
    Silence,
    Stop,
    Stuck,
    Unanswered,
    Waits,
)
from deploy.operator.cli.doctor.findings import CASES, Code, Severity
from deploy.operator.cli.doctor.judging import (
    LATE_S,
    MAIL_LATE_S,
    OUTBOX_OLD_S,
    SILENT_S,
    TIMER_LATE_S,
    UNDECIDED_S,
    judge,
    unasked,
)
from deploy.operator.cli.doctor.questions import ask
from deploy.operator.cli.doctor.screen import RUNBOOKS, show
from deploy.operator.cli.errors import Refused, Unreachable, UsageError
from deploy.operator.cli.output import out
from deploy.operator.topics import Difference, Kind
from deploy.paths import CHECKOUT
from popfax_contracts.topics import LEDGER_COMMANDS, SERVICES, Principal
from services.chassis.process_names import Does, ProcessName

ID = UUID("5f0e6f0a-7d0b-4a56-9d2c-0d8f6a1f2b3c")
LEDGER = Principal.LEDGER
AWAY = Unanswered(Silence.AWAY, "connection refused")
REFUSED = Unanswered(Silence.REFUSED, "no such table")
LATE = Unanswered(Silence.LATE, "no answer within 10 s")
LATE_ANSWER = Unanswered(Silence.LATE, "no answer within 0.3 s")


def a_process(does: Does = Does.WORKER, version: str = "0.3.0") -> Process:
    return Process(ProcessName(LEDGER, version, does, "a"), "10.0.0.7", 3)


WELL = Database(
    address=Address("db.example", "5432", "ledger", "books"),
    schema=Schema("0005", "0005", Fit.CURRENT),
    processes=[a_process()],
    leader=Leader("a", 0.4),
    next_type=None,
    waits={"outbox": Waits(3, OUTBOX_OLD_S - 1), "timer": Waits(1, TIMER_LATE_S - 1), "saga": Waits(9, 3600)},
    parked=ParkedMessages(),
    stops=(),
    sagas=Stuck(),
    transfers=Stuck(),
    mails=Mails(),
)
CLUSTER = Cluster([Broker(0, "k0:9092"), Broker(1, "k1:9092"), Broker(2, "k2:9092")], partitions=204)
GROUP = Group("stable", [Member("a", "10.0.0.7", 12)], lag=7)
FACTS = Facts(
    version="0.3.0",
    asked_at=datetime(2026, 11, 26, 3, 0, tzinfo=UTC),
    bootstrap="k0:9092",
    cluster=CLUSTER,
    topics=(),
    groups=dict.fromkeys(SERVICES, GROUP),
    databases=dict.fromkeys(SERVICES, WELL),
)


def ledger(**told: Any) -> Facts:
    return replace(FACTS, databases={**FACTS.databases, LEDGER: replace(WELL, **told)})


def ledgers_group(**told: Any) -> Facts:
    return replace(FACTS, groups=dict.fromkeys(SERVICES, GROUP) | {LEDGER: replace(GROUP, **told)})


def cluster(**told: Any) -> Facts:
    return replace(FACTS, cluster=replace(CLUSTER, **told))


def differs(kind: Kind) -> Facts:
    return replace(FACTS, topics=[Difference(kind, LEDGER_COMMANDS.name)])


def silent(answer: Unanswered) -> Facts:
    """Nothing is known of the ledger's database but its address."""
    return ledger(**dict.fromkeys([name for name in Database.__slots__ if name != "address"], answer))


@dataclass(frozen=True)
class Given:
    """Facts, and what must be found."""

    facts: Facts
    codes: tuple[Code, ...]
    says: str
    """What the first finding's meaning must contain."""
    types: str
    """What its command must contain."""


def given(facts: Facts, says: str, types: str, *codes: Code) -> Given:
    return Given(facts, codes, says, types)


NO_KAFKA = replace(FACTS, cluster=AWAY, topics=AWAY, groups=AWAY)
A_STOP = Stop("popfax.ledger.commands/3", 17, "BAD_COMPRESSION", 125)

GIVEN = [
    given(NO_KAFKA, "connection refused", "--bootstrap-server k0:9092", Code.KAFKA_UNREACHABLE),
    given(
        replace(NO_KAFKA, databases=dict.fromkeys(SERVICES, replace(WELL, leader=None))),
        "nothing is lost",
        "kafka-broker-api-versions.sh",
        Code.KAFKA_UNREACHABLE,
    ),
    given(cluster(offline=["t/1"]), "1 of 204 partitions (t/1)", "--unavailable", Code.PARTITIONS_OFFLINE),
    given(cluster(below_min=["t/1", "t/2"]), "(t/1, and 1 more)", "--under-min-isr", Code.PARTITIONS_BELOW_MIN_ISR),
    given(cluster(under_replicated=["t/1"]), "t/1", "--under-replicated", Code.PARTITIONS_UNDER_REPLICATED),
    given(cluster(away=[3]), "Broker 3", "describe --replication", Code.BROKER_AWAY),
    given(cluster(brokers=[Broker(1, "k1:9092", False)]), "k1:9092", "k1:9092", Code.BROKER_SILENT),
    given(silent(AWAY), "connection refused", "pg_isready -h db.example -p 5432", Code.DATABASE_UNREACHABLE),
    given(ledger(parked=AWAY, sagas=AWAY), "ledger waits", "pg_isready", Code.DATABASE_UNREACHABLE),
    given(
        ledger(schema=Schema("0005", "0005", Fit.CURRENT, read_only=True)),
        "read-only",
        "psql -h db.example -p 5432 -U ledger books",
        Code.DATABASE_READ_ONLY,
    ),
    given(
        ledger(schema=Schema("0003", "0005", Fit.OLDER), waits=REFUSED),
        "at revision 0003, and this version needs 0005",
        "services.chassis.migrate ledger",
        Code.SCHEMA_OLDER,
    ),
    given(ledger(schema=Schema(None, "0005", Fit.OLDER)), "revision none", "migrate ledger", Code.SCHEMA_OLDER),
    given(ledger(schema=Schema("0009", "0005", Fit.NEWER)), "0009", "schema_support", Code.SCHEMA_NEWER),
    given(ledger(schema=Schema("0004", "0005", Fit.BEHIND)), "0004", "migrate ledger", Code.SCHEMA_BEHIND),
    given(differs(Kind.MISSING_TOPIC), LEDGER_COMMANDS.name, "topics --apply", Code.TOPIC_MISSING),
    given(differs(Kind.MISSING_ACL), LEDGER_COMMANDS.name, "topics --apply", Code.ACL_MISSING),
    given(differs(Kind.CLOSED), LEDGER_COMMANDS.name, "popfax topics", Code.TOPIC_CLOSED),
    given(differs(Kind.WRONG_PARTITIONS), "wrong number of partitions", "popfax topics", Code.TOPIC_DIFFERS),
    given(differs(Kind.EXTRA_ACL), LEDGER_COMMANDS.name, "popfax topics", Code.ACL_EXTRA),
    given(ledger(processes=[]), "ledger's work", "python -m services.ledger.app", Code.NO_PROCESS),
    given(ledger(processes=[a_process(Does.WEB)]), "ledger's work", "services.ledger.app", Code.NO_PROCESS),
    given(
        replace(
            ledger(processes=[], leader=None),
            groups=dict.fromkeys(SERVICES, GROUP) | {LEDGER: Group("empty", (), ["t/1"])},
        ),
        "waits in Kafka",
        "services.ledger.app",
        Code.NO_PROCESS,
    ),
    given(
        ledger(processes=[a_process(), a_process(version="0.2.9")]), "(0.2.9, 0.3.0)", "--json", Code.VERSIONS_DIFFER
    ),
    given(ledgers_group(state="empty", members=[]), "Nobody", "http://10.0.0.7:$LEDGER_HTTP_PORT", Code.GROUP_EMPTY),
    given(ledgers_group(unassigned=["t/1"]), "t/1", "/ready", Code.PARTITIONS_UNASSIGNED),
    given(ledgers_group(state="preparing_rebalancing"), "preparing_rebalancing", "--json", Code.GROUP_UNSTABLE),
    given(ledgers_group(late={"t": 5, "u": 6}), f"more than {LATE_S:g} s: 11 (on u)", "/ready", Code.RECORDS_LATE),
    given(ledger(stops=[A_STOP]), "at offset 17 (BAD_COMPRESSION), for 2 min 5 s", "list", Code.PARTITION_STOPPED),
    given(ledger(leader=None), "nothing is published", "popfax_relay", Code.RELAY_LEADERLESS),
    given(ledger(leader=Leader("a", SILENT_S + 2)), "for 7 s", "popfax doctor", Code.RELAY_SILENT),
    given(
        ledger(waits={"outbox": Waits(2, OUTBOX_OLD_S + 1)}),
        "2 messages",
        "metrics | grep popfax_relay",
        Code.OUTBOX_OLD,
    ),
    given(
        ledger(waits={"outbox": Waits(2, OUTBOX_OLD_S + 1)}, next_type="popfax.ledger.new.v1"),
        "popfax.ledger.new.v1",
        "--json",
        Code.OUTBOX_HELD,
    ),
    given(ledger(waits={"timer": Waits(1, TIMER_LATE_S + 1)}), "1 timer of", "/ready", Code.TIMERS_LATE),
    given(ledger(waits={"command": Waits(1, UNDECIDED_S + 1)}), "1 command posted", "parked", Code.COMMAND_UNDECIDED),
    given(ledger(waits={"mail": Waits(1, MAIL_LATE_S + 1)}), "1 mail not sent", "mail list", Code.MAILS_LATE),
    given(
        ledger(parked=ParkedMessages(failed=1, behind=4, first_failed=ID, oldest_s=7200)),
        "1 message, the oldest 2 h ago. Each blocks its key: 4 more behind",
        f"popfax parked show {ID}",
        Code.KEY_BLOCKED,
    ),
    given(
        ledger(parked=ParkedMessages(undecodable=2, first_undecodable=ID, oldest_s=1)),
        "2 messages that ledger could not read",
        f"popfax parked show {ID}",
        Code.MESSAGE_UNREADABLE,
    ),
    given(ledger(sagas=Stuck(2, ID, 600)), "2 sagas of ledger", f"saga show {ID}", Code.SAGA_STUCK),
    given(ledger(transfers=Stuck(1, ID, 600)), "1 transfer without", f"transfer retry {ID}", Code.TRANSFER_STUCK),
    given(ledger(mails=Mails(parked=1)), "1 mail parked", "mail list --stuck", Code.MAIL_PARKED),
    given(ledger(mails=Mails(stuck=3)), "3 mails waiting", "mail list --stuck", Code.MAIL_STUCK),
    given(ledger(sagas=LATE, mails=LATE), "ledger did not say everything (sagas, mails)", "--timeout", Code.UNANSWERED),
    given(silent(LATE), "no answer within 10 s", "--timeout", Code.UNANSWERED),
    given(replace(FACTS, topics=LATE, groups=LATE), "Kafka did not say everything", "--timeout", Code.UNANSWERED),
]


@pytest.mark.parametrize("given", GIVEN, ids=lambda given: "+".join(given.codes))
def test_finds_what_is_wrong_and_nothing_else(given: Given) -> None:
    found = judge(given.facts)
    assert tuple(each.code for each in found) == given.codes
    assert given.says in found[0].meaning
    assert given.types in found[0].command


def test_finds_nothing_when_all_is_well() -> None:
    assert judge(FACTS) == []
    assert unasked(FACTS) == []


def without_a_case(given: Iterable[Given]) -> set[Code]:
    return set(Code) - {code for each in given for code in each.codes}


def test_every_code_is_explained_and_has_a_case() -> None:
    assert set(CASES) == set(Code)
    assert without_a_case(GIVEN) == set()


def test_a_code_without_a_case_is_noticed() -> None:
    fewer = [each for each in GIVEN if Code.MAIL_STUCK not in each.codes]
    assert without_a_case(fewer) == {Code.MAIL_STUCK}


def missing_runbooks(names: Iterable[str | None]) -> set[str]:
    return {name for name in names if name and not (CHECKOUT / RUNBOOKS / f"{name}.md").exists()}


def test_runbooks_that_are_named_exist() -> None:
    assert missing_runbooks(case.runbook for case in CASES.values()) == set()
    assert missing_runbooks(["PopfaxNothing"]) == {"PopfaxNothing"}


@pytest.mark.parametrize("facts", [silent(AWAY), silent(LATE), NO_KAFKA, ledger(mails=REFUSED)])
def test_knows_that_it_was_not_told_everything(facts: Facts) -> None:
    assert unasked(facts)


def test_says_first_what_is_worst_and_of_that_what_causes_the_rest() -> None:
    facts = replace(
        ledger(mails=Mails(parked=1), waits={"outbox": Waits(2, 99)}, processes=[], sagas=LATE),
        cluster=replace(CLUSTER, away=[3]),
    )
    codes = [each.code for each in judge(facts)]
    assert codes == [Code.NO_PROCESS, Code.OUTBOX_OLD, Code.BROKER_AWAY, Code.MAIL_PARKED, Code.UNANSWERED]
    assert [CASES[code].severity for code in codes] == sorted(
        (CASES[code].severity for code in codes), key=list(Severity).index
    )


@pytest.mark.parametrize("name", ["a", "a very long name " * 9, "é"], ids=["short", "long", "odd"])
def test_a_process_is_known_by_what_it_calls_itself(name: str) -> None:
    made = ProcessName(LEDGER, "0.3.0", Does.WORKER, name)
    read = ProcessName.read(str(made))
    assert len(str(made).encode()) <= 63
    assert read is not None
    assert (read.service, read.version, read.does) == (LEDGER, "0.3.0", Does.WORKER)


@pytest.mark.parametrize("text", ["", "psql", "popfax", "popfax-platform 0.3.0 worker a", "popfax-ledger 0.3.0 cook a"])
def test_nobody_else_is_taken_for_a_process(text: str) -> None:
    assert ProcessName.read(text) is None


class TestAsking:
    def test_who_hangs_holds_up_nobody_else(self) -> None:
        hangs = threading.Event()
        seen: list[str] = []
        told = ask({"a": {"x": lambda: 1, "y": hangs.wait, "z": lambda: 3}, "b": {"w": lambda: 4}}, 0.3, seen.extend)
        hangs.set()
        assert told == {"a": {"x": 1, "y": LATE_ANSWER, "z": LATE_ANSWER}, "b": {"w": 4}}
        assert "a" in seen

    def test_who_is_away_is_not_asked_the_rest(self) -> None:
        def away() -> None:
            raise Unreachable("not there")

        told = ask({"a": {"x": away, "y": lambda: 1}}, 5)
        assert told["a"] == dict.fromkeys("xy", Unanswered(Silence.AWAY, "not there"))

    @pytest.mark.parametrize("error", [Refused("no table"), UsageError("no URL"), ZeroDivisionError("a bug")])
    def test_one_question_that_fails_leaves_the_others(self, error: Exception) -> None:
        def fails() -> None:
            raise error

        told = ask({"a": {"x": fails, "y": lambda: 1}}, 5)["a"]
        assert told["x"].silence is Silence.REFUSED
        assert str(error) in told["x"].detail
        assert told["y"] == 1

    def test_says_what_the_driver_said_and_not_where_it_connected(self) -> None:
        def away() -> None:
            try:
                raise sa.exc.OperationalError("SELECT", {}, OSError('connection to server at "x" failed: refused'))
            except sa.exc.OperationalError as error:
                raise Unreachable("the database") from error

        assert ask({"a": {"x": away}}, 5)["a"]["x"] == Unanswered(Silence.AWAY, "refused")


class TestScreen:
    @pytest.fixture(autouse=True)
    def narrow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A terminal of 80 columns, without colours."""
        monkeypatch.setattr(out, "_width", 80)

    @pytest.mark.parametrize("given", GIVEN, ids=lambda given: "+".join(given.codes))
    def test_says_all_in_80_columns(self, given: Given, capsys: pytest.CaptureFixture[str]) -> None:
        findings = judge(given.facts)
        show(given.facts, findings)
        lines = capsys.readouterr().out.splitlines()
        copied = tuple(f"   → {each.command}" for each in findings)
        assert [line for line in lines if len(line) > 80 and line not in copied] == []
        text = " ".join(line.strip() for line in lines)
        for finding in findings:
            assert finding.code in text
            assert finding.meaning in text
        signs = {line[0] for line in lines if line[:1] in tuple("✗!?")}
        assert signs >= {{"critical": "✗", "warning": "!", "unknown": "?"}[each.severity] for each in findings}

    def test_says_that_all_is_well(self, capsys: pytest.CaptureFixture[str]) -> None:
        show(FACTS, [])
        told = capsys.readouterr().out
        assert "✓ All is well." in told
        assert not {"✗", "!", "?"} & set(told)

    def test_says_only_once_what_several_have(self, capsys: pytest.CaptureFixture[str]) -> None:
        facts = replace(FACTS, databases=dict.fromkeys(SERVICES, replace(WELL, processes=[])))
        show(facts, judge(facts))
        told = capsys.readouterr().out
        assert told.count("waits in Kafka") == 1
        assert "The same of ledger, provisioning, notifications." in told
