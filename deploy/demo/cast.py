"""The people of the demo, and the amounts that they use."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid4

from popfax_contracts.fields import Language
from popfax_contracts.message import group_of
from popfax_contracts.provisioning import RegisterSubscriber
from popfax_contracts.topics import GROUPS_COMMANDS
from services.chassis.kafka import partition_of

PLAN, CHEAP_PLAN = "send_receive", "send_only"
GROUP_NAME = "Cabinet Martin"
BOUGHT_UNITS = 200
MORE_UNITS = 300
SHARED_UNITS = 60
"""The units that Anne transfers to each member and later tops them up to: the price of extending the cheap plan."""
FAX_UNITS = 12
SMS_UNITS = 3


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody, who may become a subscriber."""

    first_name: str
    last_name: str
    email: str
    language: Language
    id: UUID = field(default_factory=uuid4)

    @property
    def name(self) -> str:
        """First and last name."""
        return f"{self.first_name} {self.last_name}"

    def register(self, plan: str | None = None, expires_at: datetime | None = None) -> RegisterSubscriber:
        """Return the command by which they sign up with Popfax itself, for an account with or without an end."""
        return RegisterSubscriber(
            subscriber_id=self.id,
            email=self.email,
            first_name=self.first_name,
            last_name=self.last_name,
            language=self.language,
            plan=plan,
            expires_at=expires_at,
        )


def _neighbour(other: UUID) -> UUID:
    """Return an id whose group's commands share a partition with another owner's.

    What both send at once is one batch then: neither request can be over before the other begins.
    """
    return next(id_ for id_ in iter(uuid4, None) if _partition(id_) == _partition(other))


def _partition(owner: UUID) -> int:
    return partition_of(str(group_of(owner)), GROUPS_COMMANDS.partitions)


@dataclass(frozen=True)
class Cast:
    """Anne and the people around her; and two more owners, who both want the same colleague."""

    anne: Person = field(default_factory=lambda: Person("Anne", "Martin", "anne@popfax.example", Language.FR))
    paul: Person = field(default_factory=lambda: Person("Paul", "Durand", "paul@popfax.example", Language.FR))
    sam: Person = field(default_factory=lambda: Person("Sam", "Taylor", "sam@branch.example", Language.EN))
    lea: Person = field(default_factory=lambda: Person("Léa", "Novak", "lea@branch.example", Language.FR))
    nora: Person = field(default_factory=lambda: Person("Nora", "Silva", "nora@popfax.example", Language.EN))
    bruno: Person = field(default_factory=lambda: Person("Bruno", "Keller", "bruno@popfax.example", Language.FR))
    chloe: Person = field(init=False)

    def __post_init__(self) -> None:
        """Make the second owner."""
        id_ = _neighbour(self.bruno.id)
        chloe = Person("Chloé", "Weber", "chloe@popfax.example", Language.FR, id_)
        object.__setattr__(self, "chloe", chloe)

    def kim(self, attempt: int) -> Person:
        """Return the colleague whom two owners want at once: a different person at each attempt."""
        return Person("Kim", "Berg", f"kim{attempt or ''}@shared.example", Language.EN)

    def names(self) -> dict[UUID, str]:
        """Return the subscribers' first names by their ids. Sam has none yet: an account will be created for him."""
        return {each.id: each.first_name for each in (self.anne, self.paul, self.nora, self.bruno, self.chloe)}
