"""Accounts: creating one for a new member, and what groups learns about everybody's."""

from datetime import datetime
from uuid import UUID

from popfax_contracts.codes import GroupsCode
from popfax_contracts.groups import CreateMemberAccount, MemberAccountRefused
from popfax_contracts.ledger import BalanceChanged
from popfax_contracts.message import group_of
from popfax_contracts.provisioning import (
    AccountClosed,
    AccountExpired,
    AccountExpiring,
    AccountExtended,
    AccountProvisioned,
    OptionPublished,
    OptionsPackAdded,
    PlanPublished,
    SubscriberRegistered,
)
from services.chassis.messages import Effect, Incoming, Outcome
from services.chassis.rows import replace
from services.chassis.service import Moment, needs
from services.groups import transitions
from services.groups.domain import AccountState, InvitationState, Option, Plan, membership_of, sent_invitations_tally
from services.groups.handlers.ownership import owner_of, why_not_owner
from services.groups.sagas import CREATE_MEMBER_ACCOUNT, SAGAS
from services.groups.store import LoadPlan, Roster, saga_of
from services.groups.tables import INVITATIONS_OF, KEEPING, MEMBERSHIPS_OF, PENDING_OF_GROUP


def _creation(load: LoadPlan, message: Incoming[CreateMemberAccount]) -> None:
    command = message.body
    load.sagas.add(saga_of(message))
    load.history.add(saga_of(message))
    load.groups.add(command.group_id)
    load.plans.add(command.plan)
    load.take_in(command.group_id, command.email)
    if message.actor is not None:
        load.tallies.add(sent_invitations_tally(message.actor))


@needs(_creation)
def create_member_account(roster: Roster, message: Incoming[CreateMemberAccount], moment: Moment) -> Outcome:
    """Open the account-creation saga, unless it is already clear that it would be refused."""
    command, saga_id = message.body, saga_of(message)
    if roster.sagas.find(saga_id) is not None or roster.history.find(saga_id) is not None:
        return ()  # redelivered after the inbox's retention: the saga answers, or has answered, and may be removed
    code = _why_not(roster, message, moment)
    if code is not None:
        return [MemberAccountRefused(group_id=command.group_id, code=code, command_type=command.TYPE)]
    owner_id = owner_of(message)
    transitions.begin_creation(roster, saga_id, command.group_id, owner_id, command.price_units, moment)
    data = command.model_dump(mode="json") | {"owner_id": str(owner_id)}
    return CREATE_MEMBER_ACCOUNT.begin(roster.sagas, saga_id, data, message, moment)


def _why_not(roster: Roster, message: Incoming[CreateMemberAccount], moment: Moment) -> GroupsCode | None:
    """Check in the order that the contract promises. Provisioning checks plan, price and address again, and decides."""
    command = message.body
    if (code := why_not_owner(roster, message, command.group_id)) is not None:
        return code
    plan = roster.plans.find(command.plan)
    if plan is None:
        return GroupsCode.UNKNOWN_PLAN
    if not plan.on_sale:
        return GroupsCode.NOT_ON_SALE
    if plan.price_units != command.price_units:
        return GroupsCode.PRICE_CHANGED
    if (code := transitions.charge_quota(roster, owner_of(message), moment)) is not None:
        return code
    holder_id = roster.holder(command.email)
    if holder_id is None:
        return None
    membership = roster.memberships.find(membership_of(command.group_id, holder_id))
    return GroupsCode.ALREADY_MEMBER if membership is not None and membership.active else GroupsCode.EMAIL_TAKEN


def _plan(load: LoadPlan, message: Incoming[PlanPublished]) -> None:
    load.plans.add(message.body.plan)
    load.changes_plans = True


@needs(_plan)
def plan_published(roster: Roster, message: Incoming[PlanPublished], moment: Moment) -> Outcome:
    """Record a plan's current price, and whether it is on sale."""
    plan = message.body
    roster.plans.put(Plan(plan.plan, plan.price_units, plan.validity_months, plan.on_sale))
    return ()


def _option(load: LoadPlan, message: Incoming[OptionPublished]) -> None:
    load.options.add(message.body.option)


@needs(_option)
def option_published(roster: Roster, message: Incoming[OptionPublished], moment: Moment) -> Outcome:
    """Record an option's current price, and whether it is on sale."""
    option = message.body
    roster.options.put(Option(option.option, option.price_units, option.on_sale))
    return ()


def _account(
    load: LoadPlan,
    message: Incoming[AccountProvisioned | AccountExtended | OptionsPackAdded | AccountExpiring | AccountExpired],
) -> None:
    load.subscribers.add(message.body.account_id)


def _balance(load: LoadPlan, message: Incoming[BalanceChanged]) -> None:
    load.subscribers.add(message.body.account_id)
    load.orders.add_all(KEEPING, message.body.account_id)


