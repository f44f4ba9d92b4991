"""A service's database goes back to its backup under traffic: what it had told the others is what it knows again."""

import json
import os
import re
import subprocess
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url
from typer.testing import CliRunner, Result

from deploy.local.mailsink import read_mails
from deploy.local.postgres import binaries
from deploy.local.running import write_settings
from deploy.operator.cli.app import app
from deploy.operator.cli.connection import close_all
from popfax_contracts.groups import (
    AcceptInvitation,
    InvitationAnswerRefused,
    MemberAccountCreated,
    MemberAccountRefused,
    MemberJoined,
    SetStandingOrder,
    StandingOrderPaused,
    StandingOrderSet,
    TransferRefused,
    UnitsTransferred,
)
from popfax_contracts.ledger import SpendRefused, UnitsSpent
from popfax_contracts.message import group_of
from popfax_contracts.notifications import PasswordLinkIssued
from popfax_contracts.provisioning import (
    AccountChangeRefused,
    AccountClosed,
    AccountExpired,
    AddOptionsPack,
    CloseAccount,
    OptionsPackAdded,
    PaidActionRefused,
)
from popfax_contracts.topics import SERVICES, Principal
from tests.e2e.driver import PRICES, World, wait
from tests.e2e.test_accounts import subscriber
from tests.e2e.test_units import spend, transfer

ENDS = (MemberAccountCreated, MemberAccountRefused)


class Operator:
    """An operator with a backup, and the command line."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.directory = directory
        self.file = write_settings(directory, world.stack)
        self.since = datetime.now(UTC) - timedelta(seconds=10)

    def __call__(self, *arguments: str) -> Result:
        done = CliRunner().invoke(app, [*arguments, "--env-file", str(self.file)])
        close_all()
        return done

    def back_up(self, service: Principal) -> Path:
        """Dump a database while the product works."""
        file = self.directory / f"{service}.dump"
        _run("pg_dump", "--format=custom", f"--file={file}", url=self.world.stack.postgres.url(service))
        return file

    def restore(self, service: Principal, backup: Path) -> None:
        """Put a database back, as it was at its backup."""
        self.world.disconnect()
        stack = self.world.stack.postgres
        with psycopg.connect(stack.superuser_url.replace("+psycopg", ""), autocommit=True) as connection:
            for statement in (
                "DROP DATABASE {name} WITH (FORCE)",
                "CREATE DATABASE {name} OWNER {name}",
                "REVOKE CONNECT, TEMPORARY ON DATABASE {name} FROM PUBLIC",
            ):
                connection.execute(sql.SQL(statement).format(name=sql.Identifier(service)))
        _run("pg_restore", "--no-owner", f"--dbname={service}", str(backup), url=stack.url(service))

    def dry_run(self, service: Principal, *more: str) -> Result:
        """Ask what a replay would do."""
        self.world.disconnect()
        return self("replay", "--service", service, "--since", self.since.isoformat(), "--json", *more)

    def replay(self, service: Principal, *more: str) -> dict[str, Any]:
        """Replay a service; return the report."""
        done = self.dry_run(service, "--apply", *more)
        assert done.exit_code == 0, done.output
        report: dict[str, Any] = json.loads(done.stdout)
        assert report["applied"]
        return report


def _run(program: str, *arguments: str, url: str) -> None:
    at = make_url(url)
    environment = os.environ | {
        "PGHOST": str(at.host),
        "PGPORT": str(at.port),
        "PGUSER": str(at.username),
        "PGPASSWORD": str(at.password),
        "PGDATABASE": str(at.database),
    }
    subprocess.run([str(binaries() / program), *arguments], env=environment, check=True, capture_output=True)


@pytest.fixture
def operator(world: World, tmp_path: Path) -> Operator:
    """An operator of the running product."""
    return Operator(world, tmp_path)


def _link(mail: EmailMessage) -> str | None:
    """Return the hash of the token in a welcome mail, None in any other."""
    body = mail.get_body(("plain",))
    found = re.search(r"password\S*token=([0-9a-f]{64})", body.get_content() if body else "")
    return sha256(found[1].encode()).hexdigest() if found else None


class Traffic:
    """A little of everything, before the backup and after it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.mails_before = len(read_mails(world.stack.mail.mails))
        self.owner, self.guest, self.friend, self.leaver = world.owners(4, units=5000)
        world.join(self.owner, self.guest)
        self.asked = [world.create(self.owner)]
        world.outcome(self.asked[0])

    def begin(self) -> None:
        """What the backup comes in the middle of."""
        self.asked += [self.world.create(self.owner) for _ in range(20)]
        self.world.wire.flush()

    def go_on(self) -> None:
        """What the backup does not know."""
        world, owner, guest = self.world, self.owner, self.guest
        self.asked += [world.create(owner, plan="send_receive", price_units=PRICES["send_receive"]) for _ in range(3)]
        self.invitation, self.token = world.invite(owner, self.friend)
        (self.newcomer,) = world.owners(1, units=50)
        # Both want what the guest has, on two topics; what comes of it is decided by which the ledger reads first.
        sent = [world.wire.send(transfer(owner, 7, (guest.id,), mode), owner.id) for mode in ("amount", "top_up_to")]
        sent += [world.wire.send(spend(guest, 400), guest.id) for _ in range(4)]
        sent.append(world.wire.send(AddOptionsPack(request_id=uuid4(), account_id=guest.id, price_units=30), guest.id))
        sent.append(world.wire.send(CloseAccount(account_id=self.leaver.id), self.leaver.id))
        self.posted = world.client(owner.id).post("invite-by-email", {"email": self.newcomer.email})
        world.wire.flush()
        self.answers = world.answers(
            sent,
            UnitsTransferred,
            TransferRefused,
            UnitsSpent,
            SpendRefused,
            OptionsPackAdded,
            PaidActionRefused,
            AccountClosed,
            AccountChangeRefused,
        )
        world.answers(self.asked, *ENDS)

    def end(self) -> None:
        """What is in flight when the database is lost."""
        self.asked += [self.world.create(self.owner) for _ in range(10)]
        self.world.wire.flush()

    def check(self) -> None:
        """Everything has ended, and goes on from where it was."""
        world = self.world
        created = world.answers(self.asked, *ENDS, timeout_s=90).values()
        assert {seen.kind for seen in created} == {MemberAccountCreated.TYPE}
        world.settle()
        accepted = AcceptInvitation(invitation_id=self.invitation, token=self.token)
        assert world.ask(accepted, MemberJoined, InvitationAnswerRefused).says(MemberJoined), "its mail's link is good"
        api = world.client(self.owner.id)
        assert api.get(self.posted.headers["location"]).json["state"] == "done"
        world.settle()
        world.check_log()
        mails = read_mails(world.stack.mail.mails)[self.mails_before :]
        assert [id_ for id_, count in Counter(str(mail["message-id"]) for mail in mails).items() if count > 1] == []
        welcomed = Counter(link for mail in mails if (link := _link(mail)) is not None)
        issued = [seen for seen in world.log.seen if seen.says(PasswordLinkIssued)]
        newest = {seen["member_id"]: seen["token_sha256"] for seen in issued}
        members = {seen["member_id"] for seen in created}
        assert {newest[member]: welcomed[newest[member]] for member in members if welcomed[newest[member]] != 1} == {}


