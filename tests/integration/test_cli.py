"""`popfax`, command by command, against the running product."""

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from confluent_kafka import Producer
from confluent_kafka.admin import AclBindingFilter, AdminClient  # type: ignore[attr-defined]
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner, Result

from deploy.local.process import wait_until
from deploy.local.product import Product
from deploy.local.running import write_settings
from deploy.operator import topics
from deploy.operator.cli import connection
from deploy.operator.cli.app import app
from deploy.operator.cli.doctor import kafka as doctor_kafka
from deploy.operator.cli.errors import Exit
from deploy.operator.cli.output import out
from deploy.operator.kafka import ADMIN
from deploy.paths import STATE
from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.codes import GroupsCode
from popfax_contracts.ledger import CreditUnits
from popfax_contracts.message import group_of
from popfax_contracts.topics import LEDGER_COMMANDS, SERVICES, Principal
from services.chassis import build, migrate
from services.chassis.database import Parked, Why
from services.chassis.messages import StoredRecord
from services.chassis.postgres import OUTBOX, PARKED, PARKED_KEYS, PARTITION_STOPS, TIMER, PostgresDatabase, engine
from services.groups.tables import commands, history, plans, sagas, subscribers, transfers
from services.groups.timers import TransferDue
from services.ledger.tables import accounts
from services.notifications.tables import mails
from tests.conftest import make_stack

ANSWER_WITHIN_S = 20

REPLICA = "only"
"""Static membership: a service that comes back after a kill need not wait for the end of its old session."""


@dataclass
class Cli:
    """The command line, pointed at one product."""

    product: Product
    file: Path

    def __call__(self, *arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, [*arguments, "--env-file", str(self.file)], input=stdin)

    def json(self, *arguments: str, expect: Exit = Exit.OK) -> Any:
        done = self(*arguments, "--json")
        assert done.exit_code == expect, done.output
        return json.loads(done.stdout)

    @cached_property
    def databases(self) -> connection.Connection:
        """What looks into the databases: open until the product ends."""
        urls = {f"{service.upper()}_DATABASE_URL": self.product.stack.postgres.url(service) for service in SERVICES}
        return connection.Connection(urls, "the tests")

    def rows(self, service: Principal, statement: sa.Executable) -> Any:
        return self.databases.rows(service, statement)


@pytest.fixture(scope="module")
def cli() -> Iterator[Cli]:
    """A product of this module's own: its tests put messages aside, and stop a service."""
    stack = make_stack(STATE / f"test-cli-{time.time_ns()}")
    try:
        with Product(stack, replica=REPLICA) as product, pytest.MonkeyPatch.context() as patched:
            patched.setattr(out, "_width", 200)  # wide, whatever COLUMNS says: no cell is wrapped
            running = Cli(product, write_settings(stack.directory, stack))
            assert wait_until(lambda: len(running.rows(Principal.GROUPS, sa.select(plans))) == 2, ANSWER_WITHIN_S)
            yield running
            running.databases.close()
    finally:
        shutil.rmtree(stack.directory, ignore_errors=True)


@pytest.fixture
def owner(cli: Cli) -> str:
    """A subscriber with 200 units."""
    return register(cli)


def register(cli: Cli) -> str:
    subscriber = str(uuid4())
    names = ("--set", "first_name=Anne", "--set", "last_name=Martin", "--set", "language=fr")
    email = ("--set", f"email={subscriber}@popfax.example")
    cli.json("send", "register-subscriber", "--set", f"subscriber_id={subscriber}", *email, *names)
    cli.json("send", "credit-units", "--set", f"account_id={subscriber}", "--set", "amount_units=200")
    return subscriber


def creation(owner: str, *more: str) -> tuple[str, ...]:
    fields = {"plan": "send_only", "price_units": "60", "email": f"{uuid4()}@branch.example"}
    fields |= {"first_name": "Zoé", "last_name": "Petit", "language": "fr"}
    pairs = [part for name, value in fields.items() for part in ("--set", f"{name}={value}")]
    return ("send", "create-member-account", "--actor", owner, *pairs, *more)


