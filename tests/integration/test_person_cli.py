"""`popfax person export` over all four databases: what is somebody's is there, and nobody else's names are."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from typer.testing import CliRunner

from deploy.local.stack import Stack
from deploy.operator.cli.app import app
from deploy.operator.cli.errors import Exit
from deploy.operator.personal import SCHEMAS, Held, tables_of
from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from services.groups.domain import sent_invitations_tally
from tests.integration.recorder import plain, scratch_database
from tests.unit.given import id_of

ADA, BOB = id_of("Ada"), id_of("Bob")
NOW = datetime(2031, 1, 1, tzinfo=UTC)
MAIL, PURCHASE, TRANSFER = id_of("mail"), id_of("purchase"), id_of("transfer")

# What a row about Ada needs, where that does not follow from its columns' types.
SPECIAL: Mapping[str, Mapping[str, Any]] = {
    "groups.groups": {"id": group_of(ADA), "owner_id": ADA},
    "groups.memberships": {"member_id": BOB, "owner_id": ADA, "active": False, "shown_name": "Bob Secret"},
    "groups.invitations": {"subscriber_id": ADA, "owner_id": BOB, "email": "ada@example.org"},
    "groups.history": {"group_id": group_of(ADA), "member_id": BOB},
    "groups.transfers": {"owner_id": ADA},
    "groups.low_balances": {"owner_id": ADA},
    "groups.standing_orders": {"owner_id": ADA},
    "groups.commands": {"actor_id": ADA},
    "groups.command_lists": {"actor_id": ADA},
    "provisioning.addresses": {"email": "ada@example.org", "subscriber_id": ADA},
    "provisioning.fax_numbers": {"subscriber_id": ADA},
    "provisioning.requests": {"account_id": ADA},
    "provisioning.grants": {"account_id": ADA},
    "provisioning.purchases": {"id": PURCHASE, "account_id": ADA},
    "provisioning.payments": {"purchase_id": PURCHASE},
    "ledger.accounts": {"id": ADA, "balance_units": 5, "held_units": 0},
    "ledger.holds": {"account_id": ADA},
    "ledger.transfers": {"id": TRANSFER, "source_id": BOB},
    "ledger.entries": {
        "transfer_id": TRANSFER,
        "account_id": ADA,
        "amount_units": 3,
        "before_units": 2,
        "after_units": 5,
    },
    "ledger.corrections": {"account_id": ADA},
    "notifications.mails": {"id": MAIL, "recipient_id": ADA, "params": Jsonb({"token": "secret-token", "days": 7})},
    "notifications.deliveries": {"mail_id": MAIL, "rendered": b"secret-bytes"},
}
MESSAGE = json.dumps({"email": "ada@example.org", "token": "secret-token"}).encode()


def _values(service: Principal, name: str) -> dict[str, Any]:
    """A row about Ada; what nobody cares for is filled in by its type."""
    table = SCHEMAS[service].metadata.tables[name]
    row: dict[str, Any] = {}
    for column in table.columns:
        if column.identity is not None:
            continue
        kind = type(column.type).__name__
        row[column.name] = {
            "Uuid": id_of(f"{service} {name} {column.name}"),
            "DateTime": NOW,
            "Date": NOW.date(),
            "Text": "text",
            "Bytes": b"bytes",
            "JSONB": Jsonb({}),
            "Boolean": False,
        }.get(kind, 1)
    if name == "subscribers":
        row |= {"id": ADA, "email": "ada@example.org"}
    if name in {"people", "erased"}:
        row["id"] = ADA
    if name == "tallies":
        row["id"] = sent_invitations_tally(ADA)
    if name == "sessions":
        row["subscriber_id"] = ADA
    if name in {"outbox", "timers", "parked"}:
        row["value"] = MESSAGE
    if name == "parked_keys":
        row["key"] = str(ADA).encode()
    if name == "sagas":
        row |= {"actor": BOB, "data": Jsonb({"account_id": str(ADA)})}
    return {**row, **SPECIAL.get(f"{service}.{name}", {})}


def _insert(connection: psycopg.Connection[Any], name: str, row: Mapping[str, Any]) -> None:
    columns, marks = ", ".join(f'"{each}"' for each in row), ", ".join(["%s"] * len(row))
    connection.execute(f'INSERT INTO "{name}" ({columns}) VALUES ({marks})'.encode(), list(row.values()))


@pytest.fixture(scope="module")
def urls(stack: Stack) -> Iterator[Mapping[Principal, str]]:
    with ExitStack() as open_:
        made = {service: open_.enter_context(scratch_database(stack, service)) for service in SCHEMAS}
        for service, url in made.items():
            with psycopg.connect(plain(url)) as connection:
                for name, held in tables_of(service).items():
                    if isinstance(held, Held):
                        _insert(connection, name, _values(service, name))
        yield made


def export(urls: Mapping[Principal, str], who: Any, expect: Exit = Exit.OK) -> str:
    env = {f"{service.upper()}_DATABASE_URL": url for service, url in urls.items()}
    done = CliRunner().invoke(app, ["person", "export", str(who)], env=env)
    assert done.exit_code == expect, done.output
    return done.stdout


def test_finds_somebody_in_every_table_that_is_about_people(urls: Mapping[Principal, str]) -> None:
    found = json.loads(export(urls, ADA))
    assert found["person"] == str(ADA)
    for service in SCHEMAS:
        wanted = {name for name, held in tables_of(service).items() if isinstance(held, Held)}
        assert set(found["held"][service]) == wanted, service
    assert set(found["not_included"]) >= {"topics", "rendered mails"}


def test_tells_no_secret_and_nobody_elses_name(urls: Mapping[Principal, str]) -> None:
    text = export(urls, ADA)
    assert "ada@example.org" in text
    for secret in ("secret-token", "secret-bytes", "Bob Secret"):
        assert secret not in text


def test_finds_nobody_else(urls: Mapping[Principal, str]) -> None:
    theirs = json.loads(export(urls, BOB))["held"]
    assert "ada@example.org" not in json.dumps(theirs)
    assert set(theirs["ledger"]) == {"transfers"}


def test_says_that_nothing_is_kept_of_a_stranger(urls: Mapping[Principal, str]) -> None:
    assert export(urls, id_of("nobody"), Exit.NO) == ""


def test_says_that_a_database_is_away(urls: Mapping[Principal, str]) -> None:
    away = {**urls, Principal.LEDGER: "postgresql+psycopg://nobody:nothing@127.0.0.1:1/nowhere"}
    export(away, ADA, Exit.UNREACHABLE)
