"""What happens while a process crashes: a few commands, the one outcome that they may have, and what it costs.

A story names its commands' ids before it sends them, so that a trap can be set for what follows from them.
"""

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

from popfax_contracts.dates import months_later
from popfax_contracts.fields import Language
from popfax_contracts.groups import (
    MemberAccountCreated,
    MemberAccountRefused,
    MemberPaidFor,
    PayForMember,
)
from popfax_contracts.ledger import CreditUnits, ReserveUnits, UnitsCredited
from popfax_contracts.message import Command, Message, group_of
from popfax_contracts.notifications import MailBounced
from popfax_contracts.provisioning import (
    AccountExtended,
    AccountProvisioned,
    AddOptionsPack,
    CallForwardingEnabled,
    EnableCallForwarding,
    ExtendAccount,
    OptionsPackAdded,
    PersonRecorded,
    RegisterSubscriber,
    SubscriberRegistered,
)
from popfax_contracts.topics import Principal
from services.provisioning import catalogue
from tests.e2e.driver import PRICES, SETTLED_S, Owner, Seen, World, wait
from tests.e2e.holding import held_back

UNITS = 1000
"""What somebody who has enough has at the beginning."""

PLAN = "send_only"
ACCOUNT = PRICES[PLAN]
OPTIONS = {name: option.price_units for name, option in catalogue.read(catalogue.DEFAULT).options.items()}
PACK = OPTIONS["options_pack"]
YEAR = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Person:
    """Who plays: an owner, or somebody who buys something; and a member of theirs, if the story needs one."""

    owner: Owner
    member_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """Whom a story needs: how many people, whether they have units to spend, and whether they have a member."""

    people: int = 1
    rich: bool = True
    member: bool = False


Told = Mapping[str, Seen]
"""The outcome of each command that has one by now."""


@dataclass(slots=True)
class Script:
    """A story with its people and ids: what is sent, and what is true in the end."""

    commands: Sequence[tuple[UUID, Command, UUID | None]]
    """Id, command, and who asks."""
    ends: Callable[[World, Told], list[str]]
    """Returns what is not as it should be."""
    texts: tuple[str, ...] = ()
    """What a trap may be set for beside the commands' ids: the address of a mail."""
    between: Callable[[World], Iterator[None]] | None = None
    """What somebody does while it goes on, step by step: each step waits for something."""
    mail_to: Callable[[Told], tuple[UUID, str] | None] = field(default=lambda _: None)
    """Whoever gets a mail, and its template, once that is known."""

    @property
    def ids(self) -> list[str]:
        """The commands' ids."""
        return [str(id_) for id_, _, _ in self.commands]

    @property
    def answers(self) -> dict[str, frozenset[str]]:
        """The types of which each command's outcome may be: what it declares."""
        return {str(id_): frozenset(model.TYPE for model in body.outcomes()) for id_, body, _ in self.commands}


Write = Callable[[World, Sequence[Person]], Script]


@dataclass(frozen=True, slots=True)
class Story:
    """A story that can be told again and again, with other people."""

    name: str
    needs: Needs
    write: Write
    holds: bool = False
    """Whether something is held back meanwhile: one such story at a time, since they change the outboxes' tables."""


# --- outcomes ---------------------------------------------------------------------------------------------------------


def _ends(
    costs: Mapping[UUID, int], *wanted: str, units: int = UNITS, also: Callable[[World], list[str]] = lambda _: []
) -> Callable[[World, Told], list[str]]:
    """Return what compares outcomes and units: `wanted` are types or refusal codes, in any order; costs in all."""

    def compare(world: World, told: Told) -> list[str]:
        got = sorted(_said(seen) for seen in told.values())
        found = [] if got == sorted(wanted) else [f"outcomes {got}, not {sorted(wanted)}"]
        left = sum(world.available(Owner(id_, "", 0)) for id_ in costs)
        expected = len(costs) * units - sum(costs.values())
        if left != expected:
            found.append(f"{left} units are left, not {expected}")
        return found + also(world)

    return compare


def _said(outcome: Seen) -> str:
    """Return a refusal's code, or what has happened."""
    return str(json.loads(outcome.value or b"{}").get("code") or outcome.kind)


