"""Mails: each event that calls for mails has them, once, and a mail's id follows from its event."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from itertools import chain
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel

from deploy.operator.invariants.groups import ENDS
from deploy.operator.invariants.history import PAYMENTS, lines
from deploy.operator.invariants.invariant import Invariant, Violation
from deploy.operator.invariants.purchases import is_done
from deploy.operator.invariants.rows import Group, by, each, in_order, merge_join, only
from deploy.operator.invariants.snapshot import Lateness, Snapshot
from popfax_contracts.groups import (
    InvitationAccepted,
    InvitationDeclined,
    InvitationExpired,
    MemberAccountCreated,
    MemberLeft,
    MemberPaidFor,
    StandingOrderPaused,
    TransferredLeg,
    UnitsReceived,
    UnitsTransferred,
)
from popfax_contracts.message import Message
from popfax_contracts.notifications import SendInvitation, SendMembersLow
from popfax_contracts.provisioning import AccountExtended
from services.groups.domain import (
    INVITATION_LIFETIME,
    Invitation,
    InvitationState,
    Kind,
    LowBalance,
    Membership,
    StandingOrder,
    Transfer,
    TransferState,
    history_of_membership,
)
from services.notifications.domain import Mail, Template
from services.notifications.letters import Letter, letters
from services.provisioning.domain import MILESTONES_DAYS, AccountState, Action, Grant, Purchase, Subscriber

_OF_ENDS = {Template.EXPIRED: 1, Template.EXPIRING: len(MILESTONES_DAYS)}
"""Mails about an account's end, and the most per end. Not every end that an account had is on record."""

_NOT_ALL_ON_RECORD = {*_OF_ENDS, Template.MEMBERS_LOW}
"""Mails that are counted: not what brought each of them is on record, but how often something did."""


@dataclass(frozen=True, slots=True)
class _Expected:
    """A mail that an event calls for, with the fields that even an erased mail still has."""

    template: Template
    recipient_id: UUID
    about_id: UUID | None
    invitation_id: UUID | None
    round: int | None
    since: datetime | None
    """Since when it is due, at the latest."""
    earliest: datetime | None
    """And at the earliest."""


def check_mails(snapshot: Snapshot, late: Lateness) -> Iterator[Violation]:
    """Check that every mail has its event, and that every event that is old enough has its mails."""
    yield from each(_compared(snapshot), _mail)
    yield from each(
        merge_join(in_order(_missing(snapshot, late)), by(snapshot.provisioning.subscribers, "id")), _unwritten
    )
    yield from each(
        merge_join(
            (
                (id_, mail)
                for id_, mail in by(snapshot.notifications.mails, "recipient_id")
                if mail.template in _OF_ENDS
            ),
            by(snapshot.provisioning.subscribers, "id"),
            by(snapshot.provisioning.purchases, "account_id"),
            by(snapshot.provisioning.grants, "account_id"),
        ),
        _of_ends,
    )
    yield from each(
        merge_join(
            (
                (id_, mail)
                for id_, mail in by(snapshot.notifications.mails, "recipient_id")
                if mail.template is Template.MEMBERS_LOW
            ),
            by(snapshot.groups.low_balances, "owner_id"),
        ),
        _of_lows,
    )


def _compared(snapshot: Snapshot) -> Iterator[Group]:
    return merge_join(in_order(_expected(snapshot)), by(snapshot.notifications.mails, "id"))


def _mail(id_: UUID, expected: Iterator[_Expected], mails: Iterator[Mail]) -> Iterator[Violation]:
    due, mail = only(expected), only(mails)
    if mail is None:
        return  # `_missing` finds it
    if due is None:
        if mail.template not in _NOT_ALL_ON_RECORD:
            detail = f"{mail.template} to {mail.recipient_id} about {mail.about_id}, and no fact brings it"
            yield Violation(Invariant.MAIL_WITHOUT_CAUSE, str(id_), detail)
        return
    written = (mail.template, mail.recipient_id, mail.about_id, mail.invitation_id, mail.round)
    if written != (wanted := (due.template, due.recipient_id, due.about_id, due.invitation_id, due.round)):
        said = " ".join(f"{was}→{says}" for was, says in zip(wanted, written, strict=True) if was != says)
        yield Violation(Invariant.MAIL_WITHOUT_CAUSE, str(id_), f"is not what its fact brings: {said}")


