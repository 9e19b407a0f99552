"""Bad input through the real path: dead letters byte for byte, and neighbours that are counted."""

from __future__ import annotations

import copy
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from tests.oracle import recount
from tests.services.kafka import KafkaBroker
from tests.services.registry import SchemaRegistry
from tests.services.workers import WorkerProcess, span_totals, wait_for, wait_for_markers
from tests.spanfactory import SPAN_SCHEMA, datum, message, single_object_header, span

GOOD = message(span())


def variant(**types: Any) -> dict[str, Any]:
    """The span's schema with these fields of other types, or without them where the type is None."""
    schema = copy.deepcopy(SPAN_SCHEMA)
    schema["fields"] = [
        {**field, "type": types.get(field["name"], field["type"])}
        for field in schema["fields"]
        if types.get(field["name"], "") is not None
    ]
    for field in schema["fields"]:
        if field["name"] in types:
            field.pop("default", None)
    return schema


BYTES_MODEL = variant(model="bytes")
NO_MODEL = variant(model=None)
NO_COUNT = variant(prompt_tokens=["null", "long"], completion_tokens=["null", "long"])
DOUBLE_TOKENS = variant(prompt_tokens=["long", "double"])
STRING_STATUS = variant(status="string")
#: Schemas that the worker is given as files.
SCHEMAS = [BYTES_MODEL, NO_MODEL, NO_COUNT, DOUBLE_TOKENS, STRING_STATUS]


def of(schema: dict[str, Any], **fields: Any) -> bytes:
    record = {**span(), **fields}
    names = {field["name"] for field in schema["fields"]}
    return single_object_header(schema) + datum({k: v for k, v in record.items() if k in names}, schema)


INF, NAN = float("inf"), float("nan")

#: Case -> (value, reason). Each of them has to land in the dead-letter topic as it is.
REJECTED: dict[str, tuple[bytes, str]] = {
    "truncated": (GOOD[:-3], "malformed"),
    "truncated to the header": (GOOD[:10], "malformed"),
    "half a header": (GOOD[:6], "unknown_framing"),
    "trailing bytes": (GOOD + b"\0", "malformed"),
    "no framing": (b"\x05hello", "unknown_framing"),
    "unknown schema id": (b"\0" + struct.pack(">I", 4_000_000) + datum(span()), "unknown_schema_id"),
    "unknown fingerprint": (b"\xc3\x01" + b"\x11" * 8 + datum(span()), "unknown_fingerprint"),
    "empty value": (b"", "empty"),
    "empty model": (message(span(model="")), "model_missing"),
    "model missing": (of(NO_MODEL), "model_missing"),
    "no token count": (of(NO_COUNT, prompt_tokens=None, completion_tokens=None), "no_token_count"),
    "negative tokens": (message(span(prompt_tokens=-1)), "negative_tokens"),
    "negative cached tokens": (message(span(cached_prompt_tokens=-5)), "negative_tokens"),
    "NaN cost": (message(span(cost_usd=NAN)), "cost_invalid"),
    "infinite cost": (message(span(cost_usd=INF)), "cost_invalid"),
    "negative cost": (message(span(cost_usd=-0.01)), "cost_invalid"),
    "NaN latency": (message(span(latency_ms=NAN)), "latency_invalid"),
    "infinite latency": (message(span(latency_ms=-INF)), "latency_invalid"),
    "negative time to first token": (message(span(ttft_ms=-1.0)), "latency_invalid"),
    "cost beyond what the integers hold": (message(span(cost_usd=1e300)), "cost_out_of_range"),
    "tokens beyond what the integers hold": (message(span(prompt_tokens=2**63 - 1)), "tokens_out_of_range"),
    "latency beyond what the integers hold": (message(span(latency_ms=1e18)), "latency_out_of_range"),
    "invalid UTF-8": (of(BYTES_MODEL, model=b"gpt-\xff"), "invalid_utf8"),
    "a model of 1 MiB": (message(span(model="m" * (1 << 20))), "label_too_long"),
    "tokens as a double": (of(DOUBLE_TOKENS, prompt_tokens=1.5), "type_mismatch"),
    "an unheard-of status": (of(STRING_STATUS, status="maybe"), "unknown_status"),
}

