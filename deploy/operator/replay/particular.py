"""What is particular about each service: what its handlers took from elsewhere than their messages."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from secrets import token_bytes
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from deploy.operator.replay.looks import take_over
from deploy.operator.replay.story import Heard, Told
from popfax_contracts.ids import derive
from popfax_contracts.ledger import BalanceCorrected, PostTransfers
from popfax_contracts.message import Command, Message
from popfax_contracts.notifications import PasswordLinkIssued, SendInvitation
from popfax_contracts.provisioning import (
    CloseAccount,
    OptionPublished,
    PersonErased,
    PersonRecorded,
    PlanPublished,
    ProvisionAccount,
)
from popfax_contracts.topics import (
    GROUPS_COMMANDS_FROM_HTTP,
    PROVISIONING_COMMANDS,
    PROVISIONING_DIRECTORY,
    Principal,
    Topic,
)
from services.chassis.envelopes import id_of
from services.chassis.messages import Outgoing, StoredRecord, Undecodable
from services.chassis.postgres import OUTBOX, PostgresTransaction
from services.chassis.sagas import CancelSaga, RetrySaga
from services.chassis.service import Service
from services.groups import tables as groups
from services.groups.commands import content_hash
from services.groups.consumers import GROUPS
from services.groups.domain import CommandState
from services.groups.timers import RetryTransfer
from services.ledger import tables as ledger
from services.ledger.consumers import LEDGER
from services.ledger.messages import CorrectBalance
from services.notifications import tables as notifications
from services.notifications.consumers import NOTIFICATIONS
from services.notifications.domain import PASSWORD_LINK_LIFETIME, WAITING, MailState, Template
from services.provisioning import tables as provisioning
from services.provisioning.consumers import PROVISIONING
from services.provisioning.domain import AccountState, NumberState, Option, Plan

Note = Callable[[str], None]


@dataclass
class Particular:
    """A service of which nothing is particular."""

    definition: Service
    moments: Sequence[sa.Column[Any]] = ()
    """When rows were written: the newest says up to when the database knows everything."""
    forgets: sa.Select[Any] | None = None
    """The ids of the people of whom the database has personal data."""
    people: Mapping[UUID, bool] = field(default_factory=dict)
    """Everybody in the directory, and whether they are still there."""

    async def begin(self, tx: PostgresTransaction, told: Sequence[Told], heard: Sequence[Heard]) -> None:
        """Prepare the database for what will happen again."""

    def tokens(self, heard: Iterable[Heard]) -> Sequence[bytes]:
        """Return the random bytes that these messages were given, in their order."""
        return ()

    def taken(self, heard: Iterable[Heard]) -> Sequence[Any]:
        """Return the keys of the interchangeable rows that these messages were given, in their order."""
        return ()

    def reserved(self) -> Collection[Any]:
        """Return the keys of all interchangeable rows that anything was given."""
        return ()

    def is_same(self, out: Outgoing, told: Told) -> bool:
        """Return whether a message is the one that was published under its id."""
        return (out.type, out.key, out.value) == (told.type, told.key, told.value)

    def interventions(self, told: Sequence[Told]) -> Iterable[Message]:
        """Return what an operator may have asked for, if these events followed from it."""
        return ()

    async def state(self, tx: PostgresTransaction, told: Sequence[Told]) -> bool:
        """Take over what these events state as a fact, with no message behind it; return whether they do."""
        return False

    async def mend(self, tx: PostgresTransaction, lost_at: datetime, note: Note) -> Sequence[StoredRecord]:
        """Mend, at the end, what no message brings; return the messages that are still to be handled."""
        return await self._to_erase(tx, note)

    async def _to_erase(self, tx: PostgresTransaction, note: Note) -> Sequence[StoredRecord]:
        """Return the erasures of people whom the directory no longer has, however long ago they were erased."""
        if self.forgets is None:
            return ()
        known = {row.id for row in await tx.execute(self.forgets)}
        known -= {id_of(row.key.encode()) for row in await tx.execute(sa.select(OUTBOX.c.key))}
        gone = sorted(id_ for id_ in known if not self.people.get(id_, False))
        if gone:
            note(f"{len(gone)} people were erased since the backup, and are erased again")
        return [self.erasure(id_) for id_ in gone]

    def erasure(self, id_: UUID) -> StoredRecord:
        """Return the message that erases somebody."""
        return _record(PROVISIONING_DIRECTORY, PersonErased(subscriber_id=id_), None)


class _Ledger(Particular):
    def interventions(self, told: Sequence[Told]) -> Iterable[Message]:
        """Return the correction that a `BalanceCorrected` tells of. Its reason was only in the database."""
        for each in told:
            if each.type == BalanceCorrected.TYPE:
                event = BalanceCorrected.from_json(each.value)
                yield CorrectBalance(
                    correction_id=event.correction_id,
                    account_id=event.account_id,
                    amount_units=event.amount_units,
                    reason="lost with the database, and repeated as it was published",
                    operator="popfax replay",
                )


class _WithSagas(Particular):
    def interventions(self, told: Sequence[Told]) -> Iterable[Message]:
        """Return the operators' messages that may have brought a saga's command, or a transfer's."""
        for each in told:
            fields = json.loads(each.value or b"{}")
            for name in ("hold_id", "request_id"):
                if (id_ := id_of(str(fields.get(name)).encode())) is not None:
                    yield RetrySaga(saga_id=id_)
                    yield CancelSaga(saga_id=id_)
            if each.type == PostTransfers.TYPE:
                yield RetryTransfer(transfer_id=UUID(fields["transfer_id"]))


