"""The manifests: those made from the contracts are up to date, an API server would take all, a mistake is refused."""

import copy
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.kubernetes import generate
from deploy.kubernetes.check import manifests_in, problems, resources
from deploy.operator.topic_settings import TopicSettings
from popfax_contracts.topics import LEDGER_EVENTS, SERVICES, TOPICS, Principal
from services.groups.settings import GroupsSettings
from services.notifications.settings import NotificationsSettings

Manifest = dict[str, Any]

EXAMPLE = generate.HERE / "example"


@cache
def everything() -> list[Manifest]:
    return [manifest for manifests in resources().values() for manifest in manifests]


def the(kind: str, name: str) -> Manifest:
    """Return a copy of a manifest."""
    (found,) = (each for each in everything() if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return copy.deepcopy(found)


def pods() -> dict[str, Manifest]:
    """Return the pod templates by the names of their workloads."""
    kinds = ("StatefulSet", "Deployment", "Job")
    return {each["metadata"]["name"]: each["spec"]["template"] for each in everything() if each["kind"] in kinds}


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


# --- what follows from the contracts ---


def test_what_the_contracts_make_is_up_to_date() -> None:
    assert generate.stale() == [], "make docs"


def test_a_file_that_is_stale_or_missing_is_named(tmp_path: Path) -> None:
    generate.main(lambda path, text: _write(tmp_path / path.relative_to(generate.HERE), text))
    assert generate.stale(tmp_path) == []
    changed = tmp_path / "strimzi/users.yaml"
    changed.write_text(changed.read_text().replace("Write", "Read", 1))
    (tmp_path / "keda/scaled-objects.yaml").unlink()
    assert generate.stale(tmp_path) == [str(changed), str(tmp_path / "keda/scaled-objects.yaml")]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_only_a_topic_s_writer_may_write_it() -> None:
    allowed = {
        (user["metadata"]["name"], rule["resource"]["name"])
        for user in everything()
        if user["kind"] == "KafkaUser"
        for rule in user["spec"].get("authorization", {}).get("acls", [])
        if rule["resource"]["type"] == "topic" and "Write" in rule["operations"]
    }
    assert allowed == {(str(topic.writer), topic.name) for topic in TOPICS}


def test_never_more_replicas_than_partitions() -> None:
    few = TopicSettings.model_validate({"topics": {LEDGER_EVENTS.name: {"partitions": 5}}})
    assert generate.partitions_of(Principal.GROUPS, few) == 5
    scaled = {each["metadata"]["name"]: each["spec"] for each in everything() if each["kind"] == "ScaledObject"}
    assert {spec["maxReplicaCount"] for spec in scaled.values()} == {12}
    assert scaled.keys() == {generate.workload_of(service) for service in SERVICES}


# --- what an API server takes ---


@pytest.mark.parametrize("file", resources(), ids=lambda file: str(file.relative_to(generate.HERE)))
def test_each_manifest_fits_its_schema(file: Path) -> None:
    assert [problem for manifest in resources()[file] for problem in problems(manifest)] == []


def at(manifest: Manifest, path: str) -> tuple[Any, Any]:
    """Return the last container on a path, and the last key."""
    *steps, last = (int(each) if each.isdecimal() else each for each in path.split("/"))
    inside: Any = manifest
    for step in steps:
        inside = inside[step]
    return inside, last


ABSENT = object()

MISTAKES: list[tuple[str, str, str, Any, str]] = [
    ("StatefulSet", "ledger", "spec/replicas", "two", "is not of type"),
    ("StatefulSet", "ledger", "spec/replica", 2, "unexpected"),
    ("StatefulSet", "ledger", "spec/selector", ABSENT, "required"),
    ("StatefulSet", "ledger", "spec/template/spec/containers/0/securityContext/readonly", True, "unexpected"),
    ("StatefulSet", "ledger", "apiVersion", "apps/v2", "no schema"),
    ("Deployment", "groups-web", "spec/strategy/rollingUpdate/maxUnavailable", [1], "is not"),
    ("Service", "ledger", "spec/ports/0/port", "http", "is not of type"),
    ("PodDisruptionBudget", "ledger", "spec/maxunavailable", 1, "unexpected"),
    ("NetworkPolicy", "popfax-names", "spec/egress/0/port", 53, "unexpected"),
    ("Job", "popfax-topics", "spec/template/spec/restartpolicy", "Never", "unexpected"),
    ("Kafka", "popfax", "spec/kafka/listeners/0/type", "inside", "is not one of"),
    ("Kafka", "popfax", "spec/kafka/listeners/0/networkPolicyPeer", [], "unexpected"),
    ("KafkaNodePool", "brokers", "spec/roles/0", "leader", "is not one of"),
    ("KafkaTopic", "popfax.ledger.events", "spec/partitions", "12", "is not of type"),
    ("KafkaTopic", "popfax.ledger.events", "spec/retention", 7, "unexpected"),
    ("KafkaUser", "ledger", "spec/authorization/acls/0/operations/0", "Publish", "is not one of"),
    ("KafkaUser", "ledger", "spec/authentication/type", "scram", "is not one of"),
    ("Cluster", "ledger-database", "spec/instances", 0, "minimum"),
    ("Cluster", "ledger-database", "spec/postgresql/synchronous/methods", "any", "unexpected"),
    ("ScheduledBackup", "ledger-database", "spec/schedule", ABSENT, "required"),
    ("ObjectStore", "popfax-backups", "spec/retentionPolicy", "a month", "does not match"),
    ("ObjectStore", "popfax-backups", "spec/configuration/wal/compression", "zip", "is not one of"),
    ("ScaledObject", "ledger", "spec/maxReplicaCount", "12", "is not of type"),
    ("ScaledObject", "ledger", "spec/triggers/0/metadata/lagThreshold", 5000, "is not of type"),
    ("TriggerAuthentication", "ledger-lag", "spec/secretTargetRef/0/key", ABSENT, "required"),
    ("PodMonitor", "popfax-groups", "spec/podMetricsEndpoints/0/interval", "often", "does not match"),
    ("PrometheusRule", "popfax-groups", "spec/groups/0/rules/0/lasts", "5m", "unexpected"),
    ("PrometheusRule", "popfax-groups", "spec/groups/0/rules/0/expr", ABSENT, "required"),
    ("PodMonitor", "popfax-groups", "spec/endpoints", [], "unexpected"),
    ("PodMonitor", "popfax-groups", "metadata/label", {}, "unexpected"),
]


@pytest.mark.parametrize(("kind", "name", "path", "value", "said"), MISTAKES)
def test_a_mistake_is_refused(kind: str, name: str, path: str, value: Any, said: str) -> None:
    manifest = the(kind, name)
    inside, key = at(manifest, path)
    if value is ABSENT:
        del inside[key]
    else:
        inside[key] = value
    assert said in " ".join(problems(manifest))


def test_each_kind_has_a_mistake() -> None:
    assert {kind for kind, *_ in MISTAKES} == {each["kind"] for each in everything()}


def test_a_key_that_is_there_twice_is_refused() -> None:
    with pytest.raises(yaml.YAMLError, match="twice: name"):
        manifests_in("metadata:\n  name: a\n  name: b\n")


# --- what no schema says ---


def selectors() -> Iterator[tuple[str, Manifest]]:
    for each in everything():
        name, spec = f"{each['kind']} {each['metadata']['name']}", each["spec"]
        match each["kind"]:
            case "Service":
                yield name, {"matchLabels": spec["selector"]}
            case "PodDisruptionBudget" | "PodMonitor":
                yield name, spec["selector"]
            case "NetworkPolicy":
                yield name, spec["podSelector"]
                for rule in (*spec.get("egress", []), *spec.get("ingress", [])):
                    for peer in (*rule.get("to", []), *rule.get("from", [])):
                        if "podSelector" in peer:
                            yield name, peer["podSelector"]


def selects_nobody(selector: Manifest) -> bool:
    """Return whether a selector of ours, not of what an operator makes, selects none of our pods."""
    wanted = selector.get("matchLabels", {}).items()
    if not wanted or any(key.startswith(("strimzi.io/", "cnpg.io/")) for key, _ in wanted):
        return False
    return not any(wanted <= pod["metadata"]["labels"].items() for pod in pods().values())


def test_each_selector_selects_somebody() -> None:
    assert [name for name, selector in selectors() if selects_nobody(selector)] == []
    assert selects_nobody({"matchLabels": {"app.kubernetes.io/name": "ledgers"}})


def test_a_pod_is_restricted() -> None:
    """As the Pod Security Standard `restricted` demands, and without a token for the API server."""
    for pod in (template["spec"] for template in pods().values()):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {"secret", "hostPath", "emptyDir"}.isdisjoint(key for volume in pod["volumes"] for key in volume)
        for container in containers({"spec": pod}):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"].keys() == {"memory"}


def test_each_pod_has_the_secrets_of_what_it_may_reach_and_no_others() -> None:
    found = {
        name: {
            source["secret"]["name"]
            for volume in template["spec"]["volumes"]
            for source in volume.get("projected", {}).get("sources", [])
        }
        for name, template in pods().items()
    }
    for service in SERVICES:
        database = {f"{service}-database", f"{service}-database-ca"}
        assert found[generate.workload_of(service)] == database | {str(service), "popfax-cluster-ca-cert"}
    assert found["groups-web"] == {"groups-database", "groups-database-ca"}, "what faces browsers has no way to Kafka"
    assert found["popfax-topics"] == {"admin", "popfax-cluster-ca-cert"}


def test_who_has_no_way_to_kafka_is_not_let_in() -> None:
    labels = {name: template["metadata"]["labels"] for name, template in pods().items()}
    kafka = {name for name, own in labels.items() if own.get("popfax/kafka") == "client"}
    assert kafka == {generate.workload_of(service) for service in SERVICES}
    for service in SERVICES:
        clients = {name for name, own in labels.items() if own.get(f"popfax/{service}-database") == "client"}
        web = {"groups-web"} if service is Principal.GROUPS else set()
        assert clients == {generate.workload_of(service)} | web


def test_each_setting_is_one_that_is_read() -> None:
    read = {
        f"{user}_{field}".upper()
        for user in (*Principal, "admin")
        for field in (*GroupsSettings.model_fields, *NotificationsSettings.model_fields)
    }
    assert _settings() - read == {"POPFAX_SECRETS_DIR"}


def _settings() -> set[str]:
    lines = (generate.HERE / "settings/settings.env").read_text().splitlines()
    example = yaml.safe_load((EXAMPLE / "services/kustomization.yaml").read_text())
    literals = example["configMapGenerator"][0]["literals"]
    inline = {entry["name"] for pod in pods().values() for each in containers(pod) for entry in each["env"]}
    return {line.partition("=")[0] for line in (*lines, *literals) if not line.startswith("#")} | inline


def test_strimzi_leaves_a_topic_closed_that_is_being_drained() -> None:
    """Its user operator deletes the permissions of users that are no KafkaUser: of `*`, too, unless it is told."""
    template = the("Kafka", "popfax")["spec"]["entityOperator"]["template"]
    (setting,) = template["userOperatorContainer"]["env"]
    assert setting["name"] == "STRIMZI_IGNORED_USERS_PATTERN"
    assert [user for user in ("*", *Principal, "admin") if re.fullmatch(setting["value"], user)] == ["*"]


# --- put together ---


def faults(kustomization: Path) -> list[str]:
    """Return what a kustomization names that is not there, and which manifests beside it nobody applies."""
    here, said = kustomization.parent, yaml.safe_load(kustomization.read_text())
    named = [*said.get("resources", []), *said.get("components", [])]
    for made in said.get("configMapGenerator", []):
        named += [*made.get("envs", []), *made.get("files", [])]
    missing = [f"{here / name} is missing" for name in named if not _is_there(here / name)]
    beside = {file.name for file in here.glob("*.yaml")} - {kustomization.name, *named}
    return missing + [f"{here / name} is applied by nobody" for name in sorted(beside)]


def _is_there(path: Path) -> bool:
    return path.is_file() or (path / "kustomization.yaml").is_file()


def test_each_kustomization_has_what_it_names_and_names_what_it_has() -> None:
    found = sorted(generate.HERE.rglob("kustomization.yaml"))
    assert [fault for each in found for fault in faults(each)] == []


def test_a_manifest_that_is_missing_or_applied_by_nobody_is_found(tmp_path: Path) -> None:
    _write(
        tmp_path / "kustomization.yaml", "resources: [services.yaml, ../base]\nconfigMapGenerator: [{envs: [a.env]}]\n"
    )
    _write(tmp_path / "extra.yaml", "kind: Service\n")
    assert [fault.rpartition("/")[2] for fault in faults(tmp_path / "kustomization.yaml")] == [
        "services.yaml is missing",
        "base is missing",
        "a.env is missing",
        "extra.yaml is applied by nobody",
    ]


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Manifest]]:
    """What `kubectl` makes of the example. Without it, files are checked one by one (above), and patches are not."""
    if (kubectl := shutil.which("kubectl")) is None:
        pytest.skip("kubectl is not here: files are checked one by one, patches are not")
    made = {}
    for part in ("servers", "prepare", "services"):
        done = subprocess.run([kubectl, "kustomize", EXAMPLE / part], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        made[part] = manifests_in(done.stdout)
    return made


def test_the_example_fits_its_schemas(rendered: dict[str, list[Manifest]]) -> None:
    assert [problem for manifests in rendered.values() for each in manifests for problem in problems(each)] == []


def test_the_example_has_everything_once_in_one_namespace(rendered: dict[str, list[Manifest]]) -> None:
    made = [each for manifests in rendered.values() for each in manifests]
    assert {each["metadata"]["namespace"] for each in made} == {"popfax"}
    wanted = {(each["kind"], each["metadata"]["name"]) for each in everything()}
    assert wanted <= {(each["kind"], each["metadata"]["name"]) for each in made}


def test_in_the_example_keda_alone_says_how_many_replicas_there_are(rendered: dict[str, list[Manifest]]) -> None:
    kinds = {each["metadata"]["name"]: each for each in rendered["services"] if each["kind"] == "StatefulSet"}
    assert kinds.keys() == {generate.workload_of(service) for service in SERVICES}
    assert all("replicas" not in each["spec"] for each in kinds.values())
