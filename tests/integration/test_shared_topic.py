"""Two consumer groups on one topic, with one dead-letter topic: each counts what it has to, once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from tests.integration.test_bad_input import of, variant
from tests.integration.test_dead_letters import total
from tests.integration.test_state import tokentrace
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, wait_for

REJECTED = "tokentrace_spans_rejected_total"
SPANS = "tokentrace_spans_total"


def test_a_replay_is_counted_by_its_own_group_alone(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    folder = tmp_path / "schemas"
    folder.mkdir()

    def start(group: str) -> WorkerProcess:
        sections: dict[str, Any] = {
            "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": f"{topic}-{group}"},
            "schemas": {"paths": [str(folder)]},
            "worker": {"replica_id": f"{topic}-{group}"},
        }
        return start_worker(**sections)

    # Both have no schema for these spans, so both write dead letters.
    schema = variant(name="bytes")
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for number in range(3):
        producer.produce(topic, of(schema, name=b"n"), key=b"k%d" % number, headers=[("trace", b"1")])
    assert producer.flush(30) == 0
    workers = [start("production"), start("staging")]
    for worker in workers:
        assert wait_for(lambda worker=worker: total(worker, REJECTED) == 3)  # type: ignore[misc]
        assert worker.terminate() == 0
    (folder / "new.avsc").write_text(json.dumps(schema))
    production, staging = start("production"), start("staging")

    configs = [tmp_path / "worker2.yml", tmp_path / "worker3.yml"]
    for sent, config in enumerate(configs):
        assert f"Sent 3 messages back to {topic}." in tokentrace(config, "dlq", "replay")
        expected = [(3, 3), (0, 6)] if not sent else [(3, 6), (3, 6)]
        assert wait_for(
            lambda expected=expected: [(total(w, SPANS), total(w, REJECTED)) for w in (production, staging)] == expected  # type: ignore[misc]
        ), [worker.messages()[-5:] for worker in (production, staging)]
    other = frozenset({("reason", "other_group")})
    assert [worker.samples()[REJECTED, other] for worker in (production, staging)] == [3, 3]
    for config in configs:
        assert tokentrace(config, "dlq", "replay").startswith("Nothing to replay.")
