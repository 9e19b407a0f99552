"""Seen: which spans were counted lately, so that one that is published again is not counted again.

A span is known by 64 bits that are hashed from its input partition, trace id and span id. A whole batch is looked up
and entered at once, in one open-addressed table; Python runs once per partition. What a commit counted of a partition
is a `DedupChunk`, which is durable with that commit: chunks are the memory, the table is made from them and the delta.

Time is the messages' own timestamps, as the broker has them, read at the edges of a batch: an id is remembered for the
window at least, and for longer by what a batch or a commit spans.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.delta import CountedIds, Delta
from tokentrace.model.messages import RawBatch
from tokentrace.model.spans import SpanBatch, Strings, string_words
from tokentrace.model.worker_stats import DedupStats

#: Ids of one chunk: its record stays well below the megabyte that a broker takes by default.
CHUNK_IDS: Final = 65_536
#: An id of more bytes is hashed by itself: a step over the words of one message costs as much as one over thousands.
LONGEST_ID_BYTES: Final = 128
_SMALLEST_TABLE: Final = 1 << 14
_MULTIPLY: Final = np.uint64(0x9E3779B97F4A7C15)
_FINISH: Final = np.uint64(0xBF58476D1CE4E5B9)
_EMPTY: Final = np.uint64(0)
_LAST_SECOND: Final = (1 << 32) - 1


class DedupChunk(NamedTuple):
    """Ids that one commit counted of an input partition.

    position: the offset up to which the partition was counted; with `piece` it names the chunk.
    stamp_s: when the last of its messages was published, Unix time. keys: uint64[n].
    """

    partition: int
    position: int
    piece: int
    stamp_s: int
    keys: NDArray[np.uint64]


class DedupChanges(NamedTuple):
    """Chunks that a commit adds, and chunks that it evicts.

    early: partition -> ids that are evicted before their window is over, since there are too many.
    """

    kept: Sequence[DedupChunk] = ()
    evicted: Sequence[DedupChunk] = ()
    early: Mapping[int, int] = {}


#: No id is added or evicted.
NO_DEDUP_CHANGES: Final = DedupChanges()


@dataclass(slots=True)
class _Partition:
    """The chunks of one partition in the order of their commits, and how many ids they hold."""

    chunks: deque[DedupChunk] = field(default_factory=deque)
    ids: int = 0
    early: int = 0

    def add(self, chunk: DedupChunk) -> None:
        self.chunks.append(chunk)
        self.ids += len(chunk.keys)

    def drop_oldest(self) -> None:
        self.ids -= len(self.chunks.popleft().keys)


class Deduplicator:
    """The spans that were counted lately, of the assigned partitions. Used by the loop's thread alone."""

    def __init__(self, window_s: float, max_ids: int) -> None:
        """max_ids: most ids that are remembered of one partition, beside the delta's."""
        self._window_s = -int(-window_s // 1)
        self._max_ids = max_ids
        self._partitions: dict[int, _Partition] = {}
        self._table = _Table(_SMALLEST_TABLE)

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
        numbers = np.flatnonzero(np.bincount(partitions)).tolist()
        first_s, last_s = np.zeros((2, numbers[-1] + 1), np.int64)
        for partition in numbers:
            times_s = [min(max(each // 1000, 0), _LAST_SECOND) for each in batch.times_ms[partition]]
            first_s[partition], last_s[partition] = min(times_s), max(times_s)
        if not self._table.has_room(len(keys)):
            self._rebuild(delta.counted_ids, len(keys))
        counted = self._table.enter(keys, last_s[partitions], first_s[partitions] - self._window_s)
        for partition in numbers:
            mine = keys[counted & (partitions == partition)]
            if len(mine):
                delta.counted_ids.setdefault(partition, []).append(
                    CountedIds(int(first_s[partition]), int(last_s[partition]), mine)
                )
        is_new[rows] = counted
        return is_new

    # -- committing --------------------------------------------------------------------------------------------------

    def preview(self, delta: Delta) -> DedupChanges:
        """Return the dedup-state changes that committing `delta` makes."""
        kept: list[DedupChunk] = []
        evicted: list[DedupChunk] = []
        early: dict[int, int] = {}
        for partition, runs in delta.counted_ids.items():
            known = self._partitions.get(partition, _Partition())
            fresh = list(_chunks(partition, delta.positions[partition], runs))
            excess = known.ids + sum(len(chunk.keys) for chunk in fresh) - self._max_ids
            # The earlier edge of the newest batch: one message from the future must not end the memory of the others.
            horizon_s = runs[-1].first_s - self._window_s
            dropped = 0
            for chunk in chain(known.chunks, fresh):
                expired = chunk.stamp_s < horizon_s
                if not expired and excess <= 0:
                    break
                dropped += 1
                excess -= len(chunk.keys)
                if not expired:
                    early[partition] = early.get(partition, 0) + len(chunk.keys)
            evicted += islice(known.chunks, dropped)
            kept += fresh[max(dropped - len(known.chunks), 0) :]
        return DedupChanges(kept, evicted, early)

    def apply(self, changes: DedupChanges) -> None:
        """Apply committed changes; evicted ids leave the hash table at its next rebuild."""
        for chunk in changes.evicted:
            self._partitions[chunk.partition].drop_oldest()
        for chunk in changes.kept:
            self._partitions.setdefault(chunk.partition, _Partition()).add(chunk)
        for partition, count in changes.early.items():
            self._partitions.setdefault(partition, _Partition()).early += count

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
        return {
            partition: DedupStats(
                each.ids, each.chunks[-1].stamp_s - each.chunks[0].stamp_s if each.chunks else 0, each.early
            )
            for partition, each in self._partitions.items()
        }

    def _rebuild(self, pending: Mapping[int, Sequence[CountedIds]], room: int) -> None:
        """A table of what is remembered and of what the delta has counted, with room for more."""
        runs = [(chunk.stamp_s, chunk.keys) for each in self._partitions.values() for chunk in each.chunks]
        runs += [(ids.last_s, ids.keys) for each in pending.values() for ids in each]
        count = sum(len(keys) for _, keys in runs)
        size = _SMALLEST_TABLE
        while size < 4 * (count + room):
            size *= 2
        self._table = _Table(size)
        if runs:
            keys = np.concatenate([keys for _, keys in runs])
            stamps = np.repeat([stamp_s for stamp_s, _ in runs], [len(keys) for _, keys in runs])
            for first in range(0, count, CHUNK_IDS):
                part = slice(first, first + CHUNK_IDS)
                # An id that was forgotten and counted again is in two chunks, of which the later one holds.
                self._table.enter(keys[part], stamps[part], np.full(len(keys[part]), _LAST_SECOND + 1))


class NullDeduplicator(Deduplicator):
    """Counts every span: nothing is remembered, so nothing is committed or loaded."""

    def __init__(self) -> None:
        super().__init__(0.0, 0)

    def is_new(self, spans: SpanBatch, batch: RawBatch, delta: Delta) -> NDArray[np.bool_]:
        return np.ones(len(spans), np.bool_)

    def load(self, partitions: Iterable[int], chunks: Mapping[int, Sequence[DedupChunk]], delta: Delta) -> None:
        pass


class _Table:
    """Open addressing with linear probing: key -> stamp. Nothing is ever taken out."""

    def __init__(self, size: int) -> None:
        """size: a power of two."""
        self._keys: NDArray[np.uint64] = np.zeros(size, np.uint64)
        self._stamps: NDArray[np.uint32] = np.zeros(size, np.uint32)
        #: The row of the batch that took a slot last: tells who was first among equals.
        self._row: NDArray[np.int32] = np.zeros(size, np.int32)
        self._used = 0

    def has_room(self, count: int) -> bool:
        return 2 * (self._used + count) <= len(self._keys)

    def enter(
        self, keys: NDArray[np.uint64], stamps: NDArray[np.int64], horizons: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """bool[m]: whether each key is new, or was entered with a stamp below its horizon; it has its stamp then.

        keys: uint64[m], not 0. stamps, horizons: int64[m], equal for equal keys, and a horizon not above its stamp.
        Of equal keys only the first is new.
        """
        fresh = np.zeros(len(keys), np.bool_)
        mask = len(self._keys) - 1
        rows = np.arange(len(keys))
        slot = (keys & np.uint64(mask)).view(np.int64)
        while len(rows):
            mine = keys[rows]
            free = np.flatnonzero(self._keys[slot] == _EMPTY)
            if len(free):
                self._keys[slot[free[::-1]]] = mine[free[::-1]]
                won = free[self._first(slot[free], rows[free])]
                fresh[rows[won]] = True
                self._stamps[slot[won]] = stamps[rows[won]]
                self._used += len(won)
            same = self._keys[slot] == mine
            old = np.flatnonzero(same & (self._stamps[slot] < horizons[rows]))
            if len(old):
                won = old[self._first(slot[old], rows[old])]
                fresh[rows[won]] = True
                self._stamps[slot[won]] = stamps[rows[won]]
            on = np.flatnonzero(~same)
            rows, slot = rows[on], (slot[on] + 1) & mask
        return fresh

    def _first(self, slot: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool[k]: which rows are the first at their slots. rows: ascending. Of equal indices the last is assigned."""
        self._row[slot[::-1]] = rows[::-1]
        first: NDArray[np.bool_] = self._row[slot] == rows
        return first


def span_keys(spans: SpanBatch, partitions: NDArray[np.int32]) -> NDArray[np.uint64]:
    """uint64[m], never 0: what each span is known by, within its partition."""
    ids = (spans.trace_id, spans.span_id)
    lengths = spans.trace_id.length << 32 | spans.span_id.length
    keys = partitions.astype(np.uint64) * _FINISH ^ lengths.view(np.uint64)
    _stir(keys)
    long = np.flatnonzero(np.maximum(spans.trace_id.length, spans.span_id.length) > LONGEST_ID_BYTES)
    for strings in ids:
        if len(long):
            strings = Strings(strings.offset, np.minimum(strings.length, LONGEST_ID_BYTES))
        for rows, words in string_words(spans.buffer, strings):
            if rows is None:
                keys ^= words
                _stir(keys)
            else:
                some = keys[rows] ^ words
                _stir(some)
                keys[rows] = some
    for row in long.tolist():
        keys[row] ^= _digest([_bytes(spans, strings, row) for strings in ids])
    keys *= _FINISH
    keys ^= keys >> np.uint64(29)
    keys[keys == _EMPTY] = 1
    return keys


def _stir(keys: NDArray[np.uint64]) -> None:
    """Spread every bit over the others, in place; one to one, so that nothing is lost before the next word."""
    keys *= _MULTIPLY
    keys ^= keys >> np.uint64(32)


def _digest(parts: list[bytes]) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8).digest(), "little"))


def _bytes(spans: SpanBatch, strings: Strings, row: int) -> bytes:
    start = int(strings.offset[row])
    return spans.buffer[start : start + int(strings.length[row])].tobytes()


def _chunks(partition: int, position: int, runs: Sequence[CountedIds]) -> Iterable[DedupChunk]:
    if runs:
        keys = np.concatenate([ids.keys for ids in runs])
        stamp_s = max(ids.last_s for ids in runs)
        for piece, first in enumerate(range(0, len(keys), CHUNK_IDS)):
            yield DedupChunk(partition, position, piece, stamp_s, keys[first : first + CHUNK_IDS])
