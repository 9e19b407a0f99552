"""The usual worker: client library counters in memory, offsets auto-committed; the storm must see it miscount.

python -m tests.chaos.plain_worker CONFIG: consumes the configured topic with one span counter and one cost counter.
"""

from __future__ import annotations

import io
import json
import sys
import threading
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import fastavro
import yaml
from confluent_kafka import Consumer
from prometheus_client import CollectorRegistry, Counter, make_wsgi_app

from tests.services import ROOT


def main(config: dict[str, Any]) -> None:
    """Count until killed."""

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    registry = CollectorRegistry()
    spans = Counter("tokentrace_spans", "Spans.", ["status", "model", "provider"], registry=registry)
    host, port = config["http_server"]["addr"].rsplit(":", 1)
    server = make_server(host, int(port), make_wsgi_app(registry), handler_class=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    schema = fastavro.parse_schema(json.loads((ROOT / "schemas" / "span.avsc").read_text()))
    consumer = Consumer(
        {
            "bootstrap.servers": config["kafka"]["bootstrap_servers"], "group.id": config["kafka"]["group_id"],
            "auto.offset.reset": "earliest", "session.timeout.ms": 3000, "heartbeat.interval.ms": 700,
            "auto.commit.interval.ms": 1000, "log_level": 0,
        }
    )  # fmt: skip
    consumer.subscribe([config["kafka"]["topic"]])
    while True:
        for message in consumer.consume(1000, 0.1):
            if message.error() is None:
                span: Any = fastavro.schemaless_reader(io.BytesIO(message.value()[10:]), schema, None)
                spans.labels(span["status"], span["model"], span["provider"]).inc()


if __name__ == "__main__":
    main(yaml.safe_load(Path(sys.argv[1]).read_text()))
