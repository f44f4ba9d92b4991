"""Groups' table of contents: which handler handles which message."""

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
from services.chassis.service import Service, contents, handles, tell
from services.groups import handlers
from services.groups.commands import answered, noting
from services.groups.domain import Quotas
from services.groups.sagas import SAGAS
from services.groups.store import LoadPlan
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
        contents(
            # The group, its members.
            handles(RenameGroup, handlers.rename_group),
            handles(DetachMembers, handlers.detach_members),
            handles(LeaveGroup, handlers.leave_group),
            # Invitations, and what may end one that nobody answers.
            handles(InviteByEmail, handlers.invite_by_email),
            handles(AcceptInvitation, handlers.accept_invitation),
            handles(DeclineInvitation, handlers.decline_invitation),
            handles(RevokeInvitation, handlers.revoke_invitation),
            handles(InvitationDue, handlers.invitation_due),
            handles(MailUndeliverable, handlers.mail_undeliverable),
            # Units for members.
            handles(TransferUnits, handlers.transfer_units),
            handles(TransfersPosted, handlers.transfers_posted),
            handles(TransfersRefused, handlers.transfers_refused),
            handles(TransferDue, handlers.ask_again),
            handles(RetryTransfer, handlers.ask_again),
            # An account for a new member: the saga's replies, in the order of its steps ...
            handles(CreateMemberAccount, handlers.create_member_account),
            handles(UnitsReserved, SAGAS.reply),
            handles(UnitsRefused, SAGAS.reply),
            handles(AccountProvisioned, handlers.account_provisioned),
            handles(AccountRefused, SAGAS.reply),
            handles(HoldCaptured, SAGAS.reply),
            handles(HoldReleased, SAGAS.reply),
            # ... its deadline, and an operator's interventions.
            handles(SagaDeadline, SAGAS.deadline),
            handles(RetrySaga, SAGAS.retry),
            handles(CancelSaga, SAGAS.cancel),
            # What is known of everybody: who they are, what their account says, today's prices.
            handles(PersonRecorded, handlers.person_recorded),
            handles(PersonErased, handlers.person_erased),
            handles(SubscriberRegistered, handlers.subscriber_registered),
            handles(AccountExtended, handlers.account_extended),
            handles(AccountExpired, handlers.account_expired),
            handles(AccountClosed, handlers.account_closed),
            handles(BalanceChanged, handlers.balance_changed),
            handles(PlanPublished, handlers.plan_published),
        )
    ),
    load=partial(LoadPlan, Quotas()),
    malformed=GroupsCommandMalformed,
    refuse=noting(tell),
)


def with_quotas(quotas: Quotas) -> Service:
    """Return the service with quotas other than the default ones."""
    return replace(GROUPS, load=partial(LoadPlan, quotas))
