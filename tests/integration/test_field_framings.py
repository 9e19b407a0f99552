"""Framings as they are found in the field, on a real Kafka with a real Apicurio, beside an independent recount."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import urllib.request
import uuid
import zlib
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import Producer

from tests.decode.schemas.helpers import stand_in
from tests.integration.test_bad_input import variant
from tests.oracle import recount
from tests.services.kafka import KafkaBroker
from tests.services.registry import SchemaRegistry
from tests.services.workers import WorkerProcess, span_totals, wait_for
from tests.spanfactory import SPAN_SCHEMA, datum, span

GUID = uuid.UUID("6f9619ff-8b86-d011-b42d-00c04fc964ff")
VERSION = uuid.UUID("b7b4a7f0-9c96-4e4a-a687-fb5de9ef0c63")
MONEY = {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 9}
LOGIN = {"type": "record", "name": "Login", "fields": [{"name": "user", "type": "string"}]}
#: Events of two types, the cost of which is a decimal.
EVENTS = ["null", LOGIN, variant(cost_usd=["null", MONEY])]
COUNT = 300


def test_messages_with_apicurios_ids_glue_and_unions_are_counted_exactly(
    kafka: KafkaBroker, registry: SchemaRegistry, topic: str, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    api = registry.url.replace("/apis/ccompat/v7", "/apis/registry/v2")
    content, glob = _ids(registry, api, f"{topic}-spans", SPAN_SCHEMA)
    events, _ = _ids(registry, api, f"{topic}-events", EVENTS)
    (tmp_path / "span.avsc").write_text(json.dumps(SPAN_SCHEMA))
    sections: dict[str, Any] = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "schema_registry": {"url": api},
        "schemas": {"glue": {str(VERSION): str(tmp_path / "span.avsc")}},
    }
    worker = start_worker(**sections)
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    spans = []
    for row in range(COUNT):
        nano = 10**9 * row + 7 * row + 1
        spans.append(span(model=f"m-{row % 5}", trace_id="", span_id=str(row), cost_usd=None))
        data = datum(spans[-1])
        value, headers = [
            (b"\0" + content.to_bytes(8, "big") + data, []),
            (data, [("apicurio.value.globalId", glob.to_bytes(8, "big"))]),
            (data, [("apicurio.value.contentId", content.to_bytes(8, "big")), ("traceparent", b"00-x")]),
            (b"\3\5" + VERSION.bytes + zlib.compress(data), []),
            (b"\3\0" + VERSION.bytes + data, None),
            (b"\0" + events.to_bytes(8, "big") + _event(spans[-1], nano), []),
        ][row % 6]
        if row % 6 == 5:
            # The recount takes what a double has; the decimals are of whole nano-dollars.
            spans[-1]["cost_usd"] = nano / 10**9
        producer.produce(topic, value=value, headers=headers)
    for value in (b"\0", b"\2\6ann"):
        producer.produce(topic, value=b"\0" + events.to_bytes(8, "big") + value)
    assert producer.flush(30) == 0

    expected = {key: value for key, value in recount(spans).items() if value}
    assert wait_for(lambda: _total(worker, "tokentrace_worker_polled_records_total") == COUNT + 2)
    assert {key: value for key, value in span_totals([worker]).items() if value} == expected
    rejected = {
        dict(labels)["reason"]: value
        for (name, labels), value in worker.samples().items()
        if name == "tokentrace_spans_rejected_total" and value
    }
    assert rejected == {"other_event": 2}
    paths = [dict(labels)["path"] for name, labels in worker.samples() if name == "tokentrace_worker_schema_decoder"]
    assert paths == ["columnar"] * 5


def test_guids_in_headers_are_counted_and_what_is_wrong_is_said_to_the_publisher(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    """The registry is a stand-in, because Apicurio does not know GUIDs."""
    with stand_in() as server:
        body = {"schema": json.dumps(SPAN_SCHEMA), "guid": str(GUID), "id": 3, "subject": "s", "version": 1}
        server.answers[f"/schemas/guids/{GUID}"] = (200, json.dumps(body).encode())
        sections = {
            "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
            "schema_registry": {"url": server.url},
        }
        worker = start_worker(**sections)
        producer = Producer({"bootstrap.servers": kafka.bootstrap})
        header = [("__value_schema_id", b"\1" + GUID.bytes)]
        spans = [span(trace_id="", span_id=str(row), caller="search") for row in range(COUNT)]
        for record in spans:
            producer.produce(topic, value=datum(record), headers=header, partition=0)
        bad = datum(span(model="gpt-4o", caller="search", prompt_tokens=-1))
        producer.produce(topic, value=bad, headers=header, partition=0)
        assert producer.flush(30) == 0
        assert wait_for(lambda: _total(worker, "tokentrace_worker_polled_records_total") == COUNT + 1)
        expected = {key: value for key, value in recount(spans).items() if value}
        assert {key: value for key, value in span_totals([worker]).items() if value} == expected

        labels = "model 'gpt-4o', provider 'openai', caller 'search'"
        line_of_log = f"Rejected 1 message (negative_tokens), such as {topic}/0@{COUNT} of {labels}"
        assert wait_for(lambda: any(line_of_log in line for line in worker.messages())), worker.messages()

        (tmp_path / "tokentrace.yml").write_text(json.dumps(sections))
        for command in (["check-span", "--topic"], ["check-span", "--at", f"0:{COUNT}"], ["dlq", "show"]):
            done = subprocess.run(
                [sys.executable, "-m", "tokentrace", *command, "--json"],
                capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
            )  # fmt: skip
            found = json.loads(done.stdout)
            found = found.get("now", found)
            assert found["reason"] == "negative_tokens"
            assert [field["name"] for field in found["fields"] if field["wrong"]] == ["prompt_tokens"]


def _total(worker: WorkerProcess, name: str) -> float:
    return sum(value for (found, _), value in worker.samples().items() if found == name)


def _ids(registry: SchemaRegistry, api: str, artifact: str, schema: Any) -> tuple[int, int]:
    """Register a schema. Returns Apicurio's (content id, global id)."""
    registry.register(artifact, schema)
    with urllib.request.urlopen(f"{api}/groups/default/artifacts/{artifact}/meta", timeout=60) as answer:
        meta = json.load(answer)
    return int(meta["contentId"]), int(meta["globalId"])


def _event(record: dict[str, Any], nano: int) -> bytes:
    out = io.BytesIO()
    money = {**record, "cost_usd": Decimal(nano).scaleb(-9)}
    out.write(b"\4")
    fastavro.schemaless_writer(out, fastavro.parse_schema(EVENTS[2]), money)
    return out.getvalue()
