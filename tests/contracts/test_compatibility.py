"""A released version is a promise: what would break it is refused, what readers can live with is not."""

import copy as copying
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.contract_tools import releases, schemas
from deploy.contract_tools.__main__ import generate, stale
from deploy.contract_tools.compatibility import breaks
from deploy.contract_tools.layout import VERSION
from deploy.contract_tools.releases import ReleaseError
from deploy.paths import CHECKOUT
from popfax_contracts.catalogue import MESSAGES

Schema = Any

RESERVE = "popfax.ledger.reserve-units.v1"
SPEND = "popfax.ledger.spend-units.v1"
REFUSED_SPEND = "popfax.ledger.spend-refused.v1"
REGISTER = "popfax.provisioning.register-subscriber.v1"
TRANSFER = "popfax.groups.transfer-units.v1"
PERSON = "popfax.provisioning.person-recorded.v1"
DETACHED = "popfax.groups.members-detached.v1"
COUNT = {"type": "integer"}
TEXT = {"type": "string"}
TEXT_OR_NULL = {"anyOf": [TEXT, {"type": "null"}]}

OLD_READER, NEW_READER, KAFKA, ANSWER = "an old reader", "today's reader", "its topic", "what answers it"

"""How what is said of a breaking change begins."""


FIRST = f"{releases.MAJOR}.0.0"
LATER = f"{releases.MAJOR}.7.0"


@pytest.fixture
def copy(released: Path, tmp_path: Path) -> Path:
    """A copy of the contracts with their first release, to be changed."""
    return shutil.copytree(released, tmp_path / "copy")


def today() -> dict[str, Schema]:
    return {type_: schemas.schema_of(model) for type_, model in MESSAGES.items()}


def test_no_released_version_is_broken() -> None:
    assert releases.problems(CHECKOUT) == []


@pytest.mark.parametrize("type_", sorted(MESSAGES))
def test_type_does_not_break_itself(type_: str) -> None:
    """The library proves what it can. If it could not for some type, it would refuse every change of that one."""
    schema = schemas.schema_of(MESSAGES[type_])
    assert breaks(schema, schema) == []


def _set(name: str, schema: Schema) -> Callable[[Schema], object]:
    return lambda s: s["properties"].update({name: schema})


def _demand(name: str, schema: Schema) -> Callable[[Schema], object]:
    return lambda s: (s["properties"].update({name: schema}), s["required"].append(name))


def _remove(name: str) -> Callable[[Schema], object]:
    return lambda s: (s["properties"].pop(name), name in s["required"] and s["required"].remove(name))


def _change(name: str, **rules: Any) -> Callable[[Schema], object]:
    return lambda s: s["properties"][name].update(rules)


def _rename(name: str, new: str) -> Callable[[Schema], object]:
    return lambda s: (_remove(name)(s), _demand(new, TEXT)(s))


def _part(name: str, change: Callable[[Schema], object]) -> Callable[[Schema], object]:
    return lambda s: change(s["$defs"][name])


