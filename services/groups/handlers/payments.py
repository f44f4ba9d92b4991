"""What an owner pays for a member: groups decides whether they may, provisioning whether the member's account can."""

from popfax_contracts.codes import GroupsCode
from popfax_contracts.groups import MemberPaymentRefused, PayForMember
from services.chassis.messages import Incoming, Outcome
from services.chassis.service import Moment, needs
from services.groups import transitions
from services.groups.domain import Kind, membership_of
from services.groups.handlers.memberships import is_meant
from services.groups.handlers.ownership import owner_of, why_not_owner
from services.groups.sagas import PAY_FOR_MEMBER
from services.groups.store import LoadPlan, Roster, payment_of


def _payment(load: LoadPlan, message: Incoming[PayForMember]) -> None:
    command, id_ = message.body, payment_of(message)
    load.sagas.add(id_)
    load.history.add(id_)
    load.groups.add(command.group_id)
    load.memberships.add(membership_of(command.group_id, command.member_id))


@needs(_payment)
def pay_for_member(roster: Roster, message: Incoming[PayForMember], moment: Moment) -> Outcome:
    """Open the saga that pays for a member, unless the actor may not. Provisioning checks account, end and price."""
    command, id_ = message.body, payment_of(message)
    if roster.sagas.find(id_) is not None or roster.history.find(id_) is not None:
        return ()  # redelivered after the inbox's retention: the saga answers, or has answered, and may be removed
    code = why_not_owner(roster, message, command.group_id) or _why_not_member(roster, command)
    if code is not None:
        return [
            MemberPaymentRefused(
                group_id=command.group_id, member_id=command.member_id, code=code, command_type=command.TYPE
            )
        ]
    owner_id, kind = owner_of(message), Kind(command.action)
    transitions.begin_payment(roster, id_, kind, command, owner_id, moment)
    data = command.model_dump(mode="json", exclude={"epoch", "expires_at"}) | {
        "owner_id": str(owner_id),
        "shown_end": command.model_dump(mode="json")["expires_at"],
    }
    return PAY_FOR_MEMBER[kind].begin(roster.sagas, id_, data, message, moment)


def _why_not_member(roster: Roster, command: PayForMember) -> GroupsCode | None:
    member = roster.memberships.find(membership_of(command.group_id, command.member_id))
    return None if member is not None and is_meant(member, command.epoch) else GroupsCode.NOT_MEMBER
