"""What waits for something to happen, and has waited for too long: found by its age on a product that works."""

from collections.abc import Iterator

from deploy.operator.invariants.codes import Code, Violation
from deploy.operator.invariants.facts import Facts, Lateness, Plumbing
from popfax_contracts.topics import Principal
from services.groups.domain import CommandState
from services.notifications.domain import UNDONE


def check_waiting(facts: Facts, late: Lateness) -> Iterator[Violation]:
    """Check posted commands, mails, timers that are due, outboxes, and what is parked."""
    for command in facts.groups.commands:
        if command.state is CommandState.PENDING and late(command.asked_at):
            detail = f"{command.type} of {command.actor_id}, posted at {command.asked_at}"
            yield Violation(Code.COMMAND_UNDECIDED, str(command.id), detail)
    for mail in facts.notifications.mails:
        # One that is put off, or being sent, has its next attempt ahead. A parked one waits for an operator.
        if mail.state in UNDONE and late.is_old(mail.next_attempt_at):
            detail = f"{mail.template} to {mail.recipient_id} about {mail.about_id}, due since {mail.next_attempt_at}"
            yield Violation(Code.MAIL_UNSENT, str(mail.id), detail)
    services: dict[Principal, Plumbing] = {
        Principal.LEDGER: facts.ledger,
        Principal.GROUPS: facts.groups,
        Principal.PROVISIONING: facts.provisioning,
        Principal.NOTIFICATIONS: facts.notifications,
    }
    for service, plumbing in services.items():
        yield from _plumbing(service, plumbing, late)


def _plumbing(service: Principal, facts: Plumbing, late: Lateness) -> Iterator[Violation]:
    for timer in facts.timers:
        if late.is_old(timer.due_at):
            yield Violation(Code.TIMER_OVERDUE, str(timer.id), f"{service}: {timer.type}, due since {timer.due_at}")
    for unsent in facts.outbox:
        if late(unsent.made_at):
            yield Violation(Code.MESSAGE_UNSENT, str(unsent.id), f"{service}: {unsent.type}, since {unsent.made_at}")
    for parked in facts.parked:
        if late.is_old(parked.parked_at):
            detail = f"{service}: {parked.code}, off {parked.topic}, since {parked.parked_at}"
            yield Violation(Code.MESSAGE_PARKED, str(parked.id), detail)
