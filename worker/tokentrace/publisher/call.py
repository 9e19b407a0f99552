"""Call: one call of a model while it runs, a context manager of `with` and `async with`, and the span that it becomes.

It times the call, notes the first token, reads usage off answers and streams, and sees errors and time-outs. Nothing
here raises into the application: what fails is counted by the publisher, and the span goes without it.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from tokentrace.publisher.unread import unread_counts
from tokentrace.publisher.usage import COUNTS, KNOWN_COUNTS, answer_fields, find_usage, has_token

if TYPE_CHECKING:
    from tokentrace.publisher.publisher import Publisher

_Part = TypeVar("_Part")

#: Status codes of HTTP that mean that a time ran out.
_TIMEOUT_CODES: Final = frozenset({408, 504})
_TIMEOUT_NAMES: Final = ("Timeout", "TimedOut", "DeadlineExceeded")


class Call:
    """One call of a model. `Publisher.call` makes it; `with` publishes its span at the end, `finish` does without.

    span_id, trace_id: of the span, for an application that keeps them. model_is_alias: the name that the application
    gave is one of its own, such as a deployment of Azure's, so that the answer's counts where it is another.
    """

    __slots__ = (
        "_done", "_first_ns", "_publisher", "_requested", "_span", "_started_ns", "_unread",
        "model_is_alias", "span_id", "trace_id",
    )  # fmt: skip

    def __init__(self, publisher: Publisher, span: dict[str, Any]) -> None:
        """span: its fields so far, with model as the application names it; the ids are made if they are not there."""
        self._publisher = publisher
        self._requested = str(span.get("model") or "")
        ids = os.urandom(24).hex()
        self.trace_id: str = span.get("trace_id") or ids[:32]
        self.span_id: str = span.get("span_id") or ids[32:]
        span["trace_id"], span["span_id"] = self.trace_id, self.span_id
        self._span = span
        self._done = False
        self.model_is_alias = False
        self._first_ns: int | None = None
        self._unread: set[str] = set()
        self._started_ns = time.perf_counter_ns()
        span["started_at"] = time.time_ns() // 1000

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(error=error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(error=error)

    def usage(self, answer: _Part) -> _Part:
        """Note what the call has used: the provider's answer, an event of its stream, or the usage object. Returns it.

        The answer's model becomes the span's where the application named none, and its service tier is noted.
        """
        try:
            self._note(answer)
        except Exception as error:
            self._publisher.failed("usage", error)
        return answer

    def first_token(self) -> None:
        """Note the time to the first token. Only the first time counts."""
        if self._first_ns is None:
            self._first_ns = time.perf_counter_ns()

    def part(self, part: _Part) -> _Part:
        """Note a part of a streamed answer: the first token, if it has one, and the usage. Returns it."""
        try:
            if self._first_ns is None and has_token(part):
                self.first_token()
            self._note(part)
        except Exception as error:
            self._publisher.failed("usage", error)
        return part

    def end_stream(self) -> None:
        """Publish the span of a stream that has ended, or that the application has closed.

        Without usage, nobody knows what a stream has cost that was closed early, so it is an error.
        """
        if not self._done:
            if not COUNTS.intersection(self._span):
                self.fail("the stream ended without its usage")
            self.finish()

    def stream(self, parts: Iterable[_Part]) -> Iterator[_Part]:
        """Give the parts of a streamed answer, and note the first token and the usage."""
        for part in parts:
            yield self.part(part)

    async def astream(self, parts: AsyncIterable[_Part]) -> AsyncIterator[_Part]:
        """Give the parts of a streamed answer, as `stream`, in `async for`."""
        async for part in parts:
            yield self.part(part)

    def score(self, value: float) -> None:
        """Note the quality of the answer, 0 to 1, before the span is published."""
        if self._done:
            self._publisher.failed("score", "the call's span is published already; score it inside the `with`")
            return
        self._attributes()["eval.score"] = value

    def set(self, **fields: Any) -> None:
        """Set fields of the span, such as cost_usd or caller. `attributes` are added to those there are."""
        try:
            self._attributes().update(fields.pop("attributes", None) or {})
            self._span.update(fields)
            self._requested = str(fields.get("model") or self._requested)
        except Exception as error:
            self._publisher.failed("set", error)

    def fail(self, error: BaseException | str, *, timeout: bool = False) -> None:
        """Note that the call has failed. error: the exception, or a sentence."""
        if isinstance(error, str):
            self._span["status"], self._span["error"] = "timeout" if timeout else "error", error
        else:
            self._span["status"] = "timeout" if timeout or is_timeout(error) else "error"
            self._span["error"] = describe(error)

    def finish(self, answer: Any = None, *, error: BaseException | None = None) -> None:
        """Publish the span. A second time does nothing."""
        if self._done:
            return
        self._done = True
        try:
            ended_ns = time.perf_counter_ns()
            span, started_ns = self._span, self._started_ns
            if answer is not None:
                self.usage(answer)
            if error is not None:
                self.fail(error)
            span["ended_at"] = time.time_ns() // 1000
            span.setdefault("latency_ms", (ended_ns - started_ns) / 1e6)
            if self._first_ns is not None:
                span.setdefault("ttft_ms", (self._first_ns - started_ns) / 1e6)
            self._publisher.publish(span)
            if self._unread:
                self._publisher.note_unread(self._unread)
        except Exception as failure:
            self._publisher.failed("finish", failure)

    def _attributes(self) -> dict[str, Any]:
        attributes: dict[str, Any] = self._span.setdefault("attributes", {})
        return attributes

    def _note(self, answer: Any) -> None:
        span = self._span
        usage, fields = find_usage(answer, span.get("provider") or "")
        if usage is not None:
            self._unread.update(unread_counts(usage, KNOWN_COUNTS))
        units = fields.pop("usage", None)
        if units:
            span["usage"] = {**span.get("usage", {}), **units}
        said = answer_fields(answer)
        model = said.pop("model", None)
        if model is not None and (
            not self._requested or (self.model_is_alias and not model.startswith(self._requested))
        ):
            span["model"] = model
        span.update(fields)
        known = self._publisher.known_fields
        span.update((name, value) for name, value in said.items() if name in known)


def is_timeout(error: BaseException) -> bool:
    """Return whether an exception of any library says that a time ran out."""
    if isinstance(error, TimeoutError):
        return True
    if any(part in kind.__name__ for kind in type(error).__mro__ for part in _TIMEOUT_NAMES):
        return True
    return getattr(error, "status_code", None) in _TIMEOUT_CODES


def describe(error: BaseException) -> str:
    """Return the type of an exception and the status of its response. Its text may quote a prompt."""
    status = getattr(error, "status_code", None)
    return f"{type(error).__name__} {status}" if isinstance(status, int) else type(error).__name__
