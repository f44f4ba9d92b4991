"""Accounts from before they could expire, and what is on sale: brought into line in a database that is in use."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from alembic import command

from deploy.local.stack import Stack
from popfax_contracts.topics import Principal
from services.chassis import migrate, postgres
from services.provisioning import catalogue
from services.provisioning.domain import Subscriber
from services.provisioning.handlers import _content
from services.provisioning.timers import EXPIRY, ExpiryDue
from tests.integration.recorder import execute, scratch_database
from tests.unit.given import id_of
from tests.unit.test_provisioning import register

BEGAN = datetime(2031, 1, 1, tzinfo=UTC)
ADA, YEAR, MONTH, REFUSED = (id_of(name) for name in ("ada", "year", "month", "refused"))

INSERT = "INSERT INTO subscribers VALUES (%s, %s, 'Ada', 'L.', 'en', %s, NULL, %s, %s)"


def test_accounts_from_before_expire_as_those_that_begin_today(stack: Stack) -> None:
    with scratch_database(stack) as url:
        command.upgrade(migrate.config(Principal.PROVISIONING, url), "provisioning_0001")
        execute(url, INSERT, ADA, "ada@example.org", None, BEGAN, None)
        accounts = [
            Subscriber(id_, f"{days}@example.org", "Ada", "L.", "en", "send_only", None, BEGAN, None).lasting(
                BEGAN + timedelta(days), BEGAN
            )
            for id_, days in ((YEAR, 365), (MONTH, 30))
        ]
        for account in accounts:
            execute(url, INSERT, account.id, account.email, account.plan, BEGAN, account.expires_at)
            execute(url, "INSERT INTO requests VALUES (%s, %s, NULL, '', %s)", account.id, account.id, BEGAN)
        execute(url, "INSERT INTO requests VALUES (%s, %s, 'email_taken', '', %s)", REFUSED, YEAR, BEGAN)
        migrate.upgrade(Principal.PROVISIONING, url)

        reminded = execute(url, "SELECT id, state, options_pack, reminded_days FROM subscribers ORDER BY id")
        expected = [(account.id, "active", False, account.reminded_days) for account in accounts]
        assert reminded == sorted([*expected, (ADA, "active", False, None)])
        registered = execute(url, "SELECT id, registration FROM subscribers WHERE registration IS NOT NULL")
        assert registered == [(ADA, _content(register()))]
        ends = execute(url, "SELECT id, expires_at FROM requests WHERE expires_at IS NOT NULL ORDER BY id")
        assert ends == sorted((account.id, account.expires_at) for account in accounts)
        due = [EXPIRY.record(account) for account in accounts]
        found = execute(url, "SELECT id, due_at, type, key, value FROM timers ORDER BY id")
        assert found == sorted(
            (each.row_id, each.due_at, ExpiryDue.TYPE, (each.key or b"").decode(), each.value)
            for each in due
            if each is not None
        )
        assert len(found) == 2


async def test_publishes_what_is_on_sale_when_it_changes(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "plans.toml"
    plan = "[plans.send_only]\nprice_units = 60\nvalidity_months = 12\nfax_number = false\n"
    file.write_text(f"{plan}[options.options_pack]\nprice_units = 30\n[options.call_forwarding]\nprice_units = 20\n")
    with scratch_database(stack, Principal.PROVISIONING) as url:
        engine = postgres.engine(url)
        try:
            first = await catalogue.store(catalogue.read(file), engine, BEGAN)
            again = await catalogue.store(catalogue.read(file), engine, BEGAN)
            file.write_text(file.read_text().replace("= 30", "= 31"))
            changed = await catalogue.store(catalogue.read(file), engine, BEGAN)
            all_of_it = await catalogue.store(catalogue.read(file), engine, BEGAN + timedelta(1), again=True)
        finally:
            await engine.dispose()
        assert (first, again, changed) == (["send_only", "options_pack", "call_forwarding"], [], ["options_pack"])
        assert all_of_it == first
        assert execute(url, "SELECT option, price_units FROM options ORDER BY 1") == [
            ("call_forwarding", 20),
            ("options_pack", 31),
        ]
        told = b'{"option":"options_pack","price_units":31,"on_sale":true}'
        assert execute(url, "SELECT value FROM outbox WHERE key = 'options_pack' ORDER BY seq")[1:] == [
            (told,),
            (told,),
        ]
