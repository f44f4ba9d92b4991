"""Groups alone: memberships, invitations and their history. All of this holds at every moment."""

from collections.abc import Iterator
from uuid import UUID

from deploy.operator.invariants.history import lines
from deploy.operator.invariants.invariant import Invariant, Violation
from deploy.operator.invariants.rows import by, each, in_order, merge_join, only
from deploy.operator.invariants.snapshot import GroupsSnapshot
from popfax_contracts.message import group_of
from services.groups.domain import (
    AccountState,
    Change,
    CommandState,
    Group,
    HistoryEntry,
    Invitation,
    InvitationState,
    Kind,
    Membership,
    PostedCommand,
    Subscriber,
    Tally,
    history_of_membership,
    membership_of,
    received_invitations_tally,
    sent_invitations_tally,
)

BEGINNINGS = ("account_created", "invitation_accepted")
"""How a membership begins."""

ENDS = ("detached", "left", "account_closed", "group_closed")
"""How a membership ends."""


def check_groups(snapshot: GroupsSnapshot) -> Iterator[Violation]:
    """Check memberships and invitations against each other, their groups and their history."""
    yield from each(
        merge_join(
            by(snapshot.memberships, "id"),
            in_order((membership_of(each.group_id, each.subscriber_id), each) for each in snapshot.invitations),
            lines(snapshot.history, Kind.MEMBERSHIP, "reference_id"),
        ),
        _membership,
    )
    yield from each(
        merge_join(by(snapshot.invitations, "id"), lines(snapshot.history, Kind.INVITATION, "id")),
        _invitation,
    )
    yield from each(merge_join(in_order(_pending(snapshot)), by(snapshot.tallies, "id")), _tally)
    yield from each(merge_join(by(snapshot.commands, "id"), in_order(_awaited(snapshot))), _posted)
    yield from each(
        merge_join(
            by(snapshot.groups, "id"),
            by(snapshot.memberships, "group_id"),
            by(snapshot.invitations, "group_id"),
            by(snapshot.history, "group_id"),
        ),
        _group,
    )
    yield from each(
        merge_join(
            ((id_, one) for id_, one in by(snapshot.subscribers, "id") if one.state is AccountState.CLOSED),
            by(snapshot.memberships, "member_id"),
            by(snapshot.invitations, "subscriber_id"),
        ),
        _closed,
    )


# --- memberships ---


def _membership(
    id_: UUID, memberships: Iterator[Membership], invitations: Iterator[Invitation], told: Iterator[HistoryEntry]
) -> Iterator[Violation]:
    membership, invited, own = only(memberships), list(invitations), {line.id: line for line in told}
    pending = [each.id for each in invited if each.state is InvitationState.PENDING]
    if membership is None:
        if own:
            yield Violation(Invariant.EPOCHS_BROKEN, str(id_), "history tells of times in a group that never were")
        for invitation in invited:
            yield Violation(
                Invariant.INVITATION_MISMATCH, str(invitation.id), "and nothing is between its group and its subscriber"
            )
        return
    if (wrong := _not_derived(membership)) is not None:
        yield Violation(Invariant.MEMBERSHIP_MISMATCH, str(id_), wrong)
    said = [membership.invitation_id] if membership.invitation_id is not None else []
    for invitation_id in {*pending} ^ {*said}:
        detail = "is not pending" if invitation_id in said else "is pending, and not the one"
        yield Violation(Invariant.INVITATION_MISMATCH, str(invitation_id), f"{detail} of {id_}")
    if membership.active and membership.invitation_id is not None:
        yield Violation(Invariant.MEMBER_AND_INVITED, str(id_), f"by {membership.invitation_id}")
    yield from _epochs(membership, own, invited)


