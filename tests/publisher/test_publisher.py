"""The publisher and its calls, in one process, against a broker inside it. tests/integration has the real ones."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.publisher.answers import ANSWERS
from tests.publisher.helpers import decoded, spans, values
from tests.services import ROOT, free_port
from tokentrace import Publisher
from tokentrace.errors import ConfigError
from tokentrace.kafka import background_producer
from tokentrace.kafka.clients import EmbeddedBroker


def published(publisher: Publisher, broker: EmbeddedBroker, topic: str) -> list[dict[str, Any]]:
    """The spans of a topic, after all of them have arrived."""
    assert publisher.flush(10.0) == 0
    return spans(broker.bootstrap_servers, topic)


class ReadTimeout(Exception):
    """A library's own time-out."""


class RateLimitError(Exception):
    status_code = 429


class GatewayError(Exception):
    status_code = 504


HEAVY = ("numpy", "pydantic", "prometheus_client", "httpx", "httpx2", "genai_prices", "starlette", "yaml")


@pytest.mark.parametrize(
    ("line", "absent"),
    [("import tokentrace", ("confluent_kafka", "fastavro", *HEAVY)), ("from tokentrace import Publisher", HEAVY)],
)
def test_imports_are_light(line: str, absent: tuple[str, ...]) -> None:
    program = f"{line}\nimport sys\nprint([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_package_shows_its_face() -> None:
    import tokentrace

    assert tokentrace.__all__ == ["Call", "Publisher", "__version__"]
    with pytest.raises(AttributeError, match="has no attribute 'Publishers'"):
        _ = tokentrace.Publishers  # type: ignore[attr-defined]


def test_call_becomes_a_span(publisher: Publisher, broker: EmbeddedBroker, mock_topic: str) -> None:
    before_us = time.time_ns() // 1000
    with publisher.call("gpt-4o", "openai", caller="search", attributes={"env": "prod"}) as call:
        time.sleep(0.02)
        call.first_token()
        call.first_token()
        time.sleep(0.02)
        assert call.usage(ANSWERS[0].json) is ANSWERS[0].json
        call.score(0.75)
    (span,) = published(publisher, broker, mock_topic)
    assert {name: span[name] for name in ("model", "provider", "caller", "status", "error", "name")} == {
        "model": "gpt-4o", "provider": "openai", "caller": "search", "status": "ok", "error": None, "name": "chat",
    }  # fmt: skip
    assert (span["prompt_tokens"], span["cached_prompt_tokens"], span["completion_tokens"]) == (2006, 1920, 300)
    assert span["attributes"] == {"env": "prod", "eval.score": 0.75}
    assert 20 <= span["ttft_ms"] <= span["latency_ms"] - 20
    assert before_us <= span["started_at"].timestamp() * 1e6 <= span["ended_at"].timestamp() * 1e6 - 39_000
    assert (len(span["trace_id"]), len(span["span_id"])) == (32, 16)
    assert (call.trace_id, call.span_id) == (span["trace_id"], span["span_id"])


