"""What a batch of provisioning touches: loaded at once, saved at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from popfax_contracts.codes import ProvisioningCode
from popfax_contracts.ids import derive_own
from popfax_contracts.message import Command
from popfax_contracts.provisioning import AddOptionsPack, EnableCallForwarding, ExtendAccount
from services.chassis.database import Transaction
from services.chassis.loading import NeededRows, Supply
from services.chassis.rows import Changes, Rows, replace
from services.chassis.sagas import SagaRow
from services.provisioning.domain import (
    Action,
    Address,
    FaxNumber,
    Grant,
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
    ALL_PLANS,
    FAX_NUMBERS,
    GRANTS,
    OPTIONS,
    PAYMENTS,
    PLANS,
    PURCHASES,
    REQUESTS,
    SAGAS,
    SUBSCRIBERS,
)

ACTIONS: Mapping[type[Command], Action] = {
    ExtendAccount: Action.EXTENSION,
    AddOptionsPack: Action.OPTIONS_PACK,
    EnableCallForwarding: Action.CALL_FORWARDING,
}
"""The action that each command pays for."""

_PAID_ACTION = UUID("e3a81c67-4b0f-5d29-8e35-72c6f9d014ab")


@dataclass(frozen=True, slots=True)
class Registry:
    """The rows that a batch names, the rows that these lead to, and as many free numbers as it may need."""

    sagas: Rows[UUID, SagaRow]
    purchases: Rows[UUID, Purchase]
    payments: Rows[str, Payment]
    subscribers: Rows[UUID, Subscriber]
    addresses: Rows[str, Address]
    requests: Rows[UUID, Request]
    grants: Rows[UUID, Grant]
    plans: Rows[str, Plan]
    options: Rows[str, Option]
    fax_numbers: Rows[str, FaxNumber]
    free_numbers: Supply[FaxNumber]

    def assign_number(self, subscriber_id: UUID) -> str:
        """Assign a free number, for as long as the account lives."""
        number = replace(self.free_numbers.take(), state=NumberState.ASSIGNED, subscriber_id=subscriber_id)
        self.fax_numbers.put(number)
        return number.number

    def price_units(self, action: Action, account: Subscriber) -> int | None:
        """Return the current price of an action for an account, None if it is not on sale.

        A plan that new accounts can't have any more can still be extended by those who have it.
        """
        on_sale = self.plans[account.plan] if action is Action.EXTENSION and account.plan else self.options.find(action)
        return None if on_sale is None else on_sale.price_units

    def is_off_sale(self, action: Action) -> bool:
        """Return whether it can't be bought any more, whatever the means of payment."""
        option = self.options.find(action)
        return option is not None and not option.on_sale

    def extended(self, account: Subscriber, now: datetime) -> datetime | None:
        """Return an account's next expiry date, counted from the current one or from now; None if it is too late."""
        assert account.plan is not None, "an account without a plan is not extended"
        return self.plans[account.plan].expiry(max(now, account.expires_at or now))

    def given(
        self, account: Subscriber, action: Action, forward_to: str | None, now: datetime
    ) -> Subscriber | ProvisioningCode:
        """Return an account with what is bought for it, whoever pays, or why it can't have it; change nothing."""
        code = account.why_not(action, forward_to)
        if code is not None:
            return code
        match action:
            case Action.EXTENSION:
                end = self.extended(account, now)
                return ProvisioningCode.TOO_FAR_AHEAD if end is None else account.lasting(end, now)
            case Action.OPTIONS_PACK:
                return replace(account, options_pack=True)
            case Action.CALL_FORWARDING:
                return replace(account, forward_to=forward_to)

    def changes(self) -> Sequence[Changes]:
        """Return what is to be saved."""
        return (
            self.sagas,
            self.purchases,
            self.payments,
            self.subscribers,
            self.addresses,
            self.requests,
            self.grants,
            self.fax_numbers,
        )


class LoadPlan:
    """What a batch of provisioning needs. The accounts that it touches need their plans too."""

    def __init__(self) -> None:
        self.sagas: NeededRows[UUID, SagaRow] = NeededRows(SAGAS)
        self.purchases: NeededRows[UUID, Purchase] = NeededRows(PURCHASES)
        self.payments: NeededRows[str, Payment] = NeededRows(PAYMENTS)
        self.subscribers: NeededRows[UUID, Subscriber] = NeededRows(SUBSCRIBERS)
        self.leaving: set[UUID] = set()
        """Accounts that will give up an address, and perhaps a number."""
        self.addresses: NeededRows[str, Address] = NeededRows(ADDRESSES)
        self.requests: NeededRows[UUID, Request] = NeededRows(REQUESTS)
        self.grants: NeededRows[UUID, Grant] = NeededRows(GRANTS)
        self.plans: NeededRows[str, Plan] = NeededRows(PLANS)
        self.options: NeededRows[str, Option] = NeededRows(OPTIONS)
        self.fax_numbers: NeededRows[str, FaxNumber] = NeededRows(FAX_NUMBERS)
        self.new_accounts: list[str] = []
        """The plans of accounts to be created, each of which may need a free number."""

    async def fetch(self, tx: Transaction) -> Registry:
        """Fetch it, with one statement per table.

        A table's keys may follow from rows of earlier tables, which are locked by then. What follows from none is asked
        for together. The plans are so few that all of them are read with the accounts.
        """
        sagas = await self.sagas.fetch(tx)
        buying, paying = self.purchases.fetch(tx), self.payments.fetch(tx)
        self.subscribers |= self.leaving
        known = self.subscribers.fetch(tx)
        leaving = [account for account in (await known).loaded() if account.id in self.leaving] if self.leaving else []
        self.addresses.update(account.email for account in leaving if account.email is not None)
        taken, requesting, granting = self.addresses.fetch(tx), self.requests.fetch(tx), self.grants.fetch(tx)
        if self.subscribers:
            self.plans.add_all(ALL_PLANS)
        offered, optional = self.plans.fetch(tx, for_update=False), self.options.fetch(tx, for_update=False)
        plans = await offered
        numbers = sum(plan is not None and plan.fax_number for plan in map(plans.find, self.new_accounts))
        free = (await tx.take(FAX_NUMBERS, {"state": NumberState.FREE.value}, numbers)).loaded()
        self.fax_numbers.update(account.fax_number for account in leaving if account.fax_number is not None)
        fax_numbers = await self.fax_numbers.fetch(tx)
        return Registry(
            sagas=sagas,
            purchases=await buying,
            payments=await paying,
            subscribers=await known,
            addresses=await taken,
            requests=await requesting,
            grants=await granting,
            plans=plans,
            options=await optional,
            fax_numbers=Rows(FAX_NUMBERS, {row.number: row for row in (*free, *fax_numbers.loaded())}),
            free_numbers=Supply(free, numbers),
        )


def saga_of(request_id: UUID) -> UUID:
    """Return the id of the saga, and of the hold, of a purchase with units."""
    return derive_own(_PAID_ACTION, request_id.hex)
