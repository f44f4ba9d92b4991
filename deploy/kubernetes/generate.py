"""The manifests that follow from the contracts: `python -m deploy.kubernetes.generate` writes them (`make docs`).

What each service needs in Kubernetes follows from which principals there are, which topics they write and read, and
what the settings are called. The rest is plain YAML beside these files.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from deploy.observability.alerts import ALERTS, OBJECTIVES
from deploy.observability.rules import groups
from deploy.operator.topic_settings import TopicSettings, read_settings
from deploy.operator.topics import Acl, expected_acls, expected_config
from deploy.paths import CHECKOUT
from popfax_contracts.topics import SERVICES, TOPICS, Principal, Topic

HERE = CHECKOUT / "deploy/kubernetes"

KAFKA = "popfax"
"""The Kafka cluster's name, and so how its pods, services and secrets begin."""

PORT = 8080
USER = 10001
SECRETS = "/run/secrets/popfax"
LEAST_REPLICAS = 2

POSTGRES_IMAGE = (
    "ghcr.io/cloudnative-pg/postgresql:18.6-202608310817-minimal-trixie"
    "@sha256:5c389b0268d9e637ca55efa41a7fafa3996332b5ea3c6099d0861c5f31acb00e"
)
"""From CloudNativePG's own catalogue of images."""

Manifest = dict[str, Any]

_HEADER = "# Made by `make docs` from the contracts; a test compares. Change deploy/kubernetes/generate.py instead.\n"


def generated() -> dict[Path, str]:
    """Return the text of each generated file."""
    settings = read_settings(HERE / "prepare/topics.toml")
    files: dict[str, Iterable[Manifest]] = {
        "base/services.yaml": [each for service in SERVICES for each in _service(service)] + _web(),
        "base/network-policies.yaml": _policies(),
        "prepare/jobs.yaml": [_topics_job(), _database_job()],
        "prepare/network-policies.yaml": [_job_policy("popfax-topics", ()), _job_policy("popfax-database", SERVICES)],
        "strimzi/topics.yaml": [_topic(topic, settings) for topic in TOPICS],
        "strimzi/users.yaml": [*(_user(principal) for principal in Principal), _administrator()],
        "cloudnative-pg/clusters.yaml": [each for service in SERVICES for each in _database(service)],
        "prometheus-operator/rules.yaml": [_rules()],
        "keda/scaled-objects.yaml": [each for service in SERVICES for each in _scaling(service, settings)],
    }
    text = {HERE / name: _HEADER + _yaml(manifests) for name, manifests in files.items()}
    return text | {HERE / "settings/settings.env": _settings_file()}


def stale(root: Path = HERE) -> list[str]:
    """Return the generated files that differ from what they should be."""
    files = {root / path.relative_to(HERE): text for path, text in generated().items()}
    return [str(path) for path, text in files.items() if not path.is_file() or path.read_text() != text]


def workload_of(service: Principal) -> str:
    """Return the name of a service's workers: groups has others, which serve the page."""
    return f"{service}-worker" if service is Principal.GROUPS else str(service)


def partitions_of(service: Principal, settings: TopicSettings) -> int:
    """Return how many replicas of a service have partitions of every topic that it reads."""
    return min(settings.partitions_of(topic) for topic in TOPICS if service in topic.readers)


# --- the services ---


def _service(service: Principal) -> list[Manifest]:
    name = workload_of(service)
    spec = {
        "serviceName": name,
        "replicas": LEAST_REPLICAS,
        # A new pod gets a name only when the old one of that name has certainly ended: it is its name in the consumer
        # group, and two of one name would fence each other off.
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "RollingUpdate"},
        "minReadySeconds": 5,
        "selector": {"matchLabels": _name(name)},
        "template": _template(name, service, kafka=True),
    }
    headless = {"clusterIP": "None", "selector": _name(name), "ports": [_port()], "publishNotReadyAddresses": True}
    return [
        _manifest("apps/v1", "StatefulSet", name, spec),
        _manifest("v1", "Service", name, headless),
        _disruption(name),
    ]


def _web() -> list[Manifest]:
    name = "groups-web"
    spec = {
        "replicas": LEAST_REPLICAS,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "minReadySeconds": 5,
        "selector": {"matchLabels": _name(name)},
        "template": _template(name, Principal.GROUPS, kafka=False),
    }
    service = {"selector": _name(name), "ports": [_port()]}
    return [
        _manifest("apps/v1", "Deployment", name, spec),
        _manifest("v1", "Service", name, service),
        _disruption(name),
    ]


