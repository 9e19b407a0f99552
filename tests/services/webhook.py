"""A webhook receiver: a real HTTP server that remembers what it was sent, and answers as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


def ok(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(204)
    handler.end_headers()


def status(code: int, **headers: str) -> Answer:
    """An answer with this status."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


class Webhook:
    """received: (path, headers, JSON body), in order. answers: the next responses; `answer` is used after them."""

    def __init__(self, answer: Answer = ok) -> None:
        self.answer = answer
        self.answers: list[Answer] = []
        self.received: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                webhook.received.append((self.path, dict(self.headers), body))
                answer = webhook.answers.pop(0) if webhook.answers else webhook.answer
                try:
                    answer(self)
                except OSError:
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def bodies(self, **fields: Any) -> list[dict[str, Any]]:
        """The bodies that have these fields."""
        return [body for _, _, body in list(self.received) if all(body[k] == v for k, v in fields.items())]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
