"""Where the four services keep personal data: every table, its columns, and whose each row is.

A person's export follows this. A test compares it with the services' schemas, so no new table or column can be
forgotten.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from services.groups import domain as groups_domain
from services.groups import tables as groups
from services.groups.domain import Kind
from services.ledger import tables as ledger
from services.notifications import tables as notifications
from services.provisioning import tables as provisioning

SCHEMAS: Mapping[Principal, ModuleType] = {
    Principal.PROVISIONING: provisioning,
    Principal.GROUPS: groups,
    Principal.LEDGER: ledger,
    Principal.NOTIFICATIONS: notifications,
}


@dataclass(frozen=True, slots=True)
class Person:
    """The person whose data is wanted. The address is None once it is erased."""

    id: UUID
    email: str | None

    @property
    def marks(self) -> Sequence[str]:
        """Return the texts that a message about this person contains."""
        own = (str(self.id), self.id.hex, str(group_of(self.id)), self.email)
        return [each for each in own if each]


Whose = Callable[[sa.Table, Person], sa.ColumnElement[bool]]


@dataclass(frozen=True, slots=True)
class Held:
    """A table that holds personal data.

    `shown` are the columns that are exported, `hidden` those that are not: secrets, hashes, the chassis's own.
    `others` maps a column to the column of the person whom it is about; it is exported to that person only.
    """

    whose: Whose
    shown: str
    hidden: str = ""
    others: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NotHeld:
    """A table that holds no personal data: the reason, and the columns for which it holds."""

    why: str
    columns: str


def _has(*columns: str) -> Whose:
    """Match rows that have the person's id in one of the columns."""
    return lambda table, person: sa.or_(*(table.c[name] == person.id for name in columns))


_OF_OWNERS = (Kind.ORDER.value, Kind.EXTENSION.value, Kind.OPTIONS_PACK.value)
"""What lines of a history are about that a member never learns of: orders, and what an owner paid or could not pay."""


def _is_line_of(table: sa.Table, person: Person) -> sa.ColumnElement[bool]:
    """Match lines of the person's own group, and of others' those that are theirs to know."""
    theirs = sa.and_(table.c.member_id == person.id, table.c.kind.not_in(_OF_OWNERS))
    return sa.or_(theirs, table.c.actor_id == person.id, table.c.group_id == group_of(person.id))


def _speaks(actor: str | None, *texts: str) -> Whose:
    """Match rows of messages that the person sent, or that name them anywhere."""

    def whose(table: sa.Table, person: Person) -> sa.ColumnElement[bool]:
        named = [_within(table.c[name], mark) for name in texts for mark in person.marks]
        return sa.or_(*named, *([table.c[actor] == person.id] if actor else []))

    return whose


def _within(column: sa.Column[Any], mark: str) -> sa.ColumnElement[bool]:
    if column.type.compile().upper() == "BYTEA":
        return sa.func.position(sa.cast(sa.literal(mark.encode()), column.type).op("in")(column)) > 0
    return sa.func.strpos(sa.cast(column, sa.Text), mark) > 0


def _through(column: str, schema: ModuleType, other: str, key: str, *columns: str) -> Whose:
    """Match rows that belong to the person's rows of another table."""

    def whose(table: sa.Table, person: Person) -> sa.ColumnElement[bool]:
        owner = schema.metadata.tables[other]
        return table.c[column].in_(sa.select(owner.c[key]).where(_has(*columns)(owner, person)))

    return whose


CHASSIS: Mapping[str, Held | NotHeld] = {
    "outbox": Held(
        _speaks("actor", "key", "value"),
        "type key value correlation_id actor made_at",
        "seq id causation_id traceparent requester",
    ),
    "timers": Held(_speaks("actor", "key", "value"), "due_at type key value correlation_id actor", "id traceparent"),
    "parked": Held(
        _speaks(None, "key", "value", "headers"),
        "id topic partition position key value headers why code detail attempts parked_at retry_requested_at",
        "seq",
    ),
    "parked_keys": Held(_speaks(None, "key"), "topic key retry_requested_at"),
    "inbox": NotHeld("ids of messages", "id received_at"),
    "partition_stops": NotHeld(
        "positions in topics",
        "id topic partition position error attempts stopped_at skip_to skip_reason skip_requested_at ended_at outcome",
    ),
    "schema_support": NotHeld("versions", "revision oldest"),
    "removals": NotHeld("how far old rows have been removed", "of_table before"),
}

_SAGAS = Held(
    _speaks("actor", "data"),
    "id name status step code data actor opened_at updated_at ended_at trail",
    "correlation_id causation_id",
)

