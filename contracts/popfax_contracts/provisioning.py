"""Accounts: what provisioning is asked, what it answers, and the two compacted topics that it keeps for others.

An account is a subscriber's, and has their id. It is `active`, `expired` (it keeps its units, and can be extended) or
`closed`, which is final.
"""

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from popfax_contracts.codes import ProvisioningCode
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
    StoredTimeZone,
    Timestamp,
    TimeZone,
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

GrantedAction = Literal["extension", "options_pack"]
"""What an owner can pay for: a member's next period, or the options pack."""

_HOLDERS_ALONE = (ProvisioningCode.UNKNOWN_ACCOUNT, ProvisioningCode.NOT_HOLDER)
_NOT_PAID = (
    ProvisioningCode.PRICE_CHANGED,
    ProvisioningCode.PAYMENT_USED,
    ProvisioningCode.UNITS_SHORT,
    ProvisioningCode.TIMED_OUT,
    ProvisioningCode.CANCELLED,
)


# --- an account begins ------------------------------------------------------------------------------------------------


class SubscriberRegistered(
    Event, type="popfax.provisioning.subscriber-registered.v1", topic=PROVISIONING_EVENTS, key="subscriber_id"
):
    """The subscriber is registered, and their personal data is in the directory."""

    subscriber_id: UUID
    expires_at: Timestamp | None = None
    plan: PlanName | None = None


class RegistrationRefused(
    Refusal, type="popfax.provisioning.registration-refused.v1", topic=PROVISIONING_EVENTS, key="subscriber_id"
):
    """Nobody was registered."""

    subscriber_id: UUID


class RegisterSubscriber(
    Command,
    type="popfax.provisioning.register-subscriber.v1",
    topic=PROVISIONING_COMMANDS,
    key="subscriber_id",
    answers=(SubscriberRegistered,),
    refusal=RegistrationRefused,
    codes=(
        ProvisioningCode.ID_CONFLICT,
        ProvisioningCode.EMAIL_TAKEN,
        ProvisioningCode.UNKNOWN_PLAN,
    ),
):
    """Register a subscriber who signed up with Popfax itself.

    `plan` and `expires_at` are those of their account, if it has an end: an account without them never expires.
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


class AccountProvisioned(
    Event, type="popfax.provisioning.account-provisioned.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """The account exists, and works until `expires_at`."""

    request_id: UUID
    account_id: UUID
    plan: PlanName
    expires_at: Timestamp


class AccountRefused(
    Refusal, type="popfax.provisioning.account-refused.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """No account was created, and with this `request_id` none ever will be."""

    request_id: UUID
    account_id: UUID


class ProvisionAccount(
    Command,
    type="popfax.provisioning.provision-account.v1",
    topic=PROVISIONING_COMMANDS_FROM_GROUPS,
    key="account_id",
    answers=(AccountProvisioned,),
    refusal=AccountRefused,
    codes=(
        ProvisioningCode.CANCELLED,
        ProvisioningCode.ID_CONFLICT,
        ProvisioningCode.UNKNOWN_PLAN,
        ProvisioningCode.NOT_ON_SALE,
        ProvisioningCode.PRICE_CHANGED,
        ProvisioningCode.EMAIL_TAKEN,
        ProvisioningCode.NO_FAX_NUMBER,
    ),
):
    """Create a subscriber's account that somebody else pays for, `price_units` being held for it.

    The same `request_id` gets the same answer again.
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
    answers=(AccountProvisioned, AccountRefused),
    refusal=AccountRefused,
    codes=(ProvisioningCode.ID_CONFLICT,),
):
    """Call off a `ProvisionAccount` whose outcome is unknown. The answer says which of the two won.

    `AccountProvisioned` answers if the account exists already. Otherwise an `AccountRefused` of the `ProvisionAccount`,
    with `cancelled` or the code that it was refused with before, answers; a request that arrives late is refused in the
    same way.
    """

    request_id: UUID
    account_id: UUID


# --- something is bought for it ---------------------------------------------------------------------------------------


