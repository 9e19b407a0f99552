"""The durable state: restored on restart, summed over replicas that are gone, guarded against offsets set back."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import NewPartitions

from tests.integration.test_group import counted, nonzero, produce, value
from tests.oracle import cost_of, key, recount
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, span_totals, wait_for
from tests.spanfactory import random_span, span
from tokentrace.kafka.producer import partition_of

Start = Callable[..., WorkerProcess]


def tokentrace(config: Path, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "tokentrace", *arguments, "--config", str(config)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def sections(kafka: KafkaBroker, topic: str, replica: str = "one", **more: Any) -> dict[str, Any]:
    return {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"replica_id": replica, "session_timeout": "3s"},
        **more,
    }


def set_offsets(kafka: KafkaBroker, topic: str, offset: int, numbers: Sequence[int] = range(4)) -> None:
    admin = kafka.admin()
    partitions = [TopicPartition(topic, partition, offset) for partition in numbers]
    change = ConsumerGroupTopicPartitions(topic, partitions)

    def done() -> bool:
        try:
            answers = [future.result() for future in admin.alter_consumer_group_offsets([change]).values()]
        except KafkaException:
            return False
        return all(partition.error is None for answer in answers for partition in answer.topic_partitions)

    assert wait_for(done), "the group does not become empty"


def test_totals_and_creation_times_survive_restarts_and_replicas_that_are_gone_stay_in_the_ledger(
    kafka: KafkaBroker, topic: str, start_worker: Start, tmp_path: Path
) -> None:
    rng = random.Random(5)
    spans = [random_span(rng) for _ in range(900)]
    openmetrics = "application/openmetrics-text; version=1.0.0"

    def created(worker: WorkerProcess) -> list[str]:
        body = worker.get("/metrics/prometheus", Accept=openmetrics)[1].decode()
        return sorted(line for line in body.splitlines() if "_created{" in line and "reason" not in line)

    with_created = {"metrics": {"created": True}}
    worker = start_worker(**sections(kafka, topic) | with_created)
    produce(kafka, topic, spans[:300])
    assert wait_for(lambda: counted(worker) == 300)
    times = created(worker)
    worker.kill()
    produce(kafka, topic, spans[300:600])
    worker = start_worker(**sections(kafka, topic) | with_created)
    assert wait_for(lambda: counted(worker) == 600)
    assert set(times) <= set(created(worker)), "a series' creation is its first, not the process's start"
    assert nonzero(span_totals([worker])) == nonzero(recount(spans[:600]))
    assert worker.terminate() == 0
    other = start_worker(**sections(kafka, topic, "two"))
    produce(kafka, topic, spans[600:])
    assert wait_for(lambda: counted(other) == 300), other.messages()[-3:]

    shown = json.loads(tokentrace(tmp_path / "worker0.yml", "state", "show", "--by", "model", "--json"))
    assert shown["totals"]["spans"] == 900
    assert shown["totals"]["cost_nano_usd"] == sum(cost_of(span)[0] for span in spans)
    by_model = Counter(span["model"] for span in spans)
    assert {row["model"]: row["spans"] for row in shown["rows"]} == dict(by_model)
    assert sorted(shown["replicas"]) == ["one", "two"]
    assert sum(shown["counted_up_to"].values()) >= 900
    table = tokentrace(tmp_path / "worker0.yml", "state", "show", "--by", "replica")
    assert [line.split()[:2] for line in table.splitlines() if line.split()[:1] == ["all"]] == [["all", "900"]]


def test_sums_beyond_64_bits_are_counted_exactly_over_a_restart(
    kafka: KafkaBroker, topic: str, start_worker: Start, tmp_path: Path
) -> None:
    absurd = span(cost_usd=999_999.0)

    def cost(worker: WorkerProcess) -> int:
        return span_totals([worker])[key("tokentrace_cost_total", model="gpt-4o", provider="openai", caller="")]

    for run in (1, 2):
        worker = start_worker(**sections(kafka, topic))
        produce(kafka, topic, [absurd] * 20_000)
        assert wait_for(lambda: counted(worker) == 20_000 * run), worker.messages()[-3:]  # noqa: B023
        assert cost(worker) == 20_000 * run * 999_999 * 10**9
        worker.kill() if run == 1 else worker.terminate()
    shown = json.loads(tokentrace(tmp_path / "worker0.yml", "state", "show", "--json"))
    assert shown["totals"]["cost_nano_usd"] == 40_000 * 999_999 * 10**9


def test_offsets_that_were_set_back_are_refused_and_set_forward_by_state_reset(
    kafka: KafkaBroker, topic: str, start_worker: Start, tmp_path: Path
) -> None:
    config = tmp_path / "worker0.yml"
    worker = start_worker(**sections(kafka, topic))
    produce(kafka, topic, [span()] * 40)
    assert wait_for(lambda: counted(worker) == 40)
    assert worker.terminate() == 0
    set_offsets(kafka, topic, 3)

    worker = start_worker(wait=False, **sections(kafka, topic))
    worker.wait_for_log("is not consumed: the group has offset 3 for it, but spans up to offset ")
    assert wait_for(lambda: value(worker, "tokentrace_worker_refused_partitions") == 4)
    assert not worker.ready()
    produce(kafka, topic, [span()] * 4)
    assert counted(worker) == 40
    assert worker.terminate() == 0

    assert wait_for(lambda: "-> " in tokentrace_any(config, "state", "reset", "--offsets"))
    worker = start_worker(**sections(kafka, topic))
    assert wait_for(lambda: counted(worker) == 44), worker.messages()[-3:]


def tokentrace_any(config: Path, *arguments: str) -> str:
    """Output of a command that may be refused while the group is not empty yet."""
    command = [sys.executable, "-m", "tokentrace", *arguments, "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=90).stdout


def test_counting_again_can_be_accepted_and_totals_be_forgotten(
    kafka: KafkaBroker, topic: str, start_worker: Start, tmp_path: Path
) -> None:
    config = tmp_path / "worker0.yml"
    worker = start_worker(**sections(kafka, topic))
    produce(kafka, topic, [span()] * 8)
    assert wait_for(lambda: counted(worker) == 8)
    assert worker.terminate() == 0
    set_offsets(kafka, topic, 0)
    assert "continues from the group's offsets" in tokentrace(
        config, "state", "reset", "--positions", "--replica", "one", "--yes"
    )
    worker = start_worker(**sections(kafka, topic))
    assert wait_for(lambda: counted(worker) == 16)
    assert worker.terminate() == 0
    assert "Removed 2 records" in tokentrace(config, "state", "reset", "--totals", "--replica", "one", "--yes")
    worker = start_worker(**sections(kafka, topic))
    assert counted(worker) == 0
    assert "those that have: " in tokentrace(
        config, "state", "reset", "--totals", "--replica", "nobody", "--yes", code=2
    )


def test_other_buckets_are_refused_with_the_remedy(kafka: KafkaBroker, topic: str, start_worker: Start) -> None:
    worker = start_worker(**sections(kafka, topic))
    produce(kafka, topic, [span()])
    assert wait_for(lambda: counted(worker) == 1)
    assert worker.terminate() == 0
    worker = start_worker(wait=False, **sections(kafka, topic, metrics={"buckets": {"latency_ms": [1, 2, 3]}}))
    assert worker.process.wait(180.0) == 1
    line = worker.log().splitlines()[-1]
    assert "has other buckets (latency_ms)" in line
    assert "tokentrace state reset --totals --replica one" in line


def test_a_state_topic_that_is_not_compacted_is_refused(kafka: KafkaBroker, topic: str, start_worker: Start) -> None:
    kafka.create_topic(f"{topic}.state", 12, cleanup_policy="delete")
    worker = start_worker(wait=False, **sections(kafka, topic))
    assert worker.process.wait(180.0) == 1
    line = worker.log().splitlines()[-1]
    assert "cleanup.policy=delete" in line
    assert "kafka-configs.sh --alter" in line


def test_a_rollups_topic_of_several_partitions_is_refused(kafka: KafkaBroker, topic: str, start_worker: Start) -> None:
    kafka.create_topic(f"{topic}.rollups", 3, cleanup_policy="delete")
    worker = start_worker(wait=False, **sections(kafka, topic))
    assert worker.process.wait(180.0) == 1
    assert "has 3 partitions and must have 1" in worker.log().splitlines()[-1]


def test_a_state_topic_whose_partitions_were_multiplied_is_refused(
    kafka: KafkaBroker, topic: str, start_worker: Start
) -> None:
    """A replica's records are found by its name; with other partitions they would be looked for elsewhere."""
    name = next(
        candidate for candidate in map(str, range(99)) if partition_of(candidate, 12) != partition_of(candidate, 13)
    )
    worker = start_worker(**sections(kafka, topic, name))
    produce(kafka, topic, [span()])
    assert wait_for(lambda: counted(worker) == 1)
    assert worker.terminate() == 0
    admin = kafka.admin()
    admin.create_partitions([NewPartitions(f"{topic}.state", 13)])[f"{topic}.state"].result()
    worker = start_worker(wait=False, **sections(kafka, topic, name))
    assert worker.process.wait(180.0) == 1
    assert "their number was changed" in worker.log().splitlines()[-1]


