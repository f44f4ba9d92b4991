"""What the demo expects, and what it observed: pure functions over what was read back."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deploy.cli.demo.reading import Balance


@dataclass(frozen=True, slots=True)
class Creation:
    """What was read back of one account creation."""

    types: tuple[str, ...]
    """The messages on Kafka, by short name, in causal order."""
    unhandled: tuple[str, ...]
    """Those that a service should have handled, and has not."""
    code: str | None
    """Why it was refused, None if it was not."""
    saga: str | None
    """The saga's status, None if none was opened."""
    hold: str | None
    """The state of its hold, None if there is none."""
    before: Balance
    after: Balance
    entries: tuple[int, ...]
    """The units of its entries."""
    accounts: int
    """How many accounts have the e-mail address."""
    members: int
    """How many of those are members of this group."""
    fax_number: str | None
    mails: tuple[str, ...]
    """Who got a mail of it, in alphabetical order."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the demo read back."""

    prices: Mapping[str, int]
    """As published on Kafka."""
    known_prices: Mapping[str, int]
    """As groups has learnt them."""
    created: Creation
    short: Creation
    won: Creation
    lost: Creation
    price_created: int
    price_raced: int
    recipients: tuple[str, ...]
    """Who should have got a mail of the creation: the owner and the new member, in alphabetical order."""
    parked: int
    violations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was expected, what was observed, and where it was read."""

    about: str
    what: str
    expected: str
    observed: str
    where: str

    @property
    def ok(self) -> bool:
        """Whether it is as expected."""
        return self.expected == self.observed


CREATION = (
    "create-member-account",
    "reserve-units",
    "units-reserved",
    "provision-account",
    "account-provisioned",
    "capture-hold",
    "hold-captured",
    "member-joined",
    "member-account-created",
)
"""The messages of a creation that nothing stops, in causal order."""

COMPENSATION = (
    "create-member-account",
    "reserve-units",
    "units-reserved",
    "provision-account",
    "account-refused",
    "release-hold",
    "hold-released",
    "member-account-refused",
)
"""The messages of a creation that is refused after its units were held."""


def checks(facts: Facts) -> list[Check]:
    """Compare all that was read back with what the product promises."""
    return [*_created(facts), *_refused(facts), *_compensated(facts), *_overall(facts)]


def _created(facts: Facts) -> Iterator[Check]:
    created, price = facts.created, facts.price_created
    about = "The account that was created"
    paid = Balance(created.before.balance - price, 0)
    yield _check(about, "messages, in order", _messages(CREATION, created.types), "Kafka")
    yield _check(about, "saga", ("completed", created.saga), "groups")
    yield _check(about, "the owner’s units", (paid, created.after), "ledger")
    yield _check(about, "entries", ((-price, price), created.entries), "ledger")
    yield _check(about, "accounts of that address", (1, created.accounts), "provisioning")
    yield _check(about, "has a fax number", (True, created.fax_number is not None), "provisioning")
    yield _check(about, "memberships", (1, created.members), "groups")
    yield _check(about, "mails, one to each", (facts.recipients, created.mails), "mail sink")


def _refused(facts: Facts) -> Iterator[Check]:
    short = facts.short
    about = "The one without enough units"
    yield _check(about, "refused with", ("units_short", short.code), "Kafka")
    yield _check(about, "the owner’s units", (short.before, short.after), "ledger")
    yield _check(about, "entries", ((), short.entries), "ledger")
    yield _check(about, "accounts of that address", (0, short.accounts), "provisioning")


def _compensated(facts: Facts) -> Iterator[Check]:
    won, lost = facts.won, facts.lost
    about = "The two at once"
    paid = Balance(won.before.balance - facts.price_raced, 0)
    yield _check(about, "accounts of that address", (1, won.accounts), "provisioning")
    yield _check(about, "memberships, first and other", ((1, 0), (won.members, lost.members)), "groups")
    yield _check(about, "the first one’s units", (paid, won.after), "ledger")
    yield _check(about, "the other one refused with", ("email_taken", lost.code), "Kafka")
    yield _check(about, "its messages, in order", _messages(COMPENSATION, lost.types), "Kafka")
    yield _check(about, "its hold", ("released", lost.hold), "ledger")
    yield _check(about, "its owner’s units", (lost.before, lost.after), "ledger")


def _overall(facts: Facts) -> Iterator[Check]:
    about = "All of it"
    broken = f"{len(facts.violations)} broken: {'; '.join(facts.violations)}" if facts.violations else "none broken"
    yield _check(about, "prices that groups knows", (facts.prices, facts.known_prices), "Kafka, groups")
    yield _check(about, "messages not handled", ((), _unhandled(facts)), "the inboxes")
    yield _check(about, "messages put aside", (0, facts.parked), "databases")
    yield _check(about, "invariants", ("none broken", broken), "databases")


def _messages(expected: tuple[str, ...], types: tuple[str, ...]) -> tuple[str, str]:
    """Say how many of the expected messages came in their order, and which came that are none of them."""
    observed = tuple(each for each in types if each not in _SIDE)
    if observed == expected:
        return (f"all {len(expected)}", f"all {len(expected)}")
    return (", ".join(expected), _shown(observed))


_SIDE = frozenset({"person-recorded", "password-link-issued"})
"""What a creation brings about and doesn't wait for: these may come anywhere."""


def _unhandled(facts: Facts) -> tuple[str, ...]:
    return tuple(each for c in (facts.created, facts.short, facts.won, facts.lost) for each in c.unhandled)


def _check(about: str, what: str, values: tuple[object, object], where: str) -> Check:
    expected, observed = values
    return Check(about, what, _shown(expected), _shown(observed), where)


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {value[name]}" for name in sorted(value))
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