class AccountExtended(
    Event, type="popfax.provisioning.account-extended.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """The account is paid for, and active until `expires_at`. `price_units` is None if it was paid with money.

    `paid_by` is the owner of a group who pays with units of theirs; None if the units were the account's own.
    """

    request_id: UUID
    account_id: UUID
    expires_at: Timestamp
    price_units: Units | None = None
    paid_by: UUID | None = None


class OptionsPackAdded(
    Event, type="popfax.provisioning.options-pack-added.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """The account has the options pack, and it is paid for. `price_units` is None if it was paid with money.

    `paid_by` is the owner of a group who pays with units of theirs; None if the units were the account's own.
    """

    request_id: UUID
    account_id: UUID
    price_units: Units | None = None
    paid_by: UUID | None = None


class CallForwardingEnabled(
    Event, type="popfax.provisioning.call-forwarding-enabled.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """Calls are forwarded, and it is paid for. `price_units` is None if it was paid with money."""

    request_id: UUID
    account_id: UUID
    price_units: Units | None = None


class PaidActionRefused(
    Refusal, type="popfax.provisioning.paid-action-refused.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """Nothing was bought, and nothing was paid."""

    request_id: UUID
    account_id: UUID
    action: Keyword
    """What was to be bought: `extension`, `options_pack` or `call_forwarding`. More values may come."""


class _PaidAction(Command):
    """Something bought for an account: with the account's own units, or with money that the platform has received.

    With units, `price_units` is the price that the holder was shown, and the actor is the holder. With money,
    `payment_reference` is the platform's, and anybody may have paid. A payment pays once, for one purchase, whatever is
    bought and for whichever account; another purchase is refused with `payment_used`. A purchase that is refused does
    not use the payment. The same `request_id` gets the same outcome again.
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
    _PaidAction,
    type="popfax.provisioning.extend-account.v1",
    topic=PROVISIONING_COMMANDS,
    key="account_id",
    answers=(AccountExtended,),
    refusal=PaidActionRefused,
    codes=(
        ProvisioningCode.ID_CONFLICT,
        *_HOLDERS_ALONE,
        ProvisioningCode.ACCOUNT_CLOSED,
        ProvisioningCode.NO_PLAN,
        ProvisioningCode.TOO_FAR_AHEAD,
        *_NOT_PAID,
    ),
):
    """Extend an account by its plan's validity, from its end, or from now if it has expired already.

    That is in calendar months of UTC, twelve for a year: the same day and time, or the month's last day if it does not
    have that day. A plan that is no longer on sale is extended all the same, at the price that was published last.

    It is paid for with the account's own units (`price_units`, as the holder was shown; the actor is the holder) or
    with money that the platform has received (`payment_reference`; anybody may have paid). `AccountExtended` names the
    end that this very extension gave. The same `request_id` gets the same outcome again.
    """


class AddOptionsPack(
    _PaidAction,
    type="popfax.provisioning.add-options-pack.v1",
    topic=PROVISIONING_COMMANDS,
    key="account_id",
    answers=(OptionsPackAdded,),
    refusal=PaidActionRefused,
    codes=(
        ProvisioningCode.ID_CONFLICT,
        *_HOLDERS_ALONE,
        ProvisioningCode.ACCOUNT_CLOSED,
        ProvisioningCode.ACCOUNT_EXPIRED,
        ProvisioningCode.ALREADY_ADDED,
        ProvisioningCode.NOT_ON_SALE,
        *_NOT_PAID,
    ),
):
    """Add the options pack to an account, for as long as the account exists.

    It is paid for as `ExtendAccount` is.
    """


class EnableCallForwarding(
    _PaidAction,
    type="popfax.provisioning.enable-call-forwarding.v1",
    topic=PROVISIONING_COMMANDS,
    key="account_id",
    answers=(CallForwardingEnabled,),
    refusal=PaidActionRefused,
    codes=(
        ProvisioningCode.ID_CONFLICT,
        *_HOLDERS_ALONE,
        ProvisioningCode.ACCOUNT_CLOSED,
        ProvisioningCode.ACCOUNT_EXPIRED,
        ProvisioningCode.ALREADY_ENABLED,
        ProvisioningCode.NOT_ON_SALE,
        *_NOT_PAID,
    ),
):
    """Forward the account's calls to a number. Enabling it again, with another number, is paid for again.

    It is paid for as `ExtendAccount` is.
    """

    forward_to: PhoneNumber


# --- somebody else pays for it ----------------------------------------------------------------------------------------


class GrantRefused(Refusal, type="popfax.provisioning.grant-refused.v1", topic=PROVISIONING_EVENTS, key="account_id"):
    """Nothing was granted, and with this `request_id` nothing ever will be. It says nothing about who was to pay."""

    request_id: UUID
    account_id: UUID
    action: Keyword
    """What was to be granted: `extension` or `options_pack`. More values may come."""


class _Grant(Command):
    request_id: UUID
    account_id: UUID
    action: GrantedAction


