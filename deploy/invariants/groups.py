"""Groups alone: memberships, invitations, and the history that tells of them. All of it is true at every moment."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from uuid import UUID

from deploy.invariants.codes import Code, Violation
from deploy.invariants.facts import GroupsFacts
from services.groups.domain import (
    AccountState,
    HistoryEntry,
    InvitationState,
    Kind,
    Membership,
    got_by,
    history_of_membership,
    made_by,
    membership_of,
)


def check_groups(facts: GroupsFacts) -> list[Violation]:
    """Check memberships and invitations against each other, and their history against them."""
    return [*_epochs(facts), *_pending(facts), *_told(facts), *_tallies(facts), *_closed(facts)]


def _epochs(facts: GroupsFacts) -> Iterator[Violation]:
    lines: defaultdict[UUID, dict[UUID, HistoryEntry]] = defaultdict(dict)
    for line in facts.history:
        if line.kind is Kind.MEMBERSHIP:
            lines[line.reference_id][line.id] = line
    for membership in facts.memberships:
        if (broken := _broken_epochs(membership, lines.pop(membership.id, {}))) is not None:
            yield Violation(Code.EPOCHS_BROKEN, str(membership.id), broken)
    for id_ in lines:
        yield Violation(Code.EPOCHS_BROKEN, str(id_), "history tells of times in a group that never were")


def _broken_epochs(membership: Membership, lines: dict[UUID, HistoryEntry]) -> str | None:
    """Say what is wrong with the history of one membership, None if nothing is."""
    ids = [history_of_membership(membership.id, epoch) for epoch in range(1, membership.epoch + 1)]
    if lines.keys() != set(ids):
        return f"{membership.epoch} times in the group, {len(lines)} in its history"
    active = [epoch for epoch, id_ in enumerate(ids, 1) if lines[id_].outcome == "active"]
    if active != ([membership.epoch] if membership.active else []):
        return f"epoch {membership.epoch}, active {membership.active}, and in its history {active}"
    return None


def _pending(facts: GroupsFacts) -> Iterator[Violation]:
    said = {(m.id, m.invitation_id) for m in facts.memberships if m.invitation_id is not None}
    pending = {
        (membership_of(i.group_id, i.subscriber_id), i.id)
        for i in facts.invitations
        if i.state is InvitationState.PENDING
    }
    for membership_id, invitation_id in sorted(said ^ pending, key=str):
        detail = "is not pending" if (membership_id, invitation_id) in said else "is pending, and not the one"
        yield Violation(Code.INVITATION_MISMATCH, str(invitation_id), f"{detail} of {membership_id}")
    for membership in facts.memberships:
        if membership.active and membership.invitation_id is not None:
            yield Violation(Code.MEMBER_AND_INVITED, str(membership.id), f"by {membership.invitation_id}")


def _told(facts: GroupsFacts) -> Iterator[Violation]:
    told = {line.id: line.outcome for line in facts.history if line.kind is Kind.INVITATION}
    were = {invitation.id: invitation.state.value for invitation in facts.invitations}
    for id_ in sorted(told.keys() | were.keys()):
        if told.get(id_) != were.get(id_):
            yield Violation(Code.HISTORY_MISMATCH, str(id_), f"{were.get(id_)}, the line says {told.get(id_)}")


def _tallies(facts: GroupsFacts) -> Iterator[Violation]:
    pending = [each for each in facts.invitations if each.state is InvitationState.PENDING]
    are = Counter([*(made_by(each.owner_id) for each in pending), *(got_by(each.subscriber_id) for each in pending)])
    counted = {tally.id: tally.pending for tally in facts.tallies}
    for id_ in sorted(are.keys() | counted.keys()):
        if are[id_] != counted.get(id_, 0):
            yield Violation(Code.TALLY_MISMATCH, str(id_), f"{are[id_]} pending, counted {counted.get(id_, 0)}")


def _closed(facts: GroupsFacts) -> Iterator[Violation]:
    closed = {subscriber.id for subscriber in facts.subscribers if subscriber.state is AccountState.CLOSED}
    closed |= {group.id for group in facts.groups if group.closed_at is not None}
    open_ = [(m.id, m.group_id, m.member_id) for m in facts.memberships if m.active]
    open_ += [(i.id, i.group_id, i.subscriber_id) for i in facts.invitations if i.state is InvitationState.PENDING]
    for id_, group_id, subscriber_id in open_:
        if not closed.isdisjoint((group_id, subscriber_id)):
            yield Violation(Code.OPEN_AFTER_CLOSING, str(id_), f"of {subscriber_id} in {group_id}")
