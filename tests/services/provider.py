"""A stand-in for the HTTP APIs of OpenAI and Anthropic on a free port, as their documentation describes them.

The model that a request names chooses what happens: `cut` ends the connection in the middle of a stream, `slow` waits
before the answer, `limited` and `broken` are answered with 429 and 500.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHAT_USAGE = {
    "prompt_tokens": 2006, "completion_tokens": 300, "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 100, "audio_tokens": 0, "accepted_prediction_tokens": 0,
                                  "rejected_prediction_tokens": 0},
}  # fmt: skip
RESPONSES_USAGE = {
    "input_tokens": 328, "input_tokens_details": {"cached_tokens": 200}, "output_tokens": 1186,
    "output_tokens_details": {"reasoning_tokens": 1024}, "total_tokens": 1514,
}  # fmt: skip
MESSAGES_USAGE = {
    "input_tokens": 21, "cache_creation_input_tokens": 1000, "cache_read_input_tokens": 1800,
    "cache_creation": {"ephemeral_5m_input_tokens": 900, "ephemeral_1h_input_tokens": 100}, "output_tokens": 393,
    "service_tier": "standard", "server_tool_use": {"web_search_requests": 2},
}  # fmt: skip
WORDS = ("Hello", ",", " there", ".")

Event = tuple[str, Any]


def served(model: str) -> str:
    """The name under which a model answers: aliases have a date."""
    return "gpt-4o-2024-08-06" if model == "gpt-4o" or model == "my-deployment" else model


def chat(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": served(body["model"]),
        "service_tier": "default", "usage": CHAT_USAGE,
        "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None,
                     "message": {"role": "assistant", "content": "Hello, there.", "refusal": None}}],
    }  # fmt: skip


def chat_events(body: dict[str, Any]) -> Iterator[Event]:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": served(body["model"])}
    for delta in ({"role": "assistant", "content": ""}, *({"content": word} for word in WORDS)):
        yield "", {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield "", {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    if (body.get("stream_options") or {}).get("include_usage"):
        yield "", {**chunk, "choices": [], "usage": CHAT_USAGE}
    yield "", "[DONE]"


def response(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": body["model"],
        "service_tier": "default", "usage": RESPONSES_USAGE, "parallel_tool_calls": True, "tool_choice": "auto",
        "tools": [],
        "output": [{"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
                    "content": [{"type": "output_text", "text": "Hello, there.", "annotations": []}]}],
    }  # fmt: skip


def response_events(body: dict[str, Any]) -> Iterator[Event]:
    started = {**response(body), "status": "in_progress", "usage": None, "output": []}
    yield "response.created", {"type": "response.created", "sequence_number": 0, "response": started}
    for number, word in enumerate(WORDS, 1):
        yield "response.output_text.delta", {
            "type": "response.output_text.delta", "sequence_number": number, "item_id": "msg_1", "output_index": 0,
            "content_index": 0, "delta": word, "logprobs": [],
        }  # fmt: skip
    yield "response.completed", {"type": "response.completed", "sequence_number": 9, "response": response(body)}


def message(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "stop_reason": "end_turn",
        "stop_sequence": None, "content": [{"type": "text", "text": "Hello, there."}], "usage": MESSAGES_USAGE,
    }  # fmt: skip


def message_events(body: dict[str, Any]) -> Iterator[Event]:
    first = {**message(body), "content": [], "stop_reason": None, "usage": {**MESSAGES_USAGE, "output_tokens": 1}}
    del first["usage"]["server_tool_use"]
    yield "message_start", {"type": "message_start", "message": first}
    yield "content_block_start", {"type": "content_block_start", "index": 0,
                                  "content_block": {"type": "text", "text": ""}}  # fmt: skip
    yield "ping", {"type": "ping"}
    for word in WORDS:
        yield "content_block_delta", {"type": "content_block_delta", "index": 0,
                                      "delta": {"type": "text_delta", "text": word}}  # fmt: skip
    yield "content_block_stop", {"type": "content_block_stop", "index": 0}
    yield "message_delta", {
        "type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 393, "server_tool_use": {"web_search_requests": 2}},
    }  # fmt: skip
    yield "message_stop", {"type": "message_stop"}


def embeddings(body: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "model": body["model"], "usage": {"prompt_tokens": 8, "total_tokens": 8},
            "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]}  # fmt: skip


ANSWERS = {
    "/chat/completions": (chat, chat_events),
    "/responses": (response, response_events),
    "/messages": (message, message_events),
    "/embeddings": (embeddings, None),
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *_: Any) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        self._answer(200, {"object": "list", "data": []})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, body))  # type: ignore[attr-defined]
        model = body.get("model", "")
        if model == "slow":
            time.sleep(2.0)
        if model in ("limited", "broken"):
            code = 429 if model == "limited" else 500
            self._answer(code, {"error": {"message": "no", "type": "no", "param": None, "code": None}})
            return
        found = next((both for end, both in ANSWERS.items() if self.path.partition("?")[0].endswith(end)), None)
        if found is None:
            self._answer(200, {"input_tokens": 7})
        elif body.get("stream") and found[1] is not None:
            self._stream(found[1](body), cut=model == "cut")
        else:
            self._answer(200, found[0](body))

    def _answer(self, code: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, events: Iterator[Event], cut: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for number, (name, data) in enumerate(events):
                if cut and number == 4:
                    self.close_connection = True
                    return
                text = (
                    f"event: {name}\n" if name else ""
                ) + f"data: {data if data == '[DONE]' else json.dumps(data)}\n\n"
                self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())
                self.wfile.flush()
                time.sleep(0.01)
            self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


class ProviderStandIn:
    """The server. requests: (path, body) of each POST."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self.requests: list[tuple[str, Any]] = []
        self._server.requests = self.requests  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
