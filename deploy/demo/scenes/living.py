"""The life of a group: units for its members, what they do with them, and who leaves."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID, uuid4

from deploy.demo.cast import CHEAP_PLAN, FAX_UNITS, MORE_UNITS, SHARED_UNITS, SMS_UNITS, Person
from deploy.demo.checks import STATES, Deed, Expiry, Extension, Parting
from deploy.demo.following import Trail
from deploy.demo.stage import TIMEOUT_S, Ask, Stage, bought_by, code_of, day
from deploy.local.process import wait_until
from popfax_contracts.groups import (
    AcceptInvitation,
    DetachMembers,
    InvitationSent,
    InviteByEmail,
    MemberRef,
    TransferUnits,
    UnitsTransferred,
)
from popfax_contracts.ledger import SpendUnits
from popfax_contracts.message import group_of
from popfax_contracts.provisioning import ExtendAccount

ENDS_IN = timedelta(seconds=2)
"""When Nora's account ends, counted from her sign-up: time enough to join the group first."""

_TOLD_OF_A_TRANSFER = ("transfer-units", "post-transfers", "transfers-posted", "units-transferred")


def sharing(stage: Stage) -> Deed:
    """Let Anne transfer the same amount to each member."""
    anne = stage.cast.anne
    stage.tell.scene(f"{anne.first_name} buys {MORE_UNITS} more, and gives each member {SHARED_UNITS}")
    stage.ask(Ask(bought_by(anne, MORE_UNITS), None, ("units-credited",)), in_full=False)
    deed = _transfer(stage, "amount", SHARED_UNITS, (stage.cast.paul, stage.cast.sam), "all")
    stage.tell.say("All or nothing, in one transaction of the ledger; the units are the members’ own now:")
    stage.show_units(deed.before, deed.after)
    return deed


def spending(stage: Stage) -> Deed:
    """Let Paul spend some of his units."""
    paul = stage.cast.paul
    stage.tell.scene(f"{paul.first_name} sends a fax and a text message")
    before = stage.units(paul)
    fax, text = _spend(paul, "fax", FAX_UNITS), _spend(paul, "sms", SMS_UNITS)
    trail = stage.ask(*(Ask(each, paul.id, ("units-spent",)) for each in (fax, text)))
    stage.tell_some(trail, "spend-units", "units-spent")
    deed = stage.deed(trail, (paul,), before, fax.spend_id)
    deed = replace(deed, entries=(*deed.entries, *(each.units for each in stage.reader.entries(text.spend_id))))
    shown = deed.shown[paul.first_name]
    stage.tell.say(f"Spent like units that he bought. His owner is shown what is left, {shown} POP, without asking.")
    return deed


def topping_up(stage: Stage) -> Deed:
    """Let Anne top up each member to a given balance."""
    anne, paul, sam = stage.cast.anne, stage.cast.paul, stage.cast.sam
    stage.tell.scene(f"{anne.first_name} tops everybody up to {SHARED_UNITS}")
    deed = _transfer(stage, "top_up_to", SHARED_UNITS, (paul, sam), "all")
    stage.tell.say(f"{sam.first_name} has as much already, and gets nothing:")
    stage.show_units(deed.before, deed.after)
    return deed


def extending(stage: Stage) -> Extension:
    """Let Paul extend his account with his own units."""
    paul = stage.cast.paul
    stage.tell.scene(f"{paul.first_name} extends his account by a year, with his own units")
    found = _extend(stage, paul)
    stage.tell.say(f"It lasted until {day(found.before)}, and lasts until {day(found.after)} now.")
    return found


def detaching(stage: Stage) -> Parting:
    """Let Anne detach Sam, who keeps his account and his units."""
    anne, sam = stage.cast.anne, stage.cast.sam
    stage.tell.scene(f"{anne.first_name} detaches {sam.first_name}")
    before = stage.units(sam)
    detach = DetachMembers(group_id=group_of(anne.id), members=(MemberRef(member_id=sam.id, epoch=1),))
    trail = stage.ask(Ask(detach, anne.id, ("members-detached", "member-left", "membership-ended")))
    stage.tell_some(trail, "detach-members", "members-detached", "member-left")
    deed, states = stage.deed(trail, (sam,), before, None), stage.reader.states(sam.id)
    stage.tell.say(
        f"The account stays his ({states[0]}), and so do his {deed.after[sam.first_name]} POP. "
        "A return would take a new invitation."
    )
    left = stage.reader.members_of(anne.id)
    return Parting(deed, tuple(sorted(stage.tell.names.get(id_, str(id_)) for id_ in left)), states)


