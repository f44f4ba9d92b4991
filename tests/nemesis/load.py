"""Sends a run's commands and asks the API, and notes what Kafka has acknowledged and what the API has answered."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any

from confluent_kafka import KafkaError

from popfax_contracts.topics import Principal
from services.chassis.envelopes import text_of
from tests.integration.serving import Client
from tests.nemesis.commands import Asking, Sending, as_document, value_now
from tests.nemesis.fleet import Fleet
from tests.nemesis.publisher import Publisher, Record

_TAKEN_WITHIN_S = 300.0

Message = tuple[str, str, str]
"""A message's identity: its topic, source and id."""


class Load:
    """Sends in two threads until it is told to stop, or everything was sent."""

    def __init__(
        self,
        fleet: Fleet,
        sendings: Iterable[Sending],
        askings: Iterable[Asking],
        token: Callable[[str], str | None],
    ) -> None:
        """`token` returns the token that was mailed last for an invitation."""
        self.sent = 0
        self.ids: dict[str, str] = {}
        """The type of each message that was sent, by its id."""
        self.acknowledged: set[Message] = set()
        """What Kafka has acknowledged, of what has an identity."""
        self.refused: Counter[str] = Counter()
        """What Kafka did not take, by the error."""
        self.answers: Counter[str] = Counter()
        """The API's answers, by their status; or by what went wrong with the connection."""
        self.unexpected: list[str] = []
        """Answers with which the API says that it has a fault."""
        self._fleet = fleet
        self._token = token
        self._stopped = threading.Event()
        self._publishers: dict[tuple[Principal, str], Publisher] = {}
        self._began, self._clock = datetime.now(UTC), time.monotonic()
        self._threads = [
            threading.Thread(target=self._paced, args=(sendings, self._send), name="sends", daemon=True),
            threading.Thread(target=self._paced, args=(askings, self._ask), name="asks", daemon=True),
        ]

    def start(self) -> None:
        """Begin."""
        self._began, self._clock = datetime.now(UTC), time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send nothing more, and wait until Kafka has taken or refused everything."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        until = time.monotonic() + _TAKEN_WITHIN_S
        for publisher in self._publishers.values():
            if left := publisher.wait(until):
                self.refused["not taken in time"] += left

    @property
    def replaced(self) -> int:
        """Return how many clients were replaced, because they delivered nothing."""
        return sum(publisher.replaced for publisher in self._publishers.values())

    def _paced(self, items: Iterable[Any], do: Callable[[Any], None]) -> None:
        for item in items:
            if self._stopped.wait(max(0.0, self._clock + item.at - time.monotonic())):
                return
            do(item)

    def _send(self, sending: Sending) -> None:
        value = value_now(sending, self._began, self._token(sending.token_of) if sending.token_of else None)
        headers, sent = sending.sent.headers, sending.sent
        given = {name: (text or b"").decode(errors="replace") for name, text in headers}
        if sending.structured:
            headers, value = as_document(headers, value)
        message = (sent.topic.name, given.get("ce_source", ""), given.get("ce_id", ""))

        def answered(error: KafkaError | None) -> None:
            if error is not None:
                self.refused[error.name()] += 1
            elif "ce_type" in given and text_of(dict(sent.headers).get("ce_id")):
                self.acknowledged.add(message)

        record = Record(sent.topic.name, sent.key.encode(), value, headers, answered)
        self._publisher(sending.principal, sending.codec).send(record)
        self.sent += 1
        self.ids[message[2]] = given.get("ce_type", "")
        for each in self._publishers.values():
            each.poll()

    def _publisher(self, principal: Principal, codec: str) -> Publisher:
        if principal is not Principal.PLATFORM:
            codec = "none"  # few are sent so, and each client has threads of its own
        if (principal, codec) not in self._publishers:
            config = {"compression.type": codec, "partitioner": "murmur2_random", "acks": "all", "linger.ms": 5}
            config |= {"message.timeout.ms": 0, "socket.timeout.ms": 10_000, "log_level": 0}
            config = {**self._fleet.stack.kafka.client_config(principal), **config}
            self._publishers[principal, codec] = Publisher(config)
        return self._publishers[principal, codec]

    def _ask(self, asking: Asking) -> None:
        replica = self._fleet.of(Principal.GROUPS)[int(asking.at) % 2]
        try:
            host, _, port = replica.process.url.removeprefix("http://").partition(":")
            client = Client(host, int(port), self._fleet.stack.keys.token(asking.who))
            method = "GET" if asking.body is None else "POST"
            answer = client.ask(
                method, asking.path, asking.body, **({"Idempotency-Key": asking.key} if asking.key else {})
            )
        except (OSError, HTTPException) as error:
            self.answers[type(error).__name__] += 1
        else:
            self.answers[str(answer.status)] += 1
            if answer.status >= 500 and answer.status != 503:
                self.unexpected.append(f"{method} {asking.path}: {answer.status} {answer.text[:200]}")


def token_in(value: bytes) -> tuple[str, str]:
    """Return the invitation and the token of a command to send its mail."""
    fields = json.loads(value)
    return fields["invitation_id"], fields["token"]
