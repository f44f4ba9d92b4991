"""What is bought for an account: given and paid, or neither."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from deploy.invariants.codes import Code, Violation
from deploy.invariants.facts import Facts
from services._platform.sagas import SagaRow, Status
from services.ledger.domain import HoldState
from services.provisioning.domain import Action, Purchase
from services.provisioning.sagas import PAID_ACTION
from services.provisioning.store import saga_of


def check_purchases(facts: Facts, settled: bool) -> list[Violation]:
    """Check payments, and that accounts have what was bought for them."""
    return [*_payments(facts, settled), *_captures(facts), *_options(facts, settled), *_extensions(facts, settled)]


def is_done(purchase: Purchase) -> bool:
    """Say whether it is given, and paid in whatever way."""
    return purchase.decided_at is not None and purchase.code is None


def _payments(facts: Facts, settled: bool) -> Iterator[Violation]:
    paid = {hold.id: hold.amount_units for hold in facts.ledger.holds if hold.state is HoldState.CAPTURED}
    for each in facts.provisioning.purchases:
        units = paid.get(saga_of(each.id))
        if is_done(each) and units != each.price_units:
            yield Violation(Code.PURCHASE_WITHOUT_PAYMENT, str(each.id), f"costs {each.price_units}, paid {units}")
        if settled and each.decided_at is None:
            yield Violation(Code.PURCHASE_UNDECIDED, str(each.id), f"{each.action} for {each.account_id}")


def _captures(facts: Facts) -> Iterator[Violation]:
    captured = {hold.id for hold in facts.ledger.holds if hold.state is HoldState.CAPTURED}
    for saga in facts.provisioning.sagas:
        if saga.id in captured and not _is_given(saga):
            yield Violation(Code.PAYMENT_WITHOUT_PURCHASE, str(saga.id), f"paid, and its saga {saga.status}")


def _is_given(saga: SagaRow) -> bool:
    running = saga.status is Status.RUNNING and PAID_ACTION.index(saga) > PAID_ACTION.pivot
    return running or saga.status is Status.COMPLETED


def _options(facts: Facts, settled: bool) -> Iterator[Violation]:
    bought = Counter(
        each.account_id for each in facts.provisioning.purchases if each.action is Action.OPTIONS_PACK and is_done(each)
    )
    for account in facts.provisioning.subscribers:
        count = bought[account.id]
        # In flight, a pack may have been given and not be bought yet; but not the other way round.
        if count > 1 or count > account.options_pack or (settled and account.options_pack and not count):
            detail = f"bought {count} times, and the account {'has' if account.options_pack else 'does not have'} it"
            yield Violation(Code.OPTIONS_MISMATCH, str(account.id), detail)


def _extensions(facts: Facts, settled: bool) -> Iterator[Violation]:
    ends: defaultdict[UUID, list[datetime]] = defaultdict(list)
    for each in facts.provisioning.purchases:
        if each.action is Action.EXTENSION and is_done(each) and each.expires_at is not None:
            ends[each.account_id].append(each.expires_at)
    for account in facts.provisioning.subscribers:
        if settled and account.id in ends and account.expires_at != max(ends[account.id]):
            detail = f"extended to {max(ends[account.id])}, and ends {account.expires_at}"
            yield Violation(Code.EXTENSION_MISMATCH, str(account.id), detail)
