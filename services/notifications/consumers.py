"""Notifications' table of contents: which message is handled by what."""

from popfax_contracts.groups import (
    InvitationAccepted,
    InvitationDeclined,
    InvitationExpired,
    MemberAccountCreated,
    MemberLeft,
    UnitsReceived,
    UnitsTransferred,
)
from popfax_contracts.notifications import MailBounced, NotificationsCommandMalformed, SendInvitation
from popfax_contracts.provisioning import AccountExpired, AccountExpiring, AccountExtended, PersonErased, PersonRecorded
from popfax_contracts.topics import (
    GROUPS_EVENTS,
    NOTIFICATIONS_COMMANDS,
    NOTIFICATIONS_COMMANDS_FROM_GROUPS,
    PROVISIONING_DIRECTORY,
    PROVISIONING_EVENTS,
    Principal,
)
from services.chassis.service import Service
from services.notifications import handlers
from services.notifications.store import load

NOTIFICATIONS = Service(
    principal=Principal.NOTIFICATIONS,
    topics=(
        NOTIFICATIONS_COMMANDS,
        NOTIFICATIONS_COMMANDS_FROM_GROUPS,
        GROUPS_EVENTS,
        PROVISIONING_EVENTS,
        PROVISIONING_DIRECTORY,
    ),
    handlers={
        PersonRecorded: handlers.person_recorded,
        PersonErased: handlers.person_erased,
        MailBounced: handlers.mail_bounced,
        MemberAccountCreated: handlers.member_account_created,
        # What these are worth is in `letters`.
        SendInvitation: handlers.write,
        InvitationAccepted: handlers.write,
        InvitationDeclined: handlers.write,
        InvitationExpired: handlers.write,
        MemberLeft: handlers.write,
        UnitsReceived: handlers.write,
        UnitsTransferred: handlers.write,
        AccountExpiring: handlers.write,
        AccountExpired: handlers.write,
        AccountExtended: handlers.write,
    },
    load=load,
    malformed=NotificationsCommandMalformed,
)
