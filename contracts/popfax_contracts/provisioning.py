"""Accounts: what provisioning is asked, what it answers, and the two compacted topics it keeps for others.

An account is a subscriber's, and has their id. It is `active`, `expired` (it keeps its units, and can be extended) or
`closed`, for ever.
"""

from typing import Annotated, Self
from uuid import UUID

from pydantic import Field, model_validator

from popfax_contracts.fields import (
    CanonicalEmail,
    ClientId,
    Email,
    Keyword,
    Language,
    Months,
    Name,
    PhoneNumber,
    PlanName,
    Reference,
    StoredName,
    Timestamp,
    Units,
)
from popfax_contracts.message import Command, Event, MalformedCommand, Marker, Refusal
from popfax_contracts.topics import (
    PROVISIONING_COMMANDS,
    PROVISIONING_COMMANDS_FROM_GROUPS,
    PROVISIONING_DIRECTORY,
    PROVISIONING_EVENTS,
    PROVISIONING_PLANS,
)


class RegisterSubscriber(
    Command, type="popfax.provisioning.register-subscriber.v1", topic=PROVISIONING_COMMANDS, key="subscriber_id"
):
    """Make known a subscriber who signed up with Popfax itself.

    `plan` and `expires_at` are their account's, where it has an end: one without never expires. Answered by
    `SubscriberRegistered`; refused with `email_taken`, `id_conflict` or `unknown_plan`.
    """

    subscriber_id: ClientId
    email: Email
    first_name: Name
    last_name: Name
    language: Language
    plan: PlanName | None = None
    expires_at: Timestamp | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.plan is None) != (self.expires_at is None):
            raise ValueError("give both plan and expires_at, or neither")
        return self


class ProvisionAccount(
    Command, type="popfax.provisioning.provision-account.v1", topic=PROVISIONING_COMMANDS_FROM_GROUPS, key="account_id"
):
    """Create a subscriber's account that somebody else pays, `price_units` being held for it.

    Answered by `AccountProvisioned`; refused, in this order, with `cancelled`, `id_conflict`, `unknown_plan`,
    `not_on_sale`, `price_changed`, `email_taken`, `no_fax_number`. The same `request_id` gets the same answer again.
    """

    request_id: UUID
    account_id: UUID
    plan: PlanName
    price_units: Units
    email: CanonicalEmail
    first_name: StoredName
    last_name: StoredName
    language: Language


class CancelProvisioning(
    Command,
    type="popfax.provisioning.cancel-provisioning.v1",
    topic=PROVISIONING_COMMANDS_FROM_GROUPS,
    key="account_id",
):
    """Call off a `ProvisionAccount` whose outcome is unknown. The answer says which of the two won.

    `AccountProvisioned` if the account is there already; else `AccountRefused` with `cancelled`, and a request that
    comes late is refused the same way.
    """

    request_id: UUID
    account_id: UUID


class _PaidAction(Command):
    """Something bought for an account: with the account's own units, or with money that the platform has received.

    With units, `price_units` is the price that the holder was shown, and the actor is the holder. With money,
    `payment_reference` is the platform's, and anybody may have paid. A reference pays once: for one purchase, whatever
    is bought and for whichever account; another one is refused with `payment_used`. A refused purchase uses no payment.
    """

    request_id: ClientId
    account_id: UUID
    price_units: Units | None = None
    payment_reference: Reference | None = None

    @model_validator(mode="after")
    def _one_payment(self) -> Self:
        if (self.price_units is None) == (self.payment_reference is None):
            raise ValueError("give either price_units or payment_reference")
        return self


class ExtendAccount(
    _PaidAction, type="popfax.provisioning.extend-account.v1", topic=PROVISIONING_COMMANDS, key="account_id"
):
    """Extend an account by its plan's validity, from its end, or from now if it has expired already.

    That is in calendar months of UTC, twelve for a year: the same day and time, or the last day of a month that does
    not have it. A plan that is no longer on sale is extended all the same, at the price that was published last.

    Paid with the account's own units (`price_units`, as the holder was shown; the actor is the holder) or with money
    that the platform has received (`payment_reference`; whoever paid). Answered by `AccountExtended`, with the end
    that this very extension gave; refused by `PaidActionRefused`, in this order, with `id_conflict`,
    `unknown_account`, `not_holder`, `account_closed`, `no_plan`, `too_far_ahead` (2200 or later), `price_changed` or
    `payment_used`, and, once units were asked for, `units_short`, `timed_out` or `cancelled`. The same `request_id`
    gets the same outcome again.
    """


