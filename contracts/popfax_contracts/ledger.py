"""Units: what the ledger is asked, and what it answers.

Amounts are whole Pop units. Every command names the id of the thing that it makes (`credit_id`, `hold_id`,
`transfer_id`, `spend_id`), chosen by who asks: the same id with the same content gets the same outcome again, with
other content it is refused with `id_conflict`. A balance is never in a message that others than its holder's side may
read: those travel on `popfax.ledger.balances` alone. What changed one names the version of the `BalanceChanged` that
tells it, so that whoever waits for the change knows when they see it: there is no order between two topics.

An account that has expired keeps its units and can receive more, but spends them on its own extension alone; one that
is closed does neither.
"""

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
"""From which version on a balance shows what an event tells; 0 of an account on which nothing ever changed."""


class CreditUnits(Command, type="popfax.ledger.credit-units.v1", topic=LEDGER_COMMANDS, key="account_id"):
    """Add units that the account's holder bought.

    Answered by `UnitsCredited`; refused by `CreditRefused` with `id_conflict` or `account_closed`.
    """

    credit_id: ClientId
    account_id: UUID
    amount_units: Units


class ReserveUnits(Command, type="popfax.ledger.reserve-units.v1", topic=_OF_SAGAS, key="account_id"):
    """Hold units of an account for a payment that a saga is about to make. The hold is the asking principal's.

    Answered by `UnitsReserved`; refused by `UnitsRefused`, in this order, with `hold_cancelled` (its release came
    first), `id_conflict`, `account_closed`, `account_expired` (unless it `extends` that very account), `units_short`. A
    hold has no deadline of its own: it lasts until its saga captures or releases it.
    """

    hold_id: UUID
    account_id: UUID
    amount_units: Units
    extends: bool = False


class CaptureHold(Command, type="popfax.ledger.capture-hold.v1", topic=_OF_SAGAS, key="account_id"):
    """Turn a hold into a payment to Popfax. Answered by `HoldCaptured`; refused with `hold_not_open`.

    Another principal's hold is as good as none.
    """

    hold_id: UUID
    account_id: UUID


class ReleaseHold(Command, type="popfax.ledger.release-hold.v1", topic=_OF_SAGAS, key="account_id"):
    """Give held units back. Answered by `HoldReleased`; refused with `hold_captured` or `id_conflict`.

    Another principal's hold, or another account's, is an `id_conflict`. Releasing a hold that never was succeeds, and
    burns its id: a reservation that comes late is refused.
    """

    hold_id: UUID
    account_id: UUID


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
    Command, type="popfax.ledger.post-transfers.v1", topic=LEDGER_COMMANDS_FROM_GROUPS, key="source_id"
):
    """Move units from one account to one or many, all or nothing. A target is named once, and is not the source.

    Answered by `TransfersPosted`; refused by `TransfersRefused`, in this order, with `id_conflict`, `not_holder` (the
    actor is not the source), `account_closed` or `account_expired` (the source is), `target_closed`, `units_short`.
    `reference` is what asked for it, such as the group's id.
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


class SpendUnits(Command, type="popfax.ledger.spend-units.v1", topic=LEDGER_COMMANDS, key="account_id"):
    """Pay for something that the account's holder used: a fax, an SMS, a forwarded call.

    `reference` is the platform's own, of what was used. Answered by `UnitsSpent`; refused by `SpendRefused`, in this
    order, with `id_conflict`, `not_holder` (the actor is not the account), `account_closed`, `account_expired`,
    `units_short`.
    """

    spend_id: ClientId
    account_id: UUID
    amount_units: Units
    purpose: Literal["fax", "sms", "call_forwarding"]
    reference: Reference


class UnitsCredited(Event, type="popfax.ledger.units-credited.v1", topic=LEDGER_EVENTS, key="account_id"):
    """Bought units are on the account."""

    credit_id: UUID
    account_id: UUID
    amount_units: Units


class CreditRefused(Refusal, type="popfax.ledger.credit-refused.v1", topic=LEDGER_EVENTS, key="account_id"):
    """Nothing was credited: `id_conflict` or `account_closed`."""

    credit_id: UUID
    account_id: UUID


class UnitsReserved(Event, type="popfax.ledger.units-reserved.v1", topic=LEDGER_EVENTS, key="account_id"):
    """The hold is open: its units can't be spent otherwise."""

    hold_id: UUID
    account_id: UUID
    amount_units: Units


