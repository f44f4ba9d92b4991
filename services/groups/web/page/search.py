"""Which members the page shows: all of it stands in the address, and in every form that goes on from there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from services.groups.web.members import Direction, MemberFilter, MemberSort, Wanted

FIELDS = ("search", "show", "sort", "direction", "page")
"""As they are called in an address. The filter of the history has taken the other name."""

MEMBERS_SHOWN = 50
"""How many members are on a page."""

INVITED = "invited"
SHOWN = (*(each.value for each in MemberFilter), INVITED)
_MOST_PAGES = 100_000


@dataclass(frozen=True, slots=True)
class Search:
    """What the visitor looks for, how it is sorted, and the page. With `invited`, it is who has not answered yet."""

    wanted: Wanted = field(default_factory=Wanted)
    invited: bool = False
    page: int = 1

    @property
    def fields(self) -> dict[str, str]:
        """Return what differs from how the page begins."""
        given = {
            "search": self.wanted.search,
            "show": INVITED if self.invited else self.wanted.filter.value,
            "sort": self.wanted.sort.value,
            "direction": self.wanted.direction.value,
            "page": str(self.page),
        }
        return {name: value for name, value in given.items() if value != _DEFAULTS[name]}

    @property
    def is_narrow(self) -> bool:
        """Return whether somebody may be left out."""
        return self.invited or bool(self.wanted.words) or self.wanted.filter is not MemberFilter.ALL

    @property
    def skipped(self) -> int:
        """Return how many members are on the pages before."""
        return (self.page - 1) * MEMBERS_SHOWN

    def address(self, **changed: object) -> str:
        """Return the query of an address: of this, with other values for some fields. A page is of one list."""
        fields = {**self.fields, "page": "1", **{name: str(value) for name, value in changed.items()}}
        return urlencode({name: value for name, value in fields.items() if value != _DEFAULTS[name]})

    def by(self, sort: str) -> str:
        """Return the query of the same list, sorted by something else; or the other way round, if it is by that."""
        turned = sort == self.wanted.sort and self.wanted.direction is Direction.ASCENDING
        return self.address(sort=sort, direction=(Direction.DESCENDING if turned else Direction.ASCENDING).value)


_DEFAULTS: Mapping[str, str] = {"search": "", "show": "all", "sort": "name", "direction": "asc", "page": "1"}


def read_search(given: Mapping[str, str]) -> Search:
    """Read an address, or a form. Whatever is not understood is as the page begins."""
    values = {name: given.get(name, "").strip() or default for name, default in _DEFAULTS.items()}
    show, sort, direction, page = values["show"], values["sort"], values["direction"], values["page"]
    invited = show == INVITED
    return Search(
        Wanted(
            search=values["search"][:100],
            filter=MemberFilter(show) if show in set(MemberFilter) else MemberFilter.ALL,
            sort=MemberSort(sort) if sort in set(MemberSort) else MemberSort.NAME,
            direction=Direction(direction) if direction in set(Direction) else Direction.ASCENDING,
        ),
        invited,
        int(page) if page.isascii() and page.isdigit() and len(page) < 10 and 1 <= int(page) <= _MOST_PAGES else 1,
    )
