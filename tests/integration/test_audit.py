"""Somebody changes one thing in a database of the running product, and `popfax audit` names it."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from confluent_kafka import Producer

from deploy.local.process import wait_until
from deploy.local.product import Product
from deploy.local.running import write_settings
from deploy.operator.cli.errors import Exit
from deploy.operator.kafka import ADMIN
from deploy.paths import STATE
from popfax_contracts.ledger import BalanceChanged, CreditUnits
from popfax_contracts.message import group_of
from popfax_contracts.topics import LEDGER_BALANCES, Principal
from services.groups.domain import membership_of
from services.groups.tables import plans
from tests.conftest import make_stack
from tests.e2e.driver import Wire
from tests.integration.test_cli import ANSWER_WITHIN_S, Cli, creation

GROUPS, LEDGER, PROVISIONING = Principal.GROUPS, Principal.LEDGER, Principal.PROVISIONING
NOTIFICATIONS = Principal.NOTIFICATIONS


@dataclass
class Story:
    """A product in which a little of everything has happened, and the ids of what tests change."""

    cli: Cli
    owner: UUID
    member: UUID
    guest: UUID

    @property
    def group(self) -> UUID:
        return group_of(self.owner)

    @property
    def membership(self) -> UUID:
        return membership_of(self.group, self.member)

    def run(self, service: Principal, sql: str, **values: Any) -> Any:
        used = {name: value for name, value in values.items() if re.search(rf":{name}\b", sql)}
        return self.cli.rows(service, sa.text(sql).bindparams(**used))

    def one(self, service: Principal, sql: str, **values: Any) -> Any:
        return self.run(service, sql, **values)[0][0]

    def violations(self, *more: str) -> list[dict[str, str]]:
        done = self.cli("audit", "--json", *more)
        assert done.exit_code in (Exit.OK, Exit.NO), done.output
        found: list[dict[str, str]] = json.loads(done.stdout)["violations"]
        return found

    @contextmanager
    def changed(
        self, service: Principal, table: str, where: str, to: str | None, values: dict[str, Any]
    ) -> Iterator[None]:
        """Change some rows, or delete them, and put them back in the end."""
        columns = [row[0] for row in self.run(service, _COLUMNS, name=table)]
        listed = ", ".join(columns)
        self.run(service, f"CREATE TABLE before_audit AS SELECT * FROM {table} WHERE {where}", **values)
        assert self.one(service, "SELECT count(*) FROM before_audit") > 0, f"nothing in {table} where {where}"
        try:
            change = f"DELETE FROM {table}" if to is None else f"UPDATE {table} SET {to}"
            self.run(service, f"{change} WHERE {where}", **values)
            yield
        finally:
            key = columns[0]
            self.run(service, f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM before_audit)")
            self.run(service, f"INSERT INTO {table} ({listed}) SELECT {listed} FROM before_audit")
            self.run(service, "DROP TABLE before_audit")


_COLUMNS = """
SELECT column_name FROM information_schema.columns WHERE table_name = :name AND table_schema = 'public'
ORDER BY ordinal_position
"""


def register(cli: Cli, units: int) -> UUID:
    id_ = uuid4()
    fields = {"subscriber_id": id_, "email": f"{id_}@popfax.example", "first_name": "Anne", "last_name": "Martin"}
    fields["language"] = "fr"
    cli.json("send", "register-subscriber", *pairs(fields))
    cli.json("send", "credit-units", *pairs({"account_id": id_, "amount_units": units}))
    return id_


def pairs(fields: dict[str, Any]) -> list[str]:
    return [part for name, value in fields.items() for part in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    stack = make_stack(STATE / f"test-audit-{time.time_ns()}")
    try:
        with Product(stack) as product:
            cli = Cli(product, write_settings(stack.directory, stack))
            assert wait_until(lambda: len(cli.rows(GROUPS, sa.select(plans))) == 2, ANSWER_WITHIN_S)
            told = tell(cli)
            yield told
            assert told.violations() == [], "not all that was changed was put back"
            cli.databases.close()
    finally:
        shutil.rmtree(stack.directory, ignore_errors=True)


def tell(cli: Cli) -> Story:
    """Live through what the tests change later on."""
    owner, guest = register(cli, 200), register(cli, 5)
    told = cli.json(*creation(str(owner)))
    member = UUID(next(event["member_id"] for event in told["events"] if "member_id" in event))
    made = Story(cli, owner, member, guest)
    by_owner = ("--actor", str(owner))
    group = {"group_id": made.group}
    cli.json("send", "rename-group", *by_owner, *pairs(group | {"name": "Branches"}))
    give = group | {"mode": "amount", "members": "all"}
    cli.json("send", "transfer-units", *by_owner, *pairs(give | {"amount_units": 5}))
    cli.json("send", "transfer-units", *by_owner, *pairs(give | {"amount_units": 999}), expect=Exit.NO)
    cli.json("send", "invite-by-email", *by_owner, *pairs(group | {"email": f"{guest}@popfax.example"}))
    cli.json("send", "extend-account", *pairs({"account_id": member, "payment_reference": "card/1"}))
    pack = {"account_id": member, "price_units": 40}
    price = made.one(PROVISIONING, "SELECT price_units FROM options WHERE option = 'options_pack'")
    cli.json("send", "add-options-pack", "--actor", str(member), *pairs(pack | {"price_units": price}), expect=Exit.NO)
    spent = {"account_id": owner, "amount_units": 3, "purpose": "fax", "reference": "fax/1"}
    cli.json("send", "spend-units", *by_owner, *pairs(spent))
    assert wait_until(lambda: made.violations("--settled") == [], 60), made.violations("--settled")
    return made


def test_finds_nothing_where_nothing_was_changed(story: Story) -> None:
    assert story.violations() == []
    assert story.violations("--settled") == []


Subject = Callable[[Story], Any]


@dataclass(frozen=True)
class Tampering:
    """One change by hand: of which rows, to what (None deletes them), and what an audit must say of which thing."""

    name: str
    service: Principal
    table: str
    where: str
    to: str | None
    code: str
    subject: str
    """A query for it, in the same database."""


TRANSFER = "SELECT id::text FROM transfers WHERE kind = 'transfer' AND code IS NULL"
TAMPERINGS = [
    Tampering(
        "a member becomes a stranger",
        GROUPS,
        "memberships",
        "id = :membership",
        "member_id = :stranger",
        "membership_mismatch",
        "SELECT id::text FROM memberships WHERE id = :membership",
    ),
    Tampering(
        "a member of the history becomes a stranger",
        GROUPS,
        "history",
        "kind = 'membership'",
        "member_id = :stranger",
        "history_mismatch",
        "SELECT id::text FROM history WHERE kind = 'membership'",
    ),
    Tampering(
        "what a member got is another group's",
        GROUPS,
        "history",
        "kind = 'transfer' AND outcome = 'done'",
        "group_id = :stranger",
        "history_mismatch",
        "SELECT id::text FROM history WHERE kind = 'transfer' AND outcome = 'done'",
    ),
    Tampering(
        "a renaming is another group's",
        GROUPS,
        "history",
        "kind = 'name'",
        "group_id = :stranger",
        "history_mismatch",
        "SELECT id::text FROM history WHERE kind = 'name'",
    ),
    Tampering(
        "an invitation's timer is gone",
        GROUPS,
        "timers",
        "type LIKE '%invitation-due'",
        None,
        "timer_missing",
        "SELECT id::text FROM timers WHERE type LIKE '%invitation-due'",
    ),
    Tampering(
        "a transfer is of another kind",
        LEDGER,
        "transfers",
        "kind = 'transfer' AND code IS NULL",
        "kind = 'spend'",
        "transfer_unmatched",
        TRANSFER,
    ),
    Tampering(
        "a transfer is for something else",
        LEDGER,
        "transfers",
        "kind = 'transfer' AND code IS NULL",
        "reference = 'other'",
        "transfer_unmatched",
        TRANSFER,
    ),
    Tampering(
        "a refused transfer is of another kind",
        LEDGER,
        "transfers",
        "code = 'units_short'",
        "kind = 'spend'",
        "transfer_unmatched",
        "SELECT id::text FROM transfers WHERE code = 'units_short'",
    ),
    Tampering(
        "a payment is for something else",
        LEDGER,
        "transfers",
        "kind = 'spend'",
        "reference = 'fax/2'",
        "seal_broken",
        "SELECT id::text FROM transfers WHERE kind = 'spend'",
    ),
    Tampering(
        "a refused transfer is gone",
        LEDGER,
        "transfers",
        "code = 'units_short'",
        None,
        "transfer_unmatched",
        "SELECT id::text FROM transfers WHERE code = 'units_short'",
    ),
    Tampering(
        "a refused hold is gone",
        LEDGER,
        "holds",
        "state = 'refused'",
        None,
        "refused_not_released",
        "SELECT id::text FROM holds WHERE state = 'refused'",
    ),
    Tampering(
        "a hold is another account's",
        LEDGER,
        "holds",
        "state = 'refused'",
        "account_id = :stranger",
        "hold_mismatch",
        "SELECT id::text FROM holds WHERE state = 'refused'",
    ),
    Tampering(
        "a saga is in a state that no code knows",
        GROUPS,
        "sagas",
        "status = 'completed'",
        "status = 'paused'",
        "unknown_value",
        "SELECT id::text FROM sagas WHERE status = 'completed'",
    ),
    Tampering(
        "an account is on a plan that there is not",
        PROVISIONING,
        "subscribers",
        "id = :member",
        "plan = 'gold'",
        "unknown_value",
        "SELECT id::text FROM subscribers WHERE id = :member",
    ),
    Tampering(
        "a saga remembers what can't be read",
        GROUPS,
        "sagas",
        "status = 'completed'",
        "data = '[1]'::jsonb",
        "unreadable",
        "SELECT id::text FROM sagas WHERE status = 'completed'",
    ),
    Tampering(
        "a payment in money is gone",
        PROVISIONING,
        "payments",
        "true",
        None,
        "payment_mismatch",
        "SELECT purchase_id::text FROM payments",
    ),
    Tampering(
        "an extension gave another end",
        PROVISIONING,
        "purchases",
        "action = 'extension'",
        "expires_at = expires_at + interval '1 day'",
        "extension_mismatch",
        "SELECT account_id::text FROM purchases WHERE action = 'extension'",
    ),
    Tampering(
        "a receipt went to a stranger",
        NOTIFICATIONS,
        "mails",
        "template = 'receipt'",
        "recipient_id = :stranger",
        "mail_without_cause",
        "SELECT id::text FROM mails WHERE template = 'receipt'",
    ),
    Tampering(
        "an old hold has lost its saga",
        GROUPS,
        "sagas",
        "status = 'completed'",
        None,
        "orphan_hold",
        "SELECT id::text FROM sagas WHERE status = 'completed'",
    ),
]


@pytest.mark.parametrize("done", TAMPERINGS, ids=lambda tampering: tampering.name)
def test_names_what_was_changed(story: Story, done: Tampering) -> None:
    known = {
        "stranger": uuid4(),
        "member": story.member,
        "member_text": str(story.member),
        "membership": story.membership,
    }

    subject = story.one(done.service, done.subject, **known)
    with story.changed(done.service, done.table, done.where, done.to, known):
        found = story.violations("--stuck-after", "1")
    assert (done.code, subject) in {(each["code"], each["subject"]) for each in found}


def test_names_a_hold_that_nobody_will_close(story: Story) -> None:
    id_ = uuid4()
    story.run(
        LEDGER,
        "INSERT INTO holds VALUES (:id, :owner, 5, 'open', now() - interval '1 hour', NULL, false, NULL)",
        id=id_,
        owner=story.owner,
    )
    story.run(
        LEDGER, "UPDATE accounts SET held_units = 5, revision = revision + 1 WHERE id = :owner", owner=story.owner
    )
    try:
        found = {(each["code"], each["subject"]) for each in story.violations()}
        verified = json.loads(story.cli("ledger", "verify", "--json").stdout)["violations"]
    finally:
        story.run(LEDGER, "DELETE FROM holds WHERE id = :id", id=id_)
        story.run(
            LEDGER, "UPDATE accounts SET held_units = 0, revision = revision - 1 WHERE id = :owner", owner=story.owner
        )
    assert ("orphan_hold", str(id_)) in found
    assert [(each["code"], each["subject"]) for each in verified] == [("orphan_hold", str(id_))]


def test_names_a_mail_that_waits_for_somebody_who_was_never_registered(story: Story) -> None:
    id_, nobody = uuid4(), uuid4()
    story.run(
        NOTIFICATIONS,
        """INSERT INTO mails (id, template, recipient_id, params, state, made_at, next_attempt_at)
        VALUES (:id, 'expired', :nobody, '{}', 'queued', now() - interval '1 hour', now() - interval '1 hour')""",
        id=id_,
        nobody=nobody,
    )
    try:
        found = {(each["code"], each["subject"]) for each in story.violations()}
    finally:
        story.run(NOTIFICATIONS, "DELETE FROM mails WHERE id = :id", id=id_)
    assert ("mail_unsent", str(id_)) in found


def test_names_a_stale_record_of_a_compacted_topic(story: Story) -> None:
    producer = Producer({**story.cli.product.stack.kafka.client_config(ADMIN), "partitioner": "murmur2_random"})

    def publish(version: int, balance: int, available: int) -> None:
        body = BalanceChanged(account_id=story.owner, version=version, balance_units=balance, available_units=available)
        headers: list[tuple[str, str | bytes | None]] = [("ce_id", str(uuid4())), ("ce_type", BalanceChanged.TYPE)]
        producer.produce(LEDGER_BALANCES.name, body.to_json(), body.key().encode(), headers=headers)
        assert producer.flush(10) == 0

    query = "SELECT revision, balance_units, balance_units - held_units FROM accounts WHERE id = :owner"
    now = story.run(LEDGER, query, owner=story.owner)[0]
    publish(1, 200, 200)
    try:
        found = [(each["code"], each["subject"]) for each in story.violations()]
        assert story.violations("--no-topics") == []
    finally:
        publish(*now)
    assert found == [("topic_mismatch", str(story.owner))]
    assert story.violations() == []


def test_says_nothing_wrong_of_a_product_under_traffic(story: Story) -> None:
    """While commands come as fast as one can send them: what is on its way is no finding, and topics are read, too."""
    wire = Wire(story.cli.product.stack.kafka)
    for _ in range(3):
        for _ in range(200):
            wire.send(CreditUnits(credit_id=uuid4(), account_id=uuid4(), amount_units=1))
        wire.flush()
        assert story.violations() == []
