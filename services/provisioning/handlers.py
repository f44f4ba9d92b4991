"""What provisioning does with each message that is not a saga's: checks first, in a fixed order, then writes."""

from hashlib import blake2b
from uuid import UUID

from popfax_contracts.codes import ProvisioningCode
from popfax_contracts.fields import Language
from popfax_contracts.message import Command, Message
from popfax_contracts.provisioning import (
    AccountChangeRefused,
    AccountClosed,
    AccountExpired,
    AccountExpiring,
    AccountExtended,
    AccountProvisioned,
    AccountRefused,
    AddOptionsPack,
    CallForwardingDisabled,
    CancelGrant,
    CancelProvisioning,
    ChangeEmail,
    ChangeTimeZone,
    CloseAccount,
    DisableCallForwarding,
    EmailChanged,
    EnableCallForwarding,
    ExtendAccount,
    GrantPurchase,
    GrantRefused,
    OptionsPackAdded,
    PersonErased,
    PersonRecorded,
    ProvisionAccount,
    RegisterSubscriber,
    RegistrationRefused,
    SubscriberRegistered,
    TimeZoneChanged,
)
from services.chassis.messages import Effect, Incoming, Outcome, SetTimer
from services.chassis.rows import replace
from services.chassis.service import Moment, needs
from services.provisioning.domain import (
    REST,
    AccountState,
    Action,
    Address,
    Grant,
    NumberState,
    Payment,
    Plan,
    Purchase,
    Request,
    Subscriber,
)
from services.provisioning.sagas.paid_action import PAID_ACTION, apply_purchase, outcome, refusal
from services.provisioning.store import ACTIONS, LoadPlan, Registry, saga_of
from services.provisioning.timers import ExpiryDue, NumberRested, rest_of

Purchasing = ExtendAccount | AddOptionsPack | EnableCallForwarding
Changing = DisableCallForwarding | ChangeEmail | ChangeTimeZone | CloseAccount


# --- an account begins ------------------------------------------------------------------------------------------------


def _registration(load: LoadPlan, message: Incoming[RegisterSubscriber]) -> None:
    command = message.body
    load.subscribers.add(command.subscriber_id)
    load.addresses.add(command.email)
    if command.plan is not None:
        load.plans.add(command.plan)


@needs(_registration)
def register_subscriber(registry: Registry, message: Incoming[RegisterSubscriber], moment: Moment) -> Outcome:
    """Record and announce somebody who signed up with Popfax itself."""
    command, content = message.body, _content(message.body)
    known = registry.subscribers.find(command.subscriber_id)
    if known is not None:
        if known.registration != content:
            return [_registration_refused(command, ProvisioningCode.ID_CONFLICT)]
        return [_registered(known), _person(known)]
    if registry.addresses.find(command.email) is not None:
        return [_registration_refused(command, ProvisioningCode.EMAIL_TAKEN)]
    if command.plan is not None and registry.plans.find(command.plan) is None:
        return [_registration_refused(command, ProvisioningCode.UNKNOWN_PLAN)]
    subscriber = Subscriber(
        id=command.subscriber_id,
        email=command.email,
        first_name=command.first_name,
        last_name=command.last_name,
        language=command.language.value,
        plan=command.plan,
        fax_number=None,
        created_at=moment.now,
        expires_at=None,
        registration=content,
    ).lasting(command.expires_at, moment.now)
    _add(registry, subscriber)
    return [_registered(subscriber), _person(subscriber)]


def _registered(subscriber: Subscriber) -> SubscriberRegistered:
    return SubscriberRegistered(subscriber_id=subscriber.id, expires_at=subscriber.expires_at, plan=subscriber.plan)


def _registration_refused(command: RegisterSubscriber, code: ProvisioningCode) -> Message:
    return RegistrationRefused(subscriber_id=command.subscriber_id, code=code, command_type=command.TYPE)


def _provisioning(load: LoadPlan, message: Incoming[ProvisionAccount]) -> None:
    command = message.body
    load.subscribers.add(command.account_id)
    load.addresses.add(command.email)
    load.requests.add(command.request_id)
    load.plans.add(command.plan)
    load.new_accounts.append(command.plan)


@needs(_provisioning)
def provision_account(registry: Registry, message: Incoming[ProvisionAccount], moment: Moment) -> Outcome:
    """Create an account, or refuse it for good: the saga's pivot."""
    command, content = message.body, _content(message.body)
    request = registry.requests.find(command.request_id)
    if request is None:
        return _decide(registry, command, content, moment)
    same = request.code == ProvisioningCode.CANCELLED or request.content == content
    if not same or request.account_id != command.account_id:
        return [_refused(command.request_id, command.account_id, ProvisioningCode.ID_CONFLICT, command.TYPE)]
    return [_outcome(registry, request, command.TYPE)]


