"""Accounts in provisioning, and what the other services know about them and their holders."""

from collections.abc import Iterable, Iterator
from uuid import UUID

from deploy.operator.invariants.invariant import Invariant, Violation
from deploy.operator.invariants.purchases import is_done, is_given
from deploy.operator.invariants.rows import Group, by, each, in_order, merge_join, only
from deploy.operator.invariants.sagas import id_in
from deploy.operator.invariants.snapshot import Lateness, ProvisioningSnapshot, Snapshot
from services.chassis.sagas import SagaRow
from services.groups import domain as groups
from services.ledger.domain import Account
from services.notifications.domain import UNDONE, Mail, Person
from services.provisioning.domain import (
    MILESTONES_DAYS,
    AccountState,
    Action,
    Address,
    FaxNumber,
    Grant,
    NumberState,
    Option,
    Plan,
    Purchase,
    Request,
    Subscriber,
)


def check_accounts(snapshot: Snapshot, late: Lateness) -> Iterator[Violation]:
    """Check provisioning's rows against each other and against the other services' rows."""
    own = snapshot.provisioning
    yield from each(
        merge_join(
            by(own.subscribers, "id"),
            by(own.requests, "account_id"),
            by(own.purchases, "account_id"),
            by(own.grants, "account_id"),
            in_order((account, saga) for saga in own.sagas if (account := id_in(saga, "account_id")) is not None),
            by(own.addresses, "subscriber_id"),
            by(own.fax_numbers, "subscriber_id"),
        ),
        _account,
    )
    yield from each(_shared(own, "email"), _twice, Invariant.EMAIL_TWICE)
    yield from each(_shared(own, "fax_number"), _twice, Invariant.FAX_NUMBER_TWICE)
    yield from each(merge_join(by(own.plans, "plan"), by(snapshot.groups.plans, "plan")), _plan, late)
    yield from each(merge_join(by(own.options, "option"), by(snapshot.groups.options, "option")), _option, late)
    yield from each(merge_join(by(own.plans, "plan"), by(own.subscribers, "plan")), _on_sale)
    yield from each(
        merge_join(
            by(own.subscribers, "id"),
            by(snapshot.ledger.accounts, "id"),
            by(snapshot.groups.subscribers, "id"),
            by(snapshot.groups.groups, "owner_id"),
            by(snapshot.notifications.people, "id"),
            _undone(snapshot.notifications.mails, "recipient_id"),
            _undone(snapshot.notifications.mails, "about_id"),
        ),
        _known,
        late,
    )


def _shared(own: ProvisioningSnapshot, column: str) -> Iterator[Group]:
    return merge_join(by(own.subscribers, column))


def _twice(_: str, subscribers: Iterator[Subscriber], code: Invariant) -> Iterator[Violation]:
    """Say how many subscribers share an address or a number, without naming it."""
    ids = [subscriber.id for subscriber in subscribers]
    if len(ids) > 1:
        yield Violation(code, str(ids[0]), f"and {', '.join(map(str, ids[1:4]))}: {len(ids)} subscribers have the same")


# --- provisioning alone ---


def _account(
    id_: UUID,
    subscribers: Iterator[Subscriber],
    requests: Iterator[Request],
    purchases: Iterator[Purchase],
    grants: Iterator[Grant],
    sagas: Iterator[SagaRow],
    addresses: Iterator[Address],
    numbers: Iterator[FaxNumber],
) -> Iterator[Violation]:
    account = only(subscribers)
    granted = [request for request in requests if request.code is None]
    given: list[Purchase | Grant] = [*_given(purchases, sagas), *(grant for grant in grants if grant.code is None)]
    emails, assigned = [address.email for address in addresses], [number.number for number in numbers]
    if account is None:
        if granted:
            yield Violation(Invariant.REQUEST_MISMATCH, str(id_), "granted, and there is no account")
        if emails:
            yield Violation(
                Invariant.ADDRESS_MISMATCH, str(id_), "an address is taken in its name, and there is no account"
            )
        if assigned:
            yield Violation(
                Invariant.FAX_NUMBER_MISMATCH, str(id_), "a number is assigned to it, and there is no account"
            )
        return
    yield from _begun(account, granted)
    if emails != ([account.email] if account.email is not None else []):  # a closed account has none
        yield Violation(
            Invariant.ADDRESS_MISMATCH, str(id_), f"{len(emails)} addresses are taken in its name, not its own"
        )
    if assigned != ([account.fax_number] if account.fax_number is not None else []):
        detail = f"has {account.fax_number}, and {assigned} are assigned to it"
        yield Violation(Invariant.FAX_NUMBER_MISMATCH, str(id_), detail)
    yield from _itself(account)
    packs = sum(each.action is Action.OPTIONS_PACK for each in given)
    if packs != account.options_pack:
        detail = f"bought {packs} times, and the account {'has' if account.options_pack else 'does not have'} it"
        yield Violation(Invariant.OPTIONS_MISMATCH, str(id_), detail)
    if (wrong := _ends_otherwise(account, granted, given)) is not None:
        yield Violation(Invariant.EXTENSION_MISMATCH, str(id_), wrong)