#: Case -> (span, part reason): counted, without the part.
IN_PART: dict[str, tuple[dict[str, Any], str]] = {
    "eval.score above 1": (span(attributes={"eval.score": 1.5}), "eval_score_invalid"),
    "eval.score below 0": (span(attributes={"eval.score": -0.1}), "eval_score_invalid"),
    "eval.score not a number": (span(attributes={"eval.score": "good"}), "eval_score_invalid"),
    "eval.score NaN": (span(attributes={"eval.score": NAN}), "eval_score_invalid"),
    "eval.score true": (span(attributes={"eval.score": True}), "eval_score_invalid"),
    "more reasoning than completion": (span(completion_tokens=1, reasoning_tokens=2), "reasoning_tokens_invalid"),
}

#: Unusual, and counted whole.
WHOLE = {
    "more cached than prompt": span(prompt_tokens=10, cached_prompt_tokens=11),
    "a total alone": span(prompt_tokens=None, completion_tokens=None, total_tokens=70),
    "a failed call without usage": span(prompt_tokens=None, completion_tokens=None, status="error"),
    "pages alone": span(prompt_tokens=None, completion_tokens=None, usage={"page": 3.0}),
    "a name of 1 MiB": span(name="n" * (1 << 20)),
    "10 000 attributes": span(attributes={**{f"k{i}": i for i in range(10_000)}, "eval.score": 0.5}),
}


def dead_letters(kafka: KafkaBroker, topic: str) -> list[tuple[bytes | None, bytes | None, dict[str, bytes]]]:
    """(key, value, headers) of every record, by a plain consumer."""
    wait_for_markers(kafka, topic, 1)
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap, "group.id": "reader", "enable.partition.eof": True,
            "auto.offset.reset": "earliest", "enable.auto.commit": False,
        }
    )  # fmt: skip
    consumer.assign([TopicPartition(topic, 0, 0)])
    records = []
    while True:
        message_ = consumer.poll(60.0)
        assert message_ is not None, "the end of the topic is not reached"
        error = message_.error()
        if error is not None:
            assert error.code() == KafkaError._PARTITION_EOF
            break
        records.append((message_.key(), message_.value(), dict(message_.headers() or [])))
    consumer.close()
    return records


