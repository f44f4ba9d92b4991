"""Who plays on the page: subscribers of the real product, made through Kafka as the platform makes them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from uuid import UUID, uuid4

from popfax_contracts.fields import Language
from popfax_contracts.groups import (
    AcceptInvitation,
    GroupRenamed,
    InvitationSent,
    InviteByEmail,
    MemberJoined,
    RenameGroup,
    TransferUnits,
    UnitsTransferred,
)
from popfax_contracts.ledger import CreditUnits, UnitsCredited
from popfax_contracts.message import group_of
from popfax_contracts.provisioning import RegisterSubscriber, SubscriberRegistered
from popfax_contracts.topics import Principal
from tests.e2e.driver import World, wait


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody, and what they have when it begins."""

    first_name: str
    last_name: str
    units: int = 0
    language: Language = Language.FR
    expired: bool = False
    id: UUID = field(default_factory=uuid4)
    mark: str = field(default_factory=lambda: uuid4().hex[:4])

    @property
    def name(self) -> str:
        """First and last name."""
        return f"{self.first_name} {self.last_name}"

    @property
    def email(self) -> str:
        """An address that nobody else has."""
        plain = re.sub(r"[^a-z]", "", self.last_name.lower())
        return f"{plain[:50] or 'x'}.{self.mark}@example.com"


def settle_in(world: World, *people: Person) -> None:
    """Register people, and wait until groups knows them and what they have."""
    sent = []
    for each in people:
        register = RegisterSubscriber(
            subscriber_id=each.id,
            email=each.email,
            first_name=each.first_name,
            last_name=each.last_name,
            language=each.language,
            plan="send_only" if each.expired else None,
            expires_at=datetime.now(UTC) + timedelta(seconds=1) if each.expired else None,
        )
        sent.append(world.wire.send(register))
        if each.units:
            sent.append(world.wire.send(CreditUnits(credit_id=uuid4(), account_id=each.id, amount_units=each.units)))
    world.wire.flush()
    world.answers(sent, SubscriberRegistered, UnitsCredited)
    wanted = {(each.id, each.units, "expired" if each.expired else "active") for each in people}

    def are_known() -> bool:
        query = "SELECT id, available_units, state FROM subscribers WHERE id = ANY(%s) AND email IS NOT NULL"
        return wanted <= set(world.rows(Principal.GROUPS, query, [each.id for each in people]))

    wait(are_known, "groups knows the people")


def invite(world: World, owner: Person, *people: Person) -> dict[UUID, UUID]:
    """Have an owner invite people; return the invitations' ids by whom they are for."""
    asked = [world.wire.send(InviteByEmail(group_id=group_of(owner.id), email=each.email), owner.id) for each in people]
    world.wire.flush()
    sent = world.answers(asked, InvitationSent).values()
    return {UUID(each["subscriber_id"]): UUID(each["invitation_id"]) for each in sent}


def link_of_invitation(mail: EmailMessage) -> str:
    """Return the link in the mail of an invitation."""
    text = mail.get_body(("plain",))
    assert text is not None
    (link,) = re.findall(r"http\S+/invitation\?\S+", str(text.get_content()))
    return str(link)


def join(world: World, owner: Person, *people: Person) -> None:
    """Have people become members of somebody's group."""
    accepted = [
        world.wire.send(AcceptInvitation(invitation_id=invitation), subscriber)
        for subscriber, invitation in invite(world, owner, *people).items()
    ]
    world.wire.flush()
    world.answers(accepted, MemberJoined)


def give(world: World, owner: Person, people: Sequence[Person], units: int) -> None:
    """Have an owner transfer units."""
    body = TransferUnits(
        group_id=group_of(owner.id), mode="amount", amount_units=units, members=tuple(each.id for each in people)
    )
    world.ask(body, UnitsTransferred, actor=owner.id)


def rename(world: World, owner: Person, name: str) -> None:
    """Have an owner rename their group."""
    world.ask(RenameGroup(group_id=group_of(owner.id), name=name), GroupRenamed, actor=owner.id)


def units_of(world: World, person: Person) -> int:
    """Return what groups shows as somebody's units."""
    return int(world.rows(Principal.GROUPS, "SELECT available_units FROM subscribers WHERE id = %s", person.id)[0][0])
