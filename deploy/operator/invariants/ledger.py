"""The ledger alone: the books. All of this holds at every moment."""

from collections import Counter
from collections.abc import Iterable, Iterator
from uuid import UUID

from deploy.operator.invariants.invariant import Invariant, Violation
from deploy.operator.invariants.rows import by, each, merge_join, only
from deploy.operator.invariants.snapshot import LedgerSnapshot
from services.ledger.domain import (
    CONSUMPTION,
    CORRECTIONS,
    OWN_ACCOUNTS,
    SALES,
    SUBSCRIPTIONS,
    Account,
    Correction,
    Entry,
    Hold,
    HoldState,
    Transfer,
    TransferKind,
)

_COUNTERPARTS = {
    TransferKind.CREDIT: SALES,
    TransferKind.SPEND: CONSUMPTION,
    TransferKind.CORRECTION: CORRECTIONS,
    TransferKind.TRANSFER: None,
}
"""The own account that is the other side of each kind of transfer. Those between subscribers have none."""

_OUT_OF = {TransferKind.CREDIT: SALES, TransferKind.CORRECTION: CORRECTIONS}
"""The own account that is the source of each kind of transfer. Other kinds come from a subscriber's account."""


def check_ledger(snapshot: LedgerSnapshot) -> Iterator[Violation]:
    """Check the books: movements, then accounts."""
    movements = _Movements()
    yield from each(
        merge_join(
            by(snapshot.transfers, "id"),
            by(snapshot.holds, "id"),
            by(snapshot.corrections, "id"),
            by(snapshot.entries, "transfer_id"),
        ),
        movements.check,
    )
    if movements.total_units:
        yield Violation(Invariant.BOOKS_NOT_ZERO, "books", f"all entries sum to {movements.total_units}")
    yield from each(
        merge_join(
            by(snapshot.accounts, "id"), by(snapshot.holds, "account_id"), by(snapshot.entries, "account_id", "version")
        ),
        _account,
    )


class _Movements:
    """Checks one movement at a time, and keeps the sum of all of them."""

    def __init__(self) -> None:
        self.total_units = 0

    def check(
        self,
        id_: UUID,
        transfers: Iterator[Transfer],
        holds: Iterator[Hold],
        corrections: Iterator[Correction],
        entries: Iterator[Entry],
    ) -> Iterator[Violation]:
        """Check the rows of one id: a transfer or a hold, and its entries."""
        own = list(entries)
        transfer, hold, correction = only(transfers), only(holds), only(corrections)
        units = sum(entry.amount_units for entry in own)
        self.total_units += units
        if units:
            yield Violation(Invariant.MOVEMENT_NOT_ZERO, str(id_), f"its entries sum to {units}")
        done = transfer is not None and transfer.code is None
        captured = hold is not None and hold.state is HoldState.CAPTURED
        if own and not (done or captured):
            yield Violation(Invariant.ORPHAN_ENTRY, str(id_), "neither a transfer that was done nor a captured hold")
        if transfer is not None:
            yield from _transfer(transfer, own)
        if hold is not None:
            yield from _hold(hold, own)
        yield from _correction(id_, correction, transfer, own)


def _transfer(transfer: Transfer, entries: list[Entry]) -> Iterator[Violation]:
    """Check that a transfer's entries have the accounts of its kind and its source, and its amounts."""
    id_, source = str(transfer.id), transfer.source_id
    if transfer.seal is not None and transfer.seal != transfer.digest():
        yield Violation(Invariant.SEAL_BROKEN, id_, "is not as it was when it was made")
    if source != _OUT_OF.get(transfer.kind, source) or (transfer.kind not in _OUT_OF and source in OWN_ACCOUNTS):
        yield Violation(Invariant.TRANSFER_MISMATCH, id_, f"a {transfer.kind} out of {source}")
    if (transfer.kind is TransferKind.SPEND) > (transfer.reference is not None):
        yield Violation(Invariant.TRANSFER_MISMATCH, id_, "a spend of which nobody knows what it was for")
    if transfer.kind in _OUT_OF and transfer.reference is not None:
        yield Violation(
            Invariant.TRANSFER_MISMATCH, id_, f"a {transfer.kind} for {transfer.reference}: it is for nothing"
        )
    if transfer.kind is not TransferKind.TRANSFER and len(transfer.amounts_units) != 1:
        yield Violation(Invariant.TRANSFER_MISMATCH, id_, f"a {transfer.kind} of {len(transfer.amounts_units)} amounts")
    if transfer.code is not None:
        return  # if it has entries, they are orphans
    wanted = _COUNTERPARTS.get(transfer.kind)
    own = {entry.account_id for entry in entries} & OWN_ACCOUNTS
    if own != ({wanted} if wanted else set()):
        yield Violation(Invariant.COUNTERPART_MISMATCH, id_, f"a {transfer.kind} with {_ids(own)}")
    got = sorted(entry.amount_units for entry in entries if entry.account_id != source)
    said = sorted(amount for amount in transfer.amounts_units if amount)
    if got != said:
        yield Violation(Invariant.TRANSFER_MISMATCH, id_, f"says {said}, entries say {got}")


