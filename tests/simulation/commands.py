"""What the platform sends in a simulation: `COMMANDS` is the table to add to.

An entry is a weight and a function that makes one or several records from the cast: owners, addresses and prices that
a seed has chosen, and everything that has followed from them. Everything is random, and collisions are wanted: there
are few owners, few addresses, few units.
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from operator import attrgetter
from random import Random
from typing import Any, TypeVar
from uuid import UUID

from popfax_contracts.fields import Language
from popfax_contracts.groups import (
    AcceptInvitation,
    CreateMemberAccount,
    DeclineInvitation,
    DetachMembers,
    InviteByEmail,
    LeaveGroup,
    MemberRef,
    PayForMember,
    RenameGroup,
    RevokeInvitation,
    SetLowBalance,
    SetStandingOrder,
    StopStandingOrder,
    TransferUnits,
)
from popfax_contracts.ids import derive, derive_own, message_id
from popfax_contracts.ledger import CaptureHold, CreditUnits, Leg, PostTransfers, ReleaseHold, SpendUnits
from popfax_contracts.message import Command, group_of
from popfax_contracts.notifications import MailBounced, SendInvitation
from popfax_contracts.provisioning import (
    AddOptionsPack,
    ChangeEmail,
    ChangeTimeZone,
    CloseAccount,
    DisableCallForwarding,
    EnableCallForwarding,
    ExtendAccount,
    RegisterSubscriber,
)
from popfax_contracts.topics import (
    GROUPS_COMMANDS,
    LEDGER_COMMANDS,
    LEDGER_COMMANDS_FROM_GROUPS,
    LEDGER_COMMANDS_FROM_PROVISIONING,
    NOTIFICATIONS_COMMANDS_FROM_GROUPS,
    PROVISIONING_COMMANDS,
    Principal,
    Topic,
)
from services.chassis.messages import source_of
from services.chassis.rows import Mapped
from services.groups.domain import Membership, OrderState, order_of
from services.groups.tables import INVITATIONS, MEMBERSHIPS, ORDERS, SAGAS
from services.groups.tables import TRANSFERS as GROUP_TRANSFERS
from services.ledger.domain import HoldState
from services.ledger.tables import ACCOUNTS, HOLDS, TRANSFERS
from services.notifications.tables import MAILS
from services.provisioning.domain import AccountState, Action, Option, Plan, Subscriber
from services.provisioning.tables import SUBSCRIBERS
from tests.simulation.bus import Bus, BusRecord, Headers

R = TypeVar("R")

PRICES = (5, 10, 20)
OWNERS = 3
ADDRESSES = 8
FAX_NUMBERS = 4
"""Fewer than the accounts that want one, so that the pool is sometimes empty."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A record published by the platform, or by somebody with another principal's credentials.

    `by_http` says that it may be posted over HTTP instead, where the client can't choose the message's id.
    """

    topic: Topic
    key: str
    value: bytes
    headers: Headers
    by_http: bool = True


@dataclass(slots=True)
class Cast:
    """The people and things that a seed plays with."""

    random: Random
    bus: Bus
    look: Callable[[Principal, Mapped[Any, Any]], Sequence[Any]]
    """Reads a service's table, as a page that shows it does."""
    now: Callable[[], datetime]
    owners: list[UUID] = field(init=False)
    emails: list[str] = field(init=False)
    plans: dict[str, Plan] = field(init=False)
    options: dict[str, Option] = field(init=False)
    bought: list[tuple[Command, UUID]] = field(default_factory=list)
    registered: list[Command] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    created: list[tuple[UUID, CreateMemberAccount]] = field(default_factory=list)
    weights: Sequence[float] | None = None
    """The commands' weights, if they are not those of the table."""
    sent_by: dict[str, str] = field(default_factory=dict)
    """The table's entries, by the ids of what they have sent first: all that follows from it has that correlation."""

    def __post_init__(self) -> None:
        self.owners = [self.uuid() for _ in range(OWNERS)]
        self.emails = [f"person{n}@example.org" for n in range(ADDRESSES)]
        months = self.random.choice([1, 2, 12])
        self.plans = {
            "send_receive": Plan("send_receive", self.random.choice(PRICES), months, fax_number=True),
            "send_only": Plan("send_only", self.random.choice(PRICES), months, fax_number=False),
        }
        on_sale = (Action.OPTIONS_PACK.value, Action.CALL_FORWARDING.value)
        self.options = {name: Option(name, self.random.choice(PRICES)) for name in on_sale}

    def uuid(self) -> UUID:
        """Return a random id, as a client makes one."""
        return UUID(int=self.random.getrandbits(128), version=4)

    def owner(self) -> UUID:
        """Return one of the owners."""
        return self.random.choice(self.owners)

    def owner_with_members(self) -> UUID:
        """Return an owner whose group has members, if there is one."""
        owners = sorted({m.owner_id for m in self.memberships() if m.active} & set(self.owners))
        return self.random.choice(owners) if owners else self.owner()

    def rows(self, service: Principal, mapped: Mapped[Any, R]) -> list[R]:
        """Return a table's rows, in the same order in every run."""
        return sorted(self.look(service, mapped), key=attrgetter(mapped.key_column.name))

    def accounts(self) -> list[Subscriber]:
        """Return all accounts, including closed ones."""
        return self.rows(Principal.PROVISIONING, SUBSCRIBERS)

    def account(self) -> UUID:
        """Return the id of a random account."""
        accounts = self.accounts()
        return self.random.choice(accounts).id if accounts else self.owner()

    def memberships(self) -> list[Membership]:
        """Return all memberships, including ended ones."""
        return self.rows(Principal.GROUPS, MEMBERSHIPS)

    def mostly(self, usual: R, *others: R) -> R:
        """Return the usual value, but now and then another."""
        return usual if self.random.random() < 0.8 else self.random.choice(others)

    def recent(self) -> BusRecord | None:
        """Return a recently published record on any topic, or an earlier one."""
        logs = [log for log in self.bus.logs.values() if log]
        if not logs:
            return None
        log = self.random.choice(logs)
        return self.mostly(log[-1], *log)

    def token(self) -> SendInvitation | None:
        """Return an invitation's mail: its latest or an earlier one."""
        sent = [
            record.value
            for record in self.bus.records()
            if record.topic == NOTIFICATIONS_COMMANDS_FROM_GROUPS.name
            and record.value is not None
            and dict(record.headers).get("ce_type") == SendInvitation.TYPE.encode()
        ]
        return SendInvitation.from_json(self.random.choice(sent)) if sent else None


