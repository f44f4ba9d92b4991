"""What `promtool test rules` shows of each rule: when it is quiet, when it fires, and when it is over.

Every case begins healthy. Series have one value per minute; times are minutes from the start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deploy.observability.alerts import ALERTS, OBJECTIVES
from deploy.observability.pace import seconds
from deploy.observability.rules import BURNS, RUNBOOKS, WINDOWS, Objective
from tests.observability import promql

Values = list[float]


def flat(value: float, minutes: int) -> Values:
    """Return a value that stays."""
    return [value] * minutes


def rising(by: float, minutes: int, start: float = 0) -> Values:
    """Return what grows by so much per minute, from `start` on."""
    return [start + by * minute for minute in range(minutes)]


@dataclass(frozen=True)
class Case:
    """One alert's way from quiet to firing, and back."""

    alert: str
    series: Mapping[str, Values]
    quiet: int
    """A minute at which it does not fire: the fault is there, and has not lasted, or is not bad enough."""
    fires: int
    summary: str
    """What whoever is told then reads."""
    labels: Mapping[str, str] = field(default_factory=lambda: {"job": "ledger"})
    over: int | None = None
    """A minute at which it no longer fires, None if the case ends before."""
    severity: str = ""
    """Only for alerts that exist with several."""
    every: int = 1
    """The minutes between two values, and between two evaluations."""


def _open(what: str, values: Values) -> Mapping[str, Values]:
    return {f'popfax_open{{job="ledger", instance="{n}", what="{what}"}}': values for n in ("a", "b")}


def _oldest(what: str, limit_m: int, job: str = "ledger") -> Mapping[str, Values]:
    """Return the age of something that has been waiting since minute 5, until it is dealt with."""
    series = f'popfax_oldest_open_seconds{{job="{job}", instance="a", what="{what}"}}'
    return {series: [*flat(0, 5), *rising(60, limit_m + 5), *flat(0, 5)]}


def _waiting(alert: str, what: str, limit_m: int, summary: str, job: str = "ledger") -> Case:
    return Case(alert, _oldest(what, limit_m, job), 5 + limit_m, 6 + limit_m, summary, {"job": job}, over=11 + limit_m)


def _first(alert: str, metric: str, window_m: int, summary: str) -> Case:
    """Return the case of a counter whose very first event counts; it is over when that is out of the window."""
    labels = {"job": "notifications"}
    series = {f'{metric}{{job="notifications", instance="a"}}': [*flat(0, 6), *flat(1, window_m + 10)]}
    return Case(alert, series, 5, 6, summary, labels, over=window_m + 8)


def _all_up() -> dict[str, Values]:
    return {f'up{{job="{job}", instance="a"}}': flat(1, 40) for job in ("groups", "provisioning", "notifications")}


