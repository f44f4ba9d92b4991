"""What sagas ask of the ledger that an owner pays for: units are held first, and captured last, or released.

The hold's id is the saga's. Which step asks for what stands in each saga's own table.
"""

from functools import lru_cache
from uuid import UUID

from popfax_contracts.ledger import CaptureHold, ReleaseHold, ReserveUnits
from services.chassis.sagas import SagaRow


def reserve_units(saga: SagaRow) -> ReserveUnits:
    """Hold the price on the owner's account."""
    return ReserveUnits(hold_id=saga.id, account_id=owner(saga), amount_units=saga.data["price_units"])


def release_hold(saga: SagaRow) -> ReleaseHold:
    """Release the owner's held units."""
    return ReleaseHold(hold_id=saga.id, account_id=owner(saga))


def capture_hold(saga: SagaRow) -> CaptureHold:
    """Take the payment."""
    return CaptureHold(hold_id=saga.id, account_id=owner(saga))


def owner(saga: SagaRow) -> UUID:
    """Return the owner, who pays."""
    return parsed(saga.data["owner_id"])


parsed = lru_cache(maxsize=8192)(UUID)
"""Returns an id from its text. The same few owners have most of the sagas."""
