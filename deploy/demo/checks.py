"""What the demo expects and what it observed: pure functions of what was read back."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from deploy.demo.cast import CHEAP_PLAN, FAX_UNITS, GROUP_NAME, PLAN, SHARED_UNITS, SMS_UNITS
from deploy.demo.reading import Balance
from popfax_contracts.dates import months_later


@dataclass(frozen=True, slots=True)
class Creation:
    """What was read back of one account creation."""

    types: tuple[str, ...]
    """The messages on Kafka, by short name, in causal order."""
    unhandled: tuple[str, ...]
    """The messages that a service should have handled but has not."""
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
    """How many of those accounts are members of this group."""
    fax_number: str | None
    mails: tuple[str, ...]
    """Who got a mail about it, in alphabetical order."""


@dataclass(frozen=True, slots=True)
class Deed:
    """What was read back of any action but a creation. Units are available units, by first name."""

    types: tuple[str, ...]
    unhandled: tuple[str, ...]
    before: Mapping[str, int]
    after: Mapping[str, int]
    shown: Mapping[str, int]
    """As groups shows them to an owner."""
    entries: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Joining:
    """What was read back of an invitation, which was made, mailed and then accepted."""

    asked: Deed
    token: bool
    """Whether the mail has a token."""
    invited: tuple[str, ...]
    """The states of all invitations of that subscriber once the mail has arrived ..."""
    was_member: bool
    answered: Deed
    ended: tuple[str, ...]
    """... and once the invitation is answered."""
    is_member: bool


@dataclass(frozen=True, slots=True)
class Offer:
    """What was read back of an invitation to an address that nobody has."""

    types: tuple[str, ...]
    prices: Mapping[str, int]
    accounts: int


@dataclass(frozen=True, slots=True)
class Extension:
    """What was read back of an account that was extended."""

    deed: Deed
    before: datetime | None
    after: datetime | None


@dataclass(frozen=True, slots=True)
class Parting:
    """What was read back of a detached member."""

    deed: Deed
    members: tuple[str, ...]
    """Who is still a member."""
    states: tuple[str, ...]
    """The account's state in provisioning, groups and the ledger."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """What was read back of an account that expired and was extended."""

    told: tuple[str, ...]
    """The events that the timer published."""
    expired: tuple[str, ...]
    """The account's states when expired ..."""
    code: str | None
    """The code with which a purchase is then refused ..."""
    given: Deed
    """... the units that it can receive nevertheless ..."""
    extension: Extension
    active: tuple[str, ...]
    """... and the states after the extension."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the history."""

    what: str
    who: str
    whom: str
    units: int | None
    outcome: str

    def __str__(self) -> str:
        units = "" if self.units is None else f" {self.units}"
        return f"{self.who} {self.what} {self.whom}{units} {self.outcome}"


@dataclass(frozen=True, slots=True)
class Observations:
    """Everything that the demo read back."""

    prices: Mapping[str, int]
    """The prices published on Kafka."""
    known_prices: Mapping[str, int]
    """The prices that groups has learnt."""
    validity_months: int
    """The cheap plan's validity, as published."""
    owner_name: str
    group_names: tuple[str | None, str | None]
    """The name of Anne's group before and after it was renamed."""
    joined: Joining
    offered: Offer
    created: Creation
    short: Creation
    won: Creation
    lost: Creation
    shared: Deed
    spent: Deed
    topped_up: Deed
    extended: Extension
    detached: Parting
    expired: Expiry
    history: tuple[Line, ...]
    members: tuple[str, ...]
    """Who is in Anne's group, according to the topic of memberships read from its start."""
    agree: bool
    """Whether that topic and groups' database have the same memberships, of all groups."""
    mails: Mapping[str, int]
    """How many mails each person received."""
    recipients: tuple[str, ...]
    """Who should have got a mail about the creation: the owner and the new member, in alphabetical order."""
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
"""The messages of a successful creation, in causal order."""

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


INVITATION = ("invite-by-email", "invitation-sent", "send-invitation")
ACCEPTANCE = ("accept-invitation", "invitation-accepted", "member-joined", "membership-recorded")
OFFER = ("invite-by-email", "account-creation-required")
TRANSFER = ("transfer-units", "post-transfers", "transfers-posted", "units-transferred")
SPENDING = ("spend-units", "units-spent") * 2
EXTENSION = (
    "extend-account",
    "reserve-units",
    "units-reserved",
    "capture-hold",
    "hold-captured",
    "account-extended",
)
DETACHMENT = ("detach-members", "members-detached", "member-left", "membership-ended")
"""The messages of the other actions. Those of one cause on different topics are in no particular order."""

