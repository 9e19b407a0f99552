"""The stand-in of the kubelet acts as a kubelet: variables, volumes, probes, restarts, and the end within its time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.cluster import Cluster, ready
from tests.services.kubernetes.container import Image
from tests.services.workers import wait_for

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(300)]

SPACE = "kubelet"


@pytest.fixture
def space(cluster: Cluster) -> Iterator[str]:
    """A namespace, and the image of a shell."""
    cluster.images["shell"] = Image(["sh", "-c"], {"PATH": "/usr/bin:/bin"})
    cluster.control.kubectl("create", "namespace", SPACE)
    account = f"/api/v1/namespaces/{SPACE}/serviceaccounts"
    assert wait_for(lambda: bool(cluster.api.get(account)["items"]))
    yield SPACE
    cluster.delete_namespace(SPACE)


def make(cluster: Cluster, name: str, script: str, **keys: Any) -> None:
    """Make a pod of one container; keys: of the container, or of the pod where they are the pod's."""
    of_pod = {key: keys.pop(key) for key in ("volumes", "terminationGracePeriodSeconds") if key in keys}
    container = {"name": "shell", "image": "shell", "args": [script], **keys}
    spec = {"containers": [container], "automountServiceAccountToken": False, **of_pod}
    metadata = {"name": name, "namespace": SPACE}
    cluster.create([{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}])


def state(cluster: Cluster, name: str) -> dict[str, Any]:
    """The state of the pod's container."""
    found: list[dict[str, Any]] = cluster.pods(SPACE)[name].get("status", {}).get("containerStatuses", [])
    return found[0] if found else {}


def test_pod_waits_for_its_secret_and_gets_files_and_variables_from_it(
    cluster: Cluster, space: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    variable = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}}
    make(
        cluster, "waits", f'echo "$PASSWORD $(cat /etc/s/renamed) $NAME" > {out}; exec sleep 600',
        env=[variable, {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        volumeMounts=[{"name": "s", "mountPath": "/etc/s"}],
        volumes=[{"name": "s", "secret": {"secretName": "s", "items": [{"key": "file", "path": "renamed"}]}}],
    )  # fmt: skip
    assert wait_for(lambda: "waiting" in state(cluster, "waits").get("state", {}))
    assert state(cluster, "waits")["state"]["waiting"]["reason"] == "FailedMount"
    cluster.control.kubectl(
        "-n", space, "create", "secret", "generic", "s", "--from-literal=password=p w", "--from-literal=file=inside"
    )
    assert wait_for(lambda: ready(cluster.pods(SPACE)["waits"]))
    assert out.read_text() == "p w inside waits\n"


def test_stop_runs_the_hook_then_asks_and_kills_what_stays(cluster: Cluster, space: str, tmp_path: Path) -> None:
    said = tmp_path / "said"
    hook = {"preStop": {"exec": {"command": ["sh", "-c", f"echo hook >> {said}"]}}}
    tells = f"trap 'echo asked >> {said}; exit 0' TERM; while :; do sleep 0.1; done"
    make(cluster, "ends", tells, lifecycle=hook)
    make(cluster, "stays", "trap '' TERM; while :; do sleep 0.1; done", terminationGracePeriodSeconds=4)
    assert wait_for(lambda: all(map(ready, cluster.pods(SPACE).values())))
    began_s = time.monotonic()
    cluster.control.kubectl("-n", space, "delete", "pod", "ends")
    assert said.read_text() == "hook\nasked\n"
    assert time.monotonic() - began_s < 25.0, "not the 30 s of its grace period"
    began_s = time.monotonic()
    cluster.control.kubectl("-n", space, "delete", "pod", "stays")
    assert 4.0 <= time.monotonic() - began_s < 30.0


def test_probes_decide_readiness_and_restarts(cluster: Cluster, space: str, tmp_path: Path) -> None:
    (tmp_path / "live").write_text("")
    probe = {"periodSeconds": 1, "failureThreshold": 2}
    make(
        cluster, "probed", f"cd {tmp_path}; exec python3 -m http.server --bind $ADDRESS 8080",
        env=[{"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        ports=[{"name": "web", "containerPort": 8080}],
        startupProbe={**probe, "failureThreshold": 60, "httpGet": {"path": "/", "port": "web"}},
        livenessProbe={**probe, "httpGet": {"path": "/live", "port": "web"}},
        readinessProbe={**probe, "httpGet": {"path": "/ready", "port": 8080}},
        terminationGracePeriodSeconds=3,
    )  # fmt: skip
    assert wait_for(lambda: state(cluster, "probed").get("started") is True)
    assert not ready(cluster.pods(SPACE)["probed"])
    (tmp_path / "ready").write_text("")
    assert wait_for(lambda: ready(cluster.pods(SPACE)["probed"]))
    (tmp_path / "live").unlink()
    assert wait_for(lambda: state(cluster, "probed")["restartCount"] == 1)
    assert state(cluster, "probed")["lastState"]["terminated"]["exitCode"] in (137, 143)
    (tmp_path / "live").write_text("")
    assert wait_for(lambda: ready(cluster.pods(SPACE)["probed"]))