def test_call_takes_the_answers_model_where_the_application_names_none(
    publisher: Publisher, broker: EmbeddedBroker, mock_topic: str
) -> None:
    with publisher.call(provider="openai") as call:
        call.usage(ANSWERS[0].json)
    (span,) = published(publisher, broker, mock_topic)
    assert span["model"] == "gpt-4o-2024-08-06"


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ValueError("the prompt"), "error", "ValueError"),
        (RateLimitError(), "error", "RateLimitError 429"),
        (TimeoutError(), "timeout", "TimeoutError"),
        (ReadTimeout(), "timeout", "ReadTimeout"),
        (GatewayError(), "timeout", "GatewayError 504"),
        (KeyboardInterrupt(), "error", "KeyboardInterrupt"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_call_that_raises_is_published_and_raises(
    publisher: Publisher, broker: EmbeddedBroker, mock_topic: str, error: BaseException, status: str, text: str
) -> None:
    with pytest.raises(type(error)), publisher.call("m", "p"):
        raise error
    (span,) = published(publisher, broker, mock_topic)
    assert (span["status"], span["error"], span["prompt_tokens"]) == (status, text, None)


def test_call_in_asyncio_sees_time_outs_and_cancellation(
    publisher: Publisher, broker: EmbeddedBroker, mock_topic: str
) -> None:
    async def answer(name: str, seconds: float) -> None:
        async with publisher.call(name, "p") as call:
            await asyncio.sleep(seconds)
            call.usage({"prompt_tokens": 1, "completion_tokens": 2})

    async def slow() -> None:
        async with publisher.call("slow", "p"), asyncio.timeout(0.01):
            await asyncio.sleep(60)

    async def main() -> None:
        await asyncio.gather(*(answer("good", 0.01) for _ in range(5)))
        task = asyncio.create_task(answer("cancelled", 60))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            await slow()

    asyncio.run(main())
    found = published(publisher, broker, mock_topic)
    assert sorted((span["model"], span["status"], span["error"]) for span in found) == [
        ("cancelled", "error", "CancelledError"), *[("good", "ok", None)] * 5, ("slow", "timeout", "TimeoutError"),
    ]  # fmt: skip


ANTHROPIC_STREAM = [
    {"type": "message_start", "message": {"model": "claude-sonnet-4-5", "usage": {
        "input_tokens": 20, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 40,
        "cache_creation": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 0}, "output_tokens": 1}}},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "message_delta", "usage": {"output_tokens": 15, "server_tool_use": {"web_search_requests": 1}}},
]  # fmt: skip


def test_streams_give_their_parts_and_add_up_their_usage(
    publisher: Publisher, broker: EmbeddedBroker, mock_topic: str
) -> None:
    async def parts() -> AsyncIterator[dict[str, Any]]:
        for part in ANTHROPIC_STREAM:
            yield part

    async def main() -> None:
        async with publisher.call(provider="anthropic") as call:
            assert [part async for part in call.astream(parts())] == ANTHROPIC_STREAM

    with publisher.call(provider="anthropic") as call:
        assert list(call.stream(iter(ANTHROPIC_STREAM))) == ANTHROPIC_STREAM
    asyncio.run(main())
    for span in published(publisher, broker, mock_topic):
        assert span["model"] == "claude-sonnet-4-5"
        assert (span["prompt_tokens"], span["cached_prompt_tokens"], span["cache_write_tokens"]) == (20, 100, 40)
        assert (span["completion_tokens"], span["web_searches"], span["usage"]) == (15, 1, {"cache_write_5m": 40.0})
        assert span["prompt_tokens_include_cache"] is False
        assert 0 < span["ttft_ms"] < span["latency_ms"]


def test_stream_that_breaks_off_keeps_the_usage_up_to_there(
    publisher: Publisher, broker: EmbeddedBroker, mock_topic: str
) -> None:
    def parts() -> Iterator[dict[str, Any]]:
        yield ANTHROPIC_STREAM[0]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError), publisher.call(provider="anthropic") as call:
        list(call.stream(parts()))
    (span,) = published(publisher, broker, mock_topic)
    assert (span["status"], span["error"], span["prompt_tokens"]) == ("error", "ConnectionResetError", 20)


