"""Span batches from plain dicts, an engine with its ledger around it, and totals back as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.oracle import Key, bound_text, key
from tokentrace.aggregate.dedup import Deduplicator, NullDeduplicator
from tokentrace.aggregate.delta import Delta
from tokentrace.aggregate.findings import Finding
from tokentrace.aggregate.groups import MAX_DIMENSION_GROUPS, GroupIndex
from tokentrace.aggregate.pipeline import Pipeline, StageTimer
from tokentrace.aggregate.series_budget import SeriesBudget
from tokentrace.aggregate.validate import DEFAULT_LIMITS, Limits
from tokentrace.decode import SpanDecoder
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.model.arrays import PADDING
from tokentrace.model.dimensions import Dimension, decoded_sources
from tokentrace.model.measures import RARE_SUMS, SUMS, UNIT_OF, Layout
from tokentrace.model.messages import Envelope, RawBatch
from tokentrace.model.reasons import MAX_LABEL_BYTES
from tokentrace.model.snapshot import BASE_LABELS, Snapshot
from tokentrace.model.spans import (
    FLOAT_FIELDS,
    INT_FIELDS,
    MODIFIERS,
    OPTIONAL_FIELDS,
    STATUSES,
    STRING_FIELDS,
    UNKNOWN_STATUS,
    SpanBatch,
    SpanColumns,
)
from tokentrace.model.worker_stats import STAGES
from tokentrace.pricing import SOURCE_SUMS, SOURCES, Pricer
from tokentrace.state.ledger import Ledger
from tokentrace.state.replica_state import ReplicaState

LAYOUT = Layout.build()
NOW_S = 1_790_000_300.0


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self, now_s: float = NOW_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def span_batch(*records: dict[str, Any]) -> SpanBatch:
    """Spans in the shape of `tests.spanfactory.span`; a field that is None or not there is absent."""
    columns = SpanColumns(len(records), np.zeros(PADDING, np.uint8))
    for row, record in enumerate(records):
        for name in STRING_FIELDS:
            columns.put_string(getattr(columns, name), row, record.get(name, "").encode())
        score = record.get("attributes", {}).get("eval.score")
        fields = {"eval_score": score, **{name: record.get(name.removesuffix("_us")) for name in INT_FIELDS}}
        fields |= {name: record.get(name) for name in FLOAT_FIELDS if name != "eval_score"}
        for name, value in fields.items():
            if value is not None:
                column = getattr(columns, name)
                column.values[row], column.present[row] = value, True
        for name in OPTIONAL_FIELDS:
            if (value := record.get(name)) is not None:
                columns.optional(name).values[row], columns.optional(name).present[row] = value, True
        for name in MODIFIERS:
            if text := record.get(name):
                columns.put_string(columns.modifier(name), row, text.encode())
        for unit, value in record.get("usage", {}).items():
            columns.mapped(unit).values[row], columns.mapped(unit).present[row] = value, True
        status = record.get("status", "ok")
        columns.status[row] = STATUSES.index(status) if status in STATUSES else UNKNOWN_STATUS
    return columns.select(np.ones(len(records), np.bool_))


def raw_batch(
    values: Sequence[bytes | None],
    partition: int | Sequence[int] = 0,
    offset: int = 0,
    now_s: float = NOW_S,
    schema_headers: Mapping[str, Sequence[bytes | str | None]] | None = None,
) -> RawBatch:
    """Messages of one partition, or of one partition each; every partition's offsets go on from `offset`.

    now_s: when they were published. schema_headers: see `RawBatch`.
    """
    partitions = [partition] * len(values) if isinstance(partition, int) else list(partition)
    positions = dict.fromkeys(partitions, offset)
    offsets = []
    for number in partitions:
        offsets.append(positions[number])
        positions[number] += 1

    def envelope(row: int) -> Envelope:
        headers = (("trace", b"%d" % row), ("none", None))
        return Envelope("spans", partitions[row], offsets[row], b"key-%d" % row, values[row], headers, 1000 + row)

    times_ms = dict.fromkeys(positions, (int(now_s * 1000),) * 2)
    published_ms = lambda rows: np.full(len(rows), int(now_s * 1000))  # noqa: E731
    return RawBatch(
        values,
        np.array(partitions, np.int32),
        positions,
        envelope,
        times_ms,
        published_ms,
        schema_headers=schema_headers or {},
    )


def priced(subject: Pricer, spans: SpanBatch, groups: GroupIndex) -> list[tuple[int, str]]:
    """(nano-USD, source) of each span."""
    found = subject.price(spans, groups.lookup(spans), groups.groups)
    return list(zip(found.cost_nano_usd.tolist(), (SOURCES[code] for code in found.source.tolist()), strict=True))


@cache
def published_pricer() -> Pricer:
    """One for all tests: it remembers what it has looked up."""
    return Pricer({}, clock=Clock())


class Harness:
    """An engine, its delta and its ledger, on a clock of their own."""

    def __init__(
        self,
        *,
        max_groups: int = 10_000,
        hash_bits: int = 64,
        pricer: Pricer | None = None,
        schemas: Any = None,
        quality_window_s: float = 300.0,
        layout: Layout = LAYOUT,
        deduplicator: Deduplicator | None = None,
        expire_after_s: float | None = None,
        label_sets: Sequence[frozenset[str]] = (),
        limits: Limits = DEFAULT_LIMITS,
        label_bytes: int = MAX_LABEL_BYTES,
        budget: SeriesBudget | None = None,
        dimensions: Sequence[Dimension] = (),
        max_dimension_groups: int = MAX_DIMENSION_GROUPS,
        tell: Callable[[Finding], None] | None = None,
    ) -> None:
        self.deduplicator = deduplicator or NullDeduplicator()
        self.clock = Clock()
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.groups = GroupIndex(max_groups, hash_bits, budget, dimensions, max_dimension_groups)
        self.delta = Delta(layout)
        self.ledger = Ledger(
            layout=layout,
            groups=self.groups,
            quality_window_s=quality_window_s,
            clock=self.clock,
            expire_after_s=expire_after_s,
            label_sets=label_sets,
        )
        self.state = ReplicaState(delta=self.delta, ledger=self.ledger, deduplicator=self.deduplicator)
        self.engine = Pipeline(
            decoder=SpanDecoder(schemas if schemas is not None else WriterSchemas(), texts=decoded_sources(dimensions)),
            groups=self.groups,
            pricer=pricer or published_pricer(),
            layout=layout,
            timer=StageTimer(self.seconds),
            clock=self.clock,
            deduplicator=self.deduplicator,
            limits=limits,
            label_bytes=label_bytes,
            tell=tell,
        )

    def count(self, values: Sequence[bytes | None], partition: int | Sequence[int] = 0, offset: int = 0) -> None:
        self.engine.count(raw_batch(values, partition, offset, self.clock.now_s), self.delta)

    def commit(self) -> Snapshot:
        self.state.apply(self.state.prepare())
        return self.state.snapshot


def peak_rss_bytes() -> int:
    """The highest resident size of this process; `ru_maxrss` begins with that of the process which started it."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


