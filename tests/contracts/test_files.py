"""What is committed beside the models is what the models say. Each check is shown to fail on what it is for."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from deploy.contract_tools import examples, schemas
from deploy.contract_tools.__main__ import generate, stale
from deploy.contract_tools.compatibility import within
from deploy.contract_tools.layout import EXAMPLES, SCHEMAS, schema_path
from deploy.paths import CHECKOUT
from popfax_contracts.catalogue import MESSAGES

RESERVE = "popfax.ledger.reserve-units.v1"
CREDITED = "popfax.ledger.units-credited.v1"
ENDED = "popfax.groups.membership-ended.v1"


def test_nothing_generated_is_stale() -> None:
    assert stale(CHECKOUT) == []


def test_generating_twice_gives_the_same(copy: Path) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*.json")}
    generate(copy)
    assert {path: path.read_bytes() for path in copy.rglob("*.json")} == before


def test_changed_schema_is_stale(copy: Path) -> None:
    path = SCHEMAS / schema_path(RESERVE)
    (copy / path).write_text((copy / path).read_text().replace("hold_id", "holding_id"))
    assert stale(copy) == [f"{path}: is stale: run `make contracts`"]


def test_missing_schema_is_stale_and_generated_again(copy: Path) -> None:
    path = SCHEMAS / schema_path(RESERVE)
    (copy / path).unlink()
    assert stale(copy) == [f"{path}: is stale: run `make contracts`"]
    generate(copy)
    assert stale(copy) == []


def test_schema_of_no_type_is_found_and_removed(copy: Path) -> None:
    path = SCHEMAS / "ledger" / "popfax.ledger.mint-units.v1.json"
    (copy / path).write_text("{}")
    assert stale(copy) == [f"{path}: describes nothing: run `make contracts`"]
    generate(copy)
    assert stale(copy) == []


def test_changed_example_makes_the_documents_stale(copy: Path) -> None:
    _edit(copy, RESERVE, lambda document: document["headers"].update(ce_time="2032-01-01T00:00:00+00:00"))
    found = {line.partition(":")[0] for line in stale(copy)}
    assert {"contracts/asyncapi/groups.json", "contracts/asyncapi/ledger.json"} <= found


@pytest.mark.parametrize("type_", sorted(MESSAGES))
def test_message_says_what_it_means(type_: str) -> None:
    """Each has words of its own, and the messages that they name exist."""
    model = MESSAGES[type_]
    words = vars(model)["__doc__"] or ""
    named = set(re.findall(r"`([A-Z][a-z]+[A-Z]\w*)`", words))
    assert words.strip()
    assert named <= {each.__name__ for each in MESSAGES.values()}


@pytest.mark.parametrize("type_", sorted(MESSAGES))
def test_readers_take_what_is_written(type_: str) -> None:
    """A writer writes every field, a reader has defaults for some. The committed schemas are the reader's."""
    model = MESSAGES[type_]
    written = schemas.value_schema(model, mode="serialization")
    assert within(schemas.closed(written), schemas.value_schema(model))


def test_every_type_has_examples_and_every_example_is_right() -> None:
    assert examples.problems(CHECKOUT) == []


def test_type_without_an_example_is_found(copy: Path) -> None:
    shutil.rmtree(copy / EXAMPLES / RESERVE)
    assert examples.problems(copy) == [f"{RESERVE}: has no example"]


def test_example_of_no_type_is_found(copy: Path) -> None:
    (copy / EXAMPLES / CREDITED).rename(copy / EXAMPLES / "popfax.ledger.units-minted.v1")
    assert f"{CREDITED}: has no example" in examples.problems(copy)
    assert "popfax.ledger.units-minted.v1/default: there is no such type" in examples.problems(copy)


WRONG: list[tuple[str, Callable[[Any], object], str]] = [
    (RESERVE, lambda d: d["value"].pop("hold_id"), "$: 'hold_id' is a required property"),
    (
        RESERVE,
        lambda d: d["value"].update(amount_units=0),
        "$.amount_units: 0 is less than or equal to the minimum of 0",
    ),
    (RESERVE, lambda d: d["value"].update(amount_units="4"), "$.amount_units: '4' is not of type 'integer'"),
    (RESERVE, lambda d: d["value"].update(hold_id="anne"), "$.hold_id: 'anne' is not a 'uuid'"),
    (RESERVE, lambda d: d["value"].update(colour="red"), "$: Additional properties are not allowed"),
    (RESERVE, lambda d: d.update(key=str(uuid4())), "can't be read: key: is not the account_id"),
    (RESERVE, lambda d: d["headers"].update(ce_type=CREDITED), f"its ce_type is not {RESERVE}"),
    (RESERVE, lambda d: d["headers"].pop("ce_source"), "$: 'ce_source' is a required property"),
    (RESERVE, lambda d: d["headers"].update(ce_colour="red"), "$: Additional properties are not allowed"),
    (
        RESERVE,
        lambda d: d["headers"].update(ce_source="popfax/notifications"),
        "its ce_source may not write popfax.ledger",
    ),
    (CREDITED, lambda d: d["value"].update(credit_id=d["value"]["credit_id"].upper()), "is not what a service writes"),
    (ENDED, lambda d: d.update(value={}), "can't be read: value: ValueError"),
    (
        "popfax.ledger.post-transfers.v1",
        lambda d: d["value"]["legs"][0].update(top_up_to_units=1),
        "can't be read: legs.0",
    ),
    (
        "popfax.groups.invite-by-email.v1",
        lambda d: d["value"].update(email="somebody@a-real-place.org"),
        "somebody@a-real-place.org is not an example domain",
    ),
]
"""What is wrong with an example, and what is said of it."""


@pytest.mark.parametrize(("type_", "change", "said"), WRONG, ids=range(len(WRONG)))
def test_wrong_example_is_found(copy: Path, type_: str, change: Callable[[Any], object], said: str) -> None:
    title = f"{type_}/{_edit(copy, type_, change).stem}"
    assert any(line.startswith(f"{title}: {said}") for line in examples.problems(copy)), examples.problems(copy)


def test_two_examples_of_one_id_are_found(copy: Path) -> None:
    first = next((copy / EXAMPLES / RESERVE).glob("*.json"))
    shutil.copy(first, first.with_name("again.json"))
    id_ = json.loads(first.read_text())["headers"]["ce_id"]
    assert examples.problems(copy) == [f"{id_}: is the ce_id of 2 examples"]


def _edit(root: Path, type_: str, change: Callable[[Any], object]) -> Path:
    path = min((root / EXAMPLES / type_).glob("*.json"))
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path