def _template(name: str, service: Principal, kafka: bool) -> Manifest:
    own = [{"name": f"{service.upper()}_ROLE", "value": "worker" if kafka else "web"}]
    environment: list[Manifest] = [
        {"name": "POPFAX_SECRETS_DIR", "value": SECRETS},
        *(own if service is Principal.GROUPS else []),
        *([{"name": f"{service.upper()}_REPLICA", "valueFrom": _field("metadata.name")}] if kafka else []),
    ]
    container = _container("service", ["python", "-m", f"services.{service}.app"], environment) | {
        "ports": [{"name": "http", "containerPort": PORT}],
        "startupProbe": _probe("/live", periodSeconds=2, failureThreshold=60),
        "livenessProbe": _probe("/live", periodSeconds=10, failureThreshold=3),
        "readinessProbe": _probe("/ready", periodSeconds=5, failureThreshold=2),
        "resources": _resources("250m" if kafka else "100m", "512Mi"),
    }
    if not kafka:  # a proxy must have heard that it is going before it stops to listen
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": 5}}}
    pod = _pod([container], _secrets([service], [service] if kafka else []), 20) | {
        "topologySpreadConstraints": [
            _spread("topology.kubernetes.io/zone", "ScheduleAnyway", name),
            _spread("kubernetes.io/hostname", "DoNotSchedule", name),
        ]
    }
    labels = _name(name) | {"popfax/service": str(service)} | _access(service, kafka)
    return {"metadata": {"labels": labels}, "spec": pod}


def _access(service: Principal, kafka: bool) -> dict[str, str]:
    """Return the labels that network policies go by: which database a pod may reach, and whether Kafka."""
    return {f"popfax/{service}-database": "client", **({"popfax/kafka": "client"} if kafka else {})}


def _container(name: str, command: list[str], environment: list[Manifest], image: str = "popfax-groups") -> Manifest:
    return {
        "name": name,
        "image": image,
        "command": command,
        "envFrom": [{"configMapRef": {"name": "popfax-settings"}}],
        "env": environment,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "secrets", "mountPath": SECRETS, "readOnly": True}],
    }


def _pod(containers: list[Manifest], secrets: list[Manifest], grace_s: int) -> Manifest:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # LEDGER_PORT and its like would be taken for settings
        "terminationGracePeriodSeconds": grace_s,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": containers,
        "volumes": [{"name": "secrets", "projected": {"defaultMode": 0o440, "sources": secrets}}],
    }


def _secrets(databases: Iterable[Principal], kafka: Iterable[str]) -> list[Manifest]:
    """Return the files of settings that a pod gets: one secret per database and Kafka user, as operators make them."""
    found = []
    for service in databases:
        found.append(_files(f"{service}-database", url=f"{service}_database_url"))
        found.append(_files(f"{service}-database-ca", **{"ca.crt": f"{service}_database_ca.crt"}))
    for user in kafka:
        found.append(_files(str(user), password=f"{user}_kafka_password"))
    if list(kafka):
        found.append(_files(f"{KAFKA}-cluster-ca-cert", **{"ca.crt": "kafka_ca.crt"}))
    return found


def _files(secret: str, **items: str) -> Manifest:
    return {"secret": {"name": secret, "items": [{"key": key, "path": path} for key, path in items.items()]}}


def _probe(path: str, **more: int) -> Manifest:
    return {"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 4, **more}


def _spread(key: str, otherwise: str, name: str) -> Manifest:
    selector = {"matchLabels": _name(name)}
    return {"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": otherwise, "labelSelector": selector}


def _resources(cpu: str, memory: str) -> Manifest:
    """Return what a container asks for. No limit on CPU: a batch is handled as fast as there is any."""
    return {"requests": {"cpu": cpu, "memory": "256Mi"}, "limits": {"memory": memory}}


def _port() -> Manifest:
    return {"name": "http", "port": PORT, "targetPort": "http"}


def _disruption(name: str) -> Manifest:
    spec = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": _name(name)},
    }
    return _manifest("policy/v1", "PodDisruptionBudget", name, spec)


