"""What provisioning does with each command: checks first, in a fixed order, then writes."""

from hashlib import blake2b
from uuid import UUID

from contracts.fields import Language
from contracts.message import Message
from contracts.provisioning import (
    AccountProvisioned,
    AccountRefused,
    CancelProvisioning,
    PersonRecorded,
    ProvisionAccount,
    RegisterSubscriber,
    RegistrationRefused,
    SubscriberRegistered,
)
from services._platform.messages import Incoming, Outcome
from services._platform.service import Moment
from services.provisioning.domain import Address, Code, Plan, Request, Subscriber
from services.provisioning.store import Registry


def register_subscriber(registry: Registry, message: Incoming[RegisterSubscriber], moment: Moment) -> Outcome:
    """Make known who signed up with Popfax itself."""
    command = message.body
    known = registry.subscribers.get(command.subscriber_id)
    if known is None and registry.addresses.get(command.email) is not None:
        return [_registration_refused(command, Code.EMAIL_TAKEN)]
    if known is not None and not _is_same_person(known, command):
        return [_registration_refused(command, Code.ID_CONFLICT)]
    if known is None:
        known = Subscriber(
            id=command.subscriber_id,
            email=command.email,
            first_name=command.first_name,
            last_name=command.last_name,
            language=command.language.value,
            plan=None,
            fax_number=None,
            created_at=moment.now,
            expires_at=None,
        )
        _add(registry, known)
    return [SubscriberRegistered(subscriber_id=known.id), _person(known)]


def _is_same_person(known: Subscriber, command: RegisterSubscriber) -> bool:
    told = (command.email, command.first_name, command.last_name, command.language.value)
    return (known.email, known.first_name, known.last_name, known.language) == told


def _registration_refused(command: RegisterSubscriber, code: Code) -> Message:
    return RegistrationRefused(subscriber_id=command.subscriber_id, code=code, command_type=command.TYPE)


def provision_account(registry: Registry, message: Incoming[ProvisionAccount], moment: Moment) -> Outcome:
    """Create an account, or refuse it for good: the saga's pivot."""
    command, content = message.body, _content(message.body)
    request = registry.requests.get(command.request_id)
    if request is None:
        return _decide(registry, command, content, moment)
    same = request.code == Code.CANCELLED or request.content == content
    if not same or request.account_id != command.account_id:
        return [_refused(command.request_id, command.account_id, Code.ID_CONFLICT, command.TYPE)]
    return [_outcome(registry, request, command.TYPE)]


def _decide(registry: Registry, command: ProvisionAccount, content: bytes, moment: Moment) -> Outcome:
    plan = registry.plans.get(command.plan)
    code = _why_not(registry, command, plan)
    registry.requests.put(
        Request(command.request_id, command.account_id, code.value if code else None, content, moment.now)
    )
    if code is not None or plan is None:
        return [_refused(command.request_id, command.account_id, code or Code.UNKNOWN_PLAN, command.TYPE)]
    subscriber = Subscriber(
        id=command.account_id,
        email=command.email,
        first_name=command.first_name,
        last_name=command.last_name,
        language=command.language.value,
        plan=plan.plan,
        fax_number=registry.assign_number(command.account_id) if plan.fax_number else None,
        created_at=moment.now,
        expires_at=plan.expiry(moment.now),
    )
    _add(registry, subscriber)
    return [_provisioned(command.request_id, subscriber), _person(subscriber)]


def _why_not(registry: Registry, command: ProvisionAccount, plan: Plan | None) -> Code | None:
    if registry.subscribers.get(command.account_id) is not None:
        return Code.ID_CONFLICT
    if plan is None:
        return Code.UNKNOWN_PLAN
    if plan.price_units != command.price_units:
        return Code.PRICE_CHANGED
    if registry.addresses.get(command.email) is not None:
        return Code.EMAIL_TAKEN
    return Code.NO_FAX_NUMBER if plan.fax_number and not registry.free_numbers else None


def cancel_provisioning(registry: Registry, message: Incoming[CancelProvisioning], moment: Moment) -> Outcome:
    """Say which of the two won: the account that is there, or this cancellation, which burns the request."""
    command = message.body
    request = registry.requests.get(command.request_id)
    if request is None:
        request = Request(command.request_id, command.account_id, Code.CANCELLED.value, b"", moment.now)
        registry.requests.put(request)
    if request.account_id != command.account_id:
        return [_refused(command.request_id, command.account_id, Code.ID_CONFLICT, command.TYPE)]
    return [_outcome(registry, request, ProvisionAccount.TYPE)]


def _outcome(registry: Registry, request: Request, command_type: str) -> Message:
    """Give the answer that a request was given, again."""
    if request.code is not None:
        return _refused(request.id, request.account_id, Code(request.code), command_type)
    return _provisioned(request.id, registry.subscribers[request.account_id])


def _add(registry: Registry, subscriber: Subscriber) -> None:
    registry.subscribers.put(subscriber)
    registry.addresses.put(Address(subscriber.email, subscriber.id))


def _provisioned(request_id: UUID, subscriber: Subscriber) -> AccountProvisioned:
    assert subscriber.plan is not None, "a requested account has a plan"
    assert subscriber.expires_at is not None, "a requested account has an end"
    return AccountProvisioned(
        request_id=request_id, account_id=subscriber.id, plan=subscriber.plan, expires_at=subscriber.expires_at
    )


def _refused(request_id: UUID, account_id: UUID, code: Code, command_type: str) -> AccountRefused:
    return AccountRefused(request_id=request_id, account_id=account_id, code=code, command_type=command_type)


def _person(subscriber: Subscriber) -> PersonRecorded:
    return PersonRecorded(
        subscriber_id=subscriber.id,
        email=subscriber.email,
        first_name=subscriber.first_name,
        last_name=subscriber.last_name,
        language=Language(subscriber.language),
        fax_number=subscriber.fax_number,
    )


def _content(command: ProvisionAccount) -> bytes:
    """Give what tells two requests with the same id apart."""
    return blake2b(command.to_json(), digest_size=16).digest()
