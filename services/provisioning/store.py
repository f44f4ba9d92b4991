"""What a batch of provisioning touches: loaded at once, saved at once."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from popfax_contracts.ids import derive_own
from popfax_contracts.message import Command, Message
from popfax_contracts.provisioning import (
    AddOptionsPack,
    CancelProvisioning,
    ChangeEmail,
    CloseAccount,
    DisableCallForwarding,
    EnableCallForwarding,
    ExtendAccount,
    ProvisionAccount,
    RegisterSubscriber,
)
from services.chassis.database import Transaction
from services.chassis.messages import Incoming
from services.chassis.rows import Changes, Rows
from services.chassis.sagas import SagaRow, Sagas
from services.provisioning.domain import (
    Action,
    Address,
    FaxNumber,
    NumberState,
    Option,
    Payment,
    Plan,
    Purchase,
    Request,
    Subscriber,
)
from services.provisioning.tables import (
    ADDRESSES,
    FAX_NUMBERS,
    OPTIONS,
    PAYMENTS,
    PLANS,
    PURCHASES,
    REQUESTS,
    SAGAS,
    SUBSCRIBERS,
)
from services.provisioning.timers import ExpiryDue, NumberRested

ACTIONS: Mapping[type[Command], Action] = {
    ExtendAccount: Action.EXTENSION,
    AddOptionsPack: Action.OPTIONS_PACK,
    EnableCallForwarding: Action.CALL_FORWARDING,
}
"""What each command buys."""

_PAID_ACTION = UUID("e3a81c67-4b0f-5d29-8e35-72c6f9d014ab")


@dataclass(frozen=True, slots=True)
class Registry:
    """The rows that a batch names, those that they lead to, and as many free numbers as it may need."""

    sagas: Rows[UUID, SagaRow]
    purchases: Rows[UUID, Purchase]
    payments: Rows[str, Payment]
    subscribers: Rows[UUID, Subscriber]
    addresses: Rows[str, Address]
    requests: Rows[UUID, Request]
    plans: Rows[str, Plan]
    options: Rows[str, Option]
    fax_numbers: Rows[str, FaxNumber]
    free_numbers: deque[FaxNumber]

    def assign_number(self, subscriber_id: UUID) -> str:
        """Give a free number away, for as long as the account lives."""
        number = replace(self.free_numbers.popleft(), state=NumberState.ASSIGNED, subscriber_id=subscriber_id)
        self.fax_numbers.put(number)
        return number.number

    def price_units(self, action: Action, account: Subscriber) -> int | None:
        """Give today's price of something for an account, None where it is not on sale.

        A plan that new accounts can't have any more is extended all the same, by who has it.
        """
        on_sale = self.plans[account.plan] if action is Action.EXTENSION and account.plan else self.options.get(action)
        return None if on_sale is None else on_sale.price_units

    def is_off_sale(self, action: Action) -> bool:
        """Say whether nobody can have it any more, whatever it is paid with."""
        option = self.options.get(action)
        return option is not None and not option.on_sale

    def extended(self, account: Subscriber, now: datetime) -> datetime | None:
        """Return the end of an account's next time, from its end or from now; None beyond what messages can tell."""
        assert account.plan is not None, "an account without a plan is not extended"
        return self.plans[account.plan].expiry(max(now, account.expires_at or now))

    def changes(self) -> Sequence[Changes]:
        """Give what is to be saved."""
        return (
            self.sagas,
            self.purchases,
            self.payments,
            self.subscribers,
            self.addresses,
            self.requests,
            self.fax_numbers,
        )


