"""Runs groups: `python -m services.groups.app`. Nothing happens at import."""

from services.chassis.early_exit import exit_on_signal

if __name__ == "__main__":
    exit_on_signal()  # until there is something to shut down in order: the imports below take a while

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.pruning import Old, ended_sagas, prune
from services.chassis.runtime import Background, retention, run, serve
from services.chassis.settings import load_settings
from services.groups.consumers import GROUPS, with_quotas
from services.groups.settings import GroupsSettings, Role, WebSettings
from services.groups.tables import command_lists, commands, sagas, sessions
from services.groups.web import lists
from services.groups.web.app import web


async def forget_commands(engine: AsyncEngine, settings: GroupsSettings, *_: object) -> None:
    """Delete posted commands that are older than the inbox."""
    await prune(engine, Old(commands.c.asked_at, retention(settings)))


async def forget_lists(engine: AsyncEngine, *_: object) -> None:
    """Delete lists of commands: they hold the addresses and names that somebody pasted."""
    await prune(engine, Old(command_lists.c.made_at, lists.KEPT))


async def forget_sessions(engine: AsyncEngine, *_: object) -> None:
    """Forget sessions whose tokens are no longer valid."""
    await prune(engine, Old(sessions.c.forget_at, timedelta()))


async def forget_sagas(engine: AsyncEngine, settings: GroupsSettings, *_: object) -> None:
    """Remove sagas that ended long ago."""
    await prune(engine, ended_sagas(sagas, settings))


BACKGROUND: Sequence[Background[GroupsSettings]] = [forget_commands, forget_lists, forget_sessions, forget_sagas]


def main() -> None:
    """Read the settings, and run until told to stop."""
    asked = load_settings(WebSettings, GROUPS.principal)
    if asked.role is Role.WEB:
        serve(GROUPS.principal, asked, web)
    else:
        settings = load_settings(GroupsSettings, GROUPS.principal)
        site = web if settings.role is Role.ALL else None
        run(with_quotas(settings.quotas), settings, BACKGROUND, site)


if __name__ == "__main__":
    main()
