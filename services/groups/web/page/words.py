"""What codes mean, in words. The sentences are in English here; catalogues have them in other languages."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.groups.domain import InvitationState
from services.groups.web.page.pasted import Verdict


def N_(message: str) -> str:  # noqa: N802 - gettext's own name for it
    """Mark a sentence for the catalogues."""
    return message


UNKNOWN_REFUSAL = N_("This could not be done. Nothing has changed.")

REFUSALS: Mapping[str, str] = {
    "not_owner": N_("Only the owner of the group can do this."),
    "group_closed": N_("This group is closed."),
    "unknown_plan": N_("This plan is no longer on sale."),
    "not_on_sale": N_("This is no longer on sale."),
    "price_changed": N_("The price has changed in the meantime. Please look at the new one before you pay."),
    "already_member": N_("This person is a member of your group already."),
    "email_taken": N_("This address belongs to a Popfax subscriber already: invite them instead."),
    "account_closed": N_("Your account is closed."),
    "account_expired": N_("Your account has expired. Extend it first; your units are still there."),
    "units_short": N_("You do not have enough POP units for this. Nothing was taken."),
    "timed_out": N_("This took too long and was called off. Nothing was taken from your account."),
    "cancelled": N_("This was called off. Nothing was taken from your account."),
    "no_fax_number": N_("No fax number is free at the moment. Nothing was taken from your account."),
    "id_conflict": N_("This form has been sent already with other contents. Please try again."),
    "own_address": N_("This is your own address."),
    "quota_owner_day": N_(
        "You have asked for as many invitations and accounts as one day allows. Please try again tomorrow."
    ),
    "quota_owner_pending": N_("Too many of your invitations are waiting for an answer. Withdraw some first."),
    "quota_address_day": N_("This person was sent too many invitations today. Please try again tomorrow."),
    "quota_address_pending": N_("This person has too many invitations to answer. Please try again later."),
    "unknown_invitation": N_("This invitation is not there any more."),
    "not_invited": N_("This invitation is for somebody else."),
    "token_invalid": N_("This link is no longer valid: a newer invitation has replaced it."),
    "invitation_accepted": N_("This invitation has been accepted already."),
    "invitation_declined": N_("This invitation has been declined already."),
    "invitation_revoked": N_("This invitation was withdrawn."),
    "invitation_expired": N_("This invitation has expired."),
    "invitation_bounced": N_("The mail with this invitation could not be delivered."),
    "not_member": N_("Somebody in the selection is not a member of the group any more. Nothing has changed."),
    "no_members": N_("The group has no members yet."),
    "too_many_members": N_("At most 1,000 members can be chosen at a time."),
    "no_order": N_("This member has no standing order any more."),
    "target_closed": N_("The account of a selected member is closed. Nothing was transferred."),
    "target_expired": N_("This account has expired: extend it first."),
    "no_plan": N_("This account never expires."),
    "already_added": N_("This account has the options pack already."),
    "too_far_ahead": N_("This account lasts as long as any can."),
    "end_changed": N_("This account was extended in the meantime. Nothing was taken."),
    "dropped": N_("Popfax could not carry this out. Nothing has changed."),
    "malformed_command": N_("This could not be understood. Please check what you have entered."),
}
"""Why something was refused."""


WRONG_EMAIL = N_("This does not look like an e-mail address.")
WRONG_LANGUAGE = N_("Choose a language.")
ADDRESS_GONE = N_("Nobody has this address any more. Withdraw the invitation, and invite the new address.")
NOBODY_CHOSEN = N_("Choose one or several members first.")

_WRONG_NAMES = {
    "web_address": N_("A name can’t hold a web address. If it is none, put a space after the dot."),
    "hidden_character": N_("This name holds a character that can’t be seen everywhere. Please type it again."),
    "stacked_marks": N_("This name holds more accents than a letter has. Please type it again."),
}


def wrong_name(kind: str) -> str:
    """Return what is wrong with a name, by the kind of the validation error."""
    return _WRONG_NAMES.get(kind, N_("Give a name of one line, with at most 100 characters."))


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan, as people know it."""

    name: str
    hint: str


PLANS: Mapping[str, Plan] = {
    "send_receive": Plan(N_("Send and Receive"), N_("Sends faxes, and receives them on a number of its own.")),
    "send_only": Plan(N_("Send Only"), N_("Sends faxes. There is no number to receive them on.")),
}
"""Those that have a name. One without is called by its own."""

PENDING: Mapping[str, str] = {
    "rename-group": N_("Renaming…"),
    "set-low-balance": N_("Saving…"),
    "invite-by-email": N_("Looking for this address…"),
    "create-member-account": N_("Creating the account…"),
    "accept-invitation": N_("Joining the group…"),
    "decline-invitation": N_("Declining…"),
    "revoke-invitation": N_("Withdrawing the invitation…"),
    "detach-members": N_("Removing the members…"),
    "set-standing-order": N_("Saving the standing order…"),
    "stop-standing-order": N_("Stopping the standing order…"),
    "leave-group": N_("Leaving the group…"),
    "transfer-units": N_("Transferring the units…"),
    "pay-for-member": N_("Paying…"),
}
"""What is going on while a command is on its way."""

SOME_PENDING = N_("This is being done…")
"""The same for a command that only `/v1` takes."""

