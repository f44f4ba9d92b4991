"""The sagas that groups runs: one file each, which begins with the table of its steps."""

from services.chassis.sagas import Sagas
from services.groups.sagas.create_member_account import CREATE_MEMBER_ACCOUNT

SAGAS = Sagas(CREATE_MEMBER_ACCOUNT)

__all__ = ["CREATE_MEMBER_ACCOUNT", "SAGAS"]