CASES = (
    Case(
        "PopfaxMessageParked",
        _open("parked", [*flat(0, 5), *flat(1, 5), *flat(0, 5)]),
        4,
        5,
        "ledger has put 1 messages aside: each waits for an operator.",
        over=10,
    ),
    Case(
        "PopfaxConsumerUnhealthy",
        {
            'popfax_consumer_healthy{job="ledger", instance="a"}': [*flat(1, 2), *flat(0, 20)],
            'popfax_consumer_healthy{job="ledger", instance="b"}': [*flat(1, 5), *flat(0, 5), *flat(1, 5)],
        },
        6,
        7,
        "No replica of ledger can read from Kafka.",
        over=10,
    ),
    Case(
        "PopfaxConsumerStuck",
        {
            'popfax_consumer_lag_messages{job="ledger", topic="t"}': flat(7, 30),
            'popfax_messages_handled_total{job="ledger", topic="t"}': [*rising(1, 6), *flat(5, 14), *rising(9, 9, 5)],
        },
        14,
        15,
        "ledger handles nothing of t, where 7 messages wait.",
        {"job": "ledger", "topic": "t"},
        over=21,
    ),
    Case(
        "PopfaxMessagesLate",
        {
            'popfax_message_lag_seconds_bucket{job="ledger", topic="t", le="60.0"}': [*rising(1, 6), *flat(5, 25)],
            'popfax_message_lag_seconds_bucket{job="ledger", topic="t", le="300.0"}': [*rising(1, 20), *flat(19, 11)],
            'popfax_message_lag_seconds_bucket{job="ledger", topic="t", le="+Inf"}': [*rising(1, 20), *flat(19, 11)],
        },
        10,
        12,
        "ledger handles messages of t 4m 57s after they came.",
        {"job": "ledger", "topic": "t"},
        over=26,
    ),
    Case(
        "PopfaxPartitionStopped",
        {'popfax_partitions_stopped{job="ledger", instance="a"}': [*flat(0, 5), *flat(2, 5), *flat(0, 5)]},
        5,
        6,
        "2 partitions of ledger stand still at a batch that can't be unpacked.",
        over=10,
    ),
    _waiting(
        "PopfaxOutboxOld", "outbox", 1, "The oldest message of ledger has been waiting for 2m 0s to be published."
    ),
    Case(
        "PopfaxRelayLeaderless",
        {
            'popfax_relay_leader{job="ledger", instance="a"}': [*flat(1, 5), *flat(0, 20)],
            'popfax_relay_leader{job="ledger", instance="b"}': [*flat(0, 10), *flat(1, 15)],
        },
        5,
        6,
        "0 replicas of ledger publish its outbox; it must be one.",
        over=10,
    ),
    Case(
        "PopfaxOutboxHeld",
        {'popfax_relay_unknown_types_total{job="ledger", instance="a"}': [*flat(0, 6), *flat(1, 20)]},
        5,
        6,
        "The next message in the outbox of ledger is of a type that no running version knows.",
        over=13,
    ),
    _waiting("PopfaxSagaStuck", "saga", 5, "The oldest open saga of groups was opened 6m 0s ago.", "groups"),
    _waiting(
        "PopfaxTransferStuck",
        "transfer",
        5,
        "The oldest open transfer has been waiting for the ledger for 6m 0s.",
        "groups",
    ),
    _waiting(
        "PopfaxCommandUndecided",
        "command",
        5,
        "Nothing has become of a command that somebody posted 6m 0s ago.",
        "groups",
    ),
    _waiting("PopfaxTimersLate", "timer", 2, "A timer of ledger was due 3m 0s ago and has not fired."),
    _waiting("PopfaxMailsWait", "mail", 15, "The oldest mail has been waiting to be sent for 16m 0s.", "notifications"),
    _waiting(
        "PopfaxMailToUnknown",
        "mail_to_unknown",
        60,
        "A mail has been waiting for its recipient's record for 1h 1m 0s.",
        "notifications",
    ),
    _first(
        "PopfaxMailParked",
        "popfax_mails_parked_total",
        60,
        "A mail can't be rendered as it is meant, and is not sent.",
    ),
    Case(
        "PopfaxMailsRefused",
        {
            'popfax_mails_refused_total{job="notifications"}': [*flat(0, 6), *rising(1, 6), *flat(5, 80)],
            'popfax_mails_sent_total{job="notifications"}': rising(3, 92),
        },
        6,
        11,
        "The mail server refuses 13.16% of the mails for good.",
        {"job": "notifications"},
        over=75,
    ),
    _first(
        "PopfaxMailAbandoned",
        "popfax_mails_abandoned_total",
        60,
        "A mail was given up: after 7 days, nobody is known under its recipient's id.",
    ),
    _first(
        "PopfaxMailUncertain",
        "popfax_mails_uncertain_total",
        60,
        "A mail may have arrived twice: it was sent again because the server's answer to the first was lost.",
    ),
    Case(
        "PopfaxServiceWaits",
        {'popfax_outage_seconds{job="ledger", cause="locked"}': [*flat(0, 5), *rising(60, 5), *flat(0, 5)]},
        6,
        7,
        "ledger has been waiting for 2m 0s: locked.",
        {"job": "ledger", "cause": "locked"},
        over=10,
    ),
    Case(
        "PopfaxFiguresOld",
        {'popfax_open_measured_seconds{job="ledger"}': [*flat(9, 5), *rising(60, 6), *flat(9, 5)]},
        7,
        8,
        "What waits in ledger was last counted 3m 0s ago.",
        over=11,
    ),
    Case(
        "PopfaxConflicts",
        {
            'popfax_batch_conflicts_total{job="ledger", cause="deadlock"}': [
                *flat(0, 5),
                *rising(2, 25),
                *flat(48, 30),
            ],
            'popfax_batches_total{job="ledger", source="messages"}': rising(10, 60),
        },
        20,
        29,
        "20% of the batches of ledger lose a race in the database.",
        over=45,
    ),
    Case(
        "PopfaxDatabasePoolExhausted",
        {
            'popfax_database_connections{job="ledger", instance="a", pool="work", state="used"}': [
                *flat(7, 5),
                *flat(8, 10),
                *flat(1, 5),
            ],
            'popfax_database_connections_max{job="ledger", instance="a", pool="work"}': flat(8, 20),
        },
        9,
        10,
        "Every connection of the pool `work` of ledger (a) is in use.",
        {"job": "ledger", "instance": "a", "pool": "work"},
        over=15,
    ),
    Case(
        "PopfaxHttpErrors",
        {
            'http_server_request_duration_seconds_count{job="groups", http_response_status_code="200"}': rising(9, 30),
            'http_server_request_duration_seconds_count{job="groups", http_response_status_code="500"}': [
                *flat(0, 5),
                *rising(1, 16),
                *flat(15, 9),
            ],
        },
        9,
        13,
        "10% of the requests to the page and the API fail.",
        {"job": "groups"},
        over=26,
    ),
    Case(
        "PopfaxStreamsRefused",
        {'popfax_sse_refused_total{job="groups", limit="process"}': [*flat(0, 6), *flat(1, 25)]},
        5,
        6,
        "A process of groups has as many streams of changes as it may, and refuses more.",
        {"job": "groups"},
        over=23,
    ),
    Case(
        "PopfaxServiceDown",
        {**_all_up(), 'up{job="ledger", instance="a"}': [*flat(1, 5), *flat(0, 5), *flat(1, 5)]},
        5,
        6,
        "No replica of ledger answers.",
        over=10,
    ),
    Case(
        "PopfaxServiceDown",
        {**_all_up(), 'up{job="ledger", instance="a"}': [*flat(1, 5)]},
        9,
        12,
        "No replica of ledger answers.",
    ),
    Case(
        "PopfaxReplicaDown",
        {
            **_all_up(),
            'up{job="ledger", instance="a"}': flat(1, 30),
            'up{job="ledger", instance="b"}': [*flat(1, 5), *flat(0, 10), *flat(1, 15)],
        },
        9,
        10,
        "b of ledger does not answer.",
        {"job": "ledger", "instance": "b"},
        over=15,
    ),
    Case(
        "PopfaxCrashLoop",
        {'process_start_time_seconds{job="ledger", instance="a"}': [*flat(1, 5), 2, 3, *flat(4, 25)]},
        6,
        7,
        "a of ledger was restarted 3 times within 15 minutes.",
        {"job": "ledger", "instance": "a"},
        over=20,
    ),
    Case(
        "PopfaxVersionsDiffer",
        {
            'popfax_build_info{job="ledger", version="1", commit="a"}': flat(1, 90),
            'popfax_build_info{job="groups", version="1", commit="b"}': [*flat(float("nan"), 5), *flat(1, 85)],
        },
        64,
        65,
        "2 different builds have been running side by side for an hour.",
        {},
    ),
)