DONE: Mapping[str, str] = {
    "rename-group": N_("The group has its new name."),
    "set-low-balance": N_("It is noted what few units are."),
    "invite-by-email": N_("The invitation is on its way."),
    "create-member-account": N_("The account is there, and a member of your group."),
    "accept-invitation": N_("You are a member of the group now."),
    "decline-invitation": N_("You have declined the invitation."),
    "revoke-invitation": N_("The invitation is withdrawn."),
    "detach-members": N_("The members are removed from the group. Their accounts and units stay theirs."),
    "set-standing-order": N_("The standing order is saved."),
    "stop-standing-order": N_("The standing order is stopped."),
    "leave-group": N_("You have left the group. Your account and your units stay yours."),
    "transfer-units": N_("The units are transferred."),
    "pay-for-member": N_("It is done, and paid with your units."),
}
"""What has become of it."""

SOME_DONE = N_("This is done.")
"""The same for a command that only `/v1` takes."""

STEPS: Mapping[str, str] = {
    "reserve units": N_("Set the units aside"),
    "provision account": N_("Create the account"),
    "capture hold": N_("Pay with the units"),
    "add the membership": N_("Add the member to your group"),
}
"""How an account comes into being, in order; the last one is done with the one before it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How a line of the history ended: a word, and whether that is good, bad, or neither yet."""

    word: str
    tone: str


MARKS: Mapping[tuple[str, str], Mark] = {
    ("invitation", "pending"): Mark(N_("Waiting"), "wait"),
    ("invitation", "accepted"): Mark(N_("Accepted"), "good"),
    ("invitation", "declined"): Mark(N_("Declined"), "bad"),
    ("invitation", "revoked"): Mark(N_("Withdrawn"), "off"),
    ("invitation", "expired"): Mark(N_("Lapsed"), "off"),
    ("invitation", "bounced"): Mark(N_("Undeliverable"), "bad"),
    ("account", "created"): Mark(N_("Created"), "good"),
    ("account", "refused"): Mark(N_("Refused"), "bad"),
    ("membership", "active"): Mark(N_("Member"), "good"),
    ("membership", "detached"): Mark(N_("Removed"), "off"),
    ("membership", "left"): Mark(N_("Has left"), "off"),
    ("membership", "account_closed"): Mark(N_("Account closed"), "off"),
    ("membership", "group_closed"): Mark(N_("Group closed"), "off"),
    ("transfer", "pending"): Mark(N_("In progress"), "wait"),
    ("transfer", "done"): Mark(N_("Done"), "good"),
    ("transfer", "refused"): Mark(N_("Refused"), "bad"),
    ("extension", "pending"): Mark(N_("In progress"), "wait"),
    ("extension", "done"): Mark(N_("Done"), "good"),
    ("extension", "refused"): Mark(N_("Refused"), "bad"),
    ("options_pack", "pending"): Mark(N_("In progress"), "wait"),
    ("options_pack", "done"): Mark(N_("Done"), "good"),
    ("options_pack", "refused"): Mark(N_("Refused"), "bad"),
    ("order", "set"): Mark(N_("Saved"), "good"),
    ("order", "paused"): Mark(N_("Paused"), "wait"),
    ("order", "stopped"): Mark(N_("Stopped"), "off"),
    ("name", "renamed"): Mark(N_("Done"), "good"),
}
"""By the line's kind and outcome."""

NO_MARK = Mark("", "off")

VERDICTS: Mapping[Verdict, Mark] = {
    Verdict.READY: Mark(N_("Ready"), "good"),
    Verdict.INVALID: Mark(N_("Not an address"), "bad"),
    Verdict.DUPLICATE: Mark(N_("Twice in the list"), "off"),
    Verdict.ONESELF: Mark(N_("Your own address"), "off"),
    Verdict.MEMBER: Mark(N_("Member already"), "off"),
    Verdict.INVITED: Mark(N_("Invited already"), "off"),
    Verdict.OVER_QUOTA: Mark(N_("More than one day allows"), "wait"),
}
"""What becomes of a line of a list that is pasted, when it is sent."""

LINE_PENDING = Mark(N_("In progress"), "wait")
LINE_REFUSED = Mark(N_("Refused"), "bad")
LINE_DONE: Mapping[str, Mark] = {
    "invitation-sent": Mark(N_("Invited"), "good"),
    "account-creation-required": Mark(N_("No account yet"), "wait"),
    "member-account-created": Mark(N_("Created"), "good"),
}
"""What has become of a line of a list that was sent, by the event that answered it."""

SOME_LINE_DONE = Mark(N_("Done"), "good")

ENDED_INVITATIONS: Mapping[InvitationState, str] = {
    InvitationState.ACCEPTED: N_("This invitation is accepted already"),
    InvitationState.DECLINED: N_("This invitation was declined"),
    InvitationState.REVOKED: N_("This invitation was withdrawn"),
    InvitationState.EXPIRED: N_("This invitation has lapsed"),
    InvitationState.BOUNCED: N_("This invitation has lapsed"),
}
"""Why an invitation can't be answered any more, by its state."""

HAD_ENOUGH = Mark(N_("Had enough already"), "off")
"""For a member's part of a top-up that gave them nothing."""

KINDS: Mapping[str, str] = {
    "invitation": N_("Invitation"),
    "account": N_("New account"),
    "membership": N_("Membership"),
    "transfer": N_("Transfer of units"),
    "extension": N_("Extension"),
    "options_pack": N_("Options pack"),
    "order": N_("Standing order"),
    "name": N_("Name of the group"),
}
"""What a line of the history is about, in the books."""