def sent(body: Command, id_: UUID, actor: UUID | None = None) -> Sent:
    """Put a command into its envelope. Its id determines which of its possible writers sends it."""
    topic = _topic(type(body), id_)
    headers: list[tuple[str, bytes | None]] = [
        ("ce_id", str(id_).encode()),
        ("ce_type", body.TYPE.encode()),
        ("ce_source", source_of(topic.writer).encode()),
    ]
    if actor is not None:
        headers.append(("ce_actor", str(actor).encode()))
    return Sent(topic, body.key(), body.to_json(), headers)


def _topic(model: type[Command], id_: UUID) -> Topic:
    return model.TOPICS[id_.int % len(model.TOPICS)]


# --- the beginning ----------------------------------------------------------------------------------------------------


def register_owners(cast: Cast) -> Sequence[Sent]:
    """Each owner signs up with Popfax itself, and most buy units."""
    found = []
    for number, owner in enumerate(cast.owners):
        body = _registration(owner, f"owner{number}@example.org")
        if cast.random.random() < 0.3:
            ends = cast.now() + timedelta(days=cast.random.choice([3, 40, 300]))
            body = body.model_copy(update={"plan": "send_only", "expires_at": ends})
        cast.registered.append(body)
        found.append(sent(body, cast.uuid()))
        if cast.random.random() < 0.9:
            found.append(sent(_credit(cast, owner), cast.uuid()))
    return found


def _registration(subscriber: UUID, email: str) -> RegisterSubscriber:
    return RegisterSubscriber(
        subscriber_id=subscriber, email=email, first_name="Ada", last_name="L.", language=Language.EN
    )


def _credit(cast: Cast, account: UUID) -> CreditUnits:
    return CreditUnits(credit_id=cast.uuid(), account_id=account, amount_units=cast.random.randint(1, 100))


# --- the table --------------------------------------------------------------------------------------------------------


def create_member_account(cast: Cast) -> Sequence[Sent]:
    """An owner creates a member's account."""
    owner = cast.owner()
    return [sent(_creation(cast, owner, cast.random.choice(cast.emails)), cast.uuid(), owner)]


def once_more(cast: Cast) -> Sequence[Sent]:
    """An owner creates an account that they may have created before: another command, the same address."""
    if not cast.created:
        return []
    owner, body = cast.random.choice(cast.created)
    price = cast.plans[body.plan].price_units
    return [sent(body.model_copy(update={"price_units": price}), cast.uuid(), owner)]


def same_address_from_two_owners(cast: Cast) -> Sequence[Sent]:
    """Two owners create an account for one address at the same moment."""
    email = cast.random.choice(cast.emails)
    return [sent(_creation(cast, owner, email), cast.uuid(), owner) for owner in cast.random.sample(cast.owners, 2)]


def not_ones_own_group(cast: Cast) -> Sequence[Sent]:
    """A stranger, or nobody, acts on somebody's group."""
    body = _creation(cast, cast.owner(), cast.random.choice(cast.emails))
    return [sent(body, cast.uuid(), cast.random.choice([None, cast.uuid()]))]


def wrong_price(cast: Cast) -> Sequence[Sent]:
    """The page showed another price."""
    owner = cast.owner()
    body = _creation(cast, owner, cast.random.choice(cast.emails))
    return [sent(body.model_copy(update={"price_units": body.price_units + 1}), cast.uuid(), owner)]


