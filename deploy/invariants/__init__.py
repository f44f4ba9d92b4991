"""What must be true of the whole product, written once.

The simulation, the end-to-end tests and the operator's `popfax audit` and `popfax ledger verify` all ask here. Pure
functions over facts: the services' own rows (`check_ledger`, `check`), the records of the topics (`check_log`), and
both together (`check_members`, `check_tokens`). Each gives what it finds broken; nothing broken is an empty list.
`Code` is the list of the invariants.

While messages are in flight (`settled` is False) only that is asked which is true at every moment: what comes later
implies what comes before. The facts may then come from databases read one after the other, if they are read in the
order in which `deploy.facts` does.
"""

from deploy.invariants.accounts import check_accounts
from deploy.invariants.codes import Code, Violation
from deploy.invariants.facts import Facts, GroupsFacts, LedgerFacts, NotificationsFacts, ProvisioningFacts
from deploy.invariants.groups import check_groups
from deploy.invariants.ledger import check_ledger
from deploy.invariants.log import Logged, check_log, check_members, check_tokens, logged
from deploy.invariants.mails import check_mails
from deploy.invariants.purchases import check_purchases
from deploy.invariants.sagas import check_sagas
from deploy.invariants.transfers import check_transfers

__all__ = [
    "Code",
    "Facts",
    "GroupsFacts",
    "LedgerFacts",
    "Logged",
    "NotificationsFacts",
    "ProvisioningFacts",
    "Violation",
    "check",
    "check_ledger",
    "check_log",
    "check_members",
    "check_tokens",
    "logged",
]


def check(facts: Facts, settled: bool) -> list[Violation]:
    """Check everything that the databases tell."""
    return [
        *check_ledger(facts.ledger),
        *check_sagas(facts, settled),
        *check_purchases(facts, settled),
        *check_accounts(facts, settled),
        *check_groups(facts.groups),
        *check_transfers(facts, settled),
        *check_mails(facts, settled),
    ]
