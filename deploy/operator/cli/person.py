"""`popfax person`: what the four services keep about a person."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import typer

from deploy.operator.cli.connection import Connection, connect
from deploy.operator.cli.errors import Failure
from deploy.operator.cli.extensible import PERSON, Extensible
from deploy.operator.cli.options import EnvFile, Subscriber
from deploy.operator.cli.output import print_json
from deploy.operator.personal import NOT_INCLUDED, SCHEMAS, Person, exported, statements
from popfax_contracts.topics import Principal
from services.provisioning.tables import subscribers


class _Person(Extensible):
    entry_points = PERSON


app = typer.Typer(cls=_Person, help="Look at what is kept about a person.", no_args_is_help=True)


@app.command("export")
def export(id_: Subscriber, env_file: EnvFile = None) -> None:
    """Print all that the four services keep of a person, as JSON: 0 something, 1 nothing, 3 a database is away.

    Each row stands under its service and its table. Closing the account erases what is personal of it.
    """
    connection = connect(env_file)
    person = Person(id_, _email(connection, id_))
    held = {service.value: _held(connection, service, person) for service in SCHEMAS}
    if not any(held.values()):
        raise Failure(f"nothing is kept of {id_}")
    made_at = datetime.now(UTC)
    print_json({"person": id_, "exported_at": made_at, "held": held, "not_included": dict(NOT_INCLUDED)})


def _email(connection: Connection, id_: UUID) -> str | None:
    """Return the person's present address: some waiting messages identify them by nothing else."""
    found = connection.rows(Principal.PROVISIONING, sa.select(subscribers.c.email).where(subscribers.c.id == id_))
    return found[0].email if found else None


def _held(connection: Connection, service: Principal, person: Person) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for table, held, statement in statements(service, person):
        if rows := connection.rows(service, statement):
            found[table] = [exported(row._mapping, held, person) for row in rows]
    return found