MAILS = {"Anne": 7, "Paul": 4, "Sam": 3, "Nora": 4, "Léa": 0}
"""How many mails each should have got.

Anne: three receipts of transfers and one of a creation, two have accepted, one was detached. Paul and Nora: an
invitation and an extension each, units twice for him and once for her, whose account expired. Sam: welcome, units, and
that he was detached.
"""

STATES = 3
"""How many services keep an account's state."""


def checks(observed: Observations) -> list[Check]:
    """Compare everything that was read back with what the product promises."""
    return [
        *_grouped(observed),
        *_created(observed),
        *_refused(observed),
        *_compensated(observed),
        *_shared(observed),
        *_spent(observed),
        *_extended(observed),
        *_detached(observed),
        *_expired(observed),
        *_overall(observed),
    ]


def _grouped(observed: Observations) -> Iterator[Check]:
    about, joined, offered = "The group and its invitations", observed.joined, observed.offered
    names = (observed.owner_name, GROUP_NAME)
    yield _check(about, "its name, before and after", (names, observed.group_names), "groups")
    yield _check(about, "messages of the invitation", _same(INVITATION, joined.asked.types), "Kafka")
    yield _check(about, "mailed with a token", (True, joined.token), "mail sink")
    opened = (("pending", False), (*joined.invited, joined.was_member))
    yield _check(about, "a member by the mail alone", opened, "groups")
    yield _check(about, "messages of the answer", _same(ACCEPTANCE, joined.answered.types), "Kafka")
    ended = (("accepted", True), (*joined.ended, joined.is_member))
    yield _check(about, "a member by the answer", ended, "groups")
    yield _check(about, "messages, address unknown", _same(OFFER, offered.types), "Kafka")
    yield _check(about, "the prices that they tell", (observed.prices, offered.prices), "Kafka")
    yield _check(about, "accounts of that address", (0, offered.accounts), "provisioning")


def _created(observed: Observations) -> Iterator[Check]:
    created, price = observed.created, observed.prices.get(PLAN, 0)
    about = "The account that was created"
    paid = Balance(created.before.balance - price, 0)
    yield _check(about, "messages, in order", _messages(CREATION, created.types), "Kafka")
    yield _check(about, "saga", ("completed", created.saga), "groups")
    yield _check(about, "the owner’s units", (paid, created.after), "ledger")
    yield _check(about, "entries", ((-price, price), created.entries), "ledger")
    yield _check(about, "accounts of that address", (1, created.accounts), "provisioning")
    yield _check(about, "has a fax number", (True, created.fax_number is not None), "provisioning")
    yield _check(about, "memberships", (1, created.members), "groups")
    yield _check(about, "mails, one to each", (observed.recipients, created.mails), "mail sink")


def _refused(observed: Observations) -> Iterator[Check]:
    short = observed.short
    about = "The one without enough units"
    yield _check(about, "refused with", ("units_short", short.code), "Kafka")
    yield _check(about, "the owner’s units", (short.before, short.after), "ledger")
    yield _check(about, "entries", ((), short.entries), "ledger")
    yield _check(about, "accounts of that address", (0, short.accounts), "provisioning")


def _compensated(observed: Observations) -> Iterator[Check]:
    won, lost = observed.won, observed.lost
    about = "The two at once"
    paid = Balance(won.before.balance - observed.prices.get(CHEAP_PLAN, 0), 0)
    yield _check(about, "accounts of that address", (1, won.accounts), "provisioning")
    yield _check(about, "memberships, first and other", ((1, 0), (won.members, lost.members)), "groups")
    yield _check(about, "the first one’s units", (paid, won.after), "ledger")
    yield _check(about, "the other one refused with", ("email_taken", lost.code), "Kafka")
    yield _check(about, "its messages, in order", _messages(COMPENSATION, lost.types), "Kafka")
    yield _check(about, "its hold", ("released", lost.hold), "ledger")
    yield _check(about, "its owner’s units", (lost.before, lost.after), "ledger")


