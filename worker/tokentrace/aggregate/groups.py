"""Groups and cells: (model, provider, caller) to a dense number, for a whole batch, with no Python object a span.

A span's three strings are hashed eight bytes at a time and looked up in an open-addressed table; every hit is
verified against the stored bytes, so that a collision of hashes cannot merge two groups. Python runs once per group
that is new. Beyond `max_groups` new groups fold into group 0, whose label values are `__overflow__`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import PADDING, grown
from tokentrace.model.snapshot import OVERFLOW, OVERFLOW_GROUP, Group
from tokentrace.model.spans import Strings, string_words

_STATUS_COUNT: Final = 3
_EMPTY: Final = -1
#: Odd multipliers of a 64-bit hash (the golden ratio, and the finaliser of SplitMix64).
_MIX: Final = 0x9E3779B97F4A7C15
_FINISH: Final = np.uint64(0xBF58476D1CE4E5B9)
_PARTS: Final = 3
#: One odd multiplier for each word of each label; longer labels use them again.
_MULTIPLIERS: Final = np.array(
    [[pow(_MIX, 1 + part + _PARTS * step, 1 << 64) for step in range(64)] for part in range(_PARTS)], np.uint64
)


class _Step(NamedTuple):
    """Word `number` of label `part`. rows: int64[s], the spans that have it, or None for all. words: uint64[s]."""

    part: int
    number: int
    rows: NDArray[np.int64] | None
    words: NDArray[np.uint64]


class Labels(Protocol):
    """The label strings of m spans, valid UTF-8, in a buffer that has PADDING bytes after them."""

    @property
    def buffer(self) -> NDArray[np.uint8]: ...
    @property
    def model(self) -> Strings: ...
    @property
    def provider(self) -> Strings: ...
    @property
    def caller(self) -> Strings: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Labels:
    """Labels that come from text."""

    buffer: NDArray[np.uint8]
    model: Strings
    provider: Strings
    caller: Strings

    def __len__(self) -> int:
        return len(self.model.length)


class _Words(NamedTuple):
    """The labels of m spans as 64-bit words, zero-padded. header: uint64[m], the three lengths in one word."""

    header: NDArray[np.uint64]
    steps: list[_Step]


class GroupIndex:
    """Numbers groups and cells as they appear. Numbers are never reused within an `epoch`.

    groups: group number -> label values; group 0 is the overflow. hash_bits exists to make collisions in tests.
    """

    def __init__(self, max_groups: int, hash_bits: int = 64) -> None:
        self.max_groups = max_groups
        self.epoch = 0
        self._hash_mask = np.uint64((1 << hash_bits) - 1)
        self._begin()

    def _begin(self) -> None:
        """Know no group but the overflow. Everything is made anew: snapshots hold what was."""
        self.groups: list[Group] = []
        self._slots: NDArray[np.int64] = np.full(1024, _EMPTY, np.int64)
        self._hashes: NDArray[np.uint64] = np.zeros(64, np.uint64)
        self._headers: NDArray[np.uint64] = np.zeros(64, np.uint64)
        #: Where each label's words begin, a row a label.
        self._first_word: list[NDArray[np.int64]] = [np.zeros(64, np.int64) for _ in range(_PARTS)]
        self._words: NDArray[np.uint64] = np.zeros(256, np.uint64)
        self._word_count = 0
        self._cell_of: NDArray[np.int32] = np.full(64 * _STATUS_COUNT, _EMPTY, np.int32)
        self._cells = 0
        self._cell_group: NDArray[np.int32] = np.zeros(64, np.int32)
        self._cell_status: NDArray[np.uint8] = np.zeros(64, np.uint8)
        # A span that spells these labels belongs here: a group of its own would be a second one of the same name.
        self._lookup(_labels_of([Group(OVERFLOW, OVERFLOW, OVERFLOW)]), 1)

    # -- groups ----------------------------------------------------------------------------------------------------

    def lookup(self, spans: Labels) -> NDArray[np.int64]:
        """int64[m], each span's group number; new groups are added while there is room."""
        return self._lookup(spans, self.max_groups)

    def _lookup(self, spans: Labels, limit: int) -> NDArray[np.int64]:
        words = _words(spans)
        hashes = self._hash(words)
        group = self._find(hashes, words)
        missing = np.flatnonzero(group < 0)
        while len(missing):
            if len(self.groups) > limit:
                group[missing] = OVERFLOW_GROUP
                break
            # One span of each new hash; spans whose hash collides with it are found missing again, and come next.
            _, first = np.unique(hashes[missing], return_index=True)
            for index in missing[np.sort(first)].tolist():
                if len(self.groups) > limit:
                    break
                self._add(_group_of(spans, index), int(hashes[index]))
            group[missing] = self._find(hashes, words, missing)
            missing = missing[group[missing] < 0]
        return group

    def adopt(self, groups: Sequence[Group], status: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The cell numbers, int64[c], of c groups and statuses that an earlier run has counted.

        They are added whatever the limit is: what has a series keeps it.
        """
        numbers = self._lookup(_labels_of(groups), len(self.groups) + len(groups))
        return self.cells(numbers, status)

    def retain(self, keep: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Forget the groups that `keep` (bool[g], true for the overflow) is false for, and number the rest anew.

        (the cells that are left, by their numbers before, int64[c]; and their numbers now, int64[c]).
        """
        groups, cell_group, cell_status = self.groups, self.cell_group, self.cell_status
        cells = np.flatnonzero(keep[cell_group])
        self._begin()
        self.epoch += 1
        kept = np.flatnonzero(keep)
        numbers = np.full(len(groups), _EMPTY, np.int64)
        numbers[kept] = self._lookup(_labels_of([groups[number] for number in kept.tolist()]), len(kept))
        return cells, self.cells(numbers[cell_group[cells]], cell_status[cells])

    def _hash(self, words: _Words) -> NDArray[np.uint64]:
        """A sum over the words, so that a word that a span has not got costs it nothing."""
        hashes = words.header * np.uint64(_MIX)
        for part, number, rows, word in words.steps:
            product = word * _MULTIPLIERS[part, number % _MULTIPLIERS.shape[1]]
            if rows is None:
                hashes += product
            else:
                hashes[rows] += product
        hashes ^= hashes >> np.uint64(32)
        hashes *= _FINISH
        hashes ^= hashes >> np.uint64(29)
        return hashes & self._hash_mask

    def _find(
        self, hashes: NDArray[np.uint64], words: _Words, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """int64[len(rows)], the group numbers of the spans at `rows` (None: of all), -1 where there is none."""
        mask = len(self._slots) - 1
        slot = ((hashes if rows is None else hashes[rows]) & np.uint64(mask)).view(np.int64)
        found = np.full(len(slot), _EMPTY, np.int64)
        # The spans that are still looked for, None for all of them.
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
        self, candidate: NDArray[np.int64], words: _Words, spans: NDArray[np.int64] | None
    ) -> NDArray[np.bool_]:
        """bool[len(candidate)]: whether the labels of these spans (None: of all) are the candidates', byte for byte."""
        same: NDArray[np.bool_] = self._headers.take(candidate) == (
            words.header if spans is None else words.header.take(spans)
        )
        part, first = -1, candidate
        for step in words.steps:
            if step.part != part:
                part, first = step.part, self._first_word[step.part].take(candidate)
            # Of unlike lengths (`same` is false already) a candidate's word may be another's, or beyond the end.
            if spans is None and step.rows is None:
                same &= self._words.take(first + step.number, mode="clip") == step.words
            elif spans is None:
                same[step.rows] &= self._words.take(first[step.rows] + step.number, mode="clip") == step.words
            else:
                here, mine = _among(step, spans, len(words.header))
                same[here] &= self._words.take(first[here] + step.number, mode="clip") == mine
        return same

    def _add(self, group: Group, hash_: int) -> int:
        number = len(self.groups)
        header, labels = _words_of(group)
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
            for each in range(number):
                self._place(each, int(self._hashes[each]))
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
        """int64[m], the cell numbers of these groups with these statuses; new cells are added."""
        if not len(group):
            return group
        key = group * _STATUS_COUNT + status
        if len(self._cell_of) < len(self.groups) * _STATUS_COUNT:
            table = np.full(2 * len(self.groups) * _STATUS_COUNT, _EMPTY, np.int32)
            table[: len(self._cell_of)] = self._cell_of
            self._cell_of = table
        cell = self._cell_of[key]
        fresh = np.unique(key[cell < 0])
        if len(fresh):
            end = self._cells + len(fresh)
            # Arrays that a snapshot holds keep what they have: growing copies, and written entries never change.
            self._cell_group = grown(self._cell_group, end)
            self._cell_status = grown(self._cell_status, end)
            self._cell_group[self._cells : end] = fresh // _STATUS_COUNT
            self._cell_status[self._cells : end] = fresh % _STATUS_COUNT
            self._cell_of[fresh] = np.arange(self._cells, end, dtype=np.int32)
            self._cells = end
            cell = self._cell_of[key]
        found: NDArray[np.int64] = cell.astype(np.int64)
        return found

    @property
    def cell_group(self) -> NDArray[np.int32]:
        """int32[cells], each cell's group."""
        return self._cell_group[: self._cells]

    @property
    def cell_status(self) -> NDArray[np.uint8]:
        """uint8[cells], each cell's status code."""
        return self._cell_status[: self._cells]


def _words(spans: Labels) -> _Words:
    """The labels of a batch as words; a step names its spans only where some have no such word."""
    header = np.zeros(len(spans), np.uint64)
    steps: list[_Step] = []
    for part, strings in enumerate((spans.model, spans.provider, spans.caller)):
        header <<= np.uint64(21)
        header |= strings.length.view(np.uint64)
        for number, (rows, words) in enumerate(string_words(spans.buffer, strings)):
            steps.append(_Step(part, number, rows, words))
    return _Words(header, steps)


def _among(step: _Step, spans: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Which of the spans (of `count` in all) have the step's word, as positions in `spans`; and the words."""
    if step.rows is None:
        return np.arange(len(spans)), step.words.take(spans)
    where = np.full(count, _EMPTY, np.int64)
    where[step.rows] = np.arange(len(step.rows))
    local = where.take(spans)
    here = np.flatnonzero(local >= 0)
    return here, step.words.take(local[here])


def _words_of(group: Group) -> tuple[int, list[list[int]]]:
    """The header and each label's words of one group, as `_words` has them."""
    data = [part.encode() for part in group]
    model, provider, caller = map(len, data)
    words = [[int.from_bytes(part[start : start + 8], "little") for start in range(0, len(part), 8)] for part in data]
    return model << 42 | provider << 21 | caller, words


def _labels_of(groups: Sequence[Group]) -> _Labels:
    """The labels of these groups as columns."""
    parts = [part.encode() for group in groups for part in group]
    lengths = np.array([len(part) for part in parts], np.int64)
    offsets = np.cumsum(lengths) - lengths
    buffer = np.frombuffer(b"".join(parts) + bytes(PADDING), np.uint8)
    return _Labels(buffer, *(Strings(offsets[part::3], lengths[part::3]) for part in range(3)))


def _group_of(spans: Labels, index: int) -> Group:
    return Group(*(_text(spans, strings, index) for strings in (spans.model, spans.provider, spans.caller)))


def _text(spans: Labels, strings: Strings, index: int) -> str:
    start = int(strings.offset[index])
    return spans.buffer[start : start + int(strings.length[index])].tobytes().decode()
