"""`popfax up`: the product on this machine, until Ctrl-C."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated
from uuid import UUID

import sqlalchemy as sa
import typer
from rich.console import Console
from rich.text import Text

from deploy.local.paths import path_for_people
from deploy.local.product import Product
from deploy.local.running import running, wait_for_interrupt
from deploy.operator.cli import connection
from deploy.operator.cli.options import Json
from deploy.operator.cli.output import err, out, print_json, print_table
from popfax_contracts.topics import Principal
from services.groups.tables import memberships

Directory = Annotated[
    Path | None, typer.Option("--directory", help="Where the product's data live; .local/demo without it.")
]


def up(
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the data of earlier runs.")] = False,
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt all connections, with an authority of its own.")] = False,
    brokers: Annotated[int, typer.Option("--brokers", help="How many Kafka brokers: 1 or 3.")] = 1,
    directory: Directory = None,
    json: Json = False,
) -> None:
    """Start Kafka, PostgreSQL, a mail sink and the four services here, and keep them up until Ctrl-C.

    Other commands find them by themselves (or by --env-file, with --directory).
    """
    place = (directory or connection.DIRECTORY).absolute()
    with running(place, err if json else out, fresh=fresh, tls=tls, brokers=brokers) as (product, connected):
        if json:
            print_json(addresses(product) | {"env_file": place / connection.FILE_NAME})
            out.file.flush()
        else:
            show(product, place)
        with logins(product):
            if not json:
                show_links(out, links(product, people_of(connected)))
                out.print(Text("\nCtrl-C stops it all.", style="bold"))
            wait_for_interrupt()


def addresses(product: Product) -> dict[str, str]:
    """Return where the parts of a running product are."""
    stack = product.stack
    database = stack.postgres.superuser_url.split("@", 1)[-1].split("/")[0]
    return {
        "kafka": stack.kafka.bootstrap,
        "postgresql": database,
        "smtp": f"{stack.mail.host}:{stack.mail.port}",
        **{str(principal): service.url for principal, service in product.services.items()},
    }


def logins(product: Product) -> AbstractContextManager[None]:
    """Let login links work for as long as the context lasts."""
    return product.stack.login_codes.served(product.stack.keys, product.services[Principal.GROUPS].url)


def links(product: Product, people: Iterable[tuple[str, UUID]]) -> list[tuple[str, str]]:
    """Return login links to the page, by people's names. Anyone who has one is that person; only for local use."""
    return [(name, link) for name, id_ in people if (link := product.stack.login_codes.link(id_))]


def show_links(console: Console, found: Iterable[tuple[str, str]]) -> None:
    """Print links, each whole on a line of its own, so that it can be clicked or copied."""
    links = list(found)
    if not links:
        return
    console.print(Text("The page, in a browser:", style="bold"))
    for name, link in links:
        console.print(Text(f"  {name}: ").append(link, style=f"cyan link {link}"), soft_wrap=True)
    console.print(Text("  Each works once, within an hour; `popfax person link ID` prints others.", style="dim"))


def people_of(connected: connection.Connection, owner_id: UUID | None = None) -> list[tuple[str, UUID]]:
    """Return an owner (this one, or the one whom somebody joined last) and a member of their group, if there is one."""
    newest = sa.select(memberships.c.owner_id, memberships.c.member_id).where(memberships.c.active)
    newest = newest.order_by(memberships.c.joined_at.desc()).limit(1)
    if owner_id is not None:
        newest = newest.where(memberships.c.owner_id == owner_id)
    found = connected.rows(Principal.GROUPS, newest)
    if found:
        return [("as the owner of a group", found[0].owner_id), ("as a member of it", found[0].member_id)]
    return [("as the owner of a group", owner_id)] if owner_id is not None else []


def show(product: Product, directory: Path) -> None:
    """Print where everything is, and how to reach it."""
    places = addresses(product)
    rows: list[tuple[str, object]] = [
        ("Kafka", f"{places['kafka']}  (SASL/SCRAM, a user a service)"),
        ("PostgreSQL", f"{places['postgresql']}  (a database and a role a service)"),
        ("mails", path_for_people(product.stack.mail.mails)),
        *((str(each), f"{places[each]}/ready  /live  /metrics") for each in product.services),
        ("page", places["groups"]),
        ("settings", path_for_people(directory / connection.FILE_NAME)),
    ]
    out.print()
    print_table(("", ""), rows)