def _decide(registry: Registry, command: ProvisionAccount, content: bytes, moment: Moment) -> Outcome:
    plan = registry.plans.find(command.plan)
    code = _why_not(registry, command, plan)
    request = Request(command.request_id, command.account_id, code.value if code else None, content, moment.now)
    if code is not None or plan is None:
        registry.requests.put(request)
        return [_refused(command.request_id, command.account_id, code or ProvisioningCode.UNKNOWN_PLAN, command.TYPE)]
    subscriber = Subscriber(
        id=command.account_id,
        email=command.email,
        first_name=command.first_name,
        last_name=command.last_name,
        language=command.language.value,
        plan=plan.plan,
        fax_number=registry.assign_number(command.account_id) if plan.fax_number else None,
        created_at=moment.now,
        expires_at=None,
    ).lasting(plan.expiry(moment.now), moment.now)
    _add(registry, subscriber)
    request = replace(request, expires_at=subscriber.expires_at)
    registry.requests.put(request)
    return [_outcome(registry, request, command.TYPE), _person(subscriber)]


def _why_not(registry: Registry, command: ProvisionAccount, plan: Plan | None) -> ProvisioningCode | None:
    if registry.subscribers.find(command.account_id) is not None:
        return ProvisioningCode.ID_CONFLICT
    if plan is None:
        return ProvisioningCode.UNKNOWN_PLAN
    if not plan.on_sale:
        return ProvisioningCode.NOT_ON_SALE
    if plan.price_units != command.price_units:
        return ProvisioningCode.PRICE_CHANGED
    if registry.addresses.find(command.email) is not None:
        return ProvisioningCode.EMAIL_TAKEN
    return ProvisioningCode.NO_FAX_NUMBER if plan.fax_number and registry.free_numbers.is_out() else None


def _cancellation(load: LoadPlan, message: Incoming[CancelProvisioning]) -> None:
    load.subscribers.add(message.body.account_id)
    load.requests.add(message.body.request_id)


@needs(_cancellation)
def cancel_provisioning(registry: Registry, message: Incoming[CancelProvisioning], moment: Moment) -> Outcome:
    """Answer which of the two came first: the account, or this cancellation, which burns the request."""
    command = message.body
    request = registry.requests.find(command.request_id)
    if request is None:
        request = Request(command.request_id, command.account_id, ProvisioningCode.CANCELLED.value, b"", moment.now)
        registry.requests.put(request)
    if request.account_id != command.account_id:
        return [_refused(command.request_id, command.account_id, ProvisioningCode.ID_CONFLICT, command.TYPE)]
    return [_outcome(registry, request, ProvisionAccount.TYPE)]


def _outcome(registry: Registry, request: Request, command_type: str) -> Message:
    """Return a request's recorded answer, whatever the account's state now."""
    if request.code is not None:
        return _refused(request.id, request.account_id, ProvisioningCode(request.code), command_type)
    return AccountProvisioned(
        request_id=request.id,
        account_id=request.account_id,
        plan=registry.subscribers[request.account_id].plan,
        expires_at=request.expires_at,
    )


def _add(registry: Registry, subscriber: Subscriber) -> None:
    assert subscriber.email is not None, "a new account has an address"
    registry.subscribers.put(subscriber)
    registry.addresses.put(Address(subscriber.email, subscriber.id))


def _refused(request_id: UUID, account_id: UUID, code: ProvisioningCode, command_type: str) -> AccountRefused:
    return AccountRefused(request_id=request_id, account_id=account_id, code=code, command_type=command_type)


# --- somebody else pays for it ----------------------------------------------------------------------------------------


def _granting(load: LoadPlan, message: Incoming[GrantPurchase]) -> None:
    command = message.body
    load.subscribers.add(command.account_id)
    load.grants.add(command.request_id)
    load.options.add(command.action)


@needs(_granting)
def grant_purchase(registry: Registry, message: Incoming[GrantPurchase], moment: Moment) -> Outcome:
    """Extend an account, or add the options pack to it, or refuse it for good: the pivot of the saga that pays."""
    command, content = message.body, _content(message.body)
    grant = registry.grants.find(command.request_id)
    if grant is None:
        grant = _decide_grant(registry, command, content, moment)
    same = grant.code == ProvisioningCode.CANCELLED or grant.content == content
    if not same or grant.account_id != command.account_id:
        return [_grant_refused(command, ProvisioningCode.ID_CONFLICT)]
    return [_granted(grant, command)]


