"""What the platform sends in a simulation: `COMMANDS` is the table to add to.

An entry is a weight and a function that makes one or several records of the cast: owners, addresses and prices that a
seed has chosen. Everything is random and nothing is unique by accident: few owners, few addresses, few units.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from uuid import UUID

from contracts.fields import Language
from contracts.groups import CreateMemberAccount
from contracts.ledger import CreditUnits, Leg, PostTransfers
from contracts.message import Command, group_of
from contracts.provisioning import RegisterSubscriber
from contracts.topics import GROUPS_COMMANDS, LEDGER_COMMANDS, PROVISIONING_COMMANDS, Topic
from services.provisioning.domain import Plan
from tests.simulation.bus import Headers

PRICES = (5, 10, 20)
OWNERS = 3
ADDRESSES = 8
FAX_NUMBERS = 4
"""Fewer than accounts that want one: the pool runs dry now and then."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A record that the platform publishes."""

    topic: Topic
    key: str
    value: bytes
    headers: Headers


@dataclass(slots=True)
class Cast:
    """Who and what a seed plays with."""

    random: Random
    owners: list[UUID] = field(init=False)
    emails: list[str] = field(init=False)
    plans: dict[str, Plan] = field(init=False)
    sent: list[Sent] = field(default_factory=list)
    created: list[tuple[UUID, CreateMemberAccount]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.owners = [self.uuid() for _ in range(OWNERS)]
        self.emails = [f"person{n}@example.org" for n in range(ADDRESSES)]
        days = timedelta(365).days
        self.plans = {
            "send_receive": Plan("send_receive", self.random.choice(PRICES), days, fax_number=True),
            "send_only": Plan("send_only", self.random.choice(PRICES), days, fax_number=False),
        }

    def uuid(self) -> UUID:
        """Give an id that a client makes."""
        return UUID(int=self.random.getrandbits(128), version=4)

    def owner(self) -> UUID:
        """Give one of the owners."""
        return self.random.choice(self.owners)


def sent(body: Command, id_: UUID, actor: UUID | None = None) -> Sent:
    """Put a command into its envelope."""
    headers: list[tuple[str, bytes | None]] = [("ce_id", str(id_).encode()), ("ce_type", body.TYPE.encode())]
    if actor is not None:
        headers.append(("ce_actor", str(actor).encode()))
    return Sent(body.TOPIC, body.key(), body.to_json(), headers)


# --- before all else --------------------------------------------------------------------------------------------------


def register_owners(cast: Cast) -> Sequence[Sent]:
    """Each owner signs up with Popfax itself, and most buy units."""
    found = []
    for number, owner in enumerate(cast.owners):
        found.append(sent(_registration(owner, f"owner{number}@example.org"), cast.uuid()))
        if cast.random.random() < 0.9:
            found.append(sent(_credit(cast, owner), cast.uuid()))
    return found


def _registration(subscriber: UUID, email: str) -> RegisterSubscriber:
    return RegisterSubscriber(
        subscriber_id=subscriber, email=email, first_name="Ada", last_name="L.", language=Language.EN
    )


def _credit(cast: Cast, account: UUID) -> CreditUnits:
    return CreditUnits(credit_id=cast.uuid(), account_id=account, amount_units=cast.random.randint(1, 60))


# --- the table --------------------------------------------------------------------------------------------------------


def create_member_account(cast: Cast) -> Sequence[Sent]:
    """What an owner's page sends."""
    owner = cast.owner()
    return [sent(_creation(cast, owner, cast.random.choice(cast.emails)), cast.uuid(), owner)]


def once_more(cast: Cast) -> Sequence[Sent]:
    """An owner creates an account again that they may have created before: another command, the same address."""
    if not cast.created:
        return []
    owner, body = cast.random.choice(cast.created)
    price = cast.plans[body.plan].price_units
    return [sent(body.model_copy(update={"price_units": price}), cast.uuid(), owner)]


def same_address_from_two_owners(cast: Cast) -> Sequence[Sent]:
    """Two owners invite one person at the same moment."""
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
    """A plan that is not on sale."""
    owner = cast.owner()
    body = _creation(cast, owner, cast.random.choice(cast.emails)).model_copy(update={"plan": "send_nothing"})
    return [sent(body, cast.uuid(), owner)]


def sent_again(cast: Cast) -> Sequence[Sent]:
    """The platform sends one of its commands again, under the same message id."""
    return [cast.random.choice(cast.sent)] if cast.sent else []


def other_content(cast: Cast) -> Sequence[Sent]:
    """A client uses a message id twice, for two commands: the first one counts."""
    account, id_ = cast.owner(), cast.uuid()
    return [sent(_credit(cast, account), id_) for _ in range(2)]


def credit_units(cast: Cast) -> Sequence[Sent]:
    """Somebody buys units; sometimes the purchase is reported twice, under two message ids."""
    body = _credit(cast, cast.owner())
    return [sent(body, cast.uuid()) for _ in range(cast.random.choice([1, 1, 2]))]


def credit_with_a_used_id(cast: Cast) -> Sequence[Sent]:
    """A purchase's id is used again for other units."""
    body = _credit(cast, cast.owner())
    other = body.model_copy(update={"amount_units": body.amount_units + 1})
    return [sent(body, cast.uuid()), sent(other, cast.uuid())]


def post_transfers(cast: Cast) -> Sequence[Sent]:
    """Units go from one account to others, if they are there."""
    source, *targets = cast.random.sample(cast.owners, cast.random.randint(2, len(cast.owners)))
    legs = tuple(_leg(cast, target) for target in targets)
    body = PostTransfers(transfer_id=cast.uuid(), source_id=source, legs=legs)
    return [sent(body, cast.uuid())]


def _leg(cast: Cast, target: UUID) -> Leg:
    units = cast.random.randint(1, 30)
    if cast.random.random() < 0.5:
        return Leg(account_id=target, top_up_to_units=units)
    return Leg(account_id=target, amount_units=units)


def register_a_taken_address(cast: Cast) -> Sequence[Sent]:
    """Somebody signs up with an address that an owner is just creating an account for, or not."""
    return [sent(_registration(cast.uuid(), cast.random.choice(cast.emails)), cast.uuid())]


def malformed(cast: Cast) -> Sequence[Sent]:
    """A command that nobody can read: each way in which one can be broken."""
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
    (1, register_a_taken_address),
    (2, malformed),
)
"""How often, and what."""


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
    """Choose an entry of the table and make its records."""
    make = cast.random.choices([make for _, make in COMMANDS], [weight for weight, _ in COMMANDS])[0]
    found = make(cast)
    cast.sent.extend(found)
    return found
