"""The chart, installed, upgraded and rolled back by Helm under traffic."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.deploy.test_helm import CHART, program
from tests.kubernetes.cluster import NAMESPACE, Cluster
from tests.kubernetes.fleet import Fleet

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200)]


class Release(Fleet):
    """Workers of the chart."""

    def install(self) -> None:
        self.helm("install", str(CHART), values=self.values())

    def values(self, **config: Any) -> dict[str, Any]:
        """The values of three replicas with passwords and no TLS; config: more of tokentrace.yml."""
        kafka = {
            "bootstrapServers": self.kafka.sasl_bootstrap,
            "topic": self.topic,
            "groupId": self.topic,
            "mechanism": "PLAIN",
            "tls": False,
        }
        return {"replicas": 3, "kafka": kafka, "config": config}

    def helm(self, verb: str, *words: str, values: dict[str, Any] | None = None) -> None:
        """Run Helm on the release, and wait until it is rolled out."""
        config = str(self.cluster.control.kubeconfig("admin"))
        options = (f"--kubeconfig={config}", f"--namespace={NAMESPACE}", "--wait", "--timeout=240s")
        given = () if values is None else ("--values=-",)
        done = subprocess.run(
            [program(), verb, "tokentrace", *words, *options, *given],
            input=json.dumps(values), capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()


def test_release_is_upgraded_and_rolled_back_under_traffic(cluster: Cluster, start_fleet: Callable[..., Fleet]) -> None:
    program()  # skips where there is none
    fleet = start_fleet(Release)
    assert isinstance(fleet, Release)
    changed = fleet.values(metrics={"max_groups": 5000})
    for step, words, values in (("upgrade", ("upgrade", str(CHART)), changed), ("roll-back", ("rollback", "1"), None)):
        fleet.begin()
        began_s = time.monotonic()
        fleet.helm(*words, values=values)
        fleet.rolled_out()
        fleet.report(f"helm {step}", began_s)
        assert fleet.watch.least_ready == 2, "one by one"
        assert fleet.recount() == {}
    assert [served.lives for served in fleet.served] == [3, 3, 3], "a changed configuration starts every pod again"
