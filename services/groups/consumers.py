"""Groups' table of contents: which message is handled by what."""

from dataclasses import replace
from functools import partial

from popfax_contracts.groups import (
    AcceptInvitation,
    CreateMemberAccount,
    DeclineInvitation,
    DetachMembers,
    GroupsCommandMalformed,
    InviteByEmail,
    LeaveGroup,
    RenameGroup,
    RevokeInvitation,
    TransferUnits,
)
from popfax_contracts.ledger import (
    BalanceChanged,
    HoldCaptured,
    HoldReleased,
    TransfersPosted,
    TransfersRefused,
    UnitsRefused,
    UnitsReserved,
)
from popfax_contracts.notifications import MailUndeliverable
from popfax_contracts.provisioning import (
    AccountClosed,
    AccountExpired,
    AccountExtended,
    AccountProvisioned,
    AccountRefused,
    PersonErased,
    PersonRecorded,
    PlanPublished,
    SubscriberRegistered,
)
from popfax_contracts.topics import (
    GROUPS_COMMANDS,
    GROUPS_COMMANDS_FROM_HTTP,
    LEDGER_BALANCES,
    LEDGER_EVENTS,
    NOTIFICATIONS_EVENTS,
    PROVISIONING_DIRECTORY,
    PROVISIONING_EVENTS,
    PROVISIONING_PLANS,
    Principal,
)
from services.chassis.sagas import CancelSaga, RetrySaga, SagaDeadline
from services.chassis.service import Service, tell
from services.groups import handlers
from services.groups.commands import answered, noting
from services.groups.domain import Quotas
from services.groups.sagas import SAGAS
from services.groups.store import load
from services.groups.timers import InvitationDue, RetryTransfer, TransferDue

GROUPS = Service(
    principal=Principal.GROUPS,
    topics=(
        GROUPS_COMMANDS,
        GROUPS_COMMANDS_FROM_HTTP,
        LEDGER_EVENTS,
        LEDGER_BALANCES,
        PROVISIONING_EVENTS,
        PROVISIONING_PLANS,
        PROVISIONING_DIRECTORY,
        NOTIFICATIONS_EVENTS,
    ),
    handlers=answered(
        {
            # The group, its members.
            RenameGroup: handlers.rename_group,
            DetachMembers: handlers.detach_members,
            LeaveGroup: handlers.leave_group,
            # Invitations, and what may end one that nobody answers.
            InviteByEmail: handlers.invite_by_email,
            AcceptInvitation: handlers.accept_invitation,
            DeclineInvitation: handlers.decline_invitation,
            RevokeInvitation: handlers.revoke_invitation,
            InvitationDue: handlers.invitation_due,
            MailUndeliverable: handlers.mail_undeliverable,
            # Units for members.
            TransferUnits: handlers.transfer_units,
            TransfersPosted: handlers.transfers_posted,
            TransfersRefused: handlers.transfers_refused,
            TransferDue: handlers.ask_again,
            RetryTransfer: handlers.ask_again,
            # An account for a new member: the saga's replies, in the order of its steps ...
            CreateMemberAccount: handlers.create_member_account,
            UnitsReserved: SAGAS.reply,
            UnitsRefused: SAGAS.reply,
            AccountProvisioned: handlers.account_provisioned,
            AccountRefused: SAGAS.reply,
            HoldCaptured: SAGAS.reply,
            HoldReleased: SAGAS.reply,
            # ... its deadline, and what an operator may ask of it.
            SagaDeadline: SAGAS.deadline,
            RetrySaga: SAGAS.retry,
            CancelSaga: SAGAS.cancel,
            # What is known of everybody: who they are, what their account says, today's prices.
            PersonRecorded: handlers.person_recorded,
            PersonErased: handlers.person_erased,
            SubscriberRegistered: handlers.subscriber_registered,
            AccountExtended: handlers.account_extended,
            AccountExpired: handlers.account_expired,
            AccountClosed: handlers.account_closed,
            BalanceChanged: handlers.balance_changed,
            PlanPublished: handlers.plan_published,
        }
    ),
    load=partial(load, SAGAS, Quotas()),
    malformed=GroupsCommandMalformed,
    refuse=noting(tell),
)


def with_quotas(quotas: Quotas) -> Service:
    """Give the service with other quotas than the usual ones."""
    return replace(GROUPS, load=partial(load, SAGAS, quotas))
