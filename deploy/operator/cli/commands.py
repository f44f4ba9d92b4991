"""The commands that the platform may send: found by name, and built from fields that somebody typed."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args
from uuid import UUID, uuid4

from pydantic import ValidationError

from deploy.operator.cli.errors import UsageError
from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.ledger import CreditUnits, PostTransfers, ReserveUnits, SpendUnits
from popfax_contracts.message import Command, group_of
from popfax_contracts.provisioning import (
    AddOptionsPack,
    EnableCallForwarding,
    ExtendAccount,
    ProvisionAccount,
    RegisterSubscriber,
)
from popfax_contracts.topics import Principal

_MADE: Mapping[type[Command], tuple[str, ...]] = {
    CreditUnits: ("credit_id",),
    PostTransfers: ("transfer_id",),
    ReserveUnits: ("hold_id",),
    SpendUnits: ("spend_id",),
    ProvisionAccount: ("request_id", "account_id"),
    RegisterSubscriber: ("subscriber_id",),
    ExtendAccount: ("request_id",),
    AddOptionsPack: ("request_id",),
    EnableCallForwarding: ("request_id",),
}
"""The ids that a command's sender chooses for what it creates. Those left out are generated here."""


def words(type_: str) -> str:
    """Return a message type in plain words: `popfax.ledger.units-reserved.v1` is "units reserved"."""
    return short_name(type_).replace("-", " ")


def short_name(type_: str) -> str:
    """Return the part of a message type that identifies it: `units-reserved`."""
    return re.sub(r"\.v\d+$", "", type_).rsplit(".", 1)[-1]


COMMANDS: Mapping[str, type[Command]] = {
    short_name(type_): model
    for type_, model in MESSAGES.items()
    if issubclass(model, Command) and any(topic.writer is Principal.PLATFORM for topic in model.TOPICS)
}
"""What the platform may publish, by short name."""


def find(name: str) -> type[Command]:
    """Find a command by its type, its model's name or its short name. Raises UsageError."""
    for short, model in COMMANDS.items():
        if name in (short, model.TYPE, model.__name__):
            return model
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "see `popfax messages`"
    raise UsageError(f"there is no command {name}: {hint}")


def fields_of(model: type[Command]) -> list[tuple[str, str]]:
    """Return a command's fields, each with a description of its values."""
    notes = {name: "may be left out" for name, field in model.model_fields.items() if not field.is_required()}
    notes |= dict.fromkeys(_MADE.get(model, ()), "made if left out")
    if "group_id" in model.model_fields:
        notes["group_id"] = "the actor's group if left out"
    schema = model.model_json_schema()
    return [
        (name, ", ".join(filter(None, (_kind(schema["properties"][name], schema), notes.get(name)))))
        for name in model.model_fields
    ]


def build(model: type[Command], pairs: Sequence[str], actor: UUID | None) -> Command:
    """Build a command from `field=value` pairs. Raises UsageError for a malformed pair, else InvalidFields."""
    values = dict(_pair(model, pair) for pair in pairs)
    for name in _MADE.get(model, ()):
        values.setdefault(name, str(uuid4()))
    if "group_id" in model.model_fields and actor is not None:
        values.setdefault("group_id", str(group_of(actor)))
    unknown = [(name, f"no such field; there are {', '.join(model.model_fields)}") for name in values]
    unknown = [(name, error) for name, error in unknown if name not in model.model_fields]
    try:
        made = model.from_json(json.dumps(values).encode())
    except ValidationError as error:
        raise InvalidFields(model, unknown + _errors(error)) from error
    if unknown:
        raise InvalidFields(model, unknown)
    return made


class InvalidFields(UsageError):
    """Invalid fields of a command, each with the reason."""

    def __init__(self, model: type[Command], errors: Sequence[tuple[str, str]]) -> None:
        """Name the fields in the message, without their values."""
        self.errors = list(errors)
        lines = "".join(f"\n  {field}: {error}" for field, error in errors)
        super().__init__(f"{short_name(model.TYPE)} can't be made:{lines}")


def _pair(model: type[Command], pair: str) -> tuple[str, Any]:
    name, sign, text = pair.partition("=")
    if not sign:
        raise UsageError(f"--set {pair}: write it as field=value")
    field = model.model_fields.get(name)
    annotation = field.annotation if field is not None else None
    if annotation is str or (str in get_args(annotation) and text != "null"):
        return name, text  # a string stays a string even if it looks like a number
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text


def _errors(error: ValidationError) -> list[tuple[str, str]]:
    found = error.errors(include_input=False, include_url=False)
    return [(".".join(map(str, each["loc"])) or "command", each["msg"]) for each in found]


def _kind(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """Describe the values that a JSON Schema accepts."""
    if "$ref" in schema:
        return _kind(whole["$defs"][schema["$ref"].rsplit("/", 1)[-1]], whole)
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " or ".join(_kind(each, whole) for each in schema["anyOf"] if each.get("type") != "null")
    if schema.get("type") == "array":
        items = _kind(schema["items"], whole)
        return f"JSON list of {items}"
    if schema.get("type") == "object":
        return "{" + ", ".join(schema.get("properties", {})) + "}"
    kinds = {"integer": "whole number", "boolean": "true or false", "uuid": "UUID", "date-time": "moment"}
    return kinds.get(schema.get("type", "")) or kinds.get(schema.get("format", ""), "text")