def unknown_plan(cast: Cast) -> Sequence[Sent]:
    """An owner asks for a plan that is not on sale."""
    owner = cast.owner()
    body = _creation(cast, owner, cast.random.choice(cast.emails)).model_copy(update={"plan": "send_nothing"})
    return [sent(body, cast.uuid(), owner)]


def sent_again(cast: Cast) -> Sequence[Sent]:
    """The platform sends one of its commands again, under the same message id."""
    return [cast.random.choice(cast.sent)] if cast.sent else []


def other_content(cast: Cast) -> Sequence[Sent]:
    """A client uses a message id for two commands: only the first counts."""
    account, id_ = cast.owner(), cast.uuid()
    return [sent(_credit(cast, account), id_) for _ in range(2)]


def credit_units(cast: Cast) -> Sequence[Sent]:
    """Somebody buys units; sometimes the purchase is reported twice, under two message ids."""
    body = _credit(cast, cast.mostly(cast.owner(), cast.account()))
    return [sent(body, cast.uuid()) for _ in range(cast.random.choice([1, 1, 2]))]


def credit_with_a_used_id(cast: Cast) -> Sequence[Sent]:
    """A purchase's id is used again for a different amount."""
    body = _credit(cast, cast.owner())
    other = body.model_copy(update={"amount_units": body.amount_units + 1})
    return [sent(body, cast.uuid()), sent(other, cast.uuid())]


def post_transfers(cast: Cast) -> Sequence[Sent]:
    """Somebody abuses groups' credentials to transfer units between accounts without groups' knowledge.

    Some do so several times at once, between the same accounts: one batch has all of it. Those that have units held
    are preferred.
    """
    held = {hold.account_id for hold in cast.rows(Principal.LEDGER, HOLDS) if hold.state is HoldState.OPEN}
    source = cast.owner()
    others = [owner for owner in cast.owners if owner != source]
    targets = [owner for owner in others if owner in held] or cast.random.sample(others, cast.random.randint(1, 2))
    found = []
    for _ in range(cast.random.choice([1, 1, 2, 3])):
        legs = tuple(_leg(cast, target) for target in targets)
        body = PostTransfers(transfer_id=cast.uuid(), source_id=source, legs=legs)
        found.append(sent(body, cast.uuid(), cast.mostly(source, targets[0])))
    return found


def _leg(cast: Cast, target: UUID) -> Leg:
    if cast.random.random() < 0.5:
        balances = [account.balance_units for account in cast.rows(Principal.LEDGER, ACCOUNTS) if account.id == target]
        near = sum(balances) + cast.random.randint(-5, 10)
        return Leg(account_id=target, top_up_to_units=max(1, cast.mostly(near, 30)))
    return Leg(account_id=target, amount_units=cast.random.randint(1, 30))


def meddle_with_a_hold(cast: Cast) -> Sequence[Sent]:
    """Somebody with one orchestrator's credentials tries to close the other orchestrator's hold."""
    holds = [hold for hold in cast.rows(Principal.LEDGER, HOLDS) if hold.state is HoldState.OPEN]
    if not holds:
        return []
    hold = cast.random.choice(holds)
    model = cast.random.choice([CaptureHold, ReleaseHold])
    theirs = hold.holder == Principal.GROUPS
    topic = LEDGER_COMMANDS_FROM_PROVISIONING if theirs else LEDGER_COMMANDS_FROM_GROUPS
    return [replace(sent(model(hold_id=hold.id, account_id=hold.account_id), cast.uuid()), topic=topic)]


def register_a_taken_address(cast: Cast) -> Sequence[Sent]:
    """Somebody signs up with an address for which an owner may be creating an account at this moment."""
    return [sent(_registration(cast.uuid(), cast.random.choice(cast.emails)), cast.uuid())]


def register_for_a_while(cast: Cast) -> Sequence[Sent]:
    """Somebody is registered with an account that ends soon or has ended already."""
    ends = cast.now() + timedelta(days=cast.random.choice([-1, 3, 20, 60]))
    body = _registration(cast.uuid(), f"{cast.random.getrandbits(16)}@example.org")
    plan = cast.mostly("send_only", "send_nothing")
    body = body.model_copy(update={"plan": plan, "expires_at": ends})
    cast.registered.append(body)
    return [sent(body, cast.uuid()), sent(_credit(cast, body.subscriber_id), cast.uuid())]


def register_again(cast: Cast) -> Sequence[Sent]:
    """The platform registers somebody again with the same data, in another message."""
    return [sent(cast.random.choice(cast.registered), cast.uuid())] if cast.registered else []


# --- groups -----------------------------------------------------------------------------------------------------------


def rename_group(cast: Cast) -> Sequence[Sent]:
    """An owner, or a stranger, renames a group."""
    owner = cast.owner()
    return [sent(RenameGroup(group_id=group_of(owner), name="Branches"), cast.uuid(), cast.mostly(owner, cast.uuid()))]