def _settings_file() -> str:
    lines = [_HEADER.rstrip()]
    for user in (*map(str, Principal), "admin"):
        prefix = f"{user.upper()}_KAFKA"
        lines += [
            f"{prefix}_BOOTSTRAP={KAFKA}-kafka-bootstrap:9093",
            f"{prefix}_USERNAME={user}",
            f"{prefix}_SECURITY=SASL_SSL",
            f"{prefix}_CA_FILE={SECRETS}/kafka_ca.crt",
        ]
    for service in SERVICES:
        lines += [f"{service.upper()}_HTTP_HOST=0.0.0.0", f"{service.upper()}_HTTP_PORT={PORT}"]
    return "\n".join(lines) + "\n"


# --- what must be done before a deployment ---


def _topics_job() -> Manifest:
    command = ["popfax", "topics", "--apply", "--settings", "/etc/popfax/topics.toml"]
    container = _prepared("topics", command, "popfax-groups-operator")
    container["volumeMounts"].append({"name": "topics", "mountPath": "/etc/popfax", "readOnly": True})
    pod = _pod([container], _secrets([], ["admin"]), 30)
    pod["volumes"].append({"name": "topics", "configMap": {"name": "popfax-topics"}})
    return _job("popfax-topics", pod)


def _database_job() -> Manifest:
    migrate = _prepared("migrate", ["python", "-m", "services.chassis.migrate", *map(str, SERVICES)])
    # Again: applied once more after an upgrade, it tells the new services what those before had passed over.
    tell = ["python", "-m", "services.provisioning.catalogue", "/etc/popfax/plans.toml", "--again"]
    plans = _prepared("plans", tell)
    plans["volumeMounts"].append({"name": "plans", "mountPath": "/etc/popfax", "readOnly": True})
    pod = _pod([plans], _secrets(SERVICES, SERVICES), 30) | {"initContainers": [migrate]}
    pod["volumes"].append({"name": "plans", "configMap": {"name": "popfax-plans"}})
    return _job("popfax-database", pod)


def _prepared(name: str, command: list[str], image: str = "popfax-groups") -> Manifest:
    made = _container(name, command, [{"name": "POPFAX_SECRETS_DIR", "value": SECRETS}], image)
    return made | {"resources": _resources("100m", "512Mi")}


def _job(name: str, pod: Manifest) -> Manifest:
    template = {"metadata": {"labels": _name(name)}, "spec": pod | {"restartPolicy": "OnFailure"}}
    return _manifest("batch/v1", "Job", name, {"backoffLimit": 10, "activeDeadlineSeconds": 1800, "template": template})


# --- who may speak to whom ---


def _policies() -> list[Manifest]:
    part = {"matchLabels": {"app.kubernetes.io/part-of": "popfax-groups"}}
    web = {"matchLabels": _name("groups-web")}
    dns = [{"protocol": each, "port": 53} for each in ("UDP", "TCP")]
    serving = [{"protocol": "TCP", "port": PORT}]
    return [
        _policy("popfax-nothing", {"podSelector": part, "policyTypes": ["Ingress", "Egress"]}),
        _egress("popfax-names", part, [{"to": [{"namespaceSelector": {}}], "ports": dns}]),
        _ingress("popfax-metrics", part, [{"from": [_namespace("monitoring")], "ports": serving}]),
        _ingress("groups-web-proxy", web, [{"from": [_namespace("ingress-nginx")], "ports": serving}]),
        # The platform's public keys, if GROUPS_JWT_JWKS is an address.
        _egress("groups-web-keys", web, [{"ports": [{"protocol": "TCP", "port": 443}]}]),
        _egress(
            "notifications-mail",
            {"matchLabels": _name(workload_of(Principal.NOTIFICATIONS))},
            [{"ports": [{"protocol": "TCP", "port": port} for port in (25, 465, 587)]}],
        ),
        *_server_policies({"popfax/kafka": "client"}, "popfax-kafka"),
        *(each for s in SERVICES for each in _server_policies({f"popfax/{s}-database": "client"}, f"{s}-database")),
    ]


def _server_policies(client: dict[str, str], name: str) -> Iterable[Manifest]:
    """Yield what lets those with a label reach one server, and nobody else's."""
    server, port = _server(name)
    ports = [{"protocol": "TCP", "port": port}]
    yield _egress(f"{name}-client", {"matchLabels": client}, [{"to": [{"podSelector": server}], "ports": ports}])