def _decide_grant(registry: Registry, command: GrantPurchase, content: bytes, moment: Moment) -> Grant:
    given, code, expires_at = _given(registry, command, moment), None, None
    if isinstance(given, ProvisioningCode):
        code = given.value
    else:
        registry.subscribers.put(given)
        expires_at = given.expires_at if command.action == Action.EXTENSION.value else None
    grant = Grant(
        id=command.request_id,
        account_id=command.account_id,
        action=Action(command.action),
        payer_id=command.payer_id,
        price_units=command.price_units,
        content=content,
        code=code,
        decided_at=moment.now,
        expires_at=expires_at,
    )
    registry.grants.put(grant)
    return grant


def _given(registry: Registry, command: GrantPurchase, moment: Moment) -> Subscriber | ProvisioningCode:
    """Return the account with what is granted, or why not, in the order that the contract promises."""
    action, account = Action(command.action), registry.subscribers.find(command.account_id)
    if account is None:
        return ProvisioningCode.TARGET_CLOSED
    code = account.why_not(action, None)
    if code is not None:
        return _OF_ANOTHER.get(code, code)
    if registry.is_off_sale(action):
        return ProvisioningCode.NOT_ON_SALE
    given = registry.given(account, action, None, moment.now)
    if isinstance(given, ProvisioningCode):
        return given
    if action is Action.EXTENSION and command.expires_at not in (None, account.expires_at):
        return ProvisioningCode.END_CHANGED
    return given if command.price_units == registry.price_units(action, account) else ProvisioningCode.PRICE_CHANGED


_OF_ANOTHER = {
    ProvisioningCode.ACCOUNT_CLOSED: ProvisioningCode.TARGET_CLOSED,
    ProvisioningCode.ACCOUNT_EXPIRED: ProvisioningCode.TARGET_EXPIRED,
}
"""What is said to a payer about an account that is not theirs, where the same word would mean their own."""


def _grant(load: LoadPlan, message: Incoming[CancelGrant]) -> None:
    load.grants.add(message.body.request_id)


@needs(_grant)
def cancel_grant(registry: Registry, message: Incoming[CancelGrant], moment: Moment) -> Outcome:
    """Answer which of the two came first: the grant, or this cancellation, which burns its id."""
    command = message.body
    grant = registry.grants.find(command.request_id)
    if grant is None:
        cancelled = ProvisioningCode.CANCELLED.value
        action = Action(command.action)
        grant = Grant(command.request_id, command.account_id, action, None, None, b"", cancelled, moment.now)
        registry.grants.put(grant)
    if grant.account_id != command.account_id:
        return [_grant_refused(command, ProvisioningCode.ID_CONFLICT)]
    return [_granted(grant, command)]


def _granted(grant: Grant, command: GrantPurchase | CancelGrant) -> Message:
    """Return a grant's recorded answer, whatever the account's state now."""
    if grant.code is not None:
        return _grant_refused(command, ProvisioningCode(grant.code))
    told = {
        "request_id": grant.id,
        "account_id": grant.account_id,
        "price_units": grant.price_units,
        "paid_by": grant.payer_id,
    }
    if grant.action is Action.OPTIONS_PACK:
        return OptionsPackAdded(**told)
    return AccountExtended(**told, expires_at=grant.expires_at)


def _grant_refused(command: GrantPurchase | CancelGrant, code: ProvisioningCode) -> GrantRefused:
    return GrantRefused(
        request_id=command.request_id,
        account_id=command.account_id,
        action=command.action,
        code=code,
        command_type=command.TYPE,
    )


# --- it is changed ----------------------------------------------------------------------------------------------------


def _purchase(load: LoadPlan, message: Incoming[Purchasing]) -> None:
    command = message.body
    load.subscribers.add(command.account_id)
    load.purchases.add(command.request_id)
    load.options.add(ACTIONS[type(command)].value)
    if command.payment_reference is not None:
        load.payments.add(command.payment_reference)


@needs(_purchase)
def extend_account(registry: Registry, message: Incoming[ExtendAccount], moment: Moment) -> Outcome:
    """Extend an account by its plan's validity."""
    return _buy(registry, message, None, moment)


@needs(_purchase)
def add_options_pack(registry: Registry, message: Incoming[AddOptionsPack], moment: Moment) -> Outcome:
    """Add the options pack to an account."""
    return _buy(registry, message, None, moment)


