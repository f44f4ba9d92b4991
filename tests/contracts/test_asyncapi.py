"""The AsyncAPI documents: valid by the official parser, and saying what the services do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.contract_tools import parser
from deploy.contract_tools.asyncapi import SERVICES
from deploy.contract_tools.layout import ASYNCAPI, read
from deploy.contract_tools.parser import ParserError
from deploy.paths import CHECKOUT
from popfax_contracts.catalogue import COMMANDS, MESSAGES
from popfax_contracts.message import MalformedCommand
from popfax_contracts.topics import TOPICS

DOCUMENTS = {str(service.principal): CHECKOUT / ASYNCAPI / f"{service.principal}.json" for service in SERVICES}

ERROR = 0
"""The worst severity that the parser knows."""


def test_official_parser_has_nothing_against_the_documents() -> None:
    found = parser.diagnostics(list(DOCUMENTS.values()))
    assert {d["code"] for each in found.values() for d in each} <= {"asyncapi-latest-version"}  # 3.1 is out
    assert len(found) == len(SERVICES)


FAULTS: list[tuple[str, Callable[[Any], object]]] = [
    ("no title", lambda d: d["info"].pop("title")),
    (
        "an action that is none",
        lambda d: d["operations"]["receive-popfax.ledger.commands.credit-units"].update(action="take"),
    ),
    (
        "a reply that is not there",
        lambda d: d["operations"]["receive-popfax.ledger.commands.credit-units"]["reply"].update(
            messages=[{"$ref": "#/channels/popfax.ledger.events/messages/popfax.ledger.units-minted.v1"}]
        ),
    ),
    ("a channel that is not there", lambda d: d["channels"].pop("popfax.ledger.commands")),
    ("a message that is not there", lambda d: d["components"]["messages"].pop("popfax.ledger.capture-hold.v1")),
    ("a schema that is none", lambda d: _reserve(d)["payload"].update(type="whole number")),
    ("an example that is none", lambda d: _reserve(d)["examples"].append({"name": "nothing"})),
    ("a word that AsyncAPI does not know", lambda d: _reserve(d).update(colour="red")),
]


def test_official_parser_finds_each_fault(tmp_path: Path) -> None:
    paths = {what: tmp_path / f"{number}.json" for number, (what, _) in enumerate(FAULTS)}
    for what, change in FAULTS:
        document = read(DOCUMENTS["ledger"])
        change(document)
        paths[what].write_text(json.dumps(document))
    found = parser.diagnostics(list(paths.values()))
    errors = {what: [d for d in found[path] if d["severity"] == ERROR] for what, path in paths.items()}
    assert [what for what in errors if not errors[what]] == []


def test_every_type_is_in_the_document_of_who_sends_or_receives_it() -> None:
    described = {type_ for path in DOCUMENTS.values() for type_ in read(path)["components"]["messages"]}
    assert set(MESSAGES) - described == set()


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.principal)
def test_document_has_what_the_service_handles_and_nothing_that_it_may_not(service: Any) -> None:
    document = read(DOCUMENTS[service.principal])
    topics = {topic.name: topic for topic in TOPICS}
    told: dict[str, set[str]] = {"receive": set(), "send": set()}
    for operation in document["operations"].values():
        topic = topics[operation["channel"]["$ref"].removeprefix("#/channels/")]
        types = {message["$ref"].rpartition("/")[2] for message in operation["messages"]}
        told[operation["action"]] |= types
        assert service.principal in (topic.readers if operation["action"] == "receive" else {topic.writer})
        assert all(topic in MESSAGES[type_].TOPICS for type_ in types)
    assert told["receive"] == {model.TYPE for model in service.handlers if model.TYPE in MESSAGES}
    written = {topic for topic in TOPICS if topic.writer is service.principal}
    assert told["send"] == {type_ for type_, model in MESSAGES.items() if written & set(model.TOPICS)}


def test_groups_sends_what_its_saga_asks_of_others() -> None:
    operations = read(DOCUMENTS["groups"])["operations"]
    names = ("capture-hold", "post-transfers", "release-hold", "reserve-units")
    sent = {name for name in operations if name.startswith("send-popfax.ledger.")}
    assert sent == {f"send-popfax.ledger.commands-from-groups.{name}" for name in names}


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.principal)
def test_every_command_has_its_replies(service: Any) -> None:
    """Whoever sends it reads of them too, so that each document is complete in itself."""
    document = read(DOCUMENTS[service.principal])
    for operation in document["operations"].values():
        (type_, *more) = (message["$ref"].rpartition("/")[2] for message in operation["messages"])
        if type_ not in COMMANDS:
            assert "reply" not in operation
            continue
        answers = [message["$ref"].rpartition("/")[2] for message in operation["reply"]["messages"]]
        assert (more, answers[:-1]) == ([], [event.TYPE for event in COMMANDS[type_].outcomes()])
        assert issubclass(MESSAGES[answers[-1]], MalformedCommand)
        assert operation["reply"]["channel"] == {"$ref": f"#/channels/{MESSAGES[answers[-1]].TOPICS[0].name}"}
    assert len([name for name in document["operations"] if "commands" in name]) > 0


def test_changed_parser_is_not_used(tmp_path: Path) -> None:
    archive = tmp_path / "parser.tgz"
    shutil.copy(parser.ARCHIVE, archive)
    assert parser.diagnostics([], archive) == {}
    with archive.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ParserError, match="does not have its listed SHA-256: run `make setup`"):
        parser.diagnostics([], archive)


def test_missing_parser_is_an_error_and_not_a_pass(tmp_path: Path) -> None:
    with pytest.raises(ParserError, match="is missing"):
        parser.diagnostics(list(DOCUMENTS.values()), tmp_path / "parser.tgz")


def _reserve(document: Any) -> Any:
    return document["components"]["messages"]["popfax.ledger.reserve-units.v1"]