def _server(name: str) -> tuple[Manifest, int]:
    if name == "popfax-kafka":
        return {"matchLabels": {"strimzi.io/cluster": KAFKA, "strimzi.io/kind": "Kafka"}}, 9093
    return {"matchLabels": {"cnpg.io/cluster": name}}, 5432


def _job_policy(job: str, databases: Iterable[Principal]) -> Manifest:
    servers = [_server(f"{service}-database") for service in databases] or [_server("popfax-kafka")]
    rules = [{"to": [{"podSelector": s}], "ports": [{"protocol": "TCP", "port": port}]} for s, port in servers]
    return _egress(job, {"matchLabels": _name(job)}, rules)


def _namespace(name: str) -> Manifest:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _egress(name: str, who: Manifest, rules: list[Manifest]) -> Manifest:
    return _policy(name, {"podSelector": who, "policyTypes": ["Egress"], "egress": rules})


def _ingress(name: str, who: Manifest, rules: list[Manifest]) -> Manifest:
    return _policy(name, {"podSelector": who, "policyTypes": ["Ingress"], "ingress": rules})


def _policy(name: str, spec: Manifest) -> Manifest:
    return _manifest("networking.k8s.io/v1", "NetworkPolicy", name, spec)


# --- Kafka, by Strimzi ---


def _topic(topic: Topic, settings: TopicSettings) -> Manifest:
    config = {name: _typed(value) for name, value in sorted(expected_config(topic, settings).items())}
    spec = {
        "partitions": settings.partitions_of(topic),
        "replicas": settings.replication_factor,
        "config": config,
    }
    return _strimzi("KafkaTopic", topic.name, spec)


def _typed(value: str) -> str | int:
    return int(value) if value.lstrip("-").isdecimal() else value


def _user(principal: Principal) -> Manifest:
    acls = sorted(acl for acl in expected_acls() if acl.principal == f"User:{principal}")
    by_resource: dict[tuple[str, str, str], list[str]] = {}
    for acl in acls:
        by_resource.setdefault((acl.resource, acl.name, acl.pattern), []).append(_operation(acl))
    rules = [
        {
            "type": "allow",
            "resource": {"type": _RESOURCES[resource], "name": name, "patternType": pattern.lower()},
            "operations": operations,
            "host": "*",
        }
        for (resource, name, pattern), operations in by_resource.items()
    ]
    return _strimzi("KafkaUser", str(principal), _scram() | {"authorization": {"type": "simple", "acls": rules}})


def _administrator() -> Manifest:
    """Return the user of `popfax topics`, who needs no permissions: the Kafka resource names it a super user."""
    return _strimzi("KafkaUser", "admin", _scram())


_RESOURCES = {"TOPIC": "topic", "GROUP": "group", "TRANSACTIONAL_ID": "transactionalId"}


def _operation(acl: Acl) -> str:
    return "".join(word.title() for word in acl.operation.split("_"))


def _scram() -> Manifest:
    return {"authentication": {"type": "scram-sha-512"}}


def _strimzi(kind: str, name: str, spec: Manifest) -> Manifest:
    made = _manifest("kafka.strimzi.io/v1", kind, name, spec)
    made["metadata"]["labels"] |= {"strimzi.io/cluster": KAFKA}
    return made


# --- PostgreSQL, by CloudNativePG ---