def set_low_balance(cast: Cast) -> Sequence[Sent]:
    """An owner, or a stranger, says what few units are, and whether they want to be mailed about it."""
    owner = cast.owner_with_members()
    below = cast.random.choice([None, 3, 10, 40])
    body = SetLowBalance(
        group_id=group_of(owner), below_units=below, mail=below is not None and cast.mostly(True, False)
    )
    return [sent(body, cast.uuid(), cast.mostly(owner, cast.uuid()))]


def invite_somebody(cast: Cast) -> Sequence[Sent]:
    """An owner invites another subscriber, themselves, a present or former member, or an address that nobody has."""
    owner = cast.owner()
    was = {m.member_id for m in cast.memberships() if m.owner_id == owner and m.epoch and not m.active}
    wanted = was if was and cast.random.random() < 0.4 else {account.id for account in cast.accounts()}
    known = [account.email for account in cast.accounts() if account.email is not None and account.id in wanted]
    email = cast.mostly(cast.random.choice(known or cast.emails), cast.random.choice(cast.emails))
    return [sent(InviteByEmail(group_id=group_of(owner), email=email), cast.uuid(), cast.mostly(owner, cast.uuid()))]


def renewals(cast: Cast, invitations: Collection[UUID]) -> Sequence[Sent]:
    """Owners invite again at the very moment at which their invitations end."""
    ending = [each for each in cast.rows(Principal.GROUPS, INVITATIONS) if each.id in invitations and each.email]
    return [
        sent(InviteByEmail(group_id=each.group_id, email=each.email), cast.uuid(), each.owner_id) for each in ending
    ]


def come_back(cast: Cast) -> Sequence[Sent]:
    """A former member is invited and accepts at once; then a command that meant an earlier epoch arrives late."""
    was = [m for m in cast.memberships() if m.epoch and not m.active]
    emails = {account.id: account.email for account in cast.accounts()}
    if not was:
        return []
    membership = cast.random.choice(was)
    email, invite_id = emails.get(membership.member_id), cast.uuid()
    if email is None:
        return []
    invite = InviteByEmail(group_id=membership.group_id, email=email)
    topic = _topic(InviteByEmail, invite_id)
    who = message_id(topic.name, source_of(topic.writer).encode(), str(invite_id).encode())
    accept = AcceptInvitation(invitation_id=derive_own(who, "invitation"))
    late = MemberRef(member_id=membership.member_id, epoch=membership.epoch)
    detach = DetachMembers(group_id=membership.group_id, members=(late,))
    return [
        sent(invite, invite_id, membership.owner_id),
        sent(accept, cast.uuid(), membership.member_id),
        sent(detach, cast.uuid(), membership.owner_id),
    ]


def answer_by_token(cast: Cast) -> Sequence[Sent]:
    """Somebody follows the link in an invitation's mail, perhaps an earlier one, or with another invitation's token."""
    mail = cast.token()
    if mail is None:
        return []
    other = cast.token() or mail
    token = cast.mostly(mail.token, other.token, "0" * 64)
    body = _answer(cast)(invitation_id=mail.invitation_id, token=token)
    actor = cast.random.choice([None, None, mail.recipient_id, other.recipient_id, cast.owner()])
    return [sent(body, cast.uuid(), actor)]


def answer_by_id(cast: Cast) -> Sequence[Sent]:
    """An invitation is answered without a token: by the invited subscriber, somebody else, or nobody."""
    invitations = cast.rows(Principal.GROUPS, INVITATIONS)
    if not invitations:
        return []
    invitation = cast.random.choice(invitations)
    body = _answer(cast)(invitation_id=cast.mostly(invitation.id, cast.uuid()))
    return [sent(body, cast.uuid(), cast.mostly(invitation.subscriber_id, cast.owner(), None))]


def _answer(cast: Cast) -> type[AcceptInvitation] | type[DeclineInvitation]:
    return AcceptInvitation if cast.random.random() < 0.7 else DeclineInvitation


def revoke_invitation(cast: Cast) -> Sequence[Sent]:
    """An owner revokes an invitation, their own or another's."""
    invitations = cast.rows(Principal.GROUPS, INVITATIONS)
    if not invitations:
        return []
    invitation = cast.random.choice(invitations)
    owner = cast.mostly(invitation.owner_id, cast.owner())
    body = RevokeInvitation(group_id=group_of(owner), invitation_id=invitation.id)
    return [sent(body, cast.uuid(), owner)]


def detach_members(cast: Cast) -> Sequence[Sent]:
    """An owner, or a stranger, detaches one or more present or former members, of any epoch."""
    owner = cast.owner_with_members()
    mine = [membership for membership in cast.memberships() if membership.owner_id == owner]
    mine = cast.mostly(mine, [membership for membership in mine if membership.epoch > 1])
    meant = cast.random.sample(mine, min(len(mine), cast.random.randint(1, 3)))
    members = [MemberRef(member_id=m.member_id, epoch=_epoch(cast, m)) for m in meant]
    members = members or [MemberRef(member_id=cast.uuid())]
    body = DetachMembers(group_id=group_of(owner), members=tuple(members))
    return [sent(body, cast.uuid(), cast.mostly(owner, cast.uuid()))]