def _not_derived(membership: Membership) -> str | None:
    """Say which of a membership's ids don't follow from its owner's and its member's."""
    if membership.group_id != group_of(membership.owner_id):
        return f"of {membership.owner_id}, and in the group {membership.group_id}"
    if membership.id != membership_of(membership.group_id, membership.member_id):
        return f"its id is not that of {membership.member_id} in {membership.group_id}"
    joined, ended = membership.joined_at is not None, membership.ended_at is not None
    if (joined, ended) != (membership.epoch > 0, membership.epoch > 0 and not membership.active):
        moments = f"joined at {membership.joined_at}, ended at {membership.ended_at}"
        return f"epoch {membership.epoch}, active {membership.active}, and {moments}"
    return None


def _epochs(membership: Membership, told: dict[UUID, HistoryEntry], invited: list[Invitation]) -> Iterator[Violation]:
    """Check that the history has each epoch of a membership, with its beginning and its end."""
    ids = [history_of_membership(membership.id, epoch) for epoch in range(1, membership.epoch + 1)]
    if told.keys() != set(ids):
        detail = f"{membership.epoch} times in the group, {len(told)} in its history"
        yield Violation(Invariant.EPOCHS_BROKEN, str(membership.id), detail)
        return
    own = [told[id_] for id_ in ids]
    active = [epoch for epoch, line in enumerate(own, 1) if line.outcome == "active"]
    if active != ([membership.epoch] if membership.active else []):
        detail = f"epoch {membership.epoch}, active {membership.active}, and in its history {active}"
        yield Violation(Invariant.EPOCHS_BROKEN, str(membership.id), detail)
    accepted = sum(each.state is InvitationState.ACCEPTED for each in invited)
    if accepted != sum(line.code == "invitation_accepted" for line in own):
        yield Violation(
            Invariant.EPOCHS_BROKEN, str(membership.id), f"{accepted} invitations accepted, its history differs"
        )
    for line in own:
        if (wrong := _mistold_membership(membership, line)) is not None:
            yield Violation(Invariant.HISTORY_MISMATCH, str(line.id), wrong)
    if own and (own[-1].at, own[-1].ended_at) != (membership.joined_at, membership.ended_at):
        detail = f"from {membership.joined_at} to {membership.ended_at}, the line says otherwise"
        yield Violation(Invariant.HISTORY_MISMATCH, str(own[-1].id), detail)


def _mistold_membership(membership: Membership, line: HistoryEntry) -> str | None:
    if (line.group_id, line.member_id) != (membership.group_id, membership.member_id):
        return f"of {line.member_id} in {line.group_id}, not of {membership.member_id} in {membership.group_id}"
    if line.code not in BEGINNINGS or line.outcome not in ("active", *ENDS):
        return f"begins with {line.code!r}, ends with {line.outcome!r}, which no code knows"
    actor = membership.owner_id if line.code == "account_created" else membership.member_id
    if line.actor_id != actor:
        return f"{line.code} by {line.actor_id}, not by {actor}"
    if (line.outcome == "active") is not (line.ended_at is None):
        return f"{line.outcome}, and ended at {line.ended_at}"
    return None if line.units is None else f"{line.units} units, and no payment"


# --- invitations ---


def _invitation(id_: UUID, invitations: Iterator[Invitation], told: Iterator[HistoryEntry]) -> Iterator[Violation]:
    invitation, line = only(invitations), only(told)
    if invitation is None or line is None:
        states = f"{invitation and invitation.state.value}, the line says {line and line.outcome}"
        yield Violation(Invariant.HISTORY_MISMATCH, str(id_), states)
        return
    if invitation.group_id != group_of(invitation.owner_id):
        detail = f"of {invitation.owner_id}, into the group {invitation.group_id}"
        yield Violation(Invariant.INVITATION_MISMATCH, str(id_), detail)
    pending = invitation.state is InvitationState.PENDING
    if pending is not (invitation.ended_at is None) or invitation.round < 1:
        detail = f"{invitation.state}, ended at {invitation.ended_at}, mail {invitation.round}"
        yield Violation(Invariant.INVITATION_MISMATCH, str(id_), detail)
    wanted = (
        invitation.state.value,
        invitation.group_id,
        invitation.owner_id,
        invitation.subscriber_id,
        invitation.id,
        invitation.made_at,
        invitation.ended_at,
        None,
    )
    found = (
        line.outcome,
        line.group_id,
        line.actor_id,
        line.member_id,
        line.reference_id,
        line.at,
        line.ended_at,
        line.units,
    )
    differ = [f"{was}, the line says {says}" for was, says in zip(wanted, found, strict=True) if was != says]
    if differ:
        yield Violation(Invariant.HISTORY_MISMATCH, str(id_), "; ".join(differ))