class _Groups(_WithSagas):
    async def begin(self, tx: PostgresTransaction, told: Sequence[Told], heard: Sequence[Heard]) -> None:
        """Write the rows of the commands that were posted: each is still on its topic."""
        posted = [
            {
                "id": UUID(arrival.sent_id),
                "type": arrival.body.TYPE,
                "actor_id": arrival.actor,
                "content_hash": content_hash(arrival.body, arrival.actor),
                "state": CommandState.PENDING.value,
                "asked_at": _made_at(each),
            }
            for each in heard
            if each.place[0] == GROUPS_COMMANDS_FROM_HTTP.name
            and not isinstance(arrival := each.arrival, Undecodable)
            and isinstance(arrival.body, Command)
            and arrival.actor is not None
            and arrival.sent_id is not None
        ]
        if posted:
            await tx.execute(insert(groups.commands).on_conflict_do_nothing(), posted)

    async def state(self, tx: PostgresTransaction, told: Sequence[Told]) -> bool:
        """Take over what looks at low balances and standing orders led to."""
        return await take_over(tx, told)

    def tokens(self, heard: Iterable[Heard]) -> Sequence[bytes]:
        """Return the tokens of the invitations: they travel in the commands that have them mailed."""
        sent = (each for message in heard for each in message.told if each.type == SendInvitation.TYPE)
        return [bytes.fromhex(SendInvitation.from_json(each.value).token) for each in sent]

    async def mend(self, tx: PostgresTransaction, lost_at: datetime, note: Note) -> Sequence[StoredRecord]:
        """End all sessions: which of them were ended since the backup is not known."""
        ended = await tx.execute(
            sa.update(groups.sessions).where(groups.sessions.c.ended_at.is_(None)).values(ended_at=sa.func.now())
        )
        if ended.rowcount:
            note(f"{ended.rowcount} sessions of the page are ended: people log in again")
        return await super().mend(tx, lost_at, note)


