"""Units from an owner to members: groups decides who may get them, the ledger whether there are enough."""

from collections.abc import Collection, Iterable
from uuid import UUID

from popfax_contracts.codes import GroupsCode
from popfax_contracts.groups import MAX_MEMBERS, TransferRefused, TransferUnits
from popfax_contracts.ledger import Leg, PostTransfers, TransfersPosted, TransfersRefused
from services.chassis.messages import ClearTimer, Incoming, Outcome, SetTimer
from services.chassis.rows import replace
from services.chassis.service import Moment, needs
from services.groups import transitions
from services.groups.domain import ASKED_AGAIN, ASKED_AGAIN_AT_LEAST, Transfer, TransferState, membership_of
from services.groups.handlers.ownership import owner_of, why_not_owner
from services.groups.store import LoadPlan, Roster, transfer_of
from services.groups.tables import LINES_ABOUT, MEMBERS
from services.groups.timers import RetryTransfer, TransferDue


def _transfer_and_members(load: LoadPlan, message: Incoming[TransferUnits]) -> None:
    command = message.body
    load.groups.add(command.group_id)
    load.transfers.add(transfer_of(message))
    if command.members == "all":
        load.memberships.add_all(MEMBERS, command.group_id)
    else:
        load.memberships.update(membership_of(command.group_id, member_id) for member_id in command.members)


@needs(_transfer_and_members)
def transfer_units(roster: Roster, message: Incoming[TransferUnits], moment: Moment) -> Outcome:
    """Request a transfer to the current members from the ledger."""
    command, id_ = message.body, transfer_of(message)
    if roster.transfers.find(id_) is not None:
        return ()  # redelivered after the inbox's retention: the ledger answers it, or has
    if (code := why_not_owner(roster, message, command.group_id)) is not None:
        return [_refused(command.group_id, id_, code)]
    member_ids = _meant(roster, command)
    code, outsiders = _why_not(roster, command, member_ids)
    if code is not None:
        return [_refused(command.group_id, id_, code, outsiders)]
    owner_id = owner_of(message)
    transfer = Transfer(
        id=id_,
        group_id=command.group_id,
        owner_id=owner_id,
        mode=command.mode,
        amount_units=command.amount_units,
        state=TransferState.PENDING,
        code=None,
        total_units=None,
        asked_at=moment.now,
        ended_at=None,
    )
    return request(roster, transfer, member_ids, moment)


def request(roster: Roster, transfer: Transfer, member_ids: Collection[UUID], moment: Moment) -> Outcome:
    """Record a transfer, and ask the ledger for it. The actor must be the owner, who pays."""
    transitions.request_transfer(roster, transfer, member_ids)
    return _ask(transfer, member_ids, moment)


def _ask(transfer: Transfer, member_ids: Iterable[UUID], moment: Moment) -> Outcome:
    """Ask the ledger, and again later: the same id with the same content gets the same answer, however often.

    The content is the same each time, so the legs have one order.
    """
    command = PostTransfers(
        transfer_id=transfer.id,
        source_id=transfer.owner_id,
        reference=str(transfer.group_id),
        legs=tuple(_leg(transfer, member_id) for member_id in sorted(member_ids)),
    )
    pause = min(max(ASKED_AGAIN, moment.now - transfer.asked_at), ASKED_AGAIN_AT_LEAST)
    return [command, SetTimer(transfer.id, moment.now + pause, TransferDue(transfer_id=transfer.id))]


def _transfer(
    load: LoadPlan, message: Incoming[TransferDue | RetryTransfer | TransfersPosted | TransfersRefused]
) -> None:
    id_ = message.body.transfer_id
    load.transfers.then(id_, lambda transfer: _its_rows(load, transfer))


def _its_rows(load: LoadPlan, transfer: Transfer) -> None:
    load.history.add_all(LINES_ABOUT, transfer.id)
    if transfer.order_id is not None:
        load.orders.add(transfer.order_id)


@needs(_transfer)
def ask_again(roster: Roster, message: Incoming[TransferDue | RetryTransfer], moment: Moment) -> Outcome:
    """Ask the ledger again for what it has not answered: the request or the answer may have been lost."""
    transfer = roster.transfers.find(message.body.transfer_id)
    if transfer is None or transfer.state is not TransferState.PENDING:
        return ()
    roster.transfers.put(replace(transfer, requests=transfer.requests + 1))
    lines = roster.history.all(LINES_ABOUT, transfer.id)
    return _ask(transfer, [line.member_id for line in lines if line.member_id is not None], moment)


def _meant(roster: Roster, command: TransferUnits) -> tuple[UUID, ...]:
    if command.members == "all":
        return tuple(member.member_id for member in roster.members(command.group_id))
    return command.members


def _why_not(
    roster: Roster, command: TransferUnits, member_ids: tuple[UUID, ...]
) -> tuple[GroupsCode | None, tuple[UUID, ...]]:
    """Return why not, and who is not a member."""
    memberships = ((id_, roster.memberships.find(membership_of(command.group_id, id_))) for id_ in member_ids)
    outsiders = tuple(id_ for id_, membership in memberships if membership is None or not membership.active)
    if outsiders:
        return GroupsCode.NOT_MEMBER, outsiders
    if not member_ids:
        return GroupsCode.NO_MEMBERS, ()
    return (GroupsCode.TOO_MANY_MEMBERS if len(member_ids) > MAX_MEMBERS else None), ()


def _leg(transfer: Transfer, member_id: UUID) -> Leg:
    if transfer.mode == "top_up_to":
        return Leg(account_id=member_id, top_up_to_units=transfer.amount_units)
    return Leg(account_id=member_id, amount_units=transfer.amount_units)


@needs(_transfer)
def transfers_posted(roster: Roster, message: Incoming[TransfersPosted], moment: Moment) -> Outcome:
    """Tell both sides the outcome of a transfer."""
    transfer = roster.transfers.find(message.body.transfer_id)
    if transfer is None or transfer.state is not TransferState.PENDING:
        return ()
    shown_by = max(leg.version for leg in message.body.legs)
    transitions.order_transferred(roster, transfer, message.body.total_units, shown_by, moment)
    return [*transitions.complete_transfer(roster, transfer, message.body, moment), ClearTimer(transfer.id)]


@needs(_transfer)
def transfers_refused(roster: Roster, message: Incoming[TransfersRefused], moment: Moment) -> Outcome:
    """Tell the owner that the ledger has moved nothing, and why. A standing order that asked for it is paused."""
    transfer = roster.transfers.find(message.body.transfer_id)
    if transfer is None or transfer.state is not TransferState.PENDING:
        return ()
    transitions.refuse_transfer(roster, transfer, message.body.code, moment)
    if transfer.order_id is not None:
        return [*transitions.order_refused(roster, transfer, message.body.code, moment), ClearTimer(transfer.id)]
    return [_refused(transfer.group_id, transfer.id, message.body.code), ClearTimer(transfer.id)]


def _refused(group_id: UUID, transfer_id: UUID, code: str, outsiders: tuple[UUID, ...] = ()) -> TransferRefused:
    return TransferRefused(
        group_id=group_id, transfer_id=transfer_id, code=code, command_type=TransferUnits.TYPE, members=outsiders
    )
