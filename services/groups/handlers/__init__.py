"""What groups does with each message that is not a saga's reply: one function per message, one module per subject.

Each begins with its checks, in the order that the contract promises; what follows from them is in `transitions`.
"""

from services.groups.handlers.accounts import (
    account_closed,
    account_expired,
    account_extended,
    account_provisioned,
    balance_changed,
    create_member_account,
    plan_published,
    subscriber_registered,
)
from services.groups.handlers.groups import person_erased, person_recorded, rename_group
from services.groups.handlers.invitations import (
    accept_invitation,
    decline_invitation,
    invitation_due,
    invite_by_email,
    mail_undeliverable,
    revoke_invitation,
)
from services.groups.handlers.memberships import detach_members, leave_group
from services.groups.handlers.transfers import ask_again, transfer_units, transfers_posted, transfers_refused

__all__ = [
    "accept_invitation",
    "account_closed",
    "account_expired",
    "account_extended",
    "account_provisioned",
    "ask_again",
    "balance_changed",
    "create_member_account",
    "decline_invitation",
    "detach_members",
    "invitation_due",
    "invite_by_email",
    "leave_group",
    "mail_undeliverable",
    "person_erased",
    "person_recorded",
    "plan_published",
    "rename_group",
    "revoke_invitation",
    "subscriber_registered",
    "transfer_units",
    "transfers_posted",
    "transfers_refused",
]
