"""`popfax transfer`: transfers that the ledger has not answered, and how to ask it again now."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
import typer

from deploy.operator.cli.connection import Connection, connect
from deploy.operator.cli.errors import Failure, Unreachable
from deploy.operator.cli.intervening import begins, hand_over, the_one, wait_for
from deploy.operator.cli.options import EnvFile, Json, Timeout
from deploy.operator.cli.output import ago, print_json, print_table, say, short
from popfax_contracts.topics import Principal
from services.chassis.postgres import TIMER
from services.groups.domain import TRANSFER_DEADLINE, Transfer, TransferState
from services.groups.tables import TRANSFERS, history, transfers
from services.groups.timers import RetryTransfer

app = typer.Typer(help="List the open transfers of groups, and retry them.", no_args_is_help=True)

_MEMBERS = (
    sa.select(sa.func.count()).select_from(history).where(history.c.reference_id == transfers.c.id).scalar_subquery()
)
_ROWS = sa.select(*TRANSFERS.columns, _MEMBERS.label("members"))


@dataclass(frozen=True, slots=True)
class Found:
    """A transfer, and the number of its members."""

    row: Transfer
    members: int

    @property
    def is_open(self) -> bool:
        """Return whether the ledger has not answered yet."""
        return self.row.state is TransferState.PENDING

    def stuck(self, now: datetime) -> bool:
        """Return whether it has been open for longer than any transfer should be."""
        return self.is_open and now - self.row.asked_at > TRANSFER_DEADLINE


TransferId = Annotated[str, typer.Argument(help="The transfer's id, or as much of its beginning as is unique.")]


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, help="At most this many, the oldest first.")] = 100,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """List the open transfers with their age; a stuck one has waited for the ledger for more than five minutes."""
    found = pending(connect(env_file), limit)
    now = datetime.now(UTC)
    if json:
        print_json([_summary(transfer, now) for transfer in found])
        return
    if not found:
        say("No open transfer.")
        return
    print_table(
        ("transfer", "of group", "owner", "members", "mode", "units", "age", "requests", ""),
        [
            (
                short(row.id),
                short(row.group_id),
                short(row.owner_id),
                transfer.members,
                row.mode,
                row.amount_units,
                ago(row.asked_at, now),
                row.requests,
                "STUCK" if transfer.stuck(now) else "",
            )
            for transfer in found
            for row in [transfer.row]
        ],
    )


@app.command()
def retry(transfer: TransferId, timeout: Timeout = 5.0, json: Json = False, env_file: EnvFile = None) -> None:
    """Ask the ledger for a transfer again. It gives the same answer again, so this is harmless."""
    connection = connect(env_file)
    before = _find(connection, transfer)
    id_ = before.row.id
    if not before.is_open:
        raise Failure(f"transfer {id_} has ended: {_where(before)}")
    correlation_id, actor = _cause(connection, id_)
    hand_over(connection, Principal.GROUPS, RetryTransfer(transfer_id=id_), correlation_id, actor)
    after = wait_for(lambda: _find(connection, str(id_)), lambda found: not found.is_open, timeout)
    if json:
        print_json(_summary(after, datetime.now(UTC)))
    else:
        say(f"transfer {id_}: {_where(after)}")
    if after.is_open and after.row.requests == before.row.requests:
        raise Unreachable(f"groups did not take it up within {timeout:g} s: it will when it runs")


def _cause(connection: Connection, id_: UUID) -> tuple[str, UUID | None]:
    """Return the correlation id and the actor of the command that began the transfer, for its answer to carry."""
    query = sa.select(TIMER.c.correlation_id, TIMER.c.actor).where(TIMER.c.id == id_)
    rows = connection.rows(Principal.GROUPS, query)
    if not rows:
        raise Failure(f"transfer {id_} has no timer: if that is parked, `popfax parked retry` it")
    return rows[0].correlation_id, rows[0].actor


def _find(connection: Connection, id_: str) -> Found:
    return the_one(_read(connection, _ROWS.where(begins(transfers.c.id, id_)).limit(2)), "transfer", id_)


def pending(connection: Connection, limit: int) -> Sequence[Found]:
    """Return the transfers that the ledger has not answered, oldest first."""
    waiting = transfers.c.state == TransferState.PENDING.value
    return _read(connection, _ROWS.where(waiting).order_by(transfers.c.asked_at).limit(limit))


def _read(connection: Connection, query: sa.Select[Any]) -> Sequence[Found]:
    return [Found(TRANSFERS.from_values(row[:-1]), row.members) for row in connection.rows(Principal.GROUPS, query)]


def _summary(transfer: Found, now: datetime) -> dict[str, Any]:
    row = transfer.row
    return {
        "id": row.id,
        "group_id": row.group_id,
        "owner_id": row.owner_id,
        "members": transfer.members,
        "mode": row.mode,
        "amount_units": row.amount_units,
        "state": row.state,
        "code": row.code,
        "total_units": row.total_units,
        "asked_at": row.asked_at,
        "ended_at": row.ended_at,
        "age_s": round(((row.ended_at or now) - row.asked_at).total_seconds(), 3),
        "requests": row.requests,
        "stuck": transfer.stuck(now),
    }


def _where(transfer: Found) -> str:
    row = transfer.row
    if transfer.is_open:
        return f"pending, the ledger was asked {row.requests} times"
    return f"{row.state} {row.code or f'{row.total_units} units'}"
