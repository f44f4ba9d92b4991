"""Whether two versions of a type can be on a topic together: readers of each must read the records of both.

jsoncompat does the comparing: it proves that every value of one schema is a value of another. Two proofs are asked for.

- Old readers read today's records: today's schema within the released one. It refuses what is taken away or widened
  (a removed field, a value more in an enumeration), and lets optional fields be added.
- Today's readers read old records: what an old writer wrote, hence its schema closed, within today's. It refuses what
  is newly required or narrowed.

The library does not compare patterns and formats. A string that has one is compared as a text of its own, so that any
change of it is refused.
"""

import json
from typing import Final

from jsoncompat import check_compat

from deploy.contract_tools.layout import Json
from deploy.contract_tools.schemas import closed

_NEW_WITHIN_OLD: Final = "serializer"

_ANNOTATIONS = frozenset({"default", "description", "title"})


def breaks(released: Json, today: Json) -> list[str]:
    """Say what keeps two schemas of one type from being on a topic together; nothing when they can be."""
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
    """Whether every value of one schema is proven to be one of the other."""
    return bool(check_compat(_comparable(larger), _comparable(smaller), _NEW_WITHIN_OLD))


def _awaited(schema: Json) -> Json:
    """Return the events that whoever sends a command waits for. Codes may come and go: their list is open."""
    return {name: types for name, types in schema.get("x-outcomes", {}).items() if name != "codes"}


def _comparable(schema: Json) -> str:
    return json.dumps(_opaque({name: value for name, value in schema.items() if not name.startswith("x-")}))


def _opaque(schema: Json) -> Json:
    """Put a text in the place of every string that the library would not look at closely enough."""
    if isinstance(schema, list):
        return [_opaque(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "string" and schema.keys() & {"format", "pattern"}:
        rules = {name: value for name, value in schema.items() if name not in _ANNOTATIONS}
        return {"type": "string", "enum": [json.dumps(rules, sort_keys=True)]}
    return {name: _opaque(value) for name, value in schema.items()}
