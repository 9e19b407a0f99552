"""Groups and cells: (model, provider, caller) to a dense number, for a whole batch, with no Python object a span.

A span's three labels are hashed eight bytes at a time and looked up in an open-addressed table. Every hit is verified
against the stored bytes, so a collision of hashes cannot merge two groups. Python runs once per new group. Beyond
`max_groups`, or beyond the budget of series, new groups are counted in group 0, whose label values are `__overflow__`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.hashing import GOLDEN_RATIO, finish
from tokentrace.aggregate.labels import Labels, LabelWords, among, group_of, label_words, labels_of, words_of
from tokentrace.aggregate.series_budget import SeriesBudget
from tokentrace.model.arrays import grown
from tokentrace.model.snapshot import OVERFLOW, OVERFLOW_GROUP, Group

_STATUS_COUNT: Final = 3
_EMPTY: Final = -1
_PARTS: Final = len(Group._fields)
#: One odd multiplier for each word of each label; longer labels use them again.
_MULTIPLIERS: Final = np.array(
    [[pow(int(GOLDEN_RATIO), 1 + part + _PARTS * step, 1 << 64) for step in range(64)] for part in range(_PARTS)],
    np.uint64,
)


class GroupIndex:
    """Numbers groups and cells (a group with a status) as they appear. Numbers are never reused within an `epoch`.

    groups: group number -> label values; group 0 is the overflow. hash_bits exists to make collisions in tests.
    """

    def __init__(self, max_groups: int, hash_bits: int = 64, budget: SeriesBudget | None = None) -> None:
        """budget: of the series that the groups come to, None for no limit. The index adds every group to it."""
        self.max_groups = max_groups
        self.budget = budget
        self.epoch = 0
        self._hash_mask = np.uint64((1 << hash_bits) - 1)
        self._begin()

    def _begin(self) -> None:
        """Start with the overflow group alone, in new arrays: snapshots hold the old ones."""
        self.groups: list[Group] = []
        #: True once a group did not fit the budget: later ones would be searched for room in every batch.
        self._full = False
        if self.budget is not None:
            self.budget.clear()
        self._slots: NDArray[np.int64] = np.full(1024, _EMPTY, np.int64)
        self._hashes: NDArray[np.uint64] = np.zeros(64, np.uint64)
        self._headers: NDArray[np.uint64] = np.zeros(64, np.uint64)
        #: Position of the first word of each label, a row a label.
        self._first_word: list[NDArray[np.int64]] = [np.zeros(64, np.int64) for _ in range(_PARTS)]
        self._words: NDArray[np.uint64] = np.zeros(256, np.uint64)
        self._word_count = 0
        self._cell_of: NDArray[np.int32] = np.full(64 * _STATUS_COUNT, _EMPTY, np.int32)
        self._cells = 0
        self._cell_group: NDArray[np.int32] = np.zeros(64, np.int32)
        self._cell_status: NDArray[np.uint8] = np.zeros(64, np.uint8)
        # A span with exactly these labels is counted here: another group would have the same name.
        self._lookup(labels_of([Group(OVERFLOW, OVERFLOW, OVERFLOW)]), 1, adopted=True)

    # -- groups ----------------------------------------------------------------------------------------------------

    def lookup(self, spans: Labels) -> NDArray[np.int64]:
        """Return int64[m], each span's group number; new groups are added while there is room."""
        return self._lookup(spans, self.max_groups)

    def _lookup(self, spans: Labels, limit: int, *, adopted: bool = False) -> NDArray[np.int64]:
        """adopted: the groups have series already, and are added whatever the budget is."""
        words = label_words(spans)
        hashes = self._hash(words)
        group = self._find(hashes, words)
        missing = np.flatnonzero(group < 0)
        while len(missing):
            if len(self.groups) > limit or (self._full and not adopted):
                group[missing] = OVERFLOW_GROUP
                break
            # One span of each new hash; spans whose hash collides with it are missing again in the next round.
            _, first = np.unique(hashes[missing], return_index=True)
            for index in missing[np.sort(first)].tolist():
                if len(self.groups) > limit:
                    break
                new = group_of(spans, index)
                if self.budget is not None and not self.budget.add(new, always=adopted):
                    self._full = True
                    break
                self._add(new, int(hashes[index]))
            group[missing] = self._find(hashes, words, missing)
            missing = missing[group[missing] < 0]
        return group

    def adopt(self, groups: Sequence[Group], status: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the cell numbers, int64[c], of c groups and statuses that an earlier run has counted.

        They are added without regard to the limits: a group that has series keeps them.
        """
        numbers = self._lookup(labels_of(groups), len(self.groups) + len(groups), adopted=True)
        return self.cells(numbers, status)

    def clear(self) -> None:
        """Remove all groups but the overflow, to adopt those that are read again."""
        self._begin()
        self.epoch += 1

    def retain(self, keep: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Remove the groups that `keep` (bool[g], true for the overflow) is false for, and renumber the others.

        Return (old numbers of the remaining cells, int64[c]; their new numbers, int64[c]).
        """
        groups, cell_group, cell_status = self.groups, self.cell_group, self.cell_status
        cells = np.flatnonzero(keep[cell_group])
        self._begin()
        self.epoch += 1
        kept = np.flatnonzero(keep)
        numbers = np.full(len(groups), _EMPTY, np.int64)
        numbers[kept] = self._lookup(labels_of([groups[number] for number in kept.tolist()]), len(kept), adopted=True)
        return cells, self.cells(numbers[cell_group[cells]], cell_status[cells])

    def _hash(self, words: LabelWords) -> NDArray[np.uint64]:
        """Sum over the words, so that absent words cost nothing."""
        hashes = words.header * GOLDEN_RATIO
        for part, number, rows, word in words.steps:
            product = word * _MULTIPLIERS[part, number % _MULTIPLIERS.shape[1]]
            if rows is None:
                hashes += product
            else:
                hashes[rows] += product
        hashes ^= hashes >> np.uint64(32)
        finish(hashes)
        return hashes & self._hash_mask

    def _find(
        self, hashes: NDArray[np.uint64], words: LabelWords, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """Return int64[len(rows)], the group numbers of the spans at `rows` (None: all), -1 for an unknown group."""
        mask = len(self._slots) - 1
        slot = ((hashes if rows is None else hashes[rows]) & np.uint64(mask)).view(np.int64)
        found = np.full(len(slot), _EMPTY, np.int64)
        # Spans that are not found yet, None for all of them.
        open_: NDArray[np.int64] | None = None
        spans = rows
        while len(slot):
            candidate = self._slots.take(slot)
            filled = candidate >= 0
            if not filled.all():
                open_ = np.flatnonzero(filled) if open_ is None else open_[filled]
                spans = open_ if rows is None else rows[open_]
                slot, candidate = slot[filled], candidate[filled]
            same = self._verify(candidate, words, spans)
            if open_ is None:
                if same.all():
                    return candidate
                open_ = np.arange(len(slot))
            found[open_[same]] = candidate[same]
            other = ~same
            open_, slot = open_[other], (slot[other] + 1) & mask
            spans = open_ if rows is None else rows[open_]
        return found

    def _verify(
        self, candidate: NDArray[np.int64], words: LabelWords, spans: NDArray[np.int64] | None
    ) -> NDArray[np.bool_]:
        """Return bool[len(candidate)], true where the labels of these spans (None: all) equal the candidate's."""
        same: NDArray[np.bool_] = self._headers.take(candidate) == (
            words.header if spans is None else words.header.take(spans)
        )
        part, first = -1, candidate
        for step in words.steps:
            if step.part != part:
                part, first = step.part, self._first_word[step.part].take(candidate)
            # Where the lengths differ (`same` is false), a candidate's word may be another group's, or beyond the end.
            if spans is None and step.rows is None:
                same &= self._words.take(first + step.number, mode="clip") == step.words
            elif spans is None:
                same[step.rows] &= self._words.take(first[step.rows] + step.number, mode="clip") == step.words
            else:
                here, expected = among(step, spans, len(words.header))
                same[here] &= self._words.take(first[here] + step.number, mode="clip") == expected
        return same

    def _add(self, group: Group, hash_: int) -> int:
        number = len(self.groups)
        header, labels = words_of(group)
        flat = [word for words in labels for word in words]
        self._hashes = grown(self._hashes, number + 1)
        self._headers = grown(self._headers, number + 1)
        self._words = grown(self._words, self._word_count + len(flat))
        self._hashes[number], self._headers[number] = hash_, header
        self._words[self._word_count : self._word_count + len(flat)] = flat
        for part in range(_PARTS):
            self._first_word[part] = grown(self._first_word[part], number + 1)
            self._first_word[part][number] = self._word_count
            self._word_count += len(labels[part])
        self.groups.append(group)
        if 4 * number > len(self._slots):
            self._slots = np.full(4 * len(self._slots), _EMPTY, np.int64)
            for known in range(number):
                self._place(known, int(self._hashes[known]))
        self._place(number, hash_)
        return number

    def _place(self, number: int, hash_: int) -> None:
        mask = len(self._slots) - 1
        slot = hash_ & mask
        while self._slots[slot] != _EMPTY:
            slot = (slot + 1) & mask
        self._slots[slot] = number

    # -- cells -----------------------------------------------------------------------------------------------------

    def cells(self, group: NDArray[np.int64], status: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return int64[m], the cell numbers of these groups with these statuses; new cells are added."""
        if not len(group):
            return group
        key = group * _STATUS_COUNT + status
        if len(self._cell_of) < len(self.groups) * _STATUS_COUNT:
            table = np.full(2 * len(self.groups) * _STATUS_COUNT, _EMPTY, np.int32)
            table[: len(self._cell_of)] = self._cell_of
            self._cell_of = table
        cell = self._cell_of[key]
        new = np.unique(key[cell < 0])
        if len(new):
            end = self._cells + len(new)
            # Snapshots hold these arrays: growing copies them, and written entries never change.
            self._cell_group = grown(self._cell_group, end)
            self._cell_status = grown(self._cell_status, end)
            self._cell_group[self._cells : end] = new // _STATUS_COUNT
            self._cell_status[self._cells : end] = new % _STATUS_COUNT
            self._cell_of[new] = np.arange(self._cells, end, dtype=np.int32)
            self._cells = end
            cell = self._cell_of[key]
        found: NDArray[np.int64] = cell.astype(np.int64)
        return found

    @property
    def cell_group(self) -> NDArray[np.int32]:
        """Each cell's group, int32[cells]."""
        return self._cell_group[: self._cells]

    @property
    def cell_status(self) -> NDArray[np.uint8]:
        """Each cell's status code, uint8[cells]."""
        return self._cell_status[: self._cells]
