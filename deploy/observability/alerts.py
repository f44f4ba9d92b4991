"""The alerts on causes, by group, and the objectives. Each has a runbook under `docs/operations/runbooks/`.

A series' `job` is the service that exports it, whatever scrapes it. Replicas of one service read the same database, so
what they say of it is compared with `max`, not `sum`.
"""

from collections.abc import Mapping, Sequence

from deploy.observability.rules import Alert, Objective, Severity
from popfax_contracts.topics import SERVICES

_JOBS = "|".join(sorted(SERVICES))

_NONE_SCRAPED = "".join(f' or absent(up{{job="{service}"}})' for service in sorted(SERVICES))


def _oldest(what: str) -> str:
    return f'max by (job) (popfax_oldest_open_seconds{{what="{what}"}})'


MESSAGES = (
    Alert(
        "PopfaxMessageParked",
        'max by (job) (popfax_open{what="parked"}) > 0',
        "0s",
        Severity.WARNING,
        "{{ $labels.job }} has put {{ $value }} messages aside: each waits for an operator.",
    ),
    Alert(
        "PopfaxConsumerUnhealthy",
        "max by (job) (popfax_consumer_healthy) == 0",
        "2m",
        Severity.CRITICAL,
        "No replica of {{ $labels.job }} can read from Kafka.",
    ),
    Alert(
        "PopfaxConsumerStuck",
        "sum by (job, topic) (popfax_consumer_lag_messages) > 0"
        " and sum by (job, topic) (rate(popfax_messages_handled_total[5m])) == 0",
        "5m",
        Severity.CRITICAL,
        "{{ $labels.job }} handles nothing of {{ $labels.topic }}, where {{ $value }} messages wait.",
    ),
    Alert(
        "PopfaxMessagesLate",
        "histogram_quantile(0.99, sum by (job, topic, le) (rate(popfax_message_lag_seconds_bucket[5m]))) > 1m",
        "5m",
        Severity.WARNING,
        "{{ $labels.job }} handles messages of {{ $labels.topic }} {{ $value | humanizeDuration }} after they came.",
    ),
    Alert(
        "PopfaxPartitionStopped",
        "sum by (job) (popfax_partitions_stopped) > 0",
        "1m",
        Severity.CRITICAL,
        "{{ $value }} partitions of {{ $labels.job }} stand still at a batch that can't be unpacked.",
    ),
)

OUTBOX = (
    Alert(
        "PopfaxOutboxOld",
        f"{_oldest('outbox')} > 1m",
        "0s",
        Severity.CRITICAL,
        "The oldest message of {{ $labels.job }} has been waiting for {{ $value | humanizeDuration }} to be published.",
    ),
    Alert(
        "PopfaxRelayLeaderless",
        "sum by (job) (popfax_relay_leader) != 1",
        "1m",
        Severity.CRITICAL,
        "{{ $value }} replicas of {{ $labels.job }} publish its outbox; it must be one.",
    ),
    Alert(
        "PopfaxOutboxHeld",
        "sum by (job) (increase(popfax_relay_unknown_types_total[5m])) > 0",
        "0s",
        Severity.CRITICAL,
        "The next message in the outbox of {{ $labels.job }} is of a type that no running version knows.",
    ),
)

WORK = (
    Alert(
        "PopfaxSagaStuck",
        f"{_oldest('saga')} > 5m",
        "0s",
        Severity.CRITICAL,
        "The oldest open saga of {{ $labels.job }} was opened {{ $value | humanizeDuration }} ago.",
    ),
    Alert(
        "PopfaxTransferStuck",
        f"{_oldest('transfer')} > 5m",
        "0s",
        Severity.CRITICAL,
        "The oldest open transfer has been waiting for the ledger for {{ $value | humanizeDuration }}.",
    ),
    Alert(
        "PopfaxCommandUndecided",
        f"{_oldest('command')} > 5m",
        "0s",
        Severity.CRITICAL,
        "Nothing has become of a command that somebody posted {{ $value | humanizeDuration }} ago.",
    ),
    Alert(
        "PopfaxTimersLate",
        f"{_oldest('timer')} > 2m",
        "0s",
        Severity.CRITICAL,
        "A timer of {{ $labels.job }} was due {{ $value | humanizeDuration }} ago and has not fired.",
    ),
)

MAILS = (
    Alert(
        "PopfaxMailsWait",
        f"{_oldest('mail')} > 15m",
        "0s",
        Severity.CRITICAL,
        "The oldest mail has been waiting to be sent for {{ $value | humanizeDuration }}.",
    ),
    Alert(
        "PopfaxMailToUnknown",
        f"{_oldest('mail_to_unknown')} > 1h",
        "0s",
        Severity.WARNING,
        "A mail has been waiting for its recipient's record for {{ $value | humanizeDuration }}.",
    ),
    Alert(
        "PopfaxMailParked",
        "sum by (job) (increase(popfax_mails_parked_total[1h])) > 0",
        "0s",
        Severity.WARNING,
        "A mail can't be rendered as it is meant, and is not sent.",
    ),
    Alert(
        "PopfaxMailsRefused",
        "sum by (job) (increase(popfax_mails_refused_total[1h]))"
        " / sum by (job) (increase(popfax_mails_refused_total[1h]) + increase(popfax_mails_sent_total[1h])) > 0.05",
        "0s",
        Severity.WARNING,
        "The mail server refuses {{ $value | humanizePercentage }} of the mails for good.",
    ),
    Alert(
        "PopfaxMailAbandoned",
        "sum by (job) (increase(popfax_mails_abandoned_total[1h])) > 0",
        "0s",
        Severity.WARNING,
        "A mail was given up: after 7 days, nobody is known under its recipient's id.",
    ),
    Alert(
        "PopfaxMailUncertain",
        "sum by (job) (increase(popfax_mails_uncertain_total[1h])) > 0",
        "0s",
        Severity.WARNING,
        "A mail may have arrived twice: it was sent again because the server's answer to the first was lost.",
    ),
)