class Explosive:
    """An object whose every attribute raises."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("boom")


def test_publisher_raises_for_no_argument(
    publisher: Publisher, broker: EmbeddedBroker, mock_topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    with publisher.call("m", "p") as call:
        call.usage(Explosive())
        call.usage(object())
        call.usage({"usage": {"prompt_tokens": "many"}})
        call.set(attributes=7, nonsense=1)
        call.set(attributes={"a": Explosive})
    call.score(1.0)
    call.finish()
    assert publisher.publish({"model": "m", "prompt_tokens": "x"}) is False
    assert publisher.publish({"model": "m", "prompt": 1}) is False
    assert publisher.publish(7) is False  # type: ignore[arg-type]
    assert publisher.publish({"model": "m", "prompt_tokens": 3}) is True
    found = published(publisher, broker, mock_topic)
    assert {span["prompt_tokens"] for span in found} == {None, 3}
    stats = publisher.stats
    assert (stats.delivered, stats.queued, stats.lost, stats.published) == (2, 0, {"invalid": 3}, 5)
    assert [record.message.split(":")[0] for record in caplog.records if record.name == "tokentrace.publisher"] == [
        "A span goes without its usage", "A span goes without its set", "A span goes without its score",
        f"{mock_topic}",
    ]  # fmt: skip


def test_log_says_once_a_minute_how_many_more_there_were(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = [100.0]
    monkeypatch.setattr(publisher._queue, "_clock", lambda: now_s[0])
    for _ in range(5):
        publisher.publish({"nonsense": 1})
    now_s[0] += background_producer.LOG_EVERY_S
    publisher.publish({"nonsense": 1})
    lines = [record.message for record in caplog.records if "invalid" in record.message]
    assert len(lines) == 2
    assert lines[1].endswith("(4 more since the last line of this kind)")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"bootstrap_servers": ""}, "bootstrap_servers: not set; pass it to Publisher or set TOKENTRACE_BOOTSTRAP"),
        ({"properties": {"no.such.property": 1}}, 'properties: No such configuration property: "no.such.property"'),
        ({"properties": {"transactional.id": "t"}}, "transactional.id is not possible"),
        ({"max_queue": 0}, "max_queue"),
    ],
)
def test_settings_that_cannot_work_are_said_at_the_start(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why.split(" ")[0]) as raised:
        Publisher(**{"bootstrap_servers": "127.0.0.1:1", **settings})
    assert why in str(raised.value)


def test_environment_gives_what_is_not_passed(
    broker: EmbeddedBroker, mock_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENTRACE_BOOTSTRAP_SERVERS", broker.bootstrap_servers)
    monkeypatch.setenv("TOKENTRACE_TOPIC", mock_topic)
    monkeypatch.setenv("TOKENTRACE_CALLER", "search")
    with Publisher(flush_on_sigterm=False) as publisher:
        publisher.publish({"model": "m", "prompt_tokens": 1})
        publisher.call("m").finish()
    assert [span["caller"] for span in spans(broker.bootstrap_servers, mock_topic)] == ["search", "search"]


def test_threads_share_a_publisher(publisher: Publisher, broker: EmbeddedBroker, mock_topic: str) -> None:
    def work(thread: int) -> None:
        for number in range(500):
            with publisher.call(f"m{thread}", "p") as call:
                call.usage({"prompt_tokens": number})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = published(publisher, broker, mock_topic)
    assert sorted((span["model"], span["prompt_tokens"]) for span in found) == sorted(
        (f"m{thread}", number) for thread in range(8) for number in range(500)
    )
    assert publisher.stats.delivered == 4000
    assert len({span["span_id"] for span in found}) == 4000


def test_full_queue_loses_what_comes_and_counts_it(make_publisher: Callable[..., Publisher]) -> None:
    publisher = make_publisher(f"127.0.0.1:{free_port()}", max_queue=100)
    accepted = [publisher.publish({"model": "m", "prompt_tokens": 1}) for _ in range(250)]
    assert accepted == [True] * 100 + [False] * 150
    assert (publisher.stats.queued, publisher.stats.lost) == (100, {"queue_full": 150})
    assert publisher.close(0.2) == 100
    assert (publisher.stats.queued, publisher.stats.lost) == (0, {"queue_full": 150, "not_delivered": 100})
    assert publisher.publish({"model": "m"}) is False
    assert publisher.stats.lost["closed"] == 1


def test_forked_child_publishes_its_own_spans_and_not_its_parents(
    publisher: Publisher, broker: EmbeddedBroker, mock_topic: str
) -> None:
    publisher.publish({"model": "parent", "prompt_tokens": 0})
    for number in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert publisher.stats.published == 0
                publisher.publish({"model": "child", "prompt_tokens": number})
                code = publisher.close(10.0)
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    publisher.publish({"model": "parent", "prompt_tokens": 1})
    found = published(publisher, broker, mock_topic)
    assert sorted((span["model"], span["prompt_tokens"]) for span in found) == [
        ("child", 0), ("child", 1), ("child", 2), ("parent", 0), ("parent", 1),
    ]  # fmt: skip


def test_forked_child_that_could_not_deliver_does_not_wait_for_the_threads_of_its_client(
    make_publisher: Callable[..., Publisher],
) -> None:
    """Such a thread can wait for ever for a lock that one of the parent held at the fork: the child did not end."""
    publisher = make_publisher(f"127.0.0.1:{free_port()}")
    publisher.after_fork()
    publisher.publish({"model": "m"})
    producer = publisher._queue._producer
    assert publisher.close(0.2) == 1
    # That of the name above, that of the call, and one that keeps the destructor from running.
    assert (publisher._queue._producer, sys.getrefcount(producer)) == (None, 3)


PROGRAM = """
import multiprocessing, os, signal, sys, time
from tokentrace import Publisher
publisher = Publisher(sys.argv[1], sys.argv[2], flush_timeout_s=60.0)
def work(model):
    for number in range(200):
        publisher.publish({"model": model, "prompt_tokens": number})
