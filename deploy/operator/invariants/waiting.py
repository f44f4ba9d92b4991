"""What has waited for too long: found by its age, also while the product runs."""

from collections.abc import Iterator

from deploy.operator.invariants.invariant import Invariant, Violation
from deploy.operator.invariants.snapshot import ChassisTables, Lateness, Snapshot
from popfax_contracts.topics import Principal
from services.groups.domain import CommandState
from services.notifications.domain import UNDONE


def check_waiting(snapshot: Snapshot, late: Lateness) -> Iterator[Violation]:
    """Check posted commands, mails, due timers and rows, outboxes and parked messages."""
    for command in snapshot.groups.commands:
        if command.state is CommandState.PENDING and late(command.asked_at):
            detail = f"{command.type} of {command.actor_id}, posted at {command.asked_at}"
            yield Violation(Invariant.COMMAND_UNDECIDED, str(command.id), detail)
    for mail in snapshot.notifications.mails:
        # A mail that is delayed or being sent has its next attempt ahead. A parked one waits for an operator.
        if mail.state in UNDONE and late.is_old(mail.next_attempt_at):
            detail = f"{mail.template} to {mail.recipient_id} about {mail.about_id}, due since {mail.next_attempt_at}"
            yield Violation(Invariant.MAIL_UNSENT, str(mail.id), detail)
    yield from _rows(snapshot, late)
    services: dict[Principal, ChassisTables] = {
        Principal.LEDGER: snapshot.ledger,
        Principal.GROUPS: snapshot.groups,
        Principal.PROVISIONING: snapshot.provisioning,
        Principal.NOTIFICATIONS: snapshot.notifications,
    }
    for service, tables in services.items():
        yield from _tables(service, tables, late)


def _rows(snapshot: Snapshot, late: Lateness) -> Iterator[Violation]:
    """Check rows that say themselves when they are due."""
    for account in snapshot.provisioning.subscribers:
        if late.is_old(due_at := account.next_due()):
            yield Violation(Invariant.TIMER_OVERDUE, str(account.id), f"provisioning: an expiry, due since {due_at}")
    for setting in snapshot.groups.low_balances:
        if late.is_old(setting.look_at):
            detail = f"groups: a look at who is low, due since {setting.look_at}"
            yield Violation(Invariant.TIMER_OVERDUE, str(setting.group_id), detail)
    for order in snapshot.groups.orders:
        if late.is_old(order.due_at):
            detail = f"groups: a standing order, due since {order.due_at}"
            yield Violation(Invariant.TIMER_OVERDUE, str(order.id), detail)


def _tables(service: Principal, snapshot: ChassisTables, late: Lateness) -> Iterator[Violation]:
    for timer in snapshot.timers:
        if late.is_old(timer.due_at):
            yield Violation(
                Invariant.TIMER_OVERDUE, str(timer.id), f"{service}: {timer.type}, due since {timer.due_at}"
            )
    for unsent in snapshot.outbox:
        if late(unsent.made_at):
            yield Violation(
                Invariant.MESSAGE_UNSENT, str(unsent.id), f"{service}: {unsent.type}, since {unsent.made_at}"
            )
    for parked in snapshot.parked:
        if late.is_old(parked.parked_at):
            detail = f"{service}: {parked.code}, off {parked.topic}, since {parked.parked_at}"
            yield Violation(Invariant.MESSAGE_PARKED, str(parked.id), detail)