class AddOptionsPack(
    _PaidAction, type="popfax.provisioning.add-options-pack.v1", topic=PROVISIONING_COMMANDS, key="account_id"
):
    """Add the options pack to an account, for as long as the account lives.

    Paid, and answered, as `ExtendAccount` is: by `OptionsPackAdded`; refused by `PaidActionRefused`, also with
    `account_expired`, `already_added` and `not_on_sale`.
    """


class EnableCallForwarding(
    _PaidAction, type="popfax.provisioning.enable-call-forwarding.v1", topic=PROVISIONING_COMMANDS, key="account_id"
):
    """Forward the account's calls to a number. Enabled again with another number it is paid again.

    Paid, and answered, as `ExtendAccount` is: by `CallForwardingEnabled`; refused by `PaidActionRefused`, also with
    `account_expired`, `already_enabled` (to that very number) and `not_on_sale`.
    """

    forward_to: PhoneNumber


class DisableCallForwarding(
    Command, type="popfax.provisioning.disable-call-forwarding.v1", topic=PROVISIONING_COMMANDS, key="account_id"
):
    """Stop forwarding calls; it costs nothing, and disabling what is not enabled succeeds.

    Answered by `CallForwardingDisabled`; refused by `AccountChangeRefused`, in this order, with `unknown_account`,
    `not_holder`, `account_closed`.
    """

    account_id: UUID


class ChangeEmail(Command, type="popfax.provisioning.change-email.v1", topic=PROVISIONING_COMMANDS, key="account_id"):
    """Give an account another e-mail address; the one that it had is free again.

    Answered by `EmailChanged`, and the directory has the new one; refused by `AccountChangeRefused`, in this order,
    with `unknown_account`, `not_holder`, `account_closed`, `email_taken`.
    """

    account_id: UUID
    email: Email


class CloseAccount(Command, type="popfax.provisioning.close-account.v1", topic=PROVISIONING_COMMANDS, key="account_id"):
    """Close an account for good, and erase who its holder was. Closing it again gets the same answer.

    Its e-mail address is free at once, its fax number after a rest of 90 days. Answered by `AccountClosed`, and a
    tombstone in the directory; refused by `AccountChangeRefused` with `unknown_account` or `not_holder`.
    """

    account_id: UUID


class SubscriberRegistered(
    Event, type="popfax.provisioning.subscriber-registered.v1", topic=PROVISIONING_EVENTS, key="subscriber_id"
):
    """The subscriber is known, and their personal data is in the directory."""

    subscriber_id: UUID
    expires_at: Timestamp | None = None


class RegistrationRefused(
    Refusal, type="popfax.provisioning.registration-refused.v1", topic=PROVISIONING_EVENTS, key="subscriber_id"
):
    """Nobody was registered. The codes are `RegisterSubscriber`'s."""

    subscriber_id: UUID


