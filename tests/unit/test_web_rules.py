"""What the API says is wrong with a field: words of our own, and places that are in the document."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from services.groups.commands import POSTABLE
from services.groups.web.api import _body_of
from services.groups.web.rules import _FOUND, _KINDS, RULES, broken, rule_of

JUNK: tuple[Any, ...] = (
    *("", "x", "x" * 5000, "a\nb", "www.evil.example", "@"),
    *(None, True, 0, -1, 1.5, 10**30, {}, {"x": 1}),
    *([], ["x"], [1], [None], [{}], [{"member_id": 1, "epoch": 0, "x": 1}], [["x"]]),
)


def _wrong(name: str) -> Iterator[str]:
    model = _body_of(POSTABLE[name])
    bodies: list[Any] = [dict.fromkeys(model.model_fields, junk) for junk in JUNK]
    for body in (*bodies, {}, [], "x", None, {"other": 1}):
        try:
            model.model_validate_json(json.dumps(body))
        except ValidationError as error:
            yield from broken([{**found, "loc": ("body", *found["loc"])} for found in error.errors()])


@pytest.mark.parametrize("name", POSTABLE)
def test_no_error_names_a_type_of_the_language_or_its_library(name: str) -> None:
    found = set(_wrong(name))
    assert len(found) > 3
    schema = json.dumps(_body_of(POSTABLE[name]).model_json_schema())
    for each in found:
        place, rule = re.fullmatch(r"body((?:\.[a-z_]+|\.\d+)*): (\w+)", each).groups()  # type: ignore[union-attr]
        assert rule in RULES
        if rule != "unknown":
            assert [part for part in place.split(".")[1:] if not part.isdigit() and f'"{part}"' not in schema] == []


def test_every_rule_that_is_found_has_a_meaning() -> None:
    assert set(_FOUND.values()) | set(_KINDS.values()) <= set(RULES)
    assert rule_of("a_kind_of_another_day") == "invalid"


def test_a_name_that_somebody_sends_comes_back_in_part() -> None:
    (told,) = broken([{"loc": ("body", "x" * 5000), "type": "extra_forbidden"}])
    assert len(told) < 200
