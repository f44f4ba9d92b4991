"""Units between groups and the ledger: what groups asked for and tells of, and what the ledger did."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from uuid import UUID

from contracts.message import group_of
from deploy.invariants.codes import Code, Violation
from deploy.invariants.facts import Facts, LedgerFacts
from services.groups.domain import HistoryEntry, Kind, Transfer, TransferState
from services.ledger import domain as ledger


def check_transfers(facts: Facts, settled: bool) -> list[Violation]:
    """Check transfers, the lines that tell of them, and the balances that groups shows."""
    return [*_transfers(facts, settled), *_balances(facts, settled)]


def _transfers(facts: Facts, settled: bool) -> Iterator[Violation]:
    lines: defaultdict[UUID, list[HistoryEntry]] = defaultdict(list)
    for line in facts.groups.history:
        if line.kind is Kind.TRANSFER:
            lines[line.reference_id].append(line)
    posted = {transfer.id: transfer for transfer in facts.ledger.transfers}
    received = _received(facts.ledger)
    for transfer in facts.groups.transfers:
        own = lines.pop(transfer.id, [])
        if not own or {(line.outcome, line.code) for line in own} != {(transfer.state.value, transfer.code)}:
            yield Violation(
                Code.HISTORY_MISMATCH, str(transfer.id), f"{transfer.state}, {len(own)} lines say otherwise"
            )
        if (wrong := _unmatched(transfer, own, posted.get(transfer.id), received[transfer.id])) is not None:
            yield Violation(Code.TRANSFER_UNMATCHED, str(transfer.id), wrong)
        if settled and transfer.state is TransferState.PENDING:
            yield Violation(Code.TRANSFER_UNDECIDED, str(transfer.id), f"asked for at {transfer.asked_at}")
    for id_ in lines:
        yield Violation(Code.HISTORY_MISMATCH, str(id_), "tells of a transfer that nobody asked for")
    if settled:
        yield from _unasked(facts)


def _unmatched(
    transfer: Transfer, lines: list[HistoryEntry], posted: ledger.Transfer | None, received: Mapping[UUID, int]
) -> str | None:
    """Say in what groups and the ledger differ, None if in nothing. The ledger may have decided already."""
    if transfer.state is TransferState.PENDING:
        return None
    if transfer.state is TransferState.REFUSED:
        differs = posted is not None and posted.code != transfer.code
        return f"refused with {transfer.code}, the ledger says {posted and posted.code}" if differs else None
    if posted is None or posted.code is not None:
        return f"done, the ledger says {posted and posted.code}"
    if (posted.source_id, posted.reference) != (transfer.owner_id, str(transfer.group_id)):
        return "done for another group than the ledger says"
    told = {line.member_id: line.units for line in lines if line.units}
    if told != received or transfer.total_units != sum(received.values()):
        return f"{transfer.total_units} units to {len(told)}, entries {sum(received.values())} to {len(received)}"
    return None


def _received(facts: LedgerFacts) -> defaultdict[UUID, dict[UUID, int]]:
    """Give what each account got of each movement."""
    found: defaultdict[UUID, dict[UUID, int]] = defaultdict(dict)
    for entry in facts.entries:
        if entry.amount_units > 0:
            found[entry.transfer_id][entry.account_id] = entry.amount_units
    return found


def _unasked(facts: Facts) -> Iterator[Violation]:
    asked = {transfer.id for transfer in facts.groups.transfers}
    for transfer in facts.ledger.transfers:
        is_groups = transfer.kind == "transfer" and transfer.reference == str(group_of(transfer.source_id))
        if is_groups and transfer.id not in asked:
            yield Violation(Code.TRANSFER_UNMATCHED, str(transfer.id), "posted for a group that does not know of it")


def _balances(facts: Facts, settled: bool) -> Iterator[Violation]:
    shown = {s.id: (s.balance_version, s.available_units) for s in facts.groups.subscribers}
    now = {a.id: (a.revision, a.available_units) for a in facts.ledger.accounts}
    for id_ in sorted(shown.keys() | now.keys()):
        known, is_ = shown.get(id_, (0, 0)), now.get(id_, (0, 0))
        # In flight the ledger may be ahead; of the same version both say the same.
        if known != is_ and (settled or known[0] >= is_[0]):
            detail = f"groups shows {known[1]} as of version {known[0]}, available {is_[1]} as of {is_[0]}"
            yield Violation(Code.BALANCE_STALE, str(id_), detail)
