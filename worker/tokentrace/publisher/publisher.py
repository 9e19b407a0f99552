"""Publisher: what an application publishes the spans of its calls with. It needs no extra and no running worker."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar

from tokentrace.errors import ConfigError, UsageError
from tokentrace.kafka.background_producer import BackgroundProducer
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.schema_ids import confluent_header, register
from tokentrace.model.bundled_schemas import bundled_schema
from tokentrace.model.span_encoder import span_encoder
from tokentrace.publisher import process
from tokentrace.publisher.call import Call
from tokentrace.publisher.clients import wrap
from tokentrace.publisher.litellm_callback import callback
from tokentrace.publisher.otel import TokentraceExporter

_Client = TypeVar("_Client")

#: Reasons for a loss besides those of the queue. INVALID: the span does not match the schema.
INVALID: Final = "invalid"
#: Most names of counts in `Stats.unread`.
MAX_UNREAD: Final = 100


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of one process: every span that was published is in one of them.

    delivered: Kafka has acknowledged them. queued: on their way. lost: reason -> spans.
    unread: count in the providers' usage that is not read, such as `details.new_tokens` -> calls that had it.
    """

    delivered: int = 0
    queued: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    unread: Mapping[str, int] = field(default_factory=dict)

    @property
    def published(self) -> int:
        """Spans that the application has published, lost ones included."""
        return self.delivered + self.queued + sum(self.lost.values())


