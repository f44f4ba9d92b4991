"""The story: the product's main job played on the running product, told from what is read back."""

import time
from collections.abc import Callable
from uuid import UUID

from rich.text import Text

from contracts.fields import Language
from contracts.groups import CreateMemberAccount, MemberAccountRefused
from contracts.ledger import CreditUnits
from contracts.message import group_of
from contracts.provisioning import PlanPublished
from contracts.topics import PROVISIONING_PLANS, Principal
from deploy.cli.connection import Connection
from deploy.cli.demo.cast import Cast, Person
from deploy.cli.demo.checks import Creation, Facts
from deploy.cli.demo.following import Follower, Trail
from deploy.cli.demo.narration import Narrator
from deploy.cli.demo.reading import OWN_ACCOUNTS, Balance, Entry, Reader, text_of
from deploy.cli.ledger import facts_of
from deploy.cli.wire import Publisher, Seen, Sent
from deploy.invariants import check
from deploy.local.process import wait_until

PLAN, CHEAP_PLAN = "send_receive", "send_only"
BOUGHT_UNITS = 200
TIMEOUT_S = 20.0
MAIL_TIMEOUT_S = 15.0
ATTEMPTS = 3
"""How often two owners try to be the first at the same moment. On a busy machine one may see the other's account."""


