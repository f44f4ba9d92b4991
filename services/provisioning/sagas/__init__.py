"""Provisioning's saga; its file begins with the table of its steps."""

from services.chassis.sagas import Sagas
from services.provisioning.sagas.paid_action import PAID_ACTION

SAGAS = Sagas(PAID_ACTION)

__all__ = ["PAID_ACTION", "SAGAS"]
