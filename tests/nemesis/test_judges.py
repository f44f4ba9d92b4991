"""Each judge fails a history in which what it looks for was planted, and passes the same history without."""

import json
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deploy.operator.invariants import Logged, logged
from deploy.operator.snapshots import memory_snapshot
from popfax_contracts.groups import CreateMemberAccount, MemberAccountCreated, MembershipRecorded
from popfax_contracts.ledger import BalanceChanged
from popfax_contracts.topics import LEDGER_BALANCES, TOPICS
from services.notifications.domain import MailState
from tests.e2e.driver import Seen
from tests.nemesis import history
from tests.nemesis.commands import Calm
from tests.nemesis.judges import Delivery, Evidence, judge

pytestmark = pytest.mark.usefixtures("quiet")

_COMPACTED = {topic.name for topic in TOPICS if topic.compacted}
_MAIL = "5f0c3a52-0000-4000-8000-000000000001"

Plant = Callable[[Evidence], None]


class Told(Calm):
    """A story that is told to its end."""

    def evidence(self) -> Evidence:
        """Return what it has left behind, in an order in which causes come before effects."""
        self.told(100)
        self._run_dry(self.clock.now)
        log = [record for each in self.bus.records() if (record := logged(each)) is not None]
        return Evidence(
            log=log,
            compacted=[record for record in log if record.topic in _COMPACTED],
            snapshot=memory_snapshot({node.principal: node.database for node in self.nodes}),
            acknowledged={(record.topic, record.source, record.id) for record in log},
            kept={_MAIL: 1},
            deliveries={_MAIL: Delivery(MailState.SENT, sent=True)},
        )


@pytest.fixture(scope="module")
def sound() -> Evidence:
    """What a sound run has left behind."""
    return Told(7).evidence()


def _lost_outcome(evidence: Evidence) -> None:
    evidence.log = [record for record in evidence.log if record is not _outcome(evidence)]


def _double_outcome(evidence: Evidence) -> None:
    evidence.log = [*evidence.log, replace(_outcome(evidence), id="again", offset=10**6)]


def _outcome(evidence: Evidence) -> Logged:
    return next(record for record in evidence.log if record.type == MemberAccountCreated.TYPE)


def _stale_record(evidence: Evidence) -> None:
    """What a relay appends that was stopped for long, after another relay went on: an earlier record once more."""
    evidence.compacted = [*evidence.compacted, replace(_first_balance(evidence), offset=10**6)]


def _first_balance(evidence: Evidence) -> Logged:
    balances = [record for record in evidence.compacted if record.topic == LEDGER_BALANCES.name and record.value]
    keys = [record.key for record in balances]
    return next(record for record in balances if keys.count(record.key) > 1)


def _version_goes_back(evidence: Evidence) -> None:
    balance = next(each for each in evidence.log if each.type == BalanceChanged.TYPE)
    evidence.log = [*evidence.log, replace(balance, id="another", offset=10**6)]


def _time_goes_back(evidence: Evidence) -> None:
    told = next(each for each in evidence.log if each.type == MembershipRecorded.TYPE)
    later = replace(told, id="later", value=json.dumps(json.loads(told.value) | {"epoch": 3}).encode())
    evidence.log = [*evidence.log, later, replace(told, id="again")]


def _lost_command(evidence: Evidence) -> None:
    lost = next(each for each in evidence.log if each.type == CreateMemberAccount.TYPE)
    evidence.log = [each for each in evidence.log if each.correlation_id != lost.correlation_id]


def _lost_row(evidence: Evidence) -> None:
    groups = evidence.snapshot.groups
    evidence.snapshot = replace(evidence.snapshot, groups=replace(groups, memberships=[]))


def _mail_twice(evidence: Evidence) -> None:
    evidence.kept = {_MAIL: 2}


def _lost_mail(evidence: Evidence) -> None:
    evidence.kept = {}


def _unknown_mail(evidence: Evidence) -> None:
    evidence.kept = {_MAIL: 1, "nobody's": 1}


def _refused_mail_arrives(evidence: Evidence) -> None:
    evidence.deliveries = {_MAIL: Delivery(MailState.REFUSED)}


def _fault_of_api(evidence: Evidence) -> None:
    evidence.faults_of_api = ["GET /v1/group: 500"]


PLANTED: dict[Plant, str] = {
    _lost_outcome: "log: outcome_missing",
    _double_outcome: "log: outcome_twice",
    _stale_record: "compacted topics: topic_mismatch",
    _version_goes_back: "log: version_not_rising",
    _time_goes_back: "log: time",
    _lost_command: "log: was acknowledged",
    _lost_row: "databases: ",
    _mail_twice: "mails: a sent mail",
    _lost_mail: "mails: a sent mail",
    _unknown_mail: "mails: nobody knows",
    _refused_mail_arrives: "mails: a refused mail",
    _fault_of_api: "API: GET",
}
"""What is planted, and who says what about it."""


def test_a_sound_history_has_no_violation(sound: Evidence) -> None:
    assert judge(sound) == []


@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_planted_is_found(sound: Evidence, plant: Plant) -> None:
    planted = copy(sound)
    plant(planted)
    found = [f"{breach.judge}: {breach.detail}" for breach in judge(planted)]
    assert any(each.startswith(PLANTED[plant]) for each in found), found


def test_an_uncertain_mail_may_have_a_copy_for_each_time(sound: Evidence) -> None:
    uncertain = copy(sound)
    uncertain.deliveries = {_MAIL: Delivery(MailState.SENT, 2, sent=True)}
    uncertain.kept = {_MAIL: 3}
    assert judge(uncertain) == []
    uncertain.kept = {_MAIL: 4}
    assert [breach.judge for breach in judge(uncertain)] == ["mails"]


