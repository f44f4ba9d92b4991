"""What invariants are checked on: the services' own rows, as `deploy.operator.snapshots` reads them.

Each field is a table. In the simulation and in tests it is a list; in the audit it is read from the database in the
order that a check needs, any number of times, always as of the same moment.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from services.chassis.sagas import SagaRow
from services.groups import domain as of_groups
from services.ledger import domain as ledger
from services.notifications.domain import Erased, Mail, Person
from services.provisioning import domain as provisioning


@dataclass(frozen=True, slots=True)
class TimerRow:
    """A timer that has not fired: when it is due, and the type and key of its message."""

    id: UUID
    due_at: datetime
    type: str
    key: str


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A message in the outbox."""

    id: UUID
    type: str
    key: str
    made_at: datetime | None


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """A parked message. A timer's has the timer's id and the topic `TIMERS`."""

    id: UUID
    topic: str
    code: str
    parked_at: datetime | None


@dataclass(frozen=True, slots=True)
class RemovalRow:
    """How far a table's old rows have been removed: those that were done before a moment may be gone."""

    of_table: str
    before: datetime


CLOCKS = timedelta(hours=1)
"""By far more than the services' clocks differ: what one says was done later may have been removed by another's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChassisTables:
    """The tables that the chassis keeps in a service's database."""

    timers: Iterable[TimerRow] = ()
    outbox: Iterable[OutboxRow] = ()
    parked: Iterable[ParkedRow] = ()
    removals: Iterable[RemovalRow] = ()

    def removal(self, table: str) -> "Removal":
        """Return how far the old rows of a table have been removed."""
        return Removal(max((row.before for row in self.removals if row.of_table == table), default=None))


@dataclass(frozen=True, slots=True)
class Removal:
    """Decides whether a row may have been removed because of its age. Without `before`, none has been."""

    before: datetime | None = None

    def __call__(self, done: datetime | None) -> bool:
        """Return whether a row that was done at that moment may be gone; one that is not done is never removed."""
        return self.before is not None and done is not None and done < self.before + CLOCKS


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSnapshot(ChassisTables):
    """The ledger's rows, as of one moment."""

    accounts: Iterable[ledger.Account]
    holds: Iterable[ledger.Hold]
    transfers: Iterable[ledger.Transfer]
    entries: Iterable[ledger.Entry]
    corrections: Iterable[ledger.Correction]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupsSnapshot(ChassisTables):
    """Groups' rows, as of one moment."""

    sagas: Iterable[SagaRow]
    subscribers: Iterable[of_groups.Subscriber]
    groups: Iterable[of_groups.Group]
    low_balances: Iterable[of_groups.LowBalance] = ()
    plans: Iterable[of_groups.Plan] = ()
    options: Iterable[of_groups.Option] = ()
    memberships: Iterable[of_groups.Membership]
    invitations: Iterable[of_groups.Invitation]
    tallies: Iterable[of_groups.Tally]
    transfers: Iterable[of_groups.Transfer]
    orders: Iterable[of_groups.StandingOrder] = ()
    history: Iterable[of_groups.HistoryEntry]
    commands: Iterable[of_groups.PostedCommand] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisioningSnapshot(ChassisTables):
    """Provisioning's rows, as of one moment; and its purchases as of an earlier one (`purchases_before`).

    Purchases are read before the ledger, so that a paid one has its entries, and again with the accounts, so that an
    account has what was bought for it.
    """

    purchases_before: Iterable[provisioning.Purchase]
    purchases: Iterable[provisioning.Purchase]
    payments: Iterable[provisioning.Payment] = ()
    sagas: Iterable[SagaRow]
    subscribers: Iterable[provisioning.Subscriber]
    addresses: Iterable[provisioning.Address]
    requests: Iterable[provisioning.Request]
    grants: Iterable[provisioning.Grant] = ()
    plans: Iterable[provisioning.Plan] = ()
    options: Iterable[provisioning.Option] = ()
    fax_numbers: Iterable[provisioning.FaxNumber]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationsSnapshot(ChassisTables):
    """Notifications' rows, as of one moment."""

    people: Iterable[Person]
    erased: Iterable[Erased] = ()
    mails: Iterable[Mail]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows of all four services that invariants refer to."""

    ledger: LedgerSnapshot
    groups: GroupsSnapshot
    provisioning: ProvisioningSnapshot
    notifications: NotificationsSnapshot


@dataclass(frozen=True, slots=True)
class Lateness:
    """Decides what may still be in flight: nothing once all is settled, otherwise whatever began since `before`.

    Without `before`, anything may be in flight, whatever its age.
    """

    settled: bool
    before: datetime | None = None

    def __call__(self, began: datetime | None) -> bool:
        """Return whether something that began then should be done by now."""
        return self.settled or self.is_old(began)

    def is_old(self, began: datetime | None) -> bool:
        """Return whether something began before `before`, settled or not."""
        return self.before is not None and began is not None and began < self.before
