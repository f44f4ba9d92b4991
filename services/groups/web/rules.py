"""What may be wrong with a field, in words of our own: they stay the same whatever library finds it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

RULES: Mapping[str, str] = {
    "required": "it is missing",
    "unknown": "nothing has this name here",
    "not_json": "the body is not JSON in UTF-8",
    "not_an_object": "it is not an object",
    "not_a_list": "it is not a list",
    "not_a_text": "it is not a text",
    "not_a_boolean": "it is neither true nor false",
    "not_a_whole_number": "it is not a whole number",
    "not_a_uuid": "it is not a UUID",
    "not_a_moment": "it is not a moment or a day as RFC 3339 writes it",
    "not_a_choice": "it is none of the values that its description lists",
    "not_a_cursor": "no page was ever followed by this cursor",
    "too_small": "the number is below its minimum",
    "too_large": "the number is above its maximum",
    "too_short": "the text or list has too little in it",
    "too_long": "the text or list has too much in it",
    "wrong_form": "the text does not have the form that its pattern describes",
    "hidden_character": "the text holds a character that can't be seen, or is none",
    "stacked_marks": "the text holds more marks on a letter than a letter has",
    "web_address": "the text holds a web address, or what programs take for one",
    "own_id": "UUIDs of version 8 are the product's own",
    "invalid": "it is not what its description asks for",
}
"""The rules that a field may break, and what each means."""

_FOUND: Mapping[str, str] = {
    "missing": "required",
    "extra_forbidden": "unknown",
    "json_invalid": "not_json",
    "moment": "not_a_moment",
    "enum": "not_a_choice",
    "literal_error": "not_a_choice",
    "greater_than": "too_small",
    "greater_than_equal": "too_small",
    "less_than": "too_large",
    "less_than_equal": "too_large",
    "string_too_short": "too_short",
    "string_too_long": "too_long",
    "string_pattern_mismatch": "wrong_form",
}
"""The rule that each kind of pydantic's errors means; `_KINDS` has those that come in families."""

_KINDS: Mapping[str, str] = {
    "model": "not_an_object",
    "dict": "not_an_object",
    "tuple": "not_a_list",
    "list": "not_a_list",
    "set": "not_a_list",
    "string": "not_a_text",
    "bool": "not_a_boolean",
    "int": "not_a_whole_number",
    "uuid": "not_a_uuid",
    "datetime": "not_a_moment",
    "date": "not_a_moment",
}

_MAX_NAME_LENGTH = 100


def rule_of(kind: str) -> str:
    """Return the rule that is broken, by the kind of a validation error."""
    if kind in RULES:
        return kind
    return _FOUND.get(kind) or _KINDS.get(kind.partition("_")[0], "invalid")


def broken(errors: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return where each rule is broken, each once. What the fields hold is left out: it may be personal."""
    return list(dict.fromkeys(f"{_place(error)}: {rule_of(error['type'])}" for error in errors))


def _place(error: Mapping[str, Any]) -> str:
    """Return the path to a field. Which member of a union was tried, and at which character JSON ends, is no place."""
    loc: Sequence[Any] = error["loc"]
    if error["type"] == "json_invalid":
        loc = loc[:1]
    elif error["type"] == "extra_forbidden":  # the last part is the sender's own word
        loc = (*loc[:-1], str(loc[-1])[:_MAX_NAME_LENGTH])
    else:
        loc = [part for part in loc if "[" not in str(part)]
    return ".".join(map(str, loc)) or "body"
