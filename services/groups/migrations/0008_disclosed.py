"""What an owner was shown of whom they invited, and of former members: what came after is not theirs to see."""

from alembic import op

revision = "groups_0008"
down_revision = "groups_0007"

CHANGE = """
ALTER TABLE memberships ADD COLUMN shown_name TEXT, ADD COLUMN shown_email TEXT;

ALTER TABLE invitations ADD COLUMN email TEXT;

-- What was shown until now is the last that anybody knows.
UPDATE invitations SET email = person.email FROM subscribers AS person WHERE person.id = invitations.subscriber_id;

UPDATE memberships SET shown_email = person.email,
    shown_name = nullif(concat_ws(' ', person.first_name, person.last_name), '')
FROM subscribers AS person WHERE person.id = memberships.member_id AND NOT active AND epoch > 0;

CREATE INDEX invitations_of_subscriber ON invitations (subscriber_id);
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CHANGE)
