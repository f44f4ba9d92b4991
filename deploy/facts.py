"""Where the invariants' facts come from: the services' databases in PostgreSQL, or the simulation's in memory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from contracts.topics import Principal
from deploy.invariants import Facts, GroupsFacts, LedgerFacts, NotificationsFacts, ProvisioningFacts
from services._platform.memory import MemoryDatabase
from services._platform.rows import AppendOnly, Mapped
from services.groups import tables as groups
from services.ledger import tables as ledger
from services.notifications import tables as notifications
from services.provisioning import tables as provisioning

_LEDGER = (ledger.ACCOUNTS, ledger.HOLDS, ledger.TRANSFERS, ledger.ENTRIES, ledger.CORRECTIONS)

READS: Sequence[tuple[Principal, Sequence[Mapped[Any, Any]]]] = (
    (Principal.NOTIFICATIONS, (notifications.MAILS, notifications.PEOPLE)),
    (
        Principal.GROUPS,
        (
            groups.SAGAS,
            groups.SUBSCRIBERS,
            groups.GROUPS,
            groups.MEMBERSHIPS,
            groups.INVITATIONS,
            groups.TALLIES,
            groups.TRANSFERS,
            groups.HISTORY,
        ),
    ),
    (Principal.PROVISIONING, (provisioning.PURCHASES,)),
    (Principal.LEDGER, _LEDGER),
    (
        Principal.PROVISIONING,
        (
            provisioning.SAGAS,
            provisioning.SUBSCRIBERS,
            provisioning.ADDRESSES,
            provisioning.REQUESTS,
            provisioning.FAX_NUMBERS,
        ),
    ),
)
"""What is read, in this order: effects before their causes, so that a running product never looks broken.

A mail that is seen has its membership, its transfer or its purchase; a membership that began with an account, a
transfer that is done and a purchase that is paid have their entries; a capture has its account, or the saga of its
purchase: whatever is written meanwhile. What is read at once is of one moment.
"""

Rows = dict[Mapped[Any, Any], list[Any]]


def read_facts(urls: Mapping[Principal, str]) -> Facts:
    """Read all facts from PostgreSQL, in the order of `READS`. Raises SQLAlchemy's errors."""
    rows: Rows = {}
    for principal, tables in READS:
        rows |= _read(urls[principal], tables)
    return _facts(rows.__getitem__)


def read_ledger_facts(url: str) -> LedgerFacts:
    """Read the ledger's facts alone."""
    return _ledger_facts(_read(url, _LEDGER).__getitem__)


def facts_of(databases: Mapping[Principal, MemoryDatabase], meanwhile: Callable[[], None] = lambda: None) -> Facts:
    """Give the facts of databases in memory; `meanwhile` is what happens between one read and the next."""
    rows: Rows = {}
    for principal, tables in READS:
        rows |= {mapped: _contents(databases[principal], mapped) for mapped in tables}
        meanwhile()
    return _facts(rows.__getitem__)


def _read(url: str, tables: Sequence[Mapped[Any, Any]]) -> Rows:
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="REPEATABLE READ", hide_parameters=True)
    with engine.connect() as connection:
        return {
            mapped: [mapped.from_values(values) for values in connection.execute(sa.select(*mapped.columns))]
            for mapped in tables
        }


def _contents(database: MemoryDatabase, mapped: Mapped[Any, Any]) -> list[Any]:
    name = mapped.table.name
    if isinstance(mapped, AppendOnly):
        return list(database.contents.appended.get(name, []))
    return list(database.contents.tables.get(name, {}).values())


def _facts(rows: Callable[[Mapped[Any, Any]], list[Any]]) -> Facts:
    return Facts(
        ledger=_ledger_facts(rows),
        groups=GroupsFacts(
            sagas=rows(groups.SAGAS),
            subscribers=rows(groups.SUBSCRIBERS),
            groups=rows(groups.GROUPS),
            memberships=rows(groups.MEMBERSHIPS),
            invitations=rows(groups.INVITATIONS),
            tallies=rows(groups.TALLIES),
            transfers=rows(groups.TRANSFERS),
            history=rows(groups.HISTORY),
        ),
        provisioning=ProvisioningFacts(
            purchases=rows(provisioning.PURCHASES),
            sagas=rows(provisioning.SAGAS),
            subscribers=rows(provisioning.SUBSCRIBERS),
            addresses=rows(provisioning.ADDRESSES),
            requests=rows(provisioning.REQUESTS),
            fax_numbers=rows(provisioning.FAX_NUMBERS),
        ),
        notifications=NotificationsFacts(people=rows(notifications.PEOPLE), mails=rows(notifications.MAILS)),
    )


def _ledger_facts(rows: Callable[[Mapped[Any, Any]], list[Any]]) -> LedgerFacts:
    return LedgerFacts(
        accounts=rows(ledger.ACCOUNTS),
        holds=rows(ledger.HOLDS),
        transfers=rows(ledger.TRANSFERS),
        entries=rows(ledger.ENTRIES),
        corrections=rows(ledger.CORRECTIONS),
    )
