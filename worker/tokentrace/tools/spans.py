"""Spans of a topic, decoded one by one for reading: with the schema that each message names, filtered by fields."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any, Final

import fastavro

from tokentrace.decode.framing import Framing, OtlpFraming, frame, single_span_framing
from tokentrace.decode.otlp.parts import shown
from tokentrace.decode.otlp.recognize import is_otlp
from tokentrace.decode.otlp.wire import Malformed
from tokentrace.decode.resolve import resolve_branches
from tokentrace.decode.schema_key import SchemaKey
from tokentrace.decode.schema_tree import parse_schema
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.errors import SchemaError, UsageError
from tokentrace.kafka.batch import message_offset, message_partition, schema_headers
from tokentrace.kafka.reader import Message, TopicReader
from tokentrace.model.varint import decode_long

#: Time between two looks for new messages.
FOLLOW_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class ReadSpan:
    """One span of a message, or the problem that keeps the message from being read.

    event: the name of another event of a union, which is not a span; empty for a span.
    """

    partition: int
    offset: int
    timestamp_ms: int | None
    span: Mapping[str, Any]
    problem: str = ""
    event: str = ""


@dataclass(frozen=True, slots=True)
class _Reading:
    """Reading of a writer schema. events: by branch of a top-level union, the name of one that is not a span."""

    parsed: Any
    events: Sequence[str] = ()


class SpanReader:
    """Reads the spans of one topic, without joining a group or committing."""

    def __init__(self, reader: TopicReader, schemas: WriterSchemas, framing: Framing | OtlpFraming) -> None:
        self._reader = reader
        self._schemas = schemas
        self._given = framing
        self._framing: Framing = single_span_framing(framing)
        self._readings: dict[SchemaKey, _Reading] = {}

    def newest(self, count: int | None) -> dict[int, int]:
        """Return partition -> the offset from which it has `count` messages; its beginning for None."""
        if not self._reader.exists():
            raise UsageError("The topic does not exist. Check kafka.topic.")
        partitions = list(range(self._reader.partition_count()))
        if count is None:
            return dict.fromkeys(partitions, 0)
        return {partition: max(end - count, 0) for partition, end in self._reader.end_offsets(partitions).items()}

    def read(self, starts: dict[int, int]) -> Iterator[ReadSpan]:
        """Give the spans from these offsets to the end that the topic has now, and move the offsets there."""
        for message in self._reader.read_to_end(dict(starts)):
            starts[message_partition(message)] = message_offset(message) + 1
            yield from self._spans(message)

    def follow(self, starts: dict[int, int], pause: Callable[[float], None] = time.sleep) -> Iterator[ReadSpan]:
        """Give the spans from these offsets, and every later one, for ever."""
        while True:
            yield from self.read(starts)
            pause(FOLLOW_PAUSE_S)

    def _spans(self, message: Message) -> Iterator[ReadSpan]:
        kind, timestamp_ms = message.timestamp()
        place = message_partition(message), message_offset(message), timestamp_ms if kind else None
        try:
            event, found = self._decode(message.value(), schema_headers([message]))
        except (SchemaError, ValueError) as error:
            yield ReadSpan(*place, {}, str(error))
            return
        for span in found if isinstance(found, list) else [found]:
            if isinstance(span, dict):
                yield ReadSpan(*place, span, event=event)
            else:
                yield ReadSpan(*place, {}, "" if event else "the value is not a span", event)

    def _decode(self, value: bytes | None, headers: Mapping[str, Sequence[bytes | str | None]]) -> tuple[str, Any]:
        """Return (the name of another event than a span, else empty; the value, for OTLP a list of spans)."""
        if is_otlp(value or b"", self._given):
            try:
                return "", shown(value or b"")
            except Malformed as error:
                raise ValueError(f"the value is not a message of OTLP: {error}") from error
        framed = frame([value], self._framing, headers)
        if framed.rejects:
            raise ValueError(framed.rejects[0].error)
        key = framed.keys[int(framed.key[0])]
        reading = self._reading(key)
        data = framed.buffer[int(framed.start[0]) : int(framed.end[0])].tobytes()
        stream = io.BytesIO(data)
        try:
            span = fastavro.schemaless_reader(stream, reading.parsed, None, handle_unicode_errors="replace")
            event = reading.events[decode_long(data, 0)[0]] if reading.events else ""
        except Exception as error:
            # Fastavro raises exceptions of many types for bytes that are not of the schema.
            raise ValueError(f"the value is not of the schema {key} ({type(error).__name__})") from error
        if stream.read(1):
            raise ValueError(f"the value goes on behind the end of its schema {key}")
        return event, span

    def _reading(self, key: SchemaKey) -> _Reading:
        """Return how a schema is read. Raises SchemaError if it cannot be found or read."""
        if key not in self._readings:
            if (failure := self._schemas.fetch([key])) is not None:
                raise failure
            schema = self._schemas.get(key)
            branches = resolve_branches(schema) or ()
            events = [branch if isinstance(branch, str) else "" for branch in branches]
            self._readings[key] = _Reading(parse_schema(schema), events)
        return self._readings[key]


def parse_conditions(conditions: Sequence[str]) -> list[tuple[tuple[str, ...], str]]:
    """Return (path of a field, glob) of each `field=glob`, such as `attributes.team=search*`. Raises UsageError."""
    parsed: list[tuple[tuple[str, ...], str]] = []
    for condition in conditions:
        field, equals, glob = condition.partition("=")
        if not field or not equals:
            raise UsageError(f"{condition!r} is not field=glob, such as model=gpt-* or attributes.team=search")
        first, _, rest = field.partition(".")
        parsed.append(((first, rest) if rest else (first,), glob))
    return parsed


def matches(span: Mapping[str, Any], conditions: Sequence[tuple[tuple[str, ...], str]]) -> bool:
    """Return whether a span's fields match every glob; a field that is absent or null matches as empty text."""
    for path, glob in conditions:
        value: Any = span
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if not fnmatchcase("" if value is None else str(as_json(value)), glob):
            return False
    return True


def as_json(value: Any) -> Any:
    """Return an Avro value as JSON has it: times as RFC 3339, bytes in hex, NaN and infinities as text."""
    if isinstance(value, Mapping):
        return {str(name): as_json(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(inner) for inner in value]
    if isinstance(value, (datetime, date)):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
