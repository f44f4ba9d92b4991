"""The API is as its OpenAPI document says: whatever is asked, nothing breaks and nothing undocumented is answered."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.openapi.checks import UndefinedStatusCode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.stack import Stack
from popfax_contracts.topics import Principal
from services.chassis import postgres
from services.groups.commands import POSTABLE
from services.groups.settings import GroupsSettings
from services.groups.web.api import api
from services.groups.web.context import web_context
from tests.integration.recorder import scratch_database
from tests.integration.seeding import group, member, person, seed
from tests.integration.serving import Client, serving
from tests.tokens import token

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
EXAMPLES = 30
"""For each operation, of what is as it should be, and of what is not."""

ADA, BOB = person("Ada", 100), person("Bob", 20)


@pytest.fixture(scope="module")
def url(stack: Stack) -> Iterator[str]:
    with scratch_database(stack, Principal.GROUPS) as made:
        yield made


@pytest_asyncio.fixture(scope="module")
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    made = postgres.engine(url)
    await seed(made, [ADA, BOB, group(ADA), group(BOB), member(ADA, BOB)])
    yield made
    await made.dispose()


@pytest.fixture(scope="module")
def nobody(url: str, engine: AsyncEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    limits = ("web_limit_address", "web_limit_person", "web_limit_commands")
    often: dict[str, Any] = dict.fromkeys(limits, "1000000/minute")
    with serving(url, tmp_path_factory.mktemp("keys"), **often) as client:
        yield client


def _document() -> dict[str, Any]:
    """The document. It needs neither database nor keys to be made."""
    idle = postgres.engine("postgresql+psycopg://nobody@nowhere/nothing")
    return api(web_context(idle, GroupsSettings.model_construct(jwt_jwks="nowhere", sse_connections=0))).openapi()


def _operations(document: dict[str, Any]) -> list[Any]:
    found: Any = schemathesis.openapi.from_dict(document).get_all_operations()
    return [each.ok() for each in found]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", _operations(_document()), ids=lambda operation: operation.label)
def test_whatever_is_asked_is_answered_as_documented(nobody: Client, operation: Any, mode: GenerationMode) -> None:
    if mode is GenerationMode.NEGATIVE and not _can_be_wrong(operation):
        return

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def ask(case: Any) -> None:
        # A stream ends with its token: this one is good still, as clocks may differ, and over.
        until = datetime.now(UTC) + (timedelta(seconds=-1) if case.path == "/events" else timedelta(minutes=5))
        headers = {"Authorization": f"Bearer {token(ADA.id, exp=until)}"}
        case.call_and_validate(f"http://{nobody.host}:{nobody.port}/v1", headers=headers, checks=CHECKS)

    ask()


def _can_be_wrong(operation: Any) -> bool:
    return bool(operation.body or operation.query or operation.path_parameters)


def test_each_posted_command_says_what_answers_it_and_what_each_code_means() -> None:
    paths = _document()["paths"]
    for name, model in POSTABLE.items():
        told = paths[f"/commands/{name}"]["post"]["description"]
        assert [event for event in model.outcomes() if f"`{event.__name__}`" not in told] == []
        assert [code for code in model.CODES if f"`{code}`: {code.meaning}" not in told] == []


def test_no_description_is_indented() -> None:
    told = _descriptions(_document())
    assert len(told) > 50
    assert [each for each in told if any(line.startswith(" ") for line in each.splitlines())] == []


def _descriptions(found: Any) -> list[str]:
    if isinstance(found, list):
        return [each for part in found for each in _descriptions(part)]
    if not isinstance(found, dict):
        return []
    own = [found["description"]] if isinstance(found.get("description"), str) else []
    return own + [each for part in found.values() for each in _descriptions(part)]


def test_an_undocumented_answer_is_found(nobody: Client) -> None:
    document = _document()
    for methods in document["paths"].values():
        for described in methods.values():
            del described["responses"]["401"]
    operation = next(each for each in _operations(document) if each.label == "GET /units")
    with pytest.raises(FailureGroup) as found:
        operation.Case().call_and_validate(f"http://{nobody.host}:{nobody.port}/v1", checks=CHECKS)
    assert [type(failure) for failure in found.value.exceptions] == [UndefinedStatusCode]
