"""What the dashboards show: one overview, and one per service, as tables of panels. `dashboards` builds them.

A panel's text is the question that it answers. Rates are over Grafana's `$__rate_interval`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.observability.alerts import OBJECTIVES
from deploy.observability.rules import Objective
from popfax_contracts.topics import Principal


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph or, with `stat`, a number."""

    title: str
    question: str
    unit: str
    """Grafana's name of the unit."""
    queries: Mapping[str, str]
    """PromQL by legend; `{{topic}}` and the like are filled in by Grafana."""
    stat: bool = False
    bad_from: float | None = None
    """From this value on it is drawn in red."""
    good_from: float | None = None
    """Below this value it is drawn in red."""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard."""

    name: str
    """Its file's name, and its end of Grafana's uid."""
    title: str
    question: str
    rows: Sequence[Row]


def _quantiles(histogram: str, by: str, matchers: str, *quantiles: float) -> Mapping[str, str]:
    rate = f"sum by ({by}) (rate({histogram}_bucket{{{matchers}}}[$__rate_interval]))"
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", ") if label != "le")
    return {f"p{100 * q:g} {legend}".strip(): f"histogram_quantile({q:g}, {rate})" for q in quantiles}


def _kept(objective: Objective) -> Panel:
    errors = objective.record("3d")
    return Panel(
        f"{objective.name}: budget left",
        f"{objective.promise} How much of the error budget is left at the pace of the last three days?",
        "percentunit",
        {objective.name: f"1 - {errors} / {1 - objective.goal:.4g}"},
        stat=True,
        good_from=0.25,
    )


_ALL_WELL = Row(
    "Is all well?",
    (
        Panel(
            "Alerts that fire",
            "What is wrong now? Each alert has a runbook.",
            "short",
            {"alerts": 'count(ALERTS{alertname=~"Popfax.*", alertstate="firing"}) or vector(0)'},
            stat=True,
            bad_from=1,
        ),
        Panel(
            "Replicas that answer",
            "Does every service run?",
            "short",
            {"{{job}}": 'sum by (job) (up{job=~"groups|ledger|notifications|provisioning"})'},
            stat=True,
            good_from=1,
        ),
        Panel(
            "Parked messages",
            "Does a message wait for an operator?",
            "short",
            {"{{job}}": 'max by (job) (popfax_open{what="parked"})'},
            stat=True,
            bad_from=1,
        ),
        Panel(
            "Builds",
            "Do all replicas run the same version?",
            "short",
            {"{{version}} {{commit}}": "count by (version, commit) (popfax_build_info)"},
            stat=True,
        ),
    ),
)

_OVERVIEW = Board(
    "overview",
    "Popfax Groups",
    "Is all well, and if not, where?",
    (
        _ALL_WELL,
        Row("What is promised", [_kept(objective) for objective in OBJECTIVES]),
        Row(
            "What people notice",
            (
                Panel(
                    "Account creations",
                    "How many account creations end, and how?",
                    "reqps",
                    {
                        "{{outcome}}": "sum by (outcome) (rate("
                        'popfax_saga_seconds_count{saga="create-member-account"}[$__rate_interval]))'
                    },
                ),
                Panel(
                    "Time to create an account",
                    "How long does it take?",
                    "s",
                    _quantiles("popfax_saga_seconds", "le", 'saga="create-member-account"', 0.5, 0.99),
                    bad_from=2.5,
                ),
                Panel(
                    "Commands",
                    "What becomes of what people and systems ask for?",
                    "reqps",
                    {"{{outcome}}": "sum by (outcome) (rate(popfax_commands_total[$__rate_interval]))"},
                ),
                Panel(
                    "Time to see a change",
                    "How fresh is the page?",
                    "s",
                    _quantiles("popfax_event_delay_seconds", "le", 'job="groups"', 0.5, 0.99),
                    bad_from=5,
                ),
                Panel(
                    "Time to send a mail",
                    "How long do people wait for their mails?",
                    "s",
                    _quantiles("popfax_mail_delay_seconds", "le", "", 0.5, 0.99),
                    bad_from=60,
                ),
                Panel(
                    "Requests that fail",
                    "Do the page and the API answer?",
                    "reqps",
                    {
                        "{{http_response_status_code}}": "sum by (http_response_status_code) (rate("
                        'http_server_request_duration_seconds_count{http_response_status_code=~"5.."}'
                        "[$__rate_interval]))"
                    },
                ),
            ),
        ),
        Row(
            "Where it waits",
            (
                Panel(
                    "Oldest of what is open",
                    "Is something stuck, and where?",
                    "s",
                    {"{{job}} {{what}}": "max by (job, what) (popfax_oldest_open_seconds)"},
                    bad_from=300,
                ),
                Panel(
                    "Time in Kafka",
                    "Which service keeps its messages waiting?",
                    "s",
                    _quantiles("popfax_message_lag_seconds", "job, le", "", 0.99),
                    bad_from=60,
                ),
                Panel(
                    "Time in the outbox",
                    "Which service is slow to publish?",
                    "s",
                    _quantiles("popfax_relay_delay_seconds", "job, le", "", 0.99),
                    bad_from=60,
                ),
                Panel(
                    "Outages",
                    "What stops a service, and since when?",
                    "s",
                    {"{{job}} {{cause}}": "max by (job, cause) (popfax_outage_seconds)"},
                    bad_from=60,
                ),
            ),
        ),
    ),
)


def _service(service: Principal, question: str, own: Sequence[Row]) -> Board:
    """Return a service's dashboard: what it alone has, and what all have."""
    ours = f'job="{service}"'
    return Board(service.value, f"Popfax Groups: {service}", question, [*own, *_work(ours), *_resources(ours)])