def leave_group(cast: Cast) -> Sequence[Sent]:
    """A present or former member leaves."""
    memberships = cast.memberships()
    if not memberships:
        return []
    membership = cast.random.choice(memberships)
    body = LeaveGroup(group_id=membership.group_id, epoch=_epoch(cast, membership))
    return [sent(body, cast.uuid(), cast.mostly(membership.member_id, cast.owner(), None))]


def _epoch(cast: Cast, membership: Membership) -> int | None:
    return cast.random.choice([None, max(1, membership.epoch), max(1, membership.epoch - 1)])


def transfer_units(cast: Cast) -> Sequence[Sent]:
    """An owner transfers units to all members, or to some who may have left."""
    owner = cast.owner_with_members()
    theirs = [membership for membership in cast.memberships() if membership.owner_id == owner]
    mine = [m.member_id for m in theirs if cast.mostly(m.active, not m.active)]
    some = tuple(cast.random.sample(mine, min(len(mine), cast.random.randint(1, 3))))
    body = TransferUnits(
        group_id=group_of(owner),
        mode=cast.random.choice(["amount", "top_up_to"]),
        amount_units=cast.random.randint(1, 15),
        members=some if some and cast.random.random() < 0.6 else "all",
    )
    return [sent(body, cast.uuid(), cast.mostly(owner, cast.uuid()))]


def top_up_at_once(cast: Cast) -> Sequence[Sent]:
    """An owner tops the same members up several times at once, while these spend and buy."""
    owner = cast.owner_with_members()
    mine = [m.member_id for m in cast.memberships() if m.owner_id == owner and m.active]
    if not mine:
        return []
    meant = tuple(cast.random.sample(mine, min(len(mine), cast.random.randint(1, 2))))
    race: list[Sent] = []
    for _ in range(cast.random.randint(2, 3)):
        units = cast.random.randint(5, 30)
        body = TransferUnits(group_id=group_of(owner), mode="top_up_to", amount_units=units, members=meant)
        race.append(sent(body, cast.uuid(), owner))
    for member in meant:
        price = cast.options["options_pack"].price_units
        models: Sequence[Command] = (
            _spending(cast, member),
            AddOptionsPack(request_id=cast.uuid(), account_id=member, price_units=price),
        )
        race.append(sent(cast.random.choice(models), cast.uuid(), member))
    cast.random.shuffle(race)
    return race


def part_and_give(cast: Cast) -> Sequence[Sent]:
    """A membership ends, or has ended, and its owner gives units to that member: in either order, in one batch."""
    known = [membership for membership in cast.memberships() if membership.epoch]
    if not known:
        return []
    membership = cast.random.choice(cast.mostly([each for each in known if not each.active] or known, known))
    group_id, member_id, owner = membership.group_id, membership.member_id, membership.owner_id
    ends: Sequence[tuple[Command, UUID]] = (
        (DetachMembers(group_id=group_id, members=(MemberRef(member_id=member_id),)), owner),
        (LeaveGroup(group_id=group_id), member_id),
    )
    gift = TransferUnits(group_id=group_id, mode="amount", amount_units=cast.random.randint(1, 5), members=(member_id,))
    body, actor = cast.random.choice(ends)
    both = [sent(body, cast.uuid(), actor), sent(gift, cast.uuid(), owner)]
    return cast.mostly(both, both[::-1])


def pay_for_members(cast: Cast) -> Sequence[Sent]:
    """An owner pays for members, some of whom may have left, as the page does: one command each, with what it showed.

    Now and then the form is sent twice, or meant another epoch, price or end; or the member extends at the same time.
    """
    owner = cast.owner_with_members()
    mine = [m for m in cast.memberships() if m.owner_id == owner and m.epoch and cast.mostly(m.active, not m.active)]
    accounts = {account.id: account for account in cast.accounts()}
    found = []
    for membership in cast.random.sample(mine, min(len(mine), cast.random.randint(1, 3))):
        account = accounts.get(membership.member_id)
        if account is None:
            continue
        extends = cast.mostly(account.plan is not None, account.plan is None)
        model = ExtendAccount if extends else AddOptionsPack
        body = PayForMember(
            group_id=group_of(owner),
            member_id=membership.member_id,
            epoch=cast.mostly(membership.epoch, _epoch(cast, membership)),
            action="extension" if extends else "options_pack",
            price_units=cast.mostly(_price(cast, model, account), 7),
            expires_at=cast.mostly(account.expires_at if extends else None, None),
        )
        actor = cast.mostly(owner, membership.member_id)
        found += [sent(body, cast.uuid(), actor) for _ in range(cast.random.choice([1, 1, 1, 2]))]
        if cast.random.random() < 0.2:
            own = model(request_id=cast.uuid(), account_id=account.id, price_units=body.price_units)
            found.append(sent(own, cast.uuid(), account.id))
    return found


