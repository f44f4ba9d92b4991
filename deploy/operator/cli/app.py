"""The root of the command line: its commands, and how errors become one line and an exit code."""

import sys
from errno import EPIPE
from typing import Any, cast

import typer
from confluent_kafka import KafkaException

from deploy.operator.cli import (
    audit,
    ledger,
    mail,
    parked,
    partitions,
    person,
    replay,
    saga,
    send,
    topics,
    transfer,
)
from deploy.operator.cli.connection import close_all, unreachable
from deploy.operator.cli.doctor.command import doctor
from deploy.operator.cli.errors import Exit, Failure, what_failed
from deploy.operator.cli.extensible import COMMANDS, Extensible
from deploy.operator.cli.output import complain

_EXITS = (
    "Exit codes: 0 done; 1 the answer is no (refused, violated, different, not found); 2 wrong usage; "
    "3 something can't be reached or gave no answer in time."
)


class _Root(Extensible):
    """Turns a failed command's exception into one line and the exit code for its kind."""

    entry_points = COMMANDS

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Failure as failure:
            complain(str(failure))
            raise typer.Exit(failure.exit_code) from failure
        except KafkaException as error:
            complain(str(unreachable(error)))
            raise typer.Exit(Exit.UNREACHABLE) from error
        except OSError as error:  # TimeoutError is an OSError too
            if error.errno == EPIPE:
                raise  # the reader of a pipe stopped reading: not a failure
            complain(what_failed(error))
            raise typer.Exit(Exit.UNREACHABLE) from error
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(Exit.INTERRUPTED) from None
        finally:
            close_all()


app = typer.Typer(
    name="popfax",
    cls=_Root,
    help="Run Popfax Groups, send it commands, and look after it.",
    epilog=_EXITS,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("send")(send.send)
app.command("messages")(send.messages)
app.add_typer(saga.app, name="saga")
app.add_typer(transfer.app, name="transfer")
app.add_typer(parked.app, name="parked")
app.add_typer(partitions.app, name="partitions")
app.add_typer(person.app, name="person")
app.command("doctor")(doctor)
app.add_typer(topics.app, name="topics")
app.command("audit")(audit.audit)
app.command("replay")(replay.replay_)
app.add_typer(ledger.app, name="ledger")
app.add_typer(mail.app, name="mail")


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        cast(Any, stream).reconfigure(errors="replace")  # "?" where a terminal has no "✓", not a traceback
    app(prog_name="popfax")