class AccountProvisioned(
    Event, type="popfax.provisioning.account-provisioned.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """The account exists and works until `expires_at`."""

    request_id: UUID
    account_id: UUID
    plan: PlanName
    expires_at: Timestamp


class AccountRefused(
    Refusal, type="popfax.provisioning.account-refused.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """No account was created, and with this `request_id` none ever will be. The codes are `ProvisionAccount`'s."""

    request_id: UUID
    account_id: UUID


class AccountExtended(
    Event, type="popfax.provisioning.account-extended.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """The account is paid and active until `expires_at`. `price_units` is None when it was paid with money."""

    request_id: UUID
    account_id: UUID
    expires_at: Timestamp
    price_units: Units | None = None


class OptionsPackAdded(
    Event, type="popfax.provisioning.options-pack-added.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """The account has the options pack, and it is paid. `price_units` is None when it was paid with money."""

    request_id: UUID
    account_id: UUID
    price_units: Units | None = None


class CallForwardingEnabled(
    Event, type="popfax.provisioning.call-forwarding-enabled.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """Calls are forwarded, and it is paid. `price_units` is None when it was paid with money."""

    request_id: UUID
    account_id: UUID
    price_units: Units | None = None


class PaidActionRefused(
    Refusal, type="popfax.provisioning.paid-action-refused.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """Nothing was bought and nothing was paid. The codes are the command's."""

    request_id: UUID
    account_id: UUID
    action: Keyword
    """What was to be bought: `extension`, `options_pack` or `call_forwarding`. More may come."""


class CallForwardingDisabled(
    Event, type="popfax.provisioning.call-forwarding-disabled.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """Calls are no longer forwarded."""

    account_id: UUID


class EmailChanged(Event, type="popfax.provisioning.email-changed.v1", topic=PROVISIONING_EVENTS, key="account_id"):
    """The account has another e-mail address, which the directory tells."""

    account_id: UUID


class AccountChangeRefused(
    Refusal, type="popfax.provisioning.account-change-refused.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """Nothing was changed. The codes are the command's."""

    account_id: UUID


class AccountExpiring(
    Event, type="popfax.provisioning.account-expiring.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """The account ends at `expires_at`, which is `days` (30, 7 or 1) ahead or less; told once each.

    `late` says that a nearer one is due already, as after an outage of weeks: it is told so that none is lost, and is
    not worth a mail of its own.
    """

    account_id: UUID
    days: Annotated[int, Field(strict=True, gt=0)]
    expires_at: Timestamp
    late: bool = False


class AccountExpired(Event, type="popfax.provisioning.account-expired.v1", topic=PROVISIONING_EVENTS, key="account_id"):
    """The account has ended at `expires_at`. It keeps its units, and can be extended."""

    account_id: UUID
    expires_at: Timestamp


class AccountClosed(Event, type="popfax.provisioning.account-closed.v1", topic=PROVISIONING_EVENTS, key="account_id"):
    """The account is closed for good, and nobody knows any more whose it was."""

    account_id: UUID


class ProvisioningCommandMalformed(
    MalformedCommand, type="popfax.provisioning.command-malformed.v1", topic=PROVISIONING_EVENTS, key="parked_id"
):
    """A command to provisioning could not be read."""


class PlanPublished(Event, type="popfax.provisioning.plan-published.v1", topic=PROVISIONING_PLANS, key="plan"):
    """Today's price of a plan, for `validity_months` of service. The newest record of a plan is the one that counts.

    It is also the price of extending an account on that plan by as many months. A plan that is no longer on sale can't
    be had for a new account (`not_on_sale`); who has it keeps it, and extends it at the price that this says.
    """

    plan: PlanName
    price_units: Units
    validity_months: Months
    fax_number: bool
    on_sale: bool = True


class OptionPublished(Event, type="popfax.provisioning.option-published.v1", topic=PROVISIONING_PLANS, key="option"):
    """Today's price of the options pack or of call forwarding. The newest record of an option counts.

    One that is no longer on sale can't be bought any more (`not_on_sale`); who has it keeps it.
    """

    option: Keyword
    """`options_pack` or `call_forwarding`. More may come."""
    price_units: Units
    on_sale: bool = True


class PersonRecorded(
    Event, type="popfax.provisioning.person-recorded.v1", topic=PROVISIONING_DIRECTORY, key="subscriber_id"
):
    """Who a subscriber is. Personal data: it travels on this topic, and in the commands that bring it, alone."""

    subscriber_id: UUID
    email: CanonicalEmail
    first_name: StoredName
    last_name: StoredName
    language: Language
    fax_number: str | None = None


class PersonErased(
    Event,
    type="popfax.provisioning.person-erased.v1",
    topic=PROVISIONING_DIRECTORY,
    key="subscriber_id",
    tombstone=True,
):
    """The subscriber's account is closed: whoever keeps their personal data erases it."""

    subscriber_id: UUID


class PlansMarker(
    Marker, type="popfax.provisioning.plans-marker.v1", topic=PROVISIONING_PLANS, key="marker_id", tombstone=True
):
    """Nothing: it keeps Kafka compacting, and is to be left out."""


class DirectoryMarker(
    Marker,
    type="popfax.provisioning.directory-marker.v1",
    topic=PROVISIONING_DIRECTORY,
    key="marker_id",
    tombstone=True,
):
    """Nothing: it keeps Kafka compacting, and is to be left out."""


ProvisioningCommand = (
    RegisterSubscriber
    | ProvisionAccount
    | CancelProvisioning
    | ExtendAccount
    | AddOptionsPack
    | EnableCallForwarding
    | DisableCallForwarding
    | ChangeEmail
    | CloseAccount
)
ProvisioningEvent = (
    SubscriberRegistered
    | RegistrationRefused
    | AccountProvisioned
    | AccountRefused
    | AccountExtended
    | OptionsPackAdded
    | CallForwardingEnabled
    | PaidActionRefused
    | CallForwardingDisabled
    | EmailChanged
    | AccountChangeRefused
    | AccountExpiring
    | AccountExpired
    | AccountClosed
    | ProvisioningCommandMalformed
)
ProvisioningPlan = PlanPublished | OptionPublished | PlansMarker
ProvisioningPerson = PersonRecorded | PersonErased | DirectoryMarker