def _shared(observed: Observations) -> Iterator[Check]:
    shared, topped_up = observed.shared, observed.topped_up
    about = "Units for all, then topped up"
    got = ("units-received",)
    yield _check(about, "messages of the transfer", _same((*TRANSFER, *got, *got), shared.types), "Kafka")
    each = {"Anne": -2 * SHARED_UNITS, "Paul": SHARED_UNITS, "Sam": SHARED_UNITS}
    yield _check(about, "units after the transfer", (_changed(shared.before, each), shared.after), "ledger")
    entries = (-2 * SHARED_UNITS, SHARED_UNITS, SHARED_UNITS)
    yield _check(about, "entries, one for each", (entries, shared.entries), "ledger")
    yield _check(about, "what the owner is shown", (shared.after, shared.shown), "groups")
    yield _check(about, "messages of the top-up", _same((*TRANSFER, *got), topped_up.types), "Kafka")
    missing = SHARED_UNITS - topped_up.before.get("Paul", 0)
    each = {"Anne": -missing, "Paul": missing}
    yield _check(about, "units after the top-up", (_changed(topped_up.before, each), topped_up.after), "ledger")
    yield _check(about, "entries, none for Sam", ((-missing, missing), topped_up.entries), "ledger")


def _spent(observed: Observations) -> Iterator[Check]:
    about, spent = "A fax and a text message", observed.spent
    yield _check(about, "messages", _same(SPENDING, spent.types), "Kafka")
    left = _changed(spent.before, {"Paul": -FAX_UNITS - SMS_UNITS})
    yield _check(about, "the member’s units", (left, spent.after), "ledger")
    yield _check(about, "what the owner is shown", (left, spent.shown), "groups")
    paid = (-FAX_UNITS, FAX_UNITS, -SMS_UNITS, SMS_UNITS)
    yield _check(about, "entries", (paid, spent.entries), "ledger")


def _extended(observed: Observations) -> Iterator[Check]:
    about, extended, price = "One more year", observed.extended, observed.prices.get(CHEAP_PLAN, 0)
    deed = extended.deed
    yield _check(about, "messages, in order", _messages(EXTENSION, deed.types), "Kafka")
    yield _check(about, "the member’s units", (_changed(deed.before, {"Paul": -price}), deed.after), "ledger")
    yield _check(about, "entries", ((-price, price), deed.entries), "ledger")
    ends = (_end_of(extended, observed.validity_months), extended.after)
    yield _check(about, "its end, a year later", ends, "provisioning")


def _detached(observed: Observations) -> Iterator[Check]:
    about, parting = "The member who was detached", observed.detached
    yield _check(about, "messages", _same(DETACHMENT, parting.deed.types), "Kafka")
    yield _check(about, "who is left", (("Paul",), parting.members), "groups")
    kept = {"Sam": SHARED_UNITS}
    yield _check(about, "units that stay theirs", (kept, parting.deed.after), "ledger")
    yield _check(about, "their account", (("active",) * STATES, parting.states), _STATES_FROM)


def _expired(observed: Observations) -> Iterator[Check]:
    about, expired, price = "The account that ended", observed.expired, observed.prices.get(CHEAP_PLAN, 0)
    given, deed = expired.given, expired.extension.deed
    yield _check(about, "told by its timer", (("account-expired",), expired.told), "Kafka")
    yield _check(about, "its state then", (("expired",) * STATES, expired.expired), _STATES_FROM)
    yield _check(about, "a text message refused with", ("account_expired", expired.code), "Kafka")
    got = _changed(given.before, {"Anne": -price, "Nora": price})
    yield _check(about, "units given to it", (got, given.after), "ledger")
    yield _check(about, "messages of the extension", _messages(EXTENSION, deed.types), "Kafka")
    yield _check(about, "units after it", (_changed(deed.before, {"Nora": -price}), deed.after), "ledger")
    later, after = _end_of(expired.extension, observed.validity_months), expired.extension.after
    lasts = later is not None and after is not None and after > later
    yield _check(about, "a year from that moment", (True, lasts), "provisioning")
    yield _check(about, "its state after it", (("active",) * STATES, expired.active), _STATES_FROM)


