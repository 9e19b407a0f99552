"""The walker beside the plain reader: what a batch says, in a form to compare, and messages that are damaged."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from tests.decode.helpers import spans_of
from tests.otlpfactory import random_traces
from tokentrace.decode.otlp.decoder import OtlpBatch, OtlpDecoder

TEXTS = ("attributes.team", "span.name")


def contents(batch: OtlpBatch) -> list[Any]:
    """Everything that a batch says."""
    spans = batch.spans
    texts = {
        source: [
            spans.buffer[first : first + size].tobytes()
            for first, size in zip(strings.offset.tolist(), strings.length.tolist(), strict=True)
        ]
        for source, strings in spans.texts.items()
    }
    places = [] if spans.part is None else list(zip(spans.row.tolist(), spans.part.tolist(), strict=True))
    rejects = sorted((reject.row, reject.part, reject.reason, reject.error) for reject in batch.rejects)
    return [spans_of(spans), texts, places, rejects, batch.counts.found.tolist(), batch.counts.ignored.tolist()]


def assert_same(values: Sequence[bytes | None]) -> OtlpBatch:
    """Decode messages both ways. Raises AssertionError where they disagree."""
    found = OtlpDecoder(texts=TEXTS, min_spans=1).decode(values, as_json=False)
    plain = OtlpDecoder(texts=TEXTS, columnar=False).decode(values, as_json=False)
    assert contents(found) == contents(plain)
    return found


def assert_as_official(values: Sequence[bytes], batch: OtlpBatch) -> None:
    """Compare the spans found in messages that the official classes take, too."""
    whole = {reject.row for reject in batch.rejects if reject.part < 0}
    for row, value in enumerate(values):
        data = TracesData()
        try:
            data.ParseFromString(value)
        except Exception:
            # Of many types. They also refuse text that is not UTF-8, which only labels have to be here.
            continue
        if row not in whole:
            spans = sum(len(scope.spans) for resource in data.resource_spans for scope in resource.scope_spans)
            assert int(batch.counts.found[row]) == spans


def damaged(rng: random.Random) -> bytes:
    """A message of which some bytes are changed, cut out or put in."""
    value = bytearray(random_traces(rng, most=5)[0].SerializeToString())
    for _ in range(rng.randrange(3)):
        at = rng.randrange(len(value) or 1)
        change = rng.randrange(4)
        if change == 0:
            value[at : at + 1] = bytes([rng.randrange(256)])
        elif change == 1:
            del value[at : at + rng.randrange(1, 9)]
        elif change == 2:
            value[at:at] = rng.randbytes(rng.randrange(1, 5))
        else:
            value = value[:at]
    return bytes(value)