def test_a_restore_waits_for_a_transaction_of_another_replica_that_is_still_open(
    kafka: KafkaBroker, topic: str, start_worker: Start
) -> None:
    """Records committed after an open transaction are unreadable until it ends, and must not be missed."""
    other = next(
        candidate for candidate in map(str, range(99)) if partition_of(candidate, 12) == partition_of("one", 12)
    )
    worker = start_worker(**sections(kafka, topic))
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap, "transactional.id": other, "transaction.timeout.ms": 120_000}
    )
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce(f"{topic}.state", key=b'["other"]', value=b"", partition=partition_of(other, 12))
    assert producer.flush(60) == 0
    produce(kafka, topic, [span()] * 5)
    assert wait_for(lambda: counted(worker) == 5)
    worker.kill()
    worker = start_worker(wait=False, **sections(kafka, topic))
    assert not wait_for(worker.ready, 3.0), "what the open transaction hides was not waited for"
    producer.abort_transaction(30.0)
    worker.wait_until_ready()
    assert counted(worker) == 5


def delete_group(kafka: KafkaBroker, topic: str) -> None:
    admin = kafka.admin()  # Has to outlive its answer.

    def done() -> bool:
        try:
            admin.delete_consumer_groups([topic])[topic].result(20.0)
        except KafkaException:
            return False
        return True

    assert wait_for(done), "the group does not become empty"