def _missing(snapshot: Snapshot, late: Lateness) -> Iterator[tuple[UUID, tuple[UUID, _Expected]]]:
    """Yield the mails that are missing, by their recipients. One that is old enough may have been removed."""
    removed = snapshot.notifications.removal("mails")
    for id_, (expected, mails) in _compared(snapshot):
        due = only(expected)
        if due is not None and only(mails) is None and late(due.since) and not removed(due.earliest):
            yield due.recipient_id, (id_, due)


def _unwritten(
    recipient_id: UUID, missing: Iterator[tuple[UUID, _Expected]], accounts: Iterator[Subscriber]
) -> Iterator[Violation]:
    """Report missing mails, except to closed accounts, whose holders are erased."""
    account = only(accounts)
    if account is not None and account.state is AccountState.CLOSED:
        return
    for id_, due in missing:
        yield Violation(Invariant.MAIL_MISSING, str(id_), f"{due.template} to {recipient_id}, due since {due.since}")


def _of_ends(
    id_: UUID,
    mails: Iterator[Mail],
    accounts: Iterator[Subscriber],
    purchases: Iterator[Purchase],
    grants: Iterator[Grant],
) -> Iterator[Violation]:
    """Check that an account has no more mails about its end than its registration and extensions allow."""
    bought: Iterator[Purchase | Grant] = chain(purchases, grants)
    ends = (only(accounts) is not None) + sum(each.action is Action.EXTENSION for each in bought)
    for template, count in Counter(mail.template for mail in mails).items():
        if count > (most := ends * _OF_ENDS[template]):
            code = Invariant.MAIL_TWICE if most else Invariant.MAIL_WITHOUT_CAUSE
            yield Violation(code, str(id_), f"{count} mails: {template}, {most} due")


def _of_lows(id_: UUID, mails: Iterator[Mail], settings: Iterator[LowBalance]) -> Iterator[Violation]:
    """Check that an owner has no more mails about members who are low than were asked for."""
    count, setting = sum(1 for _ in mails), only(settings)
    if count > (most := setting.mails if setting is not None else 0):
        code = Invariant.MAIL_TWICE if most else Invariant.MAIL_WITHOUT_CAUSE
        yield Violation(code, str(id_), f"{count} mails: {Template.MEMBERS_LOW}, {most} asked for")


# --- the mails that events call for ---


def _expected(snapshot: Snapshot) -> Iterator[tuple[UUID, _Expected]]:
    for since, message in _events(snapshot):
        for letter in letters(message):
            yield letter.id, _as_expected(letter, since)
    for invitation in snapshot.groups.invitations:
        for number in range(1, invitation.round + 1):
            for letter in letters(_sent(invitation, number)):
                # The moments of those between the first and the last are nowhere.
                is_last = number == invitation.round
                last = invitation.expires_at - INVITATION_LIFETIME
                yield letter.id, _as_expected(letter, last, last if is_last else invitation.made_at)

    for setting in snapshot.groups.low_balances:
        if setting.mailed_on is not None:
            noon = datetime.combine(setting.mailed_on, time(12), UTC)
            for letter in letters(_last_of_lows(setting)):
                # The day is the owner's, wherever they are.
                yield letter.id, _as_expected(letter, noon + timedelta(days=1), noon - timedelta(days=1))


def _last_of_lows(setting: LowBalance) -> Message:
    return _as(
        SendMembersLow,
        group_id=setting.group_id,
        owner_id=setting.owner_id,
        day=setting.mailed_on,
        below_units=setting.below_units,
        members=(),
    )


def _as_expected(letter: Letter, since: datetime | None, earliest: datetime | None = None) -> _Expected:
    return _Expected(
        letter.template,
        letter.recipient_id,
        letter.about_id,
        letter.invitation_id,
        letter.round,
        since,
        earliest or since,
    )


def _sent(invitation: Invitation, number: int) -> Message:
    return _as(
        SendInvitation,
        invitation_id=invitation.id,
        round=number,
        recipient_id=invitation.subscriber_id,
        owner_id=invitation.owner_id,
        group_name=None,
        token="",
        expires_at=invitation.expires_at,
    )


M = TypeVar("M", bound=BaseModel)


def _as(model: type[M], /, **fields: Any) -> M:
    """Build a message without validation: wrong values are found by other checks."""
    return model.model_construct(**fields)


_Events = Iterator[tuple[datetime | None, Message]]