class GrantPurchase(
    _Grant,
    type="popfax.provisioning.grant-purchase.v1",
    topic=PROVISIONING_COMMANDS_FROM_GROUPS,
    key="account_id",
    answers=(AccountExtended, OptionsPackAdded),
    refusal=GrantRefused,
    codes=(
        ProvisioningCode.CANCELLED,
        ProvisioningCode.ID_CONFLICT,
        ProvisioningCode.TARGET_CLOSED,
        ProvisioningCode.NO_PLAN,
        ProvisioningCode.TARGET_EXPIRED,
        ProvisioningCode.ALREADY_ADDED,
        ProvisioningCode.NOT_ON_SALE,
        ProvisioningCode.TOO_FAR_AHEAD,
        ProvisioningCode.END_CHANGED,
        ProvisioningCode.PRICE_CHANGED,
    ),
):
    """Extend an account, or add the options pack to it: `payer_id` pays, and groups holds `price_units` of theirs.

    It does to the account what `ExtendAccount` and `AddOptionsPack` do. With `expires_at`, the account is extended only
    if it still ends when the payer was shown. The same `request_id` gets the same answer again.
    """

    payer_id: UUID
    price_units: Units
    expires_at: Timestamp | None = None


class CancelGrant(
    _Grant,
    type="popfax.provisioning.cancel-grant.v1",
    topic=PROVISIONING_COMMANDS_FROM_GROUPS,
    key="account_id",
    answers=(AccountExtended, OptionsPackAdded),
    refusal=GrantRefused,
    codes=GrantPurchase.CODES,
):
    """Call off a `GrantPurchase` whose outcome is unknown. The answer says which of the two won.

    `AccountExtended` or `OptionsPackAdded` answers if it was granted already. Otherwise `GrantRefused` answers, with
    `cancelled` or the code that it was refused with before; a `GrantPurchase` that arrives late is refused in the same
    way.
    """


# --- it is changed ----------------------------------------------------------------------------------------------------


