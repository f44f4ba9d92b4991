"""Envelopes: which CloudEvents 1.0 attributes are read, in binary and structured mode, and what is refused.

In binary mode the attributes are headers that begin with `ce_`. In structured mode (`content-type:
application/cloudevents+json`) envelope and value are one JSON document, which is converted to the former here.
Attributes are read literally: nothing is trimmed, folded or replaced.
"""

import base64
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import methodcaller
from typing import Any, NoReturn
from uuid import UUID

from pydantic_core import to_json

from popfax_contracts.ids import uuid_of

Headers = Sequence[tuple[str, bytes | None]]
Attributes = Mapping[str, bytes | None]

MAX_CHARACTERS = 200
"""The longest id, type or correlation id."""

_UNREADABLE = "headers that can't be read"
UNREADABLE_HEADERS: Headers = ((_UNREADABLE, None),)
"""Stands for headers one of which has a name that is not UTF-8, since the client then returns none of them. They count
as a malformed envelope, on any topic.
"""

_call_headers = methodcaller("headers")
"""For a header whose name is not UTF-8, confluent-kafka builds a list containing a null pointer and returns it with an
exception set. Called from C, as here, Python refuses it; a call in Python's bytecode, once specialized, lets it
through, and the process crashes.
"""


def received_headers(message: Any) -> Headers:
    """Return the headers of a message of confluent-kafka's. Call it once: the client keeps what it built."""
    try:
        return _call_headers(message) or ()
    except (SystemError, UnicodeDecodeError):
        return UNREADABLE_HEADERS


SPECVERSION = b"1.0"

_CONTENT_TYPE = "content-type"
_STRUCTURED = "application/cloudevents+json"
_JSON = re.compile(r"application/([a-z0-9.+-]+\+)?json", re.IGNORECASE)
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^";\s]*)', re.IGNORECASE)

# What CloudEvents forbids in a string: control characters, and code points that are not characters.
_NO_CHARACTER = re.compile(
    "[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef"
    + "".join(f"{chr(p + 0xFFFE)}{chr(p + 0xFFFF)}" for p in range(0, 0x110000, 0x10000))
    + "]"
)
_UUID = re.compile(rb"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


class _Malformed(Exception):
    """The envelope can't be read; its one argument names the attribute, never its contents."""


def text_of(value: bytes | None) -> str | None:
    """Return a text of 1 to `MAX_CHARACTERS` characters, None for anything else."""
    if not value or len(value) > 4 * MAX_CHARACTERS:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    if len(text) > MAX_CHARACTERS or not (text.isprintable() or _NO_CHARACTER.search(text) is None):
        return None
    return text


@lru_cache(maxsize=8192)  # the same few people act again and again
def id_of(value: bytes | None) -> UUID | None:
    """Return a UUID in its one standard spelling, upper or lower case; None for anything else."""
    if value is None or _UUID.fullmatch(value) is None:
        return None
    return uuid_of(int(value.replace(b"-", b""), 16))


def unusual(headers: Headers, value: bytes | None) -> tuple[dict[str, bytes | None], bytes | None, tuple[str, ...]]:
    """Read an envelope that is not plainly in binary mode; return its attributes as headers, its value, and any fault.

    Whatever can be read is returned even if something is wrong, so that the sender can be answered.
    """
    attributes = dict(headers)
    if _UNREADABLE in attributes:
        return {}, value, ("headers: not UTF-8",)
    repeated = [name for name, times in Counter(name for name, _ in headers).items() if times > 1 and _counts(name)]
    for name in repeated:
        del attributes[name]  # ambiguous
    errors = tuple(f"{name}: given more than once" for name in sorted(repeated))
    content_type = next((value for name, value in attributes.items() if name.lower() == _CONTENT_TYPE), None)
    try:
        if not _is_structured(content_type):
            return attributes, value, errors
        found, value = _structured(value)
    except _Malformed as malformed:
        return {}, value, (*errors, *malformed.args)
    traces = {name: trace for name, trace in attributes.items() if name == "traceparent"}
    return traces | found, value, errors


def _counts(name: str) -> bool:
    return name.startswith("ce_") or name.lower() == _CONTENT_TYPE


def _is_structured(content_type: bytes | None) -> bool:
    text = (content_type or b"").decode("latin-1").strip()
    media = text.partition(";")[0].strip().lower()
    if media != _STRUCTURED:
        if media.startswith("application/cloudevents"):  # a batch, or another format
            raise _Malformed("content-type: no such event format")
        return False
    charset = _CHARSET.search(text)
    if charset is not None and charset[1].lower() not in ("utf-8", "us-ascii"):
        raise _Malformed("content-type: not UTF-8")
    return True


def _structured(document: bytes | None) -> tuple[dict[str, bytes], bytes | None]:
    """Read an event in JSON. An attribute that is not a string is passed on as an unusable one."""
    try:
        event = json.loads((document or b"").decode(), object_pairs_hook=_distinct, parse_constant=_no_number)
    except Exception as error:  # whatever a document makes its parser raise
        raise _Malformed(*(error.args if isinstance(error, _Malformed) else ("value: json_invalid",))) from error
    if not isinstance(event, dict):
        raise _Malformed("value: no event")
    attributes = {
        "traceparent" if name == "traceparent" else f"ce_{name}": _attribute(value)
        for name, value in event.items()
        if value is not None and name not in ("data", "data_base64")
    }
    return attributes, _data(event)


def _attribute(value: Any) -> bytes:
    return value.encode(errors="surrogatepass") if isinstance(value, str) else b""


def _data(event: Mapping[str, Any]) -> bytes | None:
    media = event.get("datacontenttype")
    if media is not None and not (isinstance(media, str) and _JSON.fullmatch(media.partition(";")[0].strip())):
        raise _Malformed("datacontenttype: not JSON")
    if "data_base64" not in event:
        return to_json(event["data"]) if event.get("data") is not None else None
    if "data" in event:
        raise _Malformed("data: given twice")
    try:
        return base64.b64decode(event["data_base64"], validate=True)
    except (ValueError, TypeError) as error:
        raise _Malformed("data_base64: not base64") from error


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Malformed("value: a name is given twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)
