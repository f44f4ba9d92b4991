"""The pay-for-member sagas: an owner pays for a member's next period, or options pack, with their own Pop units.

Never an extension without its payment, never a payment without its extension: the units are held on the owner's
account before provisioning is asked, captured once it has granted what they pay for, and released if it refuses. The
hold's id and the grant's id are the saga's. The two sagas differ only in the event with which provisioning says that it
is done.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

from popfax_contracts.codes import GroupsCode
from popfax_contracts.groups import MemberPaidFor, MemberPaymentRefused, PayForMember
from popfax_contracts.ledger import HoldCaptured, HoldReleased, UnitsRefused, UnitsReserved
from popfax_contracts.message import Event
from popfax_contracts.provisioning import AccountExtended, CancelGrant, GrantPurchase, GrantRefused, OptionsPackAdded
from services.chassis.messages import Outcome
from services.chassis.sagas import Saga, SagaRow, Step
from services.chassis.service import Moment, needs
from services.groups import transitions
from services.groups.domain import Kind
from services.groups.sagas.owner_pays import capture_hold, owner, parsed, release_hold, reserve_units
from services.groups.store import LoadPlan, Roster


def grant_purchase(saga: SagaRow) -> GrantPurchase:
    """Ask for what the hold pays for."""
    data = saga.data
    return GrantPurchase(
        **_asked(saga), payer_id=owner(saga), price_units=data["price_units"], expires_at=data["shown_end"]
    )


def cancel_grant(saga: SagaRow) -> CancelGrant:
    """Call it off; the answer says whether it had already been granted."""
    return CancelGrant(**_asked(saga))


def _line(load: LoadPlan, saga: SagaRow) -> None:
    load.history.add(saga.id)


@needs(_line)
def complete(state: Roster, saga: SagaRow, moment: Moment) -> Outcome:
    """Record and announce what was granted and paid."""
    transitions.end_payment(state, saga.id, None, moment)
    return [
        MemberPaidFor(
            group_id=parsed(saga.data["group_id"]),
            owner_id=owner(saga),
            member_id=_member(saga),
            payment_id=saga.id,
            action=saga.data["action"],
            price_units=saga.data["price_units"],
            expires_at=saga.data.get("expires_at"),
        )
    ]


@needs(_line)
def refuse(state: Roster, saga: SagaRow, moment: Moment) -> Outcome:
    """Record and announce that nothing was granted, and nothing paid."""
    transitions.end_payment(state, saga.id, saga.code, moment)
    return [
        MemberPaymentRefused(
            group_id=parsed(saga.data["group_id"]),
            member_id=_member(saga),
            code=saga.code or GroupsCode.CANCELLED,
            command_type=PayForMember.TYPE,
        )
    ]


def _asked(saga: SagaRow) -> dict[str, Any]:
    return {"request_id": saga.id, "account_id": _member(saga), "action": saga.data["action"]}


def _member(saga: SagaRow) -> UUID:
    return UUID(saga.data["member_id"])


def _paying(name: str, done: type[Event], keep: tuple[str, ...] = ()) -> Saga:
    return Saga(
        name=name,
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
            Step(
                "grant purchase",
                ask=grant_purchase,
                reference="request_id",
                done=done,
                refused=GrantRefused,
                cancel=cancel_grant,  # the pivot: it is granted, or it is refused
                keep=keep,
            ),
            Step("capture hold", ask=capture_hold, reference="hold_id", done=HoldCaptured),
        ),
        completed=complete,
        refused=refuse,
        deadline=timedelta(minutes=5),
    )


EXTEND_MEMBER = _paying("extend-member", AccountExtended, keep=("expires_at",))
ADD_OPTIONS_TO_MEMBER = _paying("add-options-to-member", OptionsPackAdded)

PAY_FOR_MEMBER = {Kind.EXTENSION: EXTEND_MEMBER, Kind.OPTIONS_PACK: ADD_OPTIONS_TO_MEMBER}
"""The saga that pays for each kind of thing."""