@needs(_purchase)
def enable_call_forwarding(registry: Registry, message: Incoming[EnableCallForwarding], moment: Moment) -> Outcome:
    """Forward an account's calls to a number."""
    return _buy(registry, message, message.body.forward_to, moment)


def _buy(registry: Registry, message: Incoming[Purchasing], forward_to: str | None, moment: Moment) -> Outcome:
    """Apply at once what is paid for with money; open the paid-action saga for what is paid for with units."""
    command = message.body
    action = ACTIONS[type(command)]
    asked = Purchase(command.request_id, command.account_id, action, command.price_units, _content(command))
    known = registry.purchases.find(command.request_id)
    if known is not None:
        if (known.action, known.content) != (asked.action, asked.content):
            return [refusal(asked, ProvisioningCode.ID_CONFLICT)]
        return [outcome(known)] if known.decided_at is not None else ()  # the saga will answer while it runs
    code = _why_not_buy(registry, message, asked, forward_to, moment)
    if code is not None:
        refused = asked.refused(code.value, moment.now)
        registry.purchases.put(refused)
        return [outcome(refused)]
    registry.purchases.put(asked)
    if command.price_units is not None:
        data = command.model_dump(mode="json", exclude_none=True) | {"action": action.value}
        return PAID_ACTION.begin(registry.sagas, saga_of(command.request_id), data, message, moment)
    assert command.payment_reference is not None, "what is not paid with units is paid with money"
    applied = apply_purchase(registry, asked, forward_to, moment)
    assert not isinstance(applied, ProvisioningCode), "it was checked just now"
    registry.payments.put(Payment(command.payment_reference, command.request_id))
    done = registry.purchases[command.request_id].done(moment.now)
    registry.purchases.put(done)
    return [outcome(done), *applied]


def _why_not_buy(
    registry: Registry, message: Incoming[Purchasing], asked: Purchase, forward_to: str | None, moment: Moment
) -> ProvisioningCode | None:
    """Check in the order that the contract promises. The saga checks the account again, but never the price."""
    account = registry.subscribers.find(asked.account_id)
    if account is None:
        return ProvisioningCode.UNKNOWN_ACCOUNT
    if asked.price_units is not None and message.actor != account.id:
        return ProvisioningCode.NOT_HOLDER
    code = account.why_not(asked.action, forward_to)
    if code is not None:
        return code
    if registry.is_off_sale(asked.action):
        return ProvisioningCode.NOT_ON_SALE
    if asked.action is Action.EXTENSION and registry.extended(account, moment.now) is None:
        return ProvisioningCode.TOO_FAR_AHEAD
    if asked.price_units is not None:
        return (
            None if asked.price_units == registry.price_units(asked.action, account) else ProvisioningCode.PRICE_CHANGED
        )
    used = registry.payments.find(message.body.payment_reference or "") is not None
    return ProvisioningCode.PAYMENT_USED if used else None


def _account(load: LoadPlan, message: Incoming[DisableCallForwarding | ChangeTimeZone | ExpiryDue]) -> None:
    load.subscribers.add(message.body.account_id)


@needs(_account)
def disable_call_forwarding(registry: Registry, message: Incoming[DisableCallForwarding], moment: Moment) -> Outcome:
    """Stop forwarding an account's calls."""
    account = _changeable(registry, message)
    if isinstance(account, ProvisioningCode):
        return [_change_refused(message.body, account)]
    registry.subscribers.put(replace(account, forward_to=None))
    return [CallForwardingDisabled(account_id=account.id)]


def _other_address(load: LoadPlan, message: Incoming[ChangeEmail]) -> None:
    load.leaving.add(message.body.account_id)
    load.addresses.add(message.body.email)


@needs(_other_address)
def change_email(registry: Registry, message: Incoming[ChangeEmail], moment: Moment) -> Outcome:
    """Change an account's address, and free the old one."""
    command = message.body
    account = _changeable(registry, message)
    if isinstance(account, ProvisioningCode):
        return [_change_refused(command, account)]
    holder = registry.addresses.find(command.email)
    if holder is not None and holder.subscriber_id != account.id:
        return [_change_refused(command, ProvisioningCode.EMAIL_TAKEN)]
    _give_up_address(registry, account)
    changed = replace(account, email=command.email)
    _add(registry, changed)
    return [EmailChanged(account_id=account.id), _person(changed)]


