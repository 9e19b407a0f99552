"""Roll-outs, scaling, roll-backs and drained nodes under traffic: every count stays exact, and little waits."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kubernetes.cluster import NAMESPACE, Cluster, ready, worker_image
from tests.kubernetes.fleet import Fleet
from tests.services.packages import trial_package
from tests.services.workers import wait_for

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200)]

#: A partition waits for its replica's return, at most for the session time-out (45 s) and what it takes to move it.
LONGEST_WAIT_S = 75.0


def nodes_of(cluster: Cluster) -> dict[str, str]:
    """Pod -> node."""
    return {name: pod["spec"]["nodeName"] for name, pod in cluster.pods().items()}


def images_of(cluster: Cluster) -> set[str]:
    return {pod["spec"]["containers"][0]["image"] for pod in cluster.pods().values()}


def test_new_version_is_rolled_out_under_traffic_and_taken_back(
    cluster: Cluster, start_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    cluster.images["tokentrace:next"] = worker_image(trial_package(tmp_path / "next"))
    fleet = start_fleet()
    assert len({*nodes_of(cluster).values()}) == 3, "one in each zone"
    for step, words in (
        ("roll-out", ("set", "image", "statefulset/tokentrace", "worker=tokentrace:next")),
        ("roll-back", ("rollout", "undo", "statefulset/tokentrace")),
    ):
        before = images_of(cluster)
        fleet.begin()
        began_s = time.monotonic()
        fleet.kubectl(*words)
        fleet.rolled_out()
        assert images_of(cluster).isdisjoint(before)
        fleet.report(step, began_s)
        assert fleet.watch.least_ready == 2, "one by one"
        assert fleet.progress.longest_s() < LONGEST_WAIT_S
        assert fleet.recount() == {}
    assert [served.lives for served in fleet.served] == [3, 3, 3]
    assert fleet.recount(resume=False) == {}
    assert fleet.spans_in_state() == fleet.load.produced


def test_version_that_does_not_start_stops_at_one_pod_and_is_taken_back(
    cluster: Cluster, start_fleet: Callable[..., Fleet]
) -> None:
    fleet = start_fleet()
    fleet.begin()
    began_s = time.monotonic()
    fleet.kubectl("set", "env", "statefulset/tokentrace", "KAFKA_SECURITY_PROTOCOL=no-such-protocol")
    assert wait_for(
        lambda: any(
            "CrashLoopBackOff" in str(pod.get("status", {}).get("containerStatuses")) for pod in cluster.pods().values()
        ),
        180.0,
    )
    time.sleep(15.0)
    assert fleet.watch.least_ready == 2, "the others stay as they are"
    fleet.kubectl("rollout", "undo", "statefulset/tokentrace")
    fleet.rolled_out()
    fleet.report("roll-out of a version that does not start, and back", began_s)
    assert fleet.watch.least_ready == 2
    assert fleet.recount() == {}


def test_replicas_are_added_and_taken_away_under_traffic(cluster: Cluster, start_fleet: Callable[..., Fleet]) -> None:
    fleet = start_fleet()
    for count in (5, 3):
        fleet.begin()
        began_s = time.monotonic()
        fleet.kubectl("scale", "statefulset/tokentrace", f"--replicas={count}")
        fleet.rolled_out()
        assert wait_for(lambda count=count: len(cluster.pods()) == count)
        fleet.report(f"scale to {count}", began_s)
        assert fleet.watch.least_ready >= 3
        assert fleet.progress.longest_s() < 45.0, "those that do not return leave the group"
        assert fleet.recount() == {}
    assert fleet.recount(resume=False) == {}
    assert fleet.spans_in_state() == fleet.load.produced
    assert sorted(served.name for served in fleet.served) == [f"tokentrace-{number}" for number in range(5)]


def test_drained_node_gives_its_pod_to_another_and_the_budget_lets_one_go_at_a_time(
    cluster: Cluster, start_fleet: Callable[..., Fleet]
) -> None:
    fleet = start_fleet()
    drain = ("drain", "--ignore-daemonsets", "--delete-emptydir-data")
    node = nodes_of(cluster)["tokentrace-0"]
    fleet.begin()
    began_s = time.monotonic()
    done = cluster.control.try_kubectl(*drain, node, "--timeout=120s")
    assert "evicting pod tokentrace/tokentrace-0" in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    fleet.rolled_out()
    fleet.report("drain", began_s)
    assert nodes_of(cluster)["tokentrace-0"] != node
    assert fleet.watch.least_ready == 2
    assert fleet.recount() == {}
    # A replica that does not answer takes the whole budget: no other may be evicted.
    frozen = next(
        pod
        for kubelet in cluster.kubelets
        for pod in kubelet.pods.values()
        if pod.name == "tokentrace-1" and pod.is_alive()
    )
    assert frozen.container is not None
    frozen.container.process.send_signal(signal.SIGSTOP)
    try:
        assert wait_for(lambda: not ready(cluster.pods()["tokentrace-1"]), 60.0)
        other = nodes_of(cluster)["tokentrace-2"]
        refused = cluster.control.try_kubectl(
            *drain, other, "--pod-selector=statefulset.kubernetes.io/pod-name=tokentrace-2", "--timeout=8s"
        )
        assert refused.returncode != 0
        assert re.search("violate the pod's disruption budget", refused.stderr), refused.stderr
        assert ready(cluster.pods()["tokentrace-2"])
    finally:
        frozen.container.process.send_signal(signal.SIGCONT)
    cluster.uncordon()
    fleet.rolled_out()
    assert wait_for(lambda: all(map(ready, cluster.pods().values())), 120.0)
    assert fleet.recount() == {}
    assert len(cluster.pods(NAMESPACE)) == 3
