"""What a batch of groups touches: loaded at once, saved at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from contracts.groups import CreateMemberAccount
from contracts.ledger import HoldCaptured
from contracts.message import Message, group_of
from contracts.provisioning import PersonRecorded, PlanPublished
from services._platform.database import Transaction
from services._platform.messages import Incoming
from services._platform.rows import Changes, Rows
from services._platform.sagas import SagaRow, Sagas
from services.groups.domain import Address, Group, Membership, Plan, account_of, membership_of
from services.groups.tables import ADDRESSES, GROUPS, MEMBERSHIPS, PLANS, SAGAS


@dataclass(frozen=True, slots=True)
class Roster:
    """The groups, addresses, plans and sagas that a batch names, and the memberships that follow from them."""

    groups: Rows[UUID, Group]
    addresses: Rows[str, Address]
    plans: Rows[str, Plan]
    sagas: Rows[UUID, SagaRow]
    memberships: Rows[UUID, Membership]

    def changes(self) -> Sequence[Changes]:
        """Give what is to be saved."""
        return (self.groups, self.addresses, self.plans, self.sagas, self.memberships)


async def load(sagas: Sagas, tx: Transaction, batch: Sequence[Incoming[Message]]) -> Roster:
    """Load what a batch names: five statements, whatever its size."""
    groups: set[UUID] = set()
    emails: set[str] = set()
    plans: set[str] = set()
    opened: set[UUID] = set()
    ending: set[UUID] = set()
    creations: list[CreateMemberAccount] = []
    newcomers: dict[str, set[UUID]] = {}
    for message in batch:
        match message.body:
            case CreateMemberAccount() as command:
                emails.add(command.email)
                plans.add(command.plan)
                opened.add(saga_of(message))
                creations.append(command)
            case PersonRecorded() as person:
                groups.add(group_of(person.subscriber_id))
                emails.add(person.email)
                newcomers.setdefault(person.email, set()).add(person.subscriber_id)
            case PlanPublished() as plan:
                plans.add(plan.plan)
            case HoldCaptured() as event:
                ending.add(event.hold_id)
    addresses = await tx.fetch(ADDRESSES, emails)
    running = await tx.fetch(SAGAS, opened | sagas.touched(batch))
    memberships = {
        membership_of(UUID(row.data["group_id"]), account_of(row.id))
        for row in map(running.get, ending)
        if row is not None
    }
    for command in creations:
        holder = addresses.get(command.email)
        holders = {holder.subscriber_id} if holder else set()
        # Who takes the address in this very batch is a holder by the time that the command's turn comes.
        holders |= newcomers.get(command.email, set())
        memberships |= {membership_of(command.group_id, subscriber_id) for subscriber_id in holders}
    return Roster(
        groups=await tx.fetch(GROUPS, groups),
        addresses=addresses,
        plans=await tx.fetch(PLANS, plans),
        sagas=running,
        memberships=await tx.fetch(MEMBERSHIPS, memberships),
    )


def saga_of(message: Incoming[Message]) -> UUID:
    """Give the id of the saga that a command opens."""
    return message.derive("create-member-account")
