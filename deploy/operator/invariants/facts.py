"""What the invariants are asked of: the services' own rows, as `deploy.operator.snapshots` reads them.

A field is a table: a list in the simulation and in tests, and in the audit what stands in a database, read in whatever
order a check wants it, as often as one wants it, and always as of the same moment.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.chassis.sagas import SagaRow
from services.groups import domain as of_groups
from services.ledger import domain as ledger
from services.notifications.domain import Erased, Mail, Person
from services.provisioning import domain as provisioning


@dataclass(frozen=True, slots=True)
class TimerRow:
    """A timer that has not fired: when it is due, and what it tells whom."""

    id: UUID
    due_at: datetime
    type: str
    key: str


@dataclass(frozen=True, slots=True)
class UnsentRow:
    """A message in the outbox."""

    id: UUID
    type: str
    key: str
    made_at: datetime | None


@dataclass(frozen=True, slots=True)
class AsideRow:
    """A parked message: a timer's has the timer's id, and its topic is `TIMERS`."""

    id: UUID
    topic: str
    code: str
    parked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plumbing:
    """What waits in a service's own tables for something to happen."""

    timers: Iterable[TimerRow] = ()
    outbox: Iterable[UnsentRow] = ()
    parked: Iterable[AsideRow] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerFacts(Plumbing):
    """What the ledger has written, as of one moment."""

    accounts: Iterable[ledger.Account]
    holds: Iterable[ledger.Hold]
    transfers: Iterable[ledger.Transfer]
    entries: Iterable[ledger.Entry]
    corrections: Iterable[ledger.Correction]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupsFacts(Plumbing):
    """What groups has written, as of one moment."""

    sagas: Iterable[SagaRow]
    subscribers: Iterable[of_groups.Subscriber]
    groups: Iterable[of_groups.Group]
    plans: Iterable[of_groups.Plan] = ()
    memberships: Iterable[of_groups.Membership]
    invitations: Iterable[of_groups.Invitation]
    tallies: Iterable[of_groups.Tally]
    transfers: Iterable[of_groups.Transfer]
    history: Iterable[of_groups.HistoryEntry]
    commands: Iterable[of_groups.PostedCommand] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisioningFacts(Plumbing):
    """What provisioning has written, as of one moment; and its purchases as of an earlier one (`purchases_before`).

    A payment has its purchase's saga, so purchases are read before the ledger; an account has what was bought for it,
    so they are read again with the accounts.
    """

    purchases_before: Iterable[provisioning.Purchase]
    purchases: Iterable[provisioning.Purchase]
    payments: Iterable[provisioning.Payment] = ()
    sagas: Iterable[SagaRow]
    subscribers: Iterable[provisioning.Subscriber]
    addresses: Iterable[provisioning.Address]
    requests: Iterable[provisioning.Request]
    plans: Iterable[provisioning.Plan] = ()
    options: Iterable[provisioning.Option] = ()
    fax_numbers: Iterable[provisioning.FaxNumber]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationsFacts(Plumbing):
    """What notifications has written, as of one moment."""

    people: Iterable[Person]
    erased: Iterable[Erased] = ()
    mails: Iterable[Mail]


@dataclass(frozen=True, slots=True)
class Facts:
    """What all four services have written, as far as an invariant speaks of it."""

    ledger: LedgerFacts
    groups: GroupsFacts
    provisioning: ProvisioningFacts
    notifications: NotificationsFacts


@dataclass(frozen=True, slots=True)
class Lateness:
    """What may still be on its way: nothing once all is settled, else whatever began since `before`.

    Without `before` it may all be: nothing is said of age.
    """

    settled: bool
    before: datetime | None = None

    def __call__(self, began: datetime | None) -> bool:
        """Say whether what began then should be done by now."""
        return self.settled or self.is_old(began)

    def is_old(self, began: datetime | None) -> bool:
        """Say whether it is long ago that something began, settled or not."""
        return self.before is not None and began is not None and began < self.before
