"""Clients: publishes the calls of an `openai` or `anthropic` client, whatever method makes them.

Both SDKs send every call through one method, `request`, which is replaced on the client: synchronous and asynchronous,
streamed and raw. Streams are watched part by part, up to their end, their error, or the moment they are let go.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import urlsplit

from tokentrace.errors import UsageError
from tokentrace.publisher.call import Call

if TYPE_CHECKING:
    from tokentrace.publisher.publisher import Publisher

_Client = TypeVar("_Client")

#: End of a request's path -> the operation. Other requests (files, models, token counts, batches) are no calls.
OPERATIONS: Final = {
    "/chat/completions": "chat",
    "/completions": "completion",
    "/responses": "chat",
    "/embeddings": "embeddings",
    "/images/generations": "image",
    "/images/edits": "image",
    "/images/variations": "image",
    "/audio/transcriptions": "transcription",
    "/audio/translations": "transcription",
    "/audio/speech": "speech",
    "/v1/messages": "chat",
    "/v1/complete": "completion",
}

#: End of the host's name -> provider, for clients of one that answers like OpenAI or Anthropic.
HOSTS: Final = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "google",
    "aiplatform.googleapis.com": "google",
    "amazonaws.com": "aws",
    "api.mistral.ai": "mistral",
    "api.x.ai": "x-ai",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "openrouter.ai": "openrouter",
    "api.together.xyz": "together",
    "api.fireworks.ai": "fireworks",
    "api.perplexity.ai": "perplexity",
    "api.cerebras.ai": "cerebras",
}

#: Providers whose name for a model may be the application's own, so that only the answer's says what it is.
_RENAMED: Final = frozenset({"azure", "openrouter"})


def wrap(
    publisher: Publisher, client: _Client, *, provider: str = "", caller: str | None = None, stream_usage: bool = True
) -> _Client:
    """Publish the calls of a client from now on, and return it. See `Publisher.wrap`."""
    if not hasattr(client, "request") or not hasattr(client, "base_url"):
        raise UsageError(f"{type(client).__name__} is not a client of the openai or the anthropic package.")
    if getattr(client, "_tokentrace", None) is not None:
        return client
    watch = _Watch(publisher, provider or provider_of(client), caller, stream_usage)
    target: Any = client
    target._tokentrace = watch
    target.request = (watch.arequest if inspect.iscoroutinefunction(target.request) else watch.request)(target.request)
    for name in ("copy", "with_options"):
        if hasattr(client, name):
            setattr(target, name, _wrapping(getattr(client, name), watch))
    return client


def provider_of(client: Any) -> str:
    """Return the provider of a client, by its kind and by its address."""
    kind = type(client).__name__
    for part, provider in (("Azure", "azure"), ("Bedrock", "aws"), ("Vertex", "google")):
        if part in kind:
            return provider
    host = urlsplit(str(client.base_url)).hostname or ""
    for end, provider in HOSTS.items():
        if host == end or host.endswith(f".{end}"):
            return provider
    return f"{type(client).__module__.partition('.')[0]}-compatible"


def _wrapping(copy: Callable[..., Any], watch: _Watch) -> Callable[..., Any]:
    """`copy` of a client, whose result is wrapped too."""

    def wrapped_copy(*arguments: Any, **options: Any) -> Any:
        client = copy(*arguments, **options)
        return wrap(
            watch.publisher, client, provider=watch.provider, caller=watch.caller, stream_usage=watch.stream_usage
        )

    return wrapped_copy


class _Watch:
    """Settings of a wrapped client, and the functions that replace its `request`."""

    def __init__(self, publisher: Publisher, provider: str, caller: str | None, stream_usage: bool) -> None:
        self.publisher, self.provider, self.caller, self.stream_usage = publisher, provider, caller, stream_usage

    def request(self, send: Callable[..., Any]) -> Callable[..., Any]:
        def request(cast_to: Any, options: Any, **rest: Any) -> Any:
            call, hidden = self._begin(options, bool(rest.get("stream")))
            if call is None:
                return send(cast_to, options, **rest)
            try:
                answer = send(cast_to, options, **rest)
            except BaseException as error:
                call.finish(error=error)
                raise
            return self._observe(call, answer, hidden, bool(rest.get("stream")))

        return request

    def arequest(self, send: Callable[..., Any]) -> Callable[..., Any]:
        async def request(cast_to: Any, options: Any, **rest: Any) -> Any:
            call, hidden = self._begin(options, bool(rest.get("stream")))
            if call is None:
                return await send(cast_to, options, **rest)
            try:
                answer = await send(cast_to, options, **rest)
            except BaseException as error:
                call.finish(error=error)
                raise
            return self._observe(call, answer, hidden, bool(rest.get("stream")))

        return request

    def _begin(self, options: Any, stream: bool) -> tuple[Call | None, bool]:
        """(the call, or None for a request that is none; whether the usage of its stream is hidden from it)."""
        try:
            path = options.url.partition("?")[0]
            operation = next((name for end, name in OPERATIONS.items() if path.endswith(end)), None)
            if operation is None or options.method.lower() != "post":
                return None, False
            body = options.json_data if isinstance(options.json_data, dict) else {}
            hidden = stream and self.stream_usage and path.endswith("/completions") and self._request_usage(options)
            call = self.publisher.call(str(body.get("model") or ""), self.provider, caller=self.caller, name=operation)
            call.model_is_alias = self.provider in _RENAMED
            if operation == "speech" and isinstance(body.get("input"), str):
                call.set(usage={"character": len(body["input"])})
            return call, hidden
        except Exception as error:
            self.publisher.failed("call", error)
            return None, False

    def _request_usage(self, options: Any) -> bool:
        """Let the stream end with its usage, which OpenAI gives on request only. False if the application has."""
        given = options.json_data.get("stream_options") or {}
        if "include_usage" in given:
            return False
        options.json_data = {**options.json_data, "stream_options": {**given, "include_usage": True}}
        return True

    def _observe(self, call: Call, answer: Any, hidden: bool, stream: bool) -> Any:
        """Finish the call with its answer, or watch the stream of it."""
        try:
            if hasattr(answer, "http_response") and hasattr(answer, "parse"):
                self._observe_raw(call, answer, hidden, stream)
            elif hasattr(answer, "_iterator"):
                parts = (_AsyncParts if hasattr(answer, "__anext__") else _Parts)(call, answer._iterator, hidden)
                answer._iterator = parts
                _finish_on_close(answer, call)
            else:
                call.finish(answer)
        except Exception as error:
            self.publisher.failed("answer", error)
            call.finish()
        return answer

    def _observe_raw(self, call: Call, answer: Any, hidden: bool, stream: bool) -> None:
        """Watch what a raw response is parsed to."""
        if not stream and answer.http_response.is_stream_consumed:
            call.finish(answer.http_response.json())
            return
        parse = answer.parse
        if inspect.iscoroutinefunction(parse):

            async def aparsed(*arguments: Any, **options: Any) -> Any:
                return self._observe(call, await parse(*arguments, **options), hidden, stream)

            answer.parse = aparsed
            return

        def parsed(*arguments: Any, **options: Any) -> Any:
            return self._observe(call, parse(*arguments, **options), hidden, stream)

        answer.parse = parsed


def _finish_on_close(stream: Any, call: Call) -> None:
    """Finish the call when its stream is closed. The stream is not kept by what replaces its `close`."""
    close, of = type(stream).close, weakref.ref(stream)
    if inspect.iscoroutinefunction(close):

        async def aclose() -> None:
            call.end_stream()
            if (it := of()) is not None:
                await close(it)

        stream.close = aclose
        return

    def closed() -> None:
        call.end_stream()
        if (it := of()) is not None:
            close(it)

    stream.close = closed


class _Noted:
    """The parts of a stream, noted by its call. hidden: leave the part out that only has the usage."""

    def __init__(self, call: Call, parts: Any, hidden: bool) -> None:
        self._call, self._parts, self._hidden = call, parts, hidden

    def _note(self, part: Any) -> bool:
        """Note a part, and return whether the application sees it."""
        self._call.part(part)
        return not (self._hidden and _is_usage_only(part))

    def __del__(self) -> None:
        # A stream that nobody has read to its end, or closed.
        self._call.end_stream()


class _Parts(_Noted):
    """The parts of a synchronous stream."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        while True:
            try:
                part = next(self._parts)
            except StopIteration:
                self._call.end_stream()
                raise
            except BaseException as error:
                self._call.finish(error=error)
                raise
            if self._note(part):
                return part

    def close(self) -> None:
        self._call.end_stream()
        self._parts.close()


class _AsyncParts(_Noted):
    """The parts of an asynchronous stream."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while True:
            try:
                part = await anext(self._parts)
            except StopAsyncIteration:
                self._call.end_stream()
                raise
            except BaseException as error:
                self._call.finish(error=error)
                raise
            if self._note(part):
                return part

    async def aclose(self) -> None:
        self._call.end_stream()
        await self._parts.aclose()


def _is_usage_only(part: Any) -> bool:
    """Return whether a part is the one that OpenAI adds for `include_usage`, which has no choices."""
    return getattr(part, "choices", None) == [] and getattr(part, "usage", None) is not None