class CallForwardingDisabled(
    Event, type="popfax.provisioning.call-forwarding-disabled.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """Calls are no longer forwarded."""

    account_id: UUID


class EmailChanged(Event, type="popfax.provisioning.email-changed.v1", topic=PROVISIONING_EVENTS, key="account_id"):
    """The account has another e-mail address, which is in the directory."""

    account_id: UUID


class TimeZoneChanged(
    Event, type="popfax.provisioning.time-zone-changed.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """The account's holder has another time zone, which is in the directory."""

    account_id: UUID


class AccountChangeRefused(
    Refusal, type="popfax.provisioning.account-change-refused.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """Nothing was changed."""

    account_id: UUID


class DisableCallForwarding(
    Command,
    type="popfax.provisioning.disable-call-forwarding.v1",
    topic=PROVISIONING_COMMANDS,
    key="account_id",
    answers=(CallForwardingDisabled,),
    refusal=AccountChangeRefused,
    codes=(
        *_HOLDERS_ALONE,
        ProvisioningCode.ACCOUNT_CLOSED,
    ),
):
    """Stop forwarding calls. It costs nothing, and succeeds if calls were not forwarded."""

    account_id: UUID


class ChangeEmail(
    Command,
    type="popfax.provisioning.change-email.v1",
    topic=PROVISIONING_COMMANDS,
    key="account_id",
    answers=(EmailChanged,),
    refusal=AccountChangeRefused,
    codes=(
        *_HOLDERS_ALONE,
        ProvisioningCode.ACCOUNT_CLOSED,
        ProvisioningCode.EMAIL_TAKEN,
    ),
):
    """Change an account's e-mail address. The previous one is free again.

    When it is done, the directory has the new address.
    """

    account_id: UUID
    email: Email


class ChangeTimeZone(
    Command,
    type="popfax.provisioning.change-time-zone.v1",
    topic=PROVISIONING_COMMANDS,
    key="account_id",
    answers=(TimeZoneChanged,),
    refusal=AccountChangeRefused,
    codes=(
        *_HOLDERS_ALONE,
        ProvisioningCode.ACCOUNT_CLOSED,
    ),
):
    """Change the time zone in which an account's holder reads days and times, in mails and on the page.

    It is `Europe/Paris` until it is changed. When it is done, the directory has the new one.
    """

    account_id: UUID
    time_zone: TimeZone


# --- it ends ----------------------------------------------------------------------------------------------------------


class AccountExpiring(
    Event, type="popfax.provisioning.account-expiring.v1", topic=PROVISIONING_EVENTS, key="account_id"
):
    """The account ends at `expires_at`, which is at most `days` (30, 7 or 1) ahead. Each is published once.

    `late` says that a nearer one is due already, as after an outage of weeks: it is published so that none is missing,
    and is not worth a mail of its own.
    """

    account_id: UUID
    days: Annotated[int, Field(strict=True, gt=0)]
    expires_at: Timestamp
    late: bool = False
    plan: PlanName | None = None


class AccountExpired(Event, type="popfax.provisioning.account-expired.v1", topic=PROVISIONING_EVENTS, key="account_id"):
    """The account has ended at `expires_at`. It keeps its units, and can be extended."""

    account_id: UUID
    expires_at: Timestamp
    plan: PlanName | None = None


class AccountClosed(Event, type="popfax.provisioning.account-closed.v1", topic=PROVISIONING_EVENTS, key="account_id"):
    """The account is closed for good, and nobody knows any more whose it was."""

    account_id: UUID


class CloseAccount(
    Command,
    type="popfax.provisioning.close-account.v1",
    topic=PROVISIONING_COMMANDS,
    key="account_id",
    answers=(AccountClosed,),
    refusal=AccountChangeRefused,
    codes=_HOLDERS_ALONE,
):
    """Close an account for good, and erase who its holder was. Closing it again gets the same answer.

    Its e-mail address is free at once, its fax number after a rest of 90 days. When it is done, the directory has a
    tombstone.
    """

    account_id: UUID


# --- what is on sale, and who everybody is ----------------------------------------------------------------------------


class PlanPublished(Event, type="popfax.provisioning.plan-published.v1", topic=PROVISIONING_PLANS, key="plan"):
    """Today's price of a plan, for `validity_months` of service. The newest record of a plan is the one that counts.

    It is also the price of extending an account with that plan by as many months. A plan that is no longer on sale
    can't be had for a new account (`not_on_sale`). Those who have it keep it, and extend it at this price.
    """

    plan: PlanName
    price_units: Units
    validity_months: Months
    fax_number: bool
    on_sale: bool = True


class OptionPublished(Event, type="popfax.provisioning.option-published.v1", topic=PROVISIONING_PLANS, key="option"):
    """Today's price of the options pack or of call forwarding. The newest record of an option is the one that counts.

    An option that is no longer on sale can't be bought any more (`not_on_sale`). Those who have it keep it.
    """

    option: Keyword
    """`options_pack` or `call_forwarding`. More values may come."""
    price_units: Units
    on_sale: bool = True


class PlansMarker(
    Marker, type="popfax.provisioning.plans-marker.v1", topic=PROVISIONING_PLANS, key="marker_id", tombstone=True
):
    """Says nothing. It makes Kafka compact the topic; leave it out."""


class PersonRecorded(
    Event, type="popfax.provisioning.person-recorded.v1", topic=PROVISIONING_DIRECTORY, key="subscriber_id"
):
    """Who a subscriber is. Personal data: it is on this topic and in the commands that bring it, and nowhere else."""

    subscriber_id: UUID
    email: CanonicalEmail
    first_name: StoredName
    last_name: StoredName
    language: Language
    fax_number: str | None = None
    time_zone: StoredTimeZone | None = None
    """Where they read days and times; none is `Europe/Paris`."""


class PersonErased(
    Event,
    type="popfax.provisioning.person-erased.v1",
    topic=PROVISIONING_DIRECTORY,
    key="subscriber_id",
    tombstone=True,
):
    """The subscriber's account is closed: whoever keeps their personal data erases it."""

    subscriber_id: UUID


class DirectoryMarker(
    Marker,
    type="popfax.provisioning.directory-marker.v1",
    topic=PROVISIONING_DIRECTORY,
    key="marker_id",
    tombstone=True,
):
    """Says nothing. It makes Kafka compact the topic; leave it out."""


# --- what can't be read, and what is on each topic --------------------------------------------------------------------


class ProvisioningCommandMalformed(
    MalformedCommand, type="popfax.provisioning.command-malformed.v1", topic=PROVISIONING_EVENTS, key="parked_id"
):
    """A command to provisioning could not be read."""


ProvisioningCommand = (
    RegisterSubscriber
    | ProvisionAccount
    | CancelProvisioning
    | ExtendAccount
    | AddOptionsPack
    | EnableCallForwarding
    | GrantPurchase
    | CancelGrant
    | DisableCallForwarding
    | ChangeEmail
    | ChangeTimeZone
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
    | GrantRefused
    | CallForwardingDisabled
    | EmailChanged
    | TimeZoneChanged
    | AccountChangeRefused
    | AccountExpiring
    | AccountExpired
    | AccountClosed
    | ProvisioningCommandMalformed
)
ProvisioningPlan = PlanPublished | OptionPublished | PlansMarker
ProvisioningPerson = PersonRecorded | PersonErased | DirectoryMarker
