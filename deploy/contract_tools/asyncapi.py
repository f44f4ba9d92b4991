"""AsyncAPI documents: what a service receives and sends, for people and tools outside the code.

There is one per service, complete in itself. Its `Service` says what it receives, the topics that it writes to say
what it sends, and each command's class says what answers it.
"""

import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from deploy.contract_tools.examples import HEADERS, Example, of
from deploy.contract_tools.layout import Json, as_text
from deploy.contract_tools.schemas import key_schema, value_schema
from deploy.operator.topic_settings import CLUSTER
from deploy.operator.topics import expected_config
from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.message import Command, Message
from popfax_contracts.topics import TOPICS, Topic
from services.chassis.service import Service
from services.groups.consumers import GROUPS
from services.ledger.consumers import LEDGER
from services.notifications.consumers import NOTIFICATIONS
from services.provisioning.consumers import PROVISIONING

SERVICES = (GROUPS, LEDGER, NOTIFICATIONS, PROVISIONING)

_BINDING = "0.5.0"
_SCHEMA_REFERENCE = "#/components/schemas/{model}"

Models = Iterable[type[Message]]
Topics = Iterable[Topic]


def files(version: str, examples: list[Example]) -> dict[Path, str]:
    """Return every service's document, by its path below `contracts/asyncapi`."""
    return {Path(f"{service.principal}.json"): as_text(document(service, version, examples)) for service in SERVICES}


def document(service: Service, version: str, examples: list[Example]) -> Json:
    """Return a service's document."""
    receives, sends = _by_topic(_received(service), service.topics), _by_topic(MESSAGES.values(), _written(service))
    named = {model for models in (*receives.values(), *sends.values()) for model in models}
    answers = {answer for model in named if issubclass(model, Command) for answer in _answers(model)}
    ordered = sorted(named | answers, key=lambda model: model.TYPE)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": f"Popfax {service.principal}",
            "version": version,
            "description": _charter(service),
        },
        "defaultContentType": "application/json",
        "servers": {"kafka": _SERVER},
        "channels": {
            topic.name: _channel(topic, sorted(models, key=lambda model: model.TYPE))
            for topic in TOPICS
            if (models := {*receives.get(topic, ()), *sends.get(topic, ()), *(a for a in answers if topic in a.TOPICS)})
        },
        "operations": dict([*_operations("receive", receives), *_operations("send", sends)]),
        "components": {
            "schemas": {"Envelope": HEADERS, **_shared_schemas(ordered)},
            "messages": {model.TYPE: _message(model, of(examples, model.TYPE)) for model in ordered},
            "securitySchemes": {
                "scram": {"type": "scramSha512", "description": "SASL/SCRAM-SHA-512, one user per principal, over TLS."}
            },
        },
    }


_SERVER = {
    "host": "kafka.popfax.example:9093",
    "protocol": "kafka-secure",
    "description": "The cluster that the four services share. Each topic has ACLs that say who may read and write it.",
    "security": [{"$ref": "#/components/securitySchemes/scram"}],
}


def _received(service: Service) -> Models:
    return (model for model in service.handlers if model.TYPE in MESSAGES)


def _written(service: Service) -> Topics:
    return [topic for topic in TOPICS if topic.writer is service.principal]


def _by_topic(models: Models, topics: Topics) -> dict[Topic, list[type[Message]]]:
    known = sorted(models, key=lambda model: model.TYPE)
    return {topic: found for topic in topics if (found := [model for model in known if topic in model.TOPICS])}


def _charter(service: Service) -> str:
    return inspect.getdoc(importlib.import_module(f"services.{service.principal}")) or ""


def _channel(topic: Topic, models: Models) -> Json:
    return {
        "address": topic.name,
        "description": _who(topic),
        "messages": {model.TYPE: {"$ref": f"#/components/messages/{model.TYPE}"} for model in models},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "replicas": CLUSTER.replication_factor,
                "topicConfiguration": _configuration(topic),
                "bindingVersion": _BINDING,
            }
        },
    }


def _who(topic: Topic) -> str:
    readers = ", ".join(sorted(topic.readers))
    kept = "The newest record of each key is kept. " if topic.compacted else ""
    return f"{kept}Written by: {topic.writer}. Read by: {readers}."


def _configuration(topic: Topic) -> Json:
    config = expected_config(topic, CLUSTER)
    numbers = {
        name: int(config[name])
        for name in ("retention.ms", "delete.retention.ms", "max.message.bytes")
        if name in config
    }
    return {"cleanup.policy": [config["cleanup.policy"]], **numbers}


def _operations(action: str, topics: Mapping[Topic, list[type[Message]]]) -> Iterator[tuple[str, Json]]:
    """Yield the operations on topics: one per topic, but one per command on topics of commands."""
    for topic, models in topics.items():
        if topic.commands:
            for model in models:
                name = f"{action}-{topic.name}.{model.TYPE.split('.')[2]}"
                yield name, {**_operation(action, topic, [model]), "reply": _reply(model)}
        else:
            yield f"{action}-{topic.name}", _operation(action, topic, models)


def _operation(action: str, topic: Topic, models: Models) -> Json:
    return {"action": action, **_on_channel(topic, models)}


def _reply(command: type[Message]) -> Json:
    answers = _answers(command)
    (topic,) = {topic for answer in answers for topic in answer.TOPICS}
    return _on_channel(topic, answers)


def _on_channel(topic: Topic, models: Models) -> Json:
    return {
        "channel": {"$ref": f"#/channels/{topic.name}"},
        "messages": [{"$ref": f"#/channels/{topic.name}/messages/{model.TYPE}"} for model in models],
    }


def _answers(command: type[Message]) -> Models:
    """Return every event that may answer a command, including the one that says it is malformed."""
    assert issubclass(command, Command), "nothing else is on a topic of commands"
    malformed = {service.principal: service.malformed for service in SERVICES}
    return [*command.outcomes(), malformed[command.TOPICS[0].service]]


def _message(model: type[Message], examples: list[Example]) -> Json:
    payload = value_schema(model, reference=_SCHEMA_REFERENCE)
    summary, _, rest = payload.pop("description").partition("\n")
    payload.pop("$defs", None)
    return {
        "name": model.TYPE,
        "title": payload.pop("title"),
        "summary": summary,
        **({"description": rest.strip()} if rest.strip() else {}),
        "headers": {"$ref": "#/components/schemas/Envelope"},
        "payload": payload,
        "correlationId": {"location": "$message.header#/ce_correlationid"},
        "bindings": {"kafka": {"key": key_schema(model), "bindingVersion": _BINDING}},
        "examples": [
            {"name": example.name, "headers": example.headers, "payload": example.body} for example in examples
        ],
    }


def _shared_schemas(models: Models) -> dict[str, Json]:
    """Collect the schemas that messages refer to. Raises TypeError if two of them have the same name."""
    found: dict[str, Json] = {}
    for model in models:
        for name, schema in value_schema(model, reference=_SCHEMA_REFERENCE).get("$defs", {}).items():
            if found.setdefault(name, schema) != schema:
                raise TypeError(f"{name} means two things to one service")
    return dict(sorted(found.items()))
