"""Where the invariants' facts come from: the services' databases in PostgreSQL, or the simulation's in memory."""

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from contracts.topics import Principal
from deploy.invariants import Facts, LedgerFacts
from services._platform.memory import MemoryDatabase
from services._platform.rows import AppendOnly, Mapped
from services.groups.tables import MEMBERSHIPS, SAGAS
from services.ledger.tables import ACCOUNTS, ENTRIES, HOLDS, TRANSFERS
from services.notifications.tables import MAILS
from services.provisioning.tables import ADDRESSES, FAX_NUMBERS, REQUESTS, SUBSCRIBERS

TABLES: Mapping[Principal, tuple[Mapped[Any, Any], ...]] = {
    Principal.NOTIFICATIONS: (MAILS,),
    Principal.GROUPS: (MEMBERSHIPS, SAGAS),
    Principal.LEDGER: (ACCOUNTS, HOLDS, TRANSFERS, ENTRIES),
    Principal.PROVISIONING: (SUBSCRIBERS, ADDRESSES, REQUESTS, FAX_NUMBERS),
}
"""What is read, in this order: effects before their causes, so that a running product never looks broken.

A mail that is seen has its membership, a membership its capture, a capture its account, whatever is written meanwhile.
"""

Rows = dict[Mapped[Any, Any], list[Any]]


def read_facts(urls: Mapping[Principal, str]) -> Facts:
    """Read all facts from PostgreSQL, each database as it is at one moment. Raises SQLAlchemy's errors."""
    rows: Rows = {}
    for principal, tables in TABLES.items():
        rows |= _read(urls[principal], tables)
    return _facts(rows.__getitem__)


def read_ledger_facts(url: str) -> LedgerFacts:
    """Read the ledger's facts alone."""
    return _ledger_facts(_read(url, TABLES[Principal.LEDGER]).__getitem__)


def facts_of(databases: Mapping[Principal, MemoryDatabase]) -> Facts:
    """Give the facts of databases in memory."""
    return _facts(
        {
            mapped: _contents(databases[principal], mapped) for principal, tables in TABLES.items() for mapped in tables
        }.__getitem__
    )


def _read(url: str, tables: tuple[Mapped[Any, Any], ...]) -> Rows:
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="REPEATABLE READ", hide_parameters=True)
    with engine.connect() as connection:
        return {
            mapped: [mapped.from_values(values) for values in connection.execute(sa.select(*mapped.columns))]
            for mapped in tables
        }


def _contents(database: MemoryDatabase, mapped: Mapped[Any, Any]) -> list[Any]:
    name = mapped.table.name
    if isinstance(mapped, AppendOnly):
        return database.contents.appended.get(name, [])
    return list(database.contents.tables.get(name, {}).values())


def _facts(rows: Callable[[Mapped[Any, Any]], list[Any]]) -> Facts:
    return Facts(
        ledger=_ledger_facts(rows),
        subscribers=rows(SUBSCRIBERS),
        addresses=rows(ADDRESSES),
        requests=rows(REQUESTS),
        fax_numbers=rows(FAX_NUMBERS),
        memberships=rows(MEMBERSHIPS),
        sagas=rows(SAGAS),
        mails=rows(MAILS),
    )


def _ledger_facts(rows: Callable[[Mapped[Any, Any]], list[Any]]) -> LedgerFacts:
    return LedgerFacts(accounts=rows(ACCOUNTS), holds=rows(HOLDS), transfers=rows(TRANSFERS), entries=rows(ENTRIES))