TABLES: Mapping[Principal, Mapping[str, Held | NotHeld]] = {
    Principal.PROVISIONING: {
        "subscribers": Held(
            _has("id"),
            "id email first_name last_name language plan fax_number created_at expires_at state options_pack forward_to"
            " reminded_days closed_at time_zone",
            "registration",
        ),
        "addresses": Held(_has("subscriber_id"), "email subscriber_id"),
        "fax_numbers": Held(_has("subscriber_id"), "number state subscriber_id"),
        "requests": Held(_has("account_id"), "id account_id code decided_at expires_at", "content"),
        "grants": Held(
            _has("account_id"),
            "id account_id action decided_at expires_at",
            "payer_id price_units code content",  # the owner's: what they paid, and why they could not
        ),
        "purchases": Held(_has("account_id"), "id account_id action price_units code expires_at decided_at", "content"),
        "payments": Held(
            _through("purchase_id", provisioning, "purchases", "id", "account_id"), "reference purchase_id"
        ),
        "sagas": _SAGAS,
        "plans": NotHeld("the catalogue", "plan price_units validity_months fax_number on_sale"),
        "options": NotHeld("the catalogue", "option price_units on_sale"),
    },
    Principal.GROUPS: {
        "subscribers": Held(
            _has("id"),
            "id email first_name last_name language state expires_at available_units time_zone plan options_pack",
            "balance_version awaited listed_as",
        ),
        "groups": Held(_has("owner_id"), "id owner_id name renamed closed_at"),
        "low_balances": Held(_has("owner_id"), "group_id owner_id below_units look_at mailed_on mails", "low"),
        "memberships": Held(
            _has("member_id", "owner_id"),
            "id group_id owner_id member_id active epoch invitation_id joined_at ended_at shown_name shown_email",
            others={"shown_name": "member_id", "shown_email": "member_id"},
        ),
        "invitations": Held(
            _has("subscriber_id", "owner_id"),
            "id group_id owner_id subscriber_id state round made_at expires_at ended_at email",
            "token_hash",
            {"email": "subscriber_id"},
        ),
        "transfers": Held(
            _has("owner_id"),
            "id group_id owner_id mode amount_units state code total_units asked_at ended_at order_id",
            "requests order_version month bound_units",
        ),
        "standing_orders": Held(
            _has("owner_id"),  # a member never learns of one
            "id group_id owner_id member_id state version kind threshold_units target_units monthly_bound_units"
            " amount_units set_at ended_at code month month_units next_month transfer_id due_at",
            "looks balance_version",
        ),
        "history": Held(
            _is_line_of,
            "id group_id kind at actor_id member_id reference_id units outcome code ended_at",
        ),
        "commands": Held(
            _has("actor_id"), "id type actor_id state code result asked_at ended_at", "content_hash awaits"
        ),
        "command_lists": Held(_has("actor_id"), "id type actor_id made_at", "lines"),
        "sessions": Held(_has("subscriber_id"), "subscriber_id begun_at until ended_at", "id token forget_at"),
        "tallies": Held(
            lambda table, person: table.c.id.in_(
                [groups_domain.sent_invitations_tally(person.id), groups_domain.received_invitations_tally(person.id)]
            ),
            "id pending day today",
        ),
        "sagas": _SAGAS,
        "plans": NotHeld("the catalogue", "plan price_units validity_months on_sale"),
        "options": NotHeld("the catalogue", "option price_units on_sale"),
    },
    Principal.LEDGER: {
        "accounts": Held(_has("id"), "id balance_units held_units state", "version revision"),
        "holds": Held(
            _has("account_id"), "id account_id amount_units state opened_at closed_at extends code", "holder"
        ),
        "transfers": Held(
            lambda table, person: sa.or_(
                table.c.source_id == person.id,
                table.c.id.in_(sa.select(ledger.entries.c.transfer_id).where(ledger.entries.c.account_id == person.id)),
            ),
            "id kind source_id code made_at reference",
            "content amounts_units seal",
        ),
        "entries": Held(
            _has("account_id"),
            "transfer_id account_id amount_units before_units after_units made_at",
            "id version",
        ),
        "corrections": Held(_has("account_id"), "id account_id amount_units reason operator code made_at"),
    },
    Principal.NOTIFICATIONS: {
        "people": Held(_has("id"), "id email first_name last_name language fax_number time_zone"),
        "erased": Held(_has("id"), "id"),
        "mails": Held(
            _has("recipient_id", "about_id"),
            "id template recipient_id about_id params state made_at next_attempt_at invitation_id round",
            "traceparent",
            others={"params": "recipient_id"},
        ),
        "deliveries": Held(
            _through("mail_id", notifications, "mails", "id", "recipient_id"),
            "mail_id recipient attempts in_flight_since uncertain last_answer sent_at",
            "rendered",
        ),
    },
}

NOT_INCLUDED: Mapping[str, str] = {
    "topics": "commands and the directory, with names and addresses, stay in Kafka until their retention is over",
    "rendered mails": "the bytes of a waiting mail hold links that open something once; its contents are under mails",
    "lists": "addresses and names that an owner pasted, of several people each, are deleted after a day",
    "hashes": "of what was asked for, and of tokens and sessions: to tell a repetition, and to read nothing",
    "other people": "names and addresses of others, in rows that are about both",
    "logs and backups": "are the operator's; logs name ids alone",
}
"""Personal data that is not in an export, and why."""


def tables_of(service: Principal) -> Mapping[str, Held | NotHeld]:
    """Return all tables of a service, the chassis's included."""
    return {**TABLES[service], **CHASSIS}


def statements(service: Principal, person: Person) -> Iterator[tuple[str, Held, sa.Select[Any]]]:
    """Yield for each table of a service the statement that selects the person's rows."""
    for name, held in tables_of(service).items():
        if isinstance(held, Held):
            table = SCHEMAS[service].metadata.tables[name]
            columns = [table.c[column] for column in held.shown.split()]
            yield name, held, sa.select(*columns).where(held.whose(table, person))


def exported(row: Mapping[str, Any], held: Held, person: Person) -> dict[str, Any]:
    """Return a row as it is exported: without other people's data and without secrets."""
    about_others = {column for column, subject in held.others.items() if row[subject] != person.id}
    return {name: _plain(value) for name, value in row.items() if name not in about_others}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        text = bytes(value).decode(errors="replace")
        try:
            return _plain(json.loads(text))
        except ValueError:
            return text
    if isinstance(value, dict):
        return {name: "(left out: it opens something)" if name == "token" else _plain(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value
