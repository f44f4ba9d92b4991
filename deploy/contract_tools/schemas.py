"""JSON Schemas of the messages' values, as readers accept them.

A reader ignores unknown fields and fills in defaults, so the schemas are open, and fields with a default are not
required. What pydantic checks and a schema can't express ("either this or that") is in the description.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from deploy.contract_tools.layout import Json, as_text, models, schema_path
from popfax_contracts.catalogue import codes_of
from popfax_contracts.codes import RefusalCode
from popfax_contracts.message import Command, Message, Refusal

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_OWN_REFERENCE = "#/$defs/{model}"


class _WithoutFieldTitles(GenerateJsonSchema):
    """Leaves out the fields' titles, which would only repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def files() -> dict[Path, str]:
    """Return every schema's text, by its path below `contracts/schemas`."""
    return {schema_path(model.TYPE): as_text(schema_of(model)) for model in models()}


def schema_of(model: type[Message]) -> dict[str, Json]:
    """Return the complete schema of a type.

    `x-kafka` has the topics of its records and the field that is their key. `x-outcomes`, for a command, has the types
    of the events that answer it and the codes of its refusal, in the order in which they are checked.
    """
    return {
        "$schema": DIALECT,
        "x-kafka": {"topics": [topic.name for topic in model.TOPICS], "key": model.KEY, "tombstone": model.TOMBSTONE},
        **({"x-outcomes": _outcomes(model)} if issubclass(model, Command) else {}),
        **value_schema(model),
    }


def _outcomes(command: type[Command]) -> dict[str, Json]:
    return {
        "answers": [model.TYPE for model in command.ANSWERS],
        "refusal": None if command.REFUSAL is None else command.REFUSAL.TYPE,
        "codes": [code.value for code in command.CODES],
    }


def value_schema(
    model: type[Message], mode: JsonSchemaMode = "validation", reference: str = _OWN_REFERENCE
) -> dict[str, Json]:
    """Return the schema of a value. A tombstone's is that of null."""
    found = model.model_json_schema(mode=mode, ref_template=reference, schema_generator=_WithoutFieldTitles)
    if issubclass(model, Command):
        found["description"] += f"\n\n{model.outcomes_in_words()}"
    if issubclass(model, Refusal):
        found["properties"]["code"] = _open_enumeration(codes_of(model))
    if not model.TOMBSTONE:
        return found
    said = f"{found['description']}\n\nA tombstone: the record has a key (`{model.KEY}`) and no value."
    return {"title": found["title"], "description": said, "type": "null"}


def _open_enumeration(codes: Iterable[RefusalCode]) -> dict[str, Json]:
    """Return the schema of a code: the known codes, each with its meaning, or any that is new to the reader."""
    known = [{"const": code.value, "description": code.meaning} for code in codes]
    return {"anyOf": [*known, {"type": "string"}]}


def key_schema(model: type[Message]) -> dict[str, Json]:
    """Return the schema of a record's key: that of the field whose text it is."""
    properties: Mapping[str, dict[str, Json]] = model.model_json_schema(schema_generator=_WithoutFieldTitles)[
        "properties"
    ]
    return properties[model.KEY]


def closed(schema: Json) -> Json:
    """Return a schema that accepts only the fields it names: what a writer of that version can have written."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(value) for name, value in schema.items()}
    if found.get("type") == "object" and isinstance(found.get("properties"), dict):
        found["additionalProperties"] = False
    return found
