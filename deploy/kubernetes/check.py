"""Would an API server take these manifests? Asked of the real schemas, offline and strictly.

Kubernetes' own kinds by `kubernetes-validate`, the operators' by the schemas of their CustomResourceDefinitions in
`schemas/`. Strictly: a field that the schema doesn't know is an error, as with `kubectl apply --validate=strict`;
otherwise an API server drops it in silence. The rules that operators state in CEL are not evaluated.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate.utils as builtin
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from deploy.kubernetes.generate import HERE

KUBERNETES = "1.34"
"""The version of Kubernetes whose schemas must accept the manifests, and the oldest that has all they use."""

Manifest = dict[str, Any]


def manifests_in(text: str) -> list[Manifest]:
    """Read YAML documents. Raises `yaml.YAMLError`, also for a key that is there twice."""
    return [each for each in yaml.load_all(text, Loader=_Strict) if each is not None]


class _Strict(yaml.SafeLoader):
    """Refuses a key that is there twice: the first value would be lost."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {', '.join(map(str, twice))}", node.start_mark)
        return super().construct_mapping(node, deep)


def problems(manifest: Manifest) -> list[str]:
    """Return what an API server would object to."""
    name = f"{manifest.get('kind')} {manifest.get('metadata', {}).get('name')}"
    validator = _validator(str(manifest.get("apiVersion")), str(manifest.get("kind")))
    if validator is None:
        return [f"{name}: no schema for {manifest.get('apiVersion')}"]
    return [f"{name}: {_where(error)}: {error.message}" for error in validator.iter_errors(manifest)]


def _where(error: Any) -> str:
    return "".join(f".{part}" if isinstance(part, str) else f"[{part}]" for part in error.absolute_path) or "."


def resources(directory: Path = HERE) -> dict[Path, list[Manifest]]:
    """Return the manifests in each file that is a resource: neither a kustomization nor a setting."""
    return {
        file: manifests_in(file.read_text())
        for file in sorted(directory.rglob("*.yaml"))
        if file.name != "kustomization.yaml"
    }


@cache
def _validator(api_version: str, kind: str) -> Draft202012Validator | None:
    custom = _custom().get((api_version, kind))
    if custom is not None:
        return Draft202012Validator(custom)
    group, _, version = api_version.rpartition("/")
    file = f"{kind.lower()}-{group.split('.')[0] + '-' if group else ''}{version}.json"
    try:
        schema = builtin.schema_contents(f"{_folder()}/{file}", KUBERNETES)
    except FileNotFoundError:
        return None
    return Draft202012Validator(schema, registry=_definitions() @ Registry())


def _folder() -> str:
    return f"kubernetes-json-schema/v{KUBERNETES}.0-local-strict"


@cache
def _definitions() -> Resource[Any]:
    return Resource.from_contents(builtin.schema_contents(f"{_folder()}/_definitions.json", KUBERNETES))


@cache
def _custom() -> dict[tuple[str, str], Manifest]:
    found = {}
    for file in sorted((HERE / "schemas").glob("*.json")):
        crd = json.loads(file.read_text())
        schema = _strict(crd["openAPIV3Schema"])
        schema["properties"] |= {
            "apiVersion": {"const": crd["apiVersion"]},
            "kind": {"const": crd["kind"]},
            "metadata": _METADATA,
        }
        schema["required"] = sorted({*schema.get("required", []), "apiVersion", "kind", "metadata"})
        found[crd["apiVersion"], crd["kind"]] = schema
    return found


_NAMES = {"type": "object", "additionalProperties": {"type": "string"}}
_METADATA = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253},
        "namespace": {"type": "string"},
        "labels": _NAMES,
        "annotations": _NAMES,
    },
}
"""A custom resource's metadata, of which its definition says nothing but that it is an object."""


def _strict(schema: Any) -> Any:
    """Return a CRD's schema in JSON Schema's words, closed to fields that it doesn't name."""
    if not isinstance(schema, dict):
        return schema
    made = {key: value for key, value in schema.items() if key in _KEPT}
    if "items" in schema:
        made["items"] = _strict(schema["items"])
    if "properties" in schema:
        made["properties"] = {name: _strict(each) for name, each in schema["properties"].items()}
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = _strict(schema["additionalProperties"])
    elif "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    if schema.get("nullable") and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made


_KEPT = frozenset(
    {"type", "required", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"}
    | {"minProperties", "maxProperties", "uniqueItems", "oneOf", "anyOf", "allOf", "not"}
)
"""What means the same in a CRD's schema and in JSON Schema."""
