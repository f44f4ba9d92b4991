"""What each kind of process of groups needs to be told, and how long what is removed is kept."""

from typing import Any

import pytest
from pydantic import ValidationError

from popfax_contracts.topics import Principal
from services.chassis.settings import load_settings
from services.groups.settings import GroupsSettings, Role, WebSettings
from services.notifications.settings import NotificationsSettings

URL = "postgresql+psycopg://groups:not-to-be-told@localhost/groups"
REQUIRED: dict[str, Any] = {
    "kafka_bootstrap": "localhost:1",
    "kafka_username": "x",
    "kafka_password": "x",
    "database_url": URL,
}


@pytest.fixture(autouse=True)
def database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUPS_DATABASE_URL", URL)
    monkeypatch.delenv("ROLE", raising=False)  # without a service, settings have no prefix


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


def test_sagas_are_kept_for_as_long_as_ids_of_messages_at_least() -> None:
    given = REQUIRED | {"inbox_retention_days": 30}
    assert GroupsSettings.model_validate(given | {"saga_retention_days": 30}).saga_retention_days == 30
    with pytest.raises(ValidationError, match="saga_retention_days is less than inbox_retention_days"):
        GroupsSettings.model_validate(given | {"saga_retention_days": 29})


def test_mails_are_kept_for_as_long_as_ids_of_messages_at_least() -> None:
    given = REQUIRED | {"smtp_host": "localhost"}
    assert NotificationsSettings.model_validate(given | {"mail_retention_days": 14}).mail_retention_days == 14
    with pytest.raises(ValidationError, match="mail_retention_days is less than inbox_retention_days"):
        NotificationsSettings.model_validate(given | {"mail_retention_days": 13})