class TestSend:
    @pytest.mark.parametrize("name", ["credit-units", "CreditUnits", "popfax.ledger.credit-units.v1"])
    def test_finds_a_command_by_any_of_its_names(self, cli: Cli, name: str) -> None:
        account = str(uuid4())
        told = cli.json("send", name, "--set", f"account_id={account}", "--set", "amount_units=7")
        assert not told["refused"]
        assert told["events"][0]["account_id"] == account
        assert UUID(told["events"][0]["credit_id"])

    def test_waits_for_the_end_of_a_saga(self, cli: Cli, owner: str) -> None:
        told = cli.json(*creation(owner))
        assert [event["type"].split(".")[2] for event in told["events"]] == ["member-joined", "member-account-created"]
        assert told["events"][0]["group_id"] == str(group_of(UUID(owner)))

    def test_says_a_refusal_with_its_code(self, cli: Cli, owner: str) -> None:
        told = cli.json(*creation(owner, "--set", "price_units=61"), expect=Exit.NO)
        assert (told["refused"], told["code"]) == (True, "price_changed")
        assert "price_changed" in cli(*creation(owner, "--set", "price_units=61")).stdout

    def test_takes_lists_as_json(self, cli: Cli, owner: str) -> None:
        member = next(event["member_id"] for event in cli.json(*creation(owner))["events"] if "member_id" in event)
        wanted = ("--set", "mode=amount", "--set", "amount_units=5", "--set", f"members={json.dumps([member])}")
        told = cli.json("send", "transfer-units", "--actor", owner, *wanted)
        legs = [event["legs"] for event in told["events"] if "legs" in event]
        assert legs == [[{"member_id": member, "amount_units": 5}]]

    def test_names_every_invalid_field(self, cli: Cli) -> None:
        wrong = ("send", "credit-units", "--set", "amount_units=0", "--set", "colour=red")
        assert set(cli.json(*wrong, expect=Exit.USAGE)["errors"]) == {"account_id", "amount_units", "colour"}
        assert "amount_units: Input should be greater than 0" in cli(*wrong).stderr

    @pytest.mark.parametrize("arguments", [("send",), ("send", "credit-unit"), ("send", "credit-units", "--set", "x")])
    def test_refuses_what_is_no_command(self, cli: Cli, arguments: tuple[str, ...]) -> None:
        done = cli(*arguments)
        assert done.exit_code == Exit.USAGE
        assert len(done.stderr.splitlines()) == 1

    def test_lists_the_commands(self) -> None:
        done = CliRunner().invoke(app, ["messages", "--json"])
        assert {"create-member-account", "credit-units"} <= {each["name"] for each in json.loads(done.stdout)}
        assert "price_units" in CliRunner().invoke(app, ["send", "--list"]).stdout

    def test_says_what_answers_a_command(self) -> None:
        listed = json.loads(CliRunner().invoke(app, ["messages", "--json"]).stdout)
        told = next(each for each in listed if each["name"] == "leave-group")
        assert told["answers"] == ["popfax.groups.member-left.v1"]
        assert told["refusal"] == "popfax.groups.leave-refused.v1"
        assert told["codes"] == {"not_member": GroupsCode.NOT_MEMBER.meaning}
        lines = CliRunner().invoke(app, ["messages"]).stdout
        assert "done: MemberLeft" in lines
        assert "refused: LeaveRefused" in lines
        assert GroupsCode.NOT_OWNER.meaning in lines