def _one_welcome(told: Told) -> tuple[UUID, str] | None:
    created = [seen for seen in told.values() if seen.says(MemberAccountCreated)]
    return (UUID(created[0]["member_id"]), "welcome") if created else None


# --- accounts ---------------------------------------------------------------------------------------------------------


def _create(world: World, owner: Owner, email: str) -> tuple[UUID, Command, UUID]:
    return uuid4(), world.command(owner, email), owner.id


def _address(world: World) -> str:
    return f"c{uuid4().hex[:10]}.{world.mark}@example.com"


def _created(world: World, people: Sequence[Person]) -> Script:
    owner, email = people[0].owner, _address(world)
    ends = _ends({owner.id: ACCOUNT}, MemberAccountCreated.TYPE)
    return Script([_create(world, owner, email)], ends, texts=(email,), mail_to=_one_welcome)


def _short(world: World, people: Sequence[Person]) -> Script:
    owner = people[0].owner
    return Script([_create(world, owner, _address(world))], _ends({owner.id: 0}, "units_short", units=0))


def _taken(world: World, people: Sequence[Person]) -> Script:
    """Somebody has just registered with the address, of which groups does not know yet."""
    owner, other, email = people[0].owner, uuid4(), _address(world)

    def between(world: World) -> Generator[None, None, None]:
        with held_back(world, Principal.PROVISIONING, PersonRecorded, f"NEW.key = '{other}'"):
            world.ask(_registration(other, email), SubscriberRegistered)
            while not world.rows(Principal.GROUPS, _ENDED, script.ids[0]):
                yield

    script = Script([_create(world, owner, email)], _ends({owner.id: 0}, "email_taken"), between=between)
    return script


def _registration(id_: UUID, email: str) -> RegisterSubscriber:
    who = {"first_name": "Anne", "last_name": "Martin", "language": Language.FR, "email": email}
    account = {"plan": PLAN, "expires_at": datetime.now(UTC) + YEAR}
    return RegisterSubscriber.model_validate({"subscriber_id": id_, **who, **account})


def _created_late(world: World, people: Sequence[Person]) -> Script:
    script = _created(world, people)
    script.between = lambda w: _overdue(w, script, Principal.GROUPS, Principal.PROVISIONING, AccountProvisioned, 2)
    return script


# --- an owner pays for a member ---------------------------------------------------------------------------------------


def _pay(world: World, person: Person, action: Literal["extension", "options_pack"]) -> tuple[UUID, PayForMember, UUID]:
    ((shown,),) = world.rows(Principal.GROUPS, "SELECT expires_at FROM subscribers WHERE id = %s", person.member_id)
    price = ACCOUNT if action == "extension" else PACK
    body = PayForMember(
        group_id=group_of(person.owner.id),
        member_id=_member(person),
        action=action,
        price_units=price,
        expires_at=shown if action == "extension" else None,
    )
    return uuid4(), body, person.owner.id


def _member(person: Person) -> UUID:
    assert person.member_id is not None
    return person.member_id


def _extended_once(person: Person, command: PayForMember) -> Callable[[World], list[str]]:
    assert command.expires_at is not None
    wanted = months_later(command.expires_at, 12)

    def compare(world: World) -> list[str]:
        ends = "SELECT expires_at FROM subscribers WHERE id = %s"
        ((found,),) = world.rows(Principal.PROVISIONING, ends, person.member_id)
        return [] if found == wanted else [f"the account ends at {found}, not at {wanted}"]

    return compare


def _year_paid(world: World, people: Sequence[Person]) -> Script:
    person = people[0]
    asked = _pay(world, person, "extension")
    also = _extended_once(person, asked[1])
    return Script([asked], _ends({person.owner.id: 2 * ACCOUNT}, MemberPaidFor.TYPE, also=also))


def _year_paid_twice(world: World, people: Sequence[Person]) -> Script:
    """Both were shown the same end, and the first one moves it."""
    person = people[0]
    both = [_pay(world, person, "extension") for _ in range(2)]
    also = _extended_once(person, both[0][1])
    return Script(both, _ends({person.owner.id: 2 * ACCOUNT}, MemberPaidFor.TYPE, "end_changed", also=also))


