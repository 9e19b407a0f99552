"""The manifests: every overlay builds, every object is valid, and what must hold of them holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.deploy.manifests import (
    FOLDER,
    OVERLAYS,
    build,
    built,
    check_core,
    check_custom,
    custom_schema,
    environment,
    of_kind,
    one,
    versions,
)
from tests.services import ROOT
from tokentrace.config import load_config
from tokentrace.runtime.settings import leaves_on_stop

#: The overlay in which nobody is asked for a password or a token.
OPEN = "development"


@pytest.mark.parametrize("version", versions())
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_accepts_every_object(overlay: str, version: str) -> None:
    assert check_core(built(overlay), version) >= {
        "ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount", "StatefulSet",
    }  # fmt: skip


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_custom_resources_fit_their_published_definitions(overlay: str) -> None:
    check_custom(built(overlay))


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
    assert container["resources"]["requests"]["ephemeral-storage"]
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
    namespace = {} if overlay == OPEN else {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    assert peer["namespaceSelector"] == namespace
    assert all(rule["to"] for rule in policy["egress"]), "a rule without destinations allows all"
    assert all(rule["ports"] for rule in policy["egress"])
    variables = of_kind(overlay, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["env"]
    (servers,) = (variable["value"] for variable in variables if variable["name"] == "KAFKA_BOOTSTRAP_SERVERS")
    (kafka,) = (rule["to"] for rule in policy["egress"] if rule["ports"][0]["port"] == 9092)
    name, _, in_namespace = servers.partition(":")[0].partition(".")
    if overlay == OPEN:
        assert (name, in_namespace, kafka) == ("kafka", "", [{"podSelector": {}}])
    else:
        reached = kafka[0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        assert in_namespace.removesuffix(".svc") == reached


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pods_configuration_is_one_that_the_worker_takes(
    overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the environment that the StatefulSet gives, and an error without the token, except where there is none."""
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
    for variable, value in environment(built(overlay)).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("POD_NAME", "tokentrace-0")
    config = load_config(path)
    assert config.http_server.addr.port == container["ports"][0]["containerPort"] == 9090
    assert (config.http_server.auth_token is None) == (overlay == OPEN)
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
    # Secrets come from the Secret and nowhere else.
    secret = {variable["name"] for variable in container["env"] if "secretKeyRef" in variable.get("valueFrom", {})}
    if overlay == OPEN:
        assert secret == set()
        assert config.kafka.properties == {}
    else:
        assert secret == {"TOKENTRACE_AUTH_TOKEN", "KAFKA_USERNAME", "KAFKA_PASSWORD"}
        monkeypatch.delenv("TOKENTRACE_AUTH_TOKEN")
        with pytest.raises(Exception, match="TOKENTRACE_AUTH_TOKEN"):
            load_config(path)


def test_the_open_configuration_is_that_of_the_base_without_what_asks_for_anything() -> None:
    base = yaml.safe_load((FOLDER / "base" / "tokentrace.yml").read_text())
    del base["kafka"]["properties"], base["http_server"]["auth_token"], base["http_server"]["admin_token_file"]
    assert yaml.safe_load((FOLDER / "overlays" / OPEN / "tokentrace.yml").read_text()) == base


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


def test_one_setting_gives_every_alert_the_address_of_the_runbook(tmp_path: Path) -> None:
    shutil.copytree(FOLDER.parent, tmp_path / "deploy")
    setting = tmp_path / "deploy" / "kubernetes" / "overlays" / "production" / "runbook.yaml"
    text = setting.read_text()
    assert "  url: docs/runbook.md #" in text
    setting.write_text(text.replace("docs/runbook.md", "https://wiki.example.com/tokentrace", 1))
    objects = build(setting.parent)
    assert not [document for document in objects if "runbook" in document["metadata"]["name"]], "a setting, no object"
    alerts = [rule for group in one(objects, "PrometheusRule")["spec"]["groups"] for rule in group["rules"]]
    for alert in (rule for rule in alerts if "alert" in rule):
        address = f"https://wiki.example.com/tokentrace#{alert['alert'].lower()}"
        assert alert["annotations"]["runbook_url"] == address


def test_a_pods_series_go_by_its_name() -> None:
    (endpoint,) = of_kind("production", "PodMonitor")["spec"]["podMetricsEndpoints"]
    by_name = {"action": "replace", "sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"}
    assert by_name in endpoint["relabelings"]
    annotations = of_kind("development", "StatefulSet")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == endpoint["path"] == "/metrics/prometheus"
