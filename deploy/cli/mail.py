"""`popfax mail`: how the mails to people get on. Nothing of what they say, or of whom they go to.

What they look like, `popfax mail preview` shows.
"""

import subprocess
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
import typer

from contracts.topics import Principal
from deploy.cli.connection import connect
from deploy.cli.errors import Failure
from deploy.cli.options import EnvFile, Json
from deploy.cli.output import ago, complain, print_json, print_table, say, short
from deploy.cli.preview import write_previews
from deploy.local.browser import find as browser
from services.notifications.domain import MailState
from services.notifications.settings import NotificationsSettings
from services.notifications.tables import deliveries, mails

app = typer.Typer(help="Look at the mails.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Look at the mails."""


@app.command("list")
def list_(
    state: Annotated[MailState | None, typer.Option(help="Only those in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 50,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """List mails by state, with attempts, and how often a crash hid the server's answer (uncertain)."""
    query = (
        sa.select(
            mails.c.id,
            mails.c.template,
            mails.c.state,
            mails.c.made_at,
            mails.c.next_attempt_at,
            sa.func.coalesce(deliveries.c.attempts, 0).label("attempts"),
            sa.func.coalesce(deliveries.c.uncertain, 0).label("uncertain"),
            deliveries.c.sent_at,
        )
        .outerjoin(deliveries, deliveries.c.mail_id == mails.c.id)
        .order_by(mails.c.made_at.desc(), mails.c.id)
        .limit(limit)
    )
    counting = sa.select(mails.c.state, sa.func.count()).group_by(mails.c.state)
    connection = connect(env_file)
    found = connection.rows(
        Principal.NOTIFICATIONS, query if state is None else query.where(mails.c.state == state.value)
    )
    counts = {row[0]: row[1] for row in connection.rows(Principal.NOTIFICATIONS, counting)}
    if json:
        print_json({"counts": counts, "mails": [row._asdict() for row in found]})
        return
    if found:
        print_table(
            ("mail", "template", "state", "attempts", "uncertain", "made", "sent"),
            [
                (
                    short(row.id),
                    row.template,
                    row.state,
                    row.attempts,
                    row.uncertain,
                    f"{ago(row.made_at)} ago",
                    f"{row.sent_at:%H:%M:%S} UTC" if row.sent_at else "",
                )
                for row in found
            ],
        )
    say(", ".join(f"{counts.get(each, 0)} {each}" for each in MailState))


@app.command()
def preview(
    directory: Annotated[Path, typer.Argument(help="Where to.")] = Path("mail-preview"),
) -> None:
    """Write every mail, with made-up facts, in both languages: HTML, text, and pictures if there is a Chromium."""
    program = browser()
    if program is None:
        complain("no Chromium, Chrome or Playwright's Chromium is installed: no pictures are made")
    # The settings of the mails alone: nothing is connected to.
    settings = NotificationsSettings.model_construct()
    try:
        pages = write_previews(directory, settings, program)
    except subprocess.SubprocessError as error:
        raise Failure(f"{program} takes no pictures: {type(error).__name__}") from error
    say(f"{len(pages)} mails: {directory / 'index.html'}")
