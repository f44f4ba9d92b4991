"""Why a command is refused: the codes of each service, with one line on what each means.

A code is stable and meant for programs. More may come, so whoever reads one must expect a code that is not listed here.
The class of a command says with which of them it is refused, in the order in which they are checked
(`popfax_contracts.message.Command`). Nothing here imports pydantic, so that a service's rules may import it.
"""

from enum import StrEnum
from typing import Self


class RefusalCode(StrEnum):
    """A refusal's code. `meaning` is what it means, in one sentence."""

    _value_: str
    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Self:
        """Make a member of its code and its meaning."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class GroupsCode(RefusalCode):
    """Why groups refuses. Some are what the ledger or provisioning answered, passed on to whoever asked groups."""

    NOT_OWNER = "not_owner", "The actor does not own the group."
    GROUP_CLOSED = "group_closed", "The group is closed, because its owner's account is."
    UNKNOWN_PLAN = "unknown_plan", "There is no such plan."
    NOT_ON_SALE = "not_on_sale", "The plan or the option is no longer on sale."
    PRICE_CHANGED = "price_changed", "The price that the owner was shown is not today's."
    ALREADY_MEMBER = "already_member", "The subscriber is a member of the group already."
    EMAIL_TAKEN = "email_taken", "A subscriber has this e-mail address: invite them instead."
    OWN_ADDRESS = "own_address", "The e-mail address is the owner's own."
    QUOTA_OWNER_DAY = "quota_owner_day", "The owner has asked about as many addresses as one day (UTC) allows."
    QUOTA_OWNER_PENDING = "quota_owner_pending", "Too many of the owner's invitations are pending."
    QUOTA_ADDRESS_DAY = "quota_address_day", "The subscriber was sent as many invitations as one day (UTC) allows."
    QUOTA_ADDRESS_PENDING = "quota_address_pending", "Too many invitations of the subscriber are pending."
    UNKNOWN_INVITATION = "unknown_invitation", "There is no such invitation."
    NOT_INVITED = "not_invited", "The actor is not the invited subscriber, or there is neither a token nor an actor."
    TOKEN_INVALID = "token_invalid", "The token does not open the invitation; it may have been renewed since."
    INVITATION_ACCEPTED = "invitation_accepted", "The invitation was accepted already."
    INVITATION_DECLINED = "invitation_declined", "The invitation was declined already."
    INVITATION_REVOKED = "invitation_revoked", "The invitation was revoked."
    INVITATION_EXPIRED = "invitation_expired", "The invitation has expired."
    INVITATION_BOUNCED = "invitation_bounced", "The invitation's mail came back, and the invitation ended with it."
    NOT_MEMBER = "not_member", "The subscriber is not a member of the group, or not in the epoch that was named."
    NO_MEMBERS = "no_members", "The group has no members."
    TOO_MANY_MEMBERS = "too_many_members", "The group has more members than one command may name."
    NO_ORDER = "no_order", "The member has no standing order."
    ACCOUNT_CLOSED = "account_closed", "The owner's account is closed."
    ACCOUNT_EXPIRED = "account_expired", "The owner's account has expired."
    TARGET_CLOSED = "target_closed", "The account of one of the members is closed."
    TARGET_EXPIRED = "target_expired", "The member's account has expired: it has to be extended first."
    NO_PLAN = "no_plan", "The member's account has no plan, and never expires."
    ALREADY_ADDED = "already_added", "The member's account has the options pack already."
    TOO_FAR_AHEAD = "too_far_ahead", "The member's account would end in the year 2200 or later."
    END_CHANGED = "end_changed", "The member's account does not end any more when the owner was shown: it was extended."
    UNITS_SHORT = "units_short", "The owner does not have as many available units."
    TIMED_OUT = "timed_out", "It took too long and was called off."
    CANCELLED = "cancelled", "An operator called it off."
    NO_FAX_NUMBER = "no_fax_number", "No fax number is free."
    ID_CONFLICT = "id_conflict", "An id that was derived from the command belongs to something else already."


class LedgerCode(RefusalCode):
    """Why the ledger refuses."""

    ID_CONFLICT = "id_conflict", "The id was used with other content, for something else, or by another principal."
    NOT_HOLDER = "not_holder", "The actor is not the holder of the account that pays."
    ACCOUNT_CLOSED = "account_closed", "The account is closed."
    ACCOUNT_EXPIRED = "account_expired", "The account has expired: its units pay for its own extension alone."
    TARGET_CLOSED = "target_closed", "The account of one of the targets is closed."
    UNITS_SHORT = "units_short", "The account does not have as many available units."
    HOLD_CANCELLED = "hold_cancelled", "The hold was released before it was reserved."
    HOLD_CAPTURED = "hold_captured", "The hold was captured already."
    HOLD_NOT_OPEN = "hold_not_open", "The asking principal has no such hold on the account, or it is closed."


class ProvisioningCode(RefusalCode):
    """Why provisioning refuses. Some are what the ledger answered, passed on to whoever asked provisioning."""

    ID_CONFLICT = "id_conflict", "The id was used with other content, or for something else."
    UNKNOWN_PLAN = "unknown_plan", "There is no such plan."
    NOT_ON_SALE = "not_on_sale", "The plan or the option is no longer on sale."
    PRICE_CHANGED = "price_changed", "The price that was shown is not today's."
    EMAIL_TAKEN = "email_taken", "Another account has this e-mail address."
    NO_FAX_NUMBER = "no_fax_number", "No fax number is free."
    UNKNOWN_ACCOUNT = "unknown_account", "There is no such account."
    NOT_HOLDER = "not_holder", "The actor is not the account's holder."
    ACCOUNT_CLOSED = "account_closed", "The account is closed."
    ACCOUNT_EXPIRED = "account_expired", "The account has expired: extend it first."
    NO_PLAN = "no_plan", "The account has no plan, and never expires."
    TOO_FAR_AHEAD = "too_far_ahead", "The account would end in the year 2200 or later."
    ALREADY_ADDED = "already_added", "The account has the options pack already."
    ALREADY_ENABLED = "already_enabled", "Calls are forwarded to this number already."
    TARGET_CLOSED = "target_closed", "The account that somebody else pays for is closed, or there is none."
    TARGET_EXPIRED = (
        "target_expired",
        "The account that somebody else pays for has expired: it has to be extended first.",
    )
    END_CHANGED = "end_changed", "The account does not end any more when the payer was shown: it was extended."
    PAYMENT_USED = "payment_used", "The payment has paid for another purchase."
    UNITS_SHORT = "units_short", "The account does not have as many available units."
    TIMED_OUT = "timed_out", "It took too long and was called off."
    CANCELLED = "cancelled", "It was called off."


class NotificationsCode(RefusalCode):
    """Why notifications refuses."""

    UNKNOWN_MAIL = "unknown_mail", "No such mail was ever written."


class MalformedCode(RefusalCode):
    """Why a command could not be read, by whichever service."""

    MALFORMED_ENVELOPE = "malformed_envelope", "A header is missing, or is not what CloudEvents or the contract wants."
    UNKNOWN_TYPE = "unknown_type", "The service knows no command of this type."
    WRONG_TOPIC = "wrong_topic", "The command belongs on another topic."
    MALFORMED_COMMAND = "malformed_command", "The value is not what the command's schema wants."
    WRONG_KEY = "wrong_key", "The record's key is not the field that the contract names."
