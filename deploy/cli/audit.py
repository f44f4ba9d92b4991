"""`popfax audit`: whether what the four services have written is one story."""

from typing import Annotated

import typer

from deploy.cli.connection import connect
from deploy.cli.ledger import conclude, facts_of
from deploy.cli.options import EnvFile, Json
from deploy.invariants import Facts, check
from services.groups.domain import Kind


def audit(
    settled: Annotated[
        bool,
        typer.Option("--settled", help="Nothing is in flight: also ask what is true only then."),
    ] = False,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Audit all services against each other: 0 all right, 1 not, 3 a database can't be reached.

    The history must be what the ledger's entries and the memberships say, each account paid, each mail due. It reads
    while the product works, and asks only what is true at every moment, unless nothing is in flight (`--settled`).
    """
    facts = facts_of(connect(env_file))
    sound = "The history is what the entries and the memberships say, and all else is as it must be."
    conclude(_counts(facts), check(facts, settled), sound, json)


def _counts(facts: Facts) -> dict[str, int]:
    lines = facts.groups.history
    entries = facts.ledger.entries
    return {
        "groups": len(facts.groups.groups),
        "memberships": sum(membership.active for membership in facts.groups.memberships),
        "invitations": len(facts.groups.invitations),
        "transfers": len(facts.groups.transfers),
        "history_lines": sum(line.kind is not Kind.NAME for line in lines),
        "accounts": len(facts.provisioning.subscribers),
        "purchases": len(facts.provisioning.purchases),
        "mails": len(facts.notifications.mails),
        "entries": len(entries),
        "units_moved": sum(entry.amount_units for entry in entries if entry.amount_units > 0),
    }
