"""The paid-action saga: a holder buys something for their account and pays it with the account's own units.

The units are held, what was bought is given, and then the hold is captured; what can't be given any more is not paid.
The hold's id is the saga's. What is paid with money is given at once, by the same `give`, without a saga.
"""

from dataclasses import replace
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
from services.chassis.sagas import LocalPivot, Saga, SagaRow, Step
from services.chassis.service import Moment, needs
from services.provisioning.domain import Action, Purchase
from services.provisioning.store import ACTIONS, LoadPlan, Registry
from services.provisioning.timers import arm


def reserve_units(saga: SagaRow) -> ReserveUnits:
    """Hold the price on the account. Units of an expired one pay for its extension, and for nothing else."""
    return ReserveUnits(
        hold_id=saga.id,
        account_id=account_id(saga),
        amount_units=saga.data["price_units"],
        extends=saga.data["action"] == Action.EXTENSION,
    )


def release_hold(saga: SagaRow) -> ReleaseHold:
    """Give the held units back."""
    return ReleaseHold(hold_id=saga.id, account_id=account_id(saga))


def _giving(load: LoadPlan, saga: SagaRow) -> None:
    _bought(load, saga)
    load.subscribers.add(account_id(saga))


def give_what_is_held_for(state: Registry, saga: SagaRow, moment: Moment) -> Outcome | str:
    """Give what was bought, unless the account has changed too much meanwhile. The price stays as it was shown."""
    given = give(state, _purchase(state, saga), saga.data.get("forward_to"), moment)
    return given.value if isinstance(given, ProvisioningCode) else given


def capture_hold(saga: SagaRow) -> CaptureHold:
    """Take the payment."""
    return CaptureHold(hold_id=saga.id, account_id=account_id(saga))


def _bought(load: LoadPlan, saga: SagaRow) -> None:
    load.purchases.add(UUID(saga.data["request_id"]))


@needs(_bought)
def complete(state: Registry, saga: SagaRow, moment: Moment) -> Outcome:
    """It is given and paid."""
    done = _purchase(state, saga).done(moment.now)
    state.purchases.put(done)
    return [outcome(done)]


@needs(_bought)
def refuse(state: Registry, saga: SagaRow, moment: Moment) -> Outcome:
    """Nothing happened: nothing was given, and nothing paid."""
    refused = _purchase(state, saga).refused(saga.code or ProvisioningCode.CANCELLED.value, moment.now)
    state.purchases.put(refused)
    return [outcome(refused)]


def account_id(saga: SagaRow) -> UUID:
    """Give the account that pays, and gets."""
    return UUID(saga.data["account_id"])


def _purchase(state: Registry, saga: SagaRow) -> Purchase:
    return state.purchases[UUID(saga.data["request_id"])]


def give(registry: Registry, purchase: Purchase, forward_to: str | None, moment: Moment) -> Outcome | ProvisioningCode:
    """Give an account what was bought for it, and set its timer; or say why that can't be, and change nothing.

    The purchase keeps the end that an extension gave: by the time that it is paid, another may have been given too.
    """
    account = registry.subscribers[purchase.account_id]
    code = account.why_not(purchase.action, forward_to)
    if code is not None:
        return code
    match purchase.action:
        case Action.EXTENSION:
            end = registry.extended(account, moment.now)
            if end is None:
                return ProvisioningCode.TOO_FAR_AHEAD
            account = account.lasting(end, moment.now)
            registry.subscribers.put(account)
            registry.purchases.put(replace(purchase, expires_at=account.expires_at))
            return [arm(account)]
        case Action.OPTIONS_PACK:
            registry.subscribers.put(replace(account, options_pack=True))
        case Action.CALL_FORWARDING:
            registry.subscribers.put(replace(account, forward_to=forward_to))
    return ()


def outcome(purchase: Purchase) -> Message:
    """Give the answer to whoever bought, the same however often."""
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
    """Say that nothing was bought, and why."""
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
        LocalPivot("give", apply=give_what_is_held_for, needs=_giving),  # it is given, or the account says why not
        Step("capture hold", ask=capture_hold, reference="hold_id", done=HoldCaptured),
    ),
    completed=complete,
    refused=refuse,
    deadline=timedelta(minutes=5),
    forget=frozenset({"forward_to"}),
)