"""


@pytest.mark.parametrize(
    ("end", "code", "processes"),
    [
        ("work('m')", 0, 1),
        ("work('m'); raise SystemExit(3)", 3, 1),
        ("work('m'); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -15, 1),
        ("work('m'); publisher.flush(); sys.exit(0) if os.fork() == 0 else os.wait()", 0, 1),
        ("work('m'); os.wait() if os.fork() else work('n')", 0, 2),
        ("p = multiprocessing.get_context('fork').Process(target=work, args=('n',)); p.start(); p.join(); work('m')",
         0, 2),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); work('m'); os.kill(os.getpid(), signal.SIGTERM)",
         7, 1),
    ],
)  # fmt: skip
def test_process_flushes_at_its_end(
    broker: EmbeddedBroker, mock_topic: str, end: str, code: int, processes: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + end, broker.bootstrap_servers, mock_topic], cwd=ROOT, timeout=180, check=False
    )
    assert done.returncode == code
    expected = [(model, number) for model in ("m", "n")[:processes] for number in range(200)]
    found = spans(broker.bootstrap_servers, mock_topic)
    assert sorted((span["model"], span["prompt_tokens"]) for span in found) == expected


def test_process_without_a_broker_ends_in_the_flush_time(mock_topic: str) -> None:
    # The first handler to be registered is the last to run.
    clocked = (
        "import atexit, time\nbegan = []\natexit.register(lambda: print(time.monotonic() - began[0]))\n"
        + PROGRAM.replace("flush_timeout_s=60.0", "flush_timeout_s=0.5")
        + "work('m'); began.append(time.monotonic())"
    )
    done = subprocess.run(
        [sys.executable, "-c", clocked, f"127.0.0.1:{free_port()}", mock_topic],
        cwd=ROOT, timeout=180, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert float(done.stdout) < 10
    assert f"200 spans were not delivered to {mock_topic} in time, and are lost." in done.stderr


def test_confluent_framing_names_a_schema_id(
    make_publisher: Callable[..., Publisher], broker: EmbeddedBroker, mock_topic: str
) -> None:
    publisher = make_publisher(schema_id=77)
    publisher.publish({"model": "m", "prompt_tokens": 1})
    assert publisher.flush(10.0) == 0
    (value,) = values(broker.bootstrap_servers, mock_topic)
    assert decoded(value, b"\0\0\0\0\x4d")["model"] == "m"


def test_registry_that_is_away_makes_spans_wait_and_then_counts_them(
    make_publisher: Callable[..., Publisher], caplog: pytest.LogCaptureFixture
) -> None:
    publisher = make_publisher(schema_registry=f"http://127.0.0.1:{free_port()}", max_queue=10)
    accepted = [publisher.publish({"model": "m", "prompt_tokens": 1}) for _ in range(15)]
    assert accepted == [True] * 10 + [False] * 5
    assert (publisher.stats.queued, publisher.stats.lost) == (10, {"queue_full": 5})
    with caplog.at_level(logging.WARNING):
        deadline = time.monotonic() + 20
        while "spans wait for the schema's id" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "The schema registry gave no id for" in caplog.text
    assert publisher.close(0.2) == 10
    assert publisher.stats.lost == {"queue_full": 5, "not_delivered": 10}
