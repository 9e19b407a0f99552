"""A partition's log that loses its tail: what it kept is never counted again, and what is new is counted once."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from tests.integration.test_group import counted, produce, value
from tests.integration.test_state import sections
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, wait_for
from tests.spanfactory import span

Start = Callable[..., WorkerProcess]

TOPIC = "spans"


class Log:
    """The files of the topic's only partition."""

    def __init__(self, broker: KafkaBroker) -> None:
        self._broker = broker
        self._files = broker._folder / "logs" / f"{TOPIC}-0"
        self._copy = broker._folder / "copy"

    def copy(self) -> None:
        """Copy what Kafka does not rebuild by itself."""
        self._copy.mkdir()
        for name in ("00000000000000000000.log", "leader-epoch-checkpoint", "partition.metadata"):
            shutil.copy(self._files / name, self._copy)

    def restore(self) -> None:
        """Let the broker come back with the copy, as from a disk that lost what was written since."""
        self._broker.stop()
        shutil.rmtree(self._files)
        shutil.copytree(self._copy, self._files)
        self._broker.start()


def test_a_log_that_lost_its_tail_is_counted_once_under_a_running_worker_and_at_its_start(
    own_kafka: KafkaBroker, start_worker: Start
) -> None:
    own_kafka.create_topic(TOPIC, 1)
    # The session outlives the broker's restarts.
    worker = start_worker(**sections(own_kafka, TOPIC) | {"worker": {"replica_id": "one", "session_timeout": "45s"}})
    produce(own_kafka, TOPIC, [span()] * 2000, 1)
    assert wait_for(lambda: counted(worker) == 2000)
    log = Log(own_kafka)
    log.copy()
    produce(own_kafka, TOPIC, [span()] * 1000, 1)
    assert wait_for(lambda: counted(worker) == 3000)

    log.restore()
    # Beyond what the worker has read: without the leader's epoch, its position would look like any other.
    produce(own_kafka, TOPIC, [span()] * 1500, 1)
    assert wait_for(lambda: counted(worker) >= 4500), (counted(worker), worker.log()[-2000:])
    assert counted(worker) == 4500
    assert wait_for(lambda: value(worker, "tokentrace_worker_truncated_records_total", partition="0") == 1000)
    assert any("Partition 0 has lost its tail" in line for line in worker.messages())

    worker.kill()
    worker.restart()
    produce(own_kafka, TOPIC, [span()] * 100, 1)
    assert wait_for(lambda: worker.ready() and counted(worker) == 4600), (counted(worker), worker.log()[-2000:])
    assert not any("is not consumed" in line for line in worker.messages()), "a known truncation is accepted"

    worker.kill()
    log.restore()
    produce(own_kafka, TOPIC, [span()] * 100, 1)
    worker.restart()
    assert wait_for(lambda: worker.ready() and counted(worker) >= 4700), (counted(worker), worker.log()[-2000:])
    assert counted(worker) == 4700
    assert worker.terminate() == 0