@needs(_account)
def change_time_zone(registry: Registry, message: Incoming[ChangeTimeZone], moment: Moment) -> Outcome:
    """Change where an account's holder reads days and times."""
    account = _changeable(registry, message)
    if isinstance(account, ProvisioningCode):
        return [_change_refused(message.body, account)]
    changed = replace(account, time_zone=message.body.time_zone)
    registry.subscribers.put(changed)
    return [TimeZoneChanged(account_id=account.id), _person(changed)]


def _changeable(registry: Registry, message: Incoming[Changing]) -> Subscriber | ProvisioningCode:
    """Return the account that its holder may change, or why not."""
    account = registry.subscribers.find(message.body.account_id)
    if account is None:
        return ProvisioningCode.UNKNOWN_ACCOUNT
    if message.actor != account.id:
        return ProvisioningCode.NOT_HOLDER
    return ProvisioningCode.ACCOUNT_CLOSED if account.state is AccountState.CLOSED else account


def _change_refused(command: Changing, code: ProvisioningCode) -> AccountChangeRefused:
    return AccountChangeRefused(account_id=command.account_id, code=code, command_type=command.TYPE)


def _give_up_address(registry: Registry, account: Subscriber) -> None:
    assert account.email is not None, "an account that is not closed has an address"
    registry.addresses.remove(account.email)


# --- and ends ---------------------------------------------------------------------------------------------------------


def _end(load: LoadPlan, message: Incoming[CloseAccount]) -> None:
    load.leaving.add(message.body.account_id)


@needs(_end)
def close_account(registry: Registry, message: Incoming[CloseAccount], moment: Moment) -> Outcome:
    """Close an account for good, and erase whose it was."""
    command = message.body
    account = _changeable(registry, message)
    closed = AccountClosed(account_id=command.account_id)
    if account is ProvisioningCode.ACCOUNT_CLOSED:
        return [closed]
    if isinstance(account, ProvisioningCode):
        return [_change_refused(command, account)]
    _give_up_address(registry, account)
    registry.subscribers.put(account.closed(moment.now))
    effects: list[Effect] = [closed, PersonErased(subscriber_id=account.id)]
    if account.fax_number is not None:
        number = registry.fax_numbers[account.fax_number]
        registry.fax_numbers.put(replace(number, state=NumberState.RESTING, subscriber_id=None))
        rested = NumberRested(number=number.number)
        effects.append(SetTimer(rest_of(number.number), moment.now + REST, rested))
    return effects


@needs(_account)
def expiry_due(registry: Registry, message: Incoming[ExpiryDue], moment: Moment) -> Outcome:
    """Announce what is due about an account's expiry, however late: each milestone once, then the expiry itself."""
    account = registry.subscribers.find(message.body.account_id)
    if account is None or account.state is not AccountState.ACTIVE or account.expires_at is None:
        return ()  # it was closed meanwhile
    expires_at, due = account.expires_at, account.due_days(moment.now)
    expired = expires_at <= moment.now
    told: list[Message] = [
        AccountExpiring(
            account_id=account.id,
            days=days,
            expires_at=expires_at,
            late=expired or days != due[-1],
            plan=account.plan,
        )
        for days in due
    ]
    if due:
        account = replace(account, reminded_days=due[-1])
    if expired:
        account = replace(account, state=AccountState.EXPIRED)
        told.append(AccountExpired(account_id=account.id, expires_at=expires_at, plan=account.plan))
    registry.subscribers.put(account)
    return told


def _number(load: LoadPlan, message: Incoming[NumberRested]) -> None:
    load.fax_numbers.add(message.body.number)


@needs(_number)
def number_rested(registry: Registry, message: Incoming[NumberRested], moment: Moment) -> Outcome:
    """Return a number to the pool."""
    number = registry.fax_numbers[message.body.number]
    if number.state is NumberState.RESTING:
        registry.fax_numbers.put(replace(number, state=NumberState.FREE))
    return ()


# --- what they all say ------------------------------------------------------------------------------------------------


def _person(subscriber: Subscriber) -> PersonRecorded:
    assert subscriber.language is not None, "a closed account's holder is recorded nowhere"
    return PersonRecorded(
        subscriber_id=subscriber.id,
        email=subscriber.email,
        first_name=subscriber.first_name,
        last_name=subscriber.last_name,
        language=Language(subscriber.language),
        fax_number=subscriber.fax_number,
        time_zone=subscriber.time_zone,
    )


def _content(command: Command) -> bytes:
    """Return what distinguishes two requests with the same id. Omitted fields are left out, so fields may be added."""
    return blake2b(command.model_dump_json(exclude_none=True).encode(), digest_size=16).digest()
