"""What can be asked of each service and what answers it, from the contracts."""

from collections.abc import Iterable

from popfax_contracts.catalogue import COMMANDS
from popfax_contracts.codes import MalformedCode, RefusalCode
from popfax_contracts.message import Command
from popfax_contracts.topics import Principal
from tests.documents.tables import table


def asked_of(service: Principal) -> str:
    """Return a service's commands, each with its outcomes, and then what its codes mean."""
    commands = [model for model in COMMANDS.values() if model.TOPICS[0].service is service]
    (codes,) = {type(code) for model in commands for code in model.CODES}
    return f"{_commands(commands)}\n\n{_meanings(codes)}"


def malformed() -> str:
    """Return the codes of commands that can't be read."""
    return _meanings(MalformedCode)


def _commands(commands: Iterable[type[Command]]) -> str:
    head = ("command", "sent by", "done", "refused", "codes, in the order in which they are checked")
    return table(head, [_row(model) for model in commands])


def _row(model: type[Command]) -> tuple[str, ...]:
    senders = ", ".join(dict.fromkeys(topic.writer.value for topic in model.TOPICS))
    done = " or ".join(f"`{event.__name__}`" for event in model.ANSWERS) or "–"
    refused = "–" if model.REFUSAL is None else f"`{model.REFUSAL.__name__}`"
    return f"`{model.__name__}`", senders, done, refused, ", ".join(f"`{code}`" for code in model.CODES) or "–"


def _meanings(codes: Iterable[RefusalCode]) -> str:
    return table(("code", "meaning"), [(f"`{code}`", code.meaning) for code in codes])
