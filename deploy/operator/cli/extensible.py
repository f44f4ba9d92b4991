"""Commands that other packages add to the operator's, as entry points: imported only when they are used."""

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

LOCAL = {COMMANDS: frozenset({"demo", "drill", "up"}), PERSON: frozenset({"link"})}
"""The local product's commands, so that the error where it is not installed can say so."""


class Extensible(TyperGroup):
    """A group of commands that entry points can extend."""

    entry_points: ClassVar[str]
    """The group of entry points that extends this one."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands that work here, the added ones first."""
        added = entry_points(group=self.entry_points).names
        return [*(name for name in sorted(added) if self._added(name)), *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, None if it is unknown. Raises Failure if it is known but not installed."""
        found = super().get_command(ctx, cmd_name) or self._added(cmd_name)
        if found is None and cmd_name in LOCAL[self.entry_points]:
            raise Failure(f"{cmd_name} needs the local product: `make setup` in a checkout of the project installs it")
        return found

    def _added(self, name: str) -> Any:
        try:
            with importing():
                added = [each.load() for each in entry_points(group=self.entry_points, name=name)]
        except ModuleNotFoundError:  # a dependency of the extra `local`
            return None
        if not added:
            return None
        if isinstance(added[0], typer.Typer):  # a group of commands
            return typer.main.get_group(added[0])
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(name)(added[0])
        return typer.main.get_command(alone)