class Story:
    """Plays the scenes in order, and gathers what was observed."""

    def __init__(self, connection: Connection, reader: Reader, narrator: Narrator, cast: Cast) -> None:
        self._connection = connection
        self._reader = reader
        self._tell = narrator
        self._cast = cast
        self._publisher = Publisher(connection.kafka(Principal.PLATFORM))
        self._follower = Follower(connection, reader)
        self._prices: dict[str, int] = {}

    def play(self) -> Facts:
        """Play it all; gives what was read back."""
        try:
            self._catalogue()
            self._owner()
            created = self._creation()
            short = self._too_expensive()
            won, lost = self._two_at_once()
        finally:
            self._follower.close()
        return Facts(
            prices=self._prices,
            known_prices=self._reader.known_prices(),
            created=created,
            short=short,
            won=won,
            lost=lost,
            price_created=self._prices.get(PLAN, 0),
            price_raced=self._prices.get(CHEAP_PLAN, 0),
            recipients=tuple(sorted((self._cast.anne.first_name, self._cast.sam.first_name))),
            parked=self._reader.parked(),
            violations=self._violations(),
        )

    def _catalogue(self) -> None:
        self._tell.scene(1, "What is on sale")
        records = self._follower.records_on(PROVISIONING_PLANS.name, 2, TIMEOUT_S)
        plans = [seen.body for seen in records if isinstance(seen.body, PlanPublished)]
        self._prices = {plan.plan: plan.price_units for plan in plans}
        # A price is published to everybody; groups refuses a plan that it has not heard of.
        wait_until(lambda: self._reader.known_prices() == self._prices, TIMEOUT_S, interval_s=0.05)
        rows: list[tuple[object, ...]] = [
            (plan.plan, f"{plan.price_units} POP", f"{plan.validity_days} days", "yes" if plan.fax_number else "no")
            for plan in sorted(plans, key=lambda plan: -plan.price_units)
        ]
        self._tell.say(f"provisioning publishes its plans on {PROVISIONING_PLANS.name}; groups has read them:")
        self._tell.table(("plan", "price", "for", "own fax number"), rows)

    def _owner(self) -> None:
        anne = self._cast.anne
        self._tell.scene(2, f"{anne.name} signs up, and buys {BOUGHT_UNITS} Pop units")
        self._tell.heading()
        sent = self._publisher.publish((anne.register(), None), (self._credit(anne), None))
        self._follow(sent, lambda trail: {"subscriber-registered", "person-recorded", "units-credited"} <= _said(trail))
        self._tell.say(f"{anne.first_name} owns a group now, and has {self._reader.balance(anne.id)}.")

    def _creation(self) -> Creation:
        anne, sam = self._cast.anne, self._cast.sam
        price = self._prices.get(PLAN, 1)
        self._tell.scene(3, f"{anne.first_name} creates an account for {sam.name}, paid with her own units")
        self._tell.heading()
        before = self._reader.balance(anne.id)
        (sent,) = self._publisher.publish((_create(anne, sam, PLAN, price), anne.id))
        trail = self._follow([sent], lambda trail: {"member-account-created", "password-link-issued"} <= _said(trail))
        wait_until(lambda: len(self._mails(anne, sam)) >= 2, MAIL_TIMEOUT_S)
        creation = self._read_back(sent, trail, anne, sam, before)
        self._show_units(anne, creation)
        self._show_entries(sent)
        self._show_account(anne, sam)
        self._show_mails(anne, sam)
        return creation

    def _too_expensive(self) -> Creation:
        anne, lea = self._cast.anne, self._cast.lea
        price = self._prices.get(PLAN, 1)
        before = self._reader.balance(anne.id)
        self._tell.scene(4, f"One more, for {lea.name}: {price} POP, and {before.available} are left")
        self._tell.heading()
        (sent,) = self._publisher.publish((_create(anne, lea, PLAN, price), anne.id))
        trail = self._follow([sent], lambda trail: "member-account-refused" in _said(trail))
        creation = self._read_back(sent, trail, anne, lea, before)
        self._tell.say(f"Refused with the code {creation.code}. No hold, no account, no entry:")
        self._show_units(anne, creation)
        return creation

    def _two_at_once(self) -> tuple[Creation, Creation]:
        bruno, chloe = self._cast.bruno, self._cast.chloe
        self._tell.scene(5, "Two owners want the same e-mail address at the same moment")
        self._join(bruno, chloe)
        for attempt in range(ATTEMPTS):
            kim = self._cast.kim(attempt)
            before = {owner.id: self._reader.balance(owner.id) for owner in (bruno, chloe)}
            trails, sent = self._race(bruno, chloe, kim)
            codes = [_code(trails, each) for each in sent]
            won, lost = (1, 0) if codes[0] is not None else (0, 1)
            if "units-reserved" in trails.types(sent[lost]) or attempt == ATTEMPTS - 1:
                break
            self._tell.say("One saw the other's account before it asked for anything. Once more, with another address.")
        owners = (bruno, chloe)
        winner, loser = owners[won], owners[lost]
        wait_until(lambda: len(self._mails(winner, kim)) >= 2, MAIL_TIMEOUT_S)
        gained = self._read_back(sent[won], trails, winner, kim, before[winner.id])
        kept = self._read_back(sent[lost], trails, loser, kim, before[loser.id])
        self._show_race(winner, loser, kim, trails.of(sent[lost]), gained, kept)
        return gained, kept

    def _join(self, *owners: Person) -> None:
        commands = [(each.register(), None) for each in owners]
        credits_ = [(self._credit(each), None) for each in owners]
        sent = self._publisher.publish(*commands, *credits_)
        wanted = {str(each.id) for each in sent}
        self._follower.follow(
            sent, lambda trail: wanted <= {s.causation_id for s in trail.seen if s.id not in wanted}, _silent, TIMEOUT_S
        )
        names = " and ".join(owner.name for owner in owners)
        self._tell.say(f"{names} sign up as well, and buy {BOUGHT_UNITS} Pop units each.")

    def _race(self, first: Person, second: Person, wanted: Person) -> tuple[Trail, list[Sent]]:
        price = self._prices.get(CHEAP_PLAN, 1)
        self._tell.say(
            f"Both ask for an account for {wanted.email} ({CHEAP_PLAN}, {price} POP). Nobody has it yet: both requests "
            "are opened, both pay into a hold, and provisioning decides."
        )
        sent = self._publisher.publish(
            *((_create(owner, wanted, CHEAP_PLAN, price), owner.id) for owner in (first, second))
        )
        ends = {"member-account-refused", "member-account-created", "password-link-issued"}
        return self._follower.follow(sent, lambda trail: ends <= _said(trail), _silent, TIMEOUT_S), sent

    def _show_race(
        self, winner: Person, loser: Person, kim: Person, trail: list[Seen], gained: Creation, kept: Creation
    ) -> None:
        self._tell.say(f"{winner.first_name} gets it. What becomes of {loser.first_name}’s request:")
        self._tell.gap()
        self._tell.heading()
        for seen in trail:
            offset = (seen.at - trail[0].at).total_seconds()
            self._tell.message(seen, offset, self._reader.handled_by(seen.id))
        self._tell.gap()
        self._tell.say(
            f"Refused with the code {kept.code}; the hold is {kept.hold}, and {loser.first_name}’s units are whole:"
        )
        rows = [(owner, each) for owner, each in ((winner, gained), (loser, kept))]
        self._tell.table(
            ("units of", "before", "after", "hold"),
            [(owner.first_name, str(each.before), str(each.after), each.hold or "none") for owner, each in rows],
        )

    def _follow(self, sent: list[Sent], ends: Callable[[Trail], bool]) -> Trail:
        trail = self._follower.follow(sent, ends, self._tell.message, TIMEOUT_S)
        self._tell.gap()
        return trail

    def _read_back(self, sent: Sent, trail: Trail, owner: Person, member: Person, before: Balance) -> Creation:
        saga = self._reader.saga(str(sent.id))
        accounts = self._reader.accounts_of(member.email)
        members = self._reader.members_of(owner.id)
        own = {seen.type for seen in trail.of(sent)}
        return Creation(
            types=trail.types(sent),
            unhandled=tuple(each for each in trail.unhandled if any(each in type_ for type_ in own)),
            code=_code(trail, sent),
            saga=saga.status if saga else None,
            hold=self._reader.hold(saga),
            before=before,
            after=self._reader.balance(owner.id),
            entries=tuple(entry.units for entry in self._reader.entries(saga)),
            accounts=len(accounts),
            members=sum(account.id in members for account in accounts),
            fax_number=accounts[0].fax_number if accounts else None,
            mails=tuple(sorted(self._mails(owner, member))),
        )

    def _mails(self, *people: Person) -> list[str]:
        """Give who got a mail, once for each mail."""
        return [person.first_name for person in people for _ in self._reader.mails_to([person.email])]

    def _show_units(self, owner: Person, creation: Creation) -> None:
        rows: list[tuple[object, ...]] = [
            (when, each.balance, each.held, each.available)
            for when, each in (("before", creation.before), ("after", creation.after))
        ]
        self._tell.table((f"{owner.first_name}’s units", "balance", "held", "available"), rows)

    def _show_entries(self, sent: Sent) -> None:
        entries = self._reader.entries(self._reader.saga(str(sent.id)))
        self._tell.gap()
        self._tell.say("The ledger’s entries: what one account loses, another gains.")
        rows: list[tuple[object, ...]] = [
            (self._account_name(entry.account_id), f"{entry.units:+d}", _chain(entry)) for entry in entries
        ]
        self._tell.table(("account", "units", "balance"), rows)

    def _account_name(self, account_id: UUID) -> str:
        return OWN_ACCOUNTS.get(account_id) or self._tell.names.get(account_id, str(account_id))

    def _show_account(self, owner: Person, member: Person) -> None:
        members = self._reader.members_of(owner.id)
        self._tell.gap()
        for account in self._reader.accounts_of(member.email):
            self._tell.names[account.id] = member.first_name
            joined = f"a member of {owner.first_name}’s group" if account.id in members else "no member"
            self._tell.say(
                f"{member.name} has an account: plan {account.plan}, fax number {account.fax_number}, "
                f"until {account.expires_at:%Y-%m-%d}, and is {joined}."
            )

    def _show_mails(self, owner: Person, member: Person) -> None:
        welcome, receipt = self._reader.mails_to([member.email]), self._reader.mails_to([owner.email])
        self._tell.gap()
        for mail in welcome:
            self._tell.say("A mail arrives:")
            self._tell.mail(mail, text_of(mail))
        for mail in receipt:
            self._tell.say(f"And a receipt to {mail['To']}, in {_LANGUAGES[owner.language]}: “{mail['Subject']}”")

    def _credit(self, person: Person) -> CreditUnits:
        # Derived from the person: a purchase that is sent twice is one purchase.
        return CreditUnits(credit_id=group_of(person.id), account_id=person.id, amount_units=BOUGHT_UNITS)

    def _violations(self) -> tuple[str, ...]:
        """Give what is broken once all is settled: mails are recorded a moment after they arrive."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            found = tuple(str(each) for each in check(facts_of(self._connection), settled=True))
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.2)


_LANGUAGES = {Language.FR: "French", Language.EN: "English"}


def _create(owner: Person, member: Person, plan: str, price_units: int) -> CreateMemberAccount:
    return CreateMemberAccount(
        group_id=group_of(owner.id),
        plan=plan,
        price_units=price_units,
        email=member.email,
        first_name=member.first_name,
        last_name=member.last_name,
        language=member.language,
    )


def _said(trail: Trail) -> set[str]:
    return {seen.type.split(".")[2] for seen in trail.seen if seen.type.count(".") >= 2}


def _code(trail: Trail, sent: Sent) -> str | None:
    codes = (seen.body.code for seen in trail.of(sent) if isinstance(seen.body, MemberAccountRefused))
    return next(codes, None)


def _chain(entry: Entry) -> str | Text:
    # Popfax's own accounts keep no running balance: a row that everybody writes would be a bottleneck.
    return Text("not kept", style="dim") if entry.after is None else f"{entry.before} → {entry.after}"


def _silent(*_: object) -> None:
    """Tell nothing: it is told later, in one piece."""