def expiring(stage: Stage) -> Expiry:
    """Let Nora's account expire and be extended."""
    anne, nora = stage.cast.anne, stage.cast.nora
    stage.tell.scene(f"{nora.name}’s account ends, and comes back")
    ends_at = datetime.now(UTC) + ENDS_IN
    registration = stage.publish((nora.register(CHEAP_PLAN, ends_at), None))
    stage.follow(registration, lambda trail: "person-recorded" in _types(trail), aloud=False)
    _join(stage, anne, nora)
    stage.tell.say(
        f"She accepts {anne.first_name}’s invitation logged in, without the mail. Her account ends at "
        f"{ends_at:%H:%M:%S}, and nobody asks: a timer in provisioning’s database tells."
    )
    trail = stage.follow(registration, lambda trail: "account-expired" in _types(trail), aloud=False)
    stage.tell_some(trail, "account-expired")
    expired = _states(stage, nora, "expired")
    refused = stage.ask(Ask(_spend(nora, "sms", SMS_UNITS), nora.id, ("spend-refused",)), in_full=False)
    stage.tell.say(f"A text message is refused now ({code_of(refused)}). But she can be given units, from the owner …")
    stage.tell.gap()
    given = _transfer(stage, "amount", stage.prices.get(CHEAP_PLAN, 1), (nora,), (nora.id,))
    stage.tell.say("… and can extend her account with them, which is all that an expired account can pay:")
    stage.tell.gap()
    extension = _extend(stage, nora)
    active = _states(stage, nora, "active")
    stage.tell.say(f"It is {active[0]} again, until {day(extension.after)}.")
    told = tuple(seen.short_name for seen in trail.seen if seen.short_name.startswith("account-"))
    return Expiry(told, expired, code_of(refused), given, replace(extension, before=ends_at), active)


def _transfer(
    stage: Stage,
    mode: Literal["amount", "top_up_to"],
    units: int,
    people: tuple[Person, ...],
    members: tuple[UUID, ...] | Literal["all"],
) -> Deed:
    anne = stage.cast.anne
    everybody = (anne, *people)
    before = stage.units(*everybody)
    command = TransferUnits(group_id=group_of(anne.id), mode=mode, amount_units=units, members=members)
    trail = stage.ask(Ask(command, anne.id, ("units-transferred",)))
    stage.tell_some(trail, *_TOLD_OF_A_TRANSFER)
    ids = (seen.body.transfer_id for seen in trail.seen if isinstance(seen.body, UnitsTransferred))
    return stage.deed(trail, everybody, before, next(ids, None))


def _spend(who: Person, purpose: Literal["fax", "sms"], units: int) -> SpendUnits:
    id_ = uuid4()
    return SpendUnits(
        spend_id=id_, account_id=who.id, amount_units=units, purpose=purpose, reference=f"{purpose}-{id_.hex[:8]}"
    )


def _extend(stage: Stage, who: Person) -> Extension:
    before, units = stage.reader.expires_at(who.id), stage.units(who)
    command = ExtendAccount(request_id=uuid4(), account_id=who.id, price_units=stage.prices.get(CHEAP_PLAN, 1))
    trail = stage.ask(Ask(command, who.id, ("account-extended",)))
    stage.tell_some(trail, "extend-account", "reserve-units", "hold-captured", "account-extended")
    saga = stage.reader.paid_action(trail.seen[0].correlation_id) if trail.seen else None
    return Extension(stage.deed(trail, (who,), units, saga), before, stage.reader.expires_at(who.id))


def _join(stage: Stage, owner: Person, member: Person) -> None:
    invite = InviteByEmail(group_id=group_of(owner.id), email=member.email)
    trail = stage.ask(Ask(invite, owner.id, ("invitation-sent",)), in_full=False)
    for seen in trail.seen:
        if isinstance(seen.body, InvitationSent):
            accept = AcceptInvitation(invitation_id=seen.body.invitation_id)
            stage.ask(Ask(accept, member.id, ("member-joined", "membership-recorded")), in_full=False)


def _states(stage: Stage, who: Person, state: str) -> tuple[str, ...]:
    """Wait until all services that keep an account's state have this one; return the states that they have."""
    wait_until(lambda: stage.reader.states(who.id) == (state,) * STATES, TIMEOUT_S)
    return stage.reader.states(who.id)


def _types(trail: Trail) -> set[str]:
    return {seen.short_name for seen in trail.seen}