REFUSED: list[tuple[str, str, Callable[[Schema], object], set[str]]] = [
    ("removed field", SPEND, _remove("reference"), {OLD_READER}),
    ("removed optional field", REGISTER, _remove("plan"), {OLD_READER}),
    ("renamed field", SPEND, _rename("purpose", "use"), {OLD_READER, NEW_READER}),
    ("field that may be left out now", SPEND, lambda s: s["required"].remove("reference"), {OLD_READER}),
    ("new required field", SPEND, _demand("country", TEXT), {NEW_READER}),
    ("optional field made required", REGISTER, lambda s: s["required"].append("plan"), {NEW_READER}),
    ("narrowed number", SPEND, _change("amount_units", maximum=10), {NEW_READER}),
    ("widened number", SPEND, _change("amount_units", maximum=2_000_000_000), {OLD_READER}),
    ("number made a text", SPEND, _change("amount_units", type="string"), {OLD_READER, NEW_READER}),
    ("number made a fraction", SPEND, _change("amount_units", type="number"), {OLD_READER}),
    ("text that may be null now", SPEND, _set("reference", TEXT_OR_NULL), {OLD_READER}),
    ("value more", SPEND, _change("purpose", enum=["fax", "sms", "call_forwarding", "mms"]), {OLD_READER}),
    ("value less", SPEND, _change("purpose", enum=["fax", "sms"]), {NEW_READER}),
    ("value more in an event", PERSON, lambda s: s["$defs"]["Language"]["enum"].append("de"), {OLD_READER}),
    ("language more", REGISTER, lambda s: s["$defs"]["Language"]["enum"].append("de"), {OLD_READER}),
    ("another pattern", SPEND, _change("reference", pattern="^[a-z]+$"), {OLD_READER, NEW_READER}),
    ("no pattern", SPEND, lambda s: s["properties"]["reference"].pop("pattern"), {OLD_READER}),
    ("longer text", SPEND, _change("reference", maxLength=200), {OLD_READER, NEW_READER}),
    ("UUID made any text", SPEND, lambda s: s["properties"]["spend_id"].pop("format"), {OLD_READER}),
    ("shorter list", TRANSFER, lambda s: s["properties"]["members"]["anyOf"][0].update(maxItems=10), {NEW_READER}),
    ("longer list", TRANSFER, lambda s: s["properties"]["members"]["anyOf"][0].update(maxItems=2000), {OLD_READER}),
    ("new required field of a part", DETACHED, _part("Detachment", _demand("epoch", COUNT)), {NEW_READER}),
    ("removed field of a part", DETACHED, _part("Detachment", _remove("outcome")), {OLD_READER}),
    ("another key", SPEND, lambda s: s["x-kafka"].update(key="spend_id"), {KAFKA}),
    ("another answer", SPEND, lambda s: s["x-outcomes"].update(answers=["popfax.ledger.units-used.v1"]), {ANSWER}),
    ("another refusal", SPEND, lambda s: s["x-outcomes"].update(refusal=None), {ANSWER}),
    ("another topic", SPEND, lambda s: s["x-kafka"].update(topic="popfax.ledger.events"), {KAFKA}),
]
"""What it is, whose schema, the change, and what is said of it."""


