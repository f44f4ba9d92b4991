"""`popfax up`: the product on this machine, until Ctrl-C."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from deploy.cli import connection
from deploy.cli.options import Directory, Json
from deploy.cli.output import err, out, print_json, print_table
from deploy.cli.running import running, wait_for_interrupt
from deploy.local.product import Product


def up(
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the data of earlier runs.")] = False,
    directory: Directory = None,
    json: Json = False,
) -> None:
    """Start Kafka, PostgreSQL, a mail sink and the four services here, and keep them up until Ctrl-C.

    Other commands find them by themselves (or by --env-file, with --directory).
    """
    place = (directory or connection.DIRECTORY).absolute()
    with running(place, err if json else out, fresh=fresh) as (product, _):
        if json:
            print_json(addresses(product) | {"env_file": place / connection.FILE_NAME})
            out.file.flush()
        else:
            show(product, place)
        wait_for_interrupt()


def addresses(product: Product) -> dict[str, str]:
    """Give where the parts of a running product are."""
    stack = product.stack
    database = stack.postgres.superuser_url.rsplit("@", 1)[-1].split("/")[0]
    return {
        "kafka": stack.kafka.bootstrap,
        "postgresql": database,
        "smtp": f"{stack.mail.host}:{stack.mail.port}",
        **{str(principal): service.url for principal, service in product.services.items()},
    }


def show(product: Product, directory: Path) -> None:
    """Print where everything is, and how to reach it."""
    places = addresses(product)
    rows: list[tuple[str, object]] = [
        ("Kafka", f"{places['kafka']}  (SASL/SCRAM, a user a service)"),
        ("PostgreSQL", f"{places['postgresql']}  (a database and a role a service)"),
        ("mails", connection.path_for_people(product.stack.mail.mails)),
        *((str(each), f"{places[each]}/ready  /live  /metrics") for each in product.services),
        ("settings", connection.path_for_people(directory / connection.FILE_NAME)),
    ]
    out.print()
    print_table(("", ""), rows)
    out.print(Text("\nCtrl-C stops it all.", style="bold"))
