"""The sagas that groups runs: one file for each kind, which begins with the table of its steps."""

from services.chassis.sagas import Sagas
from services.groups.sagas.create_member_account import CREATE_MEMBER_ACCOUNT
from services.groups.sagas.pay_for_member import ADD_OPTIONS_TO_MEMBER, EXTEND_MEMBER, PAY_FOR_MEMBER

SAGAS = Sagas(CREATE_MEMBER_ACCOUNT, EXTEND_MEMBER, ADD_OPTIONS_TO_MEMBER)

__all__ = ["ADD_OPTIONS_TO_MEMBER", "CREATE_MEMBER_ACCOUNT", "EXTEND_MEMBER", "PAY_FOR_MEMBER", "SAGAS"]
