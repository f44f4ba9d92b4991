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
    PayForMember,
    RenameGroup,
    RevokeInvitation,
    SetLowBalance,
    SetStandingOrder,
    StopStandingOrder,
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
    AccountExpiring,
    AccountExtended,
    AccountProvisioned,
    AccountRefused,
    GrantRefused,
    OptionPublished,
    OptionsPackAdded,
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
from services.chassis.deadlines import deadlines
from services.chassis.sagas import CancelSaga, RetrySaga, SagaDeadline
from services.chassis.service import Service, contents, handles, tell
from services.groups import tables
from services.groups.commands import answered, noting
from services.groups.domain import Quotas
from services.groups.handlers import (
    accounts,
    groups,
    invitations,
    low_balances,
    memberships,
    orders,
    payments,
    transfers,
)
from services.groups.sagas import SAGAS
from services.groups.store import LoadPlan
from services.groups.timers import (
    LOOKS,
    ORDER_LOOKS,
    InvitationDue,
    LowBalanceDue,
    OrderDue,
    RetryTransfer,
    TransferDue,
)

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
            handles(RenameGroup, groups.rename_group),
            handles(SetLowBalance, low_balances.set_low_balance),
            handles(LowBalanceDue, low_balances.low_balance_due),
            handles(DetachMembers, memberships.detach_members),
            handles(LeaveGroup, memberships.leave_group),
            # Invitations, and what may end one that nobody answers.
            handles(InviteByEmail, invitations.invite_by_email),
            handles(AcceptInvitation, invitations.accept_invitation),
            handles(DeclineInvitation, invitations.decline_invitation),
            handles(RevokeInvitation, invitations.revoke_invitation),
            handles(InvitationDue, invitations.invitation_due),
            handles(MailUndeliverable, invitations.mail_undeliverable),
            # Units for members.
            handles(TransferUnits, transfers.transfer_units),
            handles(TransfersPosted, transfers.transfers_posted),
            handles(TransfersRefused, transfers.transfers_refused),
            handles(TransferDue, transfers.ask_again),
            handles(RetryTransfer, transfers.ask_again),
            # What an owner pays for a member, beside what else the sagas' replies below are for.
            handles(PayForMember, payments.pay_for_member),
            handles(GrantRefused, SAGAS.reply, once_by="its saga"),
            # Units again and again.
            handles(SetStandingOrder, orders.set_standing_order),
            handles(StopStandingOrder, orders.stop_standing_order),
            handles(OrderDue, orders.order_due),
            # An account for a new member: the saga's replies, in the order of its steps ...
            handles(CreateMemberAccount, accounts.create_member_account),
            handles(UnitsReserved, SAGAS.reply, once_by="its saga"),
            handles(UnitsRefused, SAGAS.reply, once_by="its saga"),
            handles(AccountProvisioned, accounts.account_provisioned, once_by="its account and its saga"),
            handles(AccountRefused, SAGAS.reply, once_by="its saga"),
            handles(HoldCaptured, SAGAS.reply, once_by="its saga"),
            handles(HoldReleased, SAGAS.reply, once_by="its saga"),
            # ... its deadline, and an operator's interventions.
            handles(SagaDeadline, SAGAS.deadline),
            handles(RetrySaga, SAGAS.retry),
            handles(CancelSaga, SAGAS.cancel),
            # What is known of everybody: who they are, what their account says, today's prices.
            handles(PersonRecorded, groups.person_recorded),
            handles(PersonErased, groups.person_erased),
            handles(SubscriberRegistered, accounts.subscriber_registered),
            handles(AccountExtended, accounts.account_extended),
            handles(OptionsPackAdded, accounts.options_pack_added),
            handles(AccountExpiring, accounts.account_expiring),
            handles(AccountExpired, accounts.account_expired),
            handles(AccountClosed, accounts.account_closed),
            handles(BalanceChanged, accounts.balance_changed, once_by="its account's balance version"),
            handles(PlanPublished, accounts.plan_published),
            handles(OptionPublished, accounts.option_published),
        )
    ),
    load=partial(LoadPlan, Quotas()),
    malformed=GroupsCommandMalformed,
    for_requester=frozenset({UnitsReserved, UnitsRefused, HoldCaptured, HoldReleased}),
    alarms=(*deadlines(SAGAS, tables.SAGAS), LOOKS, ORDER_LOOKS),
    sagas=tuple(SAGAS.definitions),
    waits=tables.WAITING,
    refuse=noting(tell),
)


def with_quotas(quotas: Quotas) -> Service:
    """Return the service with quotas other than the default ones."""
    return replace(GROUPS, load=partial(LoadPlan, quotas))
