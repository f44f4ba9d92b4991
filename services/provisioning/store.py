"""What a batch of provisioning touches: loaded at once, saved at once."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from contracts.message import Message
from contracts.provisioning import CancelProvisioning, ProvisionAccount, RegisterSubscriber
from services._platform.database import Transaction
from services._platform.messages import Incoming
from services._platform.rows import Changes, Rows
from services.provisioning.domain import Address, FaxNumber, NumberState, Plan, Request, Subscriber
from services.provisioning.tables import ADDRESSES, FAX_NUMBERS, PLANS, REQUESTS, SUBSCRIBERS


@dataclass(frozen=True, slots=True)
class Registry:
    """The subscribers, addresses, requests and plans that a batch names, and as many free numbers as it may need."""

    subscribers: Rows[UUID, Subscriber]
    addresses: Rows[str, Address]
    requests: Rows[UUID, Request]
    plans: Rows[str, Plan]
    fax_numbers: Rows[str, FaxNumber]
    free_numbers: deque[FaxNumber]

    def assign_number(self, subscriber_id: UUID) -> str:
        """Give a free number away for good."""
        number = replace(self.free_numbers.popleft(), state=NumberState.ASSIGNED, subscriber_id=subscriber_id)
        self.fax_numbers.put(number)
        return number.number

    def changes(self) -> Sequence[Changes]:
        """Give what is to be saved."""
        return (self.subscribers, self.addresses, self.requests, self.fax_numbers)


async def load(tx: Transaction, batch: Sequence[Incoming[Message]]) -> Registry:
    """Load what a batch names: five statements, whatever its size."""
    subscribers: set[UUID] = set()
    emails: set[str] = set()
    requests: set[UUID] = set()
    plans: list[str] = []
    for message in batch:
        match message.body:
            case RegisterSubscriber() as command:
                subscribers.add(command.subscriber_id)
                emails.add(command.email)
            case ProvisionAccount() as command:
                subscribers.add(command.account_id)
                emails.add(command.email)
                requests.add(command.request_id)
                plans.append(command.plan)
            case CancelProvisioning() as command:
                subscribers.add(command.account_id)
                requests.add(command.request_id)
    on_sale = await tx.fetch(PLANS, set(plans), for_update=False)
    wanted = sum(plan is not None and plan.fax_number for plan in map(on_sale.get, plans))
    numbers = await tx.take(FAX_NUMBERS, {"state": NumberState.FREE.value}, wanted)
    return Registry(
        subscribers=await tx.fetch(SUBSCRIBERS, subscribers),
        addresses=await tx.fetch(ADDRESSES, emails),
        requests=await tx.fetch(REQUESTS, requests),
        plans=on_sale,
        fax_numbers=numbers,
        free_numbers=deque(numbers.values()),
    )
