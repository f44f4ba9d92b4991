"""What only a simulation can judge: its log has every record, its clock never goes back, and nothing waits for a lock.

The invariants that a running product keeps too are in `deploy/operator/invariants`.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from uuid import UUID

from deploy.operator.invariants import Logged
from popfax_contracts.ledger import PostTransfers, ReleaseHold, UnitsReserved
from services.chassis.sagas import SagaRow, Status
from services.groups.domain import HistoryEntry, Kind
from services.ledger.domain import Entry, Hold


class LockOrder:
    """The tables whose rows a service's transactions have locked, each before which others.

    Two transactions that lock the rows of two tables in opposite orders may wait for each other.
    """

    def __init__(self) -> None:
        self._before: defaultdict[str, set[str]] = defaultdict(set)

    def locked(self, tables: Sequence[str]) -> None:
        """Note the order of one transaction. Which rows of one table come first is PostgreSQL's to say."""
        for number, table in enumerate(tables):
            self._before[table].update({*tables[:number]} - {table})

    def broken(self) -> str | None:
        """Return tables that are locked in no one order, None if there are none."""
        try:
            TopologicalSorter(self._before).prepare()
        except CycleError as error:
            return " after ".join(error.args[1])
        return None


def given_to_outsiders(history: Iterable[HistoryEntry]) -> Iterator[str]:
    """Yield the parts of transfers that were asked for while their members were none."""
    times: defaultdict[tuple[UUID, UUID | None], list[HistoryEntry]] = defaultdict(list)
    given: list[HistoryEntry] = []
    for line in history:
        if line.kind is Kind.MEMBERSHIP:
            times[line.group_id, line.member_id].append(line)
        elif line.kind is Kind.TRANSFER:
            given.append(line)
    for line in given:
        own = times[line.group_id, line.member_id]
        if not any(each.at <= line.at and (each.ended_at is None or line.at <= each.ended_at) for each in own):
            yield f"{line.reference_id} gives units to {line.member_id}, who was no member at {line.at}"


def topped_up_wrongly(log: Iterable[Logged], entries: Iterable[Entry], holds: Iterable[Hold]) -> Iterator[str]:
    """Yield the entries of top-ups after which an account has not exactly as many units available as it should have.

    What was held is known except for holds of the same batch, which has one moment.
    """
    targets: defaultdict[tuple[UUID, UUID], set[int]] = defaultdict(set)
    for record in log:
        if record.type == PostTransfers.TYPE:
            for transfer_id, account_id, units in _targets(record.value):
                targets[transfer_id, account_id].add(units)
    own: defaultdict[UUID, list[Hold]] = defaultdict(list)
    for hold in holds:
        own[hold.account_id].append(hold)
    for entry in entries:
        wanted = targets.get((entry.transfer_id, entry.account_id))
        if wanted is None or entry.after_units is None or entry.amount_units < 0:
            continue
        surely = sum(hold.amount_units for hold in own[entry.account_id] if _held(hold, entry) is True)
        perhaps = sum(hold.amount_units for hold in own[entry.account_id] if _held(hold, entry) is not False)
        if not any(surely <= entry.after_units - target <= perhaps for target in wanted):
            yield f"{entry.transfer_id} tops {entry.account_id} up to {entry.after_units} units, of {sorted(wanted)}"


def _targets(value: bytes) -> Iterator[tuple[UUID, UUID, int]]:
    try:
        command = PostTransfers.from_json(value)
    except ValueError:
        return  # unreadable, and so refused
    for leg in command.legs:
        if leg.top_up_to_units is not None:
            yield command.transfer_id, leg.account_id, leg.top_up_to_units


def _held(hold: Hold, entry: Entry) -> bool | None:
    """Return whether a hold kept units back when an entry was made; None if both are of one batch."""
    if hold.code is not None or hold.opened_at > entry.made_at:
        return False
    if hold.closed_at is not None and hold.closed_at < entry.made_at:
        return False
    return None if entry.made_at in (hold.opened_at, hold.closed_at) else True


def kept_after_the_end(log: Iterable[Logged], sagas: Iterable[SagaRow]) -> Iterator[str]:
    """Yield the refused sagas that learnt after their end that units are reserved, and did not give them back."""
    reserved: defaultdict[UUID, set[str]] = defaultdict(set)
    released: defaultdict[UUID, set[str | None]] = defaultdict(set)
    for record in log:
        if record.type == UnitsReserved.TYPE:
            reserved[UUID(json.loads(record.value)["hold_id"])].add(record.id)
        elif record.type == ReleaseHold.TYPE:
            released[UUID(json.loads(record.value)["hold_id"])].add(record.causation_id)
    for saga in sagas:
        if saga.status is Status.REFUSED and _reserved_late(saga) and not reserved[saga.id] & released[saga.id]:
            yield f"{saga.id} was refused, then its units were reserved, and they are not given back"


def _reserved_late(saga: SagaRow) -> bool:
    """Return whether a saga's trail tells of its reservation after its end, and not before."""
    told = [line.partition(" ")[2] for line in saga.trail]
    name = UnitsReserved.__name__
    return name in told and Status.REFUSED.value in told[: told.index(name)]