SLOW = 5
"""The minutes between two values of the cases below, whose alerts take up to three hours to fire."""


def _burning(objective: Objective) -> list[Case]:
    """Return how the alerts on an objective's budget fire: once both windows agree, for as long as they have to."""
    cases = []
    for burn in BURNS:
        share = 1.2 * burn.rate * (1 - objective.goal)
        lasts = -(-seconds(burn.lasting) // (60 * SLOW))
        values = 2 * lasts + 12
        series = {objective.record(window): flat(0, values) for window in WINDOWS}
        series[objective.record(burn.long)] = flat(share, values)
        series[objective.record(burn.short)] = [*flat(0, 5), *flat(share, lasts + 5), *flat(0, 5)]
        summary = f"{objective.promise} Over {burn.long} it was {100 * share:.4g}% that did not."
        labels = {"long": burn.long, "short": burn.short}
        quiet, fires, over = (SLOW * each for each in (4 + lasts, 5 + lasts, 11 + lasts))
        severity = burn.severity.value
        cases.append(Case(objective.alert, series, quiet, fires, summary, labels, over, severity, SLOW))
    return cases


BURNING = tuple(case for objective in OBJECTIVES for case in _burning(objective))

BAD = {"creation": 0.25, "command": 0.25, "mail": 0.25, "freshness": 1.0}
"""The share of what is bad in the series below."""

RECORDED: Mapping[str, Mapping[str, Values]] = {
    "creation": {
        'popfax_saga_seconds_bucket{saga="create-member-account", outcome="completed", le="2.5"}': rising(3, 10),
        'popfax_saga_seconds_count{saga="create-member-account", outcome="completed"}': rising(4, 10),
    },
    "command": {
        'popfax_commands_total{job="ledger", outcome="parked"}': rising(1, 10),
        'popfax_commands_total{job="ledger", outcome="answered"}': rising(2, 10),
        'popfax_commands_total{job="groups", outcome="refused"}': rising(1, 10),
    },
    "mail": {
        'popfax_mail_delay_seconds_bucket{le="60.0"}': rising(3, 10),
        "popfax_mail_delay_seconds_count": rising(4, 10),
    },
    "freshness": {
        'popfax_oldest_unhandled_seconds{job="groups", topic="t"}': flat(0, 10),
        'popfax_oldest_open_seconds{job="ledger", what="outbox"}': flat(9, 10),
    },
}
"""What each objective is reckoned from, by its name."""

_SEVERITY = {alert.name: alert.severity.value for group in ALERTS.values() for alert in group}


def documents(group: str, rules: str) -> list[dict[str, Any]]:
    """Return a group's cases as promtool reads them; `rules` is the path of a file with that group's rules.

    A file for each group, and for each interval: promtool evaluates all rules of a file at each moment of every case.
    """
    name = group.removeprefix("popfax-")
    alerts = {alert.name for alert in ALERTS.get(name, ())}
    alerts |= {objective.alert for objective in OBJECTIVES if objective.name == name}
    cases = [case for case in (*CASES, *BURNING) if case.alert in alerts]
    tests = {every: [_tested(case) for case in cases if case.every == every] for every in (1, SLOW)}
    if name in RECORDED:
        tests[1].append(_recorded(name))
    return [
        {"rule_files": [rules], "evaluation_interval": f"{every}m", "tests": found}
        for every, found in tests.items()
        if found
    ]


def tested(documents: Sequence[Mapping[str, Any]]) -> set[tuple[str, str, str]]:
    """Return the rules that documents show firing, or recording: the name and, of an alert, severity and window."""
    tests = [test for document in documents for test in document["tests"]]
    alerts = {
        (case["alertname"], alert["exp_labels"]["severity"], alert["exp_labels"].get("long", ""))
        for test in tests
        for case in test.get("alert_rule_test", ())
        for alert in case["exp_alerts"]
    }
    records = {
        (name, "", "")
        for test in tests
        for case in test.get("promql_expr_test", ())
        if case["exp_samples"]
        for name in promql.names(case["expr"])
    }
    return alerts | records


def rules(groups: Sequence[Mapping[str, Any]]) -> set[tuple[str, str, str]]:
    """Return the rules of rule groups, in the same form."""
    return {
        (rule["alert"], rule["labels"]["severity"], rule["labels"].get("long", ""))
        if "alert" in rule
        else (rule["record"], "", "")
        for group in groups
        for rule in group["rules"]
    }


def _tested(case: Case) -> dict[str, Any]:
    fires = {
        "exp_labels": {"severity": case.severity or _SEVERITY[case.alert], **case.labels},
        "exp_annotations": {"summary": case.summary, "runbook_url": f"{RUNBOOKS}/{case.alert}.md"},
    }
    moments: list[tuple[int | None, list[Any]]] = [(case.quiet, []), (case.fires, [fires]), (case.over, [])]
    return {
        "interval": f"{case.every}m",
        "input_series": _series(case.series),
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": case.alert, "exp_alerts": alerts}
            for minute, alerts in moments
            if minute is not None
        ],
    }


def _recorded(name: str) -> dict[str, Any]:
    (objective,) = (each for each in OBJECTIVES if each.name == name)
    expected = [
        {
            "expr": f"round({record}, 0.0001)",
            "eval_time": "9m",
            "exp_samples": [{"labels": "{}", "value": BAD[name]}],
        }
        for record in [*map(objective.record, WINDOWS), *([objective.moment] if objective.now else [])]
    ]
    return {"interval": "1m", "input_series": _series(RECORDED[name]), "promql_expr_test": expected}


def _series(series: Mapping[str, Values]) -> list[dict[str, str]]:
    return [{"series": name, "values": " ".join(map(_shown, values))} for name, values in series.items()]


def _shown(value: float) -> str:
    return "_" if value != value else f"{value:g}"