def _database(service: Principal) -> list[Manifest]:
    name, archive = f"{service}-database", "barman-cloud.cloudnative-pg.io"
    spec = {
        "instances": 3,
        "imageName": POSTGRES_IMAGE,
        "primaryUpdateStrategy": "unsupervised",
        "enableSuperuserAccess": False,
        "postgresql": {
            # What is committed is on two servers: a message that was acknowledged outlives the primary.
            "synchronous": {"method": "any", "number": 1, "dataDurability": "required"},
            "parameters": {"max_connections": "200", "shared_buffers": "256MB", "timezone": "UTC"},
        },
        "bootstrap": {
            "initdb": {
                "database": str(service),
                "owner": str(service),
                "secret": {"name": name},
                "encoding": "UTF8",
                "localeProvider": "builtin",
                "builtinLocale": "C.UTF-8",
            }
        },
        "storage": {"size": "20Gi"},
        "walStorage": {"size": "10Gi"},
        "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        "plugins": [{"name": archive, "isWALArchiver": True, "parameters": {"barmanObjectName": "popfax-backups"}}],
    }
    # By name, no transaction pooler: services speak to the primary itself, whose sessions hold the relay's lock.
    backup = {
        "schedule": "0 0 2 * * *",
        "backupOwnerReference": "self",
        "immediate": True,
        "cluster": {"name": name},
        "method": "plugin",
        "pluginConfiguration": {"name": archive},
    }
    rules: list[Manifest] = [
        {
            "from": [
                {"podSelector": {"matchLabels": {f"popfax/{service}-database": "client"}}},
                {"podSelector": {"matchLabels": _name("popfax-database")}},
                {"podSelector": {"matchLabels": {"cnpg.io/cluster": name}}},
            ],
            "ports": [{"protocol": "TCP", "port": 5432}],
        },
        {"from": [{"podSelector": {"matchLabels": {"cnpg.io/cluster": name}}}, _namespace("cnpg-system")]}
        | {"ports": [{"protocol": "TCP", "port": 8000}]},
        {"from": [_namespace("monitoring")], "ports": [{"protocol": "TCP", "port": 9187}]},
    ]
    return [
        _manifest("postgresql.cnpg.io/v1", "Cluster", name, spec, part=False),
        _manifest("postgresql.cnpg.io/v1", "ScheduledBackup", name, backup, part=False),
        _ingress(f"{name}-server", {"matchLabels": {"cnpg.io/cluster": name}}, rules),
    ]


# --- more replicas when lag grows, by KEDA ---


def _scaling(service: Principal, settings: TopicSettings) -> list[Manifest]:
    name = workload_of(service)
    trigger = {
        "type": "kafka",
        "metadata": {
            "bootstrapServers": f"{KAFKA}-kafka-bootstrap:9093",
            "consumerGroup": str(service),
            # Without a topic: the lag of all that the group reads.
            "lagThreshold": "5000",
            "activationLagThreshold": "0",
            "offsetResetPolicy": "earliest",
            "allowIdleConsumers": "false",
            "sasl": "scram_sha512",
            "tls": "enable",
        },
        "authenticationRef": {"name": f"{name}-lag"},
    }
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name},
        "minReplicaCount": LEAST_REPLICAS,
        "maxReplicaCount": partitions_of(service, settings),
        "pollingInterval": 15,
        "advanced": {
            "horizontalPodAutoscalerConfig": {
                # Each replica that goes leaves its partitions unread for a session's time (10 s): don't flap.
                "behavior": {
                    "scaleDown": {
                        "stabilizationWindowSeconds": 600,
                        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}],
                    }
                }
            }
        },
        "triggers": [trigger],
    }
    authentication = {
        "secretTargetRef": [
            {"parameter": "password", "name": str(service), "key": "password"},
            {"parameter": "ca", "name": f"{KAFKA}-cluster-ca-cert", "key": "ca.crt"},
        ],
        "env": [{"parameter": "username", "name": f"{service.upper()}_KAFKA_USERNAME", "containerName": "service"}],
    }
    return [
        _manifest("keda.sh/v1alpha1", "ScaledObject", name, spec),
        _manifest("keda.sh/v1alpha1", "TriggerAuthentication", f"{name}-lag", authentication),
    ]


# --- alerts, by the Prometheus operator ---


def _rules() -> Manifest:
    made = groups(ALERTS, OBJECTIVES)
    return _manifest("monitoring.coreos.com/v1", "PrometheusRule", "popfax-groups", {"groups": made})


# --- form ---


def _name(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "popfax-groups"}


def _field(path: str) -> Manifest:
    return {"fieldRef": {"fieldPath": path}}


def _manifest(api: str, kind: str, name: str, spec: Mapping[str, Any], part: bool = True) -> Manifest:
    labels = {"app.kubernetes.io/part-of": "popfax-groups"} if part else {}
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "labels": labels}, "spec": dict(spec)}


class _Dumper(yaml.SafeDumper):
    """Never writes an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml(manifests: Iterable[Manifest]) -> str:
    text: str = yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, width=120, explicit_start=True)
    return text


def main(write: Callable[[Path, str], object] = Path.write_text) -> None:
    """Write the files."""
    for path, text in generated().items():
        write(path, text)


if __name__ == "__main__":
    main()