def _pack_paid(world: World, people: Sequence[Person]) -> Script:
    person = people[0]
    return Script([_pay(world, person, "options_pack")], _ends({person.owner.id: ACCOUNT + PACK}, MemberPaidFor.TYPE))


def _pack_paid_twice(world: World, people: Sequence[Person]) -> Script:
    person = people[0]
    both = [_pay(world, person, "options_pack") for _ in range(2)]
    return Script(both, _ends({person.owner.id: ACCOUNT + PACK}, MemberPaidFor.TYPE, "already_added"))


def _paid_short(action: Literal["extension", "options_pack"]) -> Write:
    def write(world: World, people: Sequence[Person]) -> Script:
        person = people[0]
        return Script([_pay(world, person, action)], _ends({person.owner.id: 0}, "units_short", units=0))

    return write


def _paid_late(write: Write, answer: type[Message]) -> Write:
    def late(world: World, people: Sequence[Person]) -> Script:
        script = write(world, people)
        script.between = lambda w: _overdue(w, script, Principal.GROUPS, Principal.PROVISIONING, answer, 2)
        return script

    return late


# --- somebody buys something for themselves ---------------------------------------------------------------------------


def _buys(model: Callable[..., Command], price: int, answer: type[Message], **more: Any) -> Write:
    def write(world: World, people: Sequence[Person]) -> Script:
        buyer = people[0].owner
        body = model(request_id=uuid4(), account_id=buyer.id, price_units=price, **more)
        return Script([(uuid4(), body, buyer.id)], _ends({buyer.id: price}, answer.TYPE))

    return write


def _pack_bought_twice(world: World, people: Sequence[Person]) -> Script:
    buyer = people[0].owner
    both = [
        (uuid4(), AddOptionsPack(request_id=uuid4(), account_id=buyer.id, price_units=PACK), buyer.id) for _ in range(2)
    ]
    return Script(both, _ends({buyer.id: PACK}, OptionsPackAdded.TYPE, "already_added"))


def _bought_short(world: World, people: Sequence[Person]) -> Script:
    buyer = people[0].owner
    body = ExtendAccount(request_id=uuid4(), account_id=buyer.id, price_units=ACCOUNT)
    return Script([(uuid4(), body, buyer.id)], _ends({buyer.id: 0}, "units_short", units=0))


def _bought_late(world: World, people: Sequence[Person]) -> Script:
    """The units are asked for so late that the purchase has been called off: its release is there before them."""
    buyer = people[0].owner
    body = ExtendAccount(request_id=uuid4(), account_id=buyer.id, price_units=ACCOUNT)
    script = Script([(uuid4(), body, buyer.id)], _ends({buyer.id: 0}, "timed_out"))
    script.between = lambda w: _overdue(w, script, Principal.PROVISIONING, Principal.PROVISIONING, ReserveUnits, 1)
    return script


def _bounced(world: World, people: Sequence[Person]) -> Script:
    body = MailBounced(mail_id=uuid4(), reason="mailbox_unknown")
    return Script([(uuid4(), body, None)], _ends({}, "unknown_mail"))


# --- deadlines --------------------------------------------------------------------------------------------------------

_MOVE = "UPDATE sagas SET opened_at = opened_at + %s WHERE correlation_id = %s RETURNING id"
_LONG_AGO = timedelta(hours=-1)
_ENDED = "SELECT id FROM sagas WHERE correlation_id = %s AND ended_at IS NOT NULL"


def _overdue(
    world: World, script: Script, runner: Principal, participant: Principal, answer: type[Message], answers: int
) -> Generator[None, None, None]:
    """Hold a participant's answer back until the saga's deadline has passed and what follows from it has happened.

    That is the participant's next answer, or with only one of `answers`, the saga's end.
    """
    id_ = script.ids[0]
    with held_back(world, participant, answer, f"NEW.correlation_id = '{id_}'"):

        def held() -> int:
            return int(world.rows(participant, "SELECT count(*) FROM held")[0][0])

        while held() < 1:
            yield
        while not world.rows(runner, _MOVE, _LONG_AGO, id_):
            yield
        while held() < answers or (answers == 1 and not world.rows(runner, _ENDED, id_)):
            yield
        world.rows(runner, _MOVE, -_LONG_AGO, id_)  # the history knows when it began


