"""A cast for what is only looked at."""

from dataclasses import dataclass, field

from popfax_contracts.fields import Language
from tests.e2e.driver import World
from tests.e2e.page.people import Person, give, invite, join, rename, settle_in


@dataclass(frozen=True)
class Cast:
    """Anne, who owns a group and is in another; those in hers; and somebody with nothing yet."""

    anne: Person = field(default_factory=lambda: Person("Anne", "Martin", 440))
    members: tuple[Person, ...] = field(
        default_factory=lambda: (
            Person("Léa", "Novak", 20),
            Person("Jean-Christophe", "de La Tour-d’Auvergne"),
            Person("Sam", "Taylor", 35, Language.EN),
            Person("Chloé", "Weber", 12, expired=True),
            Person("Bruno", "Keller", 80),
        )
    )
    paul: Person = field(default_factory=lambda: Person("Paul", "Durand", 7319))
    nora: Person = field(default_factory=lambda: Person("Nora", "Silva", 3, Language.EN))
    zoe: Person = field(default_factory=lambda: Person("Zoé", "Petit", 45))


def make_cast(world: World) -> Cast:
    """Bring everybody to where they are."""
    cast = Cast()
    settle_in(world, cast.anne, *cast.members, cast.paul, cast.nora, cast.zoe)
    rename(world, cast.anne, "Cabinet Martin")
    join(world, cast.anne, *cast.members)
    give(world, cast.anne, cast.members[:3], 20)
    invite(world, cast.anne, cast.nora)
    join(world, cast.paul, cast.anne)
    rename(world, cast.paul, "Durand & Fils")
    invite(world, cast.nora, cast.anne)
    return cast
