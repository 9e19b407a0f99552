"""The components: what each adds to an overlay is valid, and is what the others and the worker expect."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import (
    FOLDER,
    build,
    built,
    check_core,
    check_custom,
    configuration,
    one,
    secret_files,
    versions,
)
from tokentrace.runtime.settings import leaves_on_stop

Objects = list[dict[str, Any]]
Combine = Callable[..., Objects]


@pytest.fixture(scope="module")
def combine(tmp_path_factory: pytest.TempPathFactory) -> Combine:
    """Builds the production overlay with other components; an autoscaler among them owns the number of replicas."""

    def build_with(*components: str) -> Objects:
        copy = tmp_path_factory.mktemp("deploy") / "deploy"
        shutil.copytree(FOLDER.parent, copy)
        path = copy / "kubernetes" / "overlays" / "production" / "kustomization.yaml"
        overlay = yaml.safe_load(path.read_text())
        assert overlay["components"] == ["../../components/pod-monitor", "../../components/grafana-dashboard"]
        overlay["components"] = [f"../../components/{component}" for component in components]
        if {"keda", "hpa"} & {*components}:
            del overlay["replicas"]
        path.write_text(yaml.safe_dump(overlay))
        return build(path.parent)

    return build_with


@pytest.fixture(scope="module")
def guarded(combine: Combine) -> Objects:
    """The objects of the production overlay with TLS and the admin token."""
    return combine("pod-monitor", "tls", "admin-token")


@pytest.fixture(scope="module")
def certified(combine: Combine) -> Objects:
    """The objects for a Kafka with an authority of its own, which knows its clients by certificates."""
    return combine("keda", "service-monitor", "kafka-ca", "kafka-certificate", "tls")


@pytest.fixture(scope="module")
def processors(combine: Combine) -> Objects:
    """The objects with as many replicas as the processors ask for."""
    return combine("hpa")


@pytest.mark.parametrize("version", versions())
@pytest.mark.parametrize("objects", ["guarded", "certified", "processors"])
def test_kubernetes_accepts_the_components(objects: str, version: str, request: pytest.FixtureRequest) -> None:
    check_core(request.getfixturevalue(objects), version)


@pytest.mark.parametrize("objects", ["guarded", "certified"])
def test_custom_resources_of_the_components_fit_their_definitions(objects: str, request: pytest.FixtureRequest) -> None:
    check_custom(request.getfixturevalue(objects))


@pytest.mark.parametrize(
    ("objects", "kind", "endpoints"),
    [("guarded", "PodMonitor", "podMetricsEndpoints"), ("certified", "ServiceMonitor", "endpoints")],
)
def test_tls_component_serves_probes_and_the_monitor_over_https(
    objects: str, kind: str, endpoints: str, request: pytest.FixtureRequest
) -> None:
    documents = request.getfixturevalue(objects)
    (container,) = one(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["scheme"] == "HTTPS"
        assert container[probe]["periodSeconds"] > 0, "the rest of the probe stays"
    (endpoint,) = one(documents, kind)["spec"][endpoints]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"]["ca"] == {"secret": {"name": "tokentrace-tls", "key": "ca.crt"}}
    assert endpoint["authorization"]["credentials"] == {"name": "tokentrace", "key": "auth-token"}


def test_service_monitor_scrapes_as_the_pod_monitor_does(certified: Objects) -> None:
    (by_pod,) = one(built("production"), "PodMonitor")["spec"]["podMetricsEndpoints"]
    (by_service,) = one(certified, "ServiceMonitor")["spec"]["endpoints"]
    assert {key: by_service[key] for key in by_pod} == by_pod
    service = one(certified, "Service")
    (selected,) = one(certified, "ServiceMonitor")["spec"]["selector"]["matchExpressions"]
    assert service["metadata"]["labels"][selected["key"]] in selected["values"]
    assert (
        one(certified, "ServiceMonitor")["spec"]["selector"]
        == one(built("production"), "PodMonitor")["spec"]["selector"]
    )
    assert [port["name"] for port in service["spec"]["ports"]] == [by_service["port"]]
    assert not [document for document in certified if document["kind"] == "PodMonitor"]
    assert one(certified, "PrometheusRule") == one(built("production"), "PrometheusRule")


def test_horizontal_pod_autoscaler_owns_the_number_of_replicas(
    processors: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "replicas" not in one(processors, "StatefulSet")["spec"]
    scaler = one(processors, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "tokentrace"}
    least = scaler["minReplicas"]
    for ordinal, leaves in ((least - 1, False), (least, True)):
        config = configuration(processors, tmp_path, monkeypatch, ordinal=ordinal)
        assert leaves_on_stop(config) == leaves, "a pod that is scaled away will not be back"
    lag = one(built("autoscaled"), "ScaledObject")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (lag["minReplicaCount"], lag["maxReplicaCount"])
    assert scaler["behavior"] == lag["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]


def test_kafka_components_give_pods_and_keda_the_same_certificates(
    certified: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = configuration(certified, tmp_path, monkeypatch).kafka.properties
    files = secret_files(certified)
    assert {
        name: files.get(str(value), value) for name, value in properties.items()
    } == {
        "security.protocol": "ssl",
        "ssl.ca.location": ("tokentrace-kafka-ca", "ca.crt"),
        "ssl.certificate.location": ("tokentrace-kafka-certificate", "tls.crt"),
        "ssl.key.location": ("tokentrace-kafka-certificate", "tls.key"),
    }  # fmt: skip
    given = {
        reference["parameter"]: (reference["name"], reference["key"])
        for reference in one(certified, "TriggerAuthentication")["spec"]["secretTargetRef"]
    }
    assert given == {
        "ca": ("tokentrace-kafka-ca", "ca.crt"),
        "cert": ("tokentrace-kafka-certificate", "tls.crt"),
        "key": ("tokentrace-kafka-certificate", "tls.key"),
    }
    (trigger,) = one(certified, "ScaledObject")["spec"]["triggers"]
    assert (trigger["metadata"]["tls"], trigger["metadata"]["sasl"]) == ("enable", "none")


def test_kafka_authority_goes_with_a_name_and_a_password(
    combine: Combine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = combine("keda", "kafka-ca")
    properties = configuration(documents, tmp_path, monkeypatch).kafka.properties
    assert secret_files(documents)[str(properties["ssl.ca.location"])] == ("tokentrace-kafka-ca", "ca.crt")
    assert (properties["sasl.mechanism"], properties["sasl.username"]) == ("SCRAM-SHA-512", "from-a-secret")
    assert "ssl.key.location" not in properties
    references = one(documents, "TriggerAuthentication")["spec"]["secretTargetRef"]
    assert [reference["parameter"] for reference in references] == ["username", "password", "ca"]


def test_guarded_pods_read_their_files_from_the_secrets_that_they_mount(
    guarded: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert one(guarded, "StatefulSet")["spec"]["template"]["spec"]["securityContext"]["fsGroup"] == 10001
    http = configuration(guarded, tmp_path, monkeypatch).http_server
    files = secret_files(guarded)
    assert http.tls is not None
    assert http.admin_token_file is not None
    assert files[str(http.admin_token_file)] == ("tokentrace-admin", "admin-token")
    assert files[str(http.tls.key)] == ("tokentrace-tls", "tls.key")
    assert files[str(http.tls.certificate)] == ("tokentrace-tls", "tls.crt")
    assert http.auth_token is not None, "the scrape token is another one"


def test_configuration_of_the_tls_component_is_that_of_the_base() -> None:
    base = yaml.safe_load((FOLDER / "base" / "tokentrace.yml").read_text())
    secured = yaml.safe_load((FOLDER / "components" / "tls" / "tokentrace.yml").read_text())
    assert secured["http_server"].pop("tls") == {
        "certificate": "/etc/tokentrace-tls/tls.crt",
        "key": "/etc/tokentrace-tls/tls.key",
    }
    assert secured == base