# --- all of them ------------------------------------------------------------------------------------------------------

_POOR, _MEMBER, _POOR_WITH_MEMBER = Needs(rich=False), Needs(member=True), Needs(rich=False, member=True)

STORIES: Mapping[str, Story] = {
    story.name: story
    for story in (
        Story("account", Needs(), _created),
        Story("account, units short", _POOR, _short),
        Story("account, address taken", Needs(), _taken, holds=True),
        Story("account, overdue", Needs(), _created_late, holds=True),
        Story("year for a member", _MEMBER, _year_paid),
        Story("year for a member, twice", _MEMBER, _year_paid_twice),
        Story("year for a member, units short", _POOR_WITH_MEMBER, _paid_short("extension")),
        Story("year for a member, overdue", _MEMBER, _paid_late(_year_paid, AccountExtended), holds=True),
        Story("pack for a member", _MEMBER, _pack_paid),
        Story("pack for a member, twice", _MEMBER, _pack_paid_twice),
        Story("pack for a member, units short", _POOR_WITH_MEMBER, _paid_short("options_pack")),
        Story("pack for a member, overdue", _MEMBER, _paid_late(_pack_paid, OptionsPackAdded), holds=True),
        Story("renewal", Needs(), _buys(ExtendAccount, ACCOUNT, AccountExtended)),
        Story("options pack", Needs(), _buys(AddOptionsPack, PACK, OptionsPackAdded)),
        Story("options pack, twice", Needs(), _pack_bought_twice),
        Story(
            "call forwarding",
            Needs(),
            _buys(EnableCallForwarding, OPTIONS["call_forwarding"], CallForwardingEnabled, forward_to="+33199000111"),
        ),
        Story("renewal, units short", _POOR, _bought_short),
        Story("renewal, overdue", Needs(), _bought_late, holds=True),
        Story("bounce", Needs(people=0), _bounced),
    )
}


# --- the people -------------------------------------------------------------------------------------------------------


def cast(world: World, stories: Sequence[Story]) -> list[list[Person]]:
    """Register whom these stories need, all at once, and create their members' accounts: the people of each story."""
    asked = [story.needs for story in stories for _ in range(story.needs.people)]
    owners = _registered(world, asked)
    sent = {world.create(owner): owner for owner, needs in zip(owners, asked, strict=True) if needs.member}
    world.wire.flush()
    created = world.answers(list(sent), MemberAccountCreated, MemberAccountRefused, timeout_s=SETTLED_S)
    members = {sent[id_].id: UUID(seen["member_id"]) for id_, seen in created.items()}
    _known(world, list(members.values()))
    people = iter([Person(owner, members.get(owner.id)) for owner in owners])
    return [[next(people) for _ in range(story.needs.people)] for story in stories]


def _registered(world: World, asked: Sequence[Needs]) -> list[Owner]:
    """Register people whose accounts end in a year. A poor one with a member has just enough to create it."""
    owners, sent = [], []
    for needs in asked:
        units = (UNITS if needs.rich else 0) or (ACCOUNT if needs.member else 0)
        made = Owner(uuid4(), f"p{uuid4().hex[:10]}.{world.mark}@example.com", units)
        sent.append(world.wire.send(_registration(made.id, made.email)))
        if units:
            sent.append(world.wire.send(CreditUnits(credit_id=uuid4(), account_id=made.id, amount_units=units)))
        owners.append(made)
    world.wire.flush()
    world.answers(sent, SubscriberRegistered, UnitsCredited, timeout_s=SETTLED_S)
    _known(world, [owner.id for owner in owners])
    return owners


def _known(world: World, ids: Sequence[UUID]) -> None:
    """Wait until groups knows subscribers and their accounts, which it reads on two topics."""
    known = "SELECT count(*) FROM subscribers WHERE id = ANY(%s) AND email IS NOT NULL AND expires_at IS NOT NULL"
    wait(lambda: world.rows(Principal.GROUPS, known, ids) == [(len(ids),)], "groups knows all", SETTLED_S)
