"""What the demo reads back: the services' databases, and the mail sink."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import sqlalchemy as sa
from confluent_kafka import Consumer, TopicPartition

from deploy.local.mailsink import read_mails
from deploy.operator.cli.connection import Connection
from deploy.operator.cli.wire import Seen
from popfax_contracts.message import group_of
from popfax_contracts.topics import SERVICES, Principal
from services.chassis.postgres import PARKED
from services.chassis.sagas import SagaRow
from services.groups import tables as groups_tables
from services.groups.domain import HistoryEntry
from services.groups.tables import HISTORY, SAGAS, groups, invitations, memberships, plans
from services.ledger.domain import SALES, SUBSCRIPTIONS
from services.ledger.tables import accounts, entries, holds
from services.provisioning.tables import SAGAS as PAID_ACTIONS
from services.provisioning.tables import subscribers

OWN_ACCOUNTS = {SALES: "Popfax, sales", SUBSCRIPTIONS: "Popfax, subscriptions"}

_STATES = {
    Principal.PROVISIONING: subscribers,
    Principal.GROUPS: groups_tables.subscribers,
    Principal.LEDGER: accounts,
}
"""The services that keep an account's state: provisioning decides it, the other two have learnt it."""


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's units in the ledger."""

    balance: int
    held: int

    @property
    def available(self) -> int:
        """The available units."""
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
    """A subscriber's account in provisioning."""

    id: UUID
    plan: str | None
    fax_number: str | None
    expires_at: datetime | None


