"""`popfax ledger`: whether the books are right."""

from typing import Annotated

import sqlalchemy as sa
import typer

from deploy.cli.connection import Connection, connect
from deploy.cli.errors import Exit, Unreachable
from deploy.cli.options import EnvFile, Json
from deploy.cli.output import print_json, print_table, say
from deploy.facts import TABLES, read_facts
from deploy.invariants import Code, Facts, Violation, check, check_ledger

app = typer.Typer(help="Verify the books.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Verify the books."""


@app.command()
def verify(
    everything: Annotated[
        bool, typer.Option("--all", help="Also what must be true of the other three services' data.")
    ] = False,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Verify that entries sum to zero, balances equal their entries, and no hold is orphaned: 0 right, 1 not.

    It reads while the product works, and asks only what is true at every moment.
    """
    facts = facts_of(connect(env_file))
    everywhere = check(facts, settled=False)
    # A hold is the ledger's, the saga that will close it is groups': the ledger alone can't tell an orphan.
    orphans = [each for each in everywhere if each.code is Code.ORPHAN_HOLD]
    violations = everywhere if everything else [*check_ledger(facts.ledger), *orphans]
    if json:
        print_json(_counts(facts) | {"violations": [_summary(each) for each in violations]})
    else:
        _show(facts, violations)
    if violations:
        raise typer.Exit(Exit.NO)


def facts_of(connection: Connection) -> Facts:
    """Read the facts of all four services. Raises Unreachable."""
    urls = {principal: connection.database_url(principal) for principal in TABLES}
    try:
        return read_facts(urls)
    except sa.exc.OperationalError as error:
        raise Unreachable("a service's database can't be reached") from error


def _show(facts: Facts, violations: list[Violation]) -> None:
    say(", ".join(f"{count} {name}" for name, count in _counts(facts).items()))
    if violations:
        print_table(("violation", "of", "detail"), [(each.code, each.subject, each.detail) for each in violations])
        say(f"✗ {len(violations)} violations", "red")
        return
    say("✓ Entries sum to zero, balances equal their entries, no hold is orphaned.", "green")


def _counts(facts: Facts) -> dict[str, int]:
    ledger = facts.ledger
    return {
        "accounts": len(ledger.accounts),
        "entries": len(ledger.entries),
        "transfers": len(ledger.transfers),
        "holds": len(ledger.holds),
    }


def _summary(violation: Violation) -> dict[str, str]:
    return {"code": violation.code, "subject": violation.subject, "detail": violation.detail}
