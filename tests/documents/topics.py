"""The table of topics, from the contracts and from what the services subscribe to."""

from popfax_contracts.topics import EVERYONE, TOPICS, Topic
from services.groups.consumers import GROUPS
from services.ledger.consumers import LEDGER
from services.notifications.consumers import NOTIFICATIONS
from services.provisioning.consumers import PROVISIONING
from tests.documents.tables import table

SERVICES = (GROUPS, LEDGER, PROVISIONING, NOTIFICATIONS)


def table_of_topics() -> str:
    """Return each topic with its writer, the services that act on it, and who may read it."""
    rows = [(f"`{t.name}`", t.writer.value, _subscribers(t), _readers(t), _kept(t)) for t in TOPICS]
    return table(("topic", "written by", "acted on by", "readable by", "keeps"), rows)


def _subscribers(topic: Topic) -> str:
    return ", ".join(service.principal.value for service in SERVICES if topic in service.topics) or "–"


def _readers(topic: Topic) -> str:
    return "all" if topic.readers == EVERYONE else ", ".join(sorted(topic.readers))


def _kept(topic: Topic) -> str:
    return "the newest record of each key" if topic.compacted else "7 days"