def set_order(cast: Cast) -> Sequence[Sent]:
    """An owner, or a stranger, sets standing orders of present or former members, who may have one already."""
    owner = cast.owner_with_members()
    theirs = [membership for membership in cast.memberships() if membership.owner_id == owner]
    if not theirs:
        return []
    theirs = cast.mostly([each for each in theirs if each.active] or theirs, theirs)
    meant = cast.random.sample(theirs, min(len(theirs), cast.random.randint(1, 2)))
    return [sent(_order(cast, each), cast.uuid(), cast.mostly(owner, cast.uuid())) for each in meant]


def _order(cast: Cast, membership: Membership) -> SetStandingOrder:
    threshold = cast.random.randint(1, 20)
    keeping = {
        "threshold_units": threshold,
        "target_units": threshold + cast.random.randint(0, 10),
        "monthly_bound_units": cast.random.randint(5, 60),
    }
    terms = cast.random.choice([{"kind": "keep_at", **keeping}, {"kind": "monthly", "amount_units": threshold}])
    ids = {"group_id": membership.group_id, "member_id": membership.member_id, "epoch": _epoch(cast, membership)}
    return SetStandingOrder.model_validate({**ids, **terms})


def stop_order(cast: Cast) -> Sequence[Sent]:
    """An owner stops a standing order, which may be stopped already, or waiting for the ledger."""
    orders = cast.rows(Principal.GROUPS, ORDERS)
    if not orders:
        return []
    order = cast.random.choice(orders)
    owner = cast.mostly(order.owner_id, cast.owner())
    body = StopStandingOrder(group_id=group_of(owner), member_id=order.member_id)
    return [sent(body, cast.uuid(), owner)]


def race_with_an_order(cast: Cast) -> Sequence[Sent]:
    """A member spends, which may set an order off, and maybe it is stopped, changed, or ends: in either order."""
    orders = [each for each in cast.rows(Principal.GROUPS, ORDERS) if each.state is OrderState.ACTIVE]
    if not orders:
        return set_order(cast)
    order = cast.random.choice(orders)
    race = [sent(_spending(cast, order.member_id), cast.uuid(), order.member_id)]
    (membership,) = [each for each in cast.memberships() if order_of(each.id) == order.id]
    ends: Sequence[tuple[Command, UUID] | None] = (
        None,
        (StopStandingOrder(group_id=order.group_id, member_id=order.member_id), order.owner_id),
        (_order(cast, membership), order.owner_id),
        (LeaveGroup(group_id=order.group_id), order.member_id),
        (CloseAccount(account_id=order.member_id), order.member_id),
    )
    if (end := cast.random.choices(ends, [9, 6, 6, 2, 1])[0]) is not None:
        body, actor = end
        race.append(sent(body, cast.uuid(), actor))
        cast.random.shuffle(race)
    return race


# --- accounts ---------------------------------------------------------------------------------------------------------


def spend_units(cast: Cast) -> Sequence[Sent]:
    """Somebody sends a fax; sometimes the command's actor is another person."""
    account = cast.account()
    return [sent(_spending(cast, account), cast.uuid(), cast.mostly(account, cast.owner()))]


def _spending(cast: Cast, account: UUID) -> SpendUnits:
    return SpendUnits(
        spend_id=cast.uuid(),
        account_id=account,
        amount_units=cast.random.randint(1, 8),
        purpose=cast.random.choice(["fax", "sms", "call_forwarding"]),
        reference=f"job/{cast.random.getrandbits(20)}",
    )


def buy_something(cast: Cast) -> Sequence[Sent]:
    """Somebody extends their account or buys an option, with units or with money."""
    accounts = cast.accounts()
    if not accounts:
        return []
    account = cast.random.choice(accounts)
    models: list[type[Command]] = [AddOptionsPack, EnableCallForwarding]
    model = cast.random.choice(models)
    if cast.mostly(account.plan is not None, account.plan is None) and cast.random.random() < 0.6:
        model = ExtendAccount
    fields: dict[str, Any] = {"request_id": cast.uuid(), "account_id": account.id}
    if model is EnableCallForwarding:
        fields["forward_to"] = cast.random.choice(["+33199000001", "+33199000002"])
    if cast.random.random() < 0.7:
        fields["price_units"] = cast.mostly(_price(cast, model, account), 7)
    else:
        fields["payment_reference"] = f"card/{cast.random.getrandbits(4)}"  # few, so that some are used again
    body, actor = model.model_validate(fields), cast.mostly(account.id, cast.owner())
    cast.bought.append((body, actor))
    return [sent(body, cast.uuid(), actor) for _ in range(cast.random.choice([1, 1, 1, 2]))]