def test_every_bad_message_is_kept_with_its_reason_and_its_neighbours_are_counted(
    kafka: KafkaBroker,
    registry: SchemaRegistry,
    start_worker: Callable[..., WorkerProcess],
    tmp_path: Any,
) -> None:
    topic = kafka.create_topic("bad-input", 4, max_message_bytes="3000000")
    folder = tmp_path / "schemas"
    folder.mkdir()
    for index, schema in enumerate(SCHEMAS):
        (folder / f"{index}.avsc").write_text(json.dumps(schema))
    worker = start_worker(
        kafka={"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        schemas={"paths": [str(folder)]},
        schema_registry={"url": registry.url},
    )
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "message.max.bytes": 3_000_000})
    good = []
    for name, (value, _) in REJECTED.items():
        headers = [("traceparent", b"00-abc"), ("empty", b""), ("none", None)]
        producer.produce(topic, value=value, key=name.encode(), headers=headers, partition=0)
        neighbour = span(model="neighbour", cost_usd=0.001)
        good.append(neighbour)
        producer.produce(topic, value=message(neighbour), partition=0)
    producer.produce(topic, value=None, key=b"gone", partition=0)
    for bad_span, _ in IN_PART.values():
        producer.produce(topic, value=message(bad_span), partition=0)
        part = {name: bad_span[name] for name in bad_span if name in ("cached_prompt_tokens", "reasoning_tokens")}
        good.append({**bad_span, "attributes": {}, **dict.fromkeys(part)})
    for bad_span in WHOLE.values():
        producer.produce(topic, value=message(bad_span), partition=0)
        good.append(bad_span)
    assert producer.flush(30) == 0

    polled = 2 * len(REJECTED) + 1 + len(IN_PART) + len(WHOLE)
    partition = frozenset({("partition", "0")})
    assert wait_for(lambda: worker.samples().get(("tokentrace_worker_polled_records_total", partition)) == polled), (
        worker.messages()[-5:]
    )

    expected = {key: value for key, value in recount(good).items() if value}
    assert {key: value for key, value in span_totals([worker]).items() if value} == expected

    reasons: dict[str, int] = {"tombstone": 1}
    for reason in [reason for _, reason in REJECTED.values()] + [reason for _, reason in IN_PART.values()]:
        reasons[reason] = reasons.get(reason, 0) + 1
    samples = worker.samples()
    assert {
        dict(labels)["reason"]: value
        for (name, labels), value in samples.items()
        if name == "tokentrace_spans_rejected_total" and value
    } == reasons
    assert samples["tokentrace_worker_counted_records_total", partition] == len(good)
    assert samples["tokentrace_worker_rejected_records_total", partition] == len(REJECTED) + 1

    letters = dead_letters(kafka, f"{topic}.dead-letters")
    assert [(key, value, headers["tokentrace.reason"]) for key, value, headers in letters] == [
        (name.encode(), value, reason.encode()) for name, (value, reason) in REJECTED.items()
    ]
    for index, (_, _, headers) in enumerate(letters):
        assert headers["traceparent"] == b"00-abc"
        assert headers["empty"] == b""
        assert headers["none"] is None
        assert headers["tokentrace.topic"] == topic.encode()
        assert headers["tokentrace.partition"] == b"0"
        assert headers["tokentrace.offset"] == str(2 * index).encode()
        assert headers["tokentrace.error"].decode().endswith(".")


def test_dead_letters_are_listed_and_replayed_once_their_cause_is_fixed(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess], tmp_path: Any
) -> None:
    folder = tmp_path / "schemas"
    folder.mkdir()
    sections: dict[str, Any] = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "schemas": {"paths": [str(folder)]},
        # The same replica both times: another one would have to wait until this one's session ends.
        "worker": {"replica_id": "fixed"},
    }
    worker = start_worker(**sections)
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    schema = variant(name="bytes")
    for index in range(3):
        producer.produce(topic, value=of(schema, name=b"n"), key=b"k%d" % index, headers=[("own", b"1")])
    producer.produce(topic, value=b"junk", key=b"junk")
    producer.flush()
    assert wait_for(lambda: len(dead_letters(kafka, f"{topic}.dead-letters")) == 4)
    config = tmp_path / "worker0.yml"

    def tokentrace(*arguments: str) -> str:
        command = [sys.executable, "-m", "tokentrace", *arguments, "--config", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = tokentrace("dlq", "list", "--json").splitlines()
    assert sorted(json.loads(line)["reason"] for line in listed) == ["unknown_fingerprint"] * 3 + ["unknown_framing"]
    assert tokentrace("dlq", "list").splitlines()[-1] == "4 dead letters; 3 unknown_fingerprint; 1 unknown_framing"

    # The cause is fixed: the schema's file is there now, which a worker reads when it starts.
    assert worker.terminate() == 0
    (folder / "new.avsc").write_text(json.dumps(schema))
    worker = start_worker(**sections)
    dry = tokentrace("dlq", "replay", "--reason", "unknown_fingerprint", "--dry-run")
    assert dry == f"Would send 3 messages back to {topic}.\n"
    assert tokentrace("dlq", "replay", "--reason", "unknown_fingerprint") == f"Sent 3 messages back to {topic}.\n"
    assert wait_for(lambda: sum(span_totals([worker]).get(key, 0) for key in _spans()) == 3), worker.messages()[-5:]
    assert tokentrace("dlq", "replay").startswith("Nothing to replay.")


def _spans() -> list[Any]:
    return [("tokentrace_spans_total", frozenset({("status", "ok"), ("model", "gpt-4o"), ("provider", "openai")}))]
