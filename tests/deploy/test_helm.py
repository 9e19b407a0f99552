"""The Helm chart: it renders valid objects, refuses wrong values, and is by default what the production overlay is."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import (
    built,
    check_core,
    check_custom,
    configuration,
    one,
    secret_files,
    versions,
)
from tests.deploy.test_ledger_component import of_name
from tests.deploy.test_ledger_component import with_ledger as with_ledger  # a fixture
from tests.services import CACHE, ROOT
from tokentrace.runtime.settings import leaves_on_stop

CHART = ROOT / "deploy" / "helm" / "tokentrace"

#: Labels that Helm's charts have, beside those of the manifests.
HELMS = {"app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"}

CERTIFIED = {
    "kafka": {"authentication": "certificate", "certificateSecret": "client", "caSecret": "authority"},
    "autoscaling": {"type": "keda"},
    "http": {"tlsSecret": "https", "adminTokenSecret": "admin"},
    "podMonitor": {"enabled": False},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "image": {"repository": "registry.example.com/tokentrace", "digest": f"sha256:{'0' * 64}"},
    "config": {"metrics": {"max_groups": 500}, "kafka": {"properties": {"client.rack": "a"}}},
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "x"},
    "nodeSelector": {"disk": "none"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "env": [{"name": "WEBHOOK_TOKEN", "value": "w"}],
    "serviceAccount": {"annotations": {"c": "d"}},
    "networkPolicy": {"egress": [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}]},
}
OPEN = {
    "kafka": {"authentication": "none", "tls": False},
    "http": {"token": False},
    "serviceAccount": {"name": "mine"},
    "networkPolicy": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
    "prometheusRule": {"enabled": False},
    "dashboard": {"enabled": False},
}
CHOICES: dict[str, dict[str, Any]] = {
    "default": {},
    "certified": CERTIFIED,
    "open": OPEN,
    "keda": {"autoscaling": {"type": "keda"}},
    "hpa": {"autoscaling": {"type": "hpa"}},
    "ledger": {"ledger": {"enabled": True}},
    "certified-ledger": {**CERTIFIED, "ledger": {"enabled": True, "secret": "database"}},
}


def program() -> str:
    """Helm. Skips the test where there is none."""
    found = shutil.which("helm") or shutil.which("helm", path=str(CACHE / "bin"))
    if found is None:
        pytest.skip("helm is not installed; `make helm` builds it where Go is")
    return found


def helm(*words: str, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    """Run Helm with these values."""
    return subprocess.run(
        [program(), *words, "--values", "-"],
        input=json.dumps(values or {}),
        capture_output=True,
        text=True,
        check=False,
    )


def template(values: dict[str, Any], release: str = "tokentrace") -> subprocess.CompletedProcess[str]:
    return helm("template", release, str(CHART), "--namespace=tokentrace", "--kube-version=1.34.0", values=values)


@cache
def rendered(choice: str) -> list[dict[str, Any]]:
    """The objects of one choice of values."""
    done = template(CHOICES[choice])
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def plain(value: Any) -> Any:
    """The value without what only Helm adds to objects."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    # A selector that has only such labels is gone.
    kept = {key: (plain(item), item) for key, item in value.items() if key not in HELMS}
    return {key: left for key, (left, item) in kept.items() if left != {} or item == {}}


