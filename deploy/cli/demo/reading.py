"""What the demo reads back: the services' databases, and the mail sink."""

from collections.abc import Iterable
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from contracts.message import group_of
from contracts.topics import Principal
from deploy.cli.connection import Connection
from deploy.local.mailsink import read_mails
from deploy.local.postgres import SERVICES
from services._platform.postgres import INBOX, PARKED
from services._platform.sagas import SagaRow
from services.groups.tables import SAGAS, memberships, plans
from services.ledger.domain import SALES, SUBSCRIPTIONS
from services.ledger.tables import accounts, entries, holds
from services.provisioning.tables import subscribers

OWN_ACCOUNTS = {SALES: "Popfax, sales", SUBSCRIPTIONS: "Popfax, subscriptions"}


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's units, as the ledger has them."""

    balance: int
    held: int

    @property
    def available(self) -> int:
        """What can be spent."""
        return self.balance - self.held

    def __str__(self) -> str:
        return f"{self.balance} POP, {self.held} held"


@dataclass(frozen=True, slots=True)
class Entry:
    """One side of a movement of units."""

    account_id: UUID
    units: int
    before: int | None
    after: int | None


@dataclass(frozen=True, slots=True)
class Account:
    """A subscriber's account, as provisioning has it."""

    id: UUID
    plan: str | None
    fax_number: str | None
    expires_at: Any


class Reader:
    """Reads the product's state from where it is kept."""

    def __init__(self, connection: Connection, mails: Path) -> None:
        """`mails` is where the mail sink keeps what it accepted."""
        self._connection = connection
        self._mails = mails

    def known_prices(self) -> dict[str, int]:
        """Give the plans that groups has learnt of."""
        rows = self._connection.rows(Principal.GROUPS, sa.select(plans.c.plan, plans.c.price_units))
        return {row[0]: row[1] for row in rows}

    def balance(self, account_id: UUID) -> Balance:
        """Give an account's units."""
        query = sa.select(accounts.c.balance_units, accounts.c.held_units).where(accounts.c.id == account_id)
        rows = self._connection.rows(Principal.LEDGER, query)
        return Balance(rows[0][0], rows[0][1]) if rows else Balance(0, 0)

    def handled_by(self, message_id: str) -> set[Principal]:
        """Give the services that have a message's id in their inbox: they handled it, or decided that it is nothing."""
        query = sa.select(INBOX.c.id).where(INBOX.c.id == UUID(message_id))
        return {service for service in SERVICES if self._connection.rows(service, query)}

    def saga(self, correlation_id: str) -> SagaRow | None:
        """Give the saga that a command opened."""
        query = sa.select(*SAGAS.columns).where(SAGAS.table.c.correlation_id == correlation_id)
        rows = self._connection.rows(Principal.GROUPS, query)
        return SAGAS.from_values(rows[0]) if rows else None

    def hold(self, saga: SagaRow | None) -> str | None:
        """Give the state of a saga's hold: it has the saga's id."""
        if saga is None:
            return None
        rows = self._connection.rows(Principal.LEDGER, sa.select(holds.c.state).where(holds.c.id == saga.id))
        return str(rows[0][0]) if rows else None

    def entries(self, saga: SagaRow | None) -> tuple[Entry, ...]:
        """Give the entries of a captured hold: they have the saga's id."""
        if saga is None:
            return ()
        c = entries.c
        query = sa.select(c.account_id, c.amount_units, c.before_units, c.after_units)
        rows = self._connection.rows(Principal.LEDGER, query.where(c.transfer_id == saga.id).order_by(c.id))
        return tuple(Entry(row[0], row[1], row[2], row[3]) for row in rows)

    def accounts_of(self, email: str) -> tuple[Account, ...]:
        """Give the accounts that have an e-mail address."""
        c = subscribers.c
        query = sa.select(c.id, c.plan, c.fax_number, c.expires_at).where(c.email == email)
        return tuple(
            Account(row[0], row[1], row[2], row[3]) for row in self._connection.rows(Principal.PROVISIONING, query)
        )

    def members_of(self, owner_id: UUID) -> tuple[UUID, ...]:
        """Give the members of an owner's group."""
        query = sa.select(memberships.c.member_id).where(memberships.c.group_id == group_of(owner_id))
        return tuple(row[0] for row in self._connection.rows(Principal.GROUPS, query))

    def mails_to(self, addresses: Iterable[str]) -> list[EmailMessage]:
        """Give the mails that the sink has for these people, oldest first."""
        wanted = set(addresses)
        return [mail for mail in read_mails(self._mails) if _address(mail) in wanted]

    def parked(self) -> int:
        """Count the messages that any service put aside."""
        counting = sa.select(sa.func.count()).select_from(PARKED)
        return sum(int(self._connection.rows(service, counting)[0][0]) for service in SERVICES)


def _address(mail: EmailMessage) -> str:
    return str(mail["to"].addresses[0].addr_spec)


def text_of(mail: EmailMessage) -> list[str]:
    """Give the lines of a mail's plain text."""
    body = mail.get_body(("plain",))
    return str(body.get_content()).strip().splitlines() if body is not None else []
