"""What groups does with each message that is not a saga's reply."""

from contracts.groups import CreateMemberAccount, MemberAccountRefused
from contracts.message import group_of
from contracts.provisioning import PersonRecorded, PlanPublished
from services._platform.messages import Incoming, Outcome
from services._platform.service import Moment
from services.groups.domain import Address, Code, Group, Plan, membership_of
from services.groups.sagas import CREATE_MEMBER_ACCOUNT
from services.groups.store import Roster, saga_of


def create_member_account(roster: Roster, message: Incoming[CreateMemberAccount], moment: Moment) -> Outcome:
    """Open the account-creation saga, unless we can see already that it would be refused."""
    command = message.body
    if roster.sagas.get(saga_of(message)) is not None:
        return ()  # a repetition that the inbox, which forgets one day, let through: the saga answers, or has answered
    code = _why_not(roster, message)
    if code is not None:
        return [MemberAccountRefused(group_id=command.group_id, code=code, command_type=command.TYPE)]
    data = command.model_dump(mode="json") | {"owner_id": str(message.actor)}
    return CREATE_MEMBER_ACCOUNT.begin(roster.sagas, saga_of(message), data, message, moment)


def _why_not(roster: Roster, message: Incoming[CreateMemberAccount]) -> Code | None:
    """Look in the order that the contract promises. Provisioning looks at plan, price and address again: it decides."""
    command = message.body
    if message.actor is None or group_of(message.actor) != command.group_id:
        return Code.NOT_OWNER
    plan = roster.plans.get(command.plan)
    if plan is None:
        return Code.UNKNOWN_PLAN
    if plan.price_units != command.price_units:
        return Code.PRICE_CHANGED
    holder = roster.addresses.get(command.email)
    if holder is None:
        return None
    membership = roster.memberships.get(membership_of(command.group_id, holder.subscriber_id))
    return Code.ALREADY_MEMBER if membership is not None else Code.EMAIL_TAKEN


def person_recorded(roster: Roster, message: Incoming[PersonRecorded], moment: Moment) -> Outcome:
    """Learn who somebody is: their address is taken, and their group is called what they are called."""
    person = message.body
    group = Group(group_of(person.subscriber_id), person.subscriber_id, f"{person.first_name} {person.last_name}")
    roster.groups.put(group)
    roster.addresses.put(Address(person.email, person.subscriber_id))
    return ()


def plan_published(roster: Roster, message: Incoming[PlanPublished], moment: Moment) -> Outcome:
    """Learn today's price of a plan."""
    roster.plans.put(Plan(message.body.plan, message.body.price_units))
    return ()
