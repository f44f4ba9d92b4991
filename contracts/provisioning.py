"""Accounts: what provisioning is asked, what it answers, and the two compacted topics it keeps for others."""

from datetime import datetime
from uuid import UUID

from contracts.fields import CanonicalEmail, Email, Language, Name, PlanName, Units
from contracts.message import Command, Event, MalformedCommand, Refusal
from contracts.topics import (
    PROVISIONING_COMMANDS,
    PROVISIONING_DIRECTORY,
    PROVISIONING_EVENTS,
    PROVISIONING_PLANS,
)


class RegisterSubscriber(
    Command, type="popfax.provisioning.register-subscriber.v1", topic=PROVISIONING_COMMANDS, key="subscriber_id"
):
    """Make known a subscriber who signed up with Popfax itself.

    Answered by `SubscriberRegistered`; refused with `email_taken` or `id_conflict`.
    """

    subscriber_id: UUID
    email: Email
    first_name: Name
    last_name: Name
    language: Language


class ProvisionAccount(
    Command, type="popfax.provisioning.provision-account.v1", topic=PROVISIONING_COMMANDS, key="account_id"
):
    """Create a subscriber's account that somebody else pays, `price_units` being held for it.

    Answered by `AccountProvisioned`; refused, in this order, with `cancelled`, `id_conflict`, `unknown_plan`,
    `price_changed`, `email_taken`, `no_fax_number`. The same `request_id` gets the same answer again.
    """

    request_id: UUID
    account_id: UUID
    plan: PlanName
    price_units: Units
    email: CanonicalEmail
    first_name: Name
    last_name: Name
    language: Language


class CancelProvisioning(
    Command, type="popfax.provisioning.cancel-provisioning.v1", topic=PROVISIONING_COMMANDS, key="account_id"
):
    """Call off a `ProvisionAccount` whose outcome is unknown. The answer says which of the two won.

    `AccountProvisioned` if the account is there already; else `AccountRefused` with `cancelled`, and a request that
    comes late is refused the same way.
    """

    request_id: UUID
    account_id: UUID


class SubscriberRegistered(
    Event, type="popfax.provisioning.subscriber-registered.v1", topic=PROVISIONING_EVENTS, key="subscriber_id"
):
    """The subscriber is known, and their personal data is in the directory."""

    subscriber_id: UUID


class RegistrationRefused(
    Refusal, type="popfax.provisioning.registration-refused.v1", topic=PROVISIONING_EVENTS, key="subscriber_id"
):
    """Nobody was registered: `email_taken` or `id_conflict`."""

    subscriber_id: UUID


class AccountProvisioned(
    Event, type="popfax.provisioning.account-provisioned.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """The account exists and works until `expires_at`."""

    request_id: UUID
    account_id: UUID
    plan: PlanName
    expires_at: datetime


class AccountRefused(
    Refusal, type="popfax.provisioning.account-refused.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """No account was created, and with this `request_id` none ever will be. The codes are `ProvisionAccount`'s."""

    request_id: UUID
    account_id: UUID


class ProvisioningCommandMalformed(
    MalformedCommand, type="popfax.provisioning.command-malformed.v1", topic=PROVISIONING_EVENTS, key="command_id"
):
    """A command on `popfax.provisioning.commands` could not be read."""


class PlanPublished(Event, type="popfax.provisioning.plan-published.v1", topic=PROVISIONING_PLANS, key="plan"):
    """Today's price of a plan, for `validity_days` of service. The newest record of a plan is the one that counts."""

    plan: PlanName
    price_units: Units
    validity_days: int
    fax_number: bool


class PersonRecorded(
    Event, type="popfax.provisioning.person-recorded.v1", topic=PROVISIONING_DIRECTORY, key="subscriber_id"
):
    """Who a subscriber is. Personal data: it travels on this topic, and in the commands that bring it, alone."""

    subscriber_id: UUID
    email: CanonicalEmail
    first_name: Name
    last_name: Name
    language: Language
    fax_number: str | None = None


ProvisioningCommand = RegisterSubscriber | ProvisionAccount | CancelProvisioning
ProvisioningEvent = (
    SubscriberRegistered | RegistrationRefused | AccountProvisioned | AccountRefused | ProvisioningCommandMalformed
)
ProvisioningPlan = PlanPublished
ProvisioningPerson = PersonRecorded
