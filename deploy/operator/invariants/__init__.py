"""The product's invariants, each written once.

The simulation, the end-to-end tests, `popfax audit` and `popfax ledger verify` use these checks. They are pure
functions of a snapshot of the rows (`check_ledger`, `check`), of the records on the topics (`check_log`,
`check_actors`), or of both (`check_topics`, `check_tokens`), and return the violations that they find. `Invariant`
lists what is checked.

A check reads the rows about one thing together (see `rows`), so memory does not grow with the tables. While messages
are in flight (`settled` is False), only what holds at every moment is checked: a later state implies the earlier ones.
The databases' snapshots may then be of different moments, provided that these are in the order of
`deploy.operator.snapshots`. Whatever began `before` a given moment and is not done is a violation, too.
"""

from collections.abc import Iterator
from datetime import datetime

from deploy.operator.invariants.accounts import check_accounts, check_numbers
from deploy.operator.invariants.compacted import Place, check_topics, published
from deploy.operator.invariants.grants import check_grants
from deploy.operator.invariants.groups import check_groups
from deploy.operator.invariants.invariant import Invariant, Violation
from deploy.operator.invariants.ledger import check_ledger
from deploy.operator.invariants.log import Logged, check_actors, check_log, check_tokens, logged
from deploy.operator.invariants.mails import check_mails
from deploy.operator.invariants.orders import check_orders
from deploy.operator.invariants.purchases import check_purchases
from deploy.operator.invariants.sagas import check_sagas
from deploy.operator.invariants.snapshot import (
    ChassisTables,
    GroupsSnapshot,
    Lateness,
    LedgerSnapshot,
    NotificationsSnapshot,
    OutboxRow,
    ParkedRow,
    ProvisioningSnapshot,
    RemovalRow,
    Snapshot,
    TimerRow,
)
from deploy.operator.invariants.timers import check_timers
from deploy.operator.invariants.transfers import check_transfers
from deploy.operator.invariants.values import check_values
from deploy.operator.invariants.waiting import check_waiting

__all__ = [
    "ChassisTables",
    "GroupsSnapshot",
    "Invariant",
    "Lateness",
    "LedgerSnapshot",
    "Logged",
    "NotificationsSnapshot",
    "OutboxRow",
    "ParkedRow",
    "Place",
    "ProvisioningSnapshot",
    "RemovalRow",
    "Snapshot",
    "TimerRow",
    "Violation",
    "check",
    "check_actors",
    "check_ledger",
    "check_log",
    "check_purchases",
    "check_sagas",
    "check_tokens",
    "check_topics",
    "logged",
    "parts",
    "published",
]


def check(snapshot: Snapshot, settled: bool, before: datetime | None = None) -> list[Violation]:
    """Check everything that the databases' rows can show."""
    return [violation for _, found in parts(snapshot, Lateness(settled, before)) for violation in found]


def parts(snapshot: Snapshot, late: Lateness) -> Iterator[tuple[str, Iterator[Violation]]]:
    """Yield the checks of the databases one by one, each with the name of its subject."""
    yield "values", check_values(snapshot)
    yield "books", check_ledger(snapshot.ledger)
    yield "sagas", check_sagas(snapshot, late)
    yield "purchases", check_purchases(snapshot, late)
    yield "what owners pay for members", check_grants(snapshot, late)
    yield "accounts", check_accounts(snapshot, late)
    yield "fax numbers", check_numbers(snapshot.provisioning.fax_numbers)
    yield "groups", check_groups(snapshot.groups)
    yield "transfers", check_transfers(snapshot, late)
    yield "standing orders", check_orders(snapshot.groups)
    yield "mails", check_mails(snapshot, late)
    yield "timers", check_timers(snapshot)
    yield "what waits", check_waiting(snapshot, late)