def _work(ours: str) -> Sequence[Row]:
    messages = Row(
        "Messages",
        (
            Panel(
                "Handled",
                "How much work is done?",
                "short",
                {"{{topic}}": f"sum by (topic) (rate(popfax_messages_handled_total{{{ours}}}[$__rate_interval]))"},
            ),
            Panel(
                "Lag",
                "Does the service keep up?",
                "short",
                {"{{topic}}": f"sum by (topic) (popfax_consumer_lag_messages{{{ours}}})"},
            ),
            Panel(
                "Time in Kafka",
                "How long do messages wait in Kafka?",
                "s",
                _quantiles("popfax_message_lag_seconds", "topic, le", ours, 0.99),
                bad_from=60,
            ),
            Panel(
                "Time of a batch",
                "Is the handling slow, for example because the database is?",
                "s",
                _quantiles("popfax_batch_seconds", "topic, le", ours, 0.5, 0.99),
            ),
            Panel(
                "Messages in a batch",
                "Does the service work in batches, or message by message?",
                "short",
                _quantiles("popfax_batch_messages", "topic, le", ours, 0.5),
            ),
            Panel(
                "Read from Kafka",
                "Can the service read from Kafka, and all partitions?",
                "short",
                {
                    "healthy replicas": f"sum(popfax_consumer_healthy{{{ours}}})",
                    "partitions": f"sum(popfax_consumer_partitions{{{ours}}})",
                    "partitions that stand still": f"sum(popfax_partitions_stopped{{{ours}}})",
                },
            ),
        ),
    )
    failures = Row(
        "What goes wrong",
        (
            Panel(
                "Handler errors",
                "Which kind of message fails?",
                "short",
                {"{{type}}": f"sum by (type) (increase(popfax_handler_errors_total{{{ours}}}[$__rate_interval]))"},
            ),
            Panel(
                "Parked",
                "Are there messages that can't be read or handled?",
                "short",
                {
                    "new, {{why}}": "sum by (why) (increase("
                    f"popfax_messages_parked_total{{{ours}}}[$__rate_interval]))",
                    "waiting": f'max(popfax_open{{{ours}, what="parked"}})',
                },
            ),
            Panel(
                "Conflicts",
                "Do replicas hinder each other?",
                "short",
                {"{{cause}}": f"sum by (cause) (rate(popfax_batch_conflicts_total{{{ours}}}[$__rate_interval]))"},
            ),
            Panel(
                "Outages",
                "What stops the service, and since when?",
                "s",
                {"{{cause}}": f"max by (cause) (popfax_outage_seconds{{{ours}}})"},
                bad_from=60,
            ),
        ),
    )
    waiting = Row(
        "What waits",
        (
            Panel("Open", "How much waits?", "short", {"{{what}}": f"max by (what) (popfax_open{{{ours}}})"}),
            Panel(
                "Oldest open",
                "How long has the oldest been waiting?",
                "s",
                {"{{what}}": f"max by (what) (popfax_oldest_open_seconds{{{ours}}})"},
            ),
            Panel(
                "Published",
                "How much is published?",
                "short",
                {"messages": f"sum(rate(popfax_messages_relayed_total{{{ours}}}[$__rate_interval]))"},
            ),
            Panel(
                "Time in the outbox",
                "How long do messages wait in the outbox?",
                "s",
                _quantiles("popfax_relay_delay_seconds", "le", ours, 0.5, 0.99),
            ),
            Panel(
                "Relay",
                "Is the outbox published, by how many replicas, and how often did the relay restart?",
                "short",
                {
                    "leaders": f"sum(popfax_relay_leader{{{ours}}})",
                    "restarts": f"sum(increase(popfax_relay_failures_total{{{ours}}}[$__rate_interval]))",
                    "unknown types": f"sum(increase(popfax_relay_unknown_types_total{{{ours}}}[$__rate_interval]))",
                },
            ),
            Panel(
                "Timers",
                "Do timers fire?",
                "short",
                {"fired": f"sum(rate(popfax_timers_fired_total{{{ours}}}[$__rate_interval]))"},
            ),
        ),
    )
    return messages, failures, waiting


