"""The tables of settings, from the models that read them."""

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from services.chassis.settings import SagaSettings, ServiceSettings
from services.groups.settings import GroupsSettings
from services.notifications.settings import NotificationsSettings
from tests.documents.tables import table


def shared() -> str:
    """Return the settings that every service has."""
    return _table("<SERVICE>", ServiceSettings)


def groups() -> str:
    """Return the settings of groups alone."""
    return _table("GROUPS", GroupsSettings)


def provisioning() -> str:
    """Return the settings of provisioning alone."""
    return _table("PROVISIONING", SagaSettings)


def notifications() -> str:
    """Return the settings of notifications alone."""
    return _table("NOTIFICATIONS", NotificationsSettings)


def _table(prefix: str, kind: type[ServiceSettings]) -> str:
    elsewhere = set() if kind is ServiceSettings else set(ServiceSettings.model_fields)
    fields = {name: field for name, field in kind.model_fields.items() if name not in elsewhere}
    rows = [(f"`{prefix}_{name.upper()}`", _default(field), field.description or "") for name, field in fields.items()]
    return table(("setting", "default", "meaning"), rows)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "**required**"
    return f"`{field.default}`" if field.default not in {None, ""} else "none"
