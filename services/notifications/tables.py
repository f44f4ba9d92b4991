"""Notifications' tables."""

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from services.chassis.rows import Mapped, RowSet
from services.chassis.tables import Bytes, add_messaging_tables, timestamp
from services.chassis.waiting import FEWER, Waiting
from services.notifications.domain import UNDONE, Delivery, Erased, Mail, Person

metadata = sa.MetaData()
add_messaging_tables(metadata)

people = sa.Table(
    "people",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("email", sa.Text, nullable=False),
    sa.Column("first_name", sa.Text, nullable=False),
    sa.Column("last_name", sa.Text, nullable=False),
    sa.Column("language", sa.Text, nullable=False),
    sa.Column("fax_number", sa.Text),
    sa.Column("time_zone", sa.Text),
)

erased = sa.Table("erased", metadata, sa.Column("id", sa.Uuid, primary_key=True))

mails = sa.Table(
    "mails",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("template", sa.Text, nullable=False),
    sa.Column("recipient_id", sa.Uuid, nullable=False),
    sa.Column("about_id", sa.Uuid),
    sa.Column("params", JSONB, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("made_at", timestamp(), nullable=False),
    sa.Column("next_attempt_at", timestamp(), nullable=False),
    sa.Column("invitation_id", sa.Uuid),
    sa.Column("round", sa.Integer),
    sa.Column("traceparent", sa.Text),
)
sa.Index("mails_due", mails.c.next_attempt_at, postgresql_where=mails.c.state.in_(["queued", "rendered"]))
# Looked up when somebody is erased: only mails that may still be sent, which are few, however many were.
_may_be_sent = mails.c.state.in_(["queued", "rendered", "parked"])
sa.Index("mails_waiting_for", mails.c.recipient_id, postgresql_where=_may_be_sent)
sa.Index("mails_waiting_about", mails.c.about_id, postgresql_where=_may_be_sent)
ENDED: sa.ColumnElement[bool] = sa.literal_column("state NOT IN ('queued', 'rendered', 'parked')", sa.Boolean())
"""Mails that are done with, whatever became of them. As the index has it: bound values would not match it."""
# By the moment of the last attempt, near enough.
sa.Index("mails_ended", mails.c.next_attempt_at, postgresql_where=ENDED)

# A mail's delivery: the row is inserted when the mail is rendered, and written only with the mail locked.
deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("mail_id", sa.Uuid, primary_key=True),
    sa.Column("rendered", Bytes),
    sa.Column("recipient", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    # Set, and committed, before the server is contacted; cleared with its answer. If it is still set later: uncertain.
    sa.Column("in_flight_since", timestamp()),
    sa.Column("uncertain", sa.Integer, nullable=False),
    sa.Column("last_answer", sa.Text),
    sa.Column("sent_at", timestamp()),
)

PEOPLE: Mapped[UUID, Person] = Mapped(people, Person)
ERASED: Mapped[UUID, Erased] = Mapped(erased, Erased)
MAILS: Mapped[UUID, Mail] = Mapped(
    mails, Mail, constant=("template", "recipient_id", "about_id", "made_at", "invitation_id", "round", "traceparent")
)
DELIVERIES: Mapped[UUID, Delivery] = Mapped(
    deliveries,
    Delivery,
    constant=("attempts", "in_flight_since", "uncertain", "last_answer", "sent_at"),
)

WAITING_FOR = RowSet(MAILS, "recipient_id", state=UNDONE)
"""The mails that may still be sent to a person."""
WAITING_ABOUT = RowSet(MAILS, "about_id", state=UNDONE)
"""The mails about a person that may still be sent to others."""

_undone = (
    sa.select(mails.c.made_at, mails.c.recipient_id)
    .where(mails.c.state.in_(["queued", "rendered"]))
    .order_by(mails.c.next_attempt_at)
    .limit(FEWER)
    .subquery()
)
_known = sa.exists().where(people.c.id == _undone.c.recipient_id)

WAITING = (
    Waiting(
        "mail",
        "mails that are not sent yet, of the 10,000 whose turn is next",
        sa.select(_undone.c.made_at).where(_known),
    ),
    Waiting(
        "mail_to_unknown",
        "among those, mails whose recipient's record has not arrived",
        sa.select(_undone.c.made_at).where(~_known),
    ),
)
"""What is open in these tables."""