class _Provisioning(_WithSagas):
    _numbers: Mapping[str, str] = {}

    async def begin(self, tx: PostgresTransaction, told: Sequence[Told], heard: Sequence[Heard]) -> None:
        """Note who had which number. One of a range that was loaded since the backup is added."""
        people = [PersonRecorded.from_json(each.value) for each in told if each.type == PersonRecorded.TYPE]
        self._numbers = {str(each.subscriber_id): each.fax_number for each in people if each.fax_number is not None}
        rows = [{"number": each, "state": NumberState.FREE.value} for each in sorted(set(self._numbers.values()))]
        if rows:
            await tx.execute(insert(provisioning.fax_numbers).on_conflict_do_nothing(), rows)

    def taken(self, heard: Iterable[Heard]) -> Sequence[Any]:
        """Return the numbers of the accounts that these messages created."""
        bodies = (m.arrival.body for m in heard if m.told and not isinstance(m.arrival, Undecodable))
        ids = (str(body.account_id) for body in bodies if isinstance(body, ProvisionAccount))
        return [self._numbers[id_] for id_ in ids if id_ in self._numbers]

    def reserved(self) -> Collection[Any]:
        """Return every number that somebody was given."""
        return frozenset(self._numbers.values())

    async def state(self, tx: PostgresTransaction, told: Sequence[Told]) -> bool:
        """Take over prices, which a deployment brought."""
        plans = [PlanPublished.from_json(each.value) for each in told if each.type == PlanPublished.TYPE]
        options = [OptionPublished.from_json(each.value) for each in told if each.type == OptionPublished.TYPE]
        offered = await tx.fetch(provisioning.PLANS, [each.plan for each in plans])
        optional = await tx.fetch(provisioning.OPTIONS, [each.option for each in options])
        for plan in plans:
            offered.put(Plan(plan.plan, plan.price_units, plan.validity_months, plan.fax_number, plan.on_sale))
        for option in options:
            optional.put(Option(option.option, option.price_units, option.on_sale))
        await tx.save([offered, optional])
        return bool(plans or options)

    def erasure(self, id_: UUID) -> StoredRecord:
        """Return the command that closes somebody's account."""
        return _record(PROVISIONING_COMMANDS, CloseAccount(account_id=id_), id_)


@dataclass
class Mails(Particular):
    """Notifications, whose mails have left the product."""

    accepted: Collection[UUID] | None = None
    """The mails that the mail server has accepted; None if nobody can tell."""
    _before: Collection[UUID] = ()

    async def begin(self, tx: PostgresTransaction, told: Sequence[Told], heard: Sequence[Heard]) -> None:
        """Note which mails were waiting: the links in those are known."""
        self._before = {row.id for row in await tx.execute(_WAITING)}

    def is_same(self, out: Outgoing, told: Told) -> bool:
        """Return whether a message is the same. The token of a link was nowhere but in its mail."""
        if out.type != PasswordLinkIssued.TYPE or out.type != told.type:
            return super().is_same(out, told)
        hashes = ({**json.loads(each), "token_sha256": None} for each in (out.value, told.value))
        return next(hashes) == next(hashes)

    async def mend(self, tx: PostgresTransaction, lost_at: datetime, note: Note) -> Sequence[StoredRecord]:
        """Decide of each mail that may have been sent whether it was."""
        erasures = await super().mend(tx, lost_at, note)
        begun = sa.or_(notifications.mails.c.next_attempt_at <= lost_at, _IN_FLIGHT)
        due = (await tx.execute(_WAITING if self.accepted is not None else _WAITING.where(begun))).all()
        sent = [row.id for row in due if self.accepted is None or row.id in self.accepted]
        await self._take_as_sent(tx, sent)
        waiting = [row for row in due if row.id not in frozenset(sent)]
        welcomes = [row for row in waiting if row.template == Template.WELCOME and row.id not in self._before]
        await _issue_links(tx, welcomes)
        if sent and self.accepted is None:
            note(
                f"{len(sent)} mails may have been sent: they count as sent, and as uncertain (--accepted knows better)"
            )
        elif sent:
            note(f"{len(sent)} mails were accepted by the mail server")
        if waiting:
            note(f"{len(waiting)} mails were not, and will be sent, {len(welcomes)} of them with a new link")
        return erasures

    async def _take_as_sent(self, tx: PostgresTransaction, ids: Sequence[UUID]) -> None:
        if not ids:
            return
        mails, deliveries = notifications.mails, notifications.deliveries
        await tx.execute(sa.update(mails).where(mails.c.id.in_(ids)).values(state=MailState.SENT.value, params={}))
        unsure = int(self.accepted is None)
        answer = "restored: may have been sent" if unsure else "restored: accepted"
        new = insert(deliveries).values([_delivery(id_, unsure, answer) for id_ in ids])
        kept = {
            "rendered": None,
            "recipient": None,
            "in_flight_since": None,
            "last_answer": answer,
            "uncertain": deliveries.c.uncertain + unsure,
        }
        await tx.execute(new.on_conflict_do_update(index_elements=["mail_id"], set_=kept))


