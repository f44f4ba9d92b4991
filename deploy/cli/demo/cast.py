"""Who plays in the demo."""

from dataclasses import dataclass, field
from uuid import UUID, uuid4

from contracts.fields import Language
from contracts.provisioning import RegisterSubscriber


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

    def register(self) -> RegisterSubscriber:
        """Sign up with Popfax itself."""
        return RegisterSubscriber(
            subscriber_id=self.id,
            email=self.email,
            first_name=self.first_name,
            last_name=self.last_name,
            language=self.language,
        )


@dataclass(frozen=True)
class Cast:
    """The owners, and the colleagues for whom they create accounts."""

    anne: Person = field(default_factory=lambda: Person("Anne", "Martin", "anne@popfax.example", Language.FR))
    bruno: Person = field(default_factory=lambda: Person("Bruno", "Keller", "bruno@popfax.example", Language.FR))
    chloe: Person = field(default_factory=lambda: Person("Chloé", "Weber", "chloe@popfax.example", Language.FR))
    sam: Person = field(default_factory=lambda: Person("Sam", "Taylor", "sam@branch.example", Language.EN))
    lea: Person = field(default_factory=lambda: Person("Léa", "Novak", "lea@branch.example", Language.FR))

    def kim(self, attempt: int) -> Person:
        """Give the colleague whom two owners want at once; somebody else at each attempt."""
        return Person("Kim", "Berg", f"kim{attempt or ''}@shared.example", Language.EN)

    def names(self) -> dict[UUID, str]:
        """Give the owners' first names by their ids."""
        return {person.id: person.first_name for person in (self.anne, self.bruno, self.chloe)}