Cell = tuple[str, str, str, str]


Row = NDArray[np.int64] | NDArray[np.object_]


def exact(snapshot: Snapshot) -> Row:
    """The rows of a snapshot: int64, or Python's integers where they carry something."""
    if not snapshot.carried:
        return snapshot.values
    values = snapshot.values.astype(object)
    for row, carried in snapshot.carried.items():
        for column, count in carried.items():
            values[row, column] += 2**62 * count
    return values


def plain(row: Row, layout: Layout = LAYOUT) -> dict[str, Any]:
    """A cell's row by name: every sum that is not 0, every histogram that is not empty as (buckets, sum)."""
    named: dict[str, Any] = {
        name: int(row[layout.fields[name].start])
        for name in (*SUMS, *RARE_SUMS)
        if layout.fields[name].start < len(row)
    }
    for name, histogram in layout.histograms.items():
        named[f"histogram {name}"] = (row[histogram.buckets].tolist(), int(row[histogram.sum]))
    return {
        name: value for name, value in named.items() if value and not (isinstance(value, tuple) and not any(value[0]))
    }


def cells_of(snapshot: Snapshot) -> dict[Cell, dict[str, Any]]:
    """(model, provider, caller, status) -> what was counted, without regard to how cells are numbered."""
    cells: dict[Cell, dict[str, Any]] = {}
    for group, status, row in zip(snapshot.cell_group, snapshot.cell_status, exact(snapshot), strict=True):
        if row.any():
            cell = (*snapshot.groups[group].base, *snapshot.groups[group].dimensions, STATUSES[status])
            assert cell not in cells
            cells[cell] = plain(row, snapshot.layout)
    return cells


def samples(snapshot: Snapshot) -> Counter[Key]:
    """The counters and histograms with their default labels, keyed as `tests.oracle` keys them."""
    totals: Counter[Key] = Counter()
    for group, status, row in zip(snapshot.cell_group, snapshot.cell_status, exact(snapshot), strict=True):
        labels = dict(zip(BASE_LABELS, snapshot.groups[group].base, strict=True))
        two = {"model": labels["model"], "provider": labels["provider"]}

        def sum_of(name: str, row: Row = row) -> int:
            column = snapshot.layout.fields[name].start
            return int(row[column]) if column < len(row) else 0

        totals[key("tokentrace_cost_total", **labels)] += sum_of("cost_nano_usd")
        totals[key("tokentrace_spans_total", status=STATUSES[status], **two)] += sum_of("spans")
        for kind in ("prompt", "completion"):
            totals[key("tokentrace_tokens_total", token_type=kind, **labels)] += sum_of(f"{kind}_tokens")
        for name in ("cached_prompt_tokens", "reasoning_tokens"):
            totals[key(f"tokentrace_{name}_total", **labels)] += sum_of(name)
        for name, unit in UNIT_OF.items():
            totals[key("tokentrace_usage_total", unit=unit.name, **labels)] += sum_of(name)
        for reason in ("prompt_excludes_cache", "whole_below_parts"):
            totals[key("tokentrace_spans_repaired_total", reason=reason, **two)] += sum_of(f"repaired_{reason}")
        for source, column in zip(SOURCES, SOURCE_SUMS, strict=True):
            totals[key("tokentrace_span_pricing_total", source=source, **two)] += sum_of(column)
        for name, histogram in snapshot.layout.histograms.items():
            cumulative = np.cumsum(row[histogram.buckets]).tolist()
            for bound, count in zip([*map(bound_text, histogram.bounds), "+Inf"], cumulative, strict=True):
                totals[key(f"tokentrace_{name}_bucket", le=bound, **two)] += count
            totals[key(f"tokentrace_{name}_count", **two)] += cumulative[-1]
            totals[key(f"tokentrace_{name}_sum", **two)] += int(row[histogram.sum])
    return totals


def qualities(snapshot: Snapshot) -> dict[tuple[str, str], float]:
    """(model, provider) -> the mean score in the quality window; absent without scores."""
    sums: Counter[tuple[str, str]] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    for group, score_sum, count in zip(
        snapshot.cell_group, snapshot.quality_sum.tolist(), snapshot.quality_count.tolist(), strict=True
    ):
        labels = snapshot.groups[group][:2]
        sums[labels] += score_sum
        counts[labels] += count
    return {labels: sums[labels] / 1e6 / count for labels, count in counts.items() if count}