def set_forward_and_restart(config: Path, workers: list[WorkerProcess]) -> None:
    """Follow the advice of the log: set the offsets forward, which waits for an empty group, and start again."""
    assert wait_for(lambda: "-> " in tokentrace_any(config, "state", "reset", "--offsets"))
    for worker in workers:
        worker.restart()
    for worker in workers:
        worker.wait_until_ready()


def refused(workers: list[WorkerProcess]) -> int:
    return int(sum(value(worker, "tokentrace_worker_refused_partitions") for worker in workers))


@pytest.mark.parametrize(
    ("replicas", "change", "partitions"),
    [
        pytest.param(1, lambda kafka, topic: set_offsets(kafka, topic, 0), 4, id="1-replica-offsets-set-back"),
        pytest.param(2, delete_group, 4, id="2-replicas-group-deleted"),
        pytest.param(5, lambda kafka, topic: set_offsets(kafka, topic, 50, [0, 1]), 2, id="5-replicas-half-set-back"),
    ],
)
def test_offsets_behind_what_replicas_that_are_gone_have_counted_are_refused(
    kafka: KafkaBroker,
    topic: str,
    start_worker: Start,
    tmp_path: Path,
    replicas: int,
    change: Callable[[KafkaBroker, str], None],
    partitions: int,
) -> None:
    rng = random.Random(replicas)
    spans = [random_span(rng) for _ in range(1600)]
    gone = [start_worker(**sections(kafka, topic, f"gone-{number}")) for number in range(replicas)]
    produce(kafka, topic, spans[:800])
    assert wait_for(lambda: counted(*gone) == 800)
    for worker in gone:
        worker.kill()
    change(kafka, topic)
    produce(kafka, topic, spans[800:1200])

    workers = [start_worker(wait=False, **sections(kafka, topic, f"new-{number}")) for number in range(replicas)]
    for worker in workers:
        worker.wait_for_log("Serving metrics at")
    assert wait_for(lambda: refused(workers) == partitions), [worker.messages()[-3:] for worker in workers]
    assert wait_for(lambda: counted(*workers) == (4 - partitions) * 100)
    assert any("is not consumed: the group has " in line for worker in workers for line in worker.messages())
    assert [worker.terminate() for worker in workers] == [0] * replicas

    config = tmp_path / "worker0.yml"
    set_forward_and_restart(config, workers)
    produce(kafka, topic, spans[1200:])
    assert wait_for(lambda: counted(*workers) == 800), [worker.messages()[-3:] for worker in workers]
    shown = json.loads(tokentrace(config, "state", "show", "--by", "model", "--json"))
    assert {row["model"]: row["spans"] for row in shown["rows"]} == dict(Counter(span["model"] for span in spans))
    assert shown["totals"]["cost_nano_usd"] == sum(cost_of(span)[0] for span in spans)
    assert refused(workers) == 0


