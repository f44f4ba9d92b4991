"""Notifications' decisions: which mails, to whom, about whom, once a fact; bounces; erasure."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest

from popfax_contracts.fields import Language
from popfax_contracts.groups import (
    InvitationAccepted,
    InvitationDeclined,
    InvitationExpired,
    MemberAccountCreated,
    MemberLeft,
    MemberPaidFor,
    StandingOrderPaused,
    TransferredLeg,
    UnitsReceived,
    UnitsTransferred,
)
from popfax_contracts.message import Message, group_of
from popfax_contracts.notifications import (
    MAX_NAMED,
    BounceRefused,
    MailBounced,
    MailUndeliverable,
    PasswordLinkIssued,
    SendInvitation,
    SendMembersLow,
)
from popfax_contracts.provisioning import AccountExpired, AccountExpiring, AccountExtended, PersonErased, PersonRecorded
from services.notifications.consumers import NOTIFICATIONS
from services.notifications.domain import Delivery, Erased, Mail, MailState, Person, Template, named_in
from services.notifications.letters import letters
from tests.unit.given import NOW, given, id_of, incoming

ADA, NEW, BEA = id_of("ada"), id_of("new"), id_of("bea")
GROUP, INVITATION, TRANSFER = group_of(ADA), id_of("invitation"), id_of("transfer")
CREATED = MemberAccountCreated(group_id=GROUP, owner_id=ADA, member_id=NEW, plan="send_only", price_units=20)
TOKEN = (b"\x07" * 32).hex()
EXPIRY = NOW + timedelta(days=7)
EXPIRES_AT = EXPIRY.isoformat()
INVITE = SendInvitation(
    invitation_id=INVITATION,
    round=2,
    recipient_id=BEA,
    owner_id=ADA,
    group_name="Les Amis",
    token="ab" * 32,
    expires_at=EXPIRY,
)
ANSWERED: Mapping[str, Any] = {
    "group_id": GROUP,
    "owner_id": ADA,
    "invitation_id": INVITATION,
    "subscriber_id": BEA,
}
RECEIVED = UnitsReceived(group_id=GROUP, owner_id=ADA, member_id=BEA, transfer_id=TRANSFER, amount_units=7)
EXTENDED = AccountExtended(request_id=TRANSFER, account_id=BEA, expires_at=EXPIRY, price_units=60)


def mail(cause: Message, template: Template, to: UUID, about: UUID | None, **params: Any) -> Mail:
    """A mail as it is when its fact has just been told."""
    (letter,) = [each for each in letters(cause) if each.template is template]
    return Mail(letter.id, template, to, about, params, MailState.QUEUED, NOW, NOW)


def left(via: str, epoch: int = 1) -> MemberLeft:
    fields = {"group_id": GROUP, "owner_id": ADA, "member_id": BEA, "epoch": epoch, "via": via}
    return MemberLeft.model_validate(fields)


def transferred(mode: str, *amounts: int) -> UnitsTransferred:
    legs = [TransferredLeg(member_id=id_of(str(i)), amount_units=units) for i, units in enumerate(amounts)]
    fields = {"group_id": GROUP, "owner_id": ADA, "transfer_id": TRANSFER, "mode": mode, "amount_units": 50}
    return UnitsTransferred.model_validate(fields | {"legs": legs, "total_units": sum(amounts)})


def paused(reason: str, at: datetime = NOW, **ids: UUID) -> StandingOrderPaused:
    fields = {"group_id": GROUP, "owner_id": ADA, "member_id": BEA, "order_id": id_of("order"), **ids}
    return StandingOrderPaused.model_validate({**fields, "reason": reason, "paused_at": at})


def paid_for(action: str, expires_at: datetime | None = None) -> MemberPaidFor:
    fields = {"group_id": GROUP, "owner_id": ADA, "member_id": BEA, "payment_id": TRANSFER, "price_units": 60}
    return MemberPaidFor.model_validate({**fields, "action": action, "expires_at": expires_at})


def paid_mails(cause: MemberPaidFor, expires_at: str | None) -> list[Mail]:
    what = {"reference": str(TRANSFER), "action": cause.action, "expires_at": expires_at}
    return [
        mail(cause, Template.PAID_FOR_YOU, BEA, ADA, **what),
        mail(cause, Template.PAYING_RECEIPT, ADA, BEA, **what, price_units=60),
    ]


def expiring(days: int, *, late: bool = False) -> AccountExpiring:
    return AccountExpiring(account_id=BEA, days=days, expires_at=EXPIRY, late=late)


LOW = SendMembersLow(group_id=GROUP, owner_id=ADA, day=NOW.date(), below_units=20, members=(BEA, NEW), more=7)


def person(id_: UUID) -> Person:
    return Person(id_, "a@example.org", "A", "B", "fr", None)


def rendered(of: Mail, *, in_flight: bool = False) -> tuple[Mail, Delivery]:
    """A mail whose bytes are made, and wait for another attempt, or are in flight."""
    since = NOW if in_flight else None
    return replace(of, state=MailState.RENDERED), Delivery(of.id, b"Ada", "b@x.org", 1, since, 0, "451", None)


def sent(of: Mail) -> tuple[Mail, Delivery]:
    return replace(of, state=MailState.SENT, params={}), Delivery(of.id, None, None, 1, None, 0, "250", NOW)


WELCOME = mail(CREATED, Template.WELCOME, NEW, ADA, plan="send_only", token=TOKEN, expires_at=EXPIRES_AT)
RECEIPT = mail(CREATED, Template.RECEIPT, ADA, NEW, reference=str(NEW), plan="send_only", price_units=20)
INVITED = replace(
    mail(
        INVITE,
        Template.INVITATION,
        BEA,
        ADA,
        group_name="Les Amis",
        invitation_id=str(INVITATION),
        token="ab" * 32,
        expires_at=EXPIRES_AT,
    ),
    invitation_id=INVITATION,
    round=2,
)
RECEIVED_MAIL = mail(RECEIVED, Template.UNITS_RECEIVED, BEA, ADA, reference=str(TRANSFER), amount_units=7)


class TestAccountCreation:
    def test_welcomes_the_member_and_gives_the_owner_a_receipt(self) -> None:
        scene = given(NOTIFICATIONS).when(CREATED)
        scene.then(
            PasswordLinkIssued(member_id=NEW, token_sha256=sha256(TOKEN.encode()).hexdigest(), expires_at=EXPIRY)
        )
        scene.leaves(WELCOME, RECEIPT)

    def test_tells_the_member_nothing_of_the_price(self) -> None:
        scene = given(NOTIFICATIONS).when(CREATED)
        (to_member,) = [row for row in scene.rows() if row.recipient_id == NEW]
        assert to_member.params.keys() == {"plan", "token", "expires_at"}

    def test_the_links_token_is_in_the_mail_alone(self) -> None:
        scene = given(NOTIFICATIONS).when(CREATED)
        assert all(TOKEN not in repr(effect) for effect in scene.effects)

    def test_told_again_it_issues_no_second_link(self) -> None:
        first = replace(WELCOME, params={**WELCOME.params, "token": "00" * 32})
        scene = given(NOTIFICATIONS, first, RECEIPT).when(incoming(CREATED, id_=id_of("again")))
        scene.then().leaves(first, RECEIPT)

    def test_issues_no_link_for_a_member_who_is_erased(self) -> None:
        given(NOTIFICATIONS, Erased(NEW)).when(CREATED).then().leaves(Erased(NEW), RECEIPT)


CASES: list[tuple[Message, list[Mail]]] = [
    (INVITE, [INVITED]),
    (
        InvitationAccepted(**ANSWERED),
        [mail(InvitationAccepted(**ANSWERED), Template.INVITATION_ACCEPTED, ADA, BEA)],
    ),
    (
        InvitationDeclined(**ANSWERED),
        [mail(InvitationDeclined(**ANSWERED), Template.INVITATION_DECLINED, ADA, BEA)],
    ),
    (
        InvitationExpired(**ANSWERED),
        [mail(InvitationExpired(**ANSWERED), Template.INVITATION_EXPIRED, ADA, BEA)],
    ),
    *(
        (
            left(via),
            [
                mail(left(via), Template.DETACHED, BEA, ADA, via=via),
                mail(left(via), Template.MEMBER_LEFT, ADA, BEA, via=via),
            ],
        )
        for via in ("detached", "left")
    ),
    (
        left("account_closed"),
        [mail(left("account_closed"), Template.MEMBER_LEFT, ADA, BEA, via="account_closed")],
    ),
    (left("group_closed"), [mail(left("group_closed"), Template.DETACHED, BEA, ADA, via="group_closed")]),
    (RECEIVED, [RECEIVED_MAIL]),
    (
        transferred("top_up_to", 50, 0, 1),
        [
            mail(
                transferred("top_up_to", 50, 0, 1),
                Template.TRANSFER_RECEIPT,
                ADA,
                None,
                reference=str(TRANSFER),
                named=[[str(id_of("0")), 50], [str(id_of("2")), 1]],
                more=0,
                mode="top_up_to",
                amount_units=50,
                total_units=51,
                got=2,
                had=1,
            )
        ],
    ),
    (
        LOW,
        [
            mail(
                LOW,
                Template.MEMBERS_LOW,
                ADA,
                None,
                below_units=20,
                count=9,
                named=[[str(BEA), None], [str(NEW), None]],
                more=7,
            )
        ],
    ),
    (transferred("amount", 5).model_copy(update={"order_id": id_of("order")}), []),
    (paused("units_short"), [mail(paused("units_short"), Template.ORDER_PAUSED, ADA, None, reason="units_short")]),
    (
        paused("account_expired"),
        [mail(paused("account_expired"), Template.ORDER_PAUSED, ADA, None, reason="account_expired")],
    ),
    (paused("target_closed"), []),
    (paid_for("extension", EXPIRY), paid_mails(paid_for("extension", EXPIRY), EXPIRES_AT)),
    (paid_for("options_pack"), paid_mails(paid_for("options_pack"), None)),
    (expiring(7), [mail(expiring(7), Template.EXPIRING, BEA, None, days=7, expires_at=EXPIRES_AT)]),
    (expiring(7, late=True), []),
    (
        AccountExpired(account_id=BEA, expires_at=EXPIRY),
        [mail(AccountExpired(account_id=BEA, expires_at=EXPIRY), Template.EXPIRED, BEA, None, expires_at=EXPIRES_AT)],
    ),
    (
        EXTENDED,
        [mail(EXTENDED, Template.EXTENDED, BEA, None, reference=str(TRANSFER), expires_at=EXPIRES_AT, price_units=60)],
    ),
]


class TestFacts:
    @pytest.mark.parametrize(
        ("cause", "mails"), CASES, ids=[f"{type(c).__name__}{i}" for i, (c, _) in enumerate(CASES)]
    )
    def test_brings_its_mails_and_no_message(self, cause: Message, mails: list[Mail]) -> None:
        given(NOTIFICATIONS).when(cause).then().leaves(*mails)

    @pytest.mark.parametrize(
        ("cause", "mails"), CASES, ids=[f"{type(c).__name__}{i}" for i, (c, _) in enumerate(CASES)]
    )
    def test_told_again_under_another_id_brings_no_second(self, cause: Message, mails: list[Mail]) -> None:
        once = given(NOTIFICATIONS).when(cause, incoming(cause, id_=id_of("again")))
        once.leaves(*mails)
        done = [row for each in mails for row in sent(each)]
        given(NOTIFICATIONS, *done).when(incoming(cause, id_=id_of("later"))).then().leaves(*done)

    def test_other_facts_are_other_mails(self) -> None:
        later = AccountExpiring(account_id=BEA, days=7, expires_at=EXPIRY + timedelta(days=365))
        causes: list[Message] = [
            INVITE,
            INVITE.model_copy(update={"round": 3}),
            left("left"),
            left("left", epoch=2),
            expiring(7),
            expiring(1),
            later,
            RECEIVED,
            RECEIVED.model_copy(update={"transfer_id": id_of("another")}),
            paid_for("options_pack"),
            paid_for("options_pack").model_copy(update={"payment_id": id_of("another")}),
        ]
        scene = given(NOTIFICATIONS).when(*causes)
        assert len(scene.rows()) == len(causes) + 4, "one each, and two for each membership and payment"

    def test_a_mail_belongs_to_the_trace_of_what_it_reports(self) -> None:
        cause = replace(incoming(RECEIVED), traceparent="00-aa-bb-01")
        given(NOTIFICATIONS).when(cause).leaves(replace(RECEIVED_MAIL, traceparent="00-aa-bb-01"))

    def test_most_messages_call_for_no_mail(self) -> None:
        assert letters(PersonErased(subscriber_id=BEA)) == ()

    def test_a_mail_names_those_of_its_parameters_and_what_it_says_of_their_units(self) -> None:
        assert named_in({"named": [[str(BEA), 50], [str(NEW), None]]}) == [(BEA, 50), (NEW, None)]
        assert named_in({}) == []

    def test_many_paused_orders_are_one_mail_a_day(self) -> None:
        another = paused("units_short", NOW + timedelta(hours=1), member_id=NEW, order_id=id_of("another"))
        tomorrow = paused("units_short", NOW + timedelta(days=1))
        assert len(given(NOTIFICATIONS).when(paused("units_short"), another).rows()) == 1
        assert len(given(NOTIFICATIONS).when(paused("units_short"), tomorrow).rows()) == 2

    def test_a_moment_told_in_another_time_zone_is_the_same_fact(self) -> None:
        there = expiring(7).model_copy(update={"expires_at": EXPIRY.astimezone(timezone(timedelta(hours=2)))})
        assert len(given(NOTIFICATIONS).when(expiring(7), there).rows()) == 1

    @pytest.mark.usefixtures("elsewhere")
    def test_a_mail_is_the_same_wherever_the_machine_is(self) -> None:
        assert letters(expiring(7))[0].params["expires_at"] == EXPIRES_AT
        assert letters(paused("units_short"))[0].fact == f"{GROUP}/2031-01-01"
        assert letters(paused("units_short", NOW - timedelta(seconds=1)))[0].fact == f"{GROUP}/2030-12-31"

    def test_who_is_low_is_told_once_a_day(self) -> None:
        again = LOW.model_copy(update={"members": (NEW,), "more": 0})
        tomorrow = again.model_copy(update={"day": LOW.day + timedelta(days=1)})
        assert len(given(NOTIFICATIONS).when(LOW, again, tomorrow).rows()) == 2

    def test_a_receipt_names_so_many_and_counts_the_others(self) -> None:
        receipt = given(NOTIFICATIONS).when(transferred("amount", *[5] * (MAX_NAMED + 3))).only(Mail)
        assert (len(receipt.params["named"]), receipt.params["more"]) == (MAX_NAMED, 3)

    def test_the_member_who_got_units_learns_the_amount_and_its_reference_and_nothing_else(self) -> None:
        assert RECEIVED_MAIL.params == {"reference": str(TRANSFER), "amount_units": 7}

    def test_a_receipt_has_the_reference_that_the_history_has(self) -> None:
        told = CREATED.model_copy(update={"request_id": id_of("request")})
        receipts = [row for row in given(NOTIFICATIONS).when(told).rows() if row.template is Template.RECEIPT]
        assert [receipt.params["reference"] for receipt in receipts] == [str(id_of("request"))]

    def test_writes_nothing_to_somebody_erased(self) -> None:
        given(NOTIFICATIONS, Erased(BEA)).when(INVITE, RECEIVED, EXTENDED).then().leaves(Erased(BEA))


class TestPeople:
    def test_learns_who_somebody_is_and_the_newest_word_counts(self) -> None:
        first = PersonRecorded(
            subscriber_id=ADA, email="ada@example.org", first_name="Ada", last_name="L.", language=Language.FR
        )
        newest = first.model_copy(update={"language": Language.EN, "fax_number": "+331", "time_zone": "Europe/Paris"})
        scene = given(NOTIFICATIONS).when(first).then().leaves(Person(ADA, "ada@example.org", "Ada", "L.", "fr", None))
        scene.when(newest).then().leaves(Person(ADA, "ada@example.org", "Ada", "L.", "en", "+331", "Europe/Paris"))

    def test_erases_somebody_nobody_has_heard_of(self) -> None:
        given(NOTIFICATIONS).when(PersonErased(subscriber_id=BEA)).then().leaves(Erased(BEA))

    def test_erases_once(self) -> None:
        again = incoming(PersonErased(subscriber_id=BEA), id_=id_of("again"))
        given(NOTIFICATIONS, person(BEA)).when(PersonErased(subscriber_id=BEA), again).then().leaves(Erased(BEA))

    def test_drops_what_waits_for_who_is_erased(self) -> None:
        queued = mail(expiring(7), Template.EXPIRING, BEA, None, days=7)
        waiting, delivery = rendered(RECEIVED_MAIL)
        scene = given(NOTIFICATIONS, person(BEA), person(ADA), queued, waiting, delivery)
        scene.when(PersonErased(subscriber_id=BEA)).then().leaves(
            Erased(BEA),
            person(ADA),
            replace(queued, state=MailState.ERASED, params={}),
            replace(waiting, state=MailState.ERASED, params={}),
            replace(delivery, rendered=None, recipient=None),
        )

    def test_what_names_who_is_erased_is_rendered_anew(self) -> None:
        waiting, delivery = rendered(INVITED)
        scene = given(NOTIFICATIONS, person(ADA), person(BEA), waiting, delivery, RECEIVED_MAIL)
        scene.when(PersonErased(subscriber_id=ADA)).then().leaves(
            Erased(ADA),
            person(BEA),
            replace(waiting, params={**waiting.params, "group_name": None}),
            replace(delivery, rendered=None, recipient=None),
            RECEIVED_MAIL,
        )

    def test_an_invitation_that_comes_after_its_owner_was_erased_does_not_name_their_group(self) -> None:
        nameless = replace(INVITED, params={**INVITED.params, "group_name": None})
        given(NOTIFICATIONS, Erased(ADA)).when(INVITE).then().leaves(Erased(ADA), nameless)

    def test_leaves_what_was_sent_alone(self) -> None:
        done = [*sent(INVITED), *sent(RECEIVED_MAIL)]
        for gone in (ADA, BEA):
            given(NOTIFICATIONS, *done).when(PersonErased(subscriber_id=gone)).then().leaves(Erased(gone), *done)

    def test_leaves_everybody_elses_mails_alone(self) -> None:
        waiting = rendered(RECEIVED_MAIL)
        scene = given(NOTIFICATIONS, person(NEW), *waiting)
        # The other fact of the batch loads that mail; it is still none of hers.
        scene.when(RECEIVED, PersonErased(subscriber_id=NEW)).then().leaves(Erased(NEW), *waiting)

    def test_in_one_batch_a_mail_made_before_is_dropped_and_one_after_is_not_made(self) -> None:
        scene = given(NOTIFICATIONS, person(BEA)).when(RECEIVED, PersonErased(subscriber_id=BEA), EXTENDED)
        scene.then().leaves(Erased(BEA), replace(RECEIVED_MAIL, state=MailState.ERASED, params={}))


class TestBounces:
    BOUNCE = MailBounced(mail_id=INVITED.id, reason="no_such_mailbox")
    TOLD = MailUndeliverable(
        mail_id=INVITED.id, recipient_id=BEA, reason="no_such_mailbox", invitation_id=INVITATION, round=2
    )

    def test_a_bounced_invitation_says_which_it_was_though_its_text_is_gone(self) -> None:
        before, delivery = sent(INVITED)
        scene = given(NOTIFICATIONS, before, delivery).when(self.BOUNCE)
        scene.then(self.TOLD).leaves(replace(before, state=MailState.BOUNCED), delivery)

    def test_any_other_mail_is_of_no_invitation(self) -> None:
        before, delivery = sent(RECEIVED_MAIL)
        scene = given(NOTIFICATIONS, before, delivery).when(MailBounced(mail_id=before.id, reason="full"))
        scene.then(MailUndeliverable(mail_id=before.id, recipient_id=BEA, reason="full"))
        scene.leaves(replace(before, state=MailState.BOUNCED), delivery)

    def test_told_again_it_is_answered_again(self) -> None:
        again = incoming(self.BOUNCE, id_=id_of("again"))
        before, delivery = sent(INVITED)
        scene = given(NOTIFICATIONS, before, delivery).when(self.BOUNCE, again).then(self.TOLD, self.TOLD)
        scene.leaves(replace(before, state=MailState.BOUNCED), delivery)

    def test_one_that_is_to_be_tried_again_is_not(self) -> None:
        before, delivery = rendered(INVITED, in_flight=True)
        given(NOTIFICATIONS, before, delivery).when(self.BOUNCE).then(self.TOLD).leaves(
            replace(before, state=MailState.BOUNCED, params={}), replace(delivery, rendered=None, recipient=None)
        )

    def test_refuses_one_that_was_never_written(self) -> None:
        scene = given(NOTIFICATIONS).when(self.BOUNCE)
        scene.then(BounceRefused(mail_id=INVITED.id, code="unknown_mail", command_type=MailBounced.TYPE)).leaves()
