"""Wrapped clients of the real `openai` and `anthropic` packages, against a stand-in of their APIs over HTTP."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.publisher.helpers import spans
from tests.services.provider import WORDS, ProviderStandIn
from tokentrace import Publisher
from tokentrace.errors import UsageError
from tokentrace.kafka.clients import EmbeddedBroker

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")

HELLO: Any = [{"role": "user", "content": "Hi"}]
CHAT = {
    "prompt_tokens": 2006, "cached_prompt_tokens": 1920, "completion_tokens": 300, "reasoning_tokens": 100,
    "prompt_tokens_include_cache": True, "model": "gpt-4o", "provider": "openai", "status": "ok", "name": "chat",
}  # fmt: skip
RESPONSE = {**CHAT, "prompt_tokens": 328, "cached_prompt_tokens": 200, "completion_tokens": 1186,
            "reasoning_tokens": 1024, "model": "gpt-5"}  # fmt: skip
MESSAGE = {
    "prompt_tokens": 21, "cached_prompt_tokens": 1800, "cache_write_tokens": 1000, "cache_write_1h_tokens": 100,
    "completion_tokens": 393, "web_searches": 2, "usage": {"cache_write_5m": 900.0},
    "prompt_tokens_include_cache": False, "model": "claude-sonnet-4-6", "provider": "anthropic", "status": "ok",
}  # fmt: skip


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderStandIn]:
    server = ProviderStandIn()
    yield server
    server.stop()


Check = Callable[..., None]


@pytest.fixture
def only(publisher: Publisher, broker: EmbeddedBroker, mock_topic: str) -> Check:
    """Checks the spans of a test: each has these fields; streamed: whether it has a time to the first token."""

    def check(*expected: dict[str, Any], streamed: bool = False) -> None:
        assert publisher.flush(10.0) == 0
        found = sorted(spans(broker.bootstrap_servers, mock_topic), key=lambda span: span["started_at"])
        assert [{name: span[name] for name in fields} for span, fields in zip(found, expected, strict=True)] == list(
            expected
        )
        assert all((span["ttft_ms"] is not None) == streamed for span in found)
        assert all(span["latency_ms"] >= (span["ttft_ms"] or 0) for span in found)
        assert publisher.stats.lost == {}

    return check


def openai_client(publisher: Publisher, provider: ProviderStandIn, kind: Any = None, **options: Any) -> Any:
    kind = kind or openai.OpenAI
    client = kind(api_key="k", base_url=f"{provider.url}/v1", max_retries=0, **options)
    assert publisher.wrap(client, provider="openai") is client
    return client


def anthropic_client(publisher: Publisher, provider: ProviderStandIn, kind: Any = None) -> Any:
    client = (kind or anthropic.Anthropic)(api_key="k", base_url=provider.url, max_retries=0)
    return publisher.wrap(client, provider="anthropic")


def messages(**fields: Any) -> dict[str, Any]:
    return {"model": "claude-sonnet-4-6", "max_tokens": 10, "messages": HELLO, **fields}


def test_openai_calls_become_spans(publisher: Publisher, provider: ProviderStandIn, only: Check) -> None:
    client = openai_client(publisher, provider)
    assert client.chat.completions.create(model="gpt-4o", messages=HELLO).choices[0].message.content == "Hello, there."
    client.responses.create(model="gpt-5", input="Hi")
    client.embeddings.create(model="text-embedding-3-small", input="Hi")
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO)
    assert raw.parse().model == "gpt-4o-2024-08-06"
    client.with_options(timeout=30.0).chat.completions.create(model="gpt-4o", messages=HELLO)
    client.models.list()
    publisher.wrap(client)
    embedding = {"model": "text-embedding-3-small", "prompt_tokens": 8, "completion_tokens": None, "name": "embeddings"}
    only(CHAT, RESPONSE, embedding, CHAT, CHAT)


def test_openai_streams_become_spans_and_show_what_they_showed(
    publisher: Publisher, provider: ProviderStandIn, only: Check
) -> None:
    client = openai_client(publisher, provider)
    plain = openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1")
    for asked in ({}, {"stream_options": {"include_usage": True}}):
        options: dict[str, Any] = {"model": "gpt-4o", "messages": HELLO, "stream": True, **asked}
        wrapped = [part.to_dict() for part in client.chat.completions.create(**options)]
        assert wrapped == [part.to_dict() for part in plain.chat.completions.create(**options)]
    with client.responses.create(model="gpt-5", input="Hi", stream=True) as stream:
        assert "".join(event.delta for event in stream if event.type.endswith("delta")) == "".join(WORDS)
    with client.chat.completions.stream(model="gpt-4o", messages=HELLO) as helper:
        assert helper.get_final_completion().choices[0].message.content == "Hello, there."
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO, stream=True)
    assert len(list(raw.parse())) == len(WORDS) + 2
    with client.chat.completions.with_streaming_response.create(model="gpt-4o", messages=HELLO, stream=True) as raw:
        assert len(list(raw.parse())) == len(WORDS) + 2
    only(CHAT, CHAT, RESPONSE, CHAT, CHAT, CHAT, streamed=True)


def test_openai_of_asyncio_becomes_spans(publisher: Publisher, provider: ProviderStandIn, only: Check) -> None:
    async def main() -> None:
        async with openai_client(publisher, provider, openai.AsyncOpenAI) as client:
            await client.chat.completions.create(model="gpt-4o", messages=HELLO)
            await client.responses.create(model="gpt-5", input="Hi")

    asyncio.run(main())
    only(CHAT, RESPONSE)


def test_streams_of_asyncio_become_spans(publisher: Publisher, provider: ProviderStandIn, only: Check) -> None:
    async def main() -> None:
        async with openai_client(publisher, provider, openai.AsyncOpenAI) as client:
            stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
            assert len([part async for part in stream]) == len(WORDS) + 2
        async with anthropic_client(publisher, provider, anthropic.AsyncAnthropic) as client:
            stream = await client.messages.create(**messages(stream=True))
            assert [event.type async for event in stream][-1] == "message_stop"
            async with client.messages.stream(**messages()) as helper:
                assert [text async for text in helper.text_stream] == list(WORDS)

    asyncio.run(main())
    only(CHAT, MESSAGE, MESSAGE, streamed=True)


def test_anthropic_calls_become_spans(publisher: Publisher, provider: ProviderStandIn, only: Check) -> None:
    client = anthropic_client(publisher, provider)
    assert client.messages.create(**messages()).content[0].text == "Hello, there."
    client.messages.count_tokens(model="claude-sonnet-4-6", messages=HELLO)
    only(MESSAGE)


def test_anthropic_streams_become_spans(publisher: Publisher, provider: ProviderStandIn, only: Check) -> None:
    client = anthropic_client(publisher, provider)
    assert [event.type for event in client.messages.create(**messages(stream=True))][-1] == "message_stop"
    with client.messages.stream(**messages()) as stream:
        assert list(stream.text_stream) == list(WORDS)
    only(MESSAGE, MESSAGE, streamed=True)


@pytest.mark.parametrize(
    ("model", "error", "span"),
    [
        ("limited", "RateLimitError", {"status": "error", "error": "RateLimitError 429"}),
        ("broken", "InternalServerError", {"status": "error", "error": "InternalServerError 500"}),
        ("slow", "APITimeoutError", {"status": "timeout", "error": "APITimeoutError"}),
    ],
)
def test_errors_and_time_outs_are_published_and_raised(
    publisher: Publisher, provider: ProviderStandIn, only: Check, model: str, error: str, span: dict[str, Any]
) -> None:
    timeout_s = 0.5 if model == "slow" else 60.0
    for stream in (False, True):
        with pytest.raises(getattr(openai, error)):
            openai_client(publisher, provider, timeout=timeout_s).chat.completions.create(
                model=model, messages=HELLO, stream=stream
            )
        with pytest.raises(getattr(anthropic, error)):
            anthropic_client(publisher, provider).with_options(timeout=timeout_s).messages.create(
                **messages(model=model, stream=stream)
            )
    only(*[{"model": model, "prompt_tokens": None, **span}] * 4)


def test_cut_streams_are_errors_with_the_usage_up_to_there(
    publisher: Publisher, provider: ProviderStandIn, only: Check
) -> None:
    with pytest.raises(openai.APIConnectionError):
        list(openai_client(publisher, provider).chat.completions.create(model="cut", messages=HELLO, stream=True))
    with pytest.raises(Exception, match=r"closed|connect|read"):
        list(anthropic_client(publisher, provider).messages.create(**messages(model="cut", stream=True)))

    async def main() -> None:
        async with openai_client(publisher, provider, openai.AsyncOpenAI) as client:
            stream = await client.chat.completions.create(model="cut", messages=HELLO, stream=True)
            with pytest.raises(openai.APIConnectionError):
                _ = [part async for part in stream]

    asyncio.run(main())
    cut = {"model": "cut", "status": "error", "error": "APIConnectionError", "prompt_tokens": None}
    only(cut, {"status": "error", "prompt_tokens": 21, "completion_tokens": 1}, cut, streamed=True)


def test_streams_that_the_application_leaves_are_published(
    publisher: Publisher, provider: ProviderStandIn, only: Check
) -> None:
    client = openai_client(publisher, provider)

    def begun() -> Any:
        stream = client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        next(stream)
        next(stream)
        return stream

    begun().close()
    with begun():
        pass
    begun()
    gc.collect()
    with anthropic_client(publisher, provider).messages.create(**messages(stream=True)) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                break
    left = {"status": "error", "error": "the stream ended without its usage", "prompt_tokens": None}
    only(left, left, left, {"status": "ok", "prompt_tokens": 21, "completion_tokens": 1}, streamed=True)


def test_cancelled_stream_is_an_error(publisher: Publisher, provider: ProviderStandIn, only: Check) -> None:
    """As in a web server whose client goes away."""

    async def main() -> None:
        async with openai_client(publisher, provider, openai.AsyncOpenAI) as client:
            stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)

            async def read() -> None:
                async for _ in stream:
                    reading.set()

            reading = asyncio.Event()
            task = asyncio.create_task(read())
            await reading.wait()
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    only({"status": "error", "error": "CancelledError", "model": "gpt-4o"}, streamed=True)


def test_azure_deployment_has_the_name_of_its_model(
    publisher: Publisher, provider: ProviderStandIn, only: Check
) -> None:
    client = openai.AzureOpenAI(api_key="k", api_version="2024-10-21", azure_endpoint=provider.url, max_retries=0)
    publisher.wrap(client).chat.completions.create(model="my-deployment", messages=HELLO)
    only({**CHAT, "model": "gpt-4o-2024-08-06", "provider": "azure"})
    assert provider.requests[-1][0].startswith("/openai/deployments/my-deployment/chat/completions")


def test_stream_usage_is_not_requested_where_it_is_switched_off(
    publisher: Publisher, provider: ProviderStandIn, only: Check
) -> None:
    client = openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1")
    publisher.wrap(client, stream_usage=False)
    list(client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True))
    assert "stream_options" not in provider.requests[-1][1]
    only({"status": "error", "error": "the stream ended without its usage", "provider": "openai-compatible"},
         streamed=True)  # fmt: skip


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://eu.api.openai.com/v1", "openai"),
        ("https://mine.openai.azure.com/openai/v1", "azure"),
        ("https://api.x.ai/v1", "x-ai"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("http://127.0.0.1:8000/v1", "openai-compatible"),
        ("https://notapi.openai.com.example/v1", "openai-compatible"),
    ],
)
def test_provider_follows_from_the_address(publisher: Publisher, url: str, name: str) -> None:
    client = publisher.wrap(openai.OpenAI(api_key="k", base_url=url))
    assert client._tokentrace.provider == name


def test_wrap_refuses_what_is_no_client(publisher: Publisher) -> None:
    with pytest.raises(UsageError, match="int is not a client of the openai or the anthropic package"):
        publisher.wrap(7)