def _events(snapshot: Snapshot) -> _Events:
    """Rebuild the snapshot's events, as far as the mails' ids and people depend on them."""
    for purchase in snapshot.provisioning.purchases:
        if purchase.action is Action.EXTENSION and is_done(purchase):
            yield (
                purchase.decided_at,
                _as(
                    AccountExtended,
                    request_id=purchase.id,
                    account_id=purchase.account_id,
                    expires_at=purchase.expires_at or purchase.decided_at,
                    price_units=purchase.price_units,
                ),
            )
    for line in snapshot.groups.history:
        if line.kind is Kind.ACCOUNT and line.outcome == "created":
            yield (
                line.ended_at,
                _as(
                    MemberAccountCreated,
                    group_id=line.group_id,
                    owner_id=line.actor_id,
                    member_id=line.member_id,
                    plan="",
                    price_units=line.units,
                ),
            )
        if line.kind in PAYMENTS and line.outcome == "done":
            yield (
                line.ended_at,
                _as(
                    MemberPaidFor,
                    group_id=line.group_id,
                    owner_id=line.actor_id,
                    member_id=line.member_id,
                    payment_id=line.id,
                    action=line.kind.value,
                    price_units=line.units,
                    expires_at=None,
                ),
            )
    yield from _pauses(snapshot)
    yield from _memberships(snapshot)
    yield from _answers(snapshot)
    yield from _transfers(snapshot)


def _pauses(snapshot: Snapshot) -> _Events:
    for id_, (orders, told) in merge_join(
        by(snapshot.groups.orders, "id"), lines(snapshot.groups.history, Kind.ORDER, "reference_id")
    ):
        order: StandingOrder | None = only(orders)
        for line in told:
            if order is not None and line.outcome == "paused":
                yield (
                    line.at,
                    _as(
                        StandingOrderPaused,
                        group_id=order.group_id,
                        owner_id=order.owner_id,
                        member_id=order.member_id,
                        order_id=id_,
                        reason=line.code,
                        paused_at=line.at,
                    ),
                )


def _memberships(snapshot: Snapshot) -> _Events:
    for _, (memberships, told) in merge_join(
        by(snapshot.groups.memberships, "id"), lines(snapshot.groups.history, Kind.MEMBERSHIP, "reference_id")
    ):
        membership: Membership | None = only(memberships)
        if membership is None:
            continue
        epochs = {history_of_membership(membership.id, epoch): epoch for epoch in range(1, membership.epoch + 1)}
        for line in told:
            if line.outcome in ENDS and line.id in epochs:
                yield (
                    line.ended_at,
                    _as(
                        MemberLeft,
                        group_id=membership.group_id,
                        owner_id=membership.owner_id,
                        member_id=membership.member_id,
                        epoch=epochs[line.id],
                        via=line.outcome,
                    ),
                )


_ANSWERS: dict[InvitationState, type[Message]] = {
    InvitationState.ACCEPTED: InvitationAccepted,
    InvitationState.DECLINED: InvitationDeclined,
    InvitationState.EXPIRED: InvitationExpired,
}


def _answers(snapshot: Snapshot) -> _Events:
    for invitation in snapshot.groups.invitations:
        if invitation.state in _ANSWERS:
            answer = _as(
                _ANSWERS[invitation.state],
                group_id=invitation.group_id,
                owner_id=invitation.owner_id,
                invitation_id=invitation.id,
                subscriber_id=invitation.subscriber_id,
            )
            yield invitation.ended_at, answer


def _transfers(snapshot: Snapshot) -> _Events:
    for id_, (transfers, told) in merge_join(
        by(snapshot.groups.transfers, "id"), lines(snapshot.groups.history, Kind.TRANSFER, "reference_id")
    ):
        transfer: Transfer | None = only(transfers)
        if transfer is None or transfer.state is not TransferState.DONE:
            continue
        units = {line.member_id: line.units for line in told if line.member_id is not None and line.units is not None}
        legs = tuple(
            _as(TransferredLeg, member_id=member_id, amount_units=amount) for member_id, amount in units.items()
        )
        yield (
            transfer.ended_at,
            _as(
                UnitsTransferred,
                group_id=transfer.group_id,
                owner_id=transfer.owner_id,
                transfer_id=id_,
                mode=transfer.mode,
                amount_units=transfer.amount_units,
                legs=legs,
                total_units=transfer.total_units,
                order_id=transfer.order_id,
            ),
        )
        for leg in legs:
            if leg.amount_units:
                yield (
                    transfer.ended_at,
                    _as(
                        UnitsReceived,
                        group_id=transfer.group_id,
                        owner_id=transfer.owner_id,
                        member_id=leg.member_id,
                        transfer_id=id_,
                        amount_units=leg.amount_units,
                    ),
                )