@pytest.mark.parametrize(
    ("mail", "copies"),
    [
        (Delivery(MailState.SENT, sent=True), {1}),
        (Delivery(MailState.SENT), set()),
        (Delivery(MailState.REFUSED), {0}),
        (Delivery(MailState.REFUSED, 1), {0, 1}),
        (Delivery(MailState.ERASED), {0}),
        (Delivery(MailState.ERASED, sent=True), {1}),
        (Delivery(MailState.ERASED, in_flight=True), {0, 1}),
        (Delivery(MailState.BOUNCED, 1, sent=True), {1, 2}),
    ],
    ids=str,
)
def test_a_mail_that_ended_while_it_was_sent_may_have_that_copy(
    sound: Evidence, mail: Delivery, copies: set[int]
) -> None:
    sound.deliveries = {_MAIL: mail}
    for kept in range(4):
        sound.kept = {_MAIL: kept}
        assert (judge(sound) == []) is (kept in copies)


# --- histories --------------------------------------------------------------------------------------------------------


def test_an_envelope_is_named_in_either_mode(tmp_path: Path) -> None:
    document = {"specversion": "1.0", "id": "c-1", "type": "t.v1", "source": "s", "data": {"key": "k-1"}}
    structured = [("content-type", b"application/cloudevents+json")]
    seen = Seen("popfax.ledger.commands", 0, 7, b"k-1", json.dumps(document).encode(), structured, 1924992001.0)
    (entry,) = history.without_rows("k-1", [seen], tmp_path)
    assert entry.text.startswith("t.v1 id=c-1 ")


def _entries(tmp_path: Path) -> Iterator[history.Entry]:
    (tmp_path / "ledger-1.log").write_text(
        '{"event": "batch_failed", "key": "k-1", "timestamp": "2031-01-01T00:00:02.5Z"}\n{"event": "other"}\n'
    )
    records = [
        Seen("popfax.ledger.events", 0, 7, b"k-1", b"{}", [("ce_type", b"t"), ("ce_id", b"1")], 1924992001.0),
        Seen("popfax.ledger.events", 0, 8, b"k-2", b"{}", [("ce_correlationid", b"k-1")], 1924992003.0),
        Seen("popfax.ledger.events", 0, 9, b"k-2", b"{}", [], 1924992004.0),
    ]
    return iter(history.without_rows("k-1", records, tmp_path))


def test_a_history_has_the_records_and_lines_that_name_its_subject_in_order_of_time(tmp_path: Path) -> None:
    assert [(each.at.second, each.where) for each in _entries(tmp_path)] == [
        (1, "ledger.events/0@7"),
        (2, "ledger-1"),
        (3, "ledger.events/0@8"),
    ]


def _line(at: str, message: str, **more: str) -> str:
    session = {"session_id": "s-1", "vxid": "3/7", "application_name": "popfax-ledger 0.3.0 worker 2"}
    said = {"timestamp": f"2031-01-01 00:00:{at} UTC", "error_severity": "LOG", "message": message}
    return json.dumps({**session, **said, **more}) + "\n"


def test_a_history_has_the_statements_that_name_its_subject_or_its_records_and_how_they_ended(tmp_path: Path) -> None:
    """The second one names a record of the subject alone, as bytes of a column do; another session names nothing."""
    record = "5f0c3a52-0000-4000-8000-00000000000a"
    others = ",".join(f"5f0c3a52-0000-4000-8000-{n:012}" for n in range(100))
    (tmp_path / "statements").mkdir()
    (tmp_path / "statements" / "1.json").write_text(
        _line("01.000", "statement: BEGIN")
        + _line("02.000", "execute _pg3_1: INSERT INTO inbox\n (id) VALUES", detail=f"$1 = '{{{others},{record}}}'")
        + _line("03.000", "execute _pg3_2: UPDATE outbox", detail="$1 = '{\"\\\\x" + b"k-1 was".hex() + "\"}'")
        + _line("03.500", "execute _pg3_0: COMMIT", session_id="s-2")
        + _line("04.000", "deadlock detected", error_severity="ERROR", statement="UPDATE outbox")
        + _line("05.000", "statement: ROLLBACK")
        + _line("06.000", "statement: ROLLBACK")
        + '{"timestamp": "2031-01-01 k-1'
    )
    seen = Seen(
        "popfax.ledger.events", 0, 7, b"k-1", b"{}", [("ce_id", record.encode()), ("ce_type", b"t")], 1924992001.0
    )
    told = [str(each) for each in history.without_rows("k-1", [seen], tmp_path) if each.where == "ledger-2 sql"]
    assert [each.removeprefix("00:00:0").split("[3/7] ")[1] for each in told] == [
        f"INSERT INTO inbox (id) VALUES -- …{(others + ',')[-100:]}{record}}}'",
        "UPDATE outbox -- $1 = '{\"k-1 was\"}'",
        "UPDATE outbox -- ERROR: deadlock detected",
        "ROLLBACK",
    ]


def test_a_row_stands_at_the_first_moment_that_it_names() -> None:
    row = '{"ended_at": "2031-01-01T00:00:05+00:00", "began_at": "2031-01-01T01:00:04+01:00"}'
    assert history.moment_in(row) == datetime(2031, 1, 1, 0, 0, 4, tzinfo=UTC)
    assert history.moment_in("nothing") == datetime.max.replace(tzinfo=UTC)
