"""(j) Publishing: what a span costs the application that publishes it, on a real Kafka.

A span is one `with publisher.call()` around an answer of OpenAI's, whose usage is read. All threads are those of
librdkafka and of the delivery reports too. The time is the processor's, because the broker and others share the cores.
The baseline does the least that is right by hand: fastavro, `produce` and `poll`.
"""

from __future__ import annotations

import io
import time
from typing import Any, Final

import fastavro
from confluent_kafka import Producer
from tests.services.kafka import KafkaBroker

from tokentrace.model.bundled_schemas import bundled_schema, single_object_header
from tokentrace.publisher import Publisher

from .effort import Effort
from .measure import Figure, Measure, Row

ANSWER: Final[dict[str, Any]] = {
    "model": "gpt-4o-2024-08-06",
    "service_tier": "default",
    "usage": {
        "prompt_tokens": 2006,
        "completion_tokens": 300,
        "total_tokens": 2306,
        "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    },
}


def run(effort: Effort, broker: KafkaBroker) -> Figure:
    count = effort.baseline_spans
    broker.create_topic("bench-publisher", 1)
    turns = [(*_publisher(broker, count), *_by_hand(broker, count)) for _ in range(effort.repeats)]
    thread, process, hand, hand_process = (Measure(values) for values in zip(*turns, strict=True))
    against = "fastavro by hand"
    rows = [
        Row("a span, in the application's thread", thread.text(" us"), thread.over(hand).text(), against, "< 50 us"),
        Row("a span, all threads", process.text(" us"), process.over(hand_process).text(), against),
    ]
    results = {"us_per_span": thread.median, "all_us_per_span": process.median, "vs_by_hand": thread.over(hand).median}
    return Figure("j publisher", rows, {"publisher": results})


def _publisher(broker: KafkaBroker, count: int) -> tuple[float, float]:
    """(microseconds of this thread, microseconds of the process) a span, both of processor time."""
    with Publisher(broker.bootstrap, "bench-publisher", caller="bench", flush_on_sigterm=False) as publisher:
        publisher.publish({"model": "first", "prompt_tokens": 1})
        publisher.flush(30.0)
        began, cpu = time.thread_time(), time.process_time()
        for _ in range(count):
            with publisher.call("gpt-4o", "openai") as call:
                call.first_token()
                call.usage(ANSWER)
        ended = time.thread_time()
        left = publisher.flush(60.0)
        cpu = time.process_time() - cpu
        if left or publisher.stats.lost:
            raise RuntimeError(f"Spans were lost, so the figure means nothing: {publisher.stats}.")
    return (ended - began) / count * 1e6, cpu / count * 1e6


def _by_hand(broker: KafkaBroker, count: int) -> tuple[float, float]:
    """The same for a program of its own, which reads two counts and takes the time."""
    schema = bundled_schema("span")
    parsed, header = fastavro.parse_schema(schema), single_object_header(schema)
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 50, "enable.idempotence": True})
    producer.list_topics("bench-publisher", timeout=30.0)
    began, cpu = time.thread_time(), time.process_time()
    for number in range(count):
        started = time.time()
        out = io.BytesIO()
        out.write(header)
        usage = ANSWER["usage"]
        fastavro.schemaless_writer(
            out,
            parsed,
            {
                "span_id": f"{number:016x}",
                "model": "gpt-4o",
                "provider": "openai",
                "prompt_tokens": usage["prompt_tokens"],
                "completion_tokens": usage["completion_tokens"],
                "cached_prompt_tokens": usage["prompt_tokens_details"]["cached_tokens"],
                "latency_ms": (time.time() - started) * 1000,
                "ended_at": int(time.time() * 1e6),
            },
        )
        producer.produce("bench-publisher", out.getvalue())
        producer.poll(0)
    ended = time.thread_time()
    producer.flush(60.0)
    return (ended - began) / count * 1e6, (time.process_time() - cpu) / count * 1e6
