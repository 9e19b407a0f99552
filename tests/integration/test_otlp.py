"""Spans of OpenTelemetry on a real Kafka: exact over kills, and each rejected span replayed as it alone."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from tests.integration.test_bad_input import dead_letters
from tests.integration.test_group import counted, nonzero, value
from tests.integration.test_state import tokentrace
from tests.oracle import recount
from tests.otlpfactory import OtherSpan, random_traces, to_json, traces
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, span_totals, wait_for
from tests.spanfactory import message, random_span, span

Start = Callable[..., WorkerProcess]
PARTITIONS = 4
AUDIT = ("spans", "counted_records", "rejected_records", "ignored_spans", "duplicate_records", "polled_records")


def sections(kafka: KafkaBroker, topic: str, replica: str, **more: Any) -> dict[str, Any]:
    return {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"replica_id": replica, "session_timeout": "3s", "commit_interval": "100ms"},
        **more,
    }


def record_of(sent: OtherSpan) -> dict[str, Any]:
    """The call as a span of tokentrace, for the recount."""
    assert sent.call is not None
    found = {
        name.removesuffix("_us"): item.decode() if isinstance(item, bytes) else item
        for name, item in sent.call.items()
        if name not in ("eval_score", "trace_id", "span_id")
    }
    score = sent.call.get("eval_score")
    return span(**{"provider": "", **found, "attributes": {} if score is None else {"eval.score": score}})


def audit(workers: list[WorkerProcess]) -> dict[str, int]:
    found = dict.fromkeys(AUDIT, 0)
    for worker in workers:
        for (name, _), number in worker.samples().items():
            short = name.removeprefix("tokentrace_worker_").removesuffix("_total")
            if short in found:
                found[short] += int(number)
    return found


def test_workers_that_are_killed_count_every_call_of_opentelemetry_once(
    kafka: KafkaBroker, topic: str, start_worker: Start
) -> None:
    rng = random.Random(19)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5})
    expected: list[dict[str, Any]] = []
    sums = dict.fromkeys(AUDIT, 0)

    def publish(messages: int) -> None:
        for _ in range(messages):
            data, sent = random_traces(rng)
            calls = [record_of(one) for one in sent if one.call is not None]
            kind = rng.random()
            if kind < 0.1:
                record = random_span(rng)
                payload, calls, sent = message(record), [record], [OtherSpan({}, {})]
            else:
                payload = to_json(data) if kind < 0.3 else data.SerializeToString()
            expected.extend(calls)
            sums["polled_records"] += 1
            sums["spans"] += len(sent)
            sums["counted_records"] += len(calls)
            sums["ignored_spans"] += len(sent) - len(calls)
            producer.produce(topic, payload, partition=rng.randrange(PARTITIONS))
            producer.poll(0)
        assert producer.flush(30) == 0

    workers = [start_worker(**sections(kafka, topic, name)) for name in ("one", "two")]
    for turn in range(4):
        publish(300)
        time.sleep(0.2)
        workers[turn % 2].kill()
        workers[turn % 2].restart()
        workers[turn % 2].wait_until_ready()
    assert wait_for(lambda: audit(workers)["polled_records"] == 1200), audit(workers)
    assert audit(workers) == sums
    assert counted(*workers) == len(expected)
    assert nonzero(span_totals(workers)) == nonzero(recount(expected))
    for worker in workers:
        for partition in map(str, range(PARTITIONS)):
            spans, *parts, _ = (value(worker, f"tokentrace_worker_{name}_total", partition=partition) for name in AUDIT)
            assert spans == sum(parts)


def test_a_rejected_span_is_replayed_without_the_others_of_its_message(
    kafka: KafkaBroker, start_worker: Start, tmp_path: Path
) -> None:
    topic = kafka.create_topic(f"spans-{uuid.uuid4().hex[:8]}", 1)
    call = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o", "gen_ai.system": "openai"}
    sent = [OtherSpan({**call, "gen_ai.usage.input_tokens": tokens}) for tokens in (10, 5000, 20)]
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(topic, traces([("shop", [*sent, OtherSpan({"a": 1})])]).SerializeToString(), partition=0)
    assert producer.flush(30) == 0
    worker = start_worker(**sections(kafka, topic, "one", limits={"max_tokens": 1000}))
    assert wait_for(lambda: audit([worker])["polled_records"] == 1)
    assert [audit([worker])[name] for name in AUDIT] == [4, 2, 1, 1, 0, 1]
    ((_, _, headers),) = dead_letters(kafka, f"{topic}.dead-letters")
    assert (headers["tokentrace.reason"], headers["tokentrace.span"]) == (b"tokens_out_of_range", b"1")
    assert worker.terminate() == 0
    # The same replica, with a limit that the span is within.
    again = start_worker(**sections(kafka, topic, "one"))
    assert f"Sent 1 messages back to {topic}." in tokentrace(tmp_path / "worker1.yml", "dlq", "replay")
    assert wait_for(lambda: audit([again])["polled_records"] == 2)
    assert [audit([again])[name] for name in AUDIT] == [5, 3, 1, 1, 0, 2]
    tokens = value(
        again, "tokentrace_tokens_total", model="gpt-4o", provider="openai", caller="shop", token_type="prompt"
    )
    assert tokens == 5030