def _price(cast: Cast, model: type[Command], account: Subscriber) -> int:
    if model is ExtendAccount:
        return cast.plans[account.plan].price_units if account.plan in cast.plans else PRICES[0]
    return cast.options["options_pack" if model is AddOptionsPack else "call_forwarding"].price_units


def buy_once_more(cast: Cast) -> Sequence[Sent]:
    """Somebody repeats a purchase in another message, unchanged or at another price."""
    if not cast.bought:
        return []
    body, actor = cast.random.choice(cast.bought)
    if cast.random.random() < 0.2:
        body = body.model_copy(update={"price_units": 9, "payment_reference": None})
    return [sent(body, cast.uuid(), actor)]


def disable_call_forwarding(cast: Cast) -> Sequence[Sent]:
    """Somebody disables call forwarding."""
    account = cast.account()
    body = DisableCallForwarding(account_id=account)
    return [sent(body, cast.uuid(), cast.mostly(account, cast.owner()))]


def change_email(cast: Cast) -> Sequence[Sent]:
    """Somebody changes their address to one that others have had, have, or want."""
    account = cast.account()
    taken = [each.email for each in cast.accounts() if each.email is not None]
    email = cast.random.choice([*cast.emails, *taken])
    return [sent(ChangeEmail(account_id=account, email=email), cast.uuid(), cast.mostly(account, cast.owner()))]


def swap_emails(cast: Cast) -> Sequence[Sent]:
    """One subscriber gives up an address, and another takes it at once."""
    living = [each for each in cast.accounts() if each.state is not AccountState.CLOSED and each.email is not None]
    if len(living) < 2:
        return []
    one, other = cast.random.sample(living, 2)
    gives_up = ChangeEmail(account_id=one.id, email=f"{cast.random.getrandbits(16)}@example.org")
    takes = ChangeEmail(account_id=other.id, email=one.email or "")
    return [sent(gives_up, cast.uuid(), one.id), sent(takes, cast.uuid(), other.id)]


def change_time_zone(cast: Cast) -> Sequence[Sent]:
    """Somebody moves."""
    account, zone = cast.account(), cast.random.choice(["Europe/Paris", "America/Martinique"])
    return [sent(ChangeTimeZone(account_id=account, time_zone=zone), cast.uuid(), cast.mostly(account, cast.owner()))]


def close_account(cast: Cast) -> Sequence[Sent]:
    """Somebody closes their account; now and then an owner does, or somebody else tries."""
    account = cast.account()
    if account in cast.owners and cast.random.random() < 0.6:
        return []
    return [sent(CloseAccount(account_id=account), cast.uuid(), cast.mostly(account, cast.owner()))]


def mail_bounces(cast: Cast) -> Sequence[Sent]:
    """A mail bounces: usually an invitation's, sometimes one that was never sent."""
    mails = cast.rows(Principal.NOTIFICATIONS, MAILS)
    invitations = [mail for mail in mails if mail.invitation_id is not None]
    known = [mail.id for mail in cast.mostly(invitations, mails)] or [cast.uuid()]
    mail_id = cast.mostly(cast.random.choice(known), cast.uuid())
    return [sent(MailBounced(mail_id=mail_id, reason="mailbox_unknown"), cast.uuid())]


# --- other people's ids -----------------------------------------------------------------------------------------------

_CHOSEN = ("credit_id", "spend_id", "request_id", "subscriber_id", "invitation_id")
"""The fields in which a client names a thing that it creates or knows."""


def hostile(cast: Cast) -> Sequence[Sent]:
    """Somebody sends valid commands under ids that other messages have or will have.

    They know everything on the bus, and every rule by which one id is derived from another.
    """
    make = cast.random.choice(_HARMLESS)
    return [_disguised(cast, command) for command in make(cast)]


def _disguised(cast: Cast, command: Sent) -> Sent:
    headers, value = dict(command.headers), command.value
    victim = cast.recent()
    if victim is None:
        return command
    if cast.random.random() < 0.9:
        taken = {"ce_id": cast.random.choice(_ids_after(victim))}
        taken["ce_source"] = source_of(cast.random.choice(list(Principal))).encode()
        if not cast.bus.elsewhere(command.topic, command.key, taken):
            headers |= taken
    if cast.random.random() < 0.4 and dict(victim.headers).get("ce_actor") != headers.get("ce_actor"):
        headers["ce_correlationid"] = dict(victim.headers).get("ce_correlationid", headers["ce_id"])
    if cast.random.random() < 0.4:
        value = _naming(cast, value)
    return Sent(command.topic, command.key, value, list(headers.items()), by_http=False)


def _ids_after(record: BusRecord) -> list[bytes]:
    """Return a record's id and those derived from it: of the messages that it causes and the things they create."""
    headers = dict(record.headers)
    id_ = headers.get("ce_id") or b"nothing"
    who = message_id(record.topic, headers.get("ce_source") or b"", id_)
    answers = [derive(who, str(ordinal)) for ordinal in range(3)]
    made = [derive_own(who, name) for name in ("transfer", "invitation", "order", "create-member-account", "payment")]
    return [id_, str(who).encode(), *(str(each).encode() for each in (*answers, *answers, *made))]


