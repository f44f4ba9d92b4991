"""The ledger alone: the books."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from uuid import UUID

from deploy.invariants.codes import Code, Violation
from deploy.invariants.facts import LedgerFacts
from services.ledger.domain import (
    CONSUMPTION,
    CORRECTIONS,
    OWN_ACCOUNTS,
    SALES,
    SUBSCRIPTIONS,
    Account,
    Entry,
    HoldState,
)

_COUNTERPARTS = {"credit": SALES, "spend": CONSUMPTION, "correction": CORRECTIONS}
"""Which of Popfax's own accounts a transfer of each kind is with; one between subscribers is with none."""


def check_ledger(facts: LedgerFacts) -> list[Violation]:
    """Check the books. True at every moment, whatever is in flight."""
    return [
        *_movements(facts),
        *_transfers(facts),
        *_captures(facts),
        *_counterparts(facts),
        *_corrections(facts),
        *_balances(facts),
        *_held(facts),
    ]


def _movements(facts: LedgerFacts) -> Iterator[Violation]:
    total = sum(e.amount_units for e in facts.entries)
    if total:
        yield Violation(Code.BOOKS_NOT_ZERO, "books", f"all entries sum to {total}")
    sums: Counter[UUID] = Counter()
    for entry in facts.entries:
        sums[entry.transfer_id] += entry.amount_units
    done = {t.id for t in facts.transfers if t.code is None}
    done |= {h.id for h in facts.holds if h.state is HoldState.CAPTURED}
    for id_, units in sums.items():
        if units:
            yield Violation(Code.MOVEMENT_NOT_ZERO, str(id_), f"its entries sum to {units}")
        if id_ not in done:
            yield Violation(Code.ORPHAN_ENTRY, str(id_), "neither a transfer that was done nor a captured hold")


def _transfers(facts: LedgerFacts) -> Iterator[Violation]:
    entries = _by_movement(facts.entries)
    for transfer in facts.transfers:
        if transfer.code is not None:
            continue  # its entries, if it had any, would be orphans
        got = sum(e.amount_units for e in entries[transfer.id] if e.account_id != transfer.source_id)
        if got != sum(transfer.amounts_units):
            yield Violation(
                Code.TRANSFER_MISMATCH, str(transfer.id), f"says {sum(transfer.amounts_units)}, entries say {got}"
            )


def _captures(facts: LedgerFacts) -> Iterator[Violation]:
    entries = _by_movement(facts.entries)
    for hold in facts.holds:
        if hold.state is not HoldState.CAPTURED:
            continue  # see above
        paid = [-e.amount_units for e in entries[hold.id] if e.account_id == hold.account_id]
        if paid != [hold.amount_units]:
            yield Violation(Code.CAPTURE_MISMATCH, str(hold.id), f"held {hold.amount_units}, paid {paid}")


def _counterparts(facts: LedgerFacts) -> Iterator[Violation]:
    with_whom = {t.id: _COUNTERPARTS.get(t.kind) for t in facts.transfers}
    with_whom |= {h.id: SUBSCRIPTIONS for h in facts.holds}
    for entry in facts.entries:
        if entry.account_id in OWN_ACCOUNTS and entry.account_id != with_whom.get(entry.transfer_id, entry.account_id):
            yield Violation(Code.COUNTERPART_MISMATCH, str(entry.transfer_id), f"is with {entry.account_id}")


def _corrections(facts: LedgerFacts) -> Iterator[Violation]:
    posted = {t.id: t.amounts_units for t in facts.transfers if t.kind == "correction"}
    done = {c.id: (c.amount_units,) for c in facts.corrections if c.code is None}
    for id_ in sorted(posted.keys() | done.keys()):
        if posted.get(id_) != done.get(id_):
            detail = f"the audit says {done.get(id_)}, the books {posted.get(id_)}"
            yield Violation(Code.CORRECTION_MISMATCH, str(id_), detail)


def _balances(facts: LedgerFacts) -> Iterator[Violation]:
    entries: defaultdict[UUID, list[Entry]] = defaultdict(list)
    for entry in facts.entries:
        if entry.account_id not in OWN_ACCOUNTS:
            entries[entry.account_id].append(entry)
    for account in facts.accounts:
        own = entries.pop(account.id, [])
        total = sum(e.amount_units for e in own)
        if account.balance_units != total:
            yield Violation(Code.BALANCE_MISMATCH, str(account.id), f"balance {account.balance_units}, entries {total}")
        if (broken := _chain(account, own)) is not None:
            yield Violation(Code.CHAIN_BROKEN, str(account.id), broken)
    for id_, own in entries.items():
        yield Violation(Code.BALANCE_MISMATCH, str(id_), f"{len(own)} entries, no account")


def _chain(account: Account, entries: Sequence[Entry]) -> str | None:
    """Say where an account's chain of entries breaks, None if it does not."""
    chain = sorted(entries, key=lambda e: e.version or 0)
    versions = [e.version for e in chain]
    if versions != list(range(1, account.version + 1)):
        return f"version {account.version}, entries {versions}"
    before = 0
    for entry in chain:
        if (entry.before_units, entry.after_units) != (before, before + entry.amount_units):
            return f"entry {entry.version}: {entry.before_units} to {entry.after_units}, expected from {before}"
        before += entry.amount_units
    return None


def _held(facts: LedgerFacts) -> Iterator[Violation]:
    held: Counter[UUID] = Counter()
    for hold in facts.holds:
        if hold.state is HoldState.OPEN:
            held[hold.account_id] += hold.amount_units
    for account in facts.accounts:
        if account.available_units < 0 or account.held_units < 0:
            detail = f"balance {account.balance_units}, held {account.held_units}"
            yield Violation(Code.OVERDRAWN, str(account.id), detail)
        if account.held_units != held.pop(account.id, 0):
            yield Violation(Code.HELD_MISMATCH, str(account.id), f"held {account.held_units}, not what its holds say")
    for id_, units in held.items():
        yield Violation(Code.HELD_MISMATCH, str(id_), f"holds of {units}, no account")


def _by_movement(entries: Iterable[Entry]) -> defaultdict[UUID, list[Entry]]:
    found: defaultdict[UUID, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[entry.transfer_id].append(entry)
    return found