class Publisher:
    """Publishes spans to Kafka in the background. Make one for a process, and use it from any thread or task.

    After its construction it never raises and never waits, but in `flush` and `close`. Spans that cannot be published
    are counted in `stats` and named in the log, once a minute for each reason.
    """

    def __init__(
        self,
        bootstrap_servers: str | None = None,
        topic: str | None = None,
        *,
        caller: str | None = None,
        properties: Mapping[str, Any] | None = None,
        schema_registry: str | Mapping[str, Any] | None = None,
        schema_id: int | None = None,
        max_queue: int = 100_000,
        max_queue_bytes: int = 64 << 20,
        flush_timeout_s: float = 5.0,
        flush_on_sigterm: bool = True,
    ) -> None:
        """Check the settings; raises ConfigError for wrong ones. The first span connects.

        bootstrap_servers, topic, caller: else TOKENTRACE_BOOTSTRAP_SERVERS, TOKENTRACE_TOPIC (llm-spans) and
        TOKENTRACE_CALLER. properties: of librdkafka, TLS and SASL among them. schema_registry: URL, or properties of
        SchemaRegistryClient, for the Confluent wire format; schema_id: the same without a request. Without either,
        values are in single-object encoding. flush_timeout_s: longest wait at the end of the process.
        """
        servers = _setting(bootstrap_servers, "BOOTSTRAP_SERVERS", "")
        if not servers:
            raise ConfigError(["bootstrap_servers: not set; pass it to Publisher or set TOKENTRACE_BOOTSTRAP_SERVERS"])
        if "transactional.id" in (properties or {}):
            raise ConfigError(["properties: transactional.id is not possible; a publisher makes no transactions"])
        if max_queue < 1 or max_queue_bytes < 1024:
            raise ConfigError(["max_queue, max_queue_bytes: at least 1 span and 1024 bytes"])
        self._topic = _setting(topic, "TOPIC", "llm-spans")
        self._caller = _setting(caller, "CALLER", "")
        self._flush_timeout_s = flush_timeout_s
        self._forget_unread()
        self._encoder = span_encoder()
        self.known_fields = self._encoder.names
        self._registry = {"url": schema_registry} if isinstance(schema_registry, str) else schema_registry
        header: Any = self._encoder.header
        if schema_id is not None:
            header = confluent_header(schema_id)
        elif self._registry is not None:
            header = self._registered_header
        self._queue = BackgroundProducer(
            KafkaClients(bootstrap_servers=servers, client_id="tokentrace-publisher", properties=properties),
            self._topic,
            max_queue=max_queue,
            max_queue_bytes=max_queue_bytes,
            header=header,
            # Not after the fork: multiprocessing then forgets what a child has to do at its end.
            on_start=lambda: process.at_end_of_child(self.close),
        )
        try:
            self._queue.check()
        except UsageError as error:
            raise ConfigError([str(error).removeprefix("kafka.").rstrip(".")]) from error
        process.watch(self, sigterm=flush_on_sigterm)

    def call(
        self,
        model: str = "",
        provider: str = "",
        *,
        caller: str | None = None,
        name: str = "chat",
        trace_id: str = "",
        parent_span_id: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Call:
        """Begin a call of a model, for `with` or `async with`; its span is published at the end.

        model: empty takes the answer's. trace_id: empty makes one.
        """
        span: dict[str, Any] = {"model": model, "provider": provider, "name": name, "trace_id": trace_id}
        span["caller"] = self._caller if caller is None else caller
        if parent_span_id:
            span["parent_span_id"] = parent_span_id
        if attributes:
            span["attributes"] = dict(attributes)
        return Call(self, span)

    def wrap(
        self, client: _Client, *, provider: str = "", caller: str | None = None, stream_usage: bool = True
    ) -> _Client:
        """Publish every call of an `openai` or `anthropic` client, sync or async, streams included. Returns it.

        provider: empty takes it from the client's kind and address. stream_usage: let the streams of chat completions
        end with their usage, which OpenAI gives on request; the part that has it is not passed on.
        """
        return wrap(self, client, provider=provider, caller=caller, stream_usage=stream_usage)

    def exporter(self) -> TokentraceExporter:
        """Make an exporter for OpenTelemetry's SDK: `BatchSpanProcessor(publisher.exporter())`."""
        return TokentraceExporter(self, self._caller)

    def litellm(self) -> Any:
        """Make a callback for LiteLLM: `litellm.callbacks = [publisher.litellm()]`."""
        return callback(self, self._caller)

    def publish(self, span: Mapping[str, Any]) -> bool:
        """Publish a span in the shape of `schemas/span.avsc`. Fields that are left out take their defaults.

        Returns False if the span is lost, which is counted.
        """
        try:
            if self._caller and not span.get("caller"):
                span = {**span, "caller": self._caller}
            if not span.get("model"):
                self._queue.warn("A span names no model; the workers reject it.", "model_missing")
            datum = self._encoder.datum(span)
        except Exception as error:
            return self._queue.lose(INVALID, str(error) if isinstance(error, ValueError) else repr(error))
        return self._queue.send(datum)

    def failed(self, what: str, error: object) -> None:
        """Log a failure that cost a part of a span, once a minute for each kind."""
        text = repr(error) if isinstance(error, BaseException) else str(error)
        self._queue.warn(f"A span goes without its {what}: {text}", what)

    def note_unread(self, names: Iterable[str]) -> None:
        """Count what a call's usage has and no span can say, and log it, once a minute."""
        with self._unread_lock:
            for name in names:
                if name in self._unread or len(self._unread) < MAX_UNREAD:
                    self._unread[name] += 1
        listed = ", ".join(sorted(names)[:5])
        self._queue.warn(f"Usage has counts that are not read, and are in no span: {listed}.", "unread")

    @property
    def stats(self) -> Stats:
        """Spans of this process by what has become of them. A forked child begins at 0."""
        counts = self._queue.counts
        with self._unread_lock:
            return Stats(counts.delivered, counts.queued, counts.lost, dict(self._unread))

    def flush(self, timeout_s: float | None = None) -> int:
        """Wait until the spans are delivered, at most so long (flush_timeout_s). Returns how many are still queued."""
        return self._queue.flush(self._flush_timeout_s if timeout_s is None else timeout_s)

    def close(self, timeout_s: float | None = None) -> int:
        """Flush and end. Returns how many spans were not delivered; they are lost. `atexit` calls it."""
        process.forget(self)
        left = self._queue.close(self._flush_timeout_s if timeout_s is None else timeout_s)
        if left:
            self._queue.warn(f"{left} spans were not delivered to {self._topic} in time, and are lost.", "close")
        return left

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def after_fork(self) -> None:
        """Begin again in a forked child."""
        self._forget_unread()
        self._queue.after_fork()

    def _forget_unread(self) -> None:
        # Another thread may have held the lock when the process was forked.
        self._unread, self._unread_lock = Counter[str](), threading.Lock()

    def _registered_header(self) -> bytes:
        return confluent_header(register(self._registry or {}, f"{self._topic}-value", bundled_schema("span")))


def _setting(given: str | None, variable: str, default: str) -> str:
    return os.environ.get(f"TOKENTRACE_{variable}", default) if given is None else given
