"""The jobs of prometheus.yml at work: with the token, and on pods of an API server, by the name that each must have."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import unavailable
from tests.services import ROOT, Unavailable, free_port
from tests.services.kafka import KafkaBroker
from tests.services.prometheus import Prometheus, Prometheus3
from tests.services.workers import WorkerProcess, wait_for

pytestmark = pytest.mark.usefixtures("real_service")


def pod(name: str, port: int, address: str = "127.0.0.1", app: str = "tokentrace", phase: str = "Running") -> Any:
    ports = [{"name": "metrics", "containerPort": port}, {"name": "other", "containerPort": port}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "llm",
            "uid": name,
            "resourceVersion": "1",
            "labels": {"app.kubernetes.io/name": app},
        },
        "spec": {"nodeName": "node", "containers": [{"name": "worker", "image": "tokentrace", "ports": ports}]},
        "status": {"phase": phase, "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
    }


class Cluster:
    """As much of an API server as the discovery of pods asks for, and pods that count their scrapes."""

    def __init__(self) -> None:
        self.pods: dict[str, Any] = {}
        self.scrapes = 0
        self._changes: list[bytes] = []
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics/prometheus":
                    cluster.scrapes += 1
                    self._answer("text/plain; version=0.0.4", f"tokentrace_spans_total {cluster.scrapes}\n".encode())
                elif "sendInitialEvents=true" in self.path:
                    # Newer clients ask for the list as a watch first; told no, they list and then watch.
                    self.send_error(400)
                elif "watch=" in self.path:
                    self._watch()
                elif self.path.startswith("/api/v1/pods"):
                    listed = {"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "1"}}
                    body = json.dumps({**listed, "items": list(cluster.pods.values())})
                    self._answer("application/json", body.encode())
                else:
                    self.send_error(404)

            def _answer(self, kind: str, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _watch(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                seen = 0
                while not cluster.closed.wait(0.05):
                    for change in cluster._changes[seen:]:
                        self.wfile.write(change)
                        self.wfile.flush()
                    seen = len(cluster._changes)

            def log_message(self, *_: object) -> None:
                pass

        self.closed = threading.Event()
        self.server = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def change(self, changed: Any) -> None:
        changed["metadata"]["resourceVersion"] = str(len(self._changes) + 2)
        self.pods[changed["metadata"]["name"]] = changed
        self._changes.append(json.dumps({"type": "MODIFIED", "object": changed}).encode() + b"\n")

    def close(self) -> None:
        self.closed.set()
        self.server.shutdown()


def test_the_authenticated_job_sends_the_token_and_the_other_one_is_turned_away(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    worker = start_worker(
        wait=False,
        kafka={"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        http_server={"addr": f"127.0.0.1:{free_port()}", "auth_token": "a secret"},
    )
    worker.wait_until_ready()  # the health path asks for no token
    folder = tmp_path / "prometheus"
    try:
        prometheus = Prometheus(folder, [])
    except Unavailable as error:
        unavailable(str(error))
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"] if "kubernetes_sd_configs" not in job}
    jobs["tokentrace"]["static_configs"][0]["targets"] = [worker.target]
    (folder / "targets").mkdir()
    (folder / "targets" / "mine.yml").write_text(yaml.safe_dump([{"targets": [worker.target]}]))
    (folder / "tokentrace.token").write_text("a secret\n")
    settings = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    (folder / "prometheus.yml").write_text(yaml.safe_dump({"global": settings, "scrape_configs": [*jobs.values()]}))
    prometheus.start()
    try:
        assert wait_for(lambda: len(prometheus.query("up")) == 2)
        assert wait_for(lambda: bool(prometheus.query("tokentrace_worker_build_info")))
        expected = {"tokentrace": 0, "tokentrace-authenticated": 1}
        # A scrape that takes a busy machine longer than a second is down for that second.
        up = lambda: {labels["job"]: value for labels, value in prometheus.query("up")}  # noqa: E731
        assert wait_for(lambda: up() == expected), up()
    finally:
        prometheus.stop()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.mark.parametrize("kind", [Prometheus, Prometheus3], ids=["Prometheus", "Prometheus 3"])
def test_a_pod_that_comes_back_with_another_address_goes_on_with_its_series(
    cluster: Cluster, tmp_path: Path, kind: type[Prometheus]
) -> None:
    cluster.pods = {
        document["metadata"]["name"]: document
        for document in (
            pod("tokentrace-0", cluster.port),
            pod("tokentrace-1", cluster.port, "127.0.0.3"),
            pod("tokentrace-2", cluster.port, "127.0.0.4", phase="Succeeded"),
            pod("another", cluster.port, "127.0.0.5", app="another"),
        )
    }
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    (job,) = (scrape_config for scrape_config in config["scrape_configs"] if "kubernetes_sd_configs" in scrape_config)
    job["kubernetes_sd_configs"][0]["api_server"] = f"http://127.0.0.1:{cluster.port}"
    try:
        prometheus = kind(tmp_path / "prometheus", [])
    except Unavailable as error:
        if kind is Prometheus3:
            pytest.skip(str(error))
        unavailable(str(error))
    (tmp_path / "prometheus" / "prometheus.yml").write_text(
        yaml.safe_dump({"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [job]})
    )
    try:
        prometheus.start()
    except RuntimeError as error:
        if "kubernetes_sd_configs not found" in str(error):
            pytest.skip("this Prometheus was built without Kubernetes, as Debian's is")
        raise
    try:
        assert wait_for(lambda: len(prometheus.query("tokentrace_spans_total")) == 2), prometheus.query("up")
        before = {labels["instance"]: labels for labels, _ in prometheus.query("tokentrace_spans_total")}
        assert before.keys() == {"tokentrace-0", "tokentrace-1"}
        assert before["tokentrace-0"]["namespace"] == "llm"
        scraped_s = time.time()
        cluster.change(pod("tokentrace-0", cluster.port, "127.0.0.2"))
        samples = 'count_over_time(tokentrace_spans_total{instance="tokentrace-0"}[10m])'
        ((_, first),) = prometheus.query(samples)
        assert wait_for(lambda: time.time() > scraped_s + 12 and prometheus.query(samples)[0][1] > first + 3)
        targets = prometheus.targets()
        assert sorted(targets) == [f"127.0.0.2:{cluster.port}", f"127.0.0.3:{cluster.port}"]
        # One series, though the address is another; its counter was never reset.
        assert len(prometheus.query(samples)) == 1
        assert prometheus.query('resets(tokentrace_spans_total{instance="tokentrace-0"}[10m])')[0][1] == 0
    finally:
        prometheus.stop()
