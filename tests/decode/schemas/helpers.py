"""A stand-in for a Schema Registry: canned answers over real HTTP, and what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class StandIn:
    """answers: path -> (status, body); other paths get `otherwise`. asked: paths in order. hang: answer nothing."""

    url: str = ""
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    otherwise: tuple[int, bytes] = (404, b'{"error_code": 40403, "message": "Schema not found"}')
    asked: list[str] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    hang: bool = False
    released: threading.Event = field(default_factory=threading.Event)

    def add_id(self, schema_id: int, schema: Any, *references: tuple[str, str, int], **more: str) -> None:
        """A schema under its id, with references (full name, subject, version)."""
        self.answers[f"/schemas/ids/{schema_id}"] = (200, _body(schema, references, **more))

    def add_subject(self, subject: str, version: int, schema: Any, *references: tuple[str, str, int]) -> None:
        body = _body(schema, references, subject=subject, version=version, id=1000 + len(self.answers))
        self.answers[f"/subjects/{subject}/versions/{version}"] = (200, body)


def _body(schema: Any, references: tuple[tuple[str, str, int], ...], **more: Any) -> bytes:
    body = {"schema": schema if isinstance(schema, str) else json.dumps(schema), **more}
    if references:
        body["references"] = [{"name": name, "subject": subject, "version": v} for name, subject, v in references]
    return json.dumps(body).encode()


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """The stand-in at a port of its own."""
    registry = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            registry.asked.append(path)
            registry.authorizations.append(self.headers.get("Authorization"))
            if registry.hang:
                registry.released.wait(10)
                return
            status, body = registry.answers.get(path, registry.otherwise)
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Not on the test's output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield registry
    finally:
        registry.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