DATABASE = (
    Alert(
        "PopfaxServiceWaits",
        "max by (job, cause) (popfax_outage_seconds) > 1m",
        "0s",
        Severity.CRITICAL,
        "{{ $labels.job }} has been waiting for {{ $value | humanizeDuration }}: {{ $labels.cause }}.",
    ),
    Alert(
        "PopfaxFiguresOld",
        "max by (job) (popfax_open_measured_seconds) > 2m",
        "0s",
        Severity.WARNING,
        "What waits in {{ $labels.job }} was last counted {{ $value | humanizeDuration }} ago.",
    ),
    Alert(
        "PopfaxConflicts",
        "sum by (job) (rate(popfax_batch_conflicts_total[15m])) / sum by (job) (rate(popfax_batches_total[15m])) > 0.1",
        "15m",
        Severity.WARNING,
        "{{ $value | humanizePercentage }} of the batches of {{ $labels.job }} lose a race in the database.",
    ),
    Alert(
        "PopfaxDatabasePoolExhausted",
        'sum by (job, instance, pool) (popfax_database_connections{state="used"})'
        " >= sum by (job, instance, pool) (popfax_database_connections_max)",
        "5m",
        Severity.WARNING,
        "Every connection of the pool `{{ $labels.pool }}` of {{ $labels.job }} ({{ $labels.instance }}) is in use.",
    ),
)

WEB = (
    Alert(
        "PopfaxHttpErrors",
        'sum by (job) (rate(http_server_request_duration_seconds_count{http_response_status_code=~"5.."}[5m]))'
        " / sum by (job) (rate(http_server_request_duration_seconds_count[5m])) > 0.01",
        "5m",
        Severity.CRITICAL,
        "{{ $value | humanizePercentage }} of the requests to the page and the API fail.",
    ),
    Alert(
        "PopfaxStreamsRefused",
        'sum by (job) (increase(popfax_sse_refused_total{limit="process"}[15m])) > 0',
        "0s",
        Severity.WARNING,
        "A process of {{ $labels.job }} has as many streams of changes as it may, and refuses more.",
    ),
)

PROCESSES = (
    Alert(
        "PopfaxServiceDown",
        f'sum by (job) (up{{job=~"{_JOBS}"}}) == 0{_NONE_SCRAPED}',
        "1m",
        Severity.CRITICAL,
        "No replica of {{ $labels.job }} answers.",
    ),
    Alert(
        "PopfaxReplicaDown",
        f'up{{job=~"{_JOBS}"}} == 0',
        "5m",
        Severity.WARNING,
        "{{ $labels.instance }} of {{ $labels.job }} does not answer.",
    ),
    Alert(
        "PopfaxCrashLoop",
        f'changes(process_start_time_seconds{{job=~"{_JOBS}"}}[15m]) > 2',
        "0s",
        Severity.WARNING,
        "{{ $labels.instance }} of {{ $labels.job }} was restarted {{ $value }} times within 15 minutes.",
    ),
    Alert(
        "PopfaxVersionsDiffer",
        "count(count by (version, commit) (popfax_build_info)) > 1",
        "1h",
        Severity.WARNING,
        "{{ $value }} different builds have been running side by side for an hour.",
    ),
)

ALERTS: Mapping[str, Sequence[Alert]] = {
    "messages": MESSAGES,
    "outbox": OUTBOX,
    "work": WORK,
    "mails": MAILS,
    "database": DATABASE,
    "web": WEB,
    "processes": PROCESSES,
}
"""The alerts on causes, by the name of their group."""


def _slower(histogram: str, seconds: float, *matchers: str) -> str:
    """Return the share of a histogram's events that took longer than one of its bounds."""
    within = ", ".join((*matchers, f'le="{seconds}"'))
    every = f"{{{', '.join(matchers)}}}" if matchers else ""
    return f"1 - sum(rate({histogram}_bucket{{{within}}}[window])) / sum(rate({histogram}_count{every}[window]))"


OBJECTIVES = (
    Objective(
        "creation",
        "PopfaxCreationsSlow",
        0.99,
        "99 % of the account creations end within 2.5 s.",
        _slower("popfax_saga_seconds", 2.5, 'saga="create-member-account"'),
    ),
    Objective(
        "command",
        "PopfaxCommandsFail",
        0.999,
        "99.9 % of the commands are answered, rather than parked.",
        'sum(rate(popfax_commands_total{outcome="parked"}[window])) / sum(rate(popfax_commands_total[window]))',
    ),
    Objective(
        "mail",
        "PopfaxMailsSlow",
        0.99,
        "99 % of the mails are with the mail server within 60 s.",
        _slower("popfax_mail_delay_seconds", 60.0),
    ),
    Objective(
        "freshness",
        "PopfaxReadModelStale",
        0.99,
        "For 99 % of the time, the page shows what other services knew 5 s before.",
        "avg_over_time(popfax:freshness_errors:now[window])",
        # What groups has not handled yet, or what is still in the outbox of a service that told it.
        'max(popfax_oldest_unhandled_seconds{job="groups"}'
        ' or popfax_oldest_open_seconds{what="outbox", job!="groups"}) > bool 5',
    ),
)
"""What is promised."""


def names() -> list[str]:
    """Return the names of all alerts."""
    return [*(objective.alert for objective in OBJECTIVES), *(each.name for group in ALERTS.values() for each in group)]
