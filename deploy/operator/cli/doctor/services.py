"""The four services, as the doctor knows them: their topics, and what may wait in their databases."""

from services.groups.consumers import GROUPS
from services.ledger.consumers import LEDGER
from services.notifications.consumers import NOTIFICATIONS
from services.provisioning.consumers import PROVISIONING

ALL = (GROUPS, LEDGER, PROVISIONING, NOTIFICATIONS)