def _itself(account: Subscriber) -> Iterator[Violation]:
    id_, closed = str(account.id), account.state is AccountState.CLOSED
    if closed and any((*_who(account), account.forward_to)):
        yield Violation(Invariant.NOT_ERASED, id_, "closed, and provisioning knows whose it was")
    if closed is (account.closed_at is None):
        yield Violation(Invariant.STATE_MISMATCH, id_, f"{account.state}, and closed at {account.closed_at}")
    if account.reminded_days not in (None, *MILESTONES_DAYS):
        yield Violation(Invariant.UNKNOWN_VALUE, id_, f"was told of its end {account.reminded_days} days ahead")
    if (account.plan is None) is not (account.expires_at is None):
        yield Violation(Invariant.STATE_MISMATCH, id_, f"on plan {account.plan}, ends {account.expires_at}")


def _given(purchases: Iterable[Purchase], sagas: Iterable[SagaRow]) -> list[Purchase]:
    """Return the purchases that took effect: with money at once, with units at their saga's pivot."""
    past_pivot = {id_in(saga, "request_id") for saga in sagas if is_given(saga)}
    return [each for each in purchases if is_done(each) or each.id in past_pivot]


def _begun(account: Subscriber, granted: list[Request]) -> Iterator[Violation]:
    asked = account.plan is None or account.registration is not None or account.state is AccountState.CLOSED
    if not asked and not granted:
        yield Violation(Invariant.REQUEST_MISMATCH, str(account.id), "an account that nobody asked for")
    if len(granted) > 1:
        yield Violation(Invariant.REQUEST_MISMATCH, str(account.id), f"granted by {len(granted)} requests")


def _ends_otherwise(account: Subscriber, granted: list[Request], given: list[Purchase | Grant]) -> str | None:
    """Say how an account's end differs from the latest that its creation or its extensions gave it."""
    extensions = [each for each in given if each.action is Action.EXTENSION]
    ends = [each.expires_at for each in extensions if each.expires_at is not None]
    if len(ends) < len(extensions):
        return f"{len(extensions)} extensions, {len(ends)} ends"
    if len(set(ends)) < len(ends):
        return f"{len(ends)} extensions, and two of them gave the same end"
    ends += [request.expires_at for request in granted if request.expires_at is not None]
    if ends and account.expires_at != max(ends):
        return f"was given until {max(ends)}, and ends {account.expires_at}"
    return None


def _plan(name: str, own: Iterator[Plan], known: Iterator[groups.Plan], late: Lateness) -> Iterator[Violation]:
    ours, theirs = only(own), only(known)
    if theirs is not None and ours is None:
        yield Violation(Invariant.PLAN_MISMATCH, name, "groups offers it, and there is no such plan")
    elif ours is not None and late.settled:
        shown = None if theirs is None else (theirs.price_units, theirs.validity_months, theirs.on_sale)
        if shown != (ours.price_units, ours.validity_months, ours.on_sale):
            yield Violation(Invariant.PLAN_MISMATCH, name, f"costs {ours.price_units}, groups shows {shown}")


def _option(name: str, own: Iterator[Option], known: Iterator[groups.Option], late: Lateness) -> Iterator[Violation]:
    ours, theirs = only(own), only(known)
    is_, shown = ((row.price_units, row.on_sale) if row is not None else None for row in (ours, theirs))
    if is_ != shown and (late.settled or is_ is None):
        yield Violation(Invariant.PLAN_MISMATCH, name, f"costs {is_}, groups shows {shown}")


def _on_sale(name: str, plans: Iterator[Plan], accounts: Iterator[Subscriber]) -> Iterator[Violation]:
    if only(plans) is None:
        for account in accounts:
            yield Violation(Invariant.UNKNOWN_VALUE, str(account.id), f"is on plan {name!r}, which there is not")


# --- what the other services know ---


def _undone(mails: Iterable[Mail], column: str) -> Iterator[tuple[UUID, Mail]]:
    return ((key, mail) for key, mail in by(mails, column) if mail.state in UNDONE)