def _digest(world: World, service: Principal) -> list[Any]:
    """Return how much a database knows."""
    return [world.rows(service, f"SELECT count(*) FROM {table}") for table in ("inbox", "outbox", "timers", "parked")]


# What each service has of its own, after the backup.


def _correction(operator: Operator, traffic: Traffic) -> None:
    done = operator("ledger", "correct", str(traffic.guest.id), "5", "--reason", "a drill", "--operator", "me")
    assert done.exit_code == 0, done.output


def _expiry(operator: Operator, traffic: Traffic) -> None:
    account = subscriber(operator.world, timedelta(seconds=1), units=1)
    operator.world.log.wait(1, lambda seen: seen.says(AccountExpired) and seen["account_id"] == str(account.id))


def _mails_put_off(operator: Operator, traffic: Traffic) -> None:
    """Let the mail server refuse the last mails before the loss, until everything is well again."""
    operator.world.stack.mail.refuse.touch()
    more = [operator.world.create(traffic.owner) for _ in range(2)]
    operator.world.answers(more, *ENDS)
    wait(lambda: _unsent(operator.world) >= 2 * len(more), "the mails are put off")
    traffic.asked += more


def _unsent(world: World) -> int:
    return int(world.rows(Principal.NOTIFICATIONS, "SELECT count(*) FROM mails WHERE state = 'rendered'")[0][0])


def _order(operator: Operator, traffic: Traffic) -> None:
    """Let a standing order ask for a transfer, which no command explains."""
    world, (owner, guest) = operator.world, (traffic.owner, traffic.guest)
    terms = dict.fromkeys(("threshold_units", "target_units", "monthly_bound_units"), 10_000)  # more than they have
    world.ask(
        SetStandingOrder(group_id=group_of(owner.id), member_id=guest.id, kind="keep_at", **terms),
        StandingOrderSet,
        actor=owner.id,
    )
    world.log.wait(1, lambda seen: seen.says(StandingOrderPaused) and seen["owner_id"] == str(owner.id))


