"""Ended mails are removed by age, and indexes hold only those that may still be sent."""

from alembic import op

from services.chassis.migrations.plumbing_0005 import CREATE_REMOVALS, INDEX_INBOX

revision = "notifications_0007"
down_revision = "notifications_0006"
compatible_from = "notifications_0004"

INDEX_MAILS = (
    "DROP INDEX CONCURRENTLY IF EXISTS mails_ended",
    "DROP INDEX CONCURRENTLY IF EXISTS mails_waiting_for",
    "DROP INDEX CONCURRENTLY IF EXISTS mails_waiting_about",
    "CREATE INDEX CONCURRENTLY mails_ended ON mails (next_attempt_at) "
    "WHERE state NOT IN ('queued', 'rendered', 'parked')",
    "CREATE INDEX CONCURRENTLY mails_waiting_for ON mails (recipient_id) "
    "WHERE state IN ('queued', 'rendered', 'parked')",
    "CREATE INDEX CONCURRENTLY mails_waiting_about ON mails (about_id) WHERE state IN ('queued', 'rendered', 'parked')",
    "DROP INDEX CONCURRENTLY IF EXISTS mails_by_recipient",
    "DROP INDEX CONCURRENTLY IF EXISTS mails_by_subject",
)


def upgrade() -> None:
    """Apply."""
    op.execute(CREATE_REMOVALS)
    with op.get_context().autocommit_block():
        for statement in (*INDEX_INBOX, *INDEX_MAILS):
            op.execute(statement)
