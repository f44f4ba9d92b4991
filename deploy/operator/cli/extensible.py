"""Commands that other rooms add to the operator's, as entry points: imported when they are asked for."""

from importlib.metadata import entry_points
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

from deploy.operator.cli import importing
from deploy.operator.cli.errors import Failure

COMMANDS = "popfax.commands"
"""The entry points that are commands of `popfax`."""

PERSON = "popfax.commands.person"
"""The entry points that are commands of `popfax person`."""

LOCAL = {COMMANDS: frozenset({"demo", "up"}), PERSON: frozenset({"link"})}
"""What the local product adds, for whoever asks for it where that is not installed."""


class Extensible(TyperGroup):
    """A group of commands with room for more."""

    entry_points: ClassVar[str]
    """The group of entry points that are commands of this one."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands that work here, the added ones first."""
        added = entry_points(group=self.entry_points).names
        return [*(name for name in sorted(added) if self._added(name)), *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, None if nobody knows it. Raises Failure when it is not installed here."""
        found = super().get_command(ctx, cmd_name) or self._added(cmd_name)
        if found is None and cmd_name in LOCAL[self.entry_points]:
            raise Failure(f"{cmd_name} needs the local product: `make setup` in a checkout of the project installs it")
        return found

    def _added(self, name: str) -> Any:
        try:
            with importing():
                functions = [each.load() for each in entry_points(group=self.entry_points, name=name)]
        except ModuleNotFoundError:  # a package of the extra `local`
            return None
        if not functions:
            return None
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(name)(functions[0])
        return typer.main.get_command(alone)
