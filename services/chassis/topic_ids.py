"""Topic ids: a topic that was deleted and recreated has the same name, another id, and begins at offset 0."""

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from services.chassis.client_state import STRANDED_S

EVERY_S = 5.0
"""How often the cluster is asked: a recreated topic is noticed within little more than this."""

TIMEOUT_S = 5.0
"""How long the first answer may take, for which the consumer waits."""

AGAIN_S = 1.0
"""How long any later one may take. librdkafka asks the broker that it calls the controller, in KRaft any of them; while
that one is away, it waits for it with a whole core busy, until its metadata name another
(`topic.metadata.refresh.interval.ms`).
"""


class TopicIds:
    """The ids of some topics, as the cluster reports them. A request without an answer changes nothing."""

    def __init__(self, config: Mapping[str, Any], topics: Sequence[str]) -> None:
        self.known: dict[str, str] = {}
        self.missing: set[str] = set()
        self._topics = topics
        self.connect(config)

    def connect(self, config: Mapping[str, Any]) -> None:
        """Ask by a new client from now on."""
        self._config = config
        self._admin = AdminClient({**config, "log_level": 0})
        self._asked: dict[str, Future[Any]] = {}
        self._ask_at = 0.0
        self._heard_at = time.monotonic()

    def recreated(self) -> Collection[str]:
        """Return topics whose id has changed, each one once. Never waits."""
        if self._asked and all(answer.done() for answer in self._asked.values()):
            answers, self._asked = self._asked, {}
            return [topic for topic, answer in answers.items() if self._is_new(topic, answer)]
        self._ask()
        return ()

    def wait(self) -> Mapping[str, str]:
        """Return the ids; wait for the first answer if necessary, for at most `TIMEOUT_S`."""
        if not self.known:
            self._ask()
            for topic, answer in self._asked.items():
                self._is_new(topic, answer)
        return self.known

    def _ask(self) -> None:
        if time.monotonic() - self._heard_at > STRANDED_S:
            self.connect(self._config)
        if not self._asked and time.monotonic() >= self._ask_at:
            topics, timeout_s = TopicCollection(list(self._topics)), AGAIN_S if self.known else TIMEOUT_S
            self._asked = self._admin.describe_topics(topics, request_timeout=timeout_s)
            self._ask_at = time.monotonic() + EVERY_S

    def _is_new(self, topic: str, answer: "Future[Any]") -> bool:
        try:
            id_ = str(answer.result(TIMEOUT_S).topic_id)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                self._heard_at = time.monotonic()
                self.missing.add(topic)
            return False
        except TimeoutError:
            return False
        self._heard_at = time.monotonic()
        self.missing.discard(topic)
        before, self.known[topic] = self.known.get(topic), id_
        return before is not None and before != id_