def _overall(observed: Observations) -> Iterator[Check]:
    about = "All of it"
    broken = (
        f"{len(observed.violations)} broken: {'; '.join(observed.violations)}" if observed.violations else "none broken"
    )
    yield _check(about, "prices that groups knows", (observed.prices, observed.known_prices), "Kafka, groups")
    yield _check(about, "lines of the history", _same(history(observed.prices), observed.history), "groups")
    yield _check(about, "members, read from the start", (("Nora", "Paul"), observed.members), "Kafka")
    yield _check(about, "and as the database has them", (True, observed.agree), "Kafka, groups")
    yield _check(about, "mails", (MAILS, observed.mails), "mail sink")
    yield _check(about, "messages not handled", ((), _unhandled(observed)), "their offsets")
    yield _check(about, "messages put aside", (0, observed.parked), "databases")
    yield _check(about, "invariants", ("none broken", broken), "databases")


def history(prices: Mapping[str, int]) -> tuple[Line, ...]:
    """Return what the history of Anne's group should say."""
    price, cheap = prices.get(PLAN, 0), prices.get(CHEAP_PLAN, 0)
    return (
        Line("name", "Anne", "", None, "renamed"),
        Line("invitation", "Anne", "Paul", None, "accepted"),
        Line("membership", "Paul", "Paul", None, "active"),
        Line("account", "Anne", "Sam", price, "created"),
        Line("membership", "Anne", "Sam", None, "detached"),
        Line("account", "Anne", "", price, "refused"),
        Line("transfer", "Anne", "Paul", SHARED_UNITS, "done"),
        Line("transfer", "Anne", "Sam", SHARED_UNITS, "done"),
        Line("transfer", "Anne", "Paul", FAX_UNITS + SMS_UNITS, "done"),
        Line("transfer", "Anne", "Sam", 0, "done"),
        Line("invitation", "Anne", "Nora", None, "accepted"),
        Line("membership", "Nora", "Nora", None, "active"),
        Line("transfer", "Anne", "Nora", cheap, "done"),
    )


_STATES_FROM = "three databases"


def _messages(expected: tuple[str, ...], types: tuple[str, ...]) -> tuple[str, str]:
    """Return texts of the expected and the observed messages, which are equal if all came, in order."""
    observed = tuple(each for each in types if each not in _SIDE)
    if observed == expected:
        return (f"all {len(expected)}", f"all {len(expected)}")
    return (", ".join(expected), _shown(observed))


def _same(expected: tuple[object, ...], came: tuple[object, ...]) -> tuple[str, str]:
    """Return texts of what was expected and observed, in any order: equal if the same, or what is missing and extra."""
    wanted, observed = Counter(map(str, expected)), Counter(str(each) for each in came if each not in _UNCOUNTED)
    if wanted == observed:
        return (f"all {len(expected)}", f"all {len(expected)}")
    missing, more = (wanted - observed).elements(), (observed - wanted).elements()
    return (f"all {len(expected)}", f"without {_shown(tuple(missing))}; also {_shown(tuple(more))}")


_UNCOUNTED = frozenset({"balance-changed"})
"""A batch publishes only the last of several changes of a balance, so balances are checked where they arrive."""

_SIDE = _UNCOUNTED | {"person-recorded", "password-link-issued", "membership-recorded"}
"""Accompanying messages on other topics, which may come anywhere among the rest."""


def _changed(before: Mapping[str, int], by: Mapping[str, int]) -> dict[str, int]:
    return {name: units + by.get(name, 0) for name, units in before.items()}


def _end_of(extension: Extension, months: int) -> datetime | None:
    """Return the end of an extension that begins at the old end."""
    return extension.before and months_later(extension.before, months)


def _unhandled(observed: Observations) -> tuple[str, ...]:
    deeds: tuple[Creation | Deed, ...] = (
        observed.joined.asked,
        observed.joined.answered,
        observed.created,
        observed.short,
        observed.won,
        observed.lost,
        observed.shared,
        observed.spent,
        observed.topped_up,
        observed.extended.deed,
        observed.detached.deed,
        observed.expired.given,
        observed.expired.extension.deed,
    )
    return tuple(each for deed in deeds for each in deed.unhandled)


def _check(about: str, what: str, values: tuple[object, object], where: str) -> Check:
    expected, observed = values
    return Check(about, what, _shown(expected), _shown(observed), where)


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {value[name]}" for name in sorted(value))
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else str(value)
