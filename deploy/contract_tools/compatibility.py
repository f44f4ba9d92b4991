"""Whether two versions of a type can share a topic: readers of each must be able to read the records of both.

jsoncompat compares them: it proves that every value of one schema is a value of another. Two proofs are required.

- Old readers read today's records: today's schema within the released one. This refuses what is removed or widened
  (a field less, an enumeration's value more) and allows new optional fields.
- Today's readers read old records: what an old writer wrote, hence its schema closed, within today's. This refuses
  what is newly required or narrowed.

The library does not compare patterns and formats. Strings that have one are compared literally, so any change of
them is refused.
"""

import json
from typing import Final

from jsoncompat import check_compat

from deploy.contract_tools.layout import Json
from deploy.contract_tools.schemas import closed

_NEW_WITHIN_OLD: Final = "serializer"

_ANNOTATIONS = frozenset({"default", "description", "title"})


def breaks(released: Json, today: Json) -> list[str]:
    """Say why two schemas of one type can't share a topic; return an empty list if they can."""
    found = []
    if released["x-kafka"] != today["x-kafka"]:
        found.append("its topics, its key, or whether it has a value is another")
    if _awaited(released) != _awaited(today):
        found.append("what answers it is another")
    if not within(today, released):
        found.append("an old reader can't read every record that is written today, or loses a field of it")
    if not within(closed(released), today):
        found.append("today's reader can't read every record that was written then")
    return found


def within(smaller: Json, larger: Json) -> bool:
    """Return whether every value of `smaller` is proven to be a value of `larger`."""
    return bool(check_compat(_comparable(larger), _comparable(smaller), _NEW_WITHIN_OLD))


def _awaited(schema: Json) -> Json:
    """Return the events that a command's sender waits for. Codes are left out, as their list is open."""
    return {name: types for name, types in schema.get("x-outcomes", {}).items() if name != "codes"}


def _comparable(schema: Json) -> str:
    return json.dumps(_opaque({name: value for name, value in schema.items() if not name.startswith("x-")}))


def _opaque(schema: Json) -> Json:
    """Replace every string schema whose rules the library ignores by an enumeration of one text: its rules."""
    if isinstance(schema, list):
        return [_opaque(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "string" and schema.keys() & {"format", "pattern"}:
        rules = {name: value for name, value in schema.items() if name not in _ANNOTATIONS}
        return {"type": "string", "enum": [json.dumps(rules, sort_keys=True)]}
    return {name: _opaque(value) for name, value in schema.items()}
