"""`popfax demo`: the whole product on this machine, and its story."""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from uuid import UUID

import typer
from rich.box import ROUNDED
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from deploy.demo.cast import Cast
from deploy.demo.checks import Check, checks
from deploy.demo.narration import MAX_WIDTH, Narrator
from deploy.demo.reading import Reader
from deploy.demo.story import Story
from deploy.local.paths import path_for_people
from deploy.local.product import Product
from deploy.local.running import running, wait_for_interrupt
from deploy.local.up import Directory, addresses, links, logins, people_of, show_links
from deploy.operator.cli import connection
from deploy.operator.cli.errors import Exit
from deploy.operator.cli.options import Json
from deploy.operator.cli.output import continued, err, out, print_json


def demo(directory: Directory = None, json: Json = False) -> None:
    """Start it all afresh, play its story and tell it as it happens, check it, and stay up until Ctrl-C.

    With DEMO_EXIT=1, or when the output is no terminal, it ends after the story: 0 if every expected thing was
    observed, 1 if not.
    """
    place = (directory or connection.DIRECTORY).absolute()
    console = err if json else out
    console.print(Text("Popfax Groups", style="bold").append(": the whole product, on this machine", "not bold"))
    # Offsets say what is handled, so they are committed at once.
    with running(place, console, fresh=True, offset_commit_s="0.01") as (product, connected):
        cast = Cast()
        reader = Reader(connected, product.stack.mail.mails)
        narrator = Narrator(console, cast.names())
        results = checks(Story(connected, reader, narrator, cast).play())
        narrator.scene("What was expected, and what was read back")
        show_checks(results, console)
        code = verdict(results, console)
        if json:
            print_json([asdict(each) | {"ok": each.ok} for each in results])
        if _stays():
            with logins(product):
                _show_what_next(product, people_of(connected, cast.anne.id), place, cast, console)
                wait_for_interrupt()
    raise typer.Exit(code)


def show_checks(results: Sequence[Check], console: Console) -> None:
    """Print the table of checks."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("", "", "expected", "observed", "read from"):
        table.add_column(heading, overflow="fold", no_wrap=not heading)
    about = ""
    for each in results:
        if each.about != about:
            about = each.about
            table.add_row("", Text(about, style="bold"))
        mark = Text("✓", style="green") if each.ok else Text("✗", style="bold red")
        observed = Text(each.observed, style="" if each.ok else "red")
        table.add_row(mark, Text(each.what), Text(each.expected), observed, Text(each.where, style="dim"))
    console.print(table, width=min(console.width, MAX_WIDTH))


def verdict(results: Sequence[Check], console: Console) -> Exit:
    """Print the result, and return the exit code."""
    failed = sum(not each.ok for each in results)
    console.print()
    if failed:
        console.print(Text(f"✗ {failed} of {len(results)} checks failed.", style="bold red"))
        return Exit.NO
    console.print(Text(f"✓ All {len(results)} checks hold.", style="bold green"))
    return Exit.OK


def _stays() -> bool:
    return os.environ.get("DEMO_EXIT") != "1" and sys.stdout.isatty()


def _show_what_next(
    product: Product, people: Sequence[tuple[str, UUID]], directory: Path, cast: Cast, console: Console
) -> None:
    at = "" if directory == connection.DIRECTORY else f" --env-file {path_for_people(directory / connection.FILE_NAME)}"
    grid = Table.grid(padding=(0, 2, 0, 0))
    for name, place in _places(product):
        grid.add_row(Text(name, style="bold"), Text(place))
    console.print()
    console.print(Panel(grid, box=ROUNDED, title="It is up", title_align="left"), width=min(console.width, MAX_WIDTH))
    show_links(console, links(product, people))
    console.print(Text("In another terminal:", style="bold"))
    for command in (*(each + at for each in commands_to_try(cast)), "mail preview"):
        # Outside the box, and continued as a shell takes it, so that it can be copied.
        console.print(Text(continued(f".venv/bin/popfax {command}"), style="cyan"), soft_wrap=True)
    console.print(Text("Ctrl-C stops it all.", style="bold"))


def _places(product: Product) -> list[tuple[str, str]]:
    """Return the addresses and paths of everything that a person may want to look at."""
    found = addresses(product)
    return [
        ("Kafka", found["kafka"]),
        ("PostgreSQL", found["postgresql"]),
        ("mails", path_for_people(product.stack.mail.mails)),
        *((str(each), f"{found[each]}/metrics, /ready, /live") for each in product.services),
    ]


def commands_to_try(cast: Cast) -> tuple[str, ...]:
    """Return commands to try: Anne does one more thing, and then its effects can be inspected."""
    anne = cast.anne.id
    return (
        f"send create-member-account --actor {anne} --set plan=send_only --set price_units=60 "
        "--set email=zoe@branch.example --set first_name=Zoé --set last_name=Petit --set language=fr",
        f"send transfer-units --actor {anne} --set mode=amount --set amount_units=5 --set members=all",
        f"send invite-by-email --actor {anne} --set email={cast.bruno.email}",
        "saga list --all",
        "ledger verify",
        "audit",
        "mail list",
    )