_WAITING = (
    sa.select(notifications.mails)
    .join(notifications.people, notifications.people.c.id == notifications.mails.c.recipient_id)
    .where(notifications.mails.c.state.in_([state.value for state in WAITING]))
    .order_by(notifications.mails.c.id)
)
"""Mails that the sender may have sent: it knew to whom."""
_IN_FLIGHT = sa.exists().where(
    notifications.deliveries.c.mail_id == notifications.mails.c.id,
    notifications.deliveries.c.in_flight_since.is_not(None),
)


def _delivery(mail_id: UUID, uncertain: int, answer: str) -> dict[str, Any]:
    return {"mail_id": mail_id, "attempts": 1, "uncertain": uncertain, "last_answer": answer}


async def _issue_links(tx: PostgresTransaction, welcomes: Iterable[Any]) -> None:
    """Issue new links for welcome mails whose own nobody knows any more, and announce them."""
    now = datetime.now(UTC)
    for row in welcomes:
        token, expires_at = token_bytes(32).hex(), now + PASSWORD_LINK_LIFETIME
        mails = notifications.mails
        params = {**row.params, "token": token, "expires_at": expires_at.isoformat()}
        await tx.execute(sa.update(mails).where(mails.c.id == row.id).values(params=params))
        issued = PasswordLinkIssued(
            member_id=row.recipient_id, token_sha256=sha256(token.encode()).hexdigest(), expires_at=expires_at
        )
        id_ = uuid4()
        out = Outgoing(id_, issued.TYPE, issued.key(), issued.to_json(), str(id_), str(id_), None, None)
        await PostgresTransaction.send(tx, [out], now)


def _made_at(heard: Heard) -> datetime:
    return datetime.fromisoformat((dict(heard.arrival.record.headers)["ce_time"] or b"").decode())


def _record(topic: Topic, message: Message, actor: UUID | None) -> StoredRecord:
    """Return a message that nobody sent: under an id of its own, so that it is handled once."""
    id_ = derive(UUID(message.key()), "after a restore")
    headers: list[tuple[str, bytes | None]] = [
        ("ce_type", message.TYPE.encode()),
        ("ce_id", str(id_).encode()),
        ("ce_source", b"popfax/replay"),
    ]
    if actor is not None:
        headers.append(("ce_actor", str(actor).encode()))
    return StoredRecord(id_, None, topic.name, 0, 0, message.key().encode(), message.to_json() or None, headers)


def particular_of(service: Principal) -> Particular:
    """Return what is particular about a service."""
    match service:
        case Principal.LEDGER:
            return _Ledger(LEDGER, (ledger.holds.c.opened_at, ledger.entries.c.made_at, ledger.transfers.c.made_at))
        case Principal.GROUPS:
            of_people = sa.select(groups.subscribers.c.id).where(groups.subscribers.c.email.is_not(None))
            return _Groups(GROUPS, (groups.sagas.c.updated_at, groups.history.c.at), of_people)
        case Principal.PROVISIONING:
            own = provisioning.subscribers
            open_ = sa.select(own.c.id).where(own.c.state != AccountState.CLOSED.value)
            return _Provisioning(
                PROVISIONING, (provisioning.sagas.c.updated_at, provisioning.requests.c.decided_at), open_
            )
        case Principal.NOTIFICATIONS:
            return Mails(NOTIFICATIONS, (notifications.mails.c.made_at,), sa.select(notifications.people.c.id))
    raise ValueError(f"{service} has no database")
