"""What each kind of process of groups needs to be told."""

import pytest
from pydantic import ValidationError

from popfax_contracts.topics import Principal
from services.chassis.settings import load_settings
from services.groups.settings import GroupsSettings, Role, WebSettings

URL = "postgresql+psycopg://groups:not-to-be-told@localhost/groups"


@pytest.fixture(autouse=True)
def database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUPS_DATABASE_URL", URL)


def test_a_web_process_needs_no_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUPS_ROLE", "web")
    monkeypatch.setenv("GROUPS_JWT_JWKS", "keys.json")
    assert load_settings(WebSettings, Principal.GROUPS).role is Role.WEB
    with pytest.raises(ValidationError, match="kafka_bootstrap"):
        load_settings(GroupsSettings, Principal.GROUPS)


def test_a_web_process_needs_keys_and_tells_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUPS_ROLE", "web")
    with pytest.raises(ValidationError, match="needs jwt_jwks") as refused:
        load_settings(WebSettings, Principal.GROUPS)
    assert "not-to-be-told" not in str(refused.value)