def _hold(hold: Hold, entries: list[Entry]) -> Iterator[Violation]:
    id_, state = str(hold.id), hold.state
    if (hold.code is None) is (state is HoldState.REFUSED):
        yield Violation(Invariant.HOLD_MISMATCH, id_, f"{state}, and its code is {hold.code}")
    if (hold.closed_at is None) is not (state in (HoldState.OPEN, HoldState.REFUSED)):
        yield Violation(Invariant.HOLD_MISMATCH, id_, f"{state}, and closed at {hold.closed_at}")
    if (hold.amount_units > 0) is (state is HoldState.BURNED):
        yield Violation(Invariant.HOLD_MISMATCH, id_, f"{state}, and of {hold.amount_units} units")
    if state is not HoldState.CAPTURED:
        return  # see above
    paid = [-entry.amount_units for entry in entries if entry.account_id == hold.account_id]
    if paid != [hold.amount_units]:
        yield Violation(Invariant.CAPTURE_MISMATCH, id_, f"held {hold.amount_units}, paid {paid}")
    own = {entry.account_id for entry in entries} - {hold.account_id}
    if own - {SUBSCRIPTIONS}:
        yield Violation(Invariant.COUNTERPART_MISMATCH, id_, f"a payment to {_ids(own)}")


def _correction(
    id_: UUID, correction: Correction | None, transfer: Transfer | None, entries: list[Entry]
) -> Iterator[Violation]:
    posted = transfer is not None and transfer.kind is TransferKind.CORRECTION
    said = correction if correction is not None and correction.code is None else None
    if posted is not (said is not None):
        yield Violation(
            Invariant.CORRECTION_MISMATCH, str(id_), f"the audit says {said is not None}, the books {posted}"
        )
    elif said is not None:
        done = [(entry.account_id, entry.amount_units) for entry in entries if entry.account_id not in OWN_ACCOUNTS]
        if done != [(said.account_id, said.amount_units)]:
            yield Violation(
                Invariant.CORRECTION_MISMATCH, str(id_), f"of {said.amount_units} units, the books say {done}"
            )


def _account(
    id_: UUID, accounts: Iterator[Account], holds: Iterator[Hold], entries: Iterator[Entry]
) -> Iterator[Violation]:
    """Check an account against its holds and its entries, which may be millions and are read one by one."""
    account = only(accounts)
    states, held = _held(holds)
    balance, count, broken = _chain(entries)
    if id_ in OWN_ACCOUNTS and count:
        yield Violation(Invariant.CHAIN_BROKEN, str(id_), "Popfax's own account, and its entries keep a balance")
    if account is None:
        if count:
            yield Violation(Invariant.BALANCE_MISMATCH, str(id_), f"{count} entries, no account")
        if held:
            yield Violation(Invariant.HELD_MISMATCH, str(id_), f"holds of {held}, no account")
        return
    if account.balance_units != balance:
        yield Violation(Invariant.BALANCE_MISMATCH, str(id_), f"balance {account.balance_units}, entries {balance}")
    if broken is not None or account.version != count:
        yield Violation(Invariant.CHAIN_BROKEN, str(id_), broken or f"version {account.version}, {count} entries")
    if account.available_units < 0 or account.held_units < 0:
        detail = f"balance {account.balance_units}, held {account.held_units}"
        yield Violation(Invariant.OVERDRAWN, str(id_), detail)
    if account.held_units != held:
        yield Violation(Invariant.HELD_MISMATCH, str(id_), f"held {account.held_units}, its open holds say {held}")
    # Each entry is a change, and so are opening and releasing a hold. A capture is counted as an entry already.
    changes = account.version + states[HoldState.OPEN] + states[HoldState.CAPTURED] + 2 * states[HoldState.RELEASED]
    if account.revision != changes:
        yield Violation(
            Invariant.REVISION_MISMATCH, str(id_), f"revision {account.revision}, {changes} changes on record"
        )


def _held(holds: Iterator[Hold]) -> tuple[Counter[HoldState], int]:
    """Return the number of holds in each state, and the units of the open ones."""
    states, units = Counter[HoldState](), 0
    for hold in holds:
        states[hold.state] += 1
        units += hold.amount_units if hold.state is HoldState.OPEN else 0
    return states, units


def _chain(entries: Iterator[Entry]) -> tuple[int, int, str | None]:
    """Return the sum of an account's entries, their number, and where their chain first breaks, if it does."""
    balance, count, broken = 0, 0, None
    for entry in entries:
        count += 1
        found = (entry.version, entry.before_units, entry.after_units)
        if broken is None and found != (count, balance, balance + entry.amount_units):
            broken = (
                f"entry {entry.version}: {entry.before_units} to {entry.after_units}, expected {count} from {balance}"
            )
        balance += entry.amount_units
    return balance, count, broken


def _ids(ids: Iterable[UUID]) -> str:
    return ", ".join(map(str, sorted(ids))) or "nobody"