def _known(
    id_: UUID,
    subscribers: Iterator[Subscriber],
    in_ledger: Iterator[Account],
    in_groups: Iterator[groups.Subscriber],
    owned: Iterator[groups.Group],
    people: Iterator[Person],
    to_them: Iterator[Mail],
    about_them: Iterator[Mail],
    late: Lateness,
) -> Iterator[Violation]:
    account, shown, person = only(subscribers), only(in_groups), only(people)
    balance = only(in_ledger)
    yield from _balance(id_, shown, balance, late)
    if account is None:
        if late.settled and (person is not None or (shown is not None and shown.email is not None)):
            yield Violation(Invariant.DIRECTORY_MISMATCH, str(id_), "provisioning does not know them, and others do")
        return
    if late.settled:
        yield from _states(account, balance, shown)
    if account.state is not AccountState.CLOSED:
        if late.settled:
            yield from _directory(account, shown, person)
    elif late(account.closed_at):
        yield from _erased(id_, shown, only(owned), person, to_them, about_them)


def _balance(
    id_: UUID, shown: groups.Subscriber | None, account: Account | None, late: Lateness
) -> Iterator[Violation]:
    known = (shown.balance_version, shown.available_units) if shown is not None else (0, 0)
    now = (account.revision, account.available_units) if account is not None else (0, 0)
    # In flight the ledger may be ahead; for the same version both must agree.
    if known != now and (late.settled or known[0] >= now[0]):
        detail = f"groups shows {known[1]} as of version {known[0]}, available {now[1]} as of {now[0]}"
        yield Violation(Invariant.BALANCE_STALE, str(id_), detail)


def _states(account: Subscriber, in_ledger: Account | None, in_groups: groups.Subscriber | None) -> Iterator[Violation]:
    id_ = str(account.id)
    if in_ledger is not None and in_ledger.state.value != account.state.value:
        yield Violation(Invariant.STATE_MISMATCH, id_, f"{account.state}, the ledger says {in_ledger.state}")
    if in_groups is None or in_groups.state.value != account.state.value:
        yield Violation(Invariant.STATE_MISMATCH, id_, f"{account.state}, groups says {in_groups and in_groups.state}")
    elif account.state is not AccountState.CLOSED and in_groups.expires_at != account.expires_at:
        yield Violation(Invariant.STATE_MISMATCH, id_, f"ends {account.expires_at}, groups says {in_groups.expires_at}")
    elif in_groups.plan not in (None, account.plan) or (in_groups.options_pack and not account.options_pack):
        detail = f"plan {account.plan}, pack {account.options_pack}"
        told = f"groups says {in_groups.plan}, {in_groups.options_pack}"
        yield Violation(Invariant.STATE_MISMATCH, id_, f"{detail}, {told}")


def _directory(account: Subscriber, in_groups: groups.Subscriber | None, person: Person | None) -> Iterator[Violation]:
    """Name the services whose data about a person differ from provisioning's, without the data."""
    who = _who(account)
    wrong = {
        "groups": in_groups is None or _who(in_groups) != who,
        "notifications": person is None or (*_who(person), person.fax_number) != (*who, account.fax_number),
    }
    for where in (where for where, is_wrong in wrong.items() if is_wrong):
        yield Violation(Invariant.DIRECTORY_MISMATCH, str(account.id), f"not as {where} knows it")


def _who(row: Subscriber | groups.Subscriber | Person) -> tuple[str | None, ...]:
    return row.email, row.first_name, row.last_name, row.language, row.time_zone


def _erased(
    id_: UUID,
    shown: groups.Subscriber | None,
    group: groups.Group | None,
    person: Person | None,
    to_them: Iterator[Mail],
    about_them: Iterator[Mail],
) -> Iterator[Violation]:
    kept = {
        "groups": shown is not None and any(_who(shown)),
        "a group's name": group is not None and bool(group.name),
        "notifications": person is not None,
        "a mail to them": any(True for _ in to_them),
        "a mail that names their group": any(mail.params.get("group_name") for mail in about_them),
    }
    for where in (where for where, is_kept in kept.items() if is_kept):
        yield Violation(Invariant.NOT_ERASED, str(id_), f"closed, and still known by {where}")


def check_numbers(numbers: Iterable[FaxNumber]) -> Iterator[Violation]:
    """Check each number of the pool: it has a subscriber exactly if it is assigned."""
    for number in numbers:
        if (number.state is NumberState.ASSIGNED) is (number.subscriber_id is None):
            detail = f"{number.state}, and its subscriber is {number.subscriber_id}"
            yield Violation(Invariant.FAX_NUMBER_MISMATCH, number.number, detail)
