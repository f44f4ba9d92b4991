"""What notifications does with each message: it commits mails for sending. The sender takes it from there."""

from hashlib import sha256
from typing import Any
from uuid import UUID

from contracts.groups import MemberAccountCreated
from contracts.notifications import PasswordLinkIssued
from contracts.provisioning import PersonRecorded
from services._platform.messages import Incoming, Outcome
from services._platform.service import Moment
from services.notifications.domain import PASSWORD_LINK_LIFETIME, Mail, MailState, Person, Template
from services.notifications.store import Outtray


def person_recorded(tray: Outtray, message: Incoming[PersonRecorded], moment: Moment) -> Outcome:
    """Learn who somebody is, and in which language to write to them."""
    p = message.body
    tray.people.put(Person(p.subscriber_id, p.email, p.first_name, p.last_name, p.language.value, p.fax_number))
    return ()


def member_account_created(tray: Outtray, message: Incoming[MemberAccountCreated], moment: Moment) -> Outcome:
    """Welcome the new member, with a link to choose a password, and give the owner a receipt."""
    event = message.body
    token = moment.token_bytes(32)
    expires_at = moment.now + PASSWORD_LINK_LIFETIME
    welcome = {"plan": event.plan, "token": token.hex(), "expires_at": expires_at.isoformat()}
    receipt = {"plan": event.plan, "price_units": event.price_units}
    tray.mails.put(_mail(message, Template.WELCOME, event.member_id, event.owner_id, welcome, moment))
    tray.mails.put(_mail(message, Template.RECEIPT, event.owner_id, event.member_id, receipt, moment))
    return [
        PasswordLinkIssued(
            member_id=event.member_id,
            token_sha256=sha256(token.hex().encode()).hexdigest(),
            expires_at=expires_at,
        )
    ]


def _mail(
    cause: Incoming[Any], template: Template, to: UUID, about: UUID, params: dict[str, Any], moment: Moment
) -> Mail:
    id_ = cause.derive(f"mail/{template}/{to}")
    return Mail(id_, template, to, about, params, MailState.QUEUED, moment.now, moment.now)
