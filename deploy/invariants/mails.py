"""Mails: each fact brings those that it is worth, once."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple
from uuid import UUID

from deploy.invariants.codes import Code, Violation
from deploy.invariants.facts import Facts
from deploy.invariants.purchases import is_done
from services.groups.domain import InvitationState, Kind, TransferState
from services.notifications.domain import Template
from services.provisioning.domain import MILESTONES_DAYS, AccountState, Action


class _What(NamedTuple):
    """What mails of one cause have in common. Several facts may share one: then so many mails are due."""

    template: Template
    recipient_id: UUID
    about_id: UUID | None = None
    invitation_id: UUID | None = None
    round: int | None = None


def check_mails(facts: Facts, settled: bool) -> Iterator[Violation]:
    """Check that there are as many mails of each kind as there are facts that bring one."""
    mails = Counter(
        _What(mail.template, mail.recipient_id, mail.about_id, mail.invitation_id, mail.round)
        for mail in facts.notifications.mails
    )
    due = Counter([*_of_accounts(facts), *_of_memberships(facts), *_of_invitations(facts), *_of_transfers(facts)])
    most = due + Counter(_of_ends(facts))
    for what, count in mails.items():
        if count > most[what]:
            code = Code.MAIL_TWICE if most[what] else Code.MAIL_WITHOUT_CAUSE
            yield Violation(code, str(what.recipient_id), f"{count} mails: {what.template}, {most[what]} due")
    closed = {account.id for account in facts.provisioning.subscribers if account.state is AccountState.CLOSED}
    for what, count in due.items():
        if settled and mails[what] < count and what.recipient_id not in closed:
            detail = f"{mails[what]} mails: {what.template}, {count} due"
            yield Violation(Code.MAIL_MISSING, str(what.recipient_id), detail)


def _of_accounts(facts: Facts) -> Iterator[_What]:
    for purchase in facts.provisioning.purchases:
        if purchase.action is Action.EXTENSION and is_done(purchase):
            yield _What(Template.EXTENDED, purchase.account_id)
    for line in facts.groups.history:
        if line.kind is Kind.ACCOUNT and line.member_id is not None and line.actor_id is not None:
            yield _What(Template.WELCOME, line.member_id, line.actor_id)
            yield _What(Template.RECEIPT, line.actor_id, line.member_id)


def _of_ends(facts: Facts) -> Iterator[_What]:
    """An account's end, which comes once more after each extension, is told if it comes."""
    ends = [account.id for account in facts.provisioning.subscribers]
    ends += [each.account_id for each in facts.provisioning.purchases if each.action is Action.EXTENSION]
    for account_id in ends:
        yield _What(Template.EXPIRED, account_id)
        yield from [_What(Template.EXPIRING, account_id)] * len(MILESTONES_DAYS)


def _of_memberships(facts: Facts) -> Iterator[_What]:
    owners = {membership.id: membership.owner_id for membership in facts.groups.memberships}
    for line in facts.groups.history:
        owner, member = owners.get(line.reference_id), line.member_id
        if line.kind is not Kind.MEMBERSHIP or owner is None or member is None:
            continue
        if line.outcome in ("detached", "left", "group_closed"):
            yield _What(Template.DETACHED, member, owner)
        if line.outcome in ("detached", "left", "account_closed"):
            yield _What(Template.MEMBER_LEFT, owner, member)


_ANSWERS = {
    InvitationState.ACCEPTED: Template.INVITATION_ACCEPTED,
    InvitationState.DECLINED: Template.INVITATION_DECLINED,
    InvitationState.EXPIRED: Template.INVITATION_EXPIRED,
}


def _of_invitations(facts: Facts) -> Iterator[_What]:
    for each in facts.groups.invitations:
        for number in range(1, each.round + 1):
            yield _What(Template.INVITATION, each.subscriber_id, each.owner_id, each.id, number)
        if each.state in _ANSWERS:
            yield _What(_ANSWERS[each.state], each.owner_id, each.subscriber_id)


def _of_transfers(facts: Facts) -> Iterator[_What]:
    done = {each.id: each.owner_id for each in facts.groups.transfers if each.state is TransferState.DONE}
    for owner_id in done.values():
        yield _What(Template.TRANSFER_RECEIPT, owner_id)
    for line in facts.groups.history:
        if line.kind is Kind.TRANSFER and line.reference_id in done and line.units and line.member_id is not None:
            yield _What(Template.UNITS_RECEIVED, line.member_id, done[line.reference_id])
