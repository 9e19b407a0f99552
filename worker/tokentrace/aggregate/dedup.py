"""Deduplication: remembers recently counted spans, so that a republished span is not counted twice.

A span is identified by 64 bits, see `span_keys`. A whole batch is looked up and added at once, in one `IdTable`; Python
runs once per partition. The ids that a commit counted of a partition are `DedupChunk`s, which become durable with that
commit. The chunks are the state; the table is built from them and from the delta.

Time is the messages' own timestamps, as the broker has them; one ahead of the worker's clock counts as now. One
publisher's clock does not decide for the others:

- A repeat is decided by its own timestamp, and by the batch's if that is earlier.
- A chunk is evicted when the bulk of the partition's newest spans is a window later.

An id is remembered for the window at least, and for longer by the time that a batch, a commit or the bulk spans.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.delta import CountedIds, Delta
from tokentrace.aggregate.id_table import IdTable
from tokentrace.aggregate.span_keys import span_keys
from tokentrace.model.messages import RawBatch
from tokentrace.model.spans import SpanBatch
from tokentrace.model.worker_stats import DedupStats

#: Ids of one chunk: its record stays well below the megabyte that a broker takes by default.
CHUNK_IDS: Final = 65_536
#: Newest ids of a partition whose median time is the partition's time. Fewer than half of them may be wrong.
BULK_IDS: Final = 101
#: Messages of a partition and batch whose timestamps are read, evenly spaced: each costs a call.
_SAMPLE: Final = 15
_SMALLEST_TABLE: Final = 1 << 14
_LAST_SECOND: Final = (1 << 32) - 1


class DedupChunk(NamedTuple):
    """Ids that one commit counted of an input partition.

    position: the offset up to which the partition was counted; with `piece` it names the chunk.
    stamp_s: when the last of its messages was published, Unix time. keys: uint64[n].
    bulk_s: the median of when its messages were published; None in a chunk from its record, which does not hold it.
    """

    partition: int
    position: int
    piece: int
    stamp_s: int
    keys: NDArray[np.uint64]
    bulk_s: int | None = None


class DedupChanges(NamedTuple):
    """Chunks that a commit adds, and chunks that it evicts.

    evicted_early: partition -> ids that are evicted before their window is over, since there are too many.
    """

    kept: Sequence[DedupChunk] = ()
    evicted: Sequence[DedupChunk] = ()
    evicted_early: Mapping[int, int] = {}


@dataclass(slots=True)
class _Partition:
    """The chunks of one partition in the order of their commits, and how many ids they hold."""

    chunks: deque[DedupChunk] = field(default_factory=deque)
    ids: int = 0
    evicted_early: int = 0

    def add(self, chunk: DedupChunk) -> None:
        self.chunks.append(chunk)
        self.ids += len(chunk.keys)

    def drop_oldest(self) -> None:
        self.ids -= len(self.chunks.popleft().keys)

    def stats(self) -> DedupStats:
        seconds = self.chunks[-1].stamp_s - self.chunks[0].stamp_s if self.chunks else 0
        return DedupStats(self.ids, seconds, self.evicted_early)


class Deduplicator:
    """Recently counted spans of the assigned partitions. Used by the consumer thread alone."""

    def __init__(self, window_s: float, max_ids: int, clock: Callable[[], float] = time.time) -> None:
        """max_ids: most ids that are remembered of one partition, besides those in the delta. clock: Unix time."""
        self._window_s = math.ceil(window_s)
        self._max_ids = max_ids
        self._clock = clock
        self._partitions: dict[int, _Partition] = {}
        self._table = IdTable(_SMALLEST_TABLE)

    # -- counting ----------------------------------------------------------------------------------------------------

    def is_new(self, spans: SpanBatch, batch: RawBatch, delta: Delta) -> NDArray[np.bool_]:
        """Return bool[m], the spans to count, and add their ids to the table and the delta.

        Of equal spans in a batch only the first is new. A span without a span id always is.
        """
        is_new = np.ones(len(spans), np.bool_)
        rows = np.flatnonzero(spans.span_id.length)
        if not len(rows):
            return is_new
        partitions = batch.partitions[spans.row]
        keys = span_keys(spans, partitions)
        if len(rows) < len(spans):
            keys, partitions = keys[rows], partitions[rows]
        now_s = int(min(max(self._clock(), 0), _LAST_SECOND))

        def published_s(these: NDArray[np.int64]) -> NDArray[np.int64]:
            return np.clip(batch.timestamps_ms(spans.row[rows[these]]) // 1000, 0, now_s)

        numbers = np.flatnonzero(np.bincount(partitions)).tolist()
        last_s = np.zeros(numbers[-1] + 1, np.int64)
        for partition in numbers:
            last_s[partition] = min(max(0, *batch.times_ms[partition]) // 1000, now_s)
        if not self._table.has_room(len(keys)):
            self._rebuild(delta.counted_ids, len(keys))
        stamps_s = last_s[partitions]
        horizons_s = stamps_s - self._window_s
        counted = self._table.add(
            keys, stamps_s, horizons_s, lambda old: np.minimum(horizons_s[old], published_s(old) - self._window_s)
        )
        for partition in numbers:
            members = np.flatnonzero(partitions == partition)
            counted_keys = keys[members[counted[members]]]
            if len(counted_keys):
                sample = members[np.linspace(0, len(members) - 1, min(len(members), _SAMPLE)).astype(np.int64)]
                bulk_s = min(_lower_median(published_s(sample)), int(last_s[partition]))
                ids = CountedIds(bulk_s, int(last_s[partition]), counted_keys)
                delta.counted_ids.setdefault(partition, []).append(ids)
        is_new[rows] = counted
        return is_new

    # -- committing --------------------------------------------------------------------------------------------------

    def preview(self, delta: Delta) -> DedupChanges:
        """Return the dedup-state changes that committing `delta` makes."""
        kept: list[DedupChunk] = []
        evicted: list[DedupChunk] = []
        evicted_early: dict[int, int] = {}
        for partition, runs in delta.counted_ids.items():
            known = self._partitions.get(partition, _Partition())
            added = list(_chunks(partition, delta.positions[partition], runs))
            excess = known.ids + sum(len(chunk.keys) for chunk in added) - self._max_ids
            horizon_s = _bulk_s(known.chunks, runs) - self._window_s
            dropped = 0
            for chunk in chain(known.chunks, added):
                expired = chunk.stamp_s < horizon_s
                if not expired and excess <= 0:
                    break
                dropped += 1
                excess -= len(chunk.keys)
                if not expired:
                    evicted_early[partition] = evicted_early.get(partition, 0) + len(chunk.keys)
            evicted += islice(known.chunks, dropped)
            kept += added[max(dropped - len(known.chunks), 0) :]
        return DedupChanges(kept, evicted, evicted_early)

    def apply(self, changes: DedupChanges) -> None:
        """Apply committed changes; evicted ids leave the hash table at its next rebuild."""
        for chunk in changes.evicted:
            self._partitions[chunk.partition].drop_oldest()
        for chunk in changes.kept:
            self._partitions.setdefault(chunk.partition, _Partition()).add(chunk)
        for partition, count in changes.evicted_early.items():
            self._partitions.setdefault(partition, _Partition()).evicted_early += count

    # -- partitions come and go ----------------------------------------------------------------------------------------

    def load(self, partitions: Iterable[int], chunks: Mapping[int, Sequence[DedupChunk]], delta: Delta) -> None:
        """Begin these partitions with the ids that are committed of them, and nothing else.

        chunks: partition -> its durable chunks; a partition that is not in it keeps what this process remembers.
        """
        for partition in partitions:
            delta.counted_ids.pop(partition, None)
            if partition in chunks:
                loaded = self._partitions[partition] = _Partition()
                for chunk in chunks[partition]:
                    loaded.add(chunk)
        self._rebuild(delta.counted_ids, 0)

    def revoke(self, partitions: Iterable[int]) -> None:
        """Drop the state of revoked partitions; their table entries go at the next rebuild."""
        for partition in partitions:
            self._partitions.pop(partition, None)

    def stats(self) -> dict[int, DedupStats]:
        """Return partition -> how much is remembered of it."""
        return {number: partition.stats() for number, partition in self._partitions.items()}

    def _rebuild(self, pending: Mapping[int, Sequence[CountedIds]], room: int) -> None:
        """Build the table from the chunks and from `pending`, the ids of the delta, with room for more."""
        runs = [(chunk.stamp_s, chunk.keys) for partition in self._partitions.values() for chunk in partition.chunks]
        runs += [(ids.last_s, ids.keys) for counted in pending.values() for ids in counted]
        count = sum(len(keys) for _, keys in runs)
        size = _SMALLEST_TABLE
        while size < 4 * (count + room):
            size *= 2
        self._table = IdTable(size)
        if runs:
            # An id that was counted again after its window may be in two chunks; the later one, added first, decides.
            runs.sort(key=lambda run: run[0], reverse=True)
            keys = np.concatenate([keys for _, keys in runs])
            stamps = np.repeat([stamp_s for stamp_s, _ in runs], [len(keys) for _, keys in runs])
            for first in range(0, count, CHUNK_IDS):
                part = slice(first, first + CHUNK_IDS)
                self._table.add(keys[part], stamps[part], np.zeros(len(keys[part]), np.int64))


class NullDeduplicator(Deduplicator):
    """Counts every span: remembers, commits and loads nothing."""

    def __init__(self) -> None:
        super().__init__(0.0, 0)

    def is_new(self, spans: SpanBatch, batch: RawBatch, delta: Delta) -> NDArray[np.bool_]:
        return np.ones(len(spans), np.bool_)

    def load(self, partitions: Iterable[int], chunks: Mapping[int, Sequence[DedupChunk]], delta: Delta) -> None:
        pass


def _chunks(partition: int, position: int, runs: Sequence[CountedIds]) -> Iterable[DedupChunk]:
    if runs:
        keys = np.concatenate([ids.keys for ids in runs])
        stamp_s = max(ids.last_s for ids in runs)
        bulk_s = _bulk_s((), runs)
        for piece, first in enumerate(range(0, len(keys), CHUNK_IDS)):
            yield DedupChunk(partition, position, piece, stamp_s, keys[first : first + CHUNK_IDS], bulk_s)


def _bulk_s(chunks: Sequence[DedupChunk], runs: Sequence[CountedIds]) -> int:
    """Return the time of a partition: the median of when its newest BULK_IDS spans were published.

    Of a chunk that was read from its record only the latest stamp is known. It counts as no later than newer chunks.
    """
    newest = chain(
        ((ids.bulk_s, ids.last_s, len(ids.keys)) for ids in reversed(runs)),
        ((chunk.bulk_s, chunk.stamp_s, len(chunk.keys)) for chunk in reversed(chunks)),
    )
    times_s: list[int] = []
    bound_s = _LAST_SECOND
    for bulk_s, stamp_s, count in newest:
        bound_s = min(bound_s, stamp_s if bulk_s is None else bulk_s)
        times_s += [bound_s if bulk_s is None else bulk_s] * min(count, BULK_IDS - len(times_s))
        if len(times_s) == BULK_IDS:
            break
    return _lower_median(times_s)


def _lower_median(times_s: NDArray[np.int64] | Sequence[int]) -> int:
    return int(np.sort(times_s)[(len(times_s) - 1) // 2])
