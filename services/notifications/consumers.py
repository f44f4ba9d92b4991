"""Notifications' table of contents: which message is handled by what."""

from contracts.groups import MemberAccountCreated
from contracts.notifications import NotificationsCommandMalformed
from contracts.provisioning import PersonRecorded
from contracts.topics import GROUPS_EVENTS, NOTIFICATIONS_COMMANDS, PROVISIONING_DIRECTORY, Principal
from services._platform.service import Service
from services.notifications import handlers
from services.notifications.store import load

NOTIFICATIONS = Service(
    principal=Principal.NOTIFICATIONS,
    topics=(NOTIFICATIONS_COMMANDS, GROUPS_EVENTS, PROVISIONING_DIRECTORY),
    commands=NOTIFICATIONS_COMMANDS,
    handlers={
        PersonRecorded: handlers.person_recorded,
        MemberAccountCreated: handlers.member_account_created,
    },
    load=load,
    malformed=NotificationsCommandMalformed,
)