def _resources(ours: str) -> Sequence[Row]:
    return [
        Row(
            "Resources",
            (
                Panel(
                    "Database connections",
                    "Is the pool exhausted?",
                    "short",
                    {
                        "{{instance}} {{pool}} {{state}}": f"popfax_database_connections{{{ours}}}",
                        "{{instance}} {{pool}} most": f"popfax_database_connections_max{{{ours}}}",
                    },
                ),
                Panel(
                    "Wait for a connection",
                    "Is the pool too small, or connecting slow?",
                    "s",
                    _quantiles("popfax_database_wait_seconds", "pool, le", ours, 0.99),
                ),
                Panel(
                    "CPU",
                    "How much of a core does each replica use? One replica can use one.",
                    "percentunit",
                    {"{{instance}}": f"rate(process_cpu_seconds_total{{{ours}}}[$__rate_interval])"},
                    bad_from=0.9,
                ),
                Panel(
                    "Memory",
                    "How much memory does each replica use?",
                    "bytes",
                    {"{{instance}}": f"process_resident_memory_bytes{{{ours}}}"},
                ),
            ),
        )
    ]


def _sagas(ours: str, *sagas: str) -> Row:
    graphs = [
        graph
        for saga in sagas
        for graph in (
            Panel(
                f"{saga}: ended",
                "How many end, and how?",
                "reqps",
                {
                    "{{outcome}}": "sum by (outcome) (rate("
                    f'popfax_saga_seconds_count{{{ours}, saga="{saga}"}}[$__rate_interval]))'
                },
            ),
            Panel(
                f"{saga}: time",
                "How long does one take, from its opening to its end?",
                "s",
                _quantiles("popfax_saga_seconds", "le", f'{ours}, saga="{saga}"', 0.5, 0.99),
            ),
        )
    ]
    return Row("Sagas", graphs)


_WEB = Row(
    "Page and API",
    (
        Panel(
            "Requests",
            "What is asked for, and how is it answered?",
            "reqps",
            {
                "{{http_response_status_code}}": "sum by (http_response_status_code) (rate("
                'http_server_request_duration_seconds_count{job="groups"}[$__rate_interval]))'
            },
        ),
        Panel(
            "Time of a request",
            "Which routes are slow?",
            "s",
            _quantiles("http_server_request_duration_seconds", "http_route, le", 'job="groups"', 0.95),
        ),
        Panel(
            "Streams of changes",
            "How many browsers wait for changes, and how many were refused?",
            "short",
            {
                "open": 'sum(popfax_sse_streams{job="groups"})',
                "refused, {{limit}}": "sum by (limit) (increase("
                'popfax_sse_refused_total{job="groups"}[$__rate_interval]))',
            },
        ),
        Panel(
            "Time to see a change",
            "How fresh is what groups knows of the others, by topic?",
            "s",
            _quantiles("popfax_event_delay_seconds", "topic, le", 'job="groups"', 0.99),
            bad_from=5,
        ),
    ),
)

_MAILS = Row(
    "Mails",
    (
        Panel(
            "Mails",
            "What becomes of the mails?",
            "short",
            {
                what: f"sum(rate(popfax_mails_{what}_total[$__rate_interval]))"
                for what in ("sent", "refused", "retried", "parked", "abandoned", "uncertain")
            },
        ),
        Panel(
            "Time to send a mail",
            "How long do people wait for their mails?",
            "s",
            _quantiles("popfax_mail_delay_seconds", "le", "", 0.5, 0.99),
            bad_from=60,
        ),
        Panel(
            "Waiting mails",
            "How many wait, and for how many is the recipient unknown?",
            "short",
            {"{{what}}": 'max by (what) (popfax_open{what=~"mail|mail_to_unknown"})'},
        ),
        Panel(
            "Oldest waiting mail",
            "How long has the oldest been waiting?",
            "s",
            {"{{what}}": 'max by (what) (popfax_oldest_open_seconds{what=~"mail|mail_to_unknown"})'},
        ),
    ),
)

BOARDS = (
    _OVERVIEW,
    _service(
        Principal.GROUPS,
        "Do sagas and transfers move on, do page and API answer, is what they show fresh?",
        (_sagas('job="groups"', "create-member-account"), _WEB),
    ),
    _service(Principal.LEDGER, "Are units held, captured and transferred in time?", ()),
    _service(
        Principal.PROVISIONING,
        "Are accounts created, and paid actions carried out?",
        (_sagas('job="provisioning"', "paid-action"),),
    ),
    _service(Principal.NOTIFICATIONS, "Do mails leave?", (_MAILS,)),
)
"""All dashboards, the overview first."""


def queries() -> list[str]:
    """Return every query of every panel."""
    return [query for board in BOARDS for row in board.rows for panel in row.panels for query in panel.queries.values()]
