"""Whatever table or column a service has, somebody has said whether it is about people."""

from uuid import uuid4

import pytest
import sqlalchemy as sa

from deploy.operator.personal import SCHEMAS, Held, NotHeld, Person, exported, statements, tables_of
from popfax_contracts.topics import Principal

SUSPICIOUS = ("email", "name", "recipient", "subscriber_id", "member_id", "owner_id", "account_id", "actor", "forward")


def columns_of(entry: Held | NotHeld) -> list[str]:
    return (f"{entry.shown} {entry.hidden}" if isinstance(entry, Held) else entry.columns).split()


def faults(metadata: sa.MetaData, known: dict[str, Held | NotHeld]) -> list[str]:
    """What of a schema nobody has spoken of, or is spoken of and not there."""
    found = [f"{name}: is it about people?" for name in metadata.tables.keys() - known.keys()]
    found += [f"{name}: no such table" for name in known.keys() - metadata.tables.keys() if name != "sagas"]
    for name in known.keys() & metadata.tables.keys():
        there, said = {column.name for column in metadata.tables[name].columns}, columns_of(known[name])
        found += [f"{name}.{column}: is it about people?" for column in sorted(there - set(said))]
        found += [f"{name}.{column}: no such column" for column in sorted(set(said) - there)]
        found += [f"{name}.{column}: said twice" for column in sorted({c for c in said if said.count(c) > 1})]
    return found


@pytest.mark.parametrize("service", SCHEMAS)
def test_every_table_and_column_is_spoken_of(service: Principal) -> None:
    assert faults(SCHEMAS[service].metadata, dict(tables_of(service))) == []


def test_all_four_services_are() -> None:
    assert set(SCHEMAS) == set(Principal) - {Principal.PLATFORM}


@pytest.mark.parametrize("service", SCHEMAS)
def test_what_is_said_to_be_about_nobody_has_no_persons_column(service: Principal) -> None:
    for name, entry in tables_of(service).items():
        if isinstance(entry, NotHeld):
            assert not [c for c in entry.columns.split() if any(word in c for word in SUSPICIOUS)], name


def test_a_new_table_and_a_new_column_are_found() -> None:
    metadata = sa.MetaData()
    for table in SCHEMAS[Principal.LEDGER].metadata.sorted_tables:
        table.to_metadata(metadata)
    known = dict(tables_of(Principal.LEDGER))
    sa.Table("diaries", metadata, sa.Column("person_id", sa.Uuid))
    metadata.tables["accounts"].append_column(sa.Column("nickname", sa.Text))
    assert faults(metadata, known) == ["diaries: is it about people?", "accounts.nickname: is it about people?"]


@pytest.mark.parametrize("service", SCHEMAS)
def test_each_table_is_asked_for_the_persons_rows_alone(service: Principal) -> None:
    for name, _, statement in statements(service, Person(uuid4(), "somebody@example.org")):
        assert statement.whereclause is not None, name


def test_leaves_out_what_is_anothers_and_what_opens_something() -> None:
    me, other = uuid4(), uuid4()
    held = Held(lambda *_: sa.true(), "member_id email value", others={"email": "member_id"})
    row = {"member_id": other, "email": "other@example.org", "value": b'{"token": "secret", "list": [{"token": "s"}]}'}
    shown = exported(row, held, Person(me, None))
    assert "email" not in shown
    assert "secret" not in str(shown)
    assert exported({**row, "member_id": me}, held, Person(me, None))["email"] == "other@example.org"
