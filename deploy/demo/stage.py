"""What every scene needs: to send commands, to follow their effects, and to read back the result."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from rich.text import Text

from deploy.demo.cast import Cast, Person
from deploy.demo.checks import Deed
from deploy.demo.following import Follower, Trail
from deploy.demo.narration import Narrator
from deploy.demo.reading import OWN_ACCOUNTS, Entry, Reader
from deploy.local.process import wait_until
from deploy.operator.cli.auditing import open_snapshots
from deploy.operator.cli.connection import Connection
from deploy.operator.cli.wire import Publisher, Sent
from deploy.operator.invariants import check
from popfax_contracts.ledger import CreditUnits
from popfax_contracts.message import Command, Refusal
from popfax_contracts.topics import Principal

TIMEOUT_S = 20.0
MAIL_TIMEOUT_S = 15.0
QUIET_S = 0.2
"""How long without a message until none is expected any more, in seconds."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A command on behalf of an actor or of nobody, and the messages that show that it is complete."""

    command: Command
    actor: UUID | None
    ends: tuple[str, ...]


class Stage:
    """The running product, and the narrator."""

    def __init__(self, connection: Connection, reader: Reader, narrator: Narrator, cast: Cast) -> None:
        self.connection = connection
        self.reader = reader
        self.tell = narrator
        self.cast = cast
        self.prices: dict[str, int] = {}
        self.follower = Follower(connection, reader)
        self._publisher = Publisher(connection.kafka(Principal.PLATFORM))

    def close(self) -> None:
        """Stop reading."""
        self.follower.close()

    def ask(self, *asked: Ask, in_full: bool = True) -> Trail:
        """Send commands, and wait in silence until they are complete; `in_full`, until no more messages come."""
        sent = self.publish(*((each.command, each.actor) for each in asked))

        def is_done(trail: Trail) -> bool:
            return all(set(each.ends) <= set(trail.types(sent_)) for each, sent_ in zip(asked, sent, strict=True))

        return self.follower.follow(sent, is_done, _silent, TIMEOUT_S, QUIET_S if in_full else 0)

    def publish(self, *commands: tuple[Command, UUID | None]) -> list[Sent]:
        """Publish commands, each on behalf of an actor or of nobody."""
        return self._publisher.publish(*commands)

    def follow(self, sent: Collection[Sent], is_done: Callable[[Trail], bool], aloud: bool) -> Trail:
        """Follow commands; `aloud`, tell each message in full once its effect is visible."""
        trail = self.follower.follow(sent, is_done, self.tell.message if aloud else _silent, TIMEOUT_S, QUIET_S)
        if aloud:
            self.tell.gap()
        return trail

    def tell_some(self, trail: Trail, *types: str) -> None:
        """Tell messages of these types, which were followed in silence, one line each."""
        for seen in trail.seen:
            if seen.short_name in types:
                self.tell.brief(seen, (seen.at - trail.seen[0].at).total_seconds())
        self.tell.gap()

    def sign_up(self, *people: Person, units: int = 0) -> None:
        """Register people whose accounts never end, and let them buy units, in silence."""
        registered = [Ask(each.register(), None, ("subscriber-registered", "person-recorded")) for each in people]
        bought = [Ask(bought_by(each, units), None, ("units-credited",)) for each in people if units]
        self.ask(*registered, *bought, in_full=False)

    def units(self, *people: Person) -> dict[str, int]:
        """Return the available units of each person in the ledger, by first name."""
        return {each.first_name: self.reader.balance(each.id).available for each in people}

    def deed(
        self, trail: Trail, people: Collection[Person], before: Mapping[str, int], movement_id: UUID | None
    ) -> Deed:
        """Read back an action: its messages, its entries, and these people's units before and after it."""
        wait_until(lambda: self._shown(people) == self.units(*people), TIMEOUT_S)
        return Deed(
            types=tuple(seen.short_name for seen in trail.seen),
            unhandled=tuple(trail.unhandled),
            before=before,
            after=self.units(*people),
            shown=self._shown(people),
            entries=tuple(each.units for each in self.reader.entries(movement_id)) if movement_id else (),
        )

    def mails(self, *people: Person) -> list[str]:
        """Return the first name of the recipient of each mail to these people."""
        return [person.first_name for person in people for _ in self.reader.mails_to([person.email])]

    def wait_for_mails(self, count: int, *people: Person) -> None:
        """Wait until `count` mails to these people have arrived, or for as long as a mail may take."""
        wait_until(lambda: len(self.mails(*people)) >= count, MAIL_TIMEOUT_S)

    def show_units(self, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        """Show each person's available units, before and after."""
        rows: list[tuple[object, ...]] = [(name, f"{before[name]} → {after[name]}") for name in after]
        self.tell.table(("who", "units"), rows)

    def show_entries(self, movement_id: UUID | None) -> None:
        """Show the entries of a movement in the ledger."""
        entries = self.reader.entries(movement_id) if movement_id else ()
        rows: list[tuple[object, ...]] = [
            (self._account_name(entry.account_id), f"{entry.units:+d}", _chain(entry)) for entry in entries
        ]
        self.tell.table(("account", "units", "balance"), rows)

    def violations(self) -> tuple[str, ...]:
        """Return the violations once all is settled: mails are recorded a moment after they arrive."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            with open_snapshots(self.connection) as snapshot:
                found = tuple(str(each) for each in check(snapshot, settled=True))
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.2)

    def _shown(self, people: Collection[Person]) -> dict[str, int]:
        return {each.first_name: self.reader.shown(each.id) for each in people}

    def _account_name(self, account_id: UUID) -> str:
        return OWN_ACCOUNTS.get(account_id) or self.tell.names.get(account_id, str(account_id))


def bought_by(person: Person, units: int) -> CreditUnits:
    """Return the command for a purchase of units, for which the platform has been paid."""
    return CreditUnits(credit_id=uuid4(), account_id=person.id, amount_units=units)


def code_of(trail: Trail) -> str | None:
    """Return the code of a refusal, None if nothing was refused."""
    return next((seen.body.code for seen in trail.seen if isinstance(seen.body, Refusal)), None)


def day(moment: datetime | None) -> str:
    """Return a day as text. An account without one never ends."""
    return f"{moment:%Y-%m-%d}" if moment else "ever"


def _chain(entry: Entry) -> str | Text:
    # Popfax's own accounts have no running balance: a row that every movement updates would be a bottleneck.
    return Text("not kept", style="dim") if entry.after is None else f"{entry.before} → {entry.after}"


def _silent(*_: object) -> None:
    """Tell nothing: the messages are told later, together."""
