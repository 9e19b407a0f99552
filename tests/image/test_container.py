"""The image as a container on a real Kafka: it counts exactly, is scraped, killed, stopped, and starts again."""

from __future__ import annotations

import re
import ssl
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from confluent_kafka import Producer
from release.build import Source

from tests.exposition.conftest import make_certificate
from tests.image.engine import TAG, Engine
from tests.services import ROOT, free_port
from tests.services.kafka import KafkaBroker
from tests.services.workers import wait_for
from tests.spanfactory import message, span

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200)]

#: Decimal, as engines show it.
MB = 1_000_000


def test_image_is_small_and_says_what_it_is(engine: Engine, base: str) -> None:
    more = engine.size(TAG) - engine.size(base)
    print(f"{more / MB:.0f} MB over its base")
    assert more < 120 * MB
    config = engine.inspect(TAG)["Config"]
    source = Source.of(ROOT)
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.revision"] == source.commit
    assert config["Labels"]["org.opencontainers.image.version"] == source.version
    assert config["Labels"]["org.opencontainers.image.base.name"] == base
    with engine.container("tokentrace-version", [], ["version"]) as name:
        assert engine.run("wait", name).stdout.strip() == "0"
        assert engine.run("logs", name).stdout == f"tokentrace {source.version} (commit {source.commit[:12]})\n"


def test_container_counts_is_scraped_killed_stopped_and_started_again(
    engine: Engine, base: str, kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    """With HTTPS on a port and a path of its own, which the health check has to follow."""
    port = free_port()
    certificate, key = make_certificate(tmp_path)
    config = tmp_path / "tokentrace.yml"
    config.write_text(
        yaml.safe_dump(
            {
                "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
                "worker": {"replica_id": "container", "drain_timeout": "0s", "session_timeout": "6s"},
                "http_server": {
                    "addr": f"127.0.0.1:{port}",
                    "health_path": "/state",
                    "tls": {"certificate": f"/run/secrets/{certificate.name}", "key": f"/run/secrets/{key.name}"},
                },
            }
        )
    )
    for path in (tmp_path, config, certificate, key):
        path.chmod(0o755 if path.is_dir() else 0o644)
    mounts = [
        "--volume", f"{config}:/etc/tokentrace/tokentrace.yml:ro", "--volume", f"{tmp_path}:/run/secrets:ro",
    ]  # fmt: skip
    context = ssl.create_default_context(cafile=str(certificate))

    def counted() -> int:
        try:
            address = f"https://127.0.0.1:{port}/metrics/prometheus"
            with urllib.request.urlopen(address, timeout=5, context=context) as response:
                text = response.read().decode()
        except OSError:
            return -1
        return sum(int(value) for value in re.findall(r"^tokentrace_spans_total\{.*\} (\d+)$", text, re.MULTILINE))

    def publish(count: int) -> None:
        producer = Producer({"bootstrap.servers": kafka.bootstrap})
        for _ in range(count):
            producer.produce(topic, message(span()))
        assert producer.flush(10) == 0

    publish(300)
    with engine.container(f"tokentrace-{topic}"[:60], mounts) as name:
        assert wait_for(lambda: counted() == 300, 90.0), engine.run("logs", name).stdout[-3000:]
        assert engine.healthy(name)
        for text in ("> /etc/x", "> /opt/tokentrace/x"):
            assert engine.run("exec", name, "sh", "-c", f"echo {text}", check=False).returncode != 0, "read-only"
        status = engine.run("exec", name, "cat", "/proc/1/status").stdout
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
        assert re.search(r"^Uid:\s+10001\s", status, re.MULTILINE)
        engine.run("kill", name)
        assert wait_for(lambda: counted() == -1)
        publish(200)
        engine.run("start", name)
        assert wait_for(lambda: counted() == 500, 90.0), engine.run("logs", name).stdout[-3000:]
        assert engine.healthy(name)
        began = time.monotonic()
        engine.run("stop", "--time", "30", name)
        print(f"stopped within {time.monotonic() - began:.1f} s")
        state = engine.inspect(name)["State"]
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
        publish(100)
        engine.run("start", name)
        assert wait_for(lambda: counted() == 600, 90.0), engine.run("logs", name).stdout[-3000:]
        engine.run("stop", "--time", "30", name)
        assert engine.inspect(name)["State"]["ExitCode"] == 0
