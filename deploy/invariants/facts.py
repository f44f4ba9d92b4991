"""What the invariants are asked of: the services' own rows, as `deploy.facts` reads them."""

from collections.abc import Sequence
from dataclasses import dataclass

from services._platform.sagas import SagaRow
from services.groups import domain as of_groups
from services.ledger import domain as ledger
from services.notifications.domain import Mail, Person
from services.provisioning import domain as provisioning


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """All that the ledger has written."""

    accounts: Sequence[ledger.Account]
    holds: Sequence[ledger.Hold]
    transfers: Sequence[ledger.Transfer]
    entries: Sequence[ledger.Entry]
    corrections: Sequence[ledger.Correction]


@dataclass(frozen=True, slots=True)
class GroupsFacts:
    """What groups has written, as of one moment."""

    sagas: Sequence[SagaRow]
    subscribers: Sequence[of_groups.Subscriber]
    groups: Sequence[of_groups.Group]
    memberships: Sequence[of_groups.Membership]
    invitations: Sequence[of_groups.Invitation]
    tallies: Sequence[of_groups.Tally]
    transfers: Sequence[of_groups.Transfer]
    history: Sequence[of_groups.HistoryEntry]


@dataclass(frozen=True, slots=True)
class ProvisioningFacts:
    """What provisioning has written: `purchases` as of an earlier moment than the rest."""

    purchases: Sequence[provisioning.Purchase]
    sagas: Sequence[SagaRow]
    subscribers: Sequence[provisioning.Subscriber]
    addresses: Sequence[provisioning.Address]
    requests: Sequence[provisioning.Request]
    fax_numbers: Sequence[provisioning.FaxNumber]


@dataclass(frozen=True, slots=True)
class NotificationsFacts:
    """What notifications has written."""

    people: Sequence[Person]
    mails: Sequence[Mail]


@dataclass(frozen=True, slots=True)
class Facts:
    """What all four services have written, as far as an invariant speaks of it."""

    ledger: LedgerFacts
    groups: GroupsFacts
    provisioning: ProvisioningFacts
    notifications: NotificationsFacts
