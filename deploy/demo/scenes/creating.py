"""The main scene: an owner creates an account and pays for it. It succeeds once and is refused twice."""

from uuid import UUID

from deploy.demo.cast import BOUGHT_UNITS, CHEAP_PLAN, PLAN, Person
from deploy.demo.checks import Creation
from deploy.demo.following import Trail
from deploy.demo.reading import Balance, text_of
from deploy.demo.stage import Stage, day
from deploy.operator.cli.wire import Seen, Sent
from popfax_contracts.fields import Language
from popfax_contracts.groups import CreateMemberAccount, MemberAccountRefused
from popfax_contracts.message import group_of

ATTEMPTS = 3
"""How often two owners try to create an account at once. On a busy machine one may be late and see the other's."""

_LANGUAGES = {Language.FR: "French", Language.EN: "English"}


def creation(stage: Stage) -> Creation:
    """Let Anne create Sam's account, told in full."""
    anne, sam = stage.cast.anne, stage.cast.sam
    stage.tell.scene(f"So she creates an account for {sam.name}, paid with her own units")
    stage.tell.heading()
    before = stage.reader.balance(anne.id)
    (sent,) = stage.publish((_create(stage, anne, sam, PLAN), anne.id))
    ends = {"member-account-created", "membership-recorded", "password-link-issued"}
    trail = stage.follow([sent], lambda trail: ends <= set(trail.types(sent)), aloud=True)
    stage.wait_for_mails(3, anne, sam)  # Anne's first mail said that Paul had accepted
    found = _read_back(stage, sent, trail, anne, sam, before)
    _show_balance(stage, anne, found)
    stage.tell.gap()
    stage.tell.say("The ledger’s entries: what one account loses, another gains.")
    stage.show_entries(_hold_of(stage, sent))
    _show_account(stage, anne, sam)
    _show_mails(stage, anne, sam)
    return found


def too_expensive(stage: Stage) -> Creation:
    """Let Anne create an account that she can't pay for."""
    anne, lea = stage.cast.anne, stage.cast.lea
    before = stage.reader.balance(anne.id)
    price = stage.prices.get(PLAN, 1)
    stage.tell.scene(f"One more, for {lea.name}: {price} POP, and {before.available} are left")
    (sent,) = stage.publish((_create(stage, anne, lea, PLAN), anne.id))
    trail = stage.follow([sent], lambda trail: "member-account-refused" in trail.types(sent), aloud=False)
    stage.tell_some(trail, "create-member-account", "reserve-units", "units-refused", "member-account-refused")
    found = _read_back(stage, sent, trail, anne, lea, before)
    stage.tell.say(f"Refused with the code {found.code}. No hold, no account, no entry:")
    _show_balance(stage, anne, found)
    return found


def two_at_once(stage: Stage) -> tuple[Creation, Creation]:
    """Let two owners create an account with one address at once; return the winner's creation and the other's."""
    bruno, chloe = stage.cast.bruno, stage.cast.chloe
    stage.tell.scene("Elsewhere, two owners want the same e-mail address at the same moment")
    stage.sign_up(bruno, chloe, units=BOUGHT_UNITS)
    stage.tell.say(f"{bruno.name} and {chloe.name} have signed up as well, and bought {BOUGHT_UNITS} Pop units each.")
    for attempt in range(ATTEMPTS):
        kim = stage.cast.kim(attempt)
        before = {owner.id: stage.reader.balance(owner.id) for owner in (bruno, chloe)}
        trails, sent = _race(stage, bruno, chloe, kim)
        codes = [_code(trails, each) for each in sent]
        won, lost = (1, 0) if codes[0] is not None else (0, 1)
        if "units-reserved" in trails.types(sent[lost]) or attempt == ATTEMPTS - 1:
            break
        stage.tell.say("One saw the other's account before it asked for anything. Once more, with another address.")
    owners = (bruno, chloe)
    winner, loser = owners[won], owners[lost]
    stage.wait_for_mails(2, winner, kim)
    gained = _read_back(stage, sent[won], trails, winner, kim, before[winner.id])
    kept = _read_back(stage, sent[lost], trails, loser, kim, before[loser.id])
    _show_race(stage, winner, loser, trails.of(sent[lost]), gained, kept)
    for account in stage.reader.accounts_of(kim.email):
        stage.tell.names[account.id] = kim.first_name
    return gained, kept


