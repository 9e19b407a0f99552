"""Check what a worker loads: nothing of the features that its configuration leaves out, and each once it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: The service of `tokentrace worker`, which counts a batch of Avro and junk, and whose live page nobody looks at.
_WORKER = """
import sys
from tests.harness import raw_batch
from tests.spanfactory import message, span
from tokentrace.config import load_config
from tokentrace.runtime.service import Service
from pathlib import Path

service = Service(load_config(Path(sys.argv[1])))
worker = service._replica.worker
count = lambda *values: worker._pipeline.count(raw_batch(values), worker._state.delta)
count(message(span()), b"no span", b"")
"""
_LOADED = """
print(*sorted(name for name in sys.modules if name.startswith("tokentrace.")))
"""
_KAFKA = "kafka: {bootstrap_servers: 'x:1', topic: spans}\n"
#: Room, or module of it -> what may be loaded of it without the feature.
FEATURES = {
    "tokentrace.alerts": (),
    "tokentrace.budgets": (),
    "tokentrace.ledger": (),
    "tokentrace.decode.otlp": ("options", "recognize", "wire"),
    "tokentrace.exposition.ui": ("document", "on_demand", "static"),
}


def features_in(folder: Path, config: str = "", more: str = "") -> set[str]:
    """Return the rooms of which a worker has loaded more than it may without them. more: what it does, too."""
    path = folder / "tokentrace.yml"
    path.write_text(config if config.startswith("kafka") else _KAFKA + config)
    done = subprocess.run(
        [sys.executable, "-c", _WORKER + more + _LOADED, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert "tokentrace.aggregate.pipeline" in loaded
    allowed = {room: {room, *(f"{room}.{name}" for name in light)} for room, light in FEATURES.items()}
    return {
        room
        for room in FEATURES
        if any(f"{name}.".startswith(f"{room}.") and name not in allowed[room] for name in loaded)
    }


def test_a_worker_with_the_default_configuration_loads_no_feature_that_it_does_not_use(tmp_path: Path) -> None:
    assert features_in(tmp_path) == set()


@pytest.mark.parametrize(
    ("config", "more", "loaded"),
    [
        ("kafka: {bootstrap_servers: 'x:1', topic: spans, framing: otlp_proto}\n", "", {"tokentrace.decode.otlp"}),
        ("", "count(b'\\x0a\\x00')\n", {"tokentrace.decode.otlp"}),
        (
            "",
            "service._replica.page.state()\n",
            {"tokentrace.exposition.ui", "tokentrace.alerts", "tokentrace.budgets"},
        ),
        (
            "alerts: [{name: a, metric: total_cost, op: gt, threshold: 1, window: 10m, delivery: {type: stdout}}]\n",
            "",
            {"tokentrace.alerts", "tokentrace.budgets"},
        ),
        (
            "budgets: [{name: a, amount: 1, delivery: {type: stdout}}]\n",
            "",
            {"tokentrace.alerts", "tokentrace.budgets"},
        ),
        ("ledger: {in_worker: true, url: 'sqlite:///a.db'}\n", "", {"tokentrace.ledger", "tokentrace.alerts"}),
    ],
    ids=["OTLP configured", "OTLP found", "page looked at", "alerts", "budgets", "ledger"],
)
def test_a_feature_is_loaded_where_it_is_configured_or_used(
    tmp_path: Path, config: str, more: str, loaded: set[str]
) -> None:
    assert features_in(tmp_path, config, more) == loaded