def test_offsets_set_back_under_a_running_worker_are_refused_for_what_another_has_counted(
    kafka: KafkaBroker, topic: str, start_worker: Start, tmp_path: Path
) -> None:
    names = ["one", "two"]
    assert len({partition_of(name, 12) for name in names}) == 2, "the replicas share a partition of the state"
    rng = random.Random(7)
    spans = [random_span(rng) for _ in range(1200)]
    stays, goes = workers = [start_worker(**sections(kafka, topic, name)) for name in names]
    assert wait_for(lambda: all(value(worker, "tokentrace_worker_assigned_partitions") for worker in workers))
    produce(kafka, topic, spans[:800])
    assert wait_for(lambda: counted(*workers) == 800)
    counted_by_goes = counted(goes)
    assert 0 < counted_by_goes < 800
    os.kill(stays.process.pid, signal.SIGSTOP)
    goes.kill()
    set_offsets(kafka, topic, 0)
    os.kill(stays.process.pid, signal.SIGCONT)
    assert wait_for(lambda: refused([stays]) == 4), stays.messages()[-3:]
    produce(kafka, topic, spans[800:])
    assert counted(stays) == 800 - counted_by_goes
    assert stays.terminate() == 0

    set_forward_and_restart(tmp_path / "worker0.yml", workers)
    assert wait_for(lambda: counted(*workers) == 1200), [worker.messages()[-3:] for worker in workers]
    assert nonzero(span_totals(workers)) == nonzero(recount(spans))


def advised(worker: WorkerProcess) -> list[str]:
    """Return the commands that the log advises, in their order."""
    [line] = {re.sub(r"offset \d+|Partition \d+", "", line) for line in worker.messages() if "is not consumed" in line}
    return re.findall(r"`tokentrace ([^`]+)`", line)


@pytest.mark.parametrize("new", [pytest.param(52, id="shorter"), pytest.param(160, id="longer")])
def test_a_recreated_topic_is_counted_whole_and_once_by_the_commands_that_the_log_and_the_command_advise(
    kafka: KafkaBroker, topic: str, start_worker: Start, tmp_path: Path, new: int
) -> None:
    rng = random.Random(9)
    spans = [random_span(rng) for _ in range(100 + new + 20)]
    config = tmp_path / "worker0.yml"
    worker = start_worker(**sections(kafka, topic))
    produce(kafka, topic, spans[:100])
    assert wait_for(lambda: counted(worker) == 100)
    assert worker.terminate() == 0
    recreate(kafka, topic)
    produce(kafka, topic, spans[100 : 100 + new])

    worker.restart()
    worker.wait_for_log("is not consumed")
    assert wait_for(lambda: refused([worker]) == 4), worker.messages()[-3:]
    assert counted(worker) == 100
    assert worker.terminate() == 0
    commands = [command for command in advised(worker) if command.startswith("state reset")]
    if new > 100:
        # The log is as long as if the offsets alone were lost. The command finds out, and changes nothing.
        assert commands[0] == "state reset --offsets"
        answer = tokentrace(config, *commands.pop(0).split(), code=130)
        assert "has no record from before the last commit" in answer
        commands = re.findall(r"`tokentrace ([^`]+)`", answer)
    assert commands[0] == "state reset --positions"
    assert wait_for(lambda: "continues" in tokentrace_any(config, *commands[0].split(), "--yes"))

    worker.restart()
    assert wait_for(lambda: worker.ready() and counted(worker) >= 100 + new), worker.messages()[-3:]
    produce(kafka, topic, spans[100 + new :])
    assert wait_for(lambda: counted(worker) >= len(spans)), worker.messages()[-3:]
    assert nonzero(span_totals([worker])) == nonzero(recount(spans))
    assert refused([worker]) == 0


def recreate(kafka: KafkaBroker, topic: str) -> None:
    """Delete a topic and create it again. Kafka deletes the group's offsets for it, sooner or later."""
    admin = kafka.admin()
    admin.delete_topics([topic])[topic].result(20.0)
    request = ConsumerGroupTopicPartitions(topic)

    def forgotten() -> bool:
        answer = admin.list_consumer_group_offsets([request])[topic].result(20.0)
        return all(found.offset < 0 or found.topic != topic for found in answer.topic_partitions)

    def created() -> bool:
        try:
            kafka.create_topic(topic, 4)
        except KafkaException:
            return False
        return True

    assert wait_for(forgotten)
    assert wait_for(created)
