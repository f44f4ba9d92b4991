"""`popfax ledger`: verify the books, and post corrections to them."""

import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Annotated
from uuid import UUID, uuid4

import sqlalchemy as sa
import typer
from pydantic import ValidationError

from deploy.operator.cli.auditing import Found, Progress, conclude, open_snapshots
from deploy.operator.cli.connection import Connection, connect
from deploy.operator.cli.errors import Exit, Unreachable, UsageError
from deploy.operator.cli.intervening import POLL_S, hand_over
from deploy.operator.cli.options import EnvFile, Json, StuckAfter, Timeout
from deploy.operator.cli.output import print_json, print_table, say, short
from deploy.operator.invariants import Invariant, Lateness, Snapshot, check_ledger, check_purchases, check_sagas
from deploy.operator.snapshots import counted
from popfax_contracts.topics import Principal
from services.ledger.domain import Correction
from services.ledger.messages import CorrectBalance
from services.ledger.tables import CORRECTIONS

app = typer.Typer(help="Verify the books, and correct a balance.", no_args_is_help=True)


@app.command()
def verify(
    stuck_after: StuckAfter = 900,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Verify that entries sum to zero, balances equal their entries, and no hold is orphaned: 0 right, 1 not.

    It reads while the product works, and asks only what is true at every moment. `popfax audit` asks all services.
    """
    found = Found()
    with Progress().shown() as progress, open_snapshots(connect(env_file), progress) as snapshot:
        progress.begin("books")
        found.add(check_ledger(snapshot.ledger))
        # Holds are the ledger's, the sagas that close them other services': the ledger alone can't find orphans.
        progress.begin("holds")
        late = Lateness(settled=False, before=datetime.now(UTC) - timedelta(seconds=stuck_after))
        of_holds = chain(check_sagas(snapshot, late), check_purchases(snapshot, late))
        found.add(each for each in of_holds if each.code is Invariant.ORPHAN_HOLD)
        counts = _counts(snapshot)
    sound = "Entries sum to zero, balances equal their entries, no hold is orphaned."
    conclude(counts, found, sound, json)


# A negative amount must not be parsed as an option.
@app.command(context_settings={"ignore_unknown_options": True})
def correct(
    account: Annotated[UUID, typer.Argument(help="The account's id.")],
    amount: Annotated[int, typer.Argument(help="How many units to post to it; negative takes them from it.")],
    reason: Annotated[str, typer.Option(help="Why, for the audit: one line of 3 to 200 characters.")],
    operator: Annotated[str, typer.Option(help="Who you are, for the audit.")],
    timeout: Timeout = 5.0,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Post a correction, whatever the account's state: 0 done, 1 refused (units are short), 3 no answer.

    It can't be taken back but by another one. Without an answer it waits for the ledger, so don't ask again: see
    `popfax ledger corrections`.
    """
    message = _correction(uuid4(), account, amount, reason, operator)
    connection = connect(env_file)
    hand_over(connection, Principal.LEDGER, message, str(message.correction_id))
    made = _await_audit(connection, message.correction_id, timeout)
    if made is None:
        where = f"correction {message.correction_id} is among its timers, and is decided when it runs"
        raise Unreachable(f"the ledger did not take it up within {timeout:g} s: {where}")
    if json:
        print_json(asdict(made))
    else:
        sign, style = ("✓", "green") if made.code is None else ("✗", "red")
        say(f"{sign} correction {made.id}: {made.amount_units:+d} units, {_outcome(made)}", style)
    if made.code is not None:
        raise typer.Exit(Exit.NO)


@app.command()
def corrections(
    limit: Annotated[int, typer.Option(min=1, help="At most this many, the newest first.")] = 100,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """List what operators have corrected, done or refused: which account, by how much, why, who."""
    newest = CORRECTIONS.table.c.made_at.desc()
    query = sa.select(*CORRECTIONS.columns).order_by(newest, CORRECTIONS.key_column).limit(limit)
    made = [CORRECTIONS.from_values(row) for row in connect(env_file).rows(Principal.LEDGER, query)]
    if json:
        print_json([asdict(each) for each in made])
        return
    if not made:
        say("No correction.")
        return
    print_table(
        ("correction", "account", "units", "made at", "outcome", "operator", "reason"),
        [
            (
                short(each.id),
                each.account_id,
                f"{each.amount_units:+d}",
                each.made_at,
                _outcome(each),
                each.operator,
                each.reason,
            )
            for each in made
        ],
    )


def _correction(id_: UUID, account: UUID, amount: int, reason: str, operator: str) -> CorrectBalance:
    try:
        return CorrectBalance(
            correction_id=id_, account_id=account, amount_units=amount, reason=reason, operator=operator
        )
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        wrong = "; ".join(f"{each['loc'][0]}: {each['msg']}" for each in found)
        raise UsageError(f"the correction can't be made: {wrong}") from error


def _await_audit(connection: Connection, id_: UUID, timeout_s: float) -> Correction | None:
    query = sa.select(*CORRECTIONS.columns).where(CORRECTIONS.key_column == id_)
    deadline = time.monotonic() + timeout_s
    while not (rows := connection.rows(Principal.LEDGER, query)):
        if time.monotonic() > deadline:
            return None
        time.sleep(POLL_S)
    return CORRECTIONS.from_values(rows[0])


def _outcome(made: Correction) -> str:
    return "done" if made.code is None else f"refused: {made.code}"


def _counts(snapshot: Snapshot) -> dict[str, int]:
    return {
        "accounts": counted(snapshot.ledger.accounts),
        "entries": counted(snapshot.ledger.entries),
        "transfers": counted(snapshot.ledger.transfers),
        "holds": counted(snapshot.ledger.holds),
    }
