"""Members are searched and sorted by a text that the database keeps of each person's name and address."""

from alembic import op

revision = "groups_0018"
down_revision = "groups_0017"
compatible_from = "groups_0010"

ADD = "ALTER TABLE subscribers ADD COLUMN IF NOT EXISTS listed_as TEXT"

# Without accents, in small letters, whatever the database's own locale is.
CREATE_FOLDED = r"""
CREATE OR REPLACE FUNCTION folded(given TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN replace(replace(replace(
    translate(
        lower(regexp_replace(normalize(given, NFKD), '[\u0300-\u036F]', '', 'g') COLLATE pg_c_utf8),
        U&'\2019\02BC\2010\2011\2013', '''''---'
    ),
    U&'\0153', 'oe'), U&'\00E6', 'ae'), U&'\00DF', 'ss');
"""

# Last name and first name as they are sorted, with each number behind a character that says how long it is; and,
# behind a line break, what is searched.
CREATE_LISTED_AS = r"""
CREATE OR REPLACE FUNCTION listed_as(first_name TEXT, last_name TEXT, email TEXT) RETURNS TEXT
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    sorted TEXT := coalesce(nullif(folded(concat_ws(' ', last_name, first_name)), ''), folded(email));
BEGIN
    IF sorted ~ '[0-9]' THEN
        FOR digits IN 1..12 LOOP
            sorted := regexp_replace(
                sorted, format('(?<![0-9])([0-9]{%s})(?![0-9])', digits), chr(16 + digits) || '\1', 'g'
            );
        END LOOP;
    END IF;
    RETURN sorted || chr(10) || folded(concat_ws(' ', first_name, last_name, email));
END $$;
"""

# A trigger, and no generated column: that would rewrite the table under a lock. It fires for the version before, too,
# so that nobody's former name stays behind, whoever changes or erases it.
CREATE_TRIGGERS = """
CREATE OR REPLACE FUNCTION list_subscriber() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    NEW.listed_as := listed_as(NEW.first_name, NEW.last_name, NEW.email);
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER listed BEFORE INSERT ON subscribers
    FOR EACH ROW EXECUTE FUNCTION list_subscriber();

CREATE OR REPLACE TRIGGER listed_again BEFORE UPDATE OF first_name, last_name, email ON subscribers
    FOR EACH ROW
    WHEN ((OLD.first_name, OLD.last_name, OLD.email) IS DISTINCT FROM (NEW.first_name, NEW.last_name, NEW.email))
    EXECUTE FUNCTION list_subscriber();
"""

LIST_ALL = """
DO $$
BEGIN
    LOOP
        UPDATE subscribers SET listed_as = listed_as(first_name, last_name, email)
        WHERE id IN (
            SELECT id FROM subscribers
            WHERE listed_as IS NULL AND (first_name, last_name, email) IS DISTINCT FROM (NULL, NULL, NULL)
            LIMIT 5000 FOR UPDATE SKIP LOCKED
        );
        EXIT WHEN NOT FOUND;
        COMMIT;
    END LOOP;
END $$
"""
"""In batches, each a transaction of its own. Whoever is locked just then is read as they are: see `members.listed`."""


def upgrade() -> None:
    """Apply; all of it can be repeated, for what comes before the batches is committed when they begin."""
    for statement in (ADD, CREATE_FOLDED, CREATE_LISTED_AS, CREATE_TRIGGERS):
        op.execute(statement)
    with op.get_context().autocommit_block():
        op.execute(LIST_ALL)
