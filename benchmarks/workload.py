"""Workload: messages of four writer schemas over any number of groups, as tokentrace's own traffic would look.

The values are those of `tokentrace.tools.traffic` (a quarter leaves its cost to the worker, a fifth carries a score);
model, provider and caller are dealt out evenly over the groups, which is harder on caches than real traffic.
"""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import fastavro
import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.framing import SINGLE_OBJECT_HEADER, SINGLE_OBJECT_MARKER
from tokentrace.decode.schemas.files import fingerprint_of
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.model.messages import Envelope, RawBatch
from tokentrace.tools.traffic import Traffic

ROOT: Final = Path(__file__).parent.parent
BATCH: Final = 10_000
HEADER: Final = SINGLE_OBJECT_HEADER
#: Different spans; more messages than these repeat their values with other groups.
_DISTINCT: Final = 20_000
#: Fields of an application's own in the wide schema.
_EXTRA: Final = 28
_NOW_S: Final = 1_790_000_000.0

#: The models that have a published price, then as many as are wanted that have none.
_KNOWN: Final = (
    ("gpt-4o", "openai"),
    ("gpt-4o-mini", "openai"),
    ("o3", "openai"),
    ("claude-sonnet-4-20250514", "anthropic"),
    ("gemini-2.5-flash", "google"),
)


def default_schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((ROOT / "schemas" / "span.avsc").read_text())
    return schema


def small_schema() -> dict[str, Any]:
    """Schema of a minimal publisher."""
    names = ("model", "provider", "caller", "prompt_tokens", "completion_tokens", "latency_ms", "ended_at")
    schema = default_schema()
    schema["fields"] = [field for field in schema["fields"] if field["name"] in names]
    return schema


def wide_schema() -> dict[str, Any]:
    """60 fields: the default's, with those of an application's own between the first of them."""
    kinds: list[Any] = ["string", "long", ["null", "string"], "double", "boolean", ["null", "long"], "int", "bytes"]
    schema = default_schema()
    fields = []
    for index, field in enumerate(schema["fields"]):
        fields.append(field)
        fields += [
            {"name": f"extra_{number}", "type": kinds[number % len(kinds)]}
            for number in (2 * index, 2 * index + 1)
            if number < _EXTRA
        ]
    schema["fields"] = fields
    return schema


SCHEMAS: Final = {
    "small": small_schema,
    "default": default_schema,
    "wide": wide_schema,
    "attributes": default_schema,
}
#: Kind of spans with eight billed units beside their tokens. The baselines count none of these.
UNITS: Final = "units"
#: Dimensions of the kind `dimensions`, and how many values each has: attributes that follow from the group.
DIMENSIONS: Final = {"team": 100, "feature": 50, "agent": 20, "tier": 10}


@dataclass(frozen=True, slots=True)
class Workload:
    """messages: in single-object encoding, HEADER bytes before the datum. schema: the writer's, as JSON."""

    schema: dict[str, Any]
    messages: list[bytes]

    def batches(self, size: int = BATCH) -> list[RawBatch]:
        parts = [self.messages[first : first + size] for first in range(0, len(self.messages), size)]
        return [raw_batch(part, number * size) for number, part in enumerate(parts)]

    def writer_schemas(self) -> WriterSchemas:
        return WriterSchemas({fingerprint_of(self.schema): self.schema})

    def mean_bytes(self) -> float:
        return sum(map(len, self.messages)) / len(self.messages)


def raw_batch(values: list[bytes], offset: int = 0) -> RawBatch:
    """Messages of four partitions, in runs, as a consumer gets them."""
    partitions = np.sort(np.arange(len(values), dtype=np.int32) % 4)
    times_ms = dict.fromkeys(range(4), (int(_NOW_S * 1000),) * 2)
    return RawBatch(values, partitions, dict.fromkeys(range(4), offset + len(values)), _no_envelope, times_ms, _now_ms)


def _now_ms(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.full(len(rows), int(_NOW_S * 1000))


def _no_envelope(row: int) -> Envelope:
    raise AssertionError(f"message {row} of the workload was rejected")


def labels_of(group: int, groups: int) -> tuple[str, str, str]:
    """(model, provider, caller) of a group: few models with many callers, as fleets have."""
    models = max(1, min(groups, round((groups / 5) ** 0.5 * 1.5) + 1))
    model, caller = group % models, group // models
    name = _KNOWN[model] if model < len(_KNOWN) else (f"model-{model:04d}", f"provider-{model % 8}")
    return (*name, f"team-{caller:05d}")


def labels_of_models(group: int, groups: int) -> tuple[str, str, str]:
    """As many models as groups, with one caller each: the most series a group."""
    return f"model-{group:05d}", f"provider-{group % 8}", "team"


def workload(kind: str, count: int, groups: int, *, only_models: bool = False) -> Workload:
    """`count` messages of a kind of SCHEMAS, or of `dimensions` or `units`, over so many groups."""
    make_schema = SCHEMAS.get(kind, default_schema)
    schema = make_schema()
    parsed = fastavro.parse_schema(make_schema())
    head = SINGLE_OBJECT_MARKER + fingerprint_of(schema)
    name = labels_of_models if only_models else labels_of
    spans = _spans(kind, min(count, _DISTINCT))
    order = random.Random(2).sample(range(groups), groups)
    messages = []
    for index in range(count):
        span = spans[index % len(spans)]
        group = order[index % groups]
        span["model"], span["provider"], span["caller"] = name(group, groups)
        if kind == "dimensions":
            span["attributes"] |= {name: f"{name}-{group % values}" for name, values in DIMENSIONS.items()}
        stream = io.BytesIO()
        stream.write(head)
        fastavro.schemaless_writer(stream, parsed, span)
        messages.append(stream.getvalue())
    return Workload(schema, messages)


@cache
def _spans(kind: str, count: int) -> list[dict[str, Any]]:
    ticks = iter(range(1 << 60))
    traffic = Traffic(1, lambda: _NOW_S + next(ticks) / 1000)
    rng = random.Random(1)
    return [{**traffic.span(), **_extras(kind, rng)} for _ in range(count)]


def _extras(kind: str, rng: random.Random) -> dict[str, Any]:
    if kind == "wide":
        values: tuple[Any, ...] = (
            f"value-{rng.randrange(10_000)}",
            rng.randrange(1 << 40),
            rng.choice([None, "some text of an application"]),
            rng.random(),
            True,
            rng.choice([None, rng.randrange(1000)]),
            rng.randrange(1 << 20),
            bytes(12),
        )
        return {f"extra_{number}": values[number % len(values)] for number in range(40)}
    if kind == "attributes":
        mixed: list[Any] = ["a string", rng.randrange(100_000), rng.random(), True]
        attributes = {f"attribute.{number}": mixed[number % 4] for number in range(19)}
        return {"attributes": attributes | {"eval.score": round(rng.random(), 3)}}
    if kind == UNITS:
        # Wholes are above their parts, so that nothing is repaired.
        names = (
            "cache_write_tokens", "cache_write_1h_tokens", "audio_prompt_tokens", "audio_completion_tokens",
            "image_prompt_tokens", "image_completion_tokens", "web_searches",
        )  # fmt: skip
        wholes = {"prompt_tokens": 5_000, "cached_prompt_tokens": 100, "completion_tokens": 2_000, "total_tokens": None}
        quantities = {name: rng.randrange(100, 200) for name in names} | {"cache_write_tokens": rng.randrange(200, 300)}
        return {**wholes, **quantities, "usage": {"second": float(rng.randrange(1, 60))}}
    return {}