class TestConnection:
    def test_says_in_one_line_that_nothing_runs(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(connection, "DIRECTORY", tmp_path)
        done = CliRunner().invoke(app, ["saga", "list"])
        assert done.exit_code == Exit.UNREACHABLE
        assert len(done.stderr.splitlines()) == 1
        assert "popfax up" in done.stderr

    def test_finds_the_product_in_the_environment(self, cli: Cli) -> None:
        postgres = cli.product.stack.postgres
        urls = {
            f"{name.upper()}_DATABASE_URL": postgres.url(name) for name in (Principal.GROUPS, Principal.PROVISIONING)
        }
        done = CliRunner().invoke(app, ["saga", "list", "--json"], env=urls)
        assert done.exit_code == Exit.OK

    def test_says_what_the_environment_lacks(self, cli: Cli) -> None:
        url = cli.product.stack.postgres.url(Principal.LEDGER)
        done = CliRunner().invoke(app, ["saga", "list"], env={"LEDGER_DATABASE_URL": url})
        assert done.exit_code == Exit.UNREACHABLE
        assert "GROUPS_DATABASE_URL is not set" in done.stderr

    @pytest.mark.parametrize("command", [("ledger", "verify"), ("audit",), ("saga", "list"), ("topics",)])
    def test_says_in_one_line_what_it_can_not_reach(self, cli: Cli, tmp_path: Path, command: tuple[str, ...]) -> None:
        gone = tmp_path / "gone.env"
        text = cli.file.read_text()
        for port in (cli.product.stack.kafka.bootstrap, cli.product.stack.postgres.superuser_url.split("@")[1]):
            text = text.replace(port.split("/")[0], "127.0.0.1:1")
        gone.write_text(text)
        done = CliRunner().invoke(app, [*command, "--env-file", str(gone)])
        assert done.exit_code == Exit.UNREACHABLE, done.output
        assert len(done.stderr.splitlines()) == 1

    def test_keeps_the_settings_from_others(self, cli: Cli) -> None:
        assert cli.file.stat().st_mode & 0o077 == 0


class TestSagas:
    @pytest.fixture(scope="class")
    @classmethod
    def waiting(cls, cli: Cli) -> Iterator[Sequence[str]]:
        """Two sagas that wait for the ledger, which is away until a test brings it back."""
        owner = register(cli)

        def opened() -> list[str]:
            return [each["id"] for each in cli.json("saga", "list") if each["actor"] == owner]

        cli.product.services[Principal.LEDGER].kill()
        try:
            for _ in range(2):
                assert cli(*creation(owner, "--timeout", "0.5")).exit_code == Exit.UNREACHABLE
            assert wait_until(lambda: len(opened()) == 2, ANSWER_WITHIN_S)
            yield opened()
        finally:
            if not cli.product.services[Principal.LEDGER].ready():
                cls.bring_back(cli)

    @staticmethod
    def bring_back(cli: Cli) -> None:
        cli.product.services[Principal.LEDGER].launch(replica=REPLICA)
        cli.product.services[Principal.LEDGER].wait_ready()

    def test_shows_an_open_one_without_personal_data(self, cli: Cli, waiting: Sequence[str]) -> None:
        shown = cli.json("saga", "show", waiting[0])
        assert (shown["status"], shown["step"], shown["stuck"]) == ("running", "reserve units", False)
        assert shown["data"]["plan"] == "send_only"
        assert not {"email", "first_name", "last_name"} & set(shown["data"])
        assert "Petit" not in cli("saga", "show", waiting[0][:13]).stdout

    def test_cancels_one_asks_again_for_another_and_sees_both_end(self, cli: Cli, waiting: Sequence[str]) -> None:
        cancelled, asked_again = waiting
        assert cli.json("saga", "cancel", cancelled, "--timeout", "6")["status"] == "compensating"
        told = cli.json("saga", "retry", asked_again, "--timeout", "6")
        assert [line.split(" ", 1)[1] for line in told["new"]] == ["asked again"]
        self.says_which_are_stuck(cli, cancelled)
        self.bring_back(cli)

        def ends() -> list[str]:
            return [cli.json("saga", "show", id_)["status"] for id_ in waiting]

        assert wait_until(lambda: ends() == ["refused", "completed"], ANSWER_WITHIN_S), ends()
        assert cli.json("saga", "show", cancelled)["code"] == "cancelled"

    def says_which_are_stuck(self, cli: Cli, id_: str) -> None:
        """Check it on one that is called off: were it not, groups might find that its time is over, and do that."""
        here = sagas.c.id == UUID(id_)
        ((opened_at,),) = cli.rows(Principal.GROUPS, sa.select(sagas.c.opened_at).where(here))
        an_hour_ago = opened_at - timedelta(hours=1)
        cli.rows(Principal.GROUPS, sa.update(sagas).where(here).values(opened_at=an_hour_ago))
        try:
            (listed,) = [each for each in cli.json("saga", "list") if each["id"] == id_]
            assert listed["stuck"]
            assert "STUCK" in cli("saga", "list").stdout
        finally:  # the audit compares it with the history
            cli.rows(Principal.GROUPS, sa.update(sagas).where(here).values(opened_at=opened_at))

    def test_leaves_an_ended_one_alone(self, cli: Cli, owner: str) -> None:
        cli.json(*creation(owner))
        ended = next(each for each in cli.json("saga", "list", "--all") if each["actor"] == owner)
        assert ended["status"] == "completed"
        for what in ("retry", "cancel"):
            done = cli("saga", what, ended["id"])
            assert (done.exit_code, "has ended" in done.stderr) == (Exit.NO, True)

    @pytest.mark.parametrize(("id_", "code"), [(str(uuid4()), Exit.NO), ("%", Exit.USAGE)], ids=["unknown", "no id"])
    def test_says_no_to_what_is_none(self, cli: Cli, id_: str, code: Exit) -> None:
        assert cli("saga", "show", id_).exit_code == code


class TestTransfers:
    def test_an_answer_that_was_lost_is_given_again_when_an_operator_asks(self, cli: Cli, owner: str) -> None:
        cli.json(*creation(owner))
        give = ("--set", "members=all", "--set", "mode=amount", "--set", "amount_units=5")
        cli.json("send", "transfer-units", "--actor", owner, *give)
        self.forget_the_answer(cli, owner)
        (listed,) = [each for each in cli.json("transfer", "list") if each["owner_id"] == owner]
        assert (listed["members"], listed["amount_units"], listed["stuck"]) == (1, 5, False)
        assert listed["id"][:8] in cli("transfer", "list").stdout
        told = cli.json("transfer", "retry", listed["id"][:13], "--timeout", str(ANSWER_WITHIN_S))
        assert (told["state"], told["total_units"], told["requests"]) == ("done", 5, 2)
        assert owner not in [each["owner_id"] for each in cli.json("transfer", "list")]
        query = sa.select(accounts.c.balance_units).where(accounts.c.id == UUID(owner))
        assert cli.rows(Principal.LEDGER, query)[0][0] == 135, "what was moved once is moved once"
        assert cli("transfer", "retry", listed["id"]).exit_code == Exit.NO

    def forget_the_answer(self, cli: Cli, owner: str) -> None:
        """Make groups as it would be had it never got the ledger's answer."""
        mine = transfers.c.owner_id == UUID(owner)
        assert len(cli.rows(Principal.GROUPS, sa.select(transfers).where(mine))) == 1
        (id_,) = cli.rows(Principal.GROUPS, sa.select(transfers.c.id).where(mine))[0]
        pending = {"state": "pending", "ended_at": None, "total_units": None}
        lines = sa.update(history).where(history.c.reference_id == id_).values(outcome="pending", ended_at=None)
        due = TransferDue(transfer_id=id_)
        timer = {"id": id_, "due_at": datetime.now(UTC) + timedelta(hours=1), "type": due.TYPE, "key": due.key()}
        timer |= {"value": due.to_json(), "correlation_id": str(uuid4()), "actor": UUID(owner)}
        for statement in (sa.update(transfers).where(mine).values(pending), lines, sa.insert(TIMER).values(timer)):
            cli.rows(Principal.GROUPS, statement)


class TestParked:
    @pytest.fixture
    def malformed(self, cli: Cli) -> Iterator[str]:
        """A command that nobody can read."""
        producer = Producer(cli.product.stack.kafka.client_config(Principal.PLATFORM) | {"log_level": "0"})
        headers: list[tuple[str, str | bytes | None]] = [("ce_id", str(uuid4())), ("ce_type", CreditUnits.TYPE)]
        headers.append(("odd", b"\xff"))
        producer.produce(LEDGER_COMMANDS.name, b'{"amount_units": "secret"}', b"key", headers=headers)
        assert producer.flush(10) == 0
        assert wait_until(lambda: bool(cli.json("parked", "list")), ANSWER_WITHIN_S)
        id_ = str(cli.json("parked", "list", "--service", "ledger")[-1]["id"])
        yield id_
        cli("parked", "drop", id_, "--yes")

    @pytest.fixture
    async def failed(self, cli: Cli, owner: str) -> str:
        """A good command that was put aside as one that fails, and blocks its key."""
        command = CreditUnits(credit_id=uuid4(), account_id=UUID(owner), amount_units=11)
        headers = [("ce_id", str(uuid4()).encode()), ("ce_type", command.TYPE.encode())]
        record = StoredRecord(
            uuid4(), None, LEDGER_COMMANDS.name, 0, 0, command.key().encode(), command.to_json(), headers
        )
        connected: AsyncEngine = engine(cli.product.stack.postgres.url(Principal.LEDGER), 3)
        async with PostgresDatabase(connected).begin() as tx:
            await tx.park([Parked(record.row_id, record, Why.FAILED, "Bug", "here")], datetime.now(UTC))
        await connected.dispose()
        return str(record.row_id)

    def test_lists_and_shows_what_could_not_be_read(self, cli: Cli, malformed: str) -> None:
        assert malformed[:8] in cli("parked", "list").stdout
        shown = cli.json("parked", "show", malformed)
        assert (shown["why"], shown["code"], shown["key"]) == ("undecodable", "malformed_command", "key")
        assert ["odd", "0xff"] in shown["headers"]

    def test_shows_a_value_only_when_asked_to(self, cli: Cli, malformed: str) -> None:
        assert "value" not in cli.json("parked", "show", malformed)
        assert "secret" not in cli("parked", "show", malformed).stdout
        assert "secret" in cli("parked", "show", malformed, "--reveal").stdout

    def test_says_that_a_retry_failed_again(self, cli: Cli, malformed: str) -> None:
        told = cli.json("parked", "retry", malformed, expect=Exit.NO)
        assert (told["outcome"], told["attempts"]) == ("failed", 2)

    def test_drops_only_when_it_is_meant(self, cli: Cli, malformed: str) -> None:
        assert cli("parked", "drop", malformed).exit_code == Exit.USAGE
        assert cli.json("parked", "drop", malformed, "--yes")["dropped"]
        assert cli("parked", "drop", malformed, "--yes").exit_code == Exit.NO

    def test_retries_to_the_end_and_unblocks_the_key(self, cli: Cli, failed: str, owner: str) -> None:
        assert cli.json("parked", "retry", failed)["outcome"] == "handled"
        query = sa.select(accounts.c.balance_units).where(accounts.c.id == UUID(owner))
        assert cli.rows(Principal.LEDGER, query)[0][0] == 211
        assert cli.rows(Principal.LEDGER, sa.select(PARKED_KEYS)) == []

    def test_says_what_would_be_retried_and_retries_nothing(self, cli: Cli, failed: str, malformed: str) -> None:
        told = cli.json("parked", "retry", "--all", "--dry-run")
        assert {(each["why"], each["code"]) for each in told} == {
            ("failed", "Bug"),
            ("undecodable", "malformed_command"),
        }
        assert cli.json("parked", "retry", "--code", "nothing", "--dry-run") == []
        (only,) = cli.json("parked", "retry", "--code", "Bug", "--topic", LEDGER_COMMANDS.name, "--dry-run")
        assert (only["service"], only["topic"], only["messages"]) == ("ledger", LEDGER_COMMANDS.name, 1)
        assert cli.json("parked", "retry", failed, "--dry-run") == [only]
        assert len(cli.json("parked", "list")) == 2
        assert cli.json("parked", "retry", "--code", "Bug")["failed"] == []

    def test_retries_all_with_a_code_and_leaves_the_others(
        self, cli: Cli, failed: str, malformed: str, owner: str
    ) -> None:
        fields = ("--set", f"account_id={owner}", "--set", "amount_units=1", "--timeout", "1")
        assert cli("send", "credit-units", *fields).exit_code == Exit.UNREACHABLE
        assert wait_until(lambda: len(cli.rows(Principal.LEDGER, sa.select(PARKED))) == 3, ANSWER_WITHIN_S)
        told = cli.json("parked", "retry", "--code", "Bug")
        assert told == {"asked_for": 2, "waiting": 0, "failed": []}
        assert [each["id"] for each in cli.json("parked", "list")] == [malformed]
        assert cli.rows(Principal.LEDGER, sa.select(PARKED_KEYS)) == []

    def test_says_which_of_all_failed_again(self, cli: Cli, failed: str, malformed: str) -> None:
        told = cli.json("parked", "retry", "--all", expect=Exit.NO)
        assert (told["asked_for"], told["waiting"], [each["id"] for each in told["failed"]]) == (2, 0, [malformed])
        done = cli("parked", "retry", "--all")
        assert (done.exit_code, "1 failed again" in done.stdout) == (Exit.NO, True)

    @pytest.mark.parametrize("what", [(), ("x", "--all"), ("--all", "--code", "Bug")])
    def test_wants_to_be_told_what_to_retry(self, cli: Cli, what: tuple[str, ...]) -> None:
        assert cli("parked", "retry", *what).exit_code == Exit.USAGE

    def test_drops_what_blocks_a_key_and_says_what_is_left(self, cli: Cli, failed: str, owner: str) -> None:
        fields = ("--set", f"account_id={owner}", "--set", "amount_units=1", "--timeout", "1")
        assert cli("send", "credit-units", *fields).exit_code == Exit.UNREACHABLE
        assert wait_until(lambda: len(cli.rows(Principal.LEDGER, sa.select(PARKED))) == 2, ANSWER_WITHIN_S)
        assert cli.json("parked", "drop", failed, "--yes")["left_on_key"] == 1
        handled = wait_until(lambda: not cli.rows(Principal.LEDGER, sa.select(PARKED)), ANSWER_WITHIN_S)
        assert handled, "what was behind it is retried, and the key flows again"
        assert cli.rows(Principal.LEDGER, sa.select(PARKED_KEYS)) == []


class TestCorrections:
    WHO = ("--operator", "Olga", "--reason", "charged twice", "--timeout", str(ANSWER_WITHIN_S))

    def test_posts_a_correction_and_shows_it_in_the_audit(self, cli: Cli, owner: str) -> None:
        told = cli.json("ledger", "correct", owner, "-30", *self.WHO)
        assert (told["account_id"], told["amount_units"], told["code"]) == (owner, -30, None)
        assert self.balance(cli, owner) == 170
        assert cli.json("ledger", "corrections")[0] == told
        assert (told["operator"], told["reason"]) == ("Olga", "charged twice")
        assert "✓" in cli("ledger", "correct", owner, "30", *self.WHO).stdout
        assert self.balance(cli, owner) == 200
        assert cli.json("ledger", "verify")["violations"] == []
        assert "Olga" in cli("ledger", "corrections").stdout

    def test_says_no_when_too_little_is_available_and_keeps_the_audit(self, cli: Cli, owner: str) -> None:
        told = cli.json("ledger", "correct", owner, "-201", *self.WHO, expect=Exit.NO)
        assert told["code"] == "units_short"
        assert self.balance(cli, owner) == 200
        assert cli.json("ledger", "corrections", "--limit", "1") == [told]
        assert "units_short" in cli("ledger", "correct", owner, "-201", *self.WHO).stdout

    @pytest.mark.parametrize(
        ("amount", "reason"), [("0", "charged twice"), ("5", "no"), ("-x", "charged twice")], ids=["0", "short", "-x"]
    )
    def test_refuses_what_is_no_correction(self, cli: Cli, owner: str, amount: str, reason: str) -> None:
        done = cli("ledger", "correct", owner, amount, "--operator", "Olga", "--reason", reason)
        assert done.exit_code == Exit.USAGE
        assert self.balance(cli, owner) == 200

    def test_has_no_answer_while_the_ledger_is_away_and_is_posted_when_it_is_back(self, cli: Cli, owner: str) -> None:
        ledger = cli.product.services[Principal.LEDGER]
        ledger.kill()
        try:
            done = cli("ledger", "correct", owner, "5", *self.WHO[:-1], "0.5")
            assert (done.exit_code, len(done.stderr.splitlines())) == (Exit.UNREACHABLE, 1)
        finally:
            ledger.launch(replica=REPLICA)
            ledger.wait_ready()
        assert wait_until(lambda: self.balance(cli, owner) == 205, ANSWER_WITHIN_S)

    def balance(self, cli: Cli, account: str) -> int:
        query = sa.select(accounts.c.balance_units).where(accounts.c.id == UUID(account))
        return int(cli.rows(Principal.LEDGER, query)[0][0])


class TestBooksMailsTopics:
    def test_finds_the_books_right(self, cli: Cli, owner: str) -> None:
        assert cli.json("ledger", "verify")["violations"] == []
        assert "✓" in cli("ledger", "verify").stdout

    def test_finds_the_books_wrong(self, cli: Cli, owner: str) -> None:
        here = accounts.c.id == UUID(owner)
        cli.rows(Principal.LEDGER, sa.update(accounts).where(here).values(balance_units=201))
        try:
            told = cli.json("ledger", "verify", expect=Exit.NO)
            assert [(each["code"], each["subject"]) for each in told["violations"]] == [("balance_mismatch", owner)]
        finally:
            cli.rows(Principal.LEDGER, sa.update(accounts).where(here).values(balance_units=200))

    def test_lists_mails_without_personal_data(self, cli: Cli, owner: str) -> None:
        def ours() -> list[str]:
            listed = cli.json("mail", "list", "--state", "sent")["mails"]
            return sorted(mail["template"] for mail in listed if owner in (mail["recipient_id"], mail["about_id"]))

        cli.json(*creation(owner))
        assert wait_until(lambda: ours() == ["receipt", "welcome"], ANSWER_WITHIN_S), ours()
        assert "@" not in cli("mail", "list").stdout

    def test_a_mail_that_waits_for_a_stranger_or_is_parked_is_shown_as_stuck(self, cli: Cli) -> None:
        to, about, broken = uuid4(), uuid4(), uuid4()
        made_at = datetime.now(UTC) - timedelta(hours=2)
        row = {"params": {}, "made_at": made_at, "next_attempt_at": made_at + timedelta(days=9), "template": "receipt"}
        rows = [
            {**row, "id": to, "state": "queued", "recipient_id": uuid4(), "about_id": None},
            {**row, "id": broken, "state": "parked", "recipient_id": about, "about_id": None},
        ]
        cli.rows(Principal.NOTIFICATIONS, sa.insert(mails).values(rows))
        try:
            stuck = {mail["id"]: mail for mail in cli.json("mail", "list", "--stuck")["mails"]}
            assert (stuck[str(to)]["waits_for"], stuck[str(broken)]["waits_for"]) == ("recipient", None)
            shown = cli("mail", "list", "--stuck").stdout
            assert f"STUCK: no record of {stuck[str(to)]['recipient_id']}" in shown, shown
            assert re.search(r"\b2 ?h", shown), shown
            assert cli.json("mail", "retry", str(broken)) == {"id": str(broken), "state": "queued"}
            assert "no mail" in cli("mail", "retry", str(to)).output
        finally:
            cli.rows(Principal.NOTIFICATIONS, sa.delete(mails).where(mails.c.id.in_([to, broken])))

    def test_says_type_by_type_who_can_send_it(self, cli: Cli) -> None:
        types = cli.json("topics", "--types")["types"]
        assert types["popfax.ledger.credit-units.v1"] == ["platform"]
        assert types["popfax.ledger.post-transfers.v1"] == ["groups"]
        assert types["popfax.ledger.reserve-units.v1"] == ["groups", "provisioning"]
        assert types.keys() == MESSAGES.keys()
        assert "ledger.credit-units.v1" in cli("topics", "--types").stdout

    def test_compares_the_topics_and_creates_what_is_missing(self, cli: Cli) -> None:
        assert cli.json("topics")["differences"] == []
        admin = AdminClient({**cli.product.stack.kafka.client_config(ADMIN), "log_level": 0})
        admin.delete_topics(["popfax.notifications.commands"])["popfax.notifications.commands"].result()
        assert wait_until(lambda: cli("topics").exit_code == Exit.NO, ANSWER_WITHIN_S)
        assert "missing topic" in cli("topics").stdout
        assert cli("topics", "--apply").exit_code == Exit.OK
        assert cli("topics").exit_code == Exit.OK


class TestAudit:
    """The whole product's story, while it runs."""

    @pytest.fixture
    def member(self, cli: Cli, owner: str) -> str:
        """A member who was given 5 of the owner's units."""
        told = cli.json(*creation(owner))
        member = next(event["member_id"] for event in told["events"] if "member_id" in event)
        wanted = ("--set", f"group_id={group_of(UUID(owner))}", "--set", "mode=amount", "--set", "amount_units=5")
        cli.json("send", "transfer-units", "--actor", owner, *wanted, "--set", "members=all")
        return str(member)

    def test_finds_all_right_and_says_what_it_has_compared(self, cli: Cli, member: str) -> None:
        told = cli.json("audit")
        assert told["violations"] == []
        assert min(told[what] for what in ("groups", "memberships", "transfers", "accounts", "mails")) > 0
        assert told["history_lines"] >= 3  # the creation, the membership, what the member got
        assert told["entries"] >= 6  # what was bought, what the account cost, what the member got: two sides each
        done = cli("audit")
        assert "✓" in done.stdout
        assert "history lines" in done.stdout

    def test_finds_a_line_of_history_that_the_entries_do_not_bear_out(self, cli: Cli, member: str) -> None:
        here = (history.c.member_id == UUID(member)) & (history.c.kind == "transfer")
        cli.rows(Principal.GROUPS, sa.update(history).where(here).values(units=6))
        try:
            violations = cli.json("audit", expect=Exit.NO)["violations"]
            assert [each["code"] for each in violations] == ["history_mismatch", "transfer_unmatched"]
            assert "transfer_unmatched" in cli("audit").stdout
        finally:
            cli.rows(Principal.GROUPS, sa.update(history).where(here).values(units=5))

    def test_asks_more_when_nothing_is_in_flight(self, cli: Cli, member: str) -> None:
        here = subscribers.c.id == UUID(member)
        assert wait_until(lambda: not settled_codes(cli) & {"balance_stale", "mail_missing"}, ANSWER_WITHIN_S)
        before = cli.rows(Principal.GROUPS, sa.select(subscribers.c.expires_at).where(here))[0][0]
        cli.rows(Principal.GROUPS, sa.update(subscribers).where(here).values(expires_at=datetime.now(UTC)))
        try:
            assert cli.json("audit")["violations"] == []
            assert "state_mismatch" in settled_codes(cli)
        finally:
            cli.rows(Principal.GROUPS, sa.update(subscribers).where(here).values(expires_at=before))


def settled_codes(cli: Cli) -> set[str]:
    """What an audit finds that is told that nothing is in flight. Other tests may have left something."""
    done = cli("audit", "--settled", "--json")
    return {each["code"] for each in json.loads(done.stdout)["violations"]}


class TestDoctor:
    """Comes last: it leaves the product in ruins."""

    def test_says_that_all_is_well_and_who_is_there(self, cli: Cli) -> None:
        assert wait_until(lambda: cli("doctor").exit_code == Exit.OK, ANSWER_WITHIN_S), cli("doctor").stdout
        assert "All is well" in cli("doctor").stdout
        told = cli.json("doctor")
        assert (told["well"], told["complete"], told["findings"]) == (True, True, [])
        for database in told["databases"].values():
            (process,) = database["processes"]
            assert process["name"]["version"] == build.version()
            assert database["leader"]["process"] == process["name"]["name"]
        assert [len(group["members"]) for group in told["kafka"]["groups"].values()] == [1, 1, 1, 1]

    async def test_finds_every_fault_of_many_at_once(
        self, cli: Cli, owner: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(doctor_kafka, "LATE_S", 1.0)
        processes = cli.product.services
        os.kill(processes[Principal.NOTIFICATIONS].pid, signal.SIGSTOP)
        processes[Principal.LEDGER].kill()
        old_url = f"{cli.product.stack.postgres.url(Principal.GROUPS)}?application_name=popfax-groups 0.2.9 web old"
        old = sa.create_engine(old_url, poolclass=sa.NullPool)
        try:
            with old.connect():
                await self.break_everything(cli, owner)
                assert wait_until(lambda: self.missed(cli) == set(), ANSWER_WITHIN_S), self.missed(cli)
            self.also_without_kafka_and_a_database(cli)
        finally:
            processes[Principal.NOTIFICATIONS].kill()

    async def break_everything(self, cli: Cli, owner: str) -> None:
        assert cli(*creation(owner, "--timeout", "1")).exit_code == Exit.UNREACHABLE
        past = datetime.now(UTC) - timedelta(hours=2)
        cli.rows(Principal.GROUPS, sa.update(sagas).where(sagas.c.ended_at.is_(None)).values(opened_at=past))
        posted = {"id": uuid4(), "type": "x", "actor_id": UUID(owner), "content_hash": b"", "state": "pending"}
        cli.rows(Principal.GROUPS, sa.insert(commands).values(posted | {"asked_at": past}))
        waiting = {"id": uuid4(), "type": "x", "key": "k", "value": b"", "correlation_id": "c"}
        cli.rows(Principal.LEDGER, sa.insert(TIMER).values(waiting | {"due_at": past}))
        row = waiting | {"causation_id": "c", "made_at": past}
        cli.rows(Principal.NOTIFICATIONS, sa.insert(OUTBOX).values(row | {"type": "popfax.notifications.newer.v9"}))
        stop = {"topic": LEDGER_COMMANDS.name, "partition": 3, "position": 17, "error": "BAD_MSG", "attempts": 9}
        cli.rows(Principal.LEDGER, sa.insert(PARTITION_STOPS).values(stop | {"stopped_at": past}))
        for state, recipient in (("queued", UUID(owner)), ("queued", uuid4()), ("parked", UUID(owner))):
            mail = {"id": uuid4(), "template": "welcome", "recipient_id": recipient, "params": {}, "state": state}
            cli.rows(
                Principal.NOTIFICATIONS, sa.insert(mails).values(mail | {"made_at": past, "next_attempt_at": past})
            )
        await self.park(cli, Why.FAILED, Why.UNDECODABLE)
        first = migrate.revisions(Principal.PROVISIONING)[0].revision
        cli.rows(Principal.PROVISIONING, sa.text(f"UPDATE alembic_version SET version_num = '{first}'"))
        cli.rows(Principal.PROVISIONING, sa.text("ALTER DATABASE provisioning SET default_transaction_read_only = on"))
        self.change_acls(cli)

    async def park(self, cli: Cli, *reasons: Why) -> None:
        connected: AsyncEngine = engine(cli.product.stack.postgres.url(Principal.LEDGER), 3)
        async with PostgresDatabase(connected).begin() as tx:
            for why in reasons:
                record = StoredRecord(uuid4(), None, LEDGER_COMMANDS.name, 0, 0, b"k", b"", [])
                await tx.park([Parked(record.row_id, record, why, "Bug", "here")], datetime.now(UTC))
        await connected.dispose()

    def change_acls(self, cli: Cli) -> None:
        """Take one away that nobody needs just now, and add one that nobody should have."""
        client = AdminClient({**cli.product.stack.kafka.client_config(ADMIN)})
        acl = next(each for each in sorted(topics.expected_acls()) if each.name == LEDGER_COMMANDS.name)
        gone = topics.to_binding(acl)
        exactly = AclBindingFilter(
            gone.restype,
            gone.name,
            gone.resource_pattern_type,
            gone.principal,
            gone.host,
            gone.operation,
            gone.permission_type,
        )
        extra = topics.to_binding(replace(acl, principal="User:stranger"))
        for future in (*client.delete_acls([exactly]).values(), *client.create_acls([extra]).values()):
            future.result(10)

    def also_without_kafka_and_a_database(self, cli: Cli) -> None:
        """A broker that hangs is waited for, but not for long, and all others are asked."""
        url = cli.product.stack.postgres.url(Principal.LEDGER)
        gone = Cli(cli.product, cli.file.with_name("gone.env"))
        gone.file.write_text(cli.file.read_text().replace(url, "postgresql+psycopg://ledger@127.0.0.1:1/ledger"))
        cli.product.stack.kafka.pause()
        try:
            began = time.monotonic()
            found = self.found(gone, Exit.UNREACHABLE)
            assert time.monotonic() - began < 12
        finally:
            cli.product.stack.kafka.resume()
        assert found >= {("kafka_unreachable", ""), ("database_unreachable", "ledger"), ("saga_stuck", "groups")}

    def missed(self, cli: Cli) -> set[tuple[str, str]]:
        """What is wrong and not found; of the relay, that it is silent, or after a while that it has no leader."""
        found = self.found(cli)
        leads_not = {("relay_silent", "notifications"), ("relay_leaderless", "notifications")}
        return WRONG - found | (set() if leads_not & found else leads_not)

    def found(self, cli: Cli, expect: Exit = Exit.NO) -> set[tuple[str, str]]:
        told = cli.json("doctor", expect=expect)
        return {(each["code"], each["subject"] or "") for each in told["findings"]}


WRONG = {
    ("acl_extra", ""),
    ("acl_missing", ""),
    ("command_undecided", "groups"),
    ("database_read_only", "provisioning"),
    ("key_blocked", "ledger"),
    ("mail_parked", "notifications"),
    ("mail_stuck", "notifications"),
    ("mails_late", "notifications"),
    ("message_unreadable", "ledger"),
    ("no_process", "ledger"),
    ("outbox_held", "notifications"),
    ("partition_stopped", "ledger"),
    ("records_late", "ledger"),
    ("saga_stuck", "groups"),
    ("schema_older", "provisioning"),
    ("timers_late", "ledger"),
    ("versions_differ", "groups"),
}
"""What the doctor must find at once, and of whom."""