def _naming(cast: Cast, value: bytes) -> bytes:
    """Put the id of an existing thing into every field in which a client names one."""
    fields = json.loads(value)
    holds, sagas = cast.rows(Principal.LEDGER, HOLDS), cast.rows(Principal.GROUPS, SAGAS)
    moved = cast.rows(Principal.LEDGER, TRANSFERS), cast.rows(Principal.GROUPS, GROUP_TRANSFERS)
    invited, members = cast.rows(Principal.GROUPS, INVITATIONS), cast.memberships()
    known = [row.id for rows in (holds, sagas, *moved, invited, members, cast.accounts()) for row in rows]
    if known:
        fields |= {name: str(cast.random.choice(known)) for name in _CHOSEN if name in fields}
    return json.dumps(fields).encode()


# --- malformed commands -----------------------------------------------------------------------------------------------


def malformed(cast: Cast) -> Sequence[Sent]:
    """Somebody sends an unreadable command, malformed in one of every possible way."""
    owner = cast.owner()
    good = sent(_creation(cast, owner, cast.random.choice(cast.emails)), cast.uuid(), owner)
    topic = cast.random.choice([GROUPS_COMMANDS, LEDGER_COMMANDS, PROVISIONING_COMMANDS])
    headers = dict(good.headers)
    broken = (
        Sent(good.topic, good.key, b'{"group_id": "who knows"', good.headers),
        Sent(good.topic, good.key, b"\xff\xfe\x00", good.headers),
        Sent(good.topic, good.key, good.value.replace(b"@", b" at "), good.headers),
        Sent(good.topic, str(cast.uuid()), good.value, good.headers),
        Sent(topic, good.key, good.value, [*(headers | {"ce_type": b"popfax.of-tomorrow.v9"}).items()]),
        Sent(topic, good.key, good.value, [*(headers | {"ce_id": b"\xff"}).items()]),
        Sent(topic, good.key, good.value, [("ce_id", headers["ce_id"])]),
        Sent(topic, good.key, good.value, []),
    )
    return [cast.random.choice(broken)]


_HARMLESS: Sequence[Callable[[Cast], Sequence[Sent]]] = (
    rename_group,
    credit_units,
    spend_units,
    transfer_units,
    pay_for_members,
    invite_somebody,
    answer_by_id,
    register_a_taken_address,
    buy_something,
    disable_call_forwarding,
    create_member_account,
)
"""The commands of a hostile client: only those whose outcomes have no other cause."""

COMMANDS: Sequence[tuple[int, Callable[[Cast], Sequence[Sent]]]] = (
    (12, create_member_account),
    (2, once_more),
    (4, same_address_from_two_owners),
    (1, not_ones_own_group),
    (1, wrong_price),
    (1, unknown_plan),
    (3, sent_again),
    (1, other_content),
    (3, credit_units),
    (1, credit_with_a_used_id),
    (3, post_transfers),
    (2, meddle_with_a_hold),
    (1, register_a_taken_address),
    (2, register_for_a_while),
    (1, register_again),
    (1, rename_group),
    (2, set_low_balance),
    (8, invite_somebody),
    (4, come_back),
    (8, answer_by_token),
    (4, answer_by_id),
    (2, revoke_invitation),
    (4, detach_members),
    (2, leave_group),
    (6, transfer_units),
    (3, top_up_at_once),
    (2, part_and_give),
    (6, pay_for_members),
    (7, set_order),
    (2, stop_order),
    (5, race_with_an_order),
    (3, spend_units),
    (5, buy_something),
    (2, buy_once_more),
    (1, disable_call_forwarding),
    (1, change_email),
    (1, swap_emails),
    (1, change_time_zone),
    (1, close_account),
    (2, mail_bounces),
    (2, malformed),
    (8, hostile),
)
"""The commands, each with its weight."""


def _creation(cast: Cast, owner: UUID, email: str) -> CreateMemberAccount:
    plan = cast.random.choice(list(cast.plans.values()))
    body = CreateMemberAccount(
        group_id=group_of(owner),
        plan=plan.plan,
        price_units=plan.price_units,
        email=email,
        first_name="Grace",
        last_name="H.",
        language=Language.FR,
    )
    cast.created.append((owner, body))
    return body


def next_command(cast: Cast) -> Sequence[Sent]:
    """Choose an entry of the table by weight, and make its records."""
    weights = cast.weights or [weight for weight, _ in COMMANDS]
    make = cast.random.choices([make for _, make in COMMANDS], weights)[0]
    found = make(cast)
    cast.sent.extend(found)
    for each in found:
        id_ = (dict(each.headers).get("ce_id") or b"").decode("latin-1")
        cast.sent_by.setdefault(id_, make.__name__)
    return found
