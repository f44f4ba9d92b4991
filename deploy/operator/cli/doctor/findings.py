"""What the doctor can find: what each finding means, how bad it is, and the next command to type."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """How bad it is."""

    CRITICAL = "critical"
    """Something does not get done, or soon will not: act now."""
    WARNING = "warning"
    """All gets done, but something is not as it should be: act today."""
    UNKNOWN = "unknown"
    """The doctor could not ask."""


class Area(StrEnum):
    """What a finding is about: a line of the screen, in this order."""

    BROKERS = "brokers"
    DATABASES = "databases"
    TOPICS = "topics"
    REPLICAS = "replicas"
    CONSUMERS = "consumers"
    RELAYS = "relays"
    SAGAS = "sagas"
    TRANSFERS = "transfers"
    COMMANDS = "commands"
    TIMERS = "timers"
    PARKED = "parked"
    MAILS = "mails"


class Code(StrEnum):
    """What can be found, causes before their effects: of what is equally bad, the first is to be done first."""

    KAFKA_UNREACHABLE = "kafka_unreachable"
    PARTITIONS_OFFLINE = "partitions_offline"
    PARTITIONS_BELOW_MIN_ISR = "partitions_below_min_isr"
    BROKER_AWAY = "broker_away"
    BROKER_SILENT = "broker_silent"
    PARTITIONS_UNDER_REPLICATED = "partitions_under_replicated"
    DATABASE_UNREACHABLE = "database_unreachable"
    DATABASE_READ_ONLY = "database_read_only"
    SCHEMA_OLDER = "schema_older"
    SCHEMA_NEWER = "schema_newer"
    SCHEMA_BEHIND = "schema_behind"
    TOPIC_MISSING = "topic_missing"
    ACL_MISSING = "acl_missing"
    TOPIC_CLOSED = "topic_closed"
    TOPIC_DIFFERS = "topic_differs"
    ACL_EXTRA = "acl_extra"
    NO_PROCESS = "no_process"
    VERSIONS_DIFFER = "versions_differ"
    GROUP_EMPTY = "group_empty"
    PARTITION_STOPPED = "partition_stopped"
    PARTITIONS_UNASSIGNED = "partitions_unassigned"
    GROUP_UNSTABLE = "group_unstable"
    RECORDS_LATE = "records_late"
    RELAY_LEADERLESS = "relay_leaderless"
    RELAY_SILENT = "relay_silent"
    OUTBOX_HELD = "outbox_held"
    OUTBOX_OLD = "outbox_old"
    TIMERS_LATE = "timers_late"
    KEY_BLOCKED = "key_blocked"
    MESSAGE_UNREADABLE = "message_unreadable"
    SAGA_STUCK = "saga_stuck"
    TRANSFER_STUCK = "transfer_stuck"
    COMMAND_UNDECIDED = "command_undecided"
    MAILS_LATE = "mails_late"
    MAIL_PARKED = "mail_parked"
    MAIL_STUCK = "mail_stuck"
    UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True)
class Case:
    """What is said of a code. `{…}` in the texts is filled in from what was found."""

    severity: Severity
    area: Area
    meaning: str
    command: str
    runbook: str | None = None
    """The name of its page in `docs/operations/runbooks/`, without the ending."""


CRITICAL, WARNING = Severity.CRITICAL, Severity.WARNING

_KAFKA = "--bootstrap-server {bootstrap} --command-config admin.properties"
_PARTITIONS = f"kafka-topics.sh {_KAFKA} --describe"
_READY = "curl -s http://{host}:${variable}_HTTP_PORT/ready"
_PSQL = "psql -h {host} -p {port} -U {user} {database} -c"

CASES: Mapping[Code, Case] = {
    Code.KAFKA_UNREACHABLE: Case(
        CRITICAL,
        Area.BROKERS,
        "Kafka does not answer at {bootstrap}: {detail}. While it is away for the services too, nothing moves, and "
        "nothing is lost: all that is to be published waits in the outboxes.",
        f"kafka-broker-api-versions.sh {_KAFKA}",
    ),
    Code.PARTITIONS_OFFLINE: Case(
        CRITICAL,
        Area.BROKERS,
        "Without a leader: {count} of {all} partitions ({first}). Nothing on them can be read or written.",
        f"{_PARTITIONS} --unavailable-partitions",
    ),
    Code.PARTITIONS_BELOW_MIN_ISR: Case(
        CRITICAL,
        Area.BROKERS,
        "Too few replicas in sync for a write: {count} of {all} partitions ({first}). The brokers refuse what is "
        "published there, and it waits in the outboxes.",
        f"{_PARTITIONS} --under-min-isr-partitions",
    ),
    Code.BROKER_AWAY: Case(
        WARNING,
        Area.BROKERS,
        "Broker {subject} holds replicas, and is not in the cluster: the next loss may stop writes. Start it, or read "
        "its log.",
        f"kafka-metadata-quorum.sh {_KAFKA} describe --replication",
    ),
    Code.BROKER_SILENT: Case(
        WARNING,
        Area.BROKERS,
        "Broker {subject} is in the cluster, and does not answer at {address}: it hangs, or it can't be reached from "
        "here.",
        "kafka-broker-api-versions.sh --bootstrap-server {address} --command-config admin.properties",
    ),
    Code.PARTITIONS_UNDER_REPLICATED: Case(
        WARNING,
        Area.BROKERS,
        "Not all replicas in sync: {count} of {all} partitions ({first}). They work, but the next loss may stop "
        "writes.",
        f"{_PARTITIONS} --under-replicated-partitions",
    ),
    Code.DATABASE_UNREACHABLE: Case(
        CRITICAL,
        Area.DATABASES,
        "{whose} database can't be reached ({detail}): {subject} waits, and what it is asked to do waits in Kafka.",
        "pg_isready -h {host} -p {port}",
        "PopfaxServiceWaits",
    ),
    Code.DATABASE_READ_ONLY: Case(
        CRITICAL,
        Area.DATABASES,
        "{whose} database is read-only, so {subject} waits: it is a standby, or somebody has made it so.",
        f'{_PSQL} "SELECT pg_is_in_recovery()"',
        "PopfaxServiceWaits",
    ),
    Code.SCHEMA_OLDER: Case(
        CRITICAL,
        Area.DATABASES,
        "{whose} database is at revision {revision}, and this version needs {head}: replicas of this version wait. "
        "Migrate it.",
        "python -m services.chassis.migrate {subject}",
        "PopfaxServiceWaits",
    ),
    Code.SCHEMA_NEWER: Case(
        CRITICAL,
        Area.DATABASES,
        "{whose} database is at revision {revision}, of a newer version that does not support this one ({head}): "
        "replicas of this version wait. Start those of the newer one, and use its popfax.",
        f'{_PSQL} "TABLE schema_support"',
        "PopfaxServiceWaits",
    ),
    Code.SCHEMA_BEHIND: Case(
        WARNING,
        Area.DATABASES,
        "{whose} database is at revision {revision}, and not at {head}: this version works without it, the next "
        "one may not.",
        "python -m services.chassis.migrate {subject}",
    ),
    Code.TOPIC_MISSING: Case(
        CRITICAL,
        Area.TOPICS,
        "Topics that do not exist: {count} ({first}). Their readers are not ready, and what is to be published there "
        "waits in the outboxes.",
        "popfax topics --apply",
    ),
    Code.ACL_MISSING: Case(
        CRITICAL,
        Area.TOPICS,
        "Permissions that are missing: {count} ({first}). The brokers refuse whoever needs them.",
        "popfax topics --apply",
    ),
    Code.TOPIC_CLOSED: Case(
        CRITICAL,
        Area.TOPICS,
        "Topics that are closed to their writers: {count} ({first}). What is to be published there waits, and the "
        "platform is refused. Finish the switch to more partitions, or open them.",
        "popfax topics",
    ),
    Code.TOPIC_DIFFERS: Case(
        WARNING,
        Area.TOPICS,
        "Topics that are not set up as they should be: {count} differences ({first}).",
        "popfax topics",
    ),
    Code.ACL_EXTRA: Case(
        WARNING,
        Area.TOPICS,
        "Permissions that should not exist: {count} ({first}). Somebody may read or write what they should not.",
        "popfax topics",
    ),
    Code.NO_PROCESS: Case(
        CRITICAL,
        Area.REPLICAS,
        "No process that does {whose} work is connected to its database: what it is asked to do waits in Kafka. "
        "Start one, or find out why it ends.",
        "python -m services.{subject}.app",
        "PopfaxServiceDown",
    ),
    Code.VERSIONS_DIFFER: Case(
        WARNING,
        Area.REPLICAS,
        "{subject} runs in several versions at once ({versions}): right during an update, not after it. Finish the "
        "update, or go back.",
        "popfax doctor --json",
        "PopfaxVersionsDiffer",
    ),
    Code.GROUP_EMPTY: Case(
        CRITICAL,
        Area.CONSUMERS,
        "Nobody is in {whose} consumer group, though it has processes: they hang, can't reach Kafka, or may not read. "
        "/ready of each says why.",
        _READY,
        "PopfaxConsumerUnhealthy",
    ),
    Code.PARTITION_STOPPED: Case(
        CRITICAL,
        Area.CONSUMERS,
        "{subject} can't unpack what is on {partition} at offset {position} ({error}), for {age}: nothing behind it is "
        "handled.",
        "popfax partitions list",
        "PopfaxPartitionStopped",
    ),
    Code.PARTITIONS_UNASSIGNED: Case(
        CRITICAL,
        Area.CONSUMERS,
        "Partitions of {whose} topics that none of its replicas has: {count} ({first}). Nothing on them is "
        "handled. /ready of each replica says more.",
        _READY,
        "PopfaxConsumerUnhealthy",
    ),
    Code.GROUP_UNSTABLE: Case(
        WARNING,
        Area.CONSUMERS,
        "{whose} consumer group is sharing out its partitions, and has not finished ({state}): a replica comes "
        "and goes. Look again; then look for the one that restarts.",
        "popfax doctor --json",
        "PopfaxCrashLoop",
    ),
    Code.RECORDS_LATE: Case(
        CRITICAL,
        Area.CONSUMERS,
        "Records that have waited for {subject} for more than {seconds} s: {count} (on {first}). It is too slow, or "
        "waits for its database.",
        _READY,
        "PopfaxMessagesLate",
    ),
    Code.RELAY_LEADERLESS: Case(
        CRITICAL,
        Area.RELAYS,
        "No replica of {subject} holds the relay's lock: nothing is published. Each replica's log says why "
        "(relay_failed).",
        "curl -s http://{host}:${variable}_HTTP_PORT/metrics | grep popfax_relay",
        "PopfaxRelayLeaderless",
    ),
    Code.RELAY_SILENT: Case(
        CRITICAL,
        Area.RELAYS,
        "{process} holds the lock of {whose} relay, and has not looked at the outbox for {seconds} s: it waits for "
        "Kafka, or hangs. After 15 s another replica takes over.",
        "popfax doctor",
        "PopfaxRelayLeaderless",
    ),
    Code.OUTBOX_HELD: Case(
        CRITICAL,
        Area.RELAYS,
        "The next message in {whose} outbox is of a type that this version does not know ({type}), and has waited "
        "for {age}: a replica of the version that wrote it must publish it. Start one.",
        "popfax doctor --json",
        "PopfaxOutboxHeld",
    ),
    Code.OUTBOX_OLD: Case(
        CRITICAL,
        Area.RELAYS,
        "{messages} in {whose} outbox, the oldest for {age}: nothing publishes them. The leader's log says why "
        "(relay_failed).",
        "curl -s http://{host}:${variable}_HTTP_PORT/metrics | grep popfax_relay",
        "PopfaxOutboxOld",
    ),
    Code.TIMERS_LATE: Case(
        CRITICAL,
        Area.TIMERS,
        "{timers} of {subject} due and not fired, the oldest for {age}: deadlines and retries don't happen. /ready "
        "says what it waits for.",
        _READY,
        "PopfaxTimersLate",
    ),
    Code.KEY_BLOCKED: Case(
        CRITICAL,
        Area.PARKED,
        "{subject} failed to handle {messages}, the oldest {age} ago. Each blocks its key: {behind} more behind. Read "
        "the reason and mend it, then retry the message, or drop it.",
        "popfax parked show {first}",
        "PopfaxMessageParked",
    ),
    Code.MESSAGE_UNREADABLE: Case(
        WARNING,
        Area.PARKED,
        "{messages} that {subject} could not read, put aside; nothing waits behind. Find the sender, then retry or "
        "drop.",
        "popfax parked show {first}",
        "PopfaxMessageParked",
    ),
    Code.SAGA_STUCK: Case(
        CRITICAL,
        Area.SAGAS,
        "{sagas} of {subject} open for longer than allowed, the oldest for {age}: somebody waits for an account or a "
        "purchase, and a participant does not answer.",
        "popfax saga show {first}",
        "PopfaxSagaStuck",
    ),
    Code.TRANSFER_STUCK: Case(
        CRITICAL,
        Area.TRANSFERS,
        "{transfers} without the ledger's answer, the oldest for {age}. Asking again is harmless, and helps once the "
        "ledger runs.",
        "popfax transfer retry {first}",
        "PopfaxTransferStuck",
    ),
    Code.COMMAND_UNDECIDED: Case(
        CRITICAL,
        Area.COMMANDS,
        "{commands} posted by people without an outcome, the oldest for {age}: parked, or still waiting.",
        "popfax parked list --service groups",
        "PopfaxCommandUndecided",
    ),
    Code.MAILS_LATE: Case(
        CRITICAL,
        Area.MAILS,
        "{mails} not sent, the oldest for {age}: the mail server puts them off, or can't be reached.",
        "popfax mail list",
        "PopfaxMailsWait",
    ),
    Code.MAIL_PARKED: Case(
        WARNING,
        Area.MAILS,
        "{mails} parked: they can't be rendered, and are not sent. Mend what is wrong, then retry each.",
        "popfax mail list --stuck",
        "PopfaxMailParked",
    ),
    Code.MAIL_STUCK: Case(
        WARNING,
        Area.MAILS,
        "{mails} waiting for somebody's record for more than an hour: it may never come. Find out who sent the id.",
        "popfax mail list --stuck",
        "PopfaxMailToUnknown",
    ),
    Code.UNANSWERED: Case(
        Severity.UNKNOWN,
        Area.DATABASES,
        "{subject} did not say everything ({questions}): {detail}.",
        "popfax doctor --timeout 30",
    ),
}
"""What is said of each code."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, or that could not be asked."""

    code: Code
    subject: str = ""
    """The service, the broker or the server that it is about; nothing if it is about all."""
    area: Area | None = None
    """Another line of the screen than the code's."""
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def case(self) -> Case:
        """Return what is said of its code."""
        return CASES[self.code]

    @property
    def line(self) -> Area:
        """Return the line of the screen that it belongs to."""
        return self.area or self.case.area

    @property
    def severity(self) -> Severity:
        """Return how bad it is."""
        return self.case.severity

    @property
    def meaning(self) -> str:
        """Return a sentence that says what it means."""
        return self._filled(self.case.meaning)

    @property
    def command(self) -> str:
        """Return the next command to type."""
        return self._filled(self.case.command)

    def _filled(self, text: str) -> str:
        own = {"subject": self.subject, "whose": whose(self.subject), "variable": self.subject.upper()}
        return text.format_map({**own, **self.values})


def whose(name: str) -> str:
    """Return the possessive form of a name."""
    return f"{name}'" if name.endswith("s") else f"{name}'s"


def by_urgency(finding: Finding) -> tuple[int, int]:
    """Sort key: the worst first; of what is equally bad, causes before their effects."""
    return list(Severity).index(finding.severity), list(Code).index(finding.code)
