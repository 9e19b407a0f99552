"""LiteLLM: a callback that publishes every call that LiteLLM makes, whoever its provider is.

LiteLLM reports a call once it has ended, on a thread or in a task. One that is reported to the synchronous and to the
asynchronous method is one span. Its usage is OpenAI's, whose prompt tokens include the cache.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from tokentrace.publisher.call import describe, is_timeout
from tokentrace.publisher.usage import answer_fields, usage_fields

if TYPE_CHECKING:
    from tokentrace.publisher.publisher import Publisher

#: Calls that are remembered, so that the second report of one is told from another call.
_REMEMBERED: Final = 10_000


def callback(publisher: Publisher, caller: str) -> Any:
    """Make a callback for `litellm.callbacks`. Raises ImportError without LiteLLM."""
    from litellm.integrations.custom_logger import CustomLogger

    # LiteLLM tells callbacks by this class, which only exists where it is installed.
    kind = type("TokentraceCallback", (_Callback, CustomLogger), {})
    return kind(publisher, caller)


class _Callback:
    def __init__(self, publisher: Publisher, caller: str) -> None:
        super().__init__()
        self._publisher, self._caller = publisher, caller
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, None] = OrderedDict()

    def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self._report(kwargs, response_obj, start_time, end_time, failed=False)

    def log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self._report(kwargs, response_obj, start_time, end_time, failed=True)

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self._report(kwargs, response_obj, start_time, end_time, failed=False)

    async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self._report(kwargs, response_obj, start_time, end_time, failed=True)

    def _report(self, kwargs: Any, response: Any, start: Any, end: Any, *, failed: bool) -> None:
        try:
            if self._is_new(str(kwargs.get("litellm_call_id") or "")):
                self._publisher.publish(self._span(kwargs, response, start, end, failed))
        except Exception as error:
            self._publisher.failed("LiteLLM call", error)

    def _is_new(self, call_id: str) -> bool:
        if not call_id:
            return True
        with self._lock:
            if call_id in self._seen:
                return False
            self._seen[call_id] = None
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        return True

    def _span(self, kwargs: Any, response: Any, start: datetime, end: datetime, failed: bool) -> dict[str, Any]:
        parameters = kwargs.get("litellm_params") or {}
        provider = str(kwargs.get("custom_llm_provider") or parameters.get("custom_llm_provider") or "")
        identity = str(kwargs.get("litellm_call_id") or "").replace("-", "")
        span = {
            "trace_id": str(kwargs.get("litellm_trace_id") or identity).replace("-", ""),
            "span_id": identity,
            "name": str(kwargs.get("call_type") or "completion"),
            "caller": self._caller,
            "model": str(kwargs.get("model") or ""),
            "provider": provider,
            "started_at": int(start.timestamp() * 1e6),
            "ended_at": int(end.timestamp() * 1e6),
            "latency_ms": (end - start).total_seconds() * 1000,
        }
        first = kwargs.get("completion_start_time")
        if kwargs.get("stream") and isinstance(first, datetime) and first < end:
            span["ttft_ms"] = (first - start).total_seconds() * 1000
        if failed:
            error = kwargs.get("exception")
            timeout = isinstance(error, BaseException) and is_timeout(error)
            span["status"] = "timeout" if timeout else "error"
            span["error"] = describe(error) if isinstance(error, BaseException) else "error"
        if kwargs.get("cache_hit"):
            # LiteLLM's own cache answered: the provider was not called.
            span["cost_usd"] = 0.0
        said = answer_fields(response)
        said.pop("model", None)
        span.update((name, value) for name, value in said.items() if name in self._publisher.known_fields)
        span.update(usage_fields(response, provider))
        return span
