"""Groups and cells: labels and dimensions to a dense number, for a whole batch, with no Python object a span.

Beyond `max_groups`, or beyond the budget of series, a new (model, provider, caller) is counted in group 0, whose label
values are `__overflow__`. Where a known one has too many groups by dimensions, their spans are counted in the one group
of this model, provider and caller whose dimensions are all `__overflow__`: dimensions never displace a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.combinations import Texts
from tokentrace.aggregate.dimensions import Dimensions
from tokentrace.aggregate.labels import (
    LabelColumns,
    Labels,
    LabelWords,
    group_of,
    label_words,
    labels_of,
    words_of,
)
from tokentrace.aggregate.word_table import WordTable
from tokentrace.model.arrays import grown
from tokentrace.model.dimensions import Dimension
from tokentrace.model.snapshot import BASE_LABELS, OVERFLOW, OVERFLOW_GROUP, Group, LabelSet
from tokentrace.model.text_combinations import KnownTexts

_STATUS_COUNT: Final = 3
_EMPTY: Final = -1
#: Most groups by dimensions, unless the configuration says otherwise.
MAX_DIMENSION_GROUPS: Final = 20_000


class Budget(Protocol):
    """Limit of what all groups come to; see `series_budget`."""

    def add(self, group: Group, *, always: bool) -> bool: ...
    def add_revisions(self, label_sets: Mapping[str, LabelSet]) -> None: ...
    def clear(self) -> None: ...


class _Reserve:
    """Budget of a model, provider and caller: there has to be room for its group of overflowed dimensions."""

    def __init__(self, budget: Budget, names: Sequence[str]) -> None:
        self._budget = budget
        self._overflowed = tuple((name, OVERFLOW) for name in sorted(names))

    def add(self, group: Group, *, always: bool) -> bool:
        return self._budget.add(group._replace(dimensions=self._overflowed), always=always)

    def add_revisions(self, label_sets: Mapping[str, LabelSet]) -> None:
        self._budget.add_revisions(label_sets)

    def clear(self) -> None:
        """The index that has the budget clears it."""


class GroupIndex:
    """Numbers groups and cells (a group with a status) as they appear. Numbers are never reused within an `epoch`.

    groups: group number -> label values; group 0 is the overflow. hash_bits exists to make collisions in tests.
    """

    def __init__(
        self,
        max_groups: int,
        hash_bits: int = 64,
        budget: Budget | None = None,
        dimensions: Sequence[Dimension] = (),
        max_dimension_groups: int = MAX_DIMENSION_GROUPS,
    ) -> None:
        """budget: of the series that the groups come to, None for no limit. The index adds every group to it.

        max_groups: (model, provider, caller). max_dimension_groups: those that have dimensions.
        """
        self.max_groups = max_groups
        self.max_dimension_groups = max_dimension_groups
        self.budget = budget
        self.epoch = 0
        self.dimensions = Dimensions(dimensions, hash_bits)
        self._hash_bits = hash_bits
        self._begin()

    def _begin(self) -> None:
        """Start with the overflow group alone, in new arrays: snapshots hold the old ones."""
        self.groups: list[Group] = []
        #: True once a group did not fit the budget: later ones would be searched for room in every batch.
        self._full = False
        #: Groups that have dimensions, and the names of all that any group has.
        self.dimension_groups = 0
        self.dimension_names: set[str] = set()
        #: Dimension -> groups whose value of it is beyond the limit.
        self.overflowed: dict[str, list[int]] = {}
        if self.budget is not None:
            self.budget.clear()
        self.dimensions.clear()
        self._table = WordTable(len(BASE_LABELS) + bool(self.dimensions), self._hash_bits)
        #: The models, providers and callers of the groups, where groups differ in more than these.
        self._bases: GroupIndex | None = None
        if self.dimensions:
            reserve = None if self.budget is None else _Reserve(self.budget, self.dimensions.names)
            self._bases = GroupIndex(self.max_groups, self._hash_bits, reserve)
        self._cell_of: NDArray[np.int32] = np.full(64 * _STATUS_COUNT, _EMPTY, np.int32)
        self._cells = 0
        self._cell_group: NDArray[np.int32] = np.zeros(64, np.int32)
        self._cell_status: NDArray[np.uint8] = np.zeros(64, np.uint8)
        # A span with exactly these labels is counted here: another group would have the same name.
        self._adopt([Group(OVERFLOW, OVERFLOW, OVERFLOW)])

    @property
    def base_groups(self) -> int:
        """Return the number of distinct (model, provider, caller), without the overflow."""
        return len(self.groups if self._bases is None else self._bases.groups) - 1

    # -- groups ----------------------------------------------------------------------------------------------------

    def lookup(self, spans: Labels, texts: Sequence[Texts] = (), known: KnownTexts | None = None) -> NDArray[np.int64]:
        """Return int64[m], each span's group number; new groups are added while there is room.

        texts: of each dimension, in the configured order. known: the spans whose texts are not in these columns.
        """
        codes = self.dimensions.encode(texts, len(spans), known) if self.dimensions else []
        words = label_words(spans, codes)
        hashes = self._table.hash(words)
        group = self._table.find(hashes, words)
        missing = np.flatnonzero(group < 0)
        if not len(missing):
            return group
        if self._bases is not None:
            # The rest of these are in the overflow, which has no dimensions.
            has_base = self._bases.lookup(LabelColumns.taken(spans, missing)) != OVERFLOW_GROUP
            group[missing[~has_base]] = OVERFLOW_GROUP
            missing = missing[has_base]
        missing = self._add_groups(spans, codes, words, hashes, group, missing)
        if not len(missing):
            return group
        group[missing] = OVERFLOW_GROUP if self._bases is None else self._overflowed(spans, missing)
        return group

    def _add_groups(
        self,
        spans: Labels,
        codes: Sequence[NDArray[np.uint64]],
        words: LabelWords,
        hashes: NDArray[np.uint64],
        group: NDArray[np.int64],
        missing: NDArray[np.int64],
        *,
        adopted: bool = False,
    ) -> NDArray[np.int64]:
        """Add the groups of the spans at `missing` while there is room, and set their numbers in `group`.

        adopted: they have series already, and are added whatever the limits are. Returns the spans that are left.
        """
        while len(missing) and (adopted or self._has_room):
            # One span of each new hash; spans whose hash collides with it are missing again in the next round.
            _, first = np.unique(hashes[missing], return_index=True)
            for index in missing[np.sort(first)].tolist():
                if not (adopted or self._has_room):
                    break
                new = group_of(spans, index)
                if codes:
                    new = new._replace(dimensions=self.dimensions.pairs(codes, index))
                if self.budget is not None and not self.budget.add(new, always=adopted):
                    self._full = True
                    break
                self._add(new, words, index, int(hashes[index]))
            group[missing] = self._table.find(hashes, words, missing)
            missing = missing[group[missing] < 0]
        return missing

    @property
    def _has_room(self) -> bool:
        """Return whether another group may be added."""
        if self._full:
            return False
        if self._bases is None:
            return len(self.groups) <= self.max_groups
        return self.dimension_groups < self.max_dimension_groups

    def _overflowed(self, spans: Labels, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the groups of overflowed dimensions of these spans, whose models, providers and callers are known."""
        return self._adopt_columns(LabelColumns.taken(spans, rows), self.dimensions.overflowed(len(rows)))

    def adopt(self, groups: Sequence[Group], status: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the cell numbers, int64[c], of c groups and statuses that an earlier run has counted.

        They are added without regard to the limits: a group that has series keeps them. The index must be empty where
        they have dimensions that are not configured.
        """
        had_dimensions = bool(self.dimensions)
        self.dimensions.expect(groups)
        if bool(self.dimensions) != had_dimensions:
            self._begin()
        return self.cells(self._adopt(groups), status)

    def _adopt(self, groups: Sequence[Group]) -> NDArray[np.int64]:
        """Return the numbers of these groups, int64[g], which are added without regard to the limits."""
        if self._bases is not None:
            self._bases._adopt([group._replace(dimensions=()) for group in groups])
        labels = labels_of(groups)
        codes = self.dimensions.codes_of(groups) if self.dimensions else []
        return self._adopt_columns(labels, codes, groups)

    def _adopt_columns(
        self, labels: Labels, codes: Sequence[NDArray[np.uint64]], groups: Sequence[Group] = ()
    ) -> NDArray[np.int64]:
        words = label_words(labels, codes)
        hashes = self._table.hash(words)
        numbers = self._table.find(hashes, words)
        self._add_groups(labels, codes, words, hashes, numbers, np.flatnonzero(numbers < 0), adopted=True)
        for number, group in zip(numbers.tolist(), groups, strict=False):
            # With the dimensions that no span has.
            self.groups[number] = group
            self.dimension_names.update(name for name, _ in group.dimensions)
        return numbers

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
        numbers[kept] = self._adopt([groups[number] for number in kept.tolist()])
        return cells, self.cells(numbers[cell_group[cells]], cell_status[cells])

    def _add(self, group: Group, words: LabelWords, row: int, hash_: int) -> None:
        header, labels = words_of(group)
        if self.dimensions:
            labels.append([int(step.words[row]) for step in words.steps if step.part == len(BASE_LABELS)])
        self._table.add(header, labels, hash_)
        if group.dimensions:
            self.dimension_groups += 1
            for name, value in group.dimensions:
                self.dimension_names.add(name)
                if value == OVERFLOW:
                    self.overflowed.setdefault(name, []).append(len(self.groups))
        self.groups.append(group)

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
