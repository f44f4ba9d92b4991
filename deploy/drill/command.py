"""`popfax drill upgrade`: the last release is upgraded to this version under traffic, and goes back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from deploy.drill.asked import Figures
from deploy.drill.fleet import Fleet
from deploy.drill.steps import Result, Step, UpgradeDrill
from deploy.drill.traffic import Traffic
from deploy.drill.versions import Version, in_checkout, last_release, this
from deploy.local.errors import StackError
from deploy.local.running import running_on_stack
from deploy.local.stack import Stack
from deploy.operator.cli.connection import Connection
from deploy.operator.cli.errors import Exit, UsageError
from deploy.operator.cli.options import Json
from deploy.operator.cli.output import err, out, print_json, say
from deploy.paths import STATE

_DIRECTORY = STATE / "drill"
_WIDTH = 48


def upgrade(
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="A checkout of the old version; without it, the last release, from git."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="A checkout of the new version; without it, this one.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Upgrade one replica of ledger and groups, go back, and leave it at that.")
    ] = False,
    replicas: Annotated[int, typer.Option("--replicas", min=1, max=12, help="Replicas of each service.")] = 2,
    within: Annotated[
        float, typer.Option("--within", min=1, help="How many seconds after a step its commands may be unanswered.")
    ] = 60,
    directory: Annotated[
        Path, typer.Option("--directory", help="Where the drill's own product lives; it is made afresh.")
    ] = _DIRECTORY,
    json: Json = False,
) -> None:
    """Upgrade the last release to this version under traffic, go back, and upgrade again: 0 all right, 1 not.

    It has a product of its own, with that release's code. The databases are migrated while the old replicas work, then
    replicas are replaced one by one. Nothing may be lost or done twice, and the audit must find nothing, also after the
    rollback.
    """
    console = err if json else out
    try:
        old, new = _versions(from_, to)
        for version in (old, new):
            version.install(lambda text: console.print(Text(f"  {text}", "dim")))
    except StackError as error:
        raise UsageError(str(error)) from error
    console.print(Text("Upgrade drill", style="bold").append(f": {old.name} → {new.name} → {old.name}", "not bold"))

    with under_traffic(directory.absolute(), old, replicas, console) as (fleet, connected, traffic):
        result = UpgradeDrill(fleet, connected, traffic, old, new, within).run(Lines(console), quick)
    if json:
        print_json(described(result, old, new))
    else:
        conclude(result, old)
    raise typer.Exit(Exit.NO if result.broken else Exit.OK)


@contextmanager
def under_traffic(
    directory: Path, version: Version, replicas: int, console: Console
) -> Iterator[tuple[Fleet, Connection, Traffic]]:
    """Run a version on a product of its own, under traffic. Raises Unreachable, or TimeoutError."""

    def made(stack: Stack, progress: Callable[[str], None]) -> Fleet:
        return Fleet(stack, version, replicas, progress)

    with (
        running_on_stack(directory, console, made, fresh=True) as (fleet, connected),
        Traffic(connected) as traffic,
    ):
        yield fleet, connected, traffic


def _versions(from_: Path | None, to: Path | None) -> tuple[Version, Version]:
    old = last_release() if from_ is None else in_checkout(from_)
    new = this() if to is None else in_checkout(to)
    return old, new


class Lines:
    """One line per step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("", spinner="line")
        heading = f"\n    {'step':<{_WIDTH}}{'took':>9}{'commands':>10}{'longest gap':>13}{'slowest answer':>16}"
        console.print(Text(heading, style="bold"), soft_wrap=True)

    def begin(self, name: str) -> None:
        """Show what goes on."""
        self._status.update(name)
        self._status.start()

    def end(self, step: Step) -> None:
        """Print what it took."""
        self._status.stop()
        line = Text("  ✓ ", style="green").append(f"{step.name:<{_WIDTH}}{step.took_s:7.1f} s", style="default")
        self._console.print(line.append(_shown(step.figures), "default"), soft_wrap=True)


def _shown(figures: Figures | None) -> str:
    if figures is None:
        return ""
    return f"{figures.commands:>10}{figures.longest_gap_s:11.1f} s{figures.slowest_answer_s:14.1f} s"


def conclude(result: Result, old: Version) -> None:
    """Say what was found."""
    say("")
    if result.broken:
        say(f"✗ {result.broken}", "red")
        return
    say(
        f"✓ {result.commands} commands, each with exactly one outcome; order kept on each key; nothing parked; "
        f"{result.mails} mails, none twice; the audit finds nothing.",
        "green",
    )
    schemas = ", ".join(f"{service} {revision}" for service, revision in result.schemas.items())
    say(f"The rollback to {old.name} has left topics, permissions and schemas as they were ({schemas}).")
    say("What a rollback can't take back: docs/operations/upgrade.md.")


def described(result: Result, old: Version, new: Version) -> dict[str, object]:
    """Return the same for programs."""
    return {"from": old.name, "to": new.name, "ok": result.broken is None, **asdict(result)}
