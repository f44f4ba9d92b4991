"""Units: what the ledger is asked, and what it answers.

Amounts are whole Pop units. Every command names the id of what it makes (`credit_id`, `hold_id`, `transfer_id`,
`spend_id`), chosen by the requester: the same id with the same content gets the same outcome again, and with other
content it is refused with `id_conflict`.

Balances are published on `popfax.ledger.balances` alone, which few may read. An event that changed a balance names the
version of the `BalanceChanged` that shows the change: there is no order between two topics, so whoever waits for the
change needs to recognise it.

An account that has expired keeps its units and can receive more, but spends them on its own extension alone. A closed
account does neither.
"""

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from popfax_contracts.codes import LedgerCode
from popfax_contracts.fields import ClientId, Keyword, Reference, Units, UnitsOrNone
from popfax_contracts.message import Command, Event, MalformedCommand, Marker, Refusal
from popfax_contracts.topics import (
    LEDGER_BALANCES,
    LEDGER_COMMANDS,
    LEDGER_COMMANDS_FROM_GROUPS,
    LEDGER_COMMANDS_FROM_PROVISIONING,
    LEDGER_EVENTS,
)

_OF_SAGAS = (LEDGER_COMMANDS_FROM_GROUPS, LEDGER_COMMANDS_FROM_PROVISIONING)

BalanceVersion = Annotated[int, Field(strict=True, ge=0)]
"""The version from which on a balance shows what an event says; 0 for an account on which nothing has ever changed."""


# --- units that are bought and used -----------------------------------------------------------------------------------


class UnitsCredited(Event, type="popfax.ledger.units-credited.v1", topic=LEDGER_EVENTS, key="account_id"):
    """The units that were bought are on the account."""

    credit_id: UUID
    account_id: UUID
    amount_units: Units


class CreditRefused(Refusal, type="popfax.ledger.credit-refused.v1", topic=LEDGER_EVENTS, key="account_id"):
    """Nothing was credited."""

    credit_id: UUID
    account_id: UUID


class CreditUnits(
    Command,
    type="popfax.ledger.credit-units.v1",
    topic=LEDGER_COMMANDS,
    key="account_id",
    answers=(UnitsCredited,),
    refusal=CreditRefused,
    codes=(
        LedgerCode.ID_CONFLICT,
        LedgerCode.ACCOUNT_CLOSED,
    ),
):
    """Add units that the account's holder has bought."""

    credit_id: ClientId
    account_id: UUID
    amount_units: Units


class UnitsSpent(Event, type="popfax.ledger.units-spent.v1", topic=LEDGER_EVENTS, key="account_id"):
    """The units are paid to Popfax."""

    spend_id: UUID
    account_id: UUID
    amount_units: Units
    purpose: Keyword
    """What for, as it was asked for."""
    reference: Reference


class SpendRefused(Refusal, type="popfax.ledger.spend-refused.v1", topic=LEDGER_EVENTS, key="account_id"):
    """Nothing was spent."""

    spend_id: UUID
    account_id: UUID


class SpendUnits(
    Command,
    type="popfax.ledger.spend-units.v1",
    topic=LEDGER_COMMANDS,
    key="account_id",
    answers=(UnitsSpent,),
    refusal=SpendRefused,
    codes=(
        LedgerCode.ID_CONFLICT,
        LedgerCode.NOT_HOLDER,
        LedgerCode.ACCOUNT_CLOSED,
        LedgerCode.ACCOUNT_EXPIRED,
        LedgerCode.UNITS_SHORT,
    ),
):
    """Pay for something that the account's holder used: a fax, an SMS, a forwarded call.

    The actor is the holder. `reference` is the platform's own reference to what was used.
    """

    spend_id: ClientId
    account_id: UUID
    amount_units: Units
    purpose: Literal["fax", "sms", "call_forwarding"]
    reference: Reference


# --- holds ------------------------------------------------------------------------------------------------------------