@pytest.mark.parametrize(("type_", "change", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_breaking_change_is_refused(type_: str, change: Callable[[Schema], object], said: set[str]) -> None:
    found = breaks(schemas.schema_of(MESSAGES[type_]), _changed(type_, change))
    assert {
        start for start in (OLD_READER, NEW_READER, KAFKA, ANSWER) if any(line.startswith(start) for line in found)
    } == said


ALLOWED: list[tuple[str, str, Callable[[Schema], object]]] = [
    ("new optional field", SPEND, _set("country", TEXT | {"default": "FR"})),
    ("new field that may be null", SPEND, _set("country", TEXT_OR_NULL | {"default": None})),
    ("new optional list of parts", SPEND, _set("pages", {"type": "array", "items": {"$ref": "#/$defs/Page"}})),
    ("new optional field of a part", DETACHED, _part("Detachment", _set("epoch", COUNT))),
    ("code more", SPEND, lambda s: s["x-outcomes"]["codes"].append("account_frozen")),
    ("code less", SPEND, lambda s: s["x-outcomes"]["codes"].pop()),
    ("code more in a refusal", REFUSED_SPEND, lambda s: s["properties"]["code"]["anyOf"].insert(0, {"const": "new"})),
    ("code less in a refusal", REFUSED_SPEND, lambda s: s["properties"]["code"]["anyOf"].pop(0)),
    ("new words", SPEND, lambda s: s.update(description="Pay.")),
]


@pytest.mark.parametrize(("type_", "change"), [case[1:] for case in ALLOWED], ids=[case[0] for case in ALLOWED])
def test_compatible_change_is_allowed(type_: str, change: Callable[[Schema], object]) -> None:
    assert breaks(schemas.schema_of(MESSAGES[type_]), _changed(type_, change)) == []


def test_change_that_breaks_a_released_version_is_found(released: Path) -> None:
    assert releases.problems(released) == []
    changed = today() | {RESERVE: _changed(RESERVE, _remove("hold_id"))}
    said = "an old reader can't read every record that is written today, or loses a field of it"
    assert releases.problems(released, changed) == [f"{RESERVE}: breaks {FIRST}: {said}"]


@pytest.mark.parametrize(("type_", "change"), [case[1:3] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_breaking_change_of_a_released_version_is_found(
    released: Path, type_: str, change: Callable[[Schema], object]
) -> None:
    found = releases.problems(released, today() | {type_: _changed(type_, change)})
    assert found
    assert all(line.startswith(f"{type_}: breaks {FIRST}: ") for line in found)


@pytest.mark.parametrize("type_", sorted(MESSAGES))
def test_released_type_that_is_gone_is_found(released: Path, type_: str) -> None:
    without = {name: schema for name, schema in today().items() if name != type_}
    assert releases.problems(released, without) == [f"{type_}: breaks {FIRST}: the type is gone"]


def test_release_of_another_major_version_is_not_compared(copy: Path) -> None:
    """It promised something else, and a major version of its own says so."""
    where = copy / "contracts" / "released"
    (where / FIRST).rename(where / f"{releases.MAJOR - 1}.9.0")
    assert releases.versions(copy) == []
    assert releases.current(copy) == f"{FIRST}-dev"
    assert releases.problems(copy, {}) == []


def test_every_exception_is_needed() -> None:
    for version in releases.versions(CHECKOUT):
        released = releases.schemas_of(CHECKOUT, version)
        for type_ in releases.exceptions_of(CHECKOUT, version):
            assert breaks(released[type_], today()[type_]), f"{type_} breaks {version} no more: take it off the list"


def test_release_freezes_schemas_and_examples(copy: Path) -> None:
    where = releases.release(copy, LATER)
    assert where == copy / "contracts" / "released" / LATER
    assert releases.schemas_of(copy, releases.parse(LATER)) == today()
    assert {record.type for record in releases.corpus_of(copy, releases.parse(LATER))} == set(MESSAGES)
    assert releases.current(copy) == LATER
    generate(copy)
    assert stale(copy) == []
    assert f'__version__ = "{LATER}"' in (copy / VERSION).read_text()


def test_contracts_that_differ_from_the_newest_release_are_the_next_version(copy: Path) -> None:
    _edit_release(copy, lambda schema: schema["properties"].pop("hold_id"))
    assert releases.current(copy) == f"{releases.MAJOR}.1.0-dev"


def test_every_released_version_is_compared_and_not_the_newest_alone(copy: Path) -> None:
    releases.release(copy, LATER)
    changed = today() | {
        type_: _changed(type_, _remove(field)) for type_, field in ((RESERVE, "hold_id"), (SPEND, "reference"))
    }
    found = [line.split(": an old")[0] for line in releases.problems(copy, changed)]
    assert found == [f"{type_}: breaks {version}" for version in (FIRST, LATER) for type_ in (RESERVE, SPEND)]


def test_field_that_comes_back_as_another_type_is_found() -> None:
    """What is compatible from each version to the next need not be so from the first to the last."""
    first, last = (_changed(SPEND, _set("note", {"type": kind})) for kind in ("string", "integer"))
    assert breaks(today()[SPEND], last) == []
    assert breaks(first, last) != []


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (FIRST, f"{FIRST} is not newer than {FIRST}"),
        (f"{releases.MAJOR}.1", "is no version"),
        ("", "is no version"),
        (f"{releases.MAJOR - 1}.9.0", f"is no version {releases.MAJOR}"),
        (f"{releases.MAJOR + 1}.0.0", f"is no version {releases.MAJOR}"),
    ],
)
def test_refuses_release_of_a_version_that_is_none(copy: Path, version: str, said: str) -> None:
    with pytest.raises(ReleaseError, match=said):
        releases.release(copy, version)


def test_refuses_release_that_breaks_a_promise(copy: Path) -> None:
    _edit_release(copy, lambda schema: schema["properties"].update(colour={"type": "string"}))
    with pytest.raises(ReleaseError, match=rf"reserve-units\.v1: breaks {FIRST}"):
        releases.release(copy, LATER)
    assert releases.versions(copy) == [releases.parse(FIRST)]


def _edit_release(root: Path, change: Callable[[Schema], object]) -> None:
    path = root / "contracts" / "released" / FIRST / "schemas" / "ledger" / f"{RESERVE}.json"
    schema = json.loads(path.read_text())
    change(schema)
    path.write_text(json.dumps(schema))


def _changed(type_: str, change: Callable[[Schema], object]) -> Schema:
    schema = copying.deepcopy(schemas.schema_of(MESSAGES[type_]))
    schema.setdefault("$defs", {})["Page"] = {"type": "object", "properties": {"number": {"type": "integer"}}}
    change(schema)
    return schema
