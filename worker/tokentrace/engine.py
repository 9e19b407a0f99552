"""The engine: one batch of raw messages becomes an addition to the delta. No Kafka and no HTTP.

frame -> decode -> validate -> (seen) -> index -> price -> aggregate, each stage over whole arrays. A batch is
counted whole or not at all: when a writer schema cannot be had right now, `SchemaUnavailable` leaves the delta
as it was and the caller offers the same batch again later.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from . import reasons
from .aggregate import aggregate
from .decode import SpanDecoder
from .delta import Delta
from .groups import GroupIndex
from .measures import Layout
from .messages import DeadLetter, RawBatch, Reject
from .pricing import Priced, Pricer
from .seen import SeenSpans
from .spans import SpanBatch
from .validate import judge, mend


class StageTimer:
    """Adds the time since the last mark to a stage's account."""

    def __init__(self, seconds: dict[str, float], timer: Callable[[], float] = time.perf_counter) -> None:
        self._seconds = seconds
        self._timer = timer
        self._last = timer()

    def start(self) -> None:
        self._last = self._timer()

    def mark(self, stage: str) -> None:
        now = self._timer()
        self._seconds[stage] += now - self._last
        self._last = now


class Engine:
    """Counts batches into a delta."""

    def __init__(
        self,
        decoder: SpanDecoder,
        groups: GroupIndex,
        pricer: Pricer,
        layout: Layout,
        timer: StageTimer,
        clock: Callable[[], float] = time.time,
        seen: SeenSpans | None = None,
    ) -> None:
        """seen: the spans that are not to be counted again; None where every span is counted."""
        self._seen = seen
        self._decoder = decoder
        self._groups = groups
        self._pricer = pricer
        self._layout = layout
        self._timer = timer
        self._clock = clock

    def count(self, batch: RawBatch, delta: Delta) -> None:
        """Count every message of the batch into `delta`: as a span, or as a reject with its dead letter.

        Raises SchemaUnavailable, with `delta` unchanged, when a writer schema cannot be fetched now.
        """
        timer = self._timer
        timer.start()
        decoded = self._decoder.decode(batch.values)
        timer.mark("decode")
        spans, rejected = judge(decoded.spans)
        if self._seen is not None:
            timer.mark("validate")
            # After the judgement: a span that was rejected may be sent again, mended. Before parts are counted.
            fresh = self._seen.fresh(spans, batch, delta)
            if not fresh.all():
                _tally(delta.duplicates, batch.partitions[spans.row[~fresh]])
                spans = spans.take(np.flatnonzero(fresh))
            timer.mark("deduplicate")
        spans, parts = mend(spans)
        timer.mark("validate")
        group = self._groups.lookup(spans)
        cell = self._groups.cells(group, spans.status)
        timer.mark("index")
        priced = self._pricer.price(spans, group, self._groups.groups)
        timer.mark("price")
        self._add(spans, cell, priced, delta)
        # Dead letters keep the order of the log.
        rejects = sorted([*decoded.rejects, *rejected], key=lambda reject: reject.row)
        delta.reasons.update(Counter(reject.reason for reject in rejects))
        delta.reasons.update(parts)
        delta.dead_letters.extend(_dead_letters(batch, rejects))
        _tally(delta.polled, batch.partitions)
        _tally(delta.counted, batch.partitions[spans.row])
        _tally(delta.rejected, batch.partitions[[reject.row for reject in rejects]] if rejects else [])
        delta.positions.update(batch.positions)
        timer.mark("aggregate")

    def _add(self, spans: SpanBatch, cell: NDArray[np.int64], priced: Priced, delta: Delta) -> None:
        """Aggregate by event minute and cell together, then hand each minute's part to the delta."""
        if not len(spans):
            return
        minute = event_minutes(spans, self._clock())
        first = int(minute.min())
        cells = int(cell.max()) + 1
        sums = aggregate(spans, (minute - first) * cells + cell, priced, self._layout)
        bounds = np.flatnonzero(np.diff(sums.keys // cells)) + 1
        for part, values in zip(np.split(sums.keys, bounds), np.split(sums.values, bounds), strict=True):
            delta.add(first + int(part[0]) // cells, part % cells, values)


def event_minutes(spans: SpanBatch, now_s: float) -> NDArray[np.int64]:
    """int64[m], the minute since the epoch in which each span ended; it started, or now, where that is unknown."""
    ended, started = spans.ended_at_us, spans.started_at_us
    times_us = np.where(ended.present & (ended.values > 0), ended.values, started.values)
    return np.where(times_us > 0, times_us, int(now_s * 1e6)) // 60_000_000


def _dead_letters(batch: RawBatch, rejects: Sequence[Reject]) -> list[DeadLetter]:
    """A tombstone carries nothing that could be looked at again, so it is counted and not kept."""
    return [
        DeadLetter(batch.envelope(reject.row), reject.reason, reject.error)
        for reject in rejects
        if reject.reason != reasons.TOMBSTONE
    ]


def _tally(counter: Counter[int], partitions: NDArray[np.int32] | Sequence[int]) -> None:
    counts = np.bincount(partitions) if len(partitions) else np.zeros(0, np.int64)
    for partition in np.flatnonzero(counts):
        counter[int(partition)] += int(counts[partition])
