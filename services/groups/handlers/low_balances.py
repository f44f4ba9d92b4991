"""Members with few units: what an owner calls few, and the daily look that tells them who has become low."""

from popfax_contracts.groups import LowBalanceRefused, LowBalanceSet, SetLowBalance
from popfax_contracts.notifications import MAX_NAMED, SendMembersLow
from services.chassis.dates import zone_of
from services.chassis.messages import Incoming, Outcome
from services.chassis.rows import replace
from services.chassis.service import Moment, needs
from services.groups.domain import LowBalance, next_look
from services.groups.handlers.ownership import owner_of, why_not_owner
from services.groups.store import LoadPlan, Roster
from services.groups.timers import LowBalanceDue


def _setting(load: LoadPlan, message: Incoming[SetLowBalance]) -> None:
    load.groups.add(message.body.group_id)
    load.low_balances.add(message.body.group_id)
    if message.actor is not None:
        load.subscribers.add(message.actor)


@needs(_setting)
def set_low_balance(roster: Roster, message: Incoming[SetLowBalance], moment: Moment) -> Outcome:
    """Record what the owner calls low. Whoever begins to be mailed is told of everybody who is low then."""
    command = message.body
    code = why_not_owner(roster, message, command.group_id)
    if code is not None:
        return [LowBalanceRefused(group_id=command.group_id, code=code, command_type=command.TYPE)]
    owner_id = owner_of(message)
    known = roster.low_balances.find(command.group_id) or LowBalance(
        command.group_id, owner_id, None, None, None, 0, ()
    )
    look_at = None
    if command.mail:
        look_at = next_look(command.group_id, moment.now, zone_of(roster.subscriber(owner_id).time_zone))
        look_at = min(look_at, known.look_at or look_at)  # one that is overdue still takes place
    roster.low_balances.put(
        replace(known, below_units=command.below_units, look_at=look_at, low=known.low if command.mail else ())
    )
    return [
        LowBalanceSet(group_id=command.group_id, owner_id=owner_id, below_units=command.below_units, mail=command.mail)
    ]


def _look(load: LoadPlan, message: Incoming[LowBalanceDue]) -> None:
    due = message.body
    load.groups.add(due.group_id)
    load.subscribers.add(due.owner_id)
    load.low_balances.add(due.group_id)
    load.watched.add(due.group_id)


@needs(_look)
def low_balance_due(roster: Roster, message: Incoming[LowBalanceDue], moment: Moment) -> Outcome:
    """Look which members are low, tell the owner of those who were not at the last look, and look again tomorrow.

    Whatever the clock does, a day has one mail at most: a second look on the owner's day of the last mail changes
    nothing. The group of a closed account is looked at no more.
    """
    setting = roster.low_balances.find(message.body.group_id)
    if setting is None or setting.below_units is None or setting.look_at is None or moment.now < setting.look_at:
        return ()  # it was set otherwise meanwhile, or another replica has looked
    if roster.is_closed(setting.group_id):
        roster.low_balances.put(replace(setting, look_at=None, low=()))
        return ()
    zone = zone_of(roster.subscriber(setting.owner_id).time_zone)
    today, look_at = moment.now.astimezone(zone).date(), next_look(setting.group_id, moment.now, zone)
    if setting.mailed_on is not None and today <= setting.mailed_on:
        roster.low_balances.put(replace(setting, look_at=look_at))
        return ()
    few = [each for each in roster.watched[setting.group_id] if each.available_units < setting.below_units]
    low = tuple(sorted(each.id.hex for each in few))
    told = frozenset(setting.low)
    news = sorted((each.available_units, each.id) for each in few if each.id.hex not in told)
    looked = replace(setting, look_at=look_at, low=setting.low if low == setting.low else low)
    if not news:
        roster.low_balances.put(looked)
        return ()
    roster.low_balances.put(replace(looked, mailed_on=today, mails=setting.mails + 1))
    return [
        SendMembersLow(
            group_id=setting.group_id,
            owner_id=setting.owner_id,
            day=today,
            below_units=setting.below_units,
            members=tuple(id_ for _, id_ in news[:MAX_NAMED]),
            more=len(news[MAX_NAMED:]),
        )
    ]