def by_kind(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Kind -> object, without ConfigMaps and namespaces, and without the labels of objects that nothing selects."""
    kept = [plain(document) for document in documents if document["kind"] not in ("ConfigMap", "Namespace")]
    for document in kept:
        document["metadata"].pop("labels", None)
    assert len({document["kind"] for document in kept}) == len(kept)
    return {document["kind"]: document for document in kept}


def test_by_default_the_chart_is_the_production_overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chart, overlay = by_kind(rendered("default")), by_kind(built("production"))
    pod = chart["StatefulSet"]["spec"]["template"]
    # One hash is in the name of the ConfigMap, the other in an annotation.
    assert list(pod["metadata"].pop("annotations")) == ["checksum/config"]
    for objects in (chart, overlay):
        pod = objects["StatefulSet"]["spec"]["template"]["spec"]
        pod["volumes"][0]["configMap"]["name"] = "any"
        pod["containers"][0].setdefault("imagePullPolicy", "IfNotPresent")
        pod["containers"][0]["env"].sort(key=lambda variable: variable["name"])
    assert chart == overlay
    assert configuration(rendered("default"), tmp_path, monkeypatch) == configuration(
        built("production"), tmp_path, monkeypatch
    )
    (chart_board,), (board,) = (
        [plain(document) for document in documents if document["metadata"]["name"] == "tokentrace-dashboard"]
        for documents in (rendered("default"), built("production"))
    )
    assert json.loads(chart_board["data"]["tokentrace.json"]) == json.loads(board["data"]["tokentrace.json"])
    # kustomize labels only what the base has made.
    assert board["metadata"]["labels"].items() <= chart_board["metadata"]["labels"].items()


def test_with_keda_the_chart_is_the_autoscaled_overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chart, overlay = by_kind(rendered("keda")), by_kind(built("autoscaled"))
    assert (chart["ScaledObject"], chart["TriggerAuthentication"]) == (
        overlay["ScaledObject"], overlay["TriggerAuthentication"],
    )  # fmt: skip
    assert "replicas" not in chart["StatefulSet"]["spec"]
    assert configuration(rendered("keda"), tmp_path, monkeypatch) == configuration(
        built("autoscaled"), tmp_path, monkeypatch
    )


def test_with_the_ledger_the_chart_is_the_overlay_with_the_component(
    with_ledger: Callable[[str], list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = with_ledger("production")
    for kind in ("Deployment", "Service", "NetworkPolicy"):
        ours, theirs = plain(of_name(rendered("ledger"), kind)), plain(of_name(documents, kind))
        for found in (ours, theirs):
            del found["metadata"]["labels"]
        if kind == "Deployment":
            assert list(ours["spec"]["template"]["metadata"].pop("annotations")) == ["checksum/config"]
            for found in (ours, theirs):
                pod = found["spec"]["template"]["spec"]
                pod["volumes"][0]["configMap"]["name"] = "any"
                pod["containers"][0].setdefault("imagePullPolicy", "IfNotPresent")
                pod["containers"][0]["env"].sort(key=lambda variable: variable["name"])
        assert ours == theirs
    chart, overlay = (
        configuration(found, tmp_path, monkeypatch, kind="Deployment") for found in (rendered("ledger"), documents)
    )
    assert chart == overlay
    rest = [found for found in rendered("ledger") if found["metadata"]["name"] != "tokentrace-ledger"]
    assert rest == rendered("default")


def test_ledger_of_a_release_has_its_certificates_and_is_not_taken_for_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = rendered("certified-ledger")
    config = configuration(documents, tmp_path, monkeypatch, kind="Deployment")
    files = secret_files(documents, "Deployment")
    assert files == secret_files(documents)
    assert files[str(config.kafka.properties["ssl.key.location"])] == ("client", "tls.key")
    assert config.ledger.url == "postgresql://l:%40@db/ledger"
    deployment = of_name(documents, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert (labels["team"], labels["app.kubernetes.io/name"]) == ("x", "tokentrace-ledger")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (worker,) = one(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert (container["image"], container["readinessProbe"]) == (worker["image"], worker["readinessProbe"])
    (url,) = (variable["valueFrom"] for variable in container["env"] if variable["name"] == "LEDGER_URL")
    assert url == {"secretKeyRef": {"name": "database", "key": "url"}}
    for name in ("tokentrace", "tokentrace-ledger"):
        selector = of_name(documents, "Service", name)["spec"]["selector"]
        assert (selector.items() <= labels.items()) == (name == "tokentrace-ledger")
    (monitor,) = (found for found in documents if found["kind"] == "ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/instance": "tokentrace"}


def test_ledger_reaches_a_database_outside_of_the_cluster() -> None:
    rule = {"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}], "ports": [{"protocol": "TCP", "port": 5432}]}
    policy = {"databaseNamespace": "", "ledgerEgress": [rule]}
    done = template({"ledger": {"enabled": True}, "networkPolicy": policy})
    egress = of_name(list(yaml.safe_load_all(done.stdout)), "NetworkPolicy")["spec"]["egress"]
    assert [rules["ports"][0]["port"] for rules in egress] == [53, 9092, 5432]
    assert egress[-1] == rule


@pytest.mark.parametrize("version", versions())
@pytest.mark.parametrize("choice", CHOICES)
def test_kubernetes_accepts_what_the_chart_renders(choice: str, version: str) -> None:
    assert "StatefulSet" in check_core(rendered(choice), version)


@pytest.mark.parametrize("choice", CHOICES)
def test_custom_resources_of_the_chart_fit_their_definitions(choice: str) -> None:
    check_custom(rendered(choice))


def test_certificates_reach_the_worker_and_keda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = rendered("certified")
    config = configuration(documents, tmp_path, monkeypatch)
    files = secret_files(documents)
    assert {name: files.get(str(value), value) for name, value in config.kafka.properties.items()} == {
        "security.protocol": "ssl",
        "ssl.ca.location": ("authority", "ca.crt"),
        "ssl.certificate.location": ("client", "tls.crt"),
        "ssl.key.location": ("client", "tls.key"),
        "client.rack": "a",
    }
    assert config.http_server.tls is not None
    assert files[str(config.http_server.tls.certificate)] == ("https", "tls.crt")
    assert files[str(config.http_server.admin_token_file)] == ("admin", "admin-token")
    assert (config.metrics.max_groups, config.worker.replica_id) == (500, "tokentrace-0")
    given = {
        reference["parameter"]: (reference["name"], reference["key"])
        for reference in one(documents, "TriggerAuthentication")["spec"]["secretTargetRef"]
    }
    assert given == {"cert": ("client", "tls.crt"), "key": ("client", "tls.key"), "ca": ("authority", "ca.crt")}
    (container,) = one(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example.com/tokentrace@sha256:{'0' * 64}"
    assert container["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
    (endpoint,) = one(documents, "ServiceMonitor")["spec"]["endpoints"]
    assert (endpoint["scheme"], endpoint["tlsConfig"]["serverName"]) == ("https", "tokentrace.tokentrace.svc")


def test_without_tokens_and_passwords_there_is_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration(rendered("open"), tmp_path, monkeypatch)
    assert config.http_server.auth_token is None
    assert config.kafka.properties == {"security.protocol": "plaintext"}
    assert "secret" not in json.dumps(rendered("open")).lower()
    assert one(rendered("open"), "StatefulSet")["spec"]["template"]["spec"]["serviceAccountName"] == "mine"
    assert {document["kind"] for document in rendered("open")} == {"ConfigMap", "PodMonitor", "Service", "StatefulSet"}


@pytest.mark.parametrize("choice", ["keda", "hpa"])
def test_replicas_that_are_scaled_away_leave_the_group(
    choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ordinal, leaves in ((1, False), (2, True)):
        assert leaves_on_stop(configuration(rendered(choice), tmp_path, monkeypatch, ordinal)) == leaves


def test_a_release_of_another_name_has_that_name_everywhere() -> None:
    done = template(CHOICES["certified"], release="second")
    documents = list(yaml.safe_load_all(done.stdout))
    names = {document["metadata"]["name"] for document in documents}
    assert names == {"second-tokentrace", "second-tokentrace-dashboard"}
    pods = one(documents, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = one(documents, kind)["spec"]
        selector = spec.get("podSelector", spec.get("selector"))
        assert selector.get("matchLabels", selector).items() <= pods.items(), "it selects its own pods"
        assert "second" in selector.get("matchLabels", selector).values(), "and no others"


def test_alerts_link_to_the_runbook_of_the_values() -> None:
    done = template({"prometheusRule": {"runbookUrl": "https://wiki.example.com/$1/tokentrace"}})
    rules = one(list(yaml.safe_load_all(done.stdout)), "PrometheusRule")["spec"]["groups"]
    alerts = [rule for group in rules for rule in group["rules"] if "alert" in rule]
    assert len(alerts) > 10
    for alert in alerts:
        assert alert["annotations"]["runbook_url"] == (
            f"https://wiki.example.com/$1/tokentrace#{alert['alert'].lower()}"
        )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replica": 2}, "additional properties 'replica' not allowed"),
        ({"replicas": "four"}, "got string, want integer"),
        ({"kafka": {"authentication": "kerberos"}}, "value must be one of 'password', 'certificate', 'none'"),
        ({"image": {"digest": "latest"}}, "does not match pattern"),
        ({"drainTimeout": "30"}, "does not match pattern"),
        ({"serviceMonitor": {"enabled": True}}, "count every span twice"),
        ({"kafka": {"authentication": "certificate"}}, "kafka.certificateSecret has to be set"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], words: str) -> None:
    done = template(values)
    assert done.returncode != 0
    assert words in done.stderr


def test_every_value_has_a_place_in_the_schema_and_the_default_is_documented() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def keys(properties: dict[str, Any], given: dict[str, Any]) -> None:
        assert set(properties) - {"global"} == set(given)
        for name, inner in properties.items():
            if inner.get("additionalProperties") is False and isinstance(given[name], dict):
                keys(inner["properties"], given[name])

    keys(schema["properties"], values)


def test_helm_finds_nothing_to_say_about_the_chart() -> None:
    done = helm("lint", "--strict", str(CHART), "--kube-version=1.34.0", values=CERTIFIED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr


def test_chart_has_the_version_of_the_project_and_copies_of_its_files() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == version
    assert (CHART / "files" / "rules.yml").read_bytes() == (ROOT / "deploy/prometheus/rules.yml").read_bytes()
    board = (ROOT / "deploy/grafana/dashboards/tokentrace.json").read_bytes()
    assert (CHART / "files" / "tokentrace.json").read_bytes() == board
