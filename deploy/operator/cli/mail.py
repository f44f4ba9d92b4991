"""`popfax mail`: the state of the mails, without their texts and recipients.

`popfax mail preview` shows what they look like.
"""

import subprocess
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
import typer

from deploy.operator.cli.browser import find as browser
from deploy.operator.cli.connection import Connection, connect
from deploy.operator.cli.errors import Failure, UsageError
from deploy.operator.cli.intervening import begins
from deploy.operator.cli.options import EnvFile, Json
from deploy.operator.cli.output import ago, complain, print_json, print_table, say, short
from deploy.operator.cli.preview import write_previews
from popfax_contracts.topics import Principal
from services.notifications.domain import STUCK_AFTER, UNDONE, MailState
from services.notifications.settings import NotificationsSettings
from services.notifications.tables import deliveries, erased, mails, people

app = typer.Typer(help="Look at the mails.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Look at the mails."""


@app.command("list")
def list_(
    state: Annotated[MailState | None, typer.Option(help="Only those in this state.")] = None,
    stuck: Annotated[bool, typer.Option("--stuck", help="Only those that are parked, or wait for a record.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, the newest first.")] = 50,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """List mails by state, with attempts, and how often a crash hid the server's answer (uncertain).

    A mail is stuck when it is parked, or when it has waited for an hour for the record of its recipient, or of whom it
    is about. Without its recipient's it is abandoned after seven days; without the other's it goes out after one, and
    names nobody.
    """
    query = _LISTED.limit(limit)
    if state is not None:
        query = query.where(mails.c.state == state.value)
    if stuck:
        query = query.where(_STUCK)
    counting = sa.select(mails.c.state, sa.func.count()).group_by(mails.c.state)
    connection = connect(env_file)
    found = connection.rows(Principal.NOTIFICATIONS, query)
    counts = {row[0]: row[1] for row in connection.rows(Principal.NOTIFICATIONS, counting)}
    if json:
        print_json({"counts": counts, "mails": [row._asdict() for row in found]})
        return
    if found:
        print_table(
            ("mail", "template", "state", "attempts", "uncertain", "made", "sent", ""),
            [
                (
                    short(row.id),
                    row.template,
                    row.state,
                    row.attempts,
                    row.uncertain,
                    f"{ago(row.made_at)} ago",
                    f"{row.sent_at:%H:%M:%S} UTC" if row.sent_at else "",
                    _remark(row),
                )
                for row in found
            ],
        )
    say(", ".join(f"{counts.get(each, 0)} {each}" for each in MailState))


_recipient, _subject = people.alias("recipient"), people.alias("subject")
_WAITS_FOR = sa.case(
    (mails.c.state != MailState.QUEUED.value, None),
    (_recipient.c.id.is_(None), "recipient"),
    (sa.and_(mails.c.about_id.is_not(None), _subject.c.id.is_(None), erased.c.id.is_(None)), "subject"),
)
_STUCK = sa.or_(
    mails.c.state == MailState.PARKED.value,
    sa.and_(_WAITS_FOR.is_not(None), mails.c.made_at < sa.func.now() - STUCK_AFTER),
)
_JOINED = (
    mails.outerjoin(deliveries, deliveries.c.mail_id == mails.c.id)
    .outerjoin(_recipient, _recipient.c.id == mails.c.recipient_id)
    .outerjoin(_subject, _subject.c.id == mails.c.about_id)
    .outerjoin(erased, erased.c.id == mails.c.about_id)
)
_LISTED = (
    sa.select(
        mails.c.id,
        mails.c.template,
        mails.c.state,
        mails.c.made_at,
        mails.c.next_attempt_at,
        sa.func.coalesce(deliveries.c.attempts, 0).label("attempts"),
        sa.func.coalesce(deliveries.c.uncertain, 0).label("uncertain"),
        deliveries.c.sent_at,
        deliveries.c.last_answer,
        _WAITS_FOR.label("waits_for"),
        _STUCK.label("stuck"),
        mails.c.recipient_id,
        mails.c.about_id,
    )
    .select_from(_JOINED)
    .order_by(mails.c.made_at.desc(), mails.c.id)
)


_UNDONE = mails.c.state.in_([each.value for each in UNDONE])
_is_parked = mails.c.state == MailState.PARKED.value
_TROUBLES = (
    sa.select(sa.func.count().filter(_is_parked), sa.func.count().filter(~_is_parked))
    .select_from(_JOINED)
    .where(_UNDONE, _STUCK)
)


def troubles(connection: Connection) -> tuple[int, int]:
    """Return how many mails are parked, and how many have waited for somebody's record for too long."""
    ((parked, waiting),) = connection.rows(Principal.NOTIFICATIONS, _TROUBLES)
    return parked, waiting


def _remark(row: Any) -> str:
    """Return what a mail is waiting for, if anything."""
    begin = "STUCK: " if row.stuck else ""
    if row.state == MailState.PARKED:
        return f"{begin}{row.last_answer}"
    if row.waits_for is None:
        return ""
    return f"{begin}no record of {row.recipient_id if row.waits_for == 'recipient' else row.about_id}"


@app.command()
def retry(
    mail: Annotated[str, typer.Argument(help="The mail's id, or its beginning.")],
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Make a parked mail's bytes again, once what was wrong is mended: it is sent, or parked again."""
    connection = connect(env_file)
    parked = sa.select(mails.c.id).where(begins(mails.c.id, mail), mails.c.state == MailState.PARKED.value).limit(2)
    found = connection.rows(Principal.NOTIFICATIONS, parked)
    if not found:
        raise Failure(f"no mail {mail} is parked")
    if len(found) > 1:
        raise UsageError(f"several parked mails begin with {mail}: type more of it")
    id_ = found[0].id
    again = (
        sa.update(mails)
        .where(mails.c.id == id_, mails.c.state == MailState.PARKED.value)
        .values(state=MailState.QUEUED.value, next_attempt_at=sa.func.now())
    )
    connection.rows(Principal.NOTIFICATIONS, again)
    if json:
        print_json({"id": id_, "state": MailState.QUEUED.value})
        return
    say(f"✓ {id_} is queued again", "green")


@app.command()
def preview(
    directory: Annotated[Path, typer.Argument(help="The directory to write to.")] = Path("mail-preview"),
) -> None:
    """Write every mail, with sample values, in both languages: HTML, text, and pictures if there is a Chromium."""
    program = browser()
    if program is None:
        complain("no Chromium, Chrome or Playwright's Chromium is installed: no pictures are made")
    # Only the settings that mails are rendered with: nothing is connected to.
    settings = NotificationsSettings.model_construct()
    try:
        pages = write_previews(directory, settings, program)
    except subprocess.SubprocessError as error:
        raise Failure(f"{program} takes no pictures: {type(error).__name__}") from error
    say(f"{len(pages)} mails: {directory / 'index.html'}")
