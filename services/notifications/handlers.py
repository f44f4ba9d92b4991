"""What notifications does with each message: it commits mails, which the sender then sends."""

from dataclasses import replace
from hashlib import sha256
from uuid import UUID

from popfax_contracts.codes import NotificationsCode
from popfax_contracts.groups import MemberAccountCreated
from popfax_contracts.message import Message
from popfax_contracts.notifications import BounceRefused, MailBounced, MailUndeliverable, PasswordLinkIssued
from popfax_contracts.provisioning import PersonErased, PersonRecorded
from services.chassis.messages import Incoming, Outcome
from services.chassis.service import Moment, needs
from services.notifications.domain import PASSWORD_LINK_LIFETIME, Erased, Mail, MailState, Person
from services.notifications.letters import Letter, letters
from services.notifications.store import LoadPlan, OutgoingMails
from services.notifications.tables import WAITING_ABOUT, WAITING_FOR


def _person(load: LoadPlan, message: Incoming[PersonRecorded]) -> None:
    load.people.add(message.body.subscriber_id)


@needs(_person)
def person_recorded(tray: OutgoingMails, message: Incoming[PersonRecorded], moment: Moment) -> Outcome:
    """Learn who somebody is, and in which language and time zone to write to them."""
    p = message.body
    language = p.language.value
    tray.people.put(Person(p.subscriber_id, p.email, p.first_name, p.last_name, language, p.fax_number, p.time_zone))
    return ()


def _erasure(load: LoadPlan, message: Incoming[PersonErased]) -> None:
    gone = message.body.subscriber_id
    load.people.add(gone)
    load.erased.add(gone)
    load.mails.add_all(WAITING_FOR, gone)
    load.mails.add_all(WAITING_ABOUT, gone)
    load.takes_text_away = True


@needs(_erasure)
def person_erased(tray: OutgoingMails, message: Incoming[PersonErased], moment: Moment) -> Outcome:
    """Erase a person. Waiting mails to them are dropped; those that name them are rendered again without the name."""
    gone = message.body.subscriber_id
    tray.people.remove(gone)
    if tray.erased.find(gone) is None:
        tray.erased.put(Erased(gone))
    for mail in tray.mails.all(WAITING_FOR, gone):
        tray.mails.put(replace(mail, state=MailState.ERASED, params={}))
        _take_text_away(tray, mail.id)
    for mail in tray.mails.all(WAITING_ABOUT, gone):
        if mail.params.get("group_name"):  # as good as its owner's name
            tray.mails.put(replace(mail, params={**mail.params, "group_name": None}))
        _take_text_away(tray, mail.id)
    return ()


def _bounced(load: LoadPlan, message: Incoming[MailBounced]) -> None:
    load.mails.add(message.body.mail_id)
    load.takes_text_away = True


@needs(_bounced)
def mail_bounced(tray: OutgoingMails, message: Incoming[MailBounced], moment: Moment) -> Outcome:
    """Record that a mail was returned, and announce it unless it will be tried again."""
    mail = tray.mails.find(message.body.mail_id)
    if mail is None:
        return [
            BounceRefused(
                mail_id=message.body.mail_id, code=NotificationsCode.UNKNOWN_MAIL, command_type=message.body.TYPE
            )
        ]
    tray.mails.put(replace(mail, state=MailState.BOUNCED, params={}))
    _take_text_away(tray, mail.id)
    return [
        MailUndeliverable(
            mail_id=mail.id,
            recipient_id=mail.recipient_id,
            reason=message.body.reason,
            invitation_id=mail.invitation_id,
            round=mail.round,
        )
    ]


def _letters(load: LoadPlan, message: Incoming[Message]) -> None:
    for letter in letters(message.body):
        load.mails.add(letter.id)
        load.erased.add(letter.recipient_id)
        if letter.about_id is not None:
            load.erased.add(letter.about_id)


@needs(_letters)
def member_account_created(tray: OutgoingMails, message: Incoming[MemberAccountCreated], moment: Moment) -> Outcome:
    """Welcome the new member, with a link to choose a password, and give the owner a receipt."""
    welcome, receipt = letters(message.body)
    _write(tray, receipt, message, moment)
    token = moment.token_bytes(32).hex()
    expires_at = moment.now + PASSWORD_LINK_LIFETIME
    secret = {"token": token, "expires_at": expires_at.isoformat()}
    if not _write(tray, replace(welcome, params={**welcome.params, **secret}), message, moment):
        return ()
    return [
        PasswordLinkIssued(
            member_id=message.body.member_id,
            token_sha256=sha256(token.encode()).hexdigest(),
            expires_at=expires_at,
        )
    ]


@needs(_letters)
def write(tray: OutgoingMails, message: Incoming[Message], moment: Moment) -> Outcome:
    """Write the mails that a message calls for."""
    for letter in letters(message.body):
        _write(tray, letter, message, moment)
    return ()


def _write(tray: OutgoingMails, letter: Letter, message: Incoming[Message], moment: Moment) -> bool:
    """Add a mail; return False if it exists already, or its recipient has been erased."""
    id_ = letter.id
    if tray.mails.find(id_) is not None or tray.erased.find(letter.recipient_id) is not None:
        return False
    params = dict(letter.params)
    if params.get("group_name") and letter.about_id is not None and tray.erased.find(letter.about_id) is not None:
        params["group_name"] = None  # as telling as its owner's name, and it came after they were erased
    tray.mails.put(
        Mail(
            id_,
            letter.template,
            letter.recipient_id,
            letter.about_id,
            params,
            MailState.QUEUED,
            moment.now,
            moment.now,
            letter.invitation_id,
            letter.round,
            message.traceparent,
        )
    )
    return True


def _take_text_away(tray: OutgoingMails, mail_id: UUID) -> None:
    """Erase a mail's bytes and address, if it has any. If it is still waiting, it is rendered again."""
    delivery = tray.deliveries.find(mail_id)
    if delivery is not None and delivery.rendered is not None:
        tray.deliveries.put(replace(delivery, rendered=None, recipient=None))
