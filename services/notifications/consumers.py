"""Notifications' table of contents: which handler handles which message."""

from popfax_contracts.groups import (
    InvitationAccepted,
    InvitationDeclined,
    InvitationExpired,
    MemberAccountCreated,
    MemberLeft,
    MemberPaidFor,
    StandingOrderPaused,
    UnitsReceived,
    UnitsTransferred,
)
from popfax_contracts.notifications import MailBounced, NotificationsCommandMalformed, SendInvitation, SendMembersLow
from popfax_contracts.provisioning import AccountExpired, AccountExpiring, AccountExtended, PersonErased, PersonRecorded
from popfax_contracts.topics import (
    GROUPS_EVENTS,
    NOTIFICATIONS_COMMANDS,
    NOTIFICATIONS_COMMANDS_FROM_GROUPS,
    PROVISIONING_DIRECTORY,
    PROVISIONING_EVENTS,
    Principal,
)
from services.chassis.service import Service, contents, handles
from services.notifications import handlers, tables
from services.notifications.store import LoadPlan

NOTIFICATIONS = Service(
    principal=Principal.NOTIFICATIONS,
    topics=(
        NOTIFICATIONS_COMMANDS,
        NOTIFICATIONS_COMMANDS_FROM_GROUPS,
        GROUPS_EVENTS,
        PROVISIONING_EVENTS,
        PROVISIONING_DIRECTORY,
    ),
    handlers=contents(
        handles(PersonRecorded, handlers.person_recorded),
        handles(PersonErased, handlers.person_erased),
        handles(MailBounced, handlers.mail_bounced),
        handles(MemberAccountCreated, handlers.member_account_created, once_by="its mails"),
        # The mails that these call for are in `letters`.
        handles(SendInvitation, handlers.write),
        handles(SendMembersLow, handlers.write),
        handles(InvitationAccepted, handlers.write),
        handles(InvitationDeclined, handlers.write),
        handles(InvitationExpired, handlers.write),
        handles(MemberLeft, handlers.write),
        handles(StandingOrderPaused, handlers.write),
        handles(UnitsReceived, handlers.write),
        handles(UnitsTransferred, handlers.write),
        handles(MemberPaidFor, handlers.write),
        handles(AccountExpiring, handlers.write),
        handles(AccountExpired, handlers.write),
        handles(AccountExtended, handlers.write),
    ),
    load=LoadPlan,
    malformed=NotificationsCommandMalformed,
    waits=tables.WAITING,
)
