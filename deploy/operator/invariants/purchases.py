"""Purchases for an account: in effect and paid, or neither."""

from collections.abc import Iterator
from uuid import UUID

from deploy.operator.invariants.invariant import Invariant, Violation
from deploy.operator.invariants.rows import by, each, in_order, merge_join, only
from deploy.operator.invariants.sagas import NOTHING_HELD, id_in
from deploy.operator.invariants.snapshot import Lateness, Removal, Snapshot
from popfax_contracts.topics import Principal
from services.chassis.sagas import SagaRow, Status
from services.ledger.domain import Hold, HoldState
from services.provisioning.domain import Payment, Purchase
from services.provisioning.sagas import PAID_ACTION
from services.provisioning.store import saga_of


def check_purchases(snapshot: Snapshot, late: Lateness) -> Iterator[Violation]:
    """Check purchases against their sagas and holds, and against payments in money."""
    own = snapshot.provisioning
    yield from each(
        merge_join(
            in_order((saga_of(each.id), each) for each in own.purchases_before),
            in_order((saga_of(each.id), each) for each in own.purchases),
            by(own.sagas, "id"),
            by(snapshot.ledger.holds, "id"),
        ),
        _purchase,
        late,
        own.removal("sagas"),
    )
    yield from each(merge_join(by(own.purchases, "id"), by(own.payments, "purchase_id")), _payment)


def is_done(purchase: Purchase) -> bool:
    """Return whether a purchase is in effect and paid, in whatever way."""
    return purchase.decided_at is not None and purchase.code is None


def is_given(saga: SagaRow) -> bool:
    """Return whether a saga's purchase is in effect: the saga is past its pivot."""
    running = saga.status is Status.RUNNING and PAID_ACTION.index(saga) > PAID_ACTION.pivot
    return running or saga.status is Status.COMPLETED


def _purchase(
    _: UUID,
    earlier: Iterator[Purchase],
    now: Iterator[Purchase],
    sagas: Iterator[SagaRow],
    holds: Iterator[Hold],
    late: Lateness,
    removed: Removal,
) -> Iterator[Violation]:
    before, purchase, saga, hold = only(earlier), only(now), only(sagas), only(holds)
    units = hold.amount_units if hold is not None and hold.state is HoldState.CAPTURED else None
    if saga is not None and units is not None and not is_given(saga):
        yield Violation(Invariant.PAYMENT_WITHOUT_PURCHASE, str(saga.id), f"paid, and its saga {saga.status}")
    if before is not None:
        yield from _decided(before, saga, hold, units)
    if purchase is None:
        if saga is not None or before is not None:
            found = saga.id if saga is not None else before and before.id
            yield Violation(Invariant.PURCHASE_MISMATCH, str(found), "there is no such purchase")
        elif hold is not None and hold.holder == Principal.PROVISIONING and units and removed(hold.closed_at):
            # Nobody else finds it: a hold that is newer is an orphan.
            yield Violation(Invariant.PAYMENT_WITHOUT_PURCHASE, str(hold.id), f"paid {units}, for nothing on record")
        return
    if saga is None and removed(purchase.decided_at):
        return  # with its hold it was compared above
    if (purchase.price_units is not None or saga is not None) and (wrong := _other_than(purchase, saga)):
        yield Violation(Invariant.PURCHASE_MISMATCH, str(purchase.id), wrong)
    if purchase.decided_at is None and late(saga.opened_at if saga is not None else None):
        yield Violation(Invariant.PURCHASE_UNDECIDED, str(purchase.id), f"{purchase.action} for {purchase.account_id}")


def _decided(purchase: Purchase, saga: SagaRow | None, hold: Hold | None, units: int | None) -> Iterator[Violation]:
    """Check a purchase that was decided before the ledger was read."""
    if is_done(purchase) and units != purchase.price_units:
        yield Violation(
            Invariant.PURCHASE_WITHOUT_PAYMENT, str(purchase.id), f"costs {purchase.price_units}, paid {units}"
        )
    if purchase.code is None or saga is None or (hold is not None and hold.state in NOTHING_HELD):
        return  # most are refused before the ledger is asked
    if hold is None:
        yield Violation(
            Invariant.REFUSED_NOT_RELEASED, str(saga.id), "refused, and the ledger does not know of its hold"
        )
    elif hold.state is HoldState.OPEN:
        yield Violation(Invariant.ORPHAN_HOLD, str(saga.id), f"{hold.amount_units} units held for nothing")


def _other_than(purchase: Purchase, saga: SagaRow | None) -> str | None:
    """Say how a purchase differs from its saga, which is written in the same transaction."""
    if saga is None:
        # Without a saga it must have been refused.
        return None if purchase.code is not None else "to be paid with units, and no saga runs for it"
    wanted = (id_in(saga, "request_id"), id_in(saga, "account_id"), saga.data.get("price_units"))
    if wanted != (purchase.id, purchase.account_id, purchase.price_units):
        return f"{purchase.price_units} units of {purchase.account_id}, its saga says {wanted[2]} of {wanted[1]}"
    if saga.data.get("action") != purchase.action:
        return f"{purchase.action}, its saga is for {saga.data.get('action')}"
    refused = saga.status is Status.REFUSED
    if (is_done(purchase), purchase.code) != (saga.status is Status.COMPLETED, saga.code if refused else None):
        return f"decided {purchase.decided_at}, code {purchase.code}, its saga is {saga.status}"
    return None


def _payment(_: UUID, purchases: Iterator[Purchase], payments: Iterator[Payment]) -> Iterator[Violation]:
    purchase, payment = only(purchases), only(payments)
    if purchase is None:
        if payment is not None:
            yield Violation(Invariant.PAYMENT_MISMATCH, payment.reference, "paid for nothing that is on record")
        return
    with_money = purchase.price_units is None and is_done(purchase)
    if with_money is not (payment is not None):
        detail = f"{purchase.action}, done with money: {with_money}, payment {payment and payment.reference}"
        yield Violation(Invariant.PAYMENT_MISMATCH, str(purchase.id), detail)
