"""Notifications' tables."""

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from services._platform.rows import Mapped
from services._platform.tables import Bytes, add_platform_tables, timestamp
from services.notifications.domain import Mail, Person

metadata = sa.MetaData()
add_platform_tables(metadata)

people = sa.Table(
    "people",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("email", sa.Text, nullable=False),
    sa.Column("first_name", sa.Text, nullable=False),
    sa.Column("last_name", sa.Text, nullable=False),
    sa.Column("language", sa.Text, nullable=False),
    sa.Column("fax_number", sa.Text),
)

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
)
sa.Index("mails_due", mails.c.next_attempt_at, postgresql_where=mails.c.state.in_(["queued", "rendered"]))

# How a mail's delivery goes. The handlers know nothing of it: a row is made when the mail is rendered.
deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("mail_id", sa.Uuid, primary_key=True),
    sa.Column("rendered", Bytes),
    sa.Column("recipient", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    # Set, and committed, before the server is spoken to; cleared with its answer. Still there later: we don't know.
    sa.Column("in_flight_since", timestamp()),
    sa.Column("uncertain", sa.Integer, nullable=False),
    sa.Column("last_answer", sa.Text),
    sa.Column("sent_at", timestamp()),
)

PEOPLE: Mapped[UUID, Person] = Mapped(people, Person)
MAILS: Mapped[UUID, Mail] = Mapped(mails, Mail)
