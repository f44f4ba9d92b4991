"""The options that commands share."""

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from popfax_contracts.topics import SERVICES, Principal

EnvFile = Annotated[
    Path | None,
    typer.Option(
        "--env-file",
        envvar="POPFAX_ENV_FILE",
        help="Settings of the product to talk to (LEDGER_DATABASE_URL=…, PLATFORM_KAFKA_BOOTSTRAP=…). Without it: the "
        "environment, if it has such settings, else the product that runs here.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="How many seconds to wait for the outcome.")]
StuckAfter = Annotated[
    float,
    typer.Option("--stuck-after", min=1, help="Report whatever began more than this many seconds ago and is not done."),
]
Service = Annotated[Principal | None, typer.Option("--service", help="Look at this service alone.", show_choices=True)]
Subscriber = Annotated[UUID, typer.Argument(metavar="ID", help="The subscriber's id.")]


def services(only: Principal | None) -> tuple[Principal, ...]:
    """Return the services that have a database, or the one that was asked for."""
    return SERVICES if only is None else tuple(each for each in SERVICES if each is only)
