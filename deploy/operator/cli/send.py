"""`popfax send`: send one command as the platform does, and print its outcome."""

import time
from collections.abc import Iterable
from typing import Annotated, Any
from uuid import UUID

import typer

from deploy.operator.cli.commands import COMMANDS, InvalidFields, build, fields_of, find, short_name, words
from deploy.operator.cli.connection import connect
from deploy.operator.cli.errors import Exit, Unreachable, UsageError
from deploy.operator.cli.options import EnvFile, Json, Timeout
from deploy.operator.cli.output import print_json, print_table, say
from deploy.operator.cli.wire import Publisher, Seen, Sent, Watch
from popfax_contracts.message import Command, Event, Refusal
from popfax_contracts.topics import BY_NAME, Principal, Topic

_COMPANIONS_S = 0.3
"""How long to wait for further events of the outcome's handler, in seconds."""


def messages(json: Json = False) -> None:
    """List the commands that can be sent, with their fields and what answers them."""
    if json:
        print_json([_described(name, model) for name, model in COMMANDS.items()])
        return
    for name, model in COMMANDS.items():
        say(name, "bold")
        say("  " + (model.__doc__ or "").strip().splitlines()[0])
        print_table(("", "", ""), [("", field, kind) for field, kind in fields_of(model)])
        say(f"  done: {_named(model.ANSWERS)}")
        if model.REFUSAL is not None:
            say(f"  refused: {_named([model.REFUSAL])}, with the first of these codes that applies")
            print_table(("", "", ""), [("", code.value, code.meaning) for code in model.CODES])


def _described(name: str, model: type[Command]) -> dict[str, Any]:
    return {
        "name": name,
        "type": model.TYPE,
        "fields": dict(fields_of(model)),
        "answers": [event.TYPE for event in model.ANSWERS],
        "refusal": None if model.REFUSAL is None else model.REFUSAL.TYPE,
        "codes": {code.value: code.meaning for code in model.CODES},
    }


def _named(events: Iterable[type[Event]]) -> str:
    return " or ".join(event.__name__ for event in events)


def send(
    message: Annotated[
        str | None, typer.Argument(help="create-member-account, CreateMemberAccount, or the full type.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field; JSON unless it is text.")
    ] = None,
    actor: Annotated[UUID | None, typer.Option(help="The subscriber on whose behalf the command is sent.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the commands and their fields.")] = False,
    timeout: Timeout = 15.0,
    json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Send one command, wait for its outcome, and print it: 0 done, 1 refused, 2 invalid, 3 no answer.

    Ids of what the command makes (credit_id, transfer_id, ...) are made when left out; group_id is the actor's group.
    """
    if list_:
        messages(json)
        return
    if message is None:
        raise UsageError("say which command: see `popfax messages`")
    command = _build(find(message), set_ or [], actor, json)
    connection = connect(env_file)
    config = connection.kafka(Principal.PLATFORM)
    publisher = Publisher(config)  # it connects while the watch does: that takes half a second
    # The position to read from is fixed before the command is sent, so its outcome can't be missed.
    with Watch(config, [_answers_of(command)], group=Principal.PLATFORM) as watch:
        (sent,) = publisher.publish((command, actor))
        outcome = _await(watch, sent, timeout)
    if not outcome:
        raise Unreachable(f"no outcome of {sent.id} within {timeout:g} s: it may still come")
    _tell(sent, outcome, json)
    if isinstance(outcome[0].body, Refusal):
        raise typer.Exit(Exit.NO)


def _build(model: type[Command], pairs: list[str], actor: UUID | None, json: bool) -> Command:
    try:
        return build(model, pairs, actor)
    except InvalidFields as invalid:
        if json:
            print_json({"type": model.TYPE, "errors": dict(invalid.errors)})
        raise


def _answers_of(command: Command) -> Topic:
    """Return the topic of a command's outcome: the events of the service that it was sent to.

    Events of other services with the same correlation id are on other topics and are not its outcome.
    """
    service = command.topic_of(Principal.PLATFORM).service
    return BY_NAME[f"popfax.{service}.events"]


def _await(watch: Watch, sent: Sent, timeout_s: float) -> list[Seen]:
    """Return the first event with a command's correlation id, and the others that its handler published."""
    first = next(iter(_of(sent, watch.until(time.monotonic() + timeout_s))), None)
    if first is None:
        return []
    companions = _of(sent, watch.until(time.monotonic() + _COMPANIONS_S))
    return [first, *(seen for seen in companions if seen.causation_id == first.causation_id)]


def _of(sent: Sent, seen: Iterable[Seen]) -> Iterable[Seen]:
    return (each for each in seen if each.correlation_id == str(sent.id))


def _tell(sent: Sent, outcome: list[Seen], json: bool) -> None:
    bodies = [each.body.model_dump(mode="json") if each.body else {} for each in outcome]
    refused = isinstance(outcome[0].body, Refusal)
    if json:
        events = [{"type": each.type, **body} for each, body in zip(outcome, bodies, strict=True)]
        document = {"id": sent.id, "type": sent.command.TYPE, "refused": refused, "events": events}
        print_json(document | ({"code": bodies[0]["code"]} if refused else {}))
        return
    say(f"{short_name(sent.command.TYPE)} {sent.id}")
    for each, body in zip(outcome, bodies, strict=True):
        say(f"{'✗' if refused else '✓'} {words(each.type)}", "red" if refused else "green")
        print_table(("", "", ""), [("", name, value) for name, value in body.items()])