class Reader:
    """Reads the product's state from the databases and the mail sink."""

    def __init__(self, connection: Connection, mails: Path) -> None:
        """`mails` is where the mail sink keeps what it accepted."""
        self._connection = connection
        self._mails = mails

    def known_prices(self) -> dict[str, int]:
        """Return the prices of the plans that groups has learnt, in units."""
        rows = self._connection.rows(Principal.GROUPS, sa.select(plans.c.plan, plans.c.price_units))
        return {row[0]: row[1] for row in rows}

    def balance(self, account_id: UUID) -> Balance:
        """Return an account's units."""
        query = sa.select(accounts.c.balance_units, accounts.c.held_units).where(accounts.c.id == account_id)
        rows = self._connection.rows(Principal.LEDGER, query)
        return Balance(rows[0][0], rows[0][1]) if rows else Balance(0, 0)

    def handled_by(self, seen: Seen, services: Iterable[Principal]) -> set[Principal]:
        """Return those of the services that have committed an offset behind a message, after their databases."""
        place = TopicPartition(seen.topic, seen.partition)
        committed = {service: self._group(service).committed([place])[0].offset for service in services}
        return {service for service, offset in committed.items() if offset > seen.offset}

    @cache  # noqa: B019  (a demo has one reader)
    def _group(self, service: Principal) -> Consumer:
        return Consumer(self._connection.admin | {"group.id": service.value})

    def saga(self, correlation_id: str) -> SagaRow | None:
        """Return the saga that a command opened."""
        query = sa.select(*SAGAS.columns).where(SAGAS.table.c.correlation_id == correlation_id)
        rows = self._connection.rows(Principal.GROUPS, query)
        return SAGAS.from_values(rows[0]) if rows else None

    def paid_action(self, correlation_id: str) -> UUID | None:
        """Return the id of the saga that a paid action opened, which is also its hold's."""
        c = PAID_ACTIONS.table.c
        rows = self._connection.rows(Principal.PROVISIONING, sa.select(c.id).where(c.correlation_id == correlation_id))
        return UUID(str(rows[0][0])) if rows else None

    def hold(self, saga: SagaRow | None) -> str | None:
        """Return the state of a saga's hold, whose id is the saga's."""
        if saga is None:
            return None
        rows = self._connection.rows(Principal.LEDGER, sa.select(holds.c.state).where(holds.c.id == saga.id))
        return str(rows[0][0]) if rows else None

    def entries(self, movement_id: UUID) -> tuple[Entry, ...]:
        """Return the entries of a transfer, a spending or a captured hold (whose id is its saga's)."""
        c = entries.c
        query = sa.select(c.account_id, c.amount_units, c.before_units, c.after_units)
        rows = self._connection.rows(Principal.LEDGER, query.where(c.transfer_id == movement_id).order_by(c.id))
        return tuple(Entry(row[0], row[1], row[2], row[3]) for row in rows)

    def accounts_of(self, email: str) -> tuple[Account, ...]:
        """Return the accounts that have an e-mail address."""
        c = subscribers.c
        query = sa.select(c.id, c.plan, c.fax_number, c.expires_at).where(c.email == email)
        return tuple(
            Account(row[0], row[1], row[2], row[3]) for row in self._connection.rows(Principal.PROVISIONING, query)
        )

    def expires_at(self, account_id: UUID) -> datetime | None:
        """Return an account's end."""
        query = sa.select(subscribers.c.expires_at).where(subscribers.c.id == account_id)
        rows = self._connection.rows(Principal.PROVISIONING, query)
        return rows[0][0] if rows else None

    def states(self, account_id: UUID) -> tuple[str, ...]:
        """Return an account's state in each of the three services that keep it."""
        found = (
            self._connection.rows(service, sa.select(table.c.state).where(table.c.id == account_id))
            for service, table in _STATES.items()
        )
        return tuple(str(rows[0][0]) if rows else "unknown" for rows in found)

    def shown(self, account_id: UUID) -> int:
        """Return the available units that groups shows an owner, learnt from the ledger's topic of balances."""
        c = groups_tables.subscribers.c
        rows = self._connection.rows(Principal.GROUPS, sa.select(c.available_units).where(c.id == account_id))
        return int(rows[0][0]) if rows else 0

    def group_name(self, owner_id: UUID) -> str | None:
        """Return the name of an owner's group."""
        rows = self._connection.rows(Principal.GROUPS, sa.select(groups.c.name).where(groups.c.owner_id == owner_id))
        return str(rows[0][0]) if rows else None

    def invitations_of(self, owner_id: UUID, subscriber_id: UUID) -> tuple[str, ...]:
        """Return the states of somebody's invitations into an owner's group."""
        c = invitations.c
        query = sa.select(c.state).where(c.owner_id == owner_id, c.subscriber_id == subscriber_id).order_by(c.made_at)
        return tuple(str(row[0]) for row in self._connection.rows(Principal.GROUPS, query))

    def members_of(self, owner_id: UUID) -> tuple[UUID, ...]:
        """Return the members of an owner's group."""
        c = memberships.c
        query = sa.select(c.member_id).where(c.group_id == group_of(owner_id), c.active)
        return tuple(row[0] for row in self._connection.rows(Principal.GROUPS, query))

    def active_memberships(self) -> frozenset[UUID]:
        """Return the ids of all active memberships, in all groups."""
        query = sa.select(memberships.c.id).where(memberships.c.active)
        return frozenset(row[0] for row in self._connection.rows(Principal.GROUPS, query))

    def history_of(self, owner_id: UUID) -> tuple[HistoryEntry, ...]:
        """Return the history of an owner's group, oldest first."""
        c = HISTORY.table.c
        query = sa.select(*HISTORY.columns).where(c.group_id == group_of(owner_id)).order_by(c.at, c.id)
        return tuple(HISTORY.from_values(row) for row in self._connection.rows(Principal.GROUPS, query))

    def mails_to(self, addresses: Iterable[str]) -> list[EmailMessage]:
        """Return the mails that the sink has for these people, oldest first."""
        wanted = set(addresses)
        return [mail for mail in read_mails(self._mails) if _address(mail) in wanted]

    def parked(self) -> int:
        """Count the messages that are parked in any service."""
        counting = sa.select(sa.func.count()).select_from(PARKED)
        return sum(int(self._connection.rows(service, counting)[0][0]) for service in SERVICES)


def _address(mail: EmailMessage) -> str:
    return str(mail["to"].addresses[0].addr_spec)


def text_of(mail: EmailMessage) -> list[str]:
    """Return the lines of a mail's plain text."""
    body = mail.get_body(("plain",))
    return str(body.get_content()).strip().splitlines() if body is not None else []


def link_in(mail: EmailMessage) -> dict[str, str]:
    """Return the parameters of the link in a mail's plain text; nothing if there is no link."""
    links = (word for line in text_of(mail) for word in line.split() if "?" in word and word.startswith("http"))
    return {name: values[0] for name, values in parse_qs(urlsplit(next(links, "")).query).items()}