@dataclass(slots=True)
class _Named:
    """What the messages of a batch name."""

    subscribers: set[UUID] = field(default_factory=set)
    purchases: set[UUID] = field(default_factory=set)
    payments: set[str] = field(default_factory=set)
    emails: set[str] = field(default_factory=set)
    requests: set[UUID] = field(default_factory=set)
    plans: set[str] = field(default_factory=set)
    options: set[str] = field(default_factory=set)
    numbers: set[str] = field(default_factory=set)
    created: list[str] = field(default_factory=list)
    """The plans of accounts that are to be created: each may need a number."""
    leaving: set[UUID] = field(default_factory=set)
    """Accounts that are about to give up an address, and perhaps a number."""

    def add(self, body: Message) -> None:
        """Note what one message names."""
        match body:
            case RegisterSubscriber():
                self.subscribers.add(body.subscriber_id)
                self.emails.add(body.email)
                self.plans |= {body.plan} if body.plan else set()
            case ProvisionAccount():
                self.subscribers.add(body.account_id)
                self.emails.add(body.email)
                self.requests.add(body.request_id)
                self.plans.add(body.plan)
                self.created.append(body.plan)
            case CancelProvisioning():
                self.subscribers.add(body.account_id)
                self.requests.add(body.request_id)
            case NumberRested():
                self.numbers.add(body.number)
            case _:
                self._add_change(body)

    def _add_change(self, body: Message) -> None:
        """Note what is named by a message that changes an account."""
        match body:
            case ExtendAccount() | AddOptionsPack() | EnableCallForwarding():
                self.subscribers.add(body.account_id)
                self.purchases.add(body.request_id)
                self.payments |= {body.payment_reference} if body.payment_reference else set()
                self.options.add(ACTIONS[type(body)].value)
            case ChangeEmail():
                self.leaving.add(body.account_id)
                self.emails.add(body.email)
            case CloseAccount():
                self.leaving.add(body.account_id)
            case DisableCallForwarding() | ExpiryDue():
                self.subscribers.add(body.account_id)


async def load(sagas: Sagas, tx: Transaction, batch: Sequence[Incoming[Message]]) -> Registry:
    """Load what a batch names and what that leads to: a statement a table, whatever its size.

    Each table's keys may follow from the tables before it, and those are locked by then.
    """
    named = _Named()
    for message in batch:
        named.add(message.body)
    running = await tx.fetch(SAGAS, sagas.touched(batch))
    paid = [row.data for row in running.values()]
    purchases = await tx.fetch(PURCHASES, named.purchases | {UUID(data["request_id"]) for data in paid})
    payments = await tx.fetch(PAYMENTS, named.payments)
    subscribers = await tx.fetch(
        SUBSCRIBERS, named.subscribers | named.leaving | {UUID(data["account_id"]) for data in paid}
    )
    leaving = [account for id_ in named.leaving if (account := subscribers.get(id_)) is not None]
    addresses = await tx.fetch(ADDRESSES, named.emails | {a.email for a in leaving if a.email is not None})
    requests = await tx.fetch(REQUESTS, named.requests)
    on_plan = {account.plan for account in subscribers.values() if account.plan is not None}
    plans = await tx.fetch(PLANS, named.plans | on_plan, for_update=False)
    options = await tx.fetch(OPTIONS, named.options, for_update=False)
    wanted = sum(plan is not None and plan.fax_number for plan in map(plans.get, named.created))
    free = await tx.take(FAX_NUMBERS, {"state": NumberState.FREE.value}, wanted)
    given = await tx.fetch(FAX_NUMBERS, named.numbers | {a.fax_number for a in leaving if a.fax_number is not None})
    return Registry(
        sagas=running,
        purchases=purchases,
        payments=payments,
        subscribers=subscribers,
        addresses=addresses,
        requests=requests,
        plans=plans,
        options=options,
        fax_numbers=Rows(FAX_NUMBERS, {row.number: row for row in (*free.values(), *given.values())}),
        free_numbers=deque(free.values()),
    )


def saga_of(request_id: UUID) -> UUID:
    """Give the id of the saga that a purchase with units runs, and of its hold."""
    return derive_own(_PAID_ACTION, request_id.hex)