def _race(stage: Stage, first: Person, second: Person, wanted: Person) -> tuple[Trail, list[Sent]]:
    price = stage.prices.get(CHEAP_PLAN, 1)
    stage.tell.say(
        f"Both ask for an account for {wanted.email} ({CHEAP_PLAN}, {price} POP). Nobody has it yet: both requests "
        "are opened, both pay into a hold, and provisioning decides."
    )
    sent = stage.publish(*((_create(stage, owner, wanted, CHEAP_PLAN), owner.id) for owner in (first, second)))
    ends = {"member-account-refused", "member-account-created", "password-link-issued"}
    return stage.follow(sent, lambda trail: ends <= {seen.short_name for seen in trail.seen}, aloud=False), sent


def _show_race(
    stage: Stage, winner: Person, loser: Person, trail: list[Seen], gained: Creation, kept: Creation
) -> None:
    stage.tell.say(f"{winner.first_name} gets it. What becomes of {loser.first_name}’s request:")
    stage.tell.gap()
    for seen in trail:
        if seen.short_name != "balance-changed":
            stage.tell.brief(seen, (seen.at - trail[0].at).total_seconds())
    stage.tell.gap()
    stage.tell.say(
        f"Refused with the code {kept.code}; the hold is {kept.hold}, and {loser.first_name}’s units are whole:"
    )
    rows = [(owner, each) for owner, each in ((winner, gained), (loser, kept))]
    stage.tell.table(
        ("units of", "before", "after", "hold"),
        [(owner.first_name, str(each.before), str(each.after), each.hold or "none") for owner, each in rows],
    )


def _read_back(stage: Stage, sent: Sent, trail: Trail, owner: Person, member: Person, before: Balance) -> Creation:
    reader, id_ = stage.reader, _hold_of(stage, sent)
    saga = reader.saga(str(sent.id))
    accounts = reader.accounts_of(member.email)
    members = reader.members_of(owner.id)
    own = {seen.type for seen in trail.of(sent)}
    return Creation(
        types=trail.types(sent),
        unhandled=tuple(each for each in trail.unhandled if any(each in type_ for type_ in own)),
        code=_code(trail, sent),
        saga=saga.status if saga else None,
        hold=reader.hold(saga),
        before=before,
        after=reader.balance(owner.id),
        entries=tuple(entry.units for entry in reader.entries(id_)) if id_ else (),
        accounts=len(accounts),
        members=sum(account.id in members for account in accounts),
        fax_number=accounts[0].fax_number if accounts else None,
        mails=tuple(sorted(_mails_about(stage, owner, member))),
    )


def _mails_about(stage: Stage, owner: Person, member: Person) -> list[str]:
    """Return who got a mail about a creation: the member for each mail, the owner for those that name the member."""
    receipts = [mail for mail in stage.reader.mails_to([owner.email]) if member.name in str(mail["Subject"])]
    return [*stage.mails(member), *(owner.first_name for _ in receipts)]


def _hold_of(stage: Stage, sent: Sent) -> UUID | None:
    """Return the id of a creation's hold: its saga's."""
    saga = stage.reader.saga(str(sent.id))
    return saga.id if saga else None


def _show_balance(stage: Stage, owner: Person, found: Creation) -> None:
    rows: list[tuple[object, ...]] = [
        (when, each.balance, each.held, each.available)
        for when, each in (("before", found.before), ("after", found.after))
    ]
    stage.tell.table((f"{owner.first_name}’s units", "balance", "held", "available"), rows)


def _show_account(stage: Stage, owner: Person, member: Person) -> None:
    members = stage.reader.members_of(owner.id)
    stage.tell.gap()
    for account in stage.reader.accounts_of(member.email):
        stage.tell.names[account.id] = member.first_name
        joined = f"a member of {owner.first_name}’s group" if account.id in members else "no member"
        stage.tell.say(
            f"{member.name} has an account: plan {account.plan}, fax number {account.fax_number}, until "
            f"{day(account.expires_at)}, and is {joined}."
        )


def _show_mails(stage: Stage, owner: Person, member: Person) -> None:
    stage.tell.gap()
    for mail in stage.reader.mails_to([member.email]):
        stage.tell.say("A mail arrives:")
        stage.tell.mail(mail, text_of(mail))
    for mail in stage.reader.mails_to([owner.email]):
        if member.name in str(mail["Subject"]):
            language = _LANGUAGES[owner.language]
            stage.tell.say(f"And a receipt to {mail['To']}, in {language}: “{mail['Subject']}”")


def _code(trail: Trail, sent: Sent) -> str | None:
    codes = (seen.body.code for seen in trail.of(sent) if isinstance(seen.body, MemberAccountRefused))
    return next(codes, None)


def _create(stage: Stage, owner: Person, member: Person, plan: str) -> CreateMemberAccount:
    return CreateMemberAccount(
        group_id=group_of(owner.id),
        plan=plan,
        price_units=stage.prices.get(plan, 1),
        email=member.email,
        first_name=member.first_name,
        last_name=member.last_name,
        language=member.language,
    )