@needs(_balance)
def balance_changed(roster: Roster, message: Incoming[BalanceChanged], moment: Moment) -> Outcome:
    """Record an account's balance, unless a newer one is known; standing orders look at one that is too low."""
    told = message.body
    known = roster.subscriber(told.account_id)
    if told.version > known.balance_version:
        now = replace(known, available_units=told.available_units, balance_version=told.version)
        roster.subscribers.put(now)
        for order in roster.orders.all(KEEPING, told.account_id):
            if order.transfer_id is None and order.due_at is None and order.is_short(now):
                roster.orders.put(order.due(moment.now))
    return ()


def _registered(load: LoadPlan, message: Incoming[SubscriberRegistered]) -> None:
    load.subscribers.add(message.body.subscriber_id)


@needs(_registered)
def subscriber_registered(roster: Roster, message: Incoming[SubscriberRegistered], moment: Moment) -> Outcome:
    """Record the plan and the expiry date of an account whose holder signed up with Popfax itself."""
    told = message.body
    return _lasts(roster, told.subscriber_id, told.expires_at, told.plan)


def _provisioned(load: LoadPlan, message: Incoming[AccountProvisioned]) -> None:
    _account(load, message)
    SAGAS.reply.needs(load, message)


@needs(_provisioned)
def account_provisioned(roster: Roster, message: Incoming[AccountProvisioned], moment: Moment) -> Outcome:
    """Record a new account's expiry date; it may be the reply that a saga is waiting for."""
    _lasts(roster, message.body.account_id, message.body.expires_at, message.body.plan)
    return SAGAS.reply(roster, message, moment)


def _bought(load: LoadPlan, message: Incoming[AccountExtended | OptionsPackAdded]) -> None:
    _account(load, message)
    SAGAS.reply.needs(load, message)


@needs(_bought)
def account_extended(roster: Roster, message: Incoming[AccountExtended], moment: Moment) -> Outcome:
    """Record an account's new expiry date; it may be what an owner pays for."""
    _lasts(roster, message.body.account_id, message.body.expires_at)
    return SAGAS.reply(roster, message, moment)


@needs(_bought)
def options_pack_added(roster: Roster, message: Incoming[OptionsPackAdded], moment: Moment) -> Outcome:
    """Record that an account has the options pack; it may be what an owner pays for."""
    roster.subscribers.put(replace(roster.subscriber(message.body.account_id), options_pack=True))
    return SAGAS.reply(roster, message, moment)


def _lasts(roster: Roster, id_: UUID, expires_at: datetime | None, plan: str | None = None) -> Outcome:
    """Record an expiry date if it is later: an answer repeated long afterwards says what was true at the time."""
    known = roster.subscriber(id_)
    is_later = expires_at is not None and (known.expires_at is None or expires_at > known.expires_at)
    if is_later and known.state is not AccountState.CLOSED:
        roster.subscribers.put(
            replace(known, state=AccountState.ACTIVE, expires_at=expires_at, plan=plan or known.plan)
        )
    return ()


@needs(_account)
def account_expiring(roster: Roster, message: Incoming[AccountExpiring], moment: Moment) -> Outcome:
    """Record the plan of an account that was there before groups was told of plans."""
    known = roster.subscriber(message.body.account_id)
    if message.body.plan not in (None, known.plan):
        roster.subscribers.put(replace(known, plan=message.body.plan))
    return ()


@needs(_account)
def account_expired(roster: Roster, message: Incoming[AccountExpired], moment: Moment) -> Outcome:
    """Record that an account has expired."""
    told, known = message.body, roster.subscriber(message.body.account_id)
    if known.state is not AccountState.CLOSED:
        roster.subscribers.put(
            replace(known, state=AccountState.EXPIRED, expires_at=told.expires_at, plan=told.plan or known.plan)
        )
    return ()


def _closed(load: LoadPlan, message: Incoming[AccountClosed]) -> None:
    transitions.need_person(load, message.body.account_id)
    load.end_group(group_of(message.body.account_id))
    load.leaving = True


@needs(_closed)
def account_closed(roster: Roster, message: Incoming[AccountClosed], moment: Moment) -> Outcome:
    """End everything of a subscriber's: memberships, invitations and their own group; and erase who they were."""
    id_ = message.body.account_id
    group_id = group_of(id_)
    known = roster.subscriber(id_)
    if known.state is AccountState.CLOSED:
        return ()
    roster.subscribers.put(replace(known, state=AccountState.CLOSED))
    roster.groups.put(replace(roster.group(group_id, id_), closed_at=moment.now))
    transitions.erase_person(roster, id_)
    effects: list[Effect] = []
    for invitation in roster.invitations.all(INVITATIONS_OF, id_):
        if invitation.state is InvitationState.PENDING:
            effects += transitions.revoke(roster, invitation, "account_closed", moment)
    for invitation in roster.invitations.all(PENDING_OF_GROUP, group_id):
        effects += transitions.revoke(roster, invitation, "group_closed", moment)
    for member in roster.members(group_id):
        effects += transitions.leave(roster, member, "group_closed", moment)
    for member in roster.memberships.all(MEMBERSHIPS_OF, id_):
        if member.active:
            effects += transitions.leave(roster, member, "account_closed", moment)
    return effects