class UnitsReserved(Event, type="popfax.ledger.units-reserved.v1", topic=LEDGER_EVENTS, key="account_id"):
    """The hold is open: its units can't be spent on anything else."""

    hold_id: UUID
    account_id: UUID
    amount_units: Units


class UnitsRefused(Refusal, type="popfax.ledger.units-refused.v1", topic=LEDGER_EVENTS, key="account_id"):
    """Nothing was held."""

    hold_id: UUID
    account_id: UUID


class ReserveUnits(
    Command,
    type="popfax.ledger.reserve-units.v1",
    topic=_OF_SAGAS,
    key="account_id",
    answers=(UnitsReserved,),
    refusal=UnitsRefused,
    codes=(
        LedgerCode.HOLD_CANCELLED,
        LedgerCode.ID_CONFLICT,
        LedgerCode.ACCOUNT_CLOSED,
        LedgerCode.ACCOUNT_EXPIRED,
        LedgerCode.UNITS_SHORT,
    ),
):
    """Hold units of an account for a payment that a saga is about to make. The hold belongs to the asking principal.

    A hold has no deadline of its own: it lasts until its saga captures or releases it. `extends` says that it pays for
    the extension of this very account, which may then have expired.
    """

    hold_id: UUID
    account_id: UUID
    amount_units: Units
    extends: bool = False


class HoldCaptured(Event, type="popfax.ledger.hold-captured.v1", topic=LEDGER_EVENTS, key="account_id"):
    """The held units are paid to Popfax."""

    hold_id: UUID
    account_id: UUID
    amount_units: Units
    version: BalanceVersion = 0


class CaptureRefused(Refusal, type="popfax.ledger.capture-refused.v1", topic=LEDGER_EVENTS, key="account_id"):
    """Nothing was captured. No saga should ever cause this: whoever sees it has found a bug."""

    hold_id: UUID
    account_id: UUID


class CaptureHold(
    Command,
    type="popfax.ledger.capture-hold.v1",
    topic=_OF_SAGAS,
    key="account_id",
    answers=(HoldCaptured,),
    refusal=CaptureRefused,
    codes=(LedgerCode.HOLD_NOT_OPEN,),
):
    """Turn a hold of the asking principal's into a payment to Popfax."""

    hold_id: UUID
    account_id: UUID


class HoldReleased(Event, type="popfax.ledger.hold-released.v1", topic=LEDGER_EVENTS, key="account_id"):
    """The hold is closed without a payment. `amount_units` became available again: 0 if nothing was held."""

    hold_id: UUID
    account_id: UUID
    amount_units: UnitsOrNone
    version: BalanceVersion = 0


class ReleaseRefused(Refusal, type="popfax.ledger.release-refused.v1", topic=LEDGER_EVENTS, key="account_id"):
    """Nothing was given back."""

    hold_id: UUID
    account_id: UUID


class ReleaseHold(
    Command,
    type="popfax.ledger.release-hold.v1",
    topic=_OF_SAGAS,
    key="account_id",
    answers=(HoldReleased,),
    refusal=ReleaseRefused,
    codes=(
        LedgerCode.ID_CONFLICT,
        LedgerCode.HOLD_CAPTURED,
    ),
):
    """Return held units to the account.

    Releasing a hold that was never reserved succeeds and burns its id: a reservation that arrives late is refused.
    """

    hold_id: UUID
    account_id: UUID


# --- transfers --------------------------------------------------------------------------------------------------------


class PostedLeg(BaseModel):
    """What one target got: 0 units if it had its preset balance already."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    account_id: UUID
    amount_units: UnitsOrNone
    version: BalanceVersion = 0


class TransfersPosted(Event, type="popfax.ledger.transfers-posted.v1", topic=LEDGER_EVENTS, key="source_id"):
    """Every target has its units, and the source has paid for them. `version` is the source's."""

    transfer_id: UUID
    source_id: UUID
    legs: tuple[PostedLeg, ...]
    total_units: Annotated[int, Field(strict=True, ge=0)]
    version: BalanceVersion = 0


