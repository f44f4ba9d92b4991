"""The paid-action saga: a holder buys something for their account and pays with the account's own units.

The units are held, the purchase is applied, and then the hold is captured; what can't be applied any more is not paid
for. The hold's id is the saga's. A purchase paid for with money is applied at once, by the same function, without a
saga.
"""

from datetime import timedelta
from uuid import UUID

from popfax_contracts.codes import ProvisioningCode
from popfax_contracts.ledger import (
    CaptureHold,
    HoldCaptured,
    HoldReleased,
    ReleaseHold,
    ReserveUnits,
    UnitsRefused,
    UnitsReserved,
)
from popfax_contracts.message import Message
from popfax_contracts.provisioning import AccountExtended, CallForwardingEnabled, OptionsPackAdded, PaidActionRefused
from services.chassis.messages import Outcome
from services.chassis.rows import replace
from services.chassis.sagas import LocalPivot, Saga, SagaRow, Step
from services.chassis.service import Moment, needs
from services.provisioning.domain import Action, Purchase
from services.provisioning.store import ACTIONS, LoadPlan, Registry


def reserve_units(saga: SagaRow) -> ReserveUnits:
    """Hold the price on the account. An expired account's units pay only for its extension."""
    return ReserveUnits(
        hold_id=saga.id,
        account_id=account_id(saga),
        amount_units=saga.data["price_units"],
        extends=saga.data["action"] == Action.EXTENSION,
    )


def release_hold(saga: SagaRow) -> ReleaseHold:
    """Release the held units."""
    return ReleaseHold(hold_id=saga.id, account_id=account_id(saga))


def _giving(load: LoadPlan, saga: SagaRow) -> None:
    _bought(load, saga)
    load.subscribers.add(account_id(saga))


def apply_held_purchase(state: Registry, saga: SagaRow, moment: Moment) -> Outcome | str:
    """Apply the purchase, unless the account has changed too much meanwhile. The price stays as shown."""
    applied = apply_purchase(state, _purchase(state, saga), saga.data.get("forward_to"), moment)
    return applied.value if isinstance(applied, ProvisioningCode) else applied


def capture_hold(saga: SagaRow) -> CaptureHold:
    """Take the payment."""
    return CaptureHold(hold_id=saga.id, account_id=account_id(saga))


def _bought(load: LoadPlan, saga: SagaRow) -> None:
    load.purchases.add(UUID(saga.data["request_id"]))


@needs(_bought)
def complete(state: Registry, saga: SagaRow, moment: Moment) -> Outcome:
    """Record that it is applied and paid for."""
    done = _purchase(state, saga).done(moment.now)
    state.purchases.put(done)
    return [outcome(done)]


@needs(_bought)
def refuse(state: Registry, saga: SagaRow, moment: Moment) -> Outcome:
    """Record that nothing was applied, and nothing paid."""
    refused = _purchase(state, saga).refused(saga.code or ProvisioningCode.CANCELLED.value, moment.now)
    state.purchases.put(refused)
    return [outcome(refused)]


def account_id(saga: SagaRow) -> UUID:
    """Return the account that pays and benefits."""
    return UUID(saga.data["account_id"])


def _purchase(state: Registry, saga: SagaRow) -> Purchase:
    return state.purchases[UUID(saga.data["request_id"])]


def apply_purchase(
    registry: Registry, purchase: Purchase, forward_to: str | None, moment: Moment
) -> Outcome | ProvisioningCode:
    """Apply a purchase to its account; or return why not, and change nothing.

    The purchase keeps the expiry date that an extension led to: by the time it is paid for, another may have been
    applied.
    """
    account = registry.subscribers[purchase.account_id]
    given = registry.given(account, purchase.action, forward_to, moment.now)
    if isinstance(given, ProvisioningCode):
        return given
    registry.subscribers.put(given)
    if purchase.action is Action.EXTENSION:
        registry.purchases.put(replace(purchase, expires_at=given.expires_at))
    return ()


def outcome(purchase: Purchase) -> Message:
    """Return the answer to the buyer, which is the same however often it is given."""
    if purchase.code is not None:
        return refusal(purchase, purchase.code)
    ids, price = {"request_id": purchase.id, "account_id": purchase.account_id}, purchase.price_units
    match purchase.action:
        case Action.EXTENSION:
            return AccountExtended(**ids, price_units=price, expires_at=purchase.expires_at)
        case Action.OPTIONS_PACK:
            return OptionsPackAdded(**ids, price_units=price)
        case Action.CALL_FORWARDING:
            return CallForwardingEnabled(**ids, price_units=price)


_COMMANDS = {action: command for command, action in ACTIONS.items()}


def refusal(purchase: Purchase, code: str) -> PaidActionRefused:
    """Return the refusal, with its code."""
    return PaidActionRefused(
        request_id=purchase.id,
        account_id=purchase.account_id,
        action=purchase.action.value,
        code=code,
        command_type=_COMMANDS[purchase.action].TYPE,
    )


PAID_ACTION = Saga(
    name="paid-action",
    steps=(
        Step(
            "reserve units",
            ask=reserve_units,
            reference="hold_id",
            done=UnitsReserved,
            refused=UnitsRefused,
            undo=release_hold,
            undone=HoldReleased,
        ),
        LocalPivot("give", apply=apply_held_purchase, needs=_giving),  # it is applied, or the account is why not
        Step("capture hold", ask=capture_hold, reference="hold_id", done=HoldCaptured),
    ),
    completed=complete,
    refused=refuse,
    deadline=timedelta(minutes=5),
    forget=frozenset({"forward_to"}),
)
