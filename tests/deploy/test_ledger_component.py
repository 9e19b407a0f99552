"""A ledger in a pod of its own: the component beside the workers of every overlay, and the chart's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tests.deploy.manifests import (
    FOLDER,
    OVERLAYS,
    build,
    check_core,
    check_custom,
    configuration,
    environment,
    of_kind,
    one,
    secret_files,
    versions,
)
from tests.deploy.test_components import combine as combine  # a fixture
from tokentrace.cli import app

Objects = list[dict[str, Any]]
NAME = "tokentrace-ledger"


@pytest.fixture(scope="module")
def with_ledger(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Objects]:
    """Builds an overlay with the component behind its own ones."""
    copy = tmp_path_factory.mktemp("deploy") / "deploy"
    shutil.copytree(FOLDER.parent, copy)
    for overlay in OVERLAYS:
        path = copy / "kubernetes" / "overlays" / overlay / "kustomization.yaml"
        kustomization = yaml.safe_load(path.read_text())
        kustomization["components"].append("../../components/ledger")
        if overlay == "autoscaled":  # on top of production, which has it
            kustomization["components"].pop()
        path.write_text(yaml.safe_dump(kustomization))
    return lambda overlay: build(copy / "kubernetes" / "overlays" / overlay)


@pytest.fixture(scope="module")
def secured(combine: Callable[..., Objects]) -> Objects:
    """The objects for a Kafka that knows clients by certificates, and with HTTPS."""
    return combine("service-monitor", "ledger", "kafka-ca", "kafka-certificate", "tls", "annotations")


def of_name(documents: Objects, kind: str, name: str = NAME) -> dict[str, Any]:
    (found,) = (item for item in documents if (item["kind"], item["metadata"]["name"]) == (kind, name))
    return found


def pod_and_container(documents: Objects, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    pod = dict(one(documents, kind)["spec"]["template"]["spec"])
    (container,) = pod.pop("containers")
    return pod, container


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_accepts_an_overlay_with_the_ledger(overlay: str, with_ledger: Callable[[str], Objects]) -> None:
    for version in versions():
        assert "Deployment" in check_core(with_ledger(overlay), version)


def test_kubernetes_accepts_the_ledger_with_certificates(secured: Objects) -> None:
    for version in versions():
        assert "Deployment" in check_core(secured, version)
    check_custom(secured)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ledger_has_the_workers_image_brokers_secrets_and_rights(
    overlay: str, with_ledger: Callable[[str], Objects]
) -> None:
    documents = with_ledger(overlay)
    (pod, ledger), (workers_pod, worker) = (
        pod_and_container(documents, kind) for kind in ("Deployment", "StatefulSet")
    )
    del workers_pod["topologySpreadConstraints"]
    assert pod == workers_pod
    same = ("image", "securityContext", "volumeMounts", "livenessProbe", "readinessProbe")
    assert [ledger[key] for key in same] == [worker[key] for key in same]
    theirs = {variable["name"]: variable for variable in worker["env"] if variable["name"] != "MIN_REPLICAS"}
    ours = {variable["name"]: variable for variable in ledger["env"]}
    assert ours.pop("LEDGER_URL")["valueFrom"]["secretKeyRef"] == {"name": NAME, "key": "url"}
    assert ours.pop("POD_NAME") == {"name": "POD_NAME", "value": "tokentrace-ledger-0"}
    del theirs["POD_NAME"]
    assert ours == theirs


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_workers_are_the_same_with_the_ledger_beside_them(overlay: str, with_ledger: Callable[[str], Objects]) -> None:
    documents = with_ledger(overlay)
    for kind in ("StatefulSet", "PodDisruptionBudget"):
        assert one(documents, kind) == of_kind(overlay, kind)
    for kind in ("Service", "NetworkPolicy"):
        assert of_name(documents, kind, "tokentrace") == of_kind(overlay, kind)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_workers_selectors_leave_the_ledgers_pod_alone(overlay: str, with_ledger: Callable[[str], Objects]) -> None:
    documents = with_ledger(overlay)
    pods = {
        kind: one(documents, kind)["spec"]["template"]["metadata"]["labels"] for kind in ("StatefulSet", "Deployment")
    }
    for kind, name in (("StatefulSet", "tokentrace"), ("Deployment", NAME)):
        selectors = [
            one(documents, kind)["spec"]["selector"]["matchLabels"],
            of_name(documents, "Service", name)["spec"]["selector"],
            of_name(documents, "NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"],
        ]
        for selector in selectors:
            assert [other for other, labels in pods.items() if selector.items() <= labels.items()] == [kind]


def test_there_is_one_ledger_at_a_time(with_ledger: Callable[[str], Objects]) -> None:
    spec = one(with_ledger("production"), "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_configuration_is_the_workers_with_the_database(
    overlay: str, with_ledger: Callable[[str], Objects], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = with_ledger(overlay)
    _, container = pod_and_container(documents, "Deployment")
    worker = configuration(documents, tmp_path, monkeypatch)
    assert worker.ledger.url is None
    for name in environment(documents):
        monkeypatch.delenv(name)
    ledger = configuration(documents, tmp_path, monkeypatch, kind="Deployment")
    assert (ledger.kafka, ledger.http_server) == (worker.kafka, worker.http_server)
    assert ledger.ledger.url == "postgresql://l:%40@db/ledger"
    assert ledger.ledger.addr is not None
    ports = {ledger.ledger.addr.port, container["ports"][0]["containerPort"]}
    assert ports == {of_name(documents, "Service")["spec"]["ports"][0]["port"]}
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] == f"{ledger.http_server.health_path}/live"
    assert CliRunner().invoke(app, [*container["args"], "--help"]).exit_code == 0


def test_monitors_find_the_workers_and_the_ledger(with_ledger: Callable[[str], Objects], secured: Objects) -> None:
    documents = with_ledger("production")
    (expression,) = one(documents, "PodMonitor")["spec"]["selector"]["matchExpressions"]
    assert expression["operator"] == "In"
    pods = [one(documents, kind)["spec"]["template"]["metadata"]["labels"] for kind in ("StatefulSet", "Deployment")]
    assert [labels[expression["key"]] for labels in pods] == expression["values"]
    services = [item["metadata"]["labels"] for item in secured if item["kind"] == "Service"]
    (expression,) = one(secured, "ServiceMonitor")["spec"]["selector"]["matchExpressions"]
    assert sorted(labels[expression["key"]] for labels in services) == sorted(expression["values"])
    (endpoint,) = one(documents, "PodMonitor")["spec"]["podMetricsEndpoints"]
    _, container = pod_and_container(documents, "Deployment")
    assert endpoint["port"] == container["ports"][0]["name"]


def test_annotations_and_the_job_of_prometheus_find_both(with_ledger: Callable[[str], Objects]) -> None:
    documents = with_ledger("development")
    config = yaml.safe_load((FOLDER.parent / "prometheus" / "prometheus.yml").read_text())
    (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "tokentrace-pods")
    kept = job["relabel_configs"][0]
    assert (kept["source_labels"], kept["action"]) == (["__meta_kubernetes_pod_label_app_kubernetes_io_name"], "keep")
    for kind in ("StatefulSet", "Deployment"):
        assert one(documents, kind)["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] in (
            kept["regex"].split("|")
        )


def test_annotations_name_the_ledgers_port(secured: Objects) -> None:
    _, container = pod_and_container(secured, "Deployment")
    annotations = one(secured, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(container["ports"][0]["containerPort"]),
        "prometheus.io/path": "/metrics/prometheus",
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_network_policy_lets_the_ledger_reach_kafka_and_the_database(
    overlay: str, with_ledger: Callable[[str], Objects]
) -> None:
    documents = with_ledger(overlay)
    ours, workers = (of_name(documents, "NetworkPolicy", name)["spec"] for name in (NAME, "tokentrace"))
    assert ours["ingress"] == workers["ingress"]
    assert ours["egress"][0] == workers["egress"][0], "names"
    kafka, database = ours["egress"][1:]
    assert kafka["to"] == workers["egress"][1]["to"]
    assert kafka["ports"] == [{"protocol": "TCP", "port": 9092, "endPort": 9094}]
    assert database["ports"] == [{"protocol": "TCP", "port": 5432}]
    assert database["to"], "a rule without destinations allows all"


def test_certificates_are_mounted_where_the_configuration_says(
    secured: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration(secured, tmp_path, monkeypatch, kind="Deployment")
    files = secret_files(secured, "Deployment")
    assert {name: files.get(str(value), value) for name, value in config.kafka.properties.items()} == {
        "security.protocol": "ssl",
        "ssl.ca.location": ("tokentrace-kafka-ca", "ca.crt"),
        "ssl.certificate.location": ("tokentrace-kafka-certificate", "tls.crt"),
        "ssl.key.location": ("tokentrace-kafka-certificate", "tls.key"),
    }
    assert config.http_server.tls is not None
    assert files[str(config.http_server.tls.key)] == ("tokentrace-tls", "tls.key")
    pod, container = pod_and_container(secured, "Deployment")
    assert pod["securityContext"]["fsGroup"] == 10001
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["scheme"] == "HTTPS"
        assert container[probe]["periodSeconds"] > 0, "the rest of the probe stays"
