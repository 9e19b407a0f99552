"""Manifests as objects: built from a folder, and held against what Kubernetes and the custom resources define."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.services import ROOT
from tokentrace.config import Config, load_config

FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
#: kubernetes-validate has the schemas of several versions; the three newest are what a cluster runs.
_SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
_KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1"
_CUSTOM = {
    "keda.sh": ("github.com/kedacore/keda/v2@v2.17.0", "config/crd/bases"),
    "monitoring.coreos.com": (
        "github.com/prometheus-operator/prometheus-operator@v0.83.0",
        "example/prometheus-operator-crd",
    ),
}
#: API groups of the custom resources. Strimzi publishes its definitions in no Go module.
CUSTOM_GROUPS = {*_CUSTOM, "kafka.strimzi.io"}


def versions() -> list[str]:
    names = {re.sub(r"^v(.*?)-local.*$", r"\1", path.name) for path in _SCHEMAS.iterdir() if path.name.startswith("v")}
    return sorted(names, key=lambda name: [int(part) for part in name.split(".")])[-3:]


@cache
def built(overlay: str) -> list[dict[str, Any]]:
    """The objects of an overlay."""
    return build(FOLDER / "overlays" / overlay)


def build(folder: Path) -> list[dict[str, Any]]:
    """The objects of a folder, by kubectl or kustomize, or by kustomize built from its Go module."""
    command = next(
        (
            [*command, str(folder)]
            for command in (["kubectl", "kustomize"], ["kustomize", "build"], ["go", "run", _KUSTOMIZE, "build"])
            if shutil.which(command[0])
        ),
        None,
    )
    if command is None:
        pytest.skip("none of kubectl, kustomize and go is installed")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, kind: str) -> dict[str, Any]:
    (found,) = (document for document in built(overlay) if document["kind"] == kind)
    return found


def one(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (document for document in documents if document["kind"] == kind)
    return found


def environment(documents: list[dict[str, Any]], kind: str = "StatefulSet") -> dict[str, str]:
    """The variables of the container of the workers, or of the ledger, which is a Deployment."""
    (container,) = one(documents, kind)["spec"]["template"]["spec"]["containers"]
    return {variable["name"]: variable.get("value", "from-a-secret") for variable in container["env"]}


def configuration(
    documents: list[dict[str, Any]],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    ordinal: int = 0,
    kind: str = "StatefulSet",
) -> Config:
    """The configuration that a pod reads, with the environment that it has."""
    workload = one(documents, kind)
    if kind == "StatefulSet":
        monkeypatch.setenv("POD_NAME", f"{workload['metadata']['name']}-{ordinal}")
    for name, value in environment(documents, kind).items():
        if (name, kind) != ("POD_NAME", "StatefulSet"):
            monkeypatch.setenv(name, "postgresql://l:%40@db/ledger" if name == "LEDGER_URL" else value)
    volumes = {volume["name"]: volume for volume in workload["spec"]["template"]["spec"]["volumes"]}
    name = volumes["config"]["configMap"]["name"]
    (config_map,) = (
        document for document in documents if document["kind"] == "ConfigMap" and document["metadata"]["name"] == name
    )
    path = folder / "tokentrace.yml"
    path.write_text(config_map["data"]["tokentrace.yml"])
    return load_config(path)


def secret_files(documents: list[dict[str, Any]], kind: str = "StatefulSet") -> dict[str, tuple[str, str]]:
    """Path inside the container -> (name, key) of the Secret, for the keys that the manifests speak of."""
    pod = one(documents, kind)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    return {
        f"{mount['mountPath']}/{key}": (secrets[mount["name"]], key)
        for mount in container["volumeMounts"]
        if mount["name"] in secrets
        for key in ("ca.crt", "tls.crt", "tls.key", "admin-token")
    }


@cache
def custom_definition(group: str, kind: str) -> dict[str, Any]:
    """The published CustomResourceDefinition of a kind, from the Go module that has it."""
    if shutil.which("go") is None:
        pytest.skip("the schemas of custom resources come with Go modules, and go is not installed")
    module, folder = _CUSTOM[group]
    done = subprocess.run(["go", "mod", "download", "-json", module], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{module} cannot be had: {done.stderr or done.stdout}"[:300])
    path = Path(json.loads(done.stdout)["Dir"]) / folder / f"{group}_{kind.lower()}s.yaml"
    definition: dict[str, Any] = yaml.safe_load(path.read_text())
    assert definition["spec"]["names"]["kind"] == kind
    return definition


@cache
def custom_schema(group: str, kind: str, version: str) -> dict[str, Any]:
    """The published schema of a custom resource."""
    versions_served = custom_definition(group, kind)["spec"]["versions"]
    (found,) = (served for served in versions_served if served["name"] == version)
    schema: dict[str, Any] = closed(found["schema"]["openAPIV3Schema"])
    return schema


def closed(schema: Any) -> Any:
    """The schema with unknown keys refused, as the API server prunes them silently."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        if set(schema["properties"]) != {"apiVersion", "kind", "metadata", "spec", "status"}:
            result.setdefault("additionalProperties", False)
        if schema["properties"].get("metadata") == {"type": "object"}:
            result["properties"]["metadata"] = {"type": "object"}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "(?i)" in str(schema.get("pattern", "")):
        # Go takes a flag anywhere, Python at the start.
        result["pattern"] = "(?i)" + schema["pattern"].replace("(?i)", "")
    return result


def check_custom(documents: list[dict[str, Any]]) -> None:
    """Raise for a custom resource that does not fit its published definition."""
    for document in documents:
        group, _, version = document["apiVersion"].partition("/")
        if group in _CUSTOM:
            jsonschema.validate(document, custom_schema(group, document["kind"], version))


def check_core(documents: list[dict[str, Any]], version: str) -> set[str]:
    """Raise for an object that this version of Kubernetes does not take. Returns the kinds that it has looked at."""
    checked = [document for document in documents if document["apiVersion"].partition("/")[0] not in _CUSTOM]
    for document in checked:
        kubernetes_validate.validate(document, version, strict=True)
    return {document["kind"] for document in checked}
