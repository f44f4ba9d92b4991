"""Transfers: what groups asked for and shows in the history, and what the ledger did."""

from collections.abc import Iterator
from uuid import UUID

from deploy.operator.invariants.history import lines
from deploy.operator.invariants.invariant import Invariant, Violation
from deploy.operator.invariants.rows import by, each, merge_join, only
from deploy.operator.invariants.snapshot import Lateness, Snapshot
from popfax_contracts.message import group_of
from services.groups.domain import HistoryEntry, Kind, Transfer, TransferState, history_of_leg
from services.ledger import domain as ledger
from services.ledger.domain import TransferKind


def check_transfers(snapshot: Snapshot, late: Lateness) -> Iterator[Violation]:
    """Check transfers, their lines in the history, and the ledger's transfers."""
    yield from each(
        merge_join(
            by(snapshot.groups.transfers, "id"),
            lines(snapshot.groups.history, Kind.TRANSFER, "reference_id"),
            by(snapshot.ledger.transfers, "id"),
            by(snapshot.ledger.entries, "transfer_id"),
        ),
        _transfer,
        late,
    )


def _transfer(
    id_: UUID,
    transfers: Iterator[Transfer],
    told: Iterator[HistoryEntry],
    decided: Iterator[ledger.Transfer],
    entries: Iterator[ledger.Entry],
    late: Lateness,
) -> Iterator[Violation]:
    transfer, own, posted = only(transfers), list(told), only(decided)
    if transfer is None:
        if own:
            yield Violation(Invariant.HISTORY_MISMATCH, str(id_), "tells of a transfer that nobody asked for")
        if posted is not None and _is_of_groups(posted) and late(posted.made_at):
            yield Violation(Invariant.TRANSFER_UNMATCHED, str(id_), "posted for a group that does not know of it")
        return
    yield from _itself(transfer, own)
    if transfer.state is TransferState.PENDING:
        if late(transfer.asked_at):
            yield Violation(Invariant.TRANSFER_UNDECIDED, str(id_), f"asked for at {transfer.asked_at}")
        return  # the ledger may have decided already
    received = {entry.account_id: entry.amount_units for entry in entries if entry.amount_units > 0}
    if (wrong := _unmatched(transfer, own, posted, received)) is not None:
        yield Violation(Invariant.TRANSFER_UNMATCHED, str(id_), wrong)


def _itself(transfer: Transfer, told: list[HistoryEntry]) -> Iterator[Violation]:
    id_ = str(transfer.id)
    if transfer.group_id != group_of(transfer.owner_id):
        detail = f"of {transfer.owner_id}, in the group {transfer.group_id}"
        yield Violation(Invariant.TRANSFER_UNMATCHED, id_, detail)
    if not told:
        yield Violation(Invariant.HISTORY_MISMATCH, id_, "has no lines")
    for line in told:
        if (wrong := _mistold(transfer, line)) is not None:
            yield Violation(Invariant.HISTORY_MISMATCH, str(line.id), wrong)


def _is_of_groups(posted: ledger.Transfer) -> bool:
    return posted.kind is TransferKind.TRANSFER and posted.reference == str(group_of(posted.source_id))


def _mistold(transfer: Transfer, line: HistoryEntry) -> str | None:
    """Say how a line differs from its transfer."""
    if line.member_id is None or line.id != history_of_leg(transfer.id, line.member_id):
        return f"is not the line of {line.member_id}"
    wanted = (
        transfer.group_id,
        transfer.owner_id if transfer.order_id is None else None,
        transfer.asked_at,
        transfer.state.value,
        transfer.code,
        transfer.ended_at,
    )
    found = (line.group_id, line.actor_id, line.at, line.outcome, line.code, line.ended_at)
    if found != wanted:
        return "; ".join(f"{was}, the line says {says}" for was, says in zip(wanted, found, strict=True) if was != says)
    if (line.units is None) is (transfer.state is TransferState.DONE):
        return f"{transfer.state}, and {line.units} units"
    if line.units is not None and (line.units > transfer.amount_units or line.units < _least(transfer)):
        return f"{transfer.mode} {transfer.amount_units}, and {line.units} units"
    return None


def _least(transfer: Transfer) -> int:
    return 0 if transfer.mode == "top_up_to" else transfer.amount_units


def _unmatched(
    transfer: Transfer, told: list[HistoryEntry], posted: ledger.Transfer | None, received: dict[UUID, int]
) -> str | None:
    """Say how groups and the ledger differ, None if they agree."""
    if posted is None:
        return f"{transfer.state}, the ledger does not know of it"
    if not _is_of_groups(posted) or (posted.source_id, posted.reference) != (
        transfer.owner_id,
        str(transfer.group_id),
    ):
        return f"asked by {transfer.owner_id}, the ledger has a {posted.kind} of {posted.source_id}"
    if posted.code != transfer.code or (transfer.code is None) is not (transfer.state is TransferState.DONE):
        return f"{transfer.state} {transfer.code or ''}, the ledger says {posted.code or 'done'}"
    if len(posted.amounts_units) != len(told):
        return f"to {len(told)} members, the ledger says to {len(posted.amounts_units)}"
    if transfer.state is TransferState.REFUSED:
        return None if transfer.total_units is None else f"refused, and {transfer.total_units} units"
    units = {line.member_id: line.units for line in told if line.units}
    if units != received or transfer.total_units != sum(received.values()):
        return f"{transfer.total_units} units to {len(units)}, entries {sum(received.values())} to {len(received)}"
    return None
