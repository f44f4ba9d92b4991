"""What must be true of the whole product, written once.

The simulation, the end-to-end tests and the operator's `popfax audit` and `popfax ledger verify` all ask here. Pure
functions over facts: the services' own rows (`check_ledger`, `check`), the records of the topics (`check_log`), and
both together (`check_topics`, `check_tokens`). Each returns what it finds broken. `Code` is the list of the
invariants.

A check takes the rows that speak of one thing together (see `rows`), whatever the tables' sizes. While messages are in
flight (`settled` is False) only that is asked which is true at every moment: what comes later implies what comes
before. The facts may then be of databases that are not of one moment, if they are of moments in the order in which
`deploy.operator.snapshots` has them. What began `before` some moment and is not done has been in flight for too long.
"""

from collections.abc import Iterator
from datetime import datetime

from deploy.operator.invariants.accounts import check_accounts, check_numbers
from deploy.operator.invariants.codes import Code, Violation
from deploy.operator.invariants.compacted import Place, check_topics, told
from deploy.operator.invariants.facts import (
    AsideRow,
    Facts,
    GroupsFacts,
    Lateness,
    LedgerFacts,
    NotificationsFacts,
    Plumbing,
    ProvisioningFacts,
    TimerRow,
    UnsentRow,
)
from deploy.operator.invariants.groups import check_groups
from deploy.operator.invariants.ledger import check_ledger
from deploy.operator.invariants.log import Logged, check_log, check_tokens, logged
from deploy.operator.invariants.mails import check_mails
from deploy.operator.invariants.purchases import check_purchases
from deploy.operator.invariants.sagas import check_sagas
from deploy.operator.invariants.timers import check_timers
from deploy.operator.invariants.transfers import check_transfers
from deploy.operator.invariants.values import check_values
from deploy.operator.invariants.waiting import check_waiting

__all__ = [
    "AsideRow",
    "Code",
    "Facts",
    "GroupsFacts",
    "Lateness",
    "LedgerFacts",
    "Logged",
    "NotificationsFacts",
    "Place",
    "Plumbing",
    "ProvisioningFacts",
    "TimerRow",
    "UnsentRow",
    "Violation",
    "check",
    "check_ledger",
    "check_log",
    "check_purchases",
    "check_sagas",
    "check_tokens",
    "check_topics",
    "logged",
    "parts",
    "told",
]


def check(facts: Facts, settled: bool, before: datetime | None = None) -> list[Violation]:
    """Check everything that the databases tell."""
    return [violation for _, found in parts(facts, Lateness(settled, before)) for violation in found]


def parts(facts: Facts, late: Lateness) -> Iterator[tuple[str, Iterator[Violation]]]:
    """Return the checks of everything that the databases tell, one after the other, each with what it is about."""
    yield "values", check_values(facts)
    yield "books", check_ledger(facts.ledger)
    yield "sagas", check_sagas(facts, late)
    yield "purchases", check_purchases(facts, late)
    yield "accounts", check_accounts(facts, late)
    yield "fax numbers", check_numbers(facts.provisioning.fax_numbers)
    yield "groups", check_groups(facts.groups)
    yield "transfers", check_transfers(facts, late)
    yield "mails", check_mails(facts, late)
    yield "timers", check_timers(facts)
    yield "what waits", check_waiting(facts, late)
