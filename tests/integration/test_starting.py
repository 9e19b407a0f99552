"""Starting: what ends a Kafka client while a worker starts does not end the worker."""

from __future__ import annotations

from pathlib import Path

from confluent_kafka import Producer

from tests.chaos.fleet import Replica, settle
from tests.chaos.load import Load
from tests.integration.test_recovery import PARTITIONS
from tests.services.kafka import KafkaBroker
from tokentrace.commit.exactly_once import ExactlyOnceSettings


def transactional_id(topic: str) -> str:
    """Return that of the worker whose group and replica id are the topic's name."""
    settings = ExactlyOnceSettings(
        group_id=topic, replica=topic, source_topic=topic, dead_letter_topic="", state_topic="", rollups_topic=""
    )
    return settings.identity().transactional_id


def test_worker_that_is_fenced_while_it_starts_starts_again_without_a_rival(
    kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    """An open transaction holds up its restore meanwhile."""
    client = {"bootstrap.servers": kafka.bootstrap, "log_level": 0}
    kafka.create_topic(f"{topic}.state", 1, cleanup_policy="compact")
    holder = Producer({**client, "transactional.id": f"{topic}-holder", "transaction.timeout.ms": 600_000})
    holder.init_transactions(30.0)
    holder.begin_transaction()
    holder.produce(f"{topic}.state", key=b"held", value=b"")
    holder.flush(30.0)
    worker = Replica(
        tmp_path, topic, {"kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic}}
    )
    load = Load(kafka.bootstrap, topic, PARTITIONS, seed=3)
    try:
        load.publish(100)
        worker.wait_for_log("A transaction on topic .* has not ended yet")
        Producer({**client, "transactional.id": transactional_id(topic)}).init_transactions(30.0)
        holder.abort_transaction(30.0)
        worker.wait_until_ready()
        assert settle([worker], load) == {}
        assert "looking for a process with its replica id" in worker.log()
    finally:
        load.stop()
        worker.end()