class TransfersRefused(Refusal, type="popfax.ledger.transfers-refused.v1", topic=LEDGER_EVENTS, key="source_id"):
    """Nothing was moved."""

    transfer_id: UUID
    source_id: UUID


class Leg(BaseModel):
    """One target of a transfer: either an amount, or whatever brings its available units up to a preset balance."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    account_id: UUID
    amount_units: Units | None = None
    top_up_to_units: Units | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.amount_units is None) == (self.top_up_to_units is None):
            raise ValueError("give either amount_units or top_up_to_units")
        return self


class PostTransfers(
    Command,
    type="popfax.ledger.post-transfers.v1",
    topic=LEDGER_COMMANDS_FROM_GROUPS,
    key="source_id",
    answers=(TransfersPosted,),
    refusal=TransfersRefused,
    codes=(
        LedgerCode.ID_CONFLICT,
        LedgerCode.NOT_HOLDER,
        LedgerCode.ACCOUNT_CLOSED,
        LedgerCode.ACCOUNT_EXPIRED,
        LedgerCode.TARGET_CLOSED,
        LedgerCode.UNITS_SHORT,
    ),
):
    """Move units from one account to one or many others, all or nothing.

    The actor is the holder of the source. Each target is named once, and is not the source. `reference` says what the
    transfer is for, such as the group's id.
    """

    transfer_id: UUID
    source_id: UUID
    reference: Reference | None = None
    legs: Annotated[tuple[Leg, ...], Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        ids = {leg.account_id for leg in self.legs}
        if len(ids) != len(self.legs):
            raise ValueError("a target is named twice")
        if self.source_id in ids:
            raise ValueError("the source is among the targets")
        return self


# --- what is on an account --------------------------------------------------------------------------------------------


class BalanceCorrected(Event, type="popfax.ledger.balance-corrected.v1", topic=LEDGER_EVENTS, key="account_id"):
    """An operator posted a correction: `amount_units` came to the account or, if negative, left it.

    The ledger's audit table says why, and who posted it.
    """

    correction_id: UUID
    account_id: UUID
    amount_units: Annotated[int, Field(strict=True)]


class BalanceChanged(Event, type="popfax.ledger.balance-changed.v1", topic=LEDGER_BALANCES, key="account_id"):
    """What is on an account now: `available_units` can be spent; the balance also counts what open holds keep back.

    `version` rises by one with every change, so a reader that has a higher one leaves this record out. Of several
    changes at one moment only the last is published.
    """

    account_id: UUID
    version: Annotated[int, Field(strict=True, ge=1)]
    balance_units: Annotated[int, Field(strict=True, ge=0)]
    available_units: Annotated[int, Field(strict=True, ge=0)]


class BalancesMarker(
    Marker, type="popfax.ledger.balances-marker.v1", topic=LEDGER_BALANCES, key="marker_id", tombstone=True
):
    """Says nothing. It makes Kafka compact the topic; leave it out."""


# --- what can't be read, and what is on each topic --------------------------------------------------------------------


class LedgerCommandMalformed(
    MalformedCommand, type="popfax.ledger.command-malformed.v1", topic=LEDGER_EVENTS, key="parked_id"
):
    """A command to the ledger could not be read."""


LedgerCommand = CreditUnits | ReserveUnits | CaptureHold | ReleaseHold | PostTransfers | SpendUnits
LedgerEvent = (
    UnitsCredited
    | CreditRefused
    | UnitsReserved
    | UnitsRefused
    | HoldCaptured
    | CaptureRefused
    | HoldReleased
    | ReleaseRefused
    | TransfersPosted
    | TransfersRefused
    | UnitsSpent
    | SpendRefused
    | BalanceCorrected
    | LedgerCommandMalformed
)
LedgerBalance = BalanceChanged | BalancesMarker
