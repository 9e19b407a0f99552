"""Every overlay and the chart on a real API server: accepted as shipped, stable, scheduled, and with few rights."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.deploy.manifests import FOLDER, OVERLAYS
from tests.deploy.test_helm import CHOICES, rendered
from tests.kubernetes.cluster import NAMESPACE, Cluster
from tests.services.workers import wait_for

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]

SECRET = {"auth-token": "t", "kafka-username": "u", "kafka-password": "p"}


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """The namespace of the workers, with their Secret, as docs/deploy.md says."""
    cluster.make_namespace(**SECRET)
    yield NAMESPACE
    cluster.delete_namespace()


def apply(cluster: Cluster, *source: str, given: str | None = None) -> None:
    """Apply objects: the API server warns of nothing, and to apply them again would change nothing."""
    done = cluster.control.try_kubectl("apply", "--validate=strict", *source, given=given)
    assert (done.returncode, done.stderr) == (0, "")
    again = cluster.control.try_kubectl("diff", *source, given=given)
    assert (again.returncode, again.stdout) == (0, ""), again.stderr


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_is_accepted_and_its_pods_are_spread(cluster: Cluster, namespace: str, overlay: str) -> None:
    apply(cluster, "-k", str(FOLDER / "overlays" / overlay))
    count = {"production": 4, "development": 1, "autoscaled": 1}[overlay]

    def running() -> list[str]:
        found = cluster.pods().values()
        return [pod["spec"]["nodeName"] for pod in found if pod.get("status", {}).get("phase") == "Running"]

    assert wait_for(lambda: len(running()) == count), cluster.log("tokentrace")
    assert len({*running()}) == min(count, 3), "over the zones"
    # There is no broker of that name: the worker says so, stays, and is not ready.
    assert wait_for(lambda: "No Kafka broker answers" in cluster.log("tokentrace-0")), cluster.log("tokentrace")
    budget = cluster.api.get(f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/tokentrace")["status"]
    assert (budget["expectedPods"], budget["currentHealthy"]) == (count, 0)


@pytest.mark.parametrize("choice", CHOICES)
def test_chart_is_accepted(cluster: Cluster, namespace: str, choice: str) -> None:
    documents = rendered(choice)
    for document in documents:
        document["metadata"].setdefault("namespace", namespace)
    apply(cluster, "-f", "-", given="\n---\n".join(json.dumps(document) for document in documents))


def test_strimzi_s_objects_are_accepted(cluster: Cluster) -> None:
    cluster.control.kubectl("create", "namespace", "kafka")
    try:
        apply(cluster, "-k", str(FOLDER / "strimzi"))
    finally:
        cluster.delete_namespace("kafka")


def test_pods_account_may_do_no_more_than_one_without_rights(cluster: Cluster, namespace: str) -> None:
    apply(cluster, "-k", str(FOLDER / "overlays" / "production"))

    def rights(account: str) -> str:
        user = f"--as=system:serviceaccount:{namespace}:{account}"
        return cluster.control.kubectl("auth", "can-i", "--list", "-n", namespace, user, "--no-headers")

    assert rights("tokentrace") == rights("default")


def test_privileged_pod_is_refused_in_the_namespace(cluster: Cluster, namespace: str) -> None:
    done = cluster.control.try_kubectl("-n", namespace, "run", "shell", "--image=tokentrace:0.1.0")
    assert done.returncode != 0
    assert 'violates PodSecurity "restricted:latest"' in done.stderr
