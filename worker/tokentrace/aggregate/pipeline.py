"""Pipeline: one batch of raw messages becomes an addition to the delta. No Kafka and no HTTP.

frame -> decode -> validate -> deduplicate -> shorten -> index -> price -> aggregate, each stage over whole arrays. A
batch is counted whole or not at all: when a writer schema is unavailable, `SchemaUnavailable` leaves the delta
unchanged and the caller offers the same batch again later.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.cost_limit import ComputedCostLimit
from tokentrace.aggregate.dedup import Deduplicator, NullDeduplicator
from tokentrace.aggregate.delta import Delta
from tokentrace.aggregate.findings import Finding, of_rejects, of_spans
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.aggregate.repair import repair
from tokentrace.aggregate.shorten import shorten
from tokentrace.aggregate.sums import aggregate_parts
from tokentrace.aggregate.text_sources import TextSources
from tokentrace.aggregate.validate import DEFAULT_LIMITS, Limits, reject_invalid
from tokentrace.decode import SpanDecoder
from tokentrace.model import reasons
from tokentrace.model.measures import Layout
from tokentrace.model.messages import WHOLE_MESSAGE, DeadLetter, Envelope, RawBatch, Reject
from tokentrace.model.reasons import MAX_LABEL_BYTES
from tokentrace.model.snapshot import OVERFLOW_GROUP
from tokentrace.model.spans import CLAMPED, EARLIEST_US, EVENT_TIME, Numbers, SpanBatch
from tokentrace.pricing import Priced, Pricer

MINUTE_US: Final = 60_000_000
#: Longest time by which a span may end after its message was published: clocks differ.
AHEAD_US: Final = 60_000_000


class StageTimer:
    """Adds the time since the last mark to the seconds of a stage."""

    def __init__(self, seconds: MutableMapping[str, float], timer: Callable[[], float] = time.perf_counter) -> None:
        self._seconds = seconds
        self._timer = timer
        self._last = timer()

    def start(self) -> None:
        self._last = self._timer()

    def mark(self, stage: str) -> None:
        now = self._timer()
        self._seconds[stage] += now - self._last
        self._last = now


class Pipeline:
    """Counts batches into a delta."""

    def __init__(
        self,
        *,
        decoder: SpanDecoder,
        groups: GroupIndex,
        pricer: Pricer,
        layout: Layout,
        timer: StageTimer,
        clock: Callable[[], float] = time.time,
        deduplicator: Deduplicator | None = None,
        limits: Limits = DEFAULT_LIMITS,
        label_bytes: int = MAX_LABEL_BYTES,
        tell: Callable[[Finding], None] | None = None,
    ) -> None:
        """label_bytes: longest label value, bytes of UTF-8; longer ones are shortened.

        tell: takes what publishers should change, a finding of each kind of a batch.
        """
        self._tell = tell
        self._label_bytes = label_bytes
        self._texts = TextSources(groups.dimensions.sources)
        self._deduplicator = deduplicator or NullDeduplicator()
        self._decoder = decoder
        self._groups = groups
        self._pricer = pricer
        self._layout = layout
        self._timer = timer
        self._clock = clock
        self._limits = limits
        self._cost_limit = ComputedCostLimit(limits.cost_usd, pricer)

    def count(self, batch: RawBatch, delta: Delta) -> None:
        """Count every message of the batch into `delta`: its spans, or a reject with its dead letter.

        Raises SchemaUnavailable, with `delta` unchanged, when a writer schema cannot be fetched now.
        """
        timer = self._timer
        timer.start()
        decoded = self._decoder.decode(batch.values, batch.schema_headers)
        timer.mark("decode")
        spans, rejected = reject_invalid(decoded.spans, self._limits)
        # Which prices apply depends on them.
        spans = with_event_times(spans, batch, self._clock())
        spans, costly = self._cost_limit.reject(spans, self._groups.groups)
        timer.mark("validate")
        # After validation: a span that was rejected may be published again, corrected. Before parts are counted.
        is_new = self._deduplicator.is_new(spans, batch, delta)
        if not is_new.all():
            _tally(delta.duplicates, batch.partitions[spans.row[~is_new]])
            spans = spans.take(np.flatnonzero(is_new))
        timer.mark("deduplicate")
        unrepaired = spans
        spans, parts = repair(spans)
        timer.mark("validate")
        short, renamed = shorten(spans, self._label_bytes)
        group = self._groups.lookup(short, *self._texts.of(spans, short.buffer, batch))
        cell = self._groups.cells(group, spans.status)
        timer.mark("index")
        # A shortened name has no price: such spans are priced by their own names, as those of the overflow group are.
        priced_as = group if renamed is None else np.where(renamed, OVERFLOW_GROUP, group)
        priced = self._pricer.price(spans, priced_as, self._groups.groups)
        timer.mark("price")
        if len(spans):
            times_us = spans.numbers(EVENT_TIME).values
            if CLAMPED in spans.optional:
                delta.clamped += int(spans.optional[CLAMPED].present.sum())
            self._add(times_us // MINUTE_US, spans, cell, priced, delta)
            _advance_event_times(batch.partitions[spans.row], times_us, delta)
        # Dead letters keep the order of the log.
        rejects = sorted([*decoded.rejects, *rejected, *costly], key=lambda reject: (reject.row, reject.part))
        delta.reasons.update(Counter(reject.reason for reject in rejects))
        delta.reasons.update(parts)
        letters = _dead_letters(batch, rejects)
        delta.dead_letters.extend(letters)
        delta.dead_letter_bytes += sum(letter.envelope.size for letter in letters)
        _tally(delta.polled, batch.partitions)
        _tally(delta.counted, batch.partitions[spans.row])
        rejected_in = batch.partitions[[reject.row for reject in rejects]].tolist() if rejects else []
        _tally(delta.rejected, rejected_in)
        delta.rejects.update(Counter(zip(rejected_in, (reject.reason for reject in rejects), strict=True)))
        if decoded.counts is not None:
            _add(delta.surplus, batch.partitions, decoded.counts.found - 1)
            _add(delta.ignored, batch.partitions, decoded.counts.ignored)
        delta.positions.update(batch.positions)
        if self._tell is not None:
            for finding in of_rejects(batch, rejects, decoded.spans) if rejects else ():
                self._tell(finding)
            for finding in of_spans(batch, unrepaired, spans, parts):
                self._tell(finding)
        timer.mark("aggregate")

    def _add(
        self, minute: NDArray[np.int64], spans: SpanBatch, cell: NDArray[np.int64], priced: Priced, delta: Delta
    ) -> None:
        """Aggregate by event minute and cell together, then hand each minute's part to the delta."""
        first = int(minute.min())
        cells = int(cell.max()) + 1
        for sums in aggregate_parts(spans, (minute - first) * cells + cell, priced, self._layout):
            delta.reserve(sums.largest)
            bounds = np.flatnonzero(np.diff(sums.keys // cells)) + 1
            for keys, values in zip(np.split(sums.keys, bounds), np.split(sums.values, bounds), strict=True):
                delta.add(first + int(keys[0]) // cells, keys % cells, values)


def with_event_times(spans: SpanBatch, batch: RawBatch, now_s: float) -> SpanBatch:
    """Add the event times, and where any was clamped, a column of that: 1 for a span that had a time, 0 without one."""
    times_us, clamped = event_times(spans, batch, now_s)
    changes = {EVENT_TIME: Numbers(times_us, np.ones(len(spans), np.bool_))}
    if clamped.any():
        untrue = clamped & ((spans.ended_at_us.values != 0) | (spans.started_at_us.values != 0))
        changes[CLAMPED] = Numbers(untrue.astype(np.int64), clamped)
    return spans.replace(changes)


def event_times(spans: SpanBatch, batch: RawBatch, now_s: float) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return (int64[m], the end of each span, microseconds of Unix time; bool[m], whether it was clamped).

    A span without an end is counted at its start. A time that is absent, before EARLIEST_US, or more than AHEAD_US
    after the message was published is clamped to the time of publication.
    """
    ended, started = spans.ended_at_us, spans.started_at_us
    times_us = np.where(ended.present & (ended.values > 0), ended.values, started.values)
    now_us = int(now_s * 1e6)
    # Reading a message's timestamp costs a call. Timestamps of a partition ascend, except for clock skew, so only spans
    # far ahead of the first message's timestamp are compared with that of their own message.
    first_us = np.zeros(max(batch.times_ms, default=0) + 1, np.int64)
    for partition, (first_ms, _) in batch.times_ms.items():
        first_us[partition] = min(first_ms * 1000, now_us)
    limit_us = first_us[batch.partitions[spans.row]] + AHEAD_US
    suspects = np.flatnonzero((times_us > limit_us) | (times_us < EARLIEST_US))
    clamped = np.zeros(len(spans), np.bool_)
    if not len(suspects):
        return times_us, clamped
    published_us = np.minimum(batch.timestamps_ms(spans.row[suspects]) * 1000, now_us)
    claimed_us = times_us[suspects]
    wrong = (claimed_us > published_us + AHEAD_US) | (claimed_us < EARLIEST_US)
    times_us[suspects[wrong]] = published_us[wrong]
    clamped[suspects[wrong]] = True
    return times_us, clamped


def _advance_event_times(partitions: NDArray[np.int32], times_us: NDArray[np.int64], delta: Delta) -> None:
    latest_us = np.zeros(int(partitions.max()) + 1, np.int64)
    np.maximum.at(latest_us, partitions, times_us)
    for partition in np.flatnonzero(latest_us).tolist():
        delta.advance_event_time(partition, int(latest_us[partition]))


def _dead_letters(batch: RawBatch, rejects: Sequence[Reject]) -> list[DeadLetter]:
    """Return the dead letters of rejects. That of a span has a message of this span alone, which can be replayed."""
    return [
        DeadLetter(_envelope(batch, reject), reject.reason, reject.error, reject.part)
        for reject in rejects
        if reject.reason not in reasons.NOT_KEPT
    ]


def _envelope(batch: RawBatch, reject: Reject) -> Envelope:
    envelope = batch.envelope(reject.row)
    if reject.part == WHOLE_MESSAGE:
        return envelope
    # Only messages of OTLP have more spans than one.
    from tokentrace.decode.otlp.parts import one_span

    return replace(envelope, value=one_span(envelope.value or b"", reject.part))


def _add(counter: Counter[int], partitions: NDArray[np.int32], counts: NDArray[np.int64]) -> None:
    """Add counts (int64[n]) by partition."""
    sums = np.zeros(int(partitions.max(initial=-1)) + 1, np.int64)
    np.add.at(sums, partitions, counts)
    for partition in np.flatnonzero(sums).tolist():
        counter[partition] += int(sums[partition])


def _tally(counter: Counter[int], partitions: NDArray[np.int32] | Sequence[int]) -> None:
    counts = np.bincount(partitions) if len(partitions) else np.zeros(0, np.int64)
    for partition in np.flatnonzero(counts):
        counter[int(partition)] += int(counts[partition])
