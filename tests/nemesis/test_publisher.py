"""The load's publisher sends again by another client what a client that has forgotten its brokers never delivers."""

import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from confluent_kafka import KafkaError

from tests.nemesis import publisher
from tests.nemesis.publisher import Publisher, Record


class _Client:
    """The first one delivers nothing, each later one everything."""

    made: ClassVar[list["_Client"]] = []

    def __init__(self, _: dict[str, Any]) -> None:
        self.made.append(self)
        self.taken: list[bytes] = []
        self._waiting: list[Callable[[KafkaError | None, None], None]] = []

    def produce(
        self, topic: str, value: bytes, key: bytes, headers: list[Any], on_delivery: Callable[..., None]
    ) -> None:
        self.taken.append(value)
        self._waiting.append(on_delivery)

    def poll(self, _: float) -> None:
        if self is not self.made[0]:
            waiting, self._waiting = self._waiting, []
            for answered in waiting:
                answered(None, None)

    flush = poll


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[_Client]:
    monkeypatch.setattr(_Client, "made", [])
    monkeypatch.setattr(publisher, "Producer", _Client)
    return _Client.made


def _sent(answers: list[KafkaError | None]) -> Publisher:
    sender = Publisher({})
    for value in (b"1", b"2"):
        sender.send(Record("commands", b"k", value, [], answers.append))
    return sender


def test_what_a_client_does_not_deliver_another_does(made: list[_Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "REPLACED_S", 0.0)
    answers: list[KafkaError | None] = []
    sender = _sent(answers)
    assert sender.wait(time.monotonic() + 10) == 0
    assert sender.replaced == 1
    assert [client.taken for client in made] == [[b"1", b"2"], [b"1", b"2"]]
    assert answers == [None, None], "each is answered once"


def test_a_client_that_may_still_deliver_is_kept(made: list[_Client]) -> None:
    answers: list[KafkaError | None] = []
    assert _sent(answers).wait(time.monotonic() + 0.01) == 2
    assert len(made) == 1
    assert not answers
