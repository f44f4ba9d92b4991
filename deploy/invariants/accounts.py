"""Accounts as provisioning has them, and what the others know of them and of their holders."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from uuid import UUID

from deploy.invariants.codes import Code, Violation
from deploy.invariants.facts import Facts, ProvisioningFacts
from services.notifications.domain import WAITING
from services.provisioning.domain import AccountState, NumberState


def check_accounts(facts: Facts, settled: bool) -> list[Violation]:
    """Check provisioning's rows against each other, and, when all is settled, against what the others know."""
    own = facts.provisioning
    found = [*_requests(own), *_fax_numbers(own), *_addresses(own), *_forgotten(own)]
    if settled:
        found += [*_states(facts), *_directory(facts), *_erased(facts)]
    return found


def _requests(own: ProvisioningFacts) -> Iterator[Violation]:
    granted = {request.account_id for request in own.requests if request.code is None}
    known = {account.id for account in own.subscribers}
    unregistered = {
        account.id
        for account in own.subscribers
        if account.plan is not None and account.registration is None and account.state is not AccountState.CLOSED
    }
    for id_ in sorted(granted - known):
        yield Violation(Code.REQUEST_MISMATCH, str(id_), "granted, and there is no account")
    for id_ in sorted(unregistered - granted):
        yield Violation(Code.REQUEST_MISMATCH, str(id_), "an account that nobody asked for")


def _fax_numbers(own: ProvisioningFacts) -> Iterator[Violation]:
    has = {(s.fax_number, s.id) for s in own.subscribers if s.fax_number is not None}
    for number, count in Counter(number for number, _ in has).items():
        if count > 1:
            yield Violation(Code.FAX_NUMBER_TWICE, number, f"given to {count} subscribers")
    assigned = {
        (n.number, n.subscriber_id)
        for n in own.fax_numbers
        if n.state is NumberState.ASSIGNED or n.subscriber_id is not None
    }
    for number, subscriber in sorted(has ^ assigned, key=str):
        detail = f"{subscriber} has it" if (number, subscriber) in has else f"assigned to {subscriber}"
        yield Violation(Code.FAX_NUMBER_MISMATCH, str(number), f"{detail}, and only one side says so")


def _addresses(own: ProvisioningFacts) -> Iterator[Violation]:
    holders: defaultdict[str, list[UUID]] = defaultdict(list)
    for subscriber in own.subscribers:
        if subscriber.email is not None:  # a closed account has none
            holders[subscriber.email].append(subscriber.id)
    taken = {address.email: address.subscriber_id for address in own.addresses}
    for email, ids in holders.items():
        if len(ids) > 1:
            yield Violation(Code.EMAIL_TWICE, str(ids[0]), f"and {len(ids) - 1} more have the same address")
        if taken.get(email) not in ids:
            yield Violation(Code.ADDRESS_MISMATCH, str(ids[0]), "its address is not taken in its name")
    for email, id_ in taken.items():
        if email not in holders:
            yield Violation(Code.ADDRESS_MISMATCH, str(id_), "an address is taken in its name that it does not have")


def _forgotten(own: ProvisioningFacts) -> Iterator[Violation]:
    for account in own.subscribers:
        who = (account.email, account.first_name, account.last_name, account.language, account.forward_to)
        if account.state is AccountState.CLOSED and any(who):
            yield Violation(Code.NOT_ERASED, str(account.id), "closed, and provisioning knows whose it was")


def _states(facts: Facts) -> Iterator[Violation]:
    in_ledger = {account.id: account.state for account in facts.ledger.accounts}
    in_groups = {subscriber.id: subscriber for subscriber in facts.groups.subscribers}
    for account in facts.provisioning.subscribers:
        state, known = account.state.value, in_groups.get(account.id)
        told = in_ledger.get(account.id)
        if told is not None and told.value != state:
            yield Violation(Code.STATE_MISMATCH, str(account.id), f"{state}, the ledger says {told}")
        if known is None or known.state.value != state:
            yield Violation(Code.STATE_MISMATCH, str(account.id), f"{state}, groups says {known and known.state}")
        elif account.state is not AccountState.CLOSED and known.expires_at != account.expires_at:
            detail = f"ends {account.expires_at}, groups says {known.expires_at}"
            yield Violation(Code.STATE_MISMATCH, str(account.id), detail)


def _directory(facts: Facts) -> Iterator[Violation]:
    """Say who is known otherwise than provisioning knows them, and which service has it wrong. No data."""
    in_groups = {s.id: (s.email, s.first_name, s.last_name, s.language) for s in facts.groups.subscribers}
    people = {p.id: (p.email, p.first_name, p.last_name, p.language, p.fax_number) for p in facts.notifications.people}
    for account in facts.provisioning.subscribers:
        if account.email is None:
            continue  # closed: see below
        who = (account.email, account.first_name, account.last_name, account.language)
        wrong = {
            "groups": in_groups.get(account.id) != who,
            "notifications": people.get(account.id) != (*who, account.fax_number),
        }
        for where in (where for where, is_wrong in wrong.items() if is_wrong):
            yield Violation(Code.DIRECTORY_MISMATCH, str(account.id), f"not as {where} knows it")


def _erased(facts: Facts) -> Iterator[Violation]:
    closed = {account.id for account in facts.provisioning.subscribers if account.state is AccountState.CLOSED}
    kept = [("groups", s.id) for s in facts.groups.subscribers if s.email or s.first_name or s.last_name or s.language]
    kept += [("a group's name", group.owner_id) for group in facts.groups.groups if group.name]
    kept += [("notifications", person.id) for person in facts.notifications.people]
    for mail in facts.notifications.mails:
        if mail.state in WAITING:
            kept.append(("a mail to them", mail.recipient_id))
            if mail.about_id is not None and mail.params.get("group_name"):
                kept.append(("a mail that names their group", mail.about_id))
    for where, id_ in kept:
        if id_ in closed:
            yield Violation(Code.NOT_ERASED, str(id_), f"closed, and still known by {where}")
