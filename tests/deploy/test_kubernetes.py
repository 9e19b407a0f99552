"""The manifests: every overlay builds, every object is valid, and what must hold of them holds."""

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
from tokentrace.config import load_config
from tokentrace.runtime.wiring import leaves_on_stop

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


@pytest.mark.parametrize("version", versions())
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_accepts_every_object(overlay: str, version: str) -> None:
    checked = set()
    for document in built(overlay):
        group = document["apiVersion"].partition("/")[0]
        if group not in _CUSTOM:
            kubernetes_validate.validate(document, version, strict=True)
            checked.add(document["kind"])
    assert checked >= {
        "ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount", "StatefulSet",
    }  # fmt: skip


@cache
def custom_schema(group: str, kind: str, version: str) -> dict[str, Any]:
    """The published schema of a custom resource, from the Go module that defines it."""
    if shutil.which("go") is None:
        pytest.skip("the schemas of custom resources come with Go modules, and go is not installed")
    module, folder = _CUSTOM[group]
    done = subprocess.run(["go", "mod", "download", "-json", module], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{module} cannot be had: {done.stderr or done.stdout}"[:300])
    path = Path(json.loads(done.stdout)["Dir"]) / folder / f"{group}_{kind.lower()}s.yaml"
    definition = yaml.safe_load(path.read_text())
    assert definition["spec"]["names"]["kind"] == kind
    (found,) = (served for served in definition["spec"]["versions"] if served["name"] == version)
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


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_custom_resources_fit_their_published_definitions(overlay: str) -> None:
    for document in built(overlay):
        group, _, version = document["apiVersion"].partition("/")
        if group in _CUSTOM:
            jsonschema.validate(document, custom_schema(group, document["kind"], version))


def test_a_wrong_key_in_a_custom_resource_is_found() -> None:
    scaled = json.loads(json.dumps(of_kind("autoscaled", "ScaledObject")))
    scaled["spec"]["maxReplicas"] = 4
    with pytest.raises(jsonschema.ValidationError, match="maxReplicas"):
        jsonschema.validate(scaled, custom_schema("keda.sh", "ScaledObject", "v1alpha1"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_run_without_privileges(overlay: str) -> None:
    pod = of_kind(overlay, "StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert of_kind(overlay, "ServiceAccount")["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    # The user is the one that the image makes.
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" in dockerfile


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_selector_finds_the_pods(overlay: str) -> None:
    stateful = of_kind(overlay, "StatefulSet")["spec"]
    labels = stateful["template"]["metadata"]["labels"]
    selectors = [
        stateful["selector"]["matchLabels"],
        of_kind(overlay, "Service")["spec"]["selector"],
        of_kind(overlay, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind(overlay, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(
            constraint["labelSelector"]["matchLabels"]
            for constraint in stateful["template"]["spec"]["topologySpreadConstraints"]
        ),
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
    assert stateful["serviceName"] == of_kind(overlay, "Service")["metadata"]["name"]
    assert of_kind(overlay, "Service")["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_network_policy_names_who_may_come_and_where_pods_may_go(overlay: str) -> None:
    policy = of_kind(overlay, "NetworkPolicy")["spec"]
    ((peer,),) = (rule["from"] for rule in policy["ingress"])
    assert peer["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}
    namespace = {} if overlay == "development" else {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    assert peer["namespaceSelector"] == namespace
    assert all(rule["to"] for rule in policy["egress"]), "a rule without destinations allows all"
    assert all(rule["ports"] for rule in policy["egress"])
    variables = of_kind(overlay, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["env"]
    (servers,) = (variable["value"] for variable in variables if variable["name"] == "KAFKA_BOOTSTRAP_SERVERS")
    (kafka,) = (rule["to"] for rule in policy["egress"] if rule["ports"][0]["port"] == 9092)
    name, _, in_namespace = servers.partition(":")[0].partition(".")
    if overlay == "development":
        assert (name, in_namespace, kafka) == ("kafka", "", [{"podSelector": {}}])
    else:
        reached = kafka[0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        assert in_namespace.removesuffix(".svc") == reached


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pods_configuration_is_one_that_the_worker_takes(
    overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the environment that the StatefulSet gives, and an error without the token."""
    pod = of_kind(overlay, "StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (config_map,) = (
        document
        for document in built(overlay)
        if document["kind"] == "ConfigMap" and document["metadata"]["name"] == pod["volumes"][0]["configMap"]["name"]
    )
    (name,) = config_map["data"]
    path = tmp_path / name
    path.write_text(config_map["data"][name])
    assert container["args"] == ["worker", "--config", f"/etc/tokentrace/{name}"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable.get("value", "from-a-secret"))
    monkeypatch.setenv("POD_NAME", "tokentrace-0")
    config = load_config(path)
    assert config.http_server.addr.port == container["ports"][0]["containerPort"] == 9090
    assert config.http_server.auth_token is not None
    assert config.worker.replica_id == "tokentrace-0"  # the pod's name, by the downward API
    assert not leaves_on_stop(config)
    if overlay == "autoscaled":
        least = of_kind(overlay, "ScaledObject")["spec"]["minReplicaCount"]
        for ordinal, leaves in ((least - 1, False), (least, True)):
            monkeypatch.setenv("POD_NAME", f"tokentrace-{ordinal}")
            assert leaves_on_stop(load_config(path)) == leaves, "a pod that is scaled away will not be back"
    assert config.worker.drain_timeout < pod["terminationGracePeriodSeconds"]
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] == f"{config.http_server.health_path}/live"
    assert container["readinessProbe"]["httpGet"]["path"] == f"{config.http_server.health_path}/ready"
    monkeypatch.delenv("TOKENTRACE_AUTH_TOKEN")
    with pytest.raises(Exception, match="TOKENTRACE_AUTH_TOKEN"):
        load_config(path)
    # Secrets come from the Secret and nowhere else.
    secret = {variable["name"] for variable in container["env"] if "secretKeyRef" in variable.get("valueFrom", {})}
    assert secret == {"TOKENTRACE_AUTH_TOKEN", "KAFKA_USERNAME", "KAFKA_PASSWORD"}


def test_the_number_of_replicas_is_kedas_alone_where_there_is_keda() -> None:
    assert "replicas" not in of_kind("autoscaled", "StatefulSet")["spec"]
    assert of_kind("production", "StatefulSet")["spec"]["replicas"] == 4
    scaled = of_kind("autoscaled", "ScaledObject")["spec"]
    assert scaled["scaleTargetRef"]["kind"] == "StatefulSet"
    (trigger,) = scaled["triggers"]
    assert trigger["metadata"]["excludePersistentLag"] == trigger["metadata"]["limitToPartitionsWithLag"] == "true"
    config = yaml.safe_load((FOLDER / "base" / "tokentrace.yml").read_text())["kafka"]
    assert f":-{trigger['metadata']['consumerGroup']}}}" in config["group_id"]
    assert f":-{trigger['metadata']['topic']}}}" in config["topic"]
    servers = [
        variable["value"]
        for variable in of_kind("autoscaled", "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["env"]
        if variable["name"] == "KAFKA_BOOTSTRAP_SERVERS"
    ]
    assert servers == [trigger["metadata"]["bootstrapServers"]]


def test_the_dashboard_and_the_rules_of_the_cluster_are_the_ones_tested_elsewhere() -> None:
    (dashboard,) = (document for document in built("production") if "dashboard" in document["metadata"]["name"])
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["tokentrace.json"])["uid"] == "tokentrace"
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
    assert of_kind("production", "PrometheusRule")["spec"]["groups"] == rules["groups"]


def test_a_pods_series_go_by_its_name() -> None:
    (endpoint,) = of_kind("production", "PodMonitor")["spec"]["podMetricsEndpoints"]
    by_name = {"action": "replace", "sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"}
    assert by_name in endpoint["relabelings"]
    annotations = of_kind("development", "StatefulSet")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == endpoint["path"] == "/metrics/prometheus"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The objects of the production overlay with TLS and the admin token."""
    copy = tmp_path_factory.mktemp("deploy") / "deploy"
    shutil.copytree(FOLDER.parent, copy)
    overlay = copy / "kubernetes" / "overlays" / "production" / "kustomization.yaml"
    components = "components:\n  - ../../components/pod-monitor\n"
    text = overlay.read_text()
    assert components in text
    overlay.write_text(
        text.replace(components, f"{components}  - ../../components/tls\n  - ../../components/admin-token\n")
    )
    return build(overlay.parent)


def one(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (document for document in documents if document["kind"] == kind)
    return found


@pytest.mark.parametrize("version", versions())
def test_kubernetes_accepts_the_components_for_tls_and_the_admin_token(
    guarded: list[dict[str, Any]], version: str
) -> None:
    for document in guarded:
        if document["apiVersion"].partition("/")[0] not in _CUSTOM:
            kubernetes_validate.validate(document, version, strict=True)


def test_tls_component_serves_probes_and_the_pod_monitor_over_https(guarded: list[dict[str, Any]]) -> None:
    pod = one(guarded, "StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["scheme"] == "HTTPS"
        assert container[probe]["periodSeconds"] > 0, "the rest of the probe stays"
    monitor = one(guarded, "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"]["ca"] == {"secret": {"name": "tokentrace-tls", "key": "ca.crt"}}
    assert endpoint["authorization"]["credentials"] == {"name": "tokentrace", "key": "auth-token"}
    jsonschema.validate(monitor, custom_schema("monitoring.coreos.com", "PodMonitor", "v1"))


def test_guarded_pods_read_their_files_from_the_secrets_that_they_mount(
    guarded: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = one(guarded, "StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["fsGroup"] == 10001
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable.get("value", "from-a-secret"))
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    (config_map,) = (
        document
        for document in guarded
        if document["metadata"]["name"] == volumes["config"].get("configMap", {}).get("name")
    )
    path = tmp_path / "tokentrace.yml"
    path.write_text(config_map["data"]["tokentrace.yml"])
    http = load_config(path).http_server
    mounted = {
        mount["mountPath"]: volumes[mount["name"]].get("secret", {}).get("secretName")
        for mount in container["volumeMounts"]
    }
    assert http.tls is not None
    assert http.admin_token_file is not None
    assert mounted[str(http.admin_token_file.parent)] == "tokentrace-admin"
    assert mounted[str(http.tls.key.parent)] == mounted[str(http.tls.certificate.parent)] == "tokentrace-tls"
    assert http.auth_token is not None, "the scrape token is another one"


def test_configuration_of_the_tls_component_is_that_of_the_base() -> None:
    base = yaml.safe_load((FOLDER / "base" / "tokentrace.yml").read_text())
    secured = yaml.safe_load((FOLDER / "components" / "tls" / "tokentrace.yml").read_text())
    assert secured["http_server"].pop("tls") == {
        "certificate": "/etc/tokentrace-tls/tls.crt",
        "key": "/etc/tokentrace-tls/tls.key",
    }
    assert secured == base
