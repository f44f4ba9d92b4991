"""Sets a group's offsets to the beginning, in a process of its own: `python -m tests.nemesis.offsets`, told by stdin.

librdkafka aborts the process when a connection breaks at the wrong moment of such a request (its issue 4605).
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from popfax_contracts.topics import Topic

_ANSWER_S = 5
_WITHIN_S = 60
"""How long the process may take: its client may deadlock."""


def to_the_beginning(config: Mapping[str, Any], group: str, topics: Iterable[Topic]) -> str:
    """Set them; return why it did not work, if it did not."""
    asked = {"config": config, "group": group, "topics": {topic.name: topic.partitions for topic in topics}}
    command = [sys.executable, "-m", "tests.nemesis.offsets"]
    try:
        done = subprocess.run(
            command, input=json.dumps(asked), capture_output=True, text=True, check=False, timeout=_WITHIN_S
        )
    except subprocess.TimeoutExpired as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or f"it ended with {done.returncode}"


def main() -> None:
    """Exit with an error if it does not work."""
    asked = json.load(sys.stdin)
    places = [TopicPartition(topic, number, 0) for topic, count in asked["topics"].items() for number in range(count)]
    wanted = ConsumerGroupTopicPartitions(asked["group"], places)
    client = AdminClient(asked["config"])
    try:
        client.alter_consumer_group_offsets([wanted], request_timeout=_ANSWER_S)[asked["group"]].result()
    except KafkaException as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
