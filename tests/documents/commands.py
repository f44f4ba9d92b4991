"""The table of the command line's commands, from their own help."""

from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperArgument, TyperGroup

from deploy.operator.cli.app import app
from tests.documents.tables import table


def table_of_commands() -> str:
    """Return every command of `popfax` with its arguments and the first line of its help."""
    rows = [(f"`{usage}`", (command.help or "").splitlines()[0]) for usage, command in _commands("popfax", _root())]
    return table(("command", "does"), rows)


def _root() -> Any:
    return typer.main.get_command(app)


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(command, TyperGroup):
        if command.invoke_without_command:
            yield path, command
        context = typer.Context(command)
        for name in command.list_commands(context):
            yield from _commands(f"{path} {name}", command.get_command(context, name))
    else:
        yield " ".join([path, *(_shown(each) for each in command.params if isinstance(each, TyperArgument))]), command


def _shown(argument: Any) -> str:
    name = argument.metavar or argument.name.strip("_").upper()
    return name if argument.required else f"[{name}]"