class UnitsRefused(Refusal, type="popfax.ledger.units-refused.v1", topic=LEDGER_EVENTS, key="account_id"):
    """Nothing was held. The codes are `ReserveUnits`'s."""

    hold_id: UUID
    account_id: UUID


class HoldCaptured(Event, type="popfax.ledger.hold-captured.v1", topic=LEDGER_EVENTS, key="account_id"):
    """The held units are paid to Popfax."""

    hold_id: UUID
    account_id: UUID
    amount_units: Units
    version: BalanceVersion = 0


class CaptureRefused(Refusal, type="popfax.ledger.capture-refused.v1", topic=LEDGER_EVENTS, key="account_id"):
    """Nothing was captured: `hold_not_open`. No saga of ours causes it; whoever sees it has found a bug."""

    hold_id: UUID
    account_id: UUID


class HoldReleased(Event, type="popfax.ledger.hold-released.v1", topic=LEDGER_EVENTS, key="account_id"):
    """The hold is closed without payment. `amount_units` is what became available again, 0 if nothing was held."""

    hold_id: UUID
    account_id: UUID
    amount_units: UnitsOrNone
    version: BalanceVersion = 0


class ReleaseRefused(Refusal, type="popfax.ledger.release-refused.v1", topic=LEDGER_EVENTS, key="account_id"):
    """Nothing was given back: `hold_captured`, or `id_conflict` (it is another account's, or another principal's)."""

    hold_id: UUID
    account_id: UUID


class PostedLeg(BaseModel):
    """What one target got: 0 when it had its preset balance already."""

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
    """Nothing was moved. The codes are `PostTransfers`'s."""

    transfer_id: UUID
    source_id: UUID


class UnitsSpent(Event, type="popfax.ledger.units-spent.v1", topic=LEDGER_EVENTS, key="account_id"):
    """The units are paid to Popfax."""

    spend_id: UUID
    account_id: UUID
    amount_units: Units
    purpose: Keyword
    """What for, as it was asked for."""
    reference: Reference


class SpendRefused(Refusal, type="popfax.ledger.spend-refused.v1", topic=LEDGER_EVENTS, key="account_id"):
    """Nothing was spent. The codes are `SpendUnits`'s."""

    spend_id: UUID
    account_id: UUID


class BalanceCorrected(Event, type="popfax.ledger.balance-corrected.v1", topic=LEDGER_EVENTS, key="account_id"):
    """An operator posted a correction: `amount_units` came to the account, or left it if negative.

    Why, and who it was, is in the ledger's audit table.
    """

    correction_id: UUID
    account_id: UUID
    amount_units: Annotated[int, Field(strict=True)]


class BalanceChanged(Event, type="popfax.ledger.balance-changed.v1", topic=LEDGER_BALANCES, key="account_id"):
    """What is on an account now: `available_units` can be spent, the balance is that and what open holds keep back.

    `version` rises by one with every change: a reader that has a higher one already leaves this one out. Of several
    changes in one moment only the last is told.
    """

    account_id: UUID
    version: Annotated[int, Field(strict=True, ge=1)]
    balance_units: Annotated[int, Field(strict=True, ge=0)]
    available_units: Annotated[int, Field(strict=True, ge=0)]


class LedgerCommandMalformed(
    MalformedCommand, type="popfax.ledger.command-malformed.v1", topic=LEDGER_EVENTS, key="parked_id"
):
    """A command to the ledger could not be read."""


class BalancesMarker(
    Marker, type="popfax.ledger.balances-marker.v1", topic=LEDGER_BALANCES, key="marker_id", tombstone=True
):
    """Nothing: it keeps Kafka compacting, and is to be left out."""


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