OF_ITS_OWN = {
    Principal.GROUPS: _order,
    Principal.LEDGER: _correction,
    Principal.PROVISIONING: _expiry,
    Principal.NOTIFICATIONS: _mails_put_off,
}


GHOSTS = {
    Principal.NOTIFICATIONS: "INSERT INTO people VALUES (%s, %s, 'Old', 'Name', 'fr') RETURNING id",
    Principal.GROUPS: "INSERT INTO subscribers (id, email, first_name, last_name, language, state, available_units,"
    " balance_version) VALUES (%s, %s, 'Old', 'Name', 'fr', 'active', 0, 0) RETURNING id",
    Principal.PROVISIONING: "WITH one AS (INSERT INTO addresses (subscriber_id, email) VALUES (%s, %s) RETURNING *)"
    " INSERT INTO subscribers (id, email, first_name, last_name, language, created_at, state, options_pack,"
    " registration) SELECT subscriber_id, email, 'Old', 'Name', 'fr', now(), 'active', false, '' FROM one RETURNING id",
}
"""Somebody who was erased long ago: compaction has removed all trace of them, and only the backup has them still."""


@pytest.mark.drill
@pytest.mark.parametrize("service", SERVICES)
def test_a_restored_service_knows_again_what_it_told(world: World, operator: Operator, service: Principal) -> None:
    process = world.product.services[service]
    traffic = Traffic(world)
    traffic.begin()
    backup = operator.back_up(service)
    traffic.go_on()
    if service in OF_ITS_OWN:
        OF_ITS_OWN[service](operator, traffic)
    running = operator.dry_run(service)
    assert (running.exit_code, running.stderr.startswith("popfax: stop ")) == (1, True), running.output
    traffic.end()
    process.kill()
    operator.restore(service, backup)
    audit = operator("audit", "--json", "--no-topics", "--stuck-after", "1")
    assert audit.exit_code == 1, "what is lost is seen"

    ghost = f"ghost.{uuid4().hex}@example.com"
    if service in GHOSTS:
        world.rows(service, GHOSTS[service], uuid4(), ghost)
    if service is Principal.LEDGER:
        _check_refusals(world, operator, traffic)
    before = _digest(world, service)
    dry = operator.dry_run(service)
    assert dry.exit_code == 0, dry.output
    assert _digest(world, service) == before, "a dry run changes nothing"
    more = _accepted(operator, dry) if service is Principal.NOTIFICATIONS else []
    report = operator.replay(service, *more)
    assert report["again"] > 0
    assert report["due"] == (service in (Principal.LEDGER, Principal.PROVISIONING))
    assert ("1 people were erased since the backup, and are erased again" in report["notes"]) == (service in GHOSTS)
    process.launch(**process.settings)
    process.wait_ready()
    traffic.check()
    audit = operator("audit", "--json", "--settled")
    assert audit.exit_code == 0, audit.output
    for each, table in (
        (Principal.NOTIFICATIONS, "people"),
        (Principal.GROUPS, "subscribers"),
        (Principal.PROVISIONING, "subscribers"),
    ):
        query = f"SELECT id FROM {table} WHERE email = ANY(%s)"
        assert world.rows(each, query, [ghost, traffic.leaver.email]) == [], "erased people stay erased"


def _check_refusals(world: World, operator: Operator, traffic: Traffic) -> None:
    """What comes otherwise than it was published is named, and nothing is changed."""
    service, before = Principal.LEDGER, _digest(world, Principal.LEDGER)
    set_state = "UPDATE accounts SET state = %s WHERE id = %s RETURNING id"
    world.rows(service, set_state, "closed", traffic.owner.id)
    done = operator.dry_run(service, "--apply")
    report = json.loads(done.stdout)
    assert (done.exit_code, report["applied"]) == (1, False), done.output
    refused = f" of {traffic.owner.id}, published at "
    assert any(refused in problem and problem.endswith("refused.v1") for problem in report["problems"])
    assert _digest(world, service) == before
    world.rows(service, set_state, "active", traffic.owner.id)
    late = operator.dry_run(service, "--since", datetime.now(UTC).isoformat())
    assert (late.exit_code, "the database knows nothing after" in late.stderr) == (1, True), late.output


def _accepted(operator: Operator, dry: Result) -> list[str]:
    """Ask the mail server what it has accepted, and let it accept again."""
    assert any("may have been sent: they count as sent" in note for note in json.loads(dry.stdout)["notes"])
    mails = operator.world.stack.mail
    log = operator.directory / "mail.log"
    log.write_text("".join(f"accepted {mail['message-id']} for delivery\n" for mail in read_mails(mails.mails)))
    mails.refuse.unlink()
    return ["--accepted", str(log)]
