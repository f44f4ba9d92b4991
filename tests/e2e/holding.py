"""Holds back one topic of a service at the very end of its way: what is to be published waits, all else goes out."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from popfax_contracts.message import Message
from popfax_contracts.topics import Principal
from tests.e2e.driver import World

_COLUMNS = "id, type, key, value, correlation_id, causation_id, actor, traceparent, made_at"

_HOLD = """
CREATE TABLE held AS SELECT * FROM outbox WHERE false;
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO held SELECT NEW.*; RETURN NULL; END';
CREATE TRIGGER hold BEFORE INSERT ON outbox FOR EACH ROW WHEN (NEW.type = '{type}' AND {also}) EXECUTE FUNCTION hold();
"""
_RELEASE = """
DROP TRIGGER hold ON outbox;
INSERT INTO outbox ({columns}) SELECT {columns} FROM held ORDER BY seq;
DROP TABLE held;
DROP FUNCTION hold();
"""


@contextmanager
def held_back(world: World, service: Principal, model: type[Message], also: str = "true") -> Iterator[None]:
    """Until the block ends, what a service says of one type stays in its database; then it is published in order.

    `also` is a condition in SQL on `NEW`, the outbox's row: what else must be true of what is held.
    """
    url = world.stack.postgres.url(service).replace("+psycopg", "", 1)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_HOLD.format(type=model.TYPE, also=also).encode())
        try:
            yield
        finally:
            connection.execute(f"BEGIN; {_RELEASE.format(columns=_COLUMNS)}; COMMIT".encode())
