"""The shipped job of Prometheus finds the pods by the real API server, and names and counts them right."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import unavailable
from tests.kubernetes.cluster import NAMESPACE, TOKEN, Cluster
from tests.kubernetes.fleet import Fleet
from tests.services import ROOT, Unavailable
from tests.services.prometheus import Prometheus, Prometheus3
from tests.services.victoriametrics import BuiltVictoriaMetrics, VictoriaMetrics
from tests.services.workers import wait_for

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]

ACCOUNT = """\
apiVersion: v1
kind: Namespace
metadata: {name: monitoring}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: prometheus, namespace: monitoring}
"""
#: The least that the discovery of pods needs, where Prometheus is told the namespace.
RIGHTS = """\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: prometheus, namespace: tokentrace}
rules:
  - {apiGroups: [""], resources: [pods], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: prometheus, namespace: tokentrace}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: prometheus}
subjects:
  - {kind: ServiceAccount, name: prometheus, namespace: monitoring}
"""


def shipped_job(cluster: Cluster, folder: Path) -> dict[str, Any]:
    """The job for pods from prometheus.yml, with the address of the API server and both tokens."""
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    job: dict[str, Any]
    (job,) = (found for found in config["scrape_configs"] if "kubernetes_sd_configs" in found)
    account = cluster.control.as_account("monitoring", "prometheus")
    (folder / "account.token").write_text(account.token)
    (folder / "workers.token").write_text(TOKEN)
    job["authorization"] = {"type": "Bearer", "credentials_file": str(folder / "workers.token")}
    job["kubernetes_sd_configs"][0] |= {
        "namespaces": {"names": [NAMESPACE]},
        "api_server": account.url,
        "authorization": {"type": "Bearer", "credentials_file": str(folder / "account.token")},
        "tls_config": {"ca_file": account.ca},
    }
    return job


@pytest.mark.parametrize("kind", [VictoriaMetrics, BuiltVictoriaMetrics, Prometheus, Prometheus3])
def test_discovered_pods_keep_their_names_and_their_counts(
    cluster: Cluster, start_fleet: Callable[..., Fleet], tmp_path: Path, kind: type[Prometheus]
) -> None:
    try:
        server = kind(tmp_path / "server", [])
    except Unavailable as error:
        if kind in (BuiltVictoriaMetrics, Prometheus3):
            pytest.skip(str(error))
        unavailable(str(error))
    cluster.control.kubectl("apply", "-f", "-", given=ACCOUNT)
    settings = {"scrape_interval": "2s", "scrape_timeout": "2s"}
    job = shipped_job(cluster, tmp_path)
    (tmp_path / "server" / "prometheus.yml").write_text(yaml.safe_dump({"global": settings, "scrape_configs": [job]}))
    try:
        server.start()
    except RuntimeError as error:
        if "kubernetes_sd_configs not found" in str(error):
            pytest.skip("this Prometheus was built without Kubernetes, as Debian's is")
        raise
    server.stop()
    fleet = start_fleet()
    cluster.control.kubectl("apply", "-f", "-", given=RIGHTS)
    server.start()
    try:
        build = "tokentrace_worker_build_info"
        assert wait_for(lambda: len(server.query(build)) == 3), server.query("up")
        names = {f"tokentrace-{number}" for number in range(3)}
        for labels, _ in server.query(build):
            assert (labels["job"], labels["namespace"]) == ("tokentrace-pods", NAMESPACE)
        assert {labels["instance"] for labels, _ in server.query(build)} == names
        address = cluster.pods()["tokentrace-1"]["status"]["podIP"]
        fleet.kubectl("delete", "pod", "tokentrace-1")
        fleet.rolled_out()
        now_at = cluster.pods()["tokentrace-1"]["status"]["podIP"]
        assert now_at != address
        scraped_s = time.time()
        up = 'up{instance="tokentrace-1"}'
        assert wait_for(lambda: time.time() > scraped_s + 10 and [value for _, value in server.query(up)] == [1.0])
        assert fleet.recount(resume=False) == {}
        produced = fleet.load.produced
        spans = "sum(tokentrace_spans_total)"
        assert wait_for(lambda: server.query(spans)[0][1] == produced, 30.0), (server.query(spans), produced)
        ((_, resets),) = server.query("sum(resets(tokentrace_spans_total[1h]))")
        assert resets == 0, "the pod's series go on at another address"
    finally:
        server.stop()