def _pending(snapshot: GroupsSnapshot) -> Iterator[tuple[UUID, Invitation]]:
    """Yield each pending invitation twice: under its owner's tally and under its subscriber's."""
    for invitation in snapshot.invitations:
        if invitation.state is InvitationState.PENDING:
            yield sent_invitations_tally(invitation.owner_id), invitation
            yield received_invitations_tally(invitation.subscriber_id), invitation


def _awaited(snapshot: GroupsSnapshot) -> Iterator[tuple[UUID, str]]:
    for subscriber in snapshot.subscribers:
        for line in subscriber.awaited:
            yield Change.parse(subscriber.id, line)[0], line


def _posted(id_: UUID, commands: Iterator[PostedCommand], lines: Iterator[str]) -> Iterator[Violation]:
    command, unseen = only(commands), sum(1 for _ in lines)
    if command is None:
        return  # pruned long after it ended
    if unseen != command.awaits or (unseen and command.state is not CommandState.PENDING):
        detail = f"{command.state.value}, awaits {command.awaits}, {unseen} still to be shown"
        yield Violation(Invariant.COMMAND_UNSEEN, str(id_), detail)


def _tally(id_: UUID, invitations: Iterator[Invitation], tallies: Iterator[Tally]) -> Iterator[Violation]:
    pending, tally = sum(1 for _ in invitations), only(tallies)
    counted = tally.pending if tally is not None else 0
    if pending != counted:
        yield Violation(Invariant.TALLY_MISMATCH, str(id_), f"{pending} pending, counted {counted}")


# --- groups, and closed accounts ---


def _group(
    id_: UUID,
    groups: Iterator[Group],
    memberships: Iterator[Membership],
    invitations: Iterator[Invitation],
    told: Iterator[HistoryEntry],
) -> Iterator[Violation]:
    """Check that no open membership or invitation is in an unknown or closed group, and the group's own lines."""
    group = only(groups)
    if group is not None and id_ != group_of(group.owner_id):
        yield Violation(Invariant.GROUP_MISMATCH, str(id_), f"is not the group of {group.owner_id}")
    for row in _open(memberships, invitations):
        if group is None:
            yield Violation(Invariant.GROUP_MISMATCH, str(row), f"is in {id_}, which is nobody's group")
        elif group.closed_at is not None:
            yield Violation(Invariant.OPEN_AFTER_CLOSING, str(row), f"in {id_}, which is closed")
    for line in told:
        named = line.reference_id == id_ and line.actor_id is not None and group_of(line.actor_id) == id_
        if line.kind is Kind.NAME and not named:
            detail = f"{line.actor_id} named {line.reference_id}, and the line is of {id_}"
            yield Violation(Invariant.HISTORY_MISMATCH, str(line.id), detail)


def _open(memberships: Iterator[Membership], invitations: Iterator[Invitation]) -> Iterator[UUID]:
    yield from (membership.id for membership in memberships if membership.active)
    yield from (each.id for each in invitations if each.state is InvitationState.PENDING)


def _closed(
    id_: UUID, closed: Iterator[Subscriber], memberships: Iterator[Membership], invitations: Iterator[Invitation]
) -> Iterator[Violation]:
    if only(closed) is not None:
        for row in _open(memberships, invitations):
            yield Violation(Invariant.OPEN_AFTER_CLOSING, str(row), f"of {id_}, whose account is closed")
